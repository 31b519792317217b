//! Core's executor over the engine's log: a crash before and after every call to it, and what is found after a restart.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use grantsmith_core::execute::{Executor, Report};
use grantsmith_core::license::{Fingerprint, LicenseStatus};
use grantsmith_core::plan::Policy;
use grantsmith_core::port::{
    Attempt, AttemptId, AttemptLog, Change, Kept, LogError, Outcome, Priority, Record, ResetId, ResetOutcome,
};
use grantsmith_core::testing::{FakeApi, Fault, World};
use grantsmith_core::{Grant, GrantId, Standing, retry};
use grantsmith_service::store::Store;
use tokio::sync::Notify;

use crate::Harness;
use crate::build::{decision, grant_id, purchase};

/// The log of a process that stops at the `at`-th place: two for each call, before and after it.
struct Stopping {
    store: Arc<dyn Store>,
    at: Option<usize>,
    passed: AtomicUsize,
    stopped: Arc<Notify>,
}

impl Stopping {
    async fn point(&self) {
        if self.at == Some(self.passed.fetch_add(1, Ordering::Relaxed)) {
            self.stopped.notify_one();
            pending::<()>().await;
        }
    }
}

/// Passes a call on, between two places to stop.
macro_rules! between {
    ($self:ident.$call:ident($($argument:expr),*)) => {{
        $self.point().await;
        let result = $self.store.$call($($argument),*).await;
        $self.point().await;
        result
    }};
}

#[async_trait]
impl AttemptLog for Stopping {
    async fn load(&self, grant: &GrantId) -> Result<Record, LogError> {
        between!(self.load(grant))
    }

    async fn open(&self, grant: &GrantId, version: u64, attempt: &Attempt) -> Result<(), LogError> {
        between!(self.open(grant, version, attempt))
    }

    async fn keep(&self, grant: &GrantId, license: &Kept) -> Result<(), LogError> {
        between!(self.keep(grant, license))
    }

    async fn settle(&self, grant: &GrantId, attempt: &AttemptId, outcome: &Outcome) -> Result<(), LogError> {
        between!(self.settle(grant, attempt, outcome))
    }

    async fn note(&self, grant: &GrantId, key: &Fingerprint, change: &Change) -> Result<(), LogError> {
        between!(self.note(grant, key, change))
    }

    async fn spend(
        &self,
        grant: &GrantId,
        key: &Fingerprint,
        at: jiff::Timestamp,
        budget: u32,
    ) -> Result<(), LogError> {
        between!(self.spend(grant, key, at, budget))
    }

    async fn reset(&self, grant: &GrantId, reset: &ResetId, outcome: ResetOutcome) -> Result<(), LogError> {
        between!(self.reset(grant, reset, outcome))
    }

    async fn watched(
        &self,
        grant: &GrantId,
        attempt: &AttemptId,
        at: jiff::Timestamp,
    ) -> Result<(), LogError> {
        between!(self.watched(grant, attempt, at))
    }
}

/// Works until nothing is left to do or to wait for; a process that stops is followed by another. Gives the number of
/// places that the first one passed.
async fn settle<H: Harness>(harness: &H, api: &FakeApi, grant: &Grant, at: Option<usize>) -> usize {
    let ids = Arc::new(AtomicUsize::new(0));
    let (mut at, mut first) = (at, None);
    for _ in 0..200 {
        let stopped = Arc::new(Notify::new());
        let passed = AtomicUsize::new(0);
        let log =
            Arc::new(Stopping { store: harness.open().await, at, passed, stopped: Arc::clone(&stopped) });
        let ids = Arc::clone(&ids);
        let process = Executor::new(
            Arc::new(api.clone()),
            Arc::clone(&log) as Arc<dyn AttemptLog>,
            Arc::new(harness.clock().clone()),
            Policy::default(),
            move || AttemptId(format!("attempt-{}", ids.fetch_add(1, Ordering::Relaxed))),
        );
        loop {
            let report: Report = tokio::select! {
                report = process.advance(grant, Priority::Buyer) => report,
                () = stopped.notified() => break,
            };
            first.get_or_insert(log.passed.load(Ordering::Relaxed));
            match (report.again, &report.failure) {
                (None, None) => return first.unwrap_or_default(),
                (again, failure) => {
                    let wait = failure.as_ref().map(|failure| retry::delay(failure.class(), 1));
                    harness.clock().advance(again.or(wait).unwrap_or_default());
                }
            }
        }
        at = None;
    }
    unreachable!("comes to rest");
}

async fn play<H: Harness>(fault: Option<Fault>, units: u32, at: Option<usize>) -> usize {
    let harness = H::fresh().await;
    let world = World::new();
    let api = world.api.clone();
    // One clock for AuthForge and the processes, so that the quarantine passes for both.
    harness.follow(&world);
    api.script([fault]);
    let store = harness.open().await;
    let ticket = store.ticket().await.expect("ticket");
    let decided = decision("cs_1", ticket, units, 0);
    let grant = Grant {
        purchase: purchase("cs_1"),
        paid_at: decided.paid_at,
        standing: Standing::Entitled,
        licenses: decided.licenses.clone(),
        released: false,
        dunning: None,
        look_again: None,
    };
    assert!(store.decide(decided).await.expect("decides"));
    drop(store);
    let places = settle(&harness, &api, &grant, at).await;

    let script = format!("{fault:?}, {units} units, stopped at {at:?}");
    let record = harness.open().await.load(&grant_id("cs_1")).await.expect("loads");
    let live = api.truth(|truth| {
        let live = truth.licenses.iter().filter(|license| license.status == LicenseStatus::Active);
        live.map(|license| license.key.clone()).collect::<Vec<_>>()
    });
    assert_eq!(record.licenses.len(), grant.licenses.len(), "one key kept a unit: {script}");
    assert_eq!(live.len(), grant.licenses.len(), "surplus of our own attempts is gone: {script}");
    assert!(record.licenses.iter().all(|kept| live.contains(&kept.key)), "the kept are the live: {script}");
    places
}

pub(crate) async fn a_crash_at_every_call_leaves_one_live_key<H: Harness>(_: H) {
    for (fault, units) in [(None, 2), (Some(Fault::LostAfter), 1), (Some(Fault::Duplicated), 1)] {
        let places = play::<H>(fault, units, None).await;
        assert!(places > 8, "a purchase passes load, open, keep and settle");
        for point in 0..places {
            play::<H>(fault, units, Some(point)).await;
        }
    }
}
