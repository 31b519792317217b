//! Whose call goes next, and when: one scheduler for all calls of a process.
//!
//! - A waiting call of a higher class gets the next permit, always; within a class they go in the order they came.
//! - The pace never overflows AuthForge's bucket, whenever the requests arrive there (see `bucket`). That is why it is not
//!   `governor`'s, which counts a request when it is allowed, however long it waits for a disk or a connection after that,
//!   and which can neither hold a token nor be emptied.
//! - 429 and `Retry-After` hold everything until then, and the pace starts again without a burst.
//! - 401, an outage and (for creates) 402 are pauses: calls fail at once with the time of the next probe, and one call at a
//!   time is let through to look. All who wait come back by themselves; a success ends the pause at once.
//!
//! State is kept on core's clock. Tokio's timers only wake the waiting.

mod bucket;
mod pause;
mod state;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use grantsmith_core::Reason;
use grantsmith_core::port::{ApiError, Class, Clock, Moment, Now, Priority};
use tokio::sync::{Notify, oneshot};

pub use self::bucket::Pace;
pub use self::pause::Paused;
use self::state::State;
use crate::key::{ApiKey, SharedKey};

/// What the scheduler knows of AuthForge's health, for status and metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// The pause of all calls: 401, or an outage ([`Class::Transient`]).
    pub paused: Option<Paused>,
    /// The pause of creates alone: 402.
    pub creates_paused: Option<Paused>,
    /// How long AuthForge still wants to be left alone after a 429.
    pub slowed: Option<Duration>,
    /// How many calls wait for their turn.
    pub waiting: usize,
}

impl Health {
    /// Each reason for which calls can be paused, and whether they are.
    pub fn pauses(&self) -> [(Reason, bool); 3] {
        [
            (Class::CreditsExhausted, Reason::CreditsExhausted),
            (Class::Unauthorized, Reason::Unauthorized),
            (Class::Transient, Reason::AuthForgeUnavailable),
        ]
        .map(|(class, reason)| {
            let paused = [&self.paused, &self.creates_paused];
            (reason, paused.into_iter().flatten().any(|paused| paused.class == class))
        })
    }
}

/// What a call's answer tells about all the others.
#[derive(Debug, Clone, Copy)]
pub struct Verdict {
    /// The class of the failure; none for a success.
    pub class: Option<Class>,
    /// Whether AuthForge answered at all.
    pub answered: bool,
    /// How long it wants to be left alone.
    pub retry_after: Option<Duration>,
}

impl Verdict {
    /// A success.
    pub const DONE: Self = Self { class: None, answered: true, retry_after: None };

    /// A failure that AuthForge answered.
    pub fn failed(class: Class) -> Self {
        Self { class: Some(class), answered: true, retry_after: None }
    }
}

/// Hands out the right to send.
pub struct Scheduler {
    clock: Arc<dyn Clock>,
    key: SharedKey,
    state: Mutex<State>,
    /// Wakes the driver when all tokens were held and one of them is free.
    freed: Notify,
}

impl fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scheduler").field("health", &self.health()).finish_non_exhaustive()
    }
}

impl Scheduler {
    /// A scheduler that keeps `pace`.
    pub fn new(pace: Pace, clock: Arc<dyn Clock>, key: SharedKey) -> Arc<Self> {
        let state = Mutex::new(State::new(pace, clock.now().moment));
        Arc::new(Self { clock, key, state, freed: Notify::new() })
    }

    /// How AuthForge fares.
    pub fn health(&self) -> Health {
        let now = self.clock.now().moment;
        let mut state = self.lock();
        state.heed_key(&self.key.load());
        state.health(now)
    }

    /// Waits for the right to send one call. While calls are paused it fails at once.
    pub async fn acquire(self: &Arc<Self>, priority: Priority, create: bool) -> Result<Ticket, ApiError> {
        let (id, answer) = {
            let now = self.clock.now();
            let mut state = self.lock();
            state.heed_key(&self.key.load());
            let (tell, answer) = oneshot::channel();
            let id = state.enter(priority, create, tell, now)?;
            state.pump(now.moment);
            self.ensure_driver(&mut state);
            (id, answer)
        };
        let mut waiting = Waiting { scheduler: self, id, answer: Some(answer) };
        let answer = match waiting.answer.as_mut() {
            Some(answer) => answer.await,
            None => return Err(gone()),
        };
        waiting.answer = None;
        answer.unwrap_or_else(|_| Err(gone()))?;
        Ok(Ticket { scheduler: Arc::clone(self), id, create, sent: None, open: true })
    }

    /// Waits for the right to send one create at once, and keeps it for 15 s without tying it to a caller.
    pub async fn reserve(self: &Arc<Self>, priority: Priority) -> Result<(), ApiError> {
        let mut ticket = self.acquire(priority, true).await?;
        ticket.open = false;
        self.lock().reserve(ticket.id);
        Ok(())
    }

    /// Takes up a reservation, or else a permit that is free this moment. It never waits.
    pub fn claim(self: &Arc<Self>) -> Result<Ticket, ApiError> {
        let now = self.clock.now();
        let mut state = self.lock();
        state.heed_key(&self.key.load());
        let id = state.claim(now)?;
        Ok(Ticket { scheduler: Arc::clone(self), id, create: true, sent: None, open: true })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here leaves the state half-changed, so one panicking caller must not stop all others.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sees to it that somebody wakes the waiting, as long as somebody waits.
    fn ensure_driver(self: &Arc<Self>, state: &mut State) {
        if state.start_driver() {
            tokio::spawn(Driver { scheduler: Arc::clone(self), done: false }.run());
        }
    }

    fn forget(&self, id: u64) {
        let now = self.clock.now().moment;
        let mut state = self.lock();
        state.forget(id, now);
        self.go_on(&mut state, now);
    }

    fn sent(&self, id: u64) -> (Now, Arc<ApiKey>) {
        let now = self.clock.now();
        self.lock().sent(id, now.moment);
        (now, self.key.load_full())
    }

    fn report(&self, ticket: &Ticket, sent: Moment, key: &Arc<ApiKey>, verdict: Verdict) {
        let now = self.clock.now();
        let mut state = self.lock();
        let key_is_current = **key == **self.key.load();
        state.report(
            &state::Report { id: ticket.id, create: ticket.create, sent, key, key_is_current, verdict },
            now,
        );
        self.go_on(&mut state, now.moment);
    }

    /// Lets the next ones go after something has changed.
    fn go_on(&self, state: &mut State, now: Moment) {
        state.pump(now);
        if state.was_stalled() {
            self.freed.notify_one();
        }
    }
}

fn gone() -> ApiError {
    ApiError {
        class: Class::Transient,
        retry_after: None,
        detail: "nothing was sent: the process is stopping".into(),
    }
}

/// A call in the queue. Dropped, it leaves the queue, or hands back the permit that it was given and never saw.
struct Waiting<'a> {
    scheduler: &'a Arc<Scheduler>,
    id: u64,
    answer: Option<oneshot::Receiver<Result<(), ApiError>>>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.answer.take().is_some() {
            self.scheduler.forget(self.id);
        }
    }
}

/// The right to send one request. Dropped unused, it goes to the next.
#[derive(Debug)]
pub struct Ticket {
    scheduler: Arc<Scheduler>,
    id: u64,
    create: bool,
    sent: Option<(Moment, Arc<ApiKey>)>,
    open: bool,
}

impl Ticket {
    /// Marks the request as sent this moment, and gives the key to send it with.
    pub fn send(&mut self) -> (Now, Arc<ApiKey>) {
        let (now, key) = self.scheduler.sent(self.id);
        self.sent = Some((now.moment, Arc::clone(&key)));
        (now, key)
    }

    /// Reports what came back.
    pub fn report(mut self, verdict: Verdict) {
        if let Some((sent, key)) = self.sent.take() {
            self.open = false;
            self.scheduler.report(&self, sent, &key, verdict);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.open {
            self.scheduler.forget(self.id);
        }
    }
}

/// Wakes the waiting at their time; lives as long as anybody waits.
struct Driver {
    scheduler: Arc<Scheduler>,
    done: bool,
}

impl Driver {
    /// Tokio's timers stand still while the machine sleeps and core's clock does not, so no wait is trusted for longer.
    const LONGEST_SLEEP: Duration = Duration::from_secs(1);

    async fn run(mut self) {
        loop {
            let wait = {
                let now = self.scheduler.clock.now().moment;
                let mut state = self.scheduler.lock();
                state.pump(now);
                if state.is_idle() {
                    // Under the same lock as the look at the queue: whoever comes next starts a new driver.
                    state.stop_driver();
                    drop(state);
                    self.done = true;
                    return;
                }
                state.next_wake(now)
            };
            let wait = wait.clamp(Duration::from_micros(500), Self::LONGEST_SLEEP);
            // Either way the state is looked at anew; an elapsed wait is no error.
            let _ = tokio::time::timeout(wait, self.scheduler.freed.notified()).await;
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // A runtime that goes takes its tasks with it; the flag must not outlive the task.
        if !self.done {
            self.scheduler.lock().stop_driver();
        }
    }
}
