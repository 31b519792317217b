//! The times and limits that plans are made by.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::port::{Attempt, Outcome};

/// The times and limits that plans are made by.
#[derive(Debug, Clone)]
pub struct Policy {
    /// How long after this process first saw an open attempt a listing's silence about it counts.
    ///
    /// The assumption: a request's time and the listing's lag together stay below it.
    pub quarantine: Duration,
    /// A purchase older than this is looked for before it is created.
    pub look_before_create_after: SignedDuration,
    /// How far clocks may be apart after AuthForge's `Date` is taken into account. More only makes us keep what we made.
    pub skew: SignedDuration,
    /// What was paid before this is left to whoever fulfilled it then: adopted where a license is found, and else held for
    /// a person. None holds nothing.
    pub fulfil_since: Option<Timestamp>,
    /// Rule-made revocations an hour.
    pub revocation_budget: u32,
    /// Looks for what attempts made besides happen at multiples of this, so that one listing serves many.
    pub watch_grid: SignedDuration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            quarantine: Duration::from_secs(90),
            look_before_create_after: SignedDuration::from_mins(15),
            skew: SignedDuration::from_secs(3),
            fulfil_since: None,
            revocation_budget: 100,
            watch_grid: SignedDuration::from_mins(5),
        }
    }
}

/// When an attempt is looked after, from its opening: once soon if its answer came, and on for a day if it did not.
const WATCH_CLEAR: &[SignedDuration] = &[SignedDuration::from_mins(5)];
const WATCH_UNCLEAR: &[SignedDuration] =
    &[SignedDuration::from_mins(5), SignedDuration::from_hours(1), SignedDuration::from_hours(24)];

impl Policy {
    /// When a license must have been created to be this attempt's work, by AuthForge's clock.
    pub(super) fn window(&self, attempt: &Attempt) -> Option<(Timestamp, Timestamp)> {
        let quarantine = SignedDuration::try_from(self.quarantine).unwrap_or(SignedDuration::MAX);
        let last = match attempt.outcome {
            Outcome::Answered { at } => at,
            Outcome::Open | Outcome::Found | Outcome::Absent => later(attempt.opened_at, quarantine),
            Outcome::NotSent | Outcome::Refused => return None,
        };
        let here = |at: Timestamp| later(at, attempt.clock_offset);
        Some((later(here(attempt.opened_at), -self.skew), later(here(last), self.skew)))
    }

    /// The next time to look after an attempt, if ever.
    pub fn next_watch(&self, attempt: &Attempt) -> Option<Timestamp> {
        let schedule = match attempt.outcome {
            Outcome::Answered { .. } => WATCH_CLEAR,
            Outcome::Found | Outcome::Absent => WATCH_UNCLEAR,
            Outcome::Open | Outcome::NotSent | Outcome::Refused => return None,
        };
        let due = schedule.iter().map(|after| self.on_grid(later(attempt.opened_at, *after)));
        match attempt.watched_at {
            None => due.min(),
            Some(watched) => due.filter(|due| *due > watched).min(),
        }
    }

    fn on_grid(&self, at: Timestamp) -> Timestamp {
        let grid = self.watch_grid.as_secs().max(1);
        let second = at.as_second();
        Timestamp::from_second(second.saturating_add(grid - 1).div_euclid(grid).saturating_mul(grid))
            .unwrap_or(at)
    }
}

pub(super) fn later(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.checked_add(by).unwrap_or(if by.is_negative() { Timestamp::MIN } else { Timestamp::MAX })
}
