//! Stateful fakes of both ports, a clock that tests turn, faults by script, and crashes at any port call.
//!
//! The fake of AuthForge keeps the true history; tests compare with that, not with what the code believes.

mod api;
mod log;

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

pub use api::{FakeApi, Fault, Truth};
pub use log::MemoryLog;

use crate::execute::{Executor, Report};
use crate::grant::{Cause, Desired, DesiredState, Expiry, Grant, LicenseName, Standing};
use crate::license::{AppId, Slots};
use crate::plan::Policy;
use crate::port::{AttemptId, Clock, Moment, Now, Priority};
use crate::purchase::PurchaseId;
use crate::reason::Reason;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A clock that stands until it is turned.
#[derive(Debug, Clone)]
pub struct ManualClock(Arc<Mutex<Now>>);

impl Default for ManualClock {
    fn default() -> Self {
        let wall = Timestamp::from_second(1_795_000_000).unwrap_or_default();
        Self(Arc::new(Mutex::new(Now { wall, moment: Moment(Duration::from_secs(1_000)) })))
    }
}

impl ManualClock {
    /// Turns both clocks on.
    pub fn advance(&self, by: Duration) {
        let mut now = lock(&self.0);
        now.moment = now.moment.plus(by);
        now.wall =
            now.wall.checked_add(SignedDuration::try_from(by).unwrap_or_default()).unwrap_or(Timestamp::MAX);
    }

    /// Sets the wall clock apart, as somebody with the right to may.
    pub fn skew(&self, by: SignedDuration) {
        let mut now = lock(&self.0);
        now.wall = now.wall.checked_add(by).unwrap_or(now.wall);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Now {
        *lock(&self.0)
    }
}

/// Counts port calls and stops the process before or after one of them.
#[derive(Debug, Clone, Default)]
pub struct Crash(Arc<CrashState>);

#[derive(Debug, Default)]
struct CrashState {
    passed: AtomicUsize,
    at: Mutex<Option<usize>>,
}

impl Crash {
    /// Stops at the `point`-th place: two for each port call, before and after it.
    pub fn arm(&self, point: Option<usize>) {
        self.0.passed.store(0, Ordering::Relaxed);
        *lock(&self.0.at) = point;
    }

    /// How many places were passed since the last [`Crash::arm`].
    pub fn passed(&self) -> usize {
        self.0.passed.load(Ordering::Relaxed)
    }

    /// A place to stop: goes no further while it is the one.
    pub(crate) async fn point(&self) {
        let here = self.0.passed.fetch_add(1, Ordering::Relaxed);
        std::future::poll_fn(
            |_| if *lock(&self.0.at) == Some(here) { Poll::Pending } else { Poll::Ready(()) },
        )
        .await;
    }
}

/// Everything around one grant: both ports, the clock, and processes that come and go.
#[derive(Debug, Clone, Default)]
pub struct World {
    /// The clock of every process.
    pub clock: ManualClock,
    /// AuthForge.
    pub api: FakeApi,
    /// The record.
    pub log: MemoryLog,
    /// Where the process stops.
    pub crash: Crash,
    /// The times and limits of every process.
    pub policy: Policy,
    ids: Arc<AtomicUsize>,
}

impl World {
    /// A world with nothing in it.
    pub fn new() -> Self {
        let clock = ManualClock::default();
        let crash = Crash::default();
        Self {
            api: FakeApi::new(clock.clone(), crash.clone()),
            log: MemoryLog::new(clock.clone(), crash.clone()),
            clock,
            crash,
            policy: Policy::default(),
            ids: Arc::default(),
        }
    }

    /// Starts a process.
    pub fn process(&self) -> Executor {
        let ids = self.ids.clone();
        Executor::new(
            Arc::new(self.api.clone()),
            Arc::new(self.log.clone()),
            Arc::new(self.clock.clone()),
            self.policy.clone(),
            move || AttemptId(format!("attempt-{}", ids.fetch_add(1, Ordering::Relaxed))),
        )
    }

    /// One round of work; `None` if the process was stopped in it.
    pub fn round(&self, process: &Executor, grant: &Grant) -> Option<Report> {
        poll_once(process.advance(grant, Priority::Buyer))
    }

    /// Works until nothing is left to do or to wait for, restarting what was stopped. Gives the last report, or `None`
    /// if it did not come to rest.
    pub fn settle(&self, grant: &Grant) -> Option<Report> {
        let mut process = self.process();
        for _ in 0..200 {
            match self.round(&process, grant) {
                None => {
                    self.crash.arm(None);
                    process = self.process();
                }
                Some(report) => match (report.again, &report.failure) {
                    (None, None) => return Some(report),
                    (again, failure) => {
                        let wait = failure.as_ref().map(|failure| crate::retry::delay(failure.class(), 1));
                        self.clock.advance(again.or(wait).unwrap_or_default());
                    }
                },
            }
        }
        None
    }
}

/// Polls a future that can only wait where a [`Crash`] stopped it.
fn poll_once<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

/// Starts a grant that reads as adjectives: `grant("cs_1").units(3).paid(at)`.
pub fn grant(purchase: &str) -> GrantBuilder {
    GrantBuilder {
        purchase: purchase.to_owned(),
        units: 1,
        paid_at: None,
        expires_at: None,
        state: DesiredState::Active,
    }
}

/// Builds grants for tests.
#[derive(Debug, Clone)]
pub struct GrantBuilder {
    purchase: String,
    units: u32,
    paid_at: Option<Timestamp>,
    expires_at: Option<Timestamp>,
    state: DesiredState,
}

impl GrantBuilder {
    /// With this many licenses.
    #[must_use]
    pub fn units(mut self, units: u32) -> Self {
        self.units = units;
        self
    }

    /// Paid at this time.
    #[must_use]
    pub fn paid(mut self, at: Timestamp) -> Self {
        self.paid_at = Some(at);
        self
    }

    /// Ending at this time.
    #[must_use]
    pub fn ending(mut self, at: Timestamp) -> Self {
        self.expires_at = Some(at);
        self
    }

    /// In this state.
    #[must_use]
    pub fn state(mut self, state: DesiredState) -> Self {
        self.state = state;
        self
    }

    /// The grant; `None` if the purchase id is not one.
    pub fn build(self) -> Option<Grant> {
        let app_id = AppId::parse("app-1")?;
        let license = |n| Desired {
            name: LicenseName::of_unit(n),
            generation: 1,
            app_id: app_id.clone(),
            slots: Slots::Limited(1),
            state: self.state,
            expires_at: self.expires_at,
            expiry: Expiry::Sold,
            reason: if self.state == DesiredState::Active { Reason::Issued } else { Reason::Refunded },
            cause: Cause::Rule,
            imported: false,
            withdrawn: false,
            adopt: None,
        };
        Some(Grant {
            purchase: PurchaseId::parse(&self.purchase).ok()?,
            paid_at: self.paid_at,
            standing: Standing::Entitled,
            licenses: (1..=self.units).map(license).collect(),
            released: false,
            dunning: None,
            look_again: None,
        })
    }
}
