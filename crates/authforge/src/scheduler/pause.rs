//! A pause: what AuthForge refuses to everybody is asked again by one, and not by all that wait.

use std::sync::Arc;
use std::time::Duration;

use grantsmith_core::port::{ApiError, Class, Moment, Now};
use jiff::Timestamp;

use crate::key::ApiKey;

/// The wait before the first probe; each one that fails doubles it.
const FIRST_WAIT: Duration = Duration::from_secs(5);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// How long a probe may keep others from probing without a word of its own.
pub(super) const LEASE: Duration = Duration::from_secs(15);

/// A pause as status and metrics show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paused {
    /// Why.
    pub class: Class,
    /// Since when, by our wall clock.
    pub since: Timestamp,
    /// When the next probe may go, from now on.
    pub next_probe: Duration,
}

#[derive(Debug)]
pub(super) struct Pause {
    class: Class,
    /// The key that was in use, whose replacement ends a pause for 401.
    key: Arc<ApiKey>,
    since: Now,
    wait: Duration,
    next: Moment,
    probe: Option<(u64, Moment)>,
}

impl Pause {
    pub(super) fn new(class: Class, key: Arc<ApiKey>, now: Now) -> Self {
        Self { class, key, since: now, wait: FIRST_WAIT, next: now.moment.plus(FIRST_WAIT), probe: None }
    }

    pub(super) fn class(&self) -> Class {
        self.class
    }

    /// Whether it came after a request sent at `sent`, which can therefore say nothing about it.
    pub(super) fn is_newer_than(&self, sent: Moment) -> bool {
        self.since.moment > sent
    }

    /// Whether another key has come into use since.
    pub(super) fn is_outdated(&self, key: &ApiKey) -> bool {
        self.class == Class::Unauthorized && *self.key != *key
    }

    /// Whether a probe may go now.
    pub(super) fn is_due(&self, now: Moment) -> bool {
        now >= self.next && self.probe.is_none_or(|(_, until)| now >= until)
    }

    /// Makes a call the probe.
    pub(super) fn give_probe(&mut self, id: u64, now: Moment) {
        self.probe = Some((id, now.plus(LEASE)));
    }

    pub(super) fn is_probe(&self, id: u64) -> bool {
        self.probe.is_some_and(|(probe, _)| probe == id)
    }

    /// The probe was sent: its lease begins anew.
    pub(super) fn probe_sent(&mut self, id: u64, now: Moment) {
        if self.is_probe(id) {
            self.probe = Some((id, now.plus(LEASE)));
        }
    }

    /// The probe has failed: the next one waits twice as long, counted from when this one was let go.
    pub(super) fn probe_failed(&mut self, id: u64, sent: Moment) {
        if self.is_probe(id) {
            self.wait = (self.wait * 2).min(LONGEST_WAIT);
            self.next = sent.plus(self.wait);
            self.probe = None;
        }
    }

    /// The probe was given up before it could tell anything.
    pub(super) fn probe_gone(&mut self, id: u64) {
        if self.is_probe(id) {
            self.probe = None;
        }
    }

    fn next_probe(&self, now: Moment) -> Duration {
        let next = match self.probe {
            // Its answer is seconds away, its lease only the worst case.
            Some((_, until)) if now < until => now.plus(FIRST_WAIT).max(self.next),
            _ => self.next,
        };
        next.since(now)
    }

    /// What a call is told that may not go.
    pub(super) fn refusal(&self, now: Moment) -> ApiError {
        let why = match self.class {
            Class::Unauthorized => "AuthForge does not accept the API key",
            Class::CreditsExhausted => "the AuthForge account has no credits left",
            Class::Transient
            | Class::RateLimited
            | Class::Rejected
            | Class::Refused
            | Class::Gone
            | Class::OutcomeUnknown => "AuthForge cannot be reached",
        };
        ApiError {
            class: self.class,
            retry_after: Some(self.next_probe(now)),
            detail: format!("nothing was sent: {why}, and one call at a time looks whether that is over"),
        }
    }

    pub(super) fn shown(&self, now: Moment) -> Paused {
        Paused { class: self.class, since: self.since.wall, next_probe: self.next_probe(now) }
    }
}
