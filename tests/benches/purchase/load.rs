//! The load: raw HTTP/1.1 over kept-alive connections, all in one thread, because it shares the processors with the server.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, LocalSet};

use crate::events::Events;
use crate::machine::{Spent, Watch};

/// Connections of a round.
pub(crate) const CONNECTIONS: usize = 64;

/// A kept-alive connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await.context("no connection")?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(16 * 1024) })
    }

    /// Sends a request and waits for the whole answer: its status and body.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> anyhow::Result<(u16, &[u8])> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                bail!("the server hung up");
            }
            if let Some((status, body)) = whole(&self.buffer)? {
                return Ok((status, &self.buffer[body..]));
            }
        }
    }
}

/// Status and place of the body, once all of it is there.
fn whole(answer: &[u8]) -> anyhow::Result<Option<(u16, usize)>> {
    let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&answer[..end]).context("an answer that is not HTTP")?;
    let status =
        head.get(9..12).and_then(|status| status.parse().ok()).context("an answer without status")?;
    let mut headers = head.lines().filter_map(|line| line.split_once(':'));
    let length = headers.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length: usize =
        length.and_then(|(_, value)| value.trim().parse().ok()).context("an answer without length")?;
    Ok((answer.len() >= end + 4 + length).then_some((status, end + 4)))
}

/// What a round came to.
#[derive(Debug, Clone)]
pub(crate) struct Round {
    /// Microseconds from a request (in an open loop: from when it was due) to its answer.
    pub(crate) latency: Histogram<u64>,
    /// What it cost, and what else ran.
    pub(crate) spent: Spent,
    /// All that was answered 200, warming up included.
    pub(crate) acknowledged: u64,
}

impl Round {
    /// Events a second.
    pub(crate) fn rate(&self) -> f64 {
        count(self.latency.len()) / self.spent.seconds
    }

    /// A percentile, in milliseconds.
    pub(crate) fn percentile(&self, percentile: f64) -> f64 {
        count(self.latency.value_at_percentile(percentile)) / 1_000.0
    }

    /// The longest, in milliseconds.
    pub(crate) fn longest(&self) -> f64 {
        count(self.latency.max()) / 1_000.0
    }

    /// Processor seconds of the server for a thousand events.
    pub(crate) fn cost(&self) -> f64 {
        1_000.0 * self.spent.server / count(self.latency.len())
    }

    /// Processor seconds of the load for a thousand events.
    pub(crate) fn load_cost(&self) -> f64 {
        1_000.0 * self.spent.load / count(self.latency.len())
    }
}

pub(crate) fn count(number: u64) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

/// A histogram of microseconds.
pub(crate) fn histogram() -> Histogram<u64> {
    // A minute at most: what takes longer counts as one.
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("these bounds are possible")
}

pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Runs a load in this thread alone.
pub(crate) fn run<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(LocalSet::new().run_until(work))
}

/// What the connections of a round share.
#[derive(Debug)]
struct Shared {
    events: Events,
    next: Cell<usize>,
    acknowledged: Cell<u64>,
    latency: RefCell<Histogram<u64>>,
}

impl Shared {
    fn new(events: Events) -> Rc<Self> {
        let latency = RefCell::new(histogram());
        Rc::new(Self { events, next: Cell::new(0), acknowledged: Cell::new(0), latency })
    }

    /// Writes the next event into a request, and gives its place; none when all were taken.
    fn take(&self, request: &mut [u8]) -> Option<usize> {
        let place = self.next.replace(self.next.get() + 1);
        self.events.write(place, request).then_some(place)
    }

    async fn deliver(&self, connection: &mut Connection, request: &[u8]) -> anyhow::Result<()> {
        let (status, body) = connection.ask(request).await?;
        if status != 200 {
            bail!("an event was answered {status}: {}", String::from_utf8_lossy(body));
        }
        self.acknowledged.set(self.acknowledged.get() + 1);
        Ok(())
    }

    fn note(&self, latency: Duration) {
        self.latency.borrow_mut().saturating_record(micros(latency));
    }

    fn round(&self, spent: Spent) -> Round {
        Round { latency: self.latency.borrow().clone(), spent, acknowledged: self.acknowledged.get() }
    }
}

/// Every connection sends its next event as soon as its last was answered, until the time or the events are over.
pub(crate) async fn closed(
    address: SocketAddr,
    server: u32,
    events: Events,
    warm_up: Duration,
    measure: Duration,
) -> anyhow::Result<Round> {
    let shared = Shared::new(events);
    let from = Instant::now() + warm_up;
    let until = from + measure;
    let mut connections = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let shared = shared.clone();
        connections.spawn_local(async move {
            let mut connection = Connection::open(address).await?;
            let mut request = shared.events.request();
            let mut now = Instant::now();
            while now < until && shared.take(&mut request).is_some() {
                shared.deliver(&mut connection, &request).await?;
                let answered = Instant::now();
                if (from..until).contains(&answered) {
                    shared.note(answered - now);
                }
                now = answered;
            }
            anyhow::Ok(())
        });
    }
    tokio::time::sleep_until(from.into()).await;
    let watch = Watch::begin(server);
    let mut ending = Box::pin(all(connections));
    let early = tokio::time::timeout_at(until.into(), &mut ending).await;
    let spent = watch.spent();
    match early {
        Ok(ended) => ended?,
        Err(_) => ending.await?,
    }
    Ok(shared.round(spent))
}

/// Events are due at fixed times, whether or not earlier ones were answered; what waits for a connection waits on the clock.
pub(crate) async fn open(
    address: SocketAddr,
    server: u32,
    events: Events,
    schedule: Schedule,
) -> anyhow::Result<Round> {
    let shared = Shared::new(events);
    let due = Arc::new(Semaphore::new(0));
    let mut connections = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (shared, due, schedule) = (shared.clone(), due.clone(), schedule.clone());
        connections.spawn_local(async move {
            let mut connection = Connection::open(address).await?;
            let mut request = shared.events.request();
            loop {
                due.acquire().await?.forget();
                let place = shared.take(&mut request).filter(|place| *place < schedule.events());
                let Some(place) = place else { return anyhow::Ok(()) };
                let intended = schedule.time(place);
                shared.deliver(&mut connection, &request).await?;
                if schedule.measures(intended) {
                    shared.note(intended.elapsed());
                }
            }
        });
    }
    let pacer = schedule.pace(due);
    tokio::time::sleep_until(schedule.measured_from().into()).await;
    let watch = Watch::begin(server);
    all(connections).await?;
    let spent = watch.spent();
    pacer.join().map_err(|_| anyhow::anyhow!("the pacer panicked"))?;
    Ok(shared.round(spent))
}

async fn all(mut connections: JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
    while let Some(ended) = connections.join_next().await {
        ended??;
    }
    Ok(())
}

/// When the events of an open loop are due.
#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    begun: Instant,
    a_second: u32,
    warm_up: Duration,
    measure: Duration,
}

impl Schedule {
    /// Begins in a moment, when the connections are there.
    pub(crate) fn new(a_second: u32, warm_up: Duration, measure: Duration) -> Self {
        Self { begun: Instant::now() + Duration::from_millis(100), a_second, warm_up, measure }
    }

    pub(crate) fn events(&self) -> usize {
        let events = (self.warm_up + self.measure).as_millis() * u128::from(self.a_second) / 1_000;
        usize::try_from(events).unwrap_or(usize::MAX)
    }

    pub(crate) fn time(&self, place: usize) -> Instant {
        let place = u32::try_from(place).unwrap_or(u32::MAX);
        self.begun + Duration::from_secs(1) * place / self.a_second
    }

    pub(crate) fn measured_from(&self) -> Instant {
        self.begun + self.warm_up
    }

    pub(crate) fn measures(&self, intended: Instant) -> bool {
        intended >= self.measured_from()
    }

    /// A thread that sleeps to each event's very time: the runtime's timers are a millisecond coarse.
    fn pace(&self, due: Arc<Semaphore>) -> std::thread::JoinHandle<()> {
        let schedule = self.clone();
        std::thread::spawn(move || {
            for place in 0..schedule.events() {
                std::thread::sleep(schedule.time(place).saturating_duration_since(Instant::now()));
                due.add_permits(1);
            }
            // Whoever waits now finds that nothing is left.
            due.add_permits(CONNECTIONS);
        })
    }
}
