//! A grant is brought to what it declares, in this process.

use std::time::Duration;

use grantsmith_core::execute::{Failure, Report};
use grantsmith_core::grant::{DesiredState, Standing};
use grantsmith_core::port::{Class, KeptState, Priority};
use grantsmith_core::{Grant, GrantId, Reason, retry};
use metrics::{counter, histogram};
use tracing::Instrument;

use super::Worker;
use crate::store::{GrantLicense, GrantRow, GrantState, Progress};

impl Worker {
    /// The first round of work after a decision, unless that changed nothing.
    pub(super) async fn begin(&self, id: &GrantId) {
        if matches!(self.store.grant(id).await, Ok(Some(row)) if row.state == GrantState::Issuing) {
            self.work(id).await;
        }
    }

    /// One round of work on one grant.
    pub(super) async fn work(&self, id: &GrantId) {
        let span = tracing::info_span!("issue", grant.id = %id);
        if let Err(error) = self.round(id).instrument(span).await {
            tracing::warn!(grant.id = %id, %error, "the record failed in a round of work");
            tokio::time::sleep(super::BREATHER).await;
        }
    }

    async fn round(&self, id: &GrantId) -> Result<(), crate::store::Error> {
        let Some(row) = self.store.grant(id).await? else { return Ok(()) };
        let grant = declared(&row);
        let priority = priority(&row);
        if self.observe {
            let progress = self.rehearse(&row, &grant).await;
            return self.store.progress(progress, row.decided).await;
        }
        let report = self.executor.advance(&grant, priority).await;
        if let Some(Failure::Log(error)) = &report.failure {
            tracing::warn!(%error, "the record failed in a round of work");
            tokio::time::sleep(super::BREATHER).await;
            return Ok(());
        }
        let outcome = report.failure.as_ref().map_or("done", |failure| failure.reason().as_str());
        counter!("grantsmith_rounds_total", "outcome" => outcome).increment(1);
        // Read again: the executor has written, and what is delivered is what is kept.
        let Some(after) = self.store.grant(id).await? else { return Ok(()) };
        let progress = self.progress(&row, &after, &report);
        if progress.state == GrantState::Ready && row.state != GrantState::Ready {
            tracing::info!(reason = %progress.reason, licenses = after.licenses.len(), "ready");
            let since = self.now().duration_since(row.paid_at.unwrap_or(row.created).max(row.created));
            histogram!("grantsmith_issue_seconds").record(since.as_secs_f64().max(0.0));
        }
        self.store.progress(progress, row.decided).await
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

pub(super) fn state(licenses: &[(grantsmith_core::LicenseName, Reason)]) -> GrantState {
    let any = |wanted: u8| licenses.iter().any(|(_, reason)| weight(*reason) == wanted);
    if any(3) {
        GrantState::Parked
    } else if any(2) {
        GrantState::Issuing
    } else {
        GrantState::Ready
    }
}

/// How much a license's reason says about its grant: 0 as declared, 2 under way, 3 for a person.
fn weight(reason: Reason) -> u8 {
    match reason {
        Reason::RevokedElsewhere
        | Reason::BeforeStart
        | Reason::DuplicateLicenses
        | Reason::ReinstateRefused
        | Reason::ShortenRefused => 3,
        Reason::Issuing
        | Reason::OutcomeUnknown
        | Reason::RateLimited
        | Reason::CreditsExhausted
        | Reason::Unauthorized
        | Reason::Rejected
        | Reason::AuthForgeUnavailable
        | Reason::RevocationHeld => 2,
        Reason::Issued => 0,
        _ => 1,
    }
}

/// Whether somebody waits for a mail: who makes a grant without an address hands the keys over, while one at Stripe always has
/// a buyer, and a missing address is worth an alarm.
fn addressed(row: &GrantRow) -> bool {
    row.email.is_some() || row.purchase.stripe_id().is_some()
}

/// Whether every license that should be live is, and one was made by us: then its buyer is owed a mail. A key that the guide's
/// own code made was handed over by that code.
fn deliverable(licenses: &[GrantLicense]) -> bool {
    let wanted = licenses.iter().filter(|license| license.desired.state == DesiredState::Active);
    let live =
        |license: &GrantLicense| license.kept.as_ref().is_some_and(|kept| kept.state == KeptState::Live);
    let ours = |license: &GrantLicense| license.kept.as_ref().is_some_and(|kept| kept.attempt.is_some());
    wanted.clone().all(live) && wanted.clone().any(ours)
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
        Class::OutcomeUnknown => "looked for by itself until it is found or surely absent",
    };
    format!("{failure}; {advice}")
}
