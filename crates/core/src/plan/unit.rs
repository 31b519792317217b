//! One license of a grant, with all that concerns it.

use super::{Policy, Step};
use crate::grant::{Desired, Expiry};
use crate::label::Label;
use crate::license::{Fingerprint, License, LicenseStatus};
use crate::port::{Attempt, AttemptId, CreateLicense, Kept, KeptState, Listing, Outcome, Record};

/// One license with all that concerns it.
pub(super) struct Unit<'a> {
    pub(super) desired: &'a Desired,
    pub(super) label: Label,
    pub(super) listing: Option<&'a Listing>,
    /// What was listed under its label, each in the status that is known best.
    pub(super) rows: Vec<License>,
    pub(super) attempts: Vec<&'a Attempt>,
}

impl<'a> Unit<'a> {
    pub(super) fn open(&self) -> impl Iterator<Item = &'a Attempt> + use<'a, '_> {
        self.attempts.iter().copied().filter(|attempt| attempt.outcome == Outcome::Open)
    }

    /// The key that the license is to have and that is not kept for it yet. A replacement is a new one.
    pub(super) fn sought(&self, record: &Record) -> Option<&'a Fingerprint> {
        let named = self.desired.adopt.as_ref().filter(|_| self.desired.generation == 1)?;
        let kept = record.kept(&self.desired.name, self.desired.generation);
        let there = kept.is_some_and(|kept| kept.key.fingerprint() == *named);
        (!there).then_some(named)
    }

    pub(super) fn unclear(&self) -> impl Iterator<Item = &'a Attempt> + use<'a, '_> {
        let unclear = |outcome: &Outcome| matches!(outcome, Outcome::Open | Outcome::Found | Outcome::Absent);
        self.attempts.iter().copied().filter(move |attempt| unclear(&attempt.outcome))
    }

    /// Of several, live before revoked, then the oldest, then by key so that every process chooses the same. None that is
    /// revoked where a listing stopped early: a live one may be on a later page.
    pub(super) fn best(&self, record: &Record) -> Option<&License> {
        let complete = self.listing.is_some_and(Listing::is_complete);
        self.rows
            .iter()
            .filter(|row| !record.keeps(&row.key) && (complete || row.status == LicenseStatus::Active))
            .min_by_key(|row| (row.status != LicenseStatus::Active, row.created_at, row.key.fingerprint()))
    }

    /// Our own attempt that made a license, told by its time.
    pub(super) fn maker(&self, row: &License, policy: &Policy) -> Option<&'a Attempt> {
        self.attempts.iter().copied().find(|attempt| {
            policy.window(attempt).is_some_and(|(from, to)| (from..=to).contains(&row.created_at))
        })
    }

    /// Live licenses besides the kept ones: those that our own attempts made, and others.
    pub(super) fn besides(&self, record: &Record, policy: &Policy) -> (Vec<&License>, Vec<&License>) {
        let rows = self.rows.iter();
        rows.filter(|row| !record.keeps(&row.key) && row.status == LicenseStatus::Active)
            .partition(|row| self.maker(row, policy).is_some())
    }

    pub(super) fn adopted(&self, row: &License, attempt: Option<AttemptId>) -> Kept {
        let state = match row.status {
            LicenseStatus::Active => KeptState::Live,
            LicenseStatus::Revoked => KeptState::RevokedElsewhere,
        };
        Kept {
            name: self.desired.name.clone(),
            generation: self.desired.generation,
            key: row.key.clone(),
            app_id: row.app_id.clone(),
            slots: row.slots,
            created_at: row.created_at,
            expires_at: row.expires_at,
            attempt,
            state,
            duplicated: false,
            refused: None,
        }
    }

    /// The order for the license. A replacement has what the buyer was told of the one `before` it, as long as that was sold.
    pub(super) fn create(&self, before: Option<&Kept>) -> Step {
        let sold = before.filter(|_| self.desired.expiry == Expiry::Sold);
        let order = CreateLicense {
            app_id: self.desired.app_id.clone(),
            label: self.label.clone(),
            expires_at: sold.map_or(self.desired.expires_at, |kept| kept.expires_at),
            slots: before.and_then(|kept| kept.slots).unwrap_or(self.desired.slots),
        };
        Step::Create(self.desired.name.clone(), self.desired.generation, order)
    }
}
