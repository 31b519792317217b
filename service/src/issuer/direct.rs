//! The executor in this process: its log is the record, which holds the keys too.

mod rehearse;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use grantsmith_core::execute::{Executor, Failure, Report};
use grantsmith_core::grant::{DesiredState, Standing};
use grantsmith_core::port::{Class, Clock, Priority};
use grantsmith_core::{Grant, GrantId, retry};
use jiff::Timestamp;
use metrics::counter;

use super::{Issuer, Unlocked, addressed, deliverable, state, weight};
use crate::store::{Error, GrantLicense, GrantRow, GrantState, Progress, Store};
use crate::worker::Touched;

/// Issues in this process.
pub struct Direct {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    executor: Executor,
}

impl std::fmt::Debug for Direct {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Direct").finish_non_exhaustive()
    }
}

#[async_trait]
impl Issuer for Direct {
    async fn work(&self, row: &GrantRow) -> Result<Option<Progress>, Error> {
        let report = self.executor.advance(&declared(row), priority(row)).await;
        if let Some(Failure::Log(error)) = &report.failure {
            return Err(Error::Unavailable(error.to_string()));
        }
        let outcome = report.failure.as_ref().map_or("done", |failure| failure.reason().as_str());
        counter!("grantsmith_rounds_total", "outcome" => outcome).increment(1);
        // Read again: the executor has written, and what is delivered is what is kept.
        let after = self.store.grant(&row.id).await?;
        Ok(after.map(|after| self.progress(row, &after, &report)))
    }

    async fn rehearse(&self, row: &GrantRow) -> Progress {
        match self.executor.rehearse(&declared(row), Priority::Audit).await {
            Ok(plan) => self.rehearsed(row, &plan),
            Err(failure) => self.not_rehearsed(row, &failure),
        }
    }

    async fn unlock(&self, row: GrantRow) -> Result<Unlocked, Error> {
        Ok(Unlocked { row, whole: true })
    }

    /// The record itself tells.
    fn delivered(&self, _: &GrantId, _: &Touched) {}
}

impl Direct {
    /// Over a record, by an executor whose log it is.
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>, executor: Executor) -> Self {
        Self { store, clock, executor }
    }

    fn now(&self) -> Timestamp {
        self.clock.now().wall
    }

    fn after(&self, wait: Duration) -> Timestamp {
        self.now().checked_add(wait).unwrap_or(Timestamp::MAX)
    }

    fn progress(&self, before: &GrantRow, after: &GrantRow, report: &Report) -> Progress {
        let tries = if report.failure.is_some() { before.tries.saturating_add(1) } else { 0 };
        let worst = report.licenses.iter().map(|(_, reason)| *reason).max_by_key(|reason| weight(*reason));
        let reason = worst.unwrap_or(after.reason);
        let detail = report.failure.as_ref().map(|failure| {
            tracing::warn!(reason = %failure.reason(), %failure, tries, "stopped");
            fix(failure)
        });
        Progress {
            id: after.id.clone(),
            state: state(&report.licenses),
            reason,
            detail,
            licenses: report.licenses.clone(),
            due: wait(report, tries).map(|wait| self.after(wait)),
            tries,
            deliver: report.failure.is_none() && addressed(after) && deliverable(&after.licenses),
            sighting: None,
            at: self.now(),
        }
    }
}

/// Who waits for the round.
fn priority(row: &GrantRow) -> Priority {
    if row.state == GrantState::Ready {
        // Nobody: it is about what attempts may have made besides.
        return Priority::Audit;
    }
    let wanted = |license: &&GrantLicense| license.desired.state == DesiredState::Active;
    if row.licenses.iter().filter(wanted).any(|license| license.kept.is_none()) {
        Priority::Buyer
    } else if row.licenses.iter().all(|license| wanted(&license)) {
        Priority::Renewal
    } else {
        Priority::Refund
    }
}

/// The grant as core knows it.
fn declared(row: &GrantRow) -> Grant {
    Grant {
        purchase: row.purchase.clone(),
        paid_at: row.paid_at,
        standing: Standing::Entitled,
        licenses: row.licenses.iter().map(|license| license.desired.clone()).collect(),
        released: row.hand.as_ref().is_some_and(|hand| hand.released),
        dunning: None,
        look_again: None,
    }
}

/// When to come back.
fn wait(report: &Report, tries: u32) -> Option<Duration> {
    match &report.failure {
        Some(failure) => Some(report.again.unwrap_or_else(|| retry::delay(failure.class(), tries))),
        None => report.again,
    }
}

/// What a person can do about a failure.
fn fix(failure: &Failure) -> String {
    let advice = match failure.class() {
        Class::Transient => "tried again by itself",
        Class::RateLimited => "slowed down by itself; another program may use the same API key",
        Class::CreditsExhausted => "top up the AuthForge account; the work is kept and goes on by itself",
        Class::Unauthorized => "put a valid AuthForge API key in place; it is read again by itself",
        Class::Rejected => {
            "check the app id in the purchase's metadata and that the API key's account owns the app"
        }
        Class::Refused => "AuthForge will not do that to this license; replace it, or change it there",
        Class::Gone => {
            "somebody deleted the license at AuthForge, or the API key is another account's; once that is sure, revoke or replace it by hand"
        }
        Class::OutcomeUnknown => "looked for by itself until it is found or surely absent",
    };
    format!("{failure}; {advice}")
}
