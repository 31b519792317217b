//! `--mode observe`: what would be done about a grant is said, and none of it is done.

use std::time::Duration;

use grantsmith_core::execute::Failure;
use grantsmith_core::plan::{Plan, Revocation, Step};
use grantsmith_core::{LicenseName, Reason};

use super::{Direct, state};
use crate::store::{GrantRow, GrantState, Progress};

/// When to look again at what would be created: whoever fulfils meanwhile may be about to.
const AGAIN: [Duration; 4] =
    [Duration::from_secs(5), Duration::from_secs(30), Duration::from_secs(300), Duration::from_secs(3_600)];

impl Direct {
    pub(super) fn rehearsed(&self, row: &GrantRow, plan: &Plan) -> Progress {
        let words = in_words(plan, row.email.is_some());
        let creates = plan.steps.iter().any(|step| matches!(step, Step::Create(..)));
        let tries = if creates { row.tries.saturating_add(1) } else { 0 };
        let again = AGAIN.get(usize::try_from(row.tries).unwrap_or(usize::MAX)).filter(|_| creates);
        let detail = (!words.is_empty()).then(|| format!("observed: would {}", words.join(", ")));
        if detail.is_some() && detail != row.detail {
            tracing::info!(purchase.id = %row.purchase, "would {}", words.join(", "));
        }
        // What waits is held: `grants list` shows it, and the first start in mode fulfil goes on with it.
        let waits = |reason: &Reason| !words.is_empty() || *reason == Reason::Issuing;
        let licenses: Vec<(LicenseName, Reason)> = plan
            .licenses
            .iter()
            .map(|(name, reason)| (name.clone(), if waits(reason) { Reason::Paused } else { *reason }))
            .collect();
        let first = licenses.first().map_or(Reason::Paused, |(_, reason)| *reason);
        Progress {
            id: row.id.clone(),
            state: if words.is_empty() { state(&licenses) } else { GrantState::Issuing },
            reason: if words.is_empty() { first } else { Reason::Paused },
            detail,
            licenses,
            due: again.map(|wait| self.after(*wait)),
            tries,
            deliver: false,
            sighting: None,
            at: self.now(),
        }
    }

    pub(super) fn not_rehearsed(&self, row: &GrantRow, failure: &Failure) -> Progress {
        let tries = row.tries.saturating_add(1);
        let wait = grantsmith_core::retry::delay(failure.class(), tries);
        tracing::warn!(reason = %failure.reason(), %failure, tries, "could not find out what would be done");
        Progress {
            id: row.id.clone(),
            state: GrantState::Issuing,
            reason: failure.reason(),
            detail: Some(failure.to_string()),
            licenses: row.licenses.iter().map(|l| (l.desired.name.clone(), failure.reason())).collect(),
            due: Some(self.after(wait)),
            tries,
            deliver: false,
            sighting: None,
            at: self.now(),
        }
    }
}

/// The steps as a seller reads them: `create main, mail it`.
fn in_words(plan: &Plan, mailable: bool) -> Vec<String> {
    let mut words = Vec::new();
    let mut mail = false;
    for step in &plan.steps {
        match step {
            Step::Create(name, ..) => {
                mail = true;
                words.push(format!("create {name}"));
            }
            Step::Adopt(kept) => words.push(format!("adopt {} ({})", kept.name, kept.key.masked())),
            Step::Revoke(key, Revocation::Declared(_)) => words.push(format!("revoke {}", key.masked())),
            Step::Revoke(key, Revocation::Surplus) => {
                words.push(format!("revoke the surplus {}", key.masked()));
            }
            Step::Reinstate(key) => words.push(format!("bring back {}", key.masked())),
            Step::Extend(key, Some(end)) => words.push(format!("set the end of {} to {end}", key.masked())),
            Step::Extend(key, None) => words.push(format!("take the end of {} away", key.masked())),
            Step::ResetDevices(_, key) => words.push(format!("unbind the devices of {}", key.masked())),
            Step::NoteRevokedElsewhere(_)
            | Step::NoteDuplicated(..)
            | Step::DropReset(_)
            | Step::Settle(..)
            | Step::Watched(..)
            | Step::Look(..) => {}
        }
    }
    if mail {
        let it = if mailable { "mail it" } else { "mail nothing, as no address is known" };
        words.push(it.to_owned());
    }
    words
}
