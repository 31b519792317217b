//! Everything that happens behind the answer: dirty objects are looked at, grants worked on, mails sent.
//!
//! There are no queues in memory. What is due is a row with a time; the worker takes what is due, remembers only what it
//! is at, and sleeps until the next time or until somebody wakes it. A killed worker leaves nothing but rows.

mod deliver;
mod issue;
mod link;
mod look;
mod sight;

pub(crate) use sight::recorded;

use std::collections::HashSet;
use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use governor::clock::Clock as _;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use grantsmith_core::GrantId;
use grantsmith_core::port::Clock;
use grantsmith_core::purchase::StripeId;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::decide::Offer;
use crate::issuer::Issuer;
use crate::mail::Mailer;
use crate::store::{Due, Most, Store};
use crate::stripe::client::Client as Stripe;

/// How much is done at once. Looks are paced by Stripe's rate, grants by AuthForge's: these only bound memory.
const LOOKS: usize = 16;
const ROUNDS: usize = 64;
const MAILS: usize = 8;
/// Looks at once where events are believed: nothing but these few paces such looks, and in a burst they would take the
/// processors and the writer from the events that wait for their answer. AuthForge's rate is far below them all the same.
const BELIEFS: usize = 4;
/// Such looks at once in a burst: still about as many a second as AuthForge makes keys, and the events that wait for their
/// answer have the processors.
const BELIEFS_IN_A_BURST: usize = 1;
/// Writes in one commit from which it is a burst.
const BURST: usize = 8;

/// How often the record is asked what is due: at once while wake-ups are few, so that no buyer waits for it, and a hundred
/// times a second when each event of a burst is one.
const PASSES_A_SECOND: NonZeroU32 = NonZeroU32::new(100).expect("not zero");
const PASSES_AT_ONCE: NonZeroU32 = NonZeroU32::new(40).expect("not zero");

/// How long to sleep at most: the net under a lost wake-up and under a clock that was set.
const NAP: Duration = Duration::from_secs(30);
/// How long to sleep when something is due that is being worked on, or that the record could not tell.
const BREATHER: Duration = Duration::from_secs(1);

/// Between two sweeps.
const SWEEPS: Duration = Duration::from_secs(3_600);
/// By how much the wall clock is set back before that matters.
const SET_BACK: SignedDuration = SignedDuration::from_mins(1);

/// What the worker works with.
pub struct Worker {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    issuer: Arc<dyn Issuer>,
    touched: Touched,
    stripe: Option<Stripe>,
    mailer: Option<Mailer>,
    offer: Offer,
    observe: bool,
    keep_bodies: Duration,
    wake: Arc<Notify>,
    passes: DefaultDirectRateLimiter,
    looking: InFlight<StripeId>,
    working: InFlight<GrantId>,
    mailing: InFlight<GrantId>,
    inviting: InFlight<i64>,
}

/// The parts of a [`Worker`].
pub struct Parts {
    /// The record.
    pub store: Arc<dyn Store>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Who brings grants to what they declare.
    pub issuer: Arc<dyn Issuer>,
    /// Grants of which something else tells that there is work.
    pub touched: Touched,
    /// Stripe's API; without it, events are believed.
    pub stripe: Option<Stripe>,
    /// The mail server; without it, deliveries are parked.
    pub mailer: Option<Mailer>,
    /// What is sold where a purchase does not say.
    pub offer: Offer,
    /// Say what would be done, and do none of it.
    pub observe: bool,
    /// How long the raw bodies of events are kept.
    pub keep_bodies: Duration,
    /// Wakes the worker; notified by whoever writes something due.
    pub wake: Arc<Notify>,
}

/// Grants that have to be worked on for what happened elsewhere: whoever notices it notices it again after a restart.
#[derive(Debug, Clone)]
pub struct Touched {
    grants: Arc<Mutex<HashSet<GrantId>>>,
    wake: Arc<Notify>,
}

impl Touched {
    /// None yet; `wake` wakes the worker.
    pub fn new(wake: Arc<Notify>) -> Self {
        Self { grants: Arc::default(), wake }
    }

    /// There is work on a grant.
    pub fn touch(&self, grant: GrantId) {
        self.lock().insert(grant);
        self.wake.notify_one();
    }

    /// Something else has become due.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Takes those out that can be begun now.
    fn take<P>(&self, mut begin: impl FnMut(&GrantId) -> Option<P>) -> Vec<(GrantId, P)> {
        let mut taken = Vec::new();
        self.lock().retain(|grant| match begin(grant) {
            Some(place) => {
                taken.push((grant.clone(), place));
                false
            }
            None => true,
        });
        taken
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<GrantId>> {
        self.grants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is being worked on, bounded.
#[derive(Debug)]
struct InFlight<K> {
    keys: Arc<Mutex<HashSet<K>>>,
    places: Arc<Semaphore>,
    most: usize,
}

impl<K: Eq + Hash + Clone> InFlight<K> {
    fn new(most: usize) -> Self {
        Self { keys: Arc::default(), places: Arc::new(Semaphore::new(most)), most }
    }

    /// Begins a pass over the record.
    fn pass(&self) -> Pass<'_, K> {
        let busy = self.keys.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Pass { of: self, busy }
    }

    /// Takes a place for `key`, unless it has one or there is none.
    fn enter(&self, key: &K) -> Option<Place<K>> {
        let permit = self.places.clone().try_acquire_owned().ok()?;
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.insert(key.clone()).then(|| Place { key: key.clone(), keys: self.keys.clone(), _permit: permit })
    }
}

/// A look at what the record says is due.
#[derive(Debug)]
struct Pass<'a, K> {
    of: &'a InFlight<K>,
    busy: HashSet<K>,
}

impl<K: Eq + Hash + Clone> Pass<'_, K> {
    /// How many rows to ask the record for: none without a place for any, else so many that those under way cannot hide
    /// others.
    fn most(&self) -> u32 {
        if self.of.places.available_permits() == 0 {
            return 0;
        }
        u32::try_from(self.of.most * 2).unwrap_or(u32::MAX)
    }

    /// Takes a place for `key`, unless somebody was at it when the pass began: whoever ended since has made what the record
    /// told out of date, and wakes the next pass.
    fn enter(&self, key: &K) -> Option<Place<K>> {
        if self.busy.contains(key) { None } else { self.of.enter(key) }
    }
}

/// A place among what is being worked on; given back when dropped, also by a panic.
#[derive(Debug)]
struct Place<K: Eq + Hash> {
    key: K,
    keys: Arc<Mutex<HashSet<K>>>,
    _permit: tokio::sync::OwnedSemaphorePermit,
}

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

impl Worker {
    /// A worker that has not begun.
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts { store, clock, issuer, touched, stripe, mailer, offer, observe, keep_bodies, wake } =
            parts;
        let looks = if stripe.is_some() { LOOKS } else { BELIEFS };
        Arc::new(Self {
            store,
            clock,
            issuer,
            touched,
            stripe,
            mailer,
            offer,
            observe,
            keep_bodies,
            wake,
            passes: RateLimiter::direct(Quota::per_second(PASSES_A_SECOND).allow_burst(PASSES_AT_ONCE)),
            looking: InFlight::new(looks),
            working: InFlight::new(ROUNDS),
            mailing: InFlight::new(MAILS),
            inviting: InFlight::new(MAILS),
        })
    }

    /// Works until stopped, then finishes what is under way or leaves it to the next start.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let tasks = TaskTracker::new();
        if !self.observe {
            match self.store.resume(self.now()).await {
                Ok(0) => {}
                Ok(count) => tracing::info!(count, "going on with what was only observed so far"),
                Err(error) => tracing::warn!(%error, "what was only observed so far waits"),
            }
        }
        let sweeps = tokio::spawn(stop.clone().run_until_cancelled_owned(self.clone().sweep()));
        // Nobody has seen what the clock was before.
        let mut offset = SignedDuration::MAX;
        while !stop.is_cancelled() {
            self.mind_the_clock(&mut offset).await;
            // The limiter's own waiting has a thread woken for each pass.
            while let Err(early) = self.passes.check() {
                tokio::time::sleep(early.wait_time_from(self.passes.clock().now())).await;
            }
            let nap = self.start_due(&tasks, &stop).await;
            tokio::select! {
                () = self.wake.notified() => {}
                () = tokio::time::sleep(nap) => {}
                () = stop.cancelled() => {}
            }
        }
        tasks.close();
        tasks.wait().await;
        let _ = sweeps.await;
    }

    /// Goes on with what was put off by a wall clock that ran ahead, once it is set back: `offset` is how far it was last from
    /// the clock that nobody can set.
    async fn mind_the_clock(&self, offset: &mut SignedDuration) {
        let now = self.clock.now();
        let moment = SignedDuration::try_from(now.moment.0).unwrap_or(SignedDuration::MAX);
        let seen = now.wall.as_duration().saturating_sub(moment);
        if offset.saturating_sub(seen) < SET_BACK {
            *offset = seen;
            return;
        }
        match self.store.clock_set_back(now.wall).await {
            Ok(count) => {
                *offset = seen;
                if count > 0 {
                    tracing::warn!(count, "going on with what was put off while the clock ran ahead");
                }
            }
            Err(error) => tracing::warn!(%error, "what was put off while the clock ran ahead waits"),
        }
    }

    /// Starts what is due; says how long nothing else will be.
    async fn start_due(self: &Arc<Self>, tasks: &TaskTracker, stop: &CancellationToken) -> Duration {
        let now = self.now();
        let touched = self.touched.take(|id| self.working.enter(id));
        let passes = (self.looking.pass(), self.working.pass(), self.mailing.pass(), self.inviting.pass());
        let (looking, working, mailing, inviting) = &passes;
        let looks = self.looks_now().saturating_sub(looking.busy.len());
        let most = Most {
            objects: if looks == 0 { 0 } else { looking.most() },
            grants: working.most(),
            deliveries: mailing.most(),
            wishes: inviting.most(),
        };
        let due = self.store.due(now, most).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot tell what is due");
            Due { earliest: Some(now), ..Due::default() }
        });
        let grants = due.grants.into_iter().filter_map(|id| working.enter(&id).map(|place| (id, place)));
        for (id, place) in touched.into_iter().chain(grants) {
            let worker = self.clone();
            tasks.spawn(async move {
                worker.work(&id).await;
                drop(place);
                worker.wake.notify_one();
            });
        }
        let objects = due.objects.into_iter();
        let objects = objects.filter_map(|dirty| looking.enter(&dirty.object.id).map(|place| (dirty, place)));
        for (dirty, place) in objects.take(looks) {
            let worker = self.clone();
            tasks.spawn(async move {
                let decided = worker.look(dirty).await;
                drop(place);
                // Its buyer waits: no pass over the record lies between the decision and the work.
                if let Some(id) = decided
                    && let Some(place) = worker.working.enter(&id)
                {
                    worker.begin(&id).await;
                    drop(place);
                }
                worker.wake.notify_one();
            });
        }
        for delivery in due.deliveries {
            if let Some(place) = mailing.enter(&delivery.grant) {
                let (worker, stop) = (self.clone(), stop.clone());
                tasks.spawn(async move {
                    worker.deliver(delivery, &stop).await;
                    drop(place);
                    worker.wake.notify_one();
                });
            }
        }
        for wish in due.wishes {
            if let Some(place) = inviting.enter(&wish.number) {
                let worker = self.clone();
                tasks.spawn(async move {
                    worker.invite(wish).await;
                    drop(place);
                    worker.wake.notify_one();
                });
            }
        }
        match due.earliest {
            Some(earliest) if earliest > now => earliest.duration_since(now).unsigned_abs().min(NAP),
            Some(_) => BREATHER,
            None => NAP,
        }
    }

    /// How many looks there may be now.
    fn looks_now(&self) -> usize {
        let burst = self.stripe.is_none() && self.store.crowd() >= BURST;
        if burst { BELIEFS_IN_A_BURST } else { self.looking.most }
    }

    /// Once an hour: what is over is forgotten, bodies and the portal's wishes and tokens. Not at once: the clock of a machine
    /// that has just begun may be set yet.
    async fn sweep(self: Arc<Self>) {
        let mut hours = tokio::time::interval_at(Instant::now() + SWEEPS, SWEEPS);
        loop {
            hours.tick().await;
            let before = self.now().checked_sub(self.keep_bodies).unwrap_or(Timestamp::MIN);
            match self.store.drop_bodies(before).await {
                Ok(0) => {}
                Ok(count) => tracing::info!(count, "forgot the bodies of old events"),
                Err(error) => tracing::warn!(%error, "old bodies were not forgotten"),
            }
            if let Err(error) = self.store.tidy_portal(self.now()).await {
                tracing::warn!(%error, "old portal links were not forgotten");
            }
        }
    }

    fn now(&self) -> Timestamp {
        self.clock.now().wall
    }

    fn after(&self, wait: Duration) -> Timestamp {
        self.now().checked_add(wait).unwrap_or(Timestamp::MAX)
    }
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
