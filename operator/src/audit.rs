//! Compares all licenses with what AuthForge lists, app by app, now and then.
//!
//! One listing costs a call for each two hundred licenses. Absence in it is no evidence and changes nothing; an incomplete one
//! is not looked at. What differs is told, or taken for what is, so that the next plan brings it back within the laws.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use grantsmith_core::license::Fingerprint;
use grantsmith_core::port::{Change, Class, Clock, KeptState, LicenseApi, Listing, Moment, Priority};
use grantsmith_core::{AppId, License, LicenseStatus};
use jiff::{SignedDuration, Timestamp};
use metrics::{counter, gauge};

use crate::config::DriftPolicy;
use crate::index::{Index, Known, Place};
use crate::lease::Lease;
use crate::queue::Queue;
use crate::reconcile::Reconciler;

/// Expiries closer than this are the same: AuthForge may keep whole seconds.
const SAME_TIME: SignedDuration = SignedDuration::from_secs(1);

/// After an audit that could not be made.
const AGAIN: Duration = Duration::from_secs(60);

/// What an audit found of one license.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Of which license, as it was known then.
    pub known: Known,
    /// What differs, for its status; none if nothing does any more.
    pub drift: Option<String>,
    /// What is to be taken for what is.
    pub changes: Vec<Change>,
}

/// Compares all licenses now and then.
pub struct Audit {
    /// Takes in what is found.
    pub reconciler: Arc<Reconciler>,
    /// What is known.
    pub index: Arc<Index>,
    /// Whose turn it is.
    pub queue: Arc<Queue>,
    /// Remembers when the last one was.
    pub lease: Arc<Lease>,
    /// AuthForge.
    pub api: Arc<dyn LicenseApi>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// How often.
    pub every: Duration,
    /// What is done about what is found.
    pub policy: DriftPolicy,
    /// How far a listing may be behind.
    pub lag: Duration,
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Audit")
            .field("every", &self.every)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

impl Audit {
    /// Goes on for ever.
    pub async fn run(&self) {
        loop {
            if !self.lease.is_held() {
                // What differs is its holder's to tell.
                gauge!("grantsmith_drifted_licenses").set(0.0);
                self.lease.wait().await;
            }
            let now = self.clock.now().wall;
            let Some(last) = self.lease.audited_at() else {
                // Nothing was ever audited here: the first time is an interval from now, not at each start.
                self.lease.audited(now);
                continue;
            };
            let due = last.checked_add(self.every).unwrap_or(Timestamp::MAX);
            let wait = self.index.until(due);
            if !wait.is_zero() {
                // In pieces: a lease may be lost meanwhile, and a machine may sleep.
                tokio::time::sleep(wait.min(AGAIN)).await;
                continue;
            }
            if self.all().await {
                self.lease.audited(now);
            } else {
                tokio::time::sleep(AGAIN.min(self.every)).await;
            }
        }
    }

    /// One audit of everything. `false` if a part of it could not be made.
    async fn all(&self) -> bool {
        let mut whole = true;
        let mut drifted = 0_u32;
        // What nobody has acted on since the last one may be so no longer.
        self.reconciler.findings().clear();
        for app in self.index.apps() {
            let Some(id) = AppId::parse(&app) else { continue };
            let outcome = match self.api.list(&id, self.clock.now().moment, Priority::Audit).await {
                Ok(listing) if listing.is_complete() => {
                    drifted = drifted.saturating_add(self.compare(&app, &listing));
                    "Done"
                }
                Ok(_) => "Incomplete",
                Err(error) => {
                    tracing::warn!(app = %app, %error, "an audit could not be made");
                    match error.class {
                        Class::Unauthorized => "Unauthorized",
                        Class::RateLimited => "RateLimited",
                        Class::Transient
                        | Class::CreditsExhausted
                        | Class::Rejected
                        | Class::Refused
                        | Class::Gone
                        | Class::OutcomeUnknown => "Failed",
                    }
                }
            };
            whole &= outcome == "Done";
            counter!("grantsmith_audits_total", "outcome" => outcome).increment(1);
        }
        if whole {
            gauge!("grantsmith_drifted_licenses").set(f64::from(drifted));
        }
        whole
    }

    fn compare(&self, app: &str, listing: &Listing) -> u32 {
        let mut drifted = 0;
        // What has changed shortly before may not be listed as it is yet.
        let settled = Moment(listing.begun_at().0.saturating_sub(self.lag));
        for (place, known) in self.index.licenses(app, settled) {
            let fingerprint = Fingerprint::from_hex(known.fingerprint.to_string());
            match compare(&known, listing.of_key(&fingerprint), self.policy) {
                Compared::Same => {}
                Compared::Told => drifted += 1,
                Compared::Found(finding) => {
                    drifted += u32::from(finding.drift.is_some());
                    self.hand_over(&place, finding);
                }
            }
        }
        drifted
    }

    fn hand_over(&self, place: &Place, finding: Finding) {
        tracing::warn!(grant = %place, license.fingerprint = %finding.known.fingerprint, drift = finding.drift, "an audit's finding");
        self.reconciler.findings().entry(place.clone()).or_default().push(finding);
        self.index.touch(place);
        if let Some(turn) = self.index.turn(place) {
            self.queue.push(turn);
        }
    }
}

/// How a license compares.
enum Compared {
    /// It is as known.
    Same,
    /// It still differs, as its status says.
    Told,
    /// There is something to be done about it.
    Found(Finding),
}

fn compare(known: &Known, row: Option<&License>, policy: DriftPolicy) -> Compared {
    let repair = policy == DriftPolicy::Repair;
    let found = |drift: String, changes: Vec<Change>| {
        Compared::Found(Finding { known: known.clone(), drift: Some(drift), changes })
    };
    let silent =
        |changes: Vec<Change>| Compared::Found(Finding { known: known.clone(), drift: None, changes });
    let Some(row) = row else {
        let drift = "AuthForge does not list it any more".to_owned();
        return if known.drifted { Compared::Told } else { found(drift, Vec::new()) };
    };
    match (known.live, row.status) {
        // What somebody else revoked is theirs to bring back; from now on it counts as that.
        (true, LicenseStatus::Revoked) => {
            return silent(vec![Change::State(KeptState::RevokedElsewhere)]);
        }
        (false, LicenseStatus::Active) if repair => {
            let changes = vec![Change::State(KeptState::Live)];
            return found("it was live at AuthForge".to_owned(), changes);
        }
        (false, LicenseStatus::Active) if known.drifted => return Compared::Told,
        (false, LicenseStatus::Active) => return found("it is live at AuthForge".to_owned(), Vec::new()),
        (true, LicenseStatus::Active) | (false, LicenseStatus::Revoked) => {}
    }
    // An expiry that a row leaves out is not compared.
    let other = row.expires_at.filter(|there| {
        known.live && known.expires_at.is_none_or(|here| here.duration_since(*there).abs() > SAME_TIME)
    });
    match other {
        Some(there) if repair => {
            found(format!("it ended on {there} at AuthForge"), vec![Change::Expiry(Some(there))])
        }
        Some(_) if known.drifted => Compared::Told,
        Some(there) => found(format!("it ends on {there} at AuthForge"), Vec::new()),
        None if known.drifted => silent(Vec::new()),
        None => Compared::Same,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index;
    use grantsmith_core::LicenseKey;

    const KEY: &str = "ABCD-EFGH-JKLM-NPQR";

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn known(live: bool, expires_at: Option<i64>, drifted: bool) -> Known {
        let fingerprint =
            index::Fingerprint::parse(LicenseKey::new(KEY).fingerprint().as_str()).expect("hex");
        Known { fingerprint, live, expires_at: expires_at.map(at), drifted, app: "app-1".into() }
    }

    fn row(status: LicenseStatus, expires_at: Option<i64>) -> License {
        License {
            key: LicenseKey::new(KEY),
            app_id: AppId::parse("app-1").expect("an app"),
            status,
            expires_at: expires_at.map(at),
            slots: None,
            created_at: at(0),
            label: Some("Stripe session cs_1".to_owned()),
        }
    }

    /// Whether something is told, and what is taken for what is.
    fn found(known: &Known, row: Option<&License>, policy: DriftPolicy) -> Option<(bool, Vec<Change>)> {
        match compare(known, row, policy) {
            Compared::Same => None,
            Compared::Told => Some((true, Vec::new())),
            Compared::Found(finding) => Some((finding.drift.is_some(), finding.changes)),
        }
    }

    #[test]
    fn what_differs_is_told_once_and_repaired_if_it_may_be() {
        use DriftPolicy::{Repair, Report};
        use LicenseStatus::{Active, Revoked};
        let elsewhere = vec![Change::State(KeptState::RevokedElsewhere)];
        let live = vec![Change::State(KeptState::Live)];
        let ends = vec![Change::Expiry(Some(at(90)))];
        for (known, row, report, repair) in [
            (known(true, Some(50), false), Some(row(Active, Some(50))), None, None),
            (
                known(true, Some(50), true),
                Some(row(Active, Some(50))),
                Some((false, vec![])),
                Some((false, vec![])),
            ),
            (
                known(true, Some(50), false),
                Some(row(Active, Some(90))),
                Some((true, vec![])),
                Some((true, ends.clone())),
            ),
            (
                known(true, Some(50), true),
                Some(row(Active, Some(90))),
                Some((true, vec![])),
                Some((true, ends.clone())),
            ),
            (known(true, None, false), Some(row(Active, Some(90))), Some((true, vec![])), Some((true, ends))),
            // A row that leaves the expiry out says nothing about it.
            (known(true, Some(50), false), Some(row(Active, None)), None, None),
            (
                known(true, None, false),
                Some(row(Revoked, None)),
                Some((false, elsewhere.clone())),
                Some((false, elsewhere)),
            ),
            (known(false, None, false), Some(row(Active, None)), Some((true, vec![])), Some((true, live))),
            // The expiry of what is revoked matters to nobody.
            (known(false, Some(50), false), Some(row(Revoked, Some(90))), None, None),
            // Absence is no evidence: it is told, and changes nothing.
            (known(true, None, false), None, Some((true, vec![])), Some((true, vec![]))),
            (known(true, None, true), None, Some((true, vec![])), Some((true, vec![]))),
        ] {
            assert_eq!(found(&known, row.as_ref(), Report), report, "{known:?} {row:?}");
            assert_eq!(found(&known, row.as_ref(), Repair), repair, "{known:?} {row:?}");
        }
    }
}
