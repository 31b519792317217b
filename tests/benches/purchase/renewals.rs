//! Many renewals at once: how much of AuthForge's limit is used, and how long a buyer waits meanwhile.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures_util::{StreamExt, stream};
use grantsmith_authforge::SystemClock;
use grantsmith_authforge::fake::{CallKind, Fake, RateLimit, Settings};
use grantsmith_core::port::Clock;
use grantsmith_service::stripe::Mode;
use grantsmith_service::stripe::fake::SubscriptionTurn::Renew;
use grantsmith_service::stripe::fake::{Event, Kind, Rendering, Start, World};
use grantsmith_service::stripe::secret::Secret;
use grantsmith_tests::measure::{percent, short, table};
use grantsmith_tests::{APP, Outside, WEBHOOK_SECRET, stack};
use tokio::runtime::Runtime;

use crate::server::{Parts, Server};

/// AuthForge's limit (AuthForge, overview).
const PER_SECOND: u32 = 50;
const BURST: u32 = 100;
/// How often somebody buys meanwhile.
const BUY_EVERY: Duration = Duration::from_secs(1);

/// Makes subscriptions without a limit, then renews all of them against the strict one.
pub(crate) fn run(parts: &mut Parts, runtime: &Runtime, many: usize) -> anyhow::Result<()> {
    println!("\n## {many} renewals at once, against a strict AuthForge: {PER_SECOND}/s, burst {BURST}\n");
    let fake = runtime.block_on(Fake::start(Settings::new(Arc::new(SystemClock))))?;
    parts.authforge = fake.url();
    let fast = Server::with_flags(parts, &["--authforge-rate", "5000", "--authforge-burst", "5000"])?;
    let world = World::new(Mode::Test, rand::random());
    let now = SystemClock.now().wall;
    let order = || stack::order().kind(Kind::Subscription).subscription_metadata("authforge_app_id", APP);
    let made: Vec<_> = (0..many).map(|_| world.subscribe(order(), Start::Active, now)).collect();
    eprintln!("  renewals: making {many} subscriptions");
    runtime.block_on(async {
        deliver(&outside(&fast)?, made.iter().map(|made| made.events[0].clone()).collect()).await;
        while fake.licenses().len() < many {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        anyhow::Ok(())
    })?;
    let server = fast.restarted(parts)?;
    fake.switch(|switches| {
        switches.rate_limit = Some(RateLimit { per_second: PER_SECOND, burst: BURST });
    });
    fake.reset_counts();
    let turn = |id: &str| {
        let events = world.turn_subscription(id, Renew, now);
        events.into_iter().find(|event| event.event_type == "customer.subscription.updated")
    };
    let renewals: Option<Vec<Event>> = made.iter().map(|made| turn(&made.subscription)).collect();
    eprintln!("  renewals: {many} events at once");
    let outcome = runtime.block_on(measure(&server, &fake, &world, renewals.context("renewed")?))?;
    print(&outcome, many)
}

fn outside(server: &Server) -> anyhow::Result<Outside> {
    let client = grantsmith_authforge::http_client(&[])?;
    let secret = Secret::new(Mode::Test, WEBHOOK_SECRET).context("a secret")?;
    Ok(Outside::new(client, format!("http://{}", server.http), secret))
}

async fn deliver(outside: &Outside, events: Vec<Event>) {
    let one = async |event: Event| {
        outside.deliver(event.body(Rendering::Endive)).await;
    };
    stream::iter(events).for_each_concurrent(64, one).await;
}

struct Measured {
    took: Duration,
    calls: u64,
    too_many: u64,
    waits: Vec<Duration>,
}

async fn measure(
    server: &Server,
    fake: &Fake,
    world: &World,
    renewals: Vec<Event>,
) -> anyhow::Result<Measured> {
    let outside = outside(server)?;
    let many = u64::try_from(renewals.len())?;
    let begun = Instant::now();
    let delivering = deliver(&outside, renewals);
    let buying = async {
        let mut waits = Vec::new();
        let mut next = tokio::time::interval(BUY_EVERY);
        while fake.counts().of(CallKind::Put) < many {
            next.tick().await;
            waits.push(buy(&outside, world).await?);
        }
        anyhow::Ok(waits)
    };
    let watching = async {
        while fake.counts().of(CallKind::Put) < many {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        begun.elapsed()
    };
    let ((), took, waits) = tokio::join!(delivering, watching, buying);
    let counts = fake.counts();
    Ok(Measured { took, calls: counts.calls.values().sum(), too_many: counts.too_many, waits: waits? })
}

/// Buys, and waits for the key on the page.
async fn buy(outside: &Outside, world: &World) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    let bought = world.buy(stack::order(), SystemClock.now().wall);
    for event in &bought.events {
        outside.deliver(event.body(Rendering::Endive)).await;
    }
    loop {
        let (status, page) = outside.page(&bought.session).await;
        if status == 200 && page["licenses"].is_array() {
            return Ok(begun.elapsed());
        }
        ensure!(begun.elapsed() < Duration::from_secs(60), "no key within a minute");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
fn print(measured: &Measured, many: usize) -> anyhow::Result<()> {
    let mut waits = measured.waits.clone();
    waits.sort();
    let at = |share: usize| waits.get((waits.len() * share / 100).min(waits.len().saturating_sub(1)));
    let seconds = |wait: Option<&Duration>| short(wait.map_or(f64::NAN, Duration::as_secs_f64));
    // The burst is there before the first second is over.
    let allowed = f64::from(PER_SECOND) * measured.took.as_secs_f64() + f64::from(BURST);
    let row = vec![
        many.to_string(),
        short(measured.took.as_secs_f64()),
        percent(measured.calls as f64 / allowed),
        measured.too_many.to_string(),
        waits.len().to_string(),
        seconds(at(50)),
        seconds(at(99)),
    ];
    let head = ["renewals", "took s", "of the limit", "429", "bought", "key after p50 s", "p99 s"];
    print!("{}", table(&head, &[row]));
    ensure!(!waits.is_empty(), "nobody bought meanwhile");
    Ok(())
}
