//! The record in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};

use super::{Crash, ManualClock, lock};
use crate::grant::{Cause, GrantId};
use crate::license::{Fingerprint, LicenseKey};
use crate::port::{
    Attempt, AttemptId, AttemptLog, Change, Clock, Kept, KeptState, LogError, Outcome, Record, Reset,
    ResetId, ResetOutcome,
};

/// The record in memory; it outlives the processes.
#[derive(Debug, Clone, Default)]
pub struct MemoryLog {
    records: Arc<Mutex<BTreeMap<GrantId, Record>>>,
    clock: ManualClock,
    crash: Crash,
    nap: Arc<Mutex<Duration>>,
    resets: Arc<Mutex<BTreeMap<ResetId, (Reset, ResetOutcome)>>>,
}

impl MemoryLog {
    pub(super) fn new(clock: ManualClock, crash: Crash) -> Self {
        Self { records: Arc::default(), clock, crash, nap: Arc::default(), resets: Arc::default() }
    }

    /// The keys kept for a grant, which are the keys that its buyer may have been given.
    pub fn keys(&self, grant: &GrantId) -> Vec<LicenseKey> {
        let records = lock(&self.records);
        records
            .get(grant)
            .map_or_else(Vec::new, |record| record.licenses.iter().map(|kept| kept.key.clone()).collect())
    }

    /// What is on record about a grant.
    pub fn record(&self, grant: &GrantId) -> Record {
        lock(&self.records).get(grant).cloned().unwrap_or_default()
    }

    /// Changes a record behind everybody's back.
    pub fn edit(&self, grant: &GrantId, change: impl FnOnce(&mut Record)) {
        let mut records = lock(&self.records);
        let record = records.entry(grant.clone()).or_default();
        change(record);
        record.version += 1;
    }

    /// What became of a wish to unbind devices.
    pub fn reset_outcome(&self, reset: &ResetId) -> Option<ResetOutcome> {
        lock(&self.resets).get(reset).map(|(_, outcome)| *outcome)
    }

    /// The machine sleeps this long in the next [`AttemptLog::open`].
    pub fn sleep_in_open(&self, nap: Duration) {
        *lock(&self.nap) = nap;
    }

    fn change(&self, grant: &GrantId, fingerprint: &Fingerprint, change: &Change) {
        self.edit(grant, |record| {
            for kept in record.licenses.iter_mut().filter(|kept| kept.key.fingerprint() == *fingerprint) {
                kept.apply(change);
            }
        });
    }

    fn revocations(&self, now: Timestamp) -> u32 {
        let hour_ago = now.checked_sub(SignedDuration::from_hours(1)).unwrap_or(now);
        let by_rule = |kept: &&Kept| match kept.state {
            KeptState::Revoking { at, cause } | KeptState::Revoked { at, cause } => {
                cause == Cause::Rule && at > hour_ago
            }
            KeptState::Live | KeptState::Reinstating | KeptState::RevokedElsewhere => false,
        };
        let records = lock(&self.records);
        let count = records.values().flat_map(|record| &record.licenses).filter(by_rule).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }
}

#[async_trait]
impl AttemptLog for MemoryLog {
    async fn load(&self, grant: &GrantId) -> Result<Record, LogError> {
        self.crash.point().await;
        let recent_revocations = self.revocations(self.clock.now().wall);
        Ok(Record { recent_revocations, ..self.record(grant) })
    }

    async fn open(&self, grant: &GrantId, version: u64, attempt: &Attempt) -> Result<(), LogError> {
        self.crash.point().await;
        if self.record(grant).version != version {
            return Err(LogError::Conflict);
        }
        self.edit(grant, |record| record.attempts.push(attempt.clone()));
        self.clock.advance(std::mem::take(&mut *lock(&self.nap)));
        self.crash.point().await;
        Ok(())
    }

    async fn keep(&self, grant: &GrantId, license: &Kept) -> Result<(), LogError> {
        self.crash.point().await;
        self.edit(grant, |record| {
            if !record.licenses.iter().any(|kept| kept.key == license.key) {
                record.licenses.push(license.clone());
            }
        });
        self.crash.point().await;
        Ok(())
    }

    async fn settle(&self, grant: &GrantId, attempt: &AttemptId, outcome: &Outcome) -> Result<(), LogError> {
        self.crash.point().await;
        self.edit(grant, |record| {
            for known in record.attempts.iter_mut().filter(|known| known.id == *attempt) {
                known.outcome = outcome.clone();
            }
        });
        self.crash.point().await;
        Ok(())
    }

    async fn note(
        &self,
        grant: &GrantId,
        fingerprint: &Fingerprint,
        change: &Change,
    ) -> Result<(), LogError> {
        self.crash.point().await;
        self.change(grant, fingerprint, change);
        self.crash.point().await;
        Ok(())
    }

    async fn spend(
        &self,
        grant: &GrantId,
        fingerprint: &Fingerprint,
        at: Timestamp,
        budget: u32,
    ) -> Result<(), LogError> {
        self.crash.point().await;
        if self.revocations(at) >= budget {
            return Err(LogError::Conflict);
        }
        self.change(grant, fingerprint, &Change::State(KeptState::Revoking { at, cause: Cause::Rule }));
        self.crash.point().await;
        Ok(())
    }

    async fn reset(&self, grant: &GrantId, reset: &ResetId, outcome: ResetOutcome) -> Result<(), LogError> {
        self.crash.point().await;
        self.edit(grant, |record| {
            let mut resets = lock(&self.resets);
            let asked = record.resets.iter().position(|asked| asked.id == *reset);
            let asked = asked.map(|place| record.resets.remove(place));
            let known = resets.remove(reset).map(|(asked, _)| asked);
            let Some(wish) = asked.or(known) else { return };
            if outcome == ResetOutcome::Asked {
                record.resets.push(wish.clone());
            }
            resets.insert(reset.clone(), (wish, outcome));
        });
        self.crash.point().await;
        Ok(())
    }

    async fn watched(&self, grant: &GrantId, attempt: &AttemptId, at: Timestamp) -> Result<(), LogError> {
        self.crash.point().await;
        self.edit(grant, |record| {
            for known in record.attempts.iter_mut().filter(|known| known.id == *attempt) {
                known.watched_at = Some(at);
            }
        });
        self.crash.point().await;
        Ok(())
    }
}
