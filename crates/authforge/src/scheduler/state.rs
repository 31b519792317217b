//! The scheduler's state, changed under one lock and without waiting.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use grantsmith_core::port::{ApiError, Class, Moment, Now, Priority};
use grantsmith_core::retry;
use tokio::sync::oneshot;

use super::bucket::{Bucket, Pace};
use super::pause::{LEASE, Pause};
use super::{Health, Verdict};
use crate::error::LONGEST_WAIT;
use crate::key::ApiKey;

/// That many failures in a row to reach AuthForge at all are an outage.
const DOWN_AFTER: u32 = 5;

struct Waiter {
    id: u64,
    create: bool,
    tell: oneshot::Sender<Result<(), ApiError>>,
}

/// A finished call.
pub(super) struct Report<'a> {
    pub(super) id: u64,
    pub(super) create: bool,
    pub(super) sent: Moment,
    pub(super) key: &'a Arc<ApiKey>,
    /// Whether that key is still the one in use.
    pub(super) key_is_current: bool,
    pub(super) verdict: Verdict,
}

pub(super) struct State {
    bucket: Bucket,
    next_id: u64,
    /// One queue for each [`Priority`], in its order.
    queues: [VecDeque<Waiter>; 4],
    /// Permits given and not answered for yet, each with a token held for it: until then, if it is not used by then.
    held: HashMap<u64, Option<Moment>>,
    /// Those among them that are reservations, oldest first.
    reserved: VecDeque<u64>,
    slow_until: Option<Moment>,
    slow_since: Moment,
    slow_tries: u32,
    everything: Option<Pause>,
    creates: Option<Pause>,
    failures: u32,
    driving: bool,
    /// Whether the driver waits for a token that is held.
    stalled: bool,
}

impl State {
    pub(super) fn new(pace: Pace, now: Moment) -> Self {
        Self {
            bucket: Bucket::new(pace, now),
            next_id: 0,
            queues: Default::default(),
            held: HashMap::new(),
            reserved: VecDeque::new(),
            slow_until: None,
            slow_since: now,
            slow_tries: 0,
            everything: None,
            creates: None,
            failures: 0,
            driving: false,
            stalled: false,
        }
    }

    pub(super) fn health(&self, now: Moment) -> Health {
        Health {
            paused: self.everything.as_ref().map(|pause| pause.shown(now)),
            creates_paused: self.creates.as_ref().map(|pause| pause.shown(now)),
            slowed: self.slow_until.filter(|until| *until > now).map(|until| until.since(now)),
            waiting: self.queues.iter().map(VecDeque::len).sum(),
        }
    }

    /// A new key ends the pause that the old one caused.
    pub(super) fn heed_key(&mut self, key: &ApiKey) {
        if self.everything.as_ref().is_some_and(|pause| pause.is_outdated(key)) {
            self.everything = None;
        }
    }

    /// Queues a call, unless a pause bars it.
    pub(super) fn enter(
        &mut self,
        priority: Priority,
        create: bool,
        tell: oneshot::Sender<Result<(), ApiError>>,
        now: Now,
    ) -> Result<u64, ApiError> {
        let id = self.admit(create, now.moment)?;
        let waiter = Waiter { id, create, tell };
        match priority {
            Priority::Buyer => self.queues[0].push_back(waiter),
            Priority::Refund => self.queues[1].push_back(waiter),
            Priority::Renewal => self.queues[2].push_back(waiter),
            Priority::Audit => self.queues[3].push_back(waiter),
        }
        Ok(id)
    }

    /// Names a call, as the probe of the pauses that would bar it if these are due.
    fn admit(&mut self, create: bool, now: Moment) -> Result<u64, ApiError> {
        if let Some(refusal) = self.barred(create, now) {
            return Err(refusal);
        }
        self.next_id += 1;
        for pause in self.everything.iter_mut().chain(self.creates.iter_mut().filter(|_| create)) {
            pause.give_probe(self.next_id, now);
        }
        Ok(self.next_id)
    }

    fn barred(&self, create: bool, now: Moment) -> Option<ApiError> {
        let mut pauses = self.everything.iter().chain(self.creates.iter().filter(|_| create));
        pauses.find(|pause| !pause.is_due(now)).map(|pause| pause.refusal(now))
    }

    /// Gives permits to those whose turn it is.
    pub(super) fn pump(&mut self, now: Moment) {
        self.expire(now);
        if self.slow_until.is_some_and(|until| until > now) {
            return;
        }
        while self.bucket.holds(self.held.len() + 1, now) {
            let Some(waiter) = self.queues.iter_mut().find_map(VecDeque::pop_front) else { return };
            if waiter.tell.send(Ok(())).is_ok() {
                self.held.insert(waiter.id, Some(now.plus(LEASE)));
            } else {
                self.probe_gone(waiter.id);
            }
        }
    }

    /// Gives back the tokens of permits that nobody used in time.
    fn expire(&mut self, now: Moment) {
        let over = |until: &Option<Moment>| until.is_some_and(|until| until <= now);
        if self.held.values().any(over) {
            self.held.retain(|_, until| !over(until));
            let held = &self.held;
            self.reserved.retain(|id| held.contains_key(id));
        }
    }

    pub(super) fn reserve(&mut self, id: u64) {
        // A pause that began in this very moment has taken the permit back already.
        if self.held.contains_key(&id) {
            self.reserved.push_back(id);
        }
    }

    /// Takes the oldest reservation, or a permit that is free now.
    pub(super) fn claim(&mut self, now: Now) -> Result<u64, ApiError> {
        self.expire(now.moment);
        if let Some(id) = self.reserved.pop_front() {
            return Ok(id);
        }
        if let Some(refusal) = self.barred(true, now.moment) {
            return Err(refusal);
        }
        let slow = self.slow_until.filter(|until| *until > now.moment).map(|until| until.since(now.moment));
        let wait = match slow {
            Some(slow) => Some(slow),
            None if self.bucket.holds(self.held.len() + 1, now.moment) => None,
            None => Some(self.next_wake(now.moment)),
        };
        if let Some(wait) = wait {
            let detail = "nothing was sent: the turn that was reserved has run out".to_owned();
            return Err(ApiError { class: Class::Transient, retry_after: Some(wait), detail });
        }
        let id = self.admit(true, now.moment)?;
        self.held.insert(id, Some(now.moment.plus(LEASE)));
        Ok(id)
    }

    /// The request of a permit is being sent: from now on it may arrive at any time.
    pub(super) fn sent(&mut self, id: u64, now: Moment) {
        self.held.insert(id, None);
        for pause in self.everything.iter_mut().chain(self.creates.iter_mut()) {
            pause.probe_sent(id, now);
        }
    }

    /// A call has gone away: from the queue, with a permit in hand, or before its answer came.
    pub(super) fn forget(&mut self, id: u64, now: Moment) {
        self.settle(id, now);
        self.reserved.retain(|reserved| *reserved != id);
        for queue in &mut self.queues {
            queue.retain(|waiter| waiter.id != id);
        }
        self.probe_gone(id);
    }

    /// Gives back the token of a permit, or pays with it if its request was sent.
    fn settle(&mut self, id: u64, now: Moment) {
        if self.held.remove(&id) == Some(None) {
            self.bucket.pay(now);
        }
    }

    /// Whether the driver waited for a token that somebody held, and has to look again.
    pub(super) fn was_stalled(&mut self) -> bool {
        std::mem::take(&mut self.stalled)
    }

    fn probe_gone(&mut self, id: u64) {
        for pause in self.everything.iter_mut().chain(self.creates.iter_mut()) {
            pause.probe_gone(id);
        }
    }

    /// Learns from a finished call.
    pub(super) fn report(&mut self, report: &Report<'_>, now: Now) {
        let Verdict { class, answered, retry_after } = report.verdict;
        self.settle(report.id, now.moment);
        if class == Some(Class::RateLimited) || retry_after.is_some() {
            self.slow(report.sent, retry_after, now.moment);
        }
        match class {
            None => {
                self.reached(report, true);
                if report.sent > self.slow_since {
                    self.slow_tries = 0;
                }
                if report.create
                    && !self.creates.as_ref().is_some_and(|pause| pause.is_newer_than(report.sent))
                {
                    self.creates = None;
                }
            }
            Some(Class::Rejected | Class::Refused | Class::Gone) => self.reached(report, true),
            // Whether the key is accepted, a 429 does not tell.
            Some(Class::RateLimited) => self.reached(report, false),
            Some(Class::CreditsExhausted) => {
                self.reached(report, true);
                if report.create && self.creates.is_none() {
                    self.creates = Some(Pause::new(Class::CreditsExhausted, Arc::clone(report.key), now));
                    self.turn_away(true, now.moment);
                }
            }
            Some(Class::Unauthorized) => {
                self.failures = 0;
                if report.key_is_current {
                    self.pause_everything(Class::Unauthorized, report, now);
                }
            }
            Some(Class::Transient) => {
                self.failures = self.failures.saturating_add(1);
                if self.failures >= DOWN_AFTER && self.everything.is_none() {
                    self.pause_everything(Class::Transient, report, now);
                }
            }
            // A timeout of a create says too little: the listing that follows it will tell whether all is down.
            Some(Class::OutcomeUnknown) if answered => self.failures = 0,
            Some(Class::OutcomeUnknown) => {}
        }
        for pause in self.everything.iter_mut().chain(self.creates.iter_mut()) {
            pause.probe_failed(report.id, report.sent);
        }
    }

    /// AuthForge was there when this call was sent, and if `known` it knew the key.
    fn reached(&mut self, report: &Report<'_>, known: bool) {
        self.failures = 0;
        let over = self.everything.as_ref().is_some_and(|pause| {
            !pause.is_newer_than(report.sent) && (known || pause.class() == Class::Transient)
        });
        if over {
            self.everything = None;
        }
    }

    fn pause_everything(&mut self, class: Class, report: &Report<'_>, now: Now) {
        if self.everything.as_ref().is_some_and(|pause| pause.class() == class) {
            return;
        }
        self.everything = Some(Pause::new(class, Arc::clone(report.key), now));
        self.turn_away(false, now.moment);
    }

    /// Tells those that wait, and those that hold a reservation, of a pause that has begun.
    fn turn_away(&mut self, only_creates: bool, now: Moment) {
        let pause = if only_creates { self.creates.as_ref() } else { self.everything.as_ref() };
        let Some(refusal) = pause.map(|pause| pause.refusal(now)) else { return };
        let mut gone: Vec<u64> = self.reserved.drain(..).collect();
        for queue in &mut self.queues {
            for waiter in std::mem::take(queue) {
                if only_creates && !waiter.create {
                    queue.push_back(waiter);
                    continue;
                }
                gone.push(waiter.id);
                // Whoever has stopped listening needs no telling.
                let _ = waiter.tell.send(Err(refusal.clone()));
            }
        }
        for id in gone {
            self.held.remove(&id);
            self.probe_gone(id);
        }
    }

    /// Holds everything back for a while.
    fn slow(&mut self, sent: Moment, asked: Option<Duration>, now: Moment) {
        // Answers to requests that were under way when the last one came are the same 429, not a worse one.
        if sent > self.slow_since || self.slow_tries == 0 {
            self.slow_tries = self.slow_tries.saturating_add(1);
            self.slow_since = now;
        } else if asked.is_none() {
            return;
        }
        let wait =
            asked.unwrap_or_else(|| retry::delay(Class::RateLimited, self.slow_tries)).min(LONGEST_WAIT);
        let until = self.slow_until.map_or(now.plus(wait), |until| until.max(now.plus(wait)));
        self.slow_until = Some(until);
        self.bucket.drain_until(until);
    }

    /// When something may change without anybody calling.
    pub(super) fn next_wake(&mut self, now: Moment) -> Duration {
        if let Some(slow) = self.slow_until.filter(|until| *until > now) {
            return slow.since(now);
        }
        let held = self.held.len() + 1;
        let wait = self.bucket.time_until(held, now);
        self.stalled = wait.is_none();
        wait.unwrap_or_else(|| {
            // All tokens are held. An answer wakes the driver, and so does the first permit that runs out unused.
            self.held.values().flatten().min().map_or(LEASE, |until| until.since(now))
        })
    }

    pub(super) fn is_idle(&self) -> bool {
        self.queues.iter().all(VecDeque::is_empty)
    }

    /// Whether a driver has to be started now.
    pub(super) fn start_driver(&mut self) -> bool {
        let start = !self.driving && !self.is_idle();
        self.driving |= start;
        start
    }

    pub(super) fn stop_driver(&mut self) {
        self.driving = false;
    }
}
