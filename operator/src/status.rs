//! What a grant's status says, and what it tells about what is left to do: pure.

use std::time::Duration;

use grantsmith_core::execute::{Failure, Report};
use grantsmith_core::grant::DesiredState;
use grantsmith_core::port::{Class, Now};
use grantsmith_core::{Grant, Reason, retry};
use grantsmith_crd::{
    AttemptOutcome, DeletionPolicy, FINALIZER, LicenseGrant, LicenseGrantStatus, LicenseStatus, READY,
    RECONCILING, STALLED,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::validate::Held;

/// A Secret that belongs to something else is nothing we watch.
const TAKEN_AGAIN: Duration = Duration::from_secs(30);

/// Tries are counted as long as they change the wait.
const MOST_TRIES: i32 = 10;

/// What is left to do about a grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// Nothing, until something changes.
    Settled,
    /// Something, at this time.
    At(Timestamp),
    /// Something.
    Now,
}

/// The licenses that exist, as the status tells.
pub fn kept(grant: &LicenseGrant) -> impl Iterator<Item = &LicenseStatus> {
    grant.status.iter().flat_map(|status| &status.licenses)
}

/// Whether a license was made or found for the grant, or a request sent for one.
pub fn is_tried(grant: &LicenseGrant) -> bool {
    grant.status.as_ref().is_some_and(|status| !status.licenses.is_empty() || !status.attempts.is_empty())
}

/// Whether nobody knows what became of a request.
pub fn is_unclear(grant: &LicenseGrant) -> bool {
    let mut attempts = grant.status.iter().flat_map(|status| &status.attempts);
    attempts.any(|attempt| attempt.outcome == AttemptOutcome::Open)
}

/// Whether a finalizer of ours holds the grant.
pub fn is_held_back(grant: &LicenseGrant) -> bool {
    grant.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER)
}

/// What is left to do about a grant, told by itself alone. `first` if this process has not seen it before: how long an
/// unclear request has been unclear is counted from then.
pub fn rest(grant: &LicenseGrant, first: bool) -> Rest {
    let leaving = grant.metadata.deletion_timestamp.is_some();
    let guarded = grant.spec.deletion_policy == DeletionPolicy::Revoke;
    match &grant.status {
        _ if leaving && !is_held_back(grant) => Rest::Settled,
        _ if !leaving && guarded != is_held_back(grant) => Rest::Now,
        _ if first && (leaving || is_unclear(grant) || is_somebody_elses(grant)) => Rest::Now,
        Some(status) if status.observed_generation == grant.metadata.generation => {
            status.next_retry.map_or(Rest::Settled, Rest::At)
        }
        Some(_) | None => Rest::Now,
    }
}

/// Whether a grant waits for something outside of it, which may have come about while nobody watched.
fn is_somebody_elses(grant: &LicenseGrant) -> bool {
    let waits = grant.status.as_ref().is_some_and(|status| status.next_retry.is_none());
    waits && matches!(reason(grant), Some(Reason::DuplicatePurchase | Reason::Rejected))
}

/// The reason that a grant shows.
pub fn reason(grant: &LicenseGrant) -> Option<Reason> {
    grant.status.as_ref().and_then(|status| ready(status)?.reason.parse().ok())
}

fn ready(status: &LicenseGrantStatus) -> Option<&Condition> {
    status.conditions.iter().find(|condition| condition.type_ == READY)
}

/// What a reason says about its grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// As declared.
    Ready,
    /// Left alone, as somebody wished.
    Paused,
    /// Under way.
    Reconciling,
    /// For a person.
    Stalled,
}

/// What a reason says about its grant.
pub fn weight(reason: Reason) -> Weight {
    match reason {
        Reason::RevokedElsewhere
        | Reason::BeforeStart
        | Reason::ChangeNotSupported
        | Reason::DuplicateLicenses
        | Reason::DuplicatePurchase
        | Reason::KeyNotFound
        | Reason::Rejected
        | Reason::ReinstateRefused
        | Reason::SecretNameTaken
        | Reason::ShortenRefused => Weight::Stalled,
        Reason::Issuing
        | Reason::OutcomeUnknown
        | Reason::RateLimited
        | Reason::CreditsExhausted
        | Reason::Unauthorized
        | Reason::AuthForgeUnavailable
        | Reason::RevocationHeld => Weight::Reconciling,
        Reason::Paused => Weight::Paused,
        _ => Weight::Ready,
    }
}

/// Where a grant stands after somebody has looked at it.
#[derive(Debug, Clone)]
pub struct Standing {
    /// The reason to show.
    pub reason: Reason,
    /// A sentence for whoever reads the grant.
    pub message: String,
    /// When to come back, if not for a change.
    pub again: Option<Duration>,
    /// Whether `again` grows with each failure in a row.
    pub failed: bool,
    /// Whether `again` is AuthForge's wish, or that of what is known of all calls to it: then it is no matter of this grant's.
    pub shared: bool,
}

impl Standing {
    /// A grant that is left alone.
    pub fn held(held: Held) -> Self {
        let again = (held.reason == Reason::SecretNameTaken).then_some(TAKEN_AGAIN);
        Self { reason: held.reason, message: held.message, again, failed: false, shared: false }
    }

    /// A grant that something kept from being worked on.
    pub fn failed(failure: &Failure, again: Option<Duration>, tries: i32) -> Self {
        let own = || retry::delay(failure.class(), u32::try_from(tries.saturating_add(1)).unwrap_or(1));
        Self {
            reason: failure.reason(),
            message: format!("{failure}; {}", advice(failure)),
            again: Some(again.unwrap_or_else(own)),
            failed: true,
            shared: again.is_some(),
        }
    }

    /// A grant after a round of work.
    pub fn of(report: &Report, declared: &Grant, tries: i32, now: Now) -> Self {
        let worst = report.licenses.iter().map(|(_, reason)| *reason).max_by_key(|reason| {
            // Of what is as declared, what is out of the ordinary is told.
            (weight(*reason), *reason != Reason::Issued)
        });
        let reason = worst.unwrap_or(Reason::Issued);
        if let Some(failure) = &report.failure {
            let failed = Self::failed(failure, report.again, tries);
            return if weight(reason) > weight(failed.reason) { Self { reason, ..failed } } else { failed };
        }
        let live = declared.licenses.iter().filter(|license| license.state == DesiredState::Active);
        let ends = live.filter_map(|license| license.expires_at).filter(|end| *end > now.wall).min();
        let until_end = ends.map(|end| end.duration_since(now.wall).unsigned_abs());
        Self {
            reason,
            message: told(report),
            again: report.again.into_iter().chain(until_end).min(),
            failed: false,
            shared: false,
        }
    }
}

/// Each license with its reason, and what somebody can do.
fn told(report: &Report) -> String {
    let worst = report.licenses.iter().map(|(_, reason)| *reason).max_by_key(|reason| weight(*reason));
    let mut groups: Vec<(Reason, Vec<&str>)> = Vec::new();
    for (name, reason) in &report.licenses {
        match groups.iter_mut().find(|(known, _)| known == reason) {
            Some((_, names)) => names.push(name.as_str()),
            None => groups.push((*reason, vec![name.as_str()])),
        }
    }
    let mut text = String::new();
    for (reason, names) in &groups {
        if !text.is_empty() {
            text.push_str("; ");
        }
        text.push_str(reason.as_str());
        text.push_str(": ");
        text.push_str(&names.join(", "));
    }
    if let Some(fix) = worst.and_then(fix) {
        text.push_str(". ");
        text.push_str(fix);
    }
    text
}

/// What a person can do about a reason that waits for one.
fn fix(reason: Reason) -> Option<&'static str> {
    match reason {
        Reason::RevokedElsewhere => Some(
            "Somebody revoked it at AuthForge, or deleted it there; set spec.override.state: Active to bring it back, or raise \
             its generation to replace it",
        ),
        Reason::DuplicateLicenses => Some(
            "Another live license carries the same label, or is the one to adopt; revoke the one that nobody uses at AuthForge, or \
             take adopt away",
        ),
        Reason::KeyNotFound => Some(
            "Its app has no license of the fingerprint that adopt gives, or one that was sold to somebody else; import the right key, \
             or in a grant that you declare correct adopt; raise its generation to have a new key made",
        ),
        Reason::ReinstateRefused => {
            Some("AuthForge will not bring it back; raise its generation to replace it by a new key")
        }
        Reason::ShortenRefused => {
            Some("AuthForge will not bring its expiry forward; it is revoked at that time instead")
        }
        Reason::RevocationHeld => Some(
            "The hourly budget for revocations is spent; it goes on by itself, or at once with spec.override.release: true",
        ),
        Reason::OutcomeUnknown => Some(
            "The answer of a create was lost; AuthForge is searched until it is found or surely not there",
        ),
        _ => None,
    }
}

/// What a person can do about a failure.
fn advice(failure: &Failure) -> &'static str {
    if let Failure::Taken(_) = failure {
        return "import the right key, or in a grant that you declare correct adopt, or delete the other grant";
    }
    match failure.class() {
        Class::Transient => "tried again by itself",
        Class::RateLimited => "slowed down by itself; another program may use the same API key",
        Class::CreditsExhausted => "top up the AuthForge account; it goes on by itself",
        Class::Unauthorized => "put a valid AuthForge API key in place; it is read again by itself",
        Class::Rejected => "check the appId, and that the API key's account owns that app",
        Class::Refused => {
            "AuthForge will not do that to this license; raise its generation to replace it by a new key"
        }
        Class::Gone => {
            "somebody deleted it at AuthForge, or the API key is another account's; once that is sure, withdraw or replace it by hand"
        }
        Class::OutcomeUnknown => "looked for by itself until it is found or surely absent",
    }
}

/// Writes where a grant stands into its status.
pub fn write(grant: &mut LicenseGrant, standing: &Standing, now: Now) {
    let secret = grant.secret_name();
    let generation = grant.metadata.generation;
    let declared = &grant.spec.licenses;
    let wanted = |license: &&LicenseStatus| declared.iter().any(|entry| license.is_of(entry));
    let status = grant.status.get_or_insert_default();
    let issued = status.licenses.iter().filter(wanted).count();
    status.issued = Some(format!("{issued}/{}", declared.len()));
    status.expires = expires(status.licenses.iter().filter(wanted));
    status.purchase = grant.spec.purchase.id.clone().or_else(|| grant.spec.purchase.reference.clone());
    status.secret_name = (!status.licenses.is_empty()).then_some(secret);
    let before = ready(status).map(|condition| condition.reason.clone());
    let stays =
        before.as_deref() == Some(standing.reason.as_str()) && status.observed_generation == generation;
    // Whoever waits for all of AuthForge is told when by the queue; a write for each of thousands would say nothing new.
    if !(standing.shared && stays && status.next_retry.is_some()) {
        status.next_retry = standing.again.map(|wait| whole_second(now.wall, wait));
    }
    status.tries = match (standing.failed, standing.shared) {
        (true, false) => Some(status.tries.unwrap_or(0).saturating_add(1).min(MOST_TRIES)),
        (true, true) => status.tries,
        (false, _) => None,
    };
    status.observed_generation = generation;
    let weight = weight(standing.reason);
    let bool = |truth: bool| if truth { "True" } else { "False" };
    let is_ready = if weight == Weight::Paused { "Unknown" } else { bool(weight == Weight::Ready) };
    for (type_, value) in [
        (READY, is_ready),
        (RECONCILING, bool(weight == Weight::Reconciling)),
        (STALLED, bool(weight == Weight::Stalled)),
    ] {
        let condition = Condition {
            type_: type_.to_owned(),
            status: value.to_owned(),
            reason: standing.reason.to_string(),
            message: standing.message.clone(),
            observed_generation: generation,
            last_transition_time: Time(whole_second(now.wall, Duration::ZERO)),
        };
        set(&mut status.conditions, condition);
    }
}

fn set(conditions: &mut Vec<Condition>, mut fresh: Condition) {
    match conditions.iter_mut().find(|condition| condition.type_ == fresh.type_) {
        Some(known) => {
            if known.status == fresh.status {
                fresh.last_transition_time = known.last_transition_time.clone();
            }
            *known = fresh;
        }
        None => conditions.push(fresh),
    }
}

/// When the first of the licenses ends. A table shows it, so it is a day, or a word.
fn expires<'a>(licenses: impl Iterator<Item = &'a LicenseStatus>) -> Option<String> {
    let mut ends: Vec<Option<Timestamp>> = licenses.map(|license| license.expires_at).collect();
    ends.sort_by_key(|end| end.unwrap_or(Timestamp::MAX));
    ends.first().map(|end| end.map_or_else(|| "never".to_owned(), |end| end.strftime("%Y-%m-%d").to_string()))
}

/// A time in whole seconds, as Kubernetes keeps it, and not before it is due.
fn whole_second(now: Timestamp, wait: Duration) -> Timestamp {
    let at = now.checked_add(wait).unwrap_or(Timestamp::MAX);
    let second =
        if at.subsec_nanosecond() > 0 && !wait.is_zero() { at.as_second() + 1 } else { at.as_second() };
    Timestamp::from_second(second).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use grantsmith_core::port::Moment;
    use serde_json::{Value, json};

    fn grant(status: &Value) -> LicenseGrant {
        serde_json::from_value(json!({
            "apiVersion": "grantsmith.dev/v1alpha1",
            "kind": "LicenseGrant",
            "metadata": {"name": "g", "namespace": "licenses", "generation": 2},
            "spec": {"purchase": {"provider": "stripe", "id": "cs_1"}, "licenses": [{"name": "main", "appId": "a"}]},
            "status": status,
        }))
        .expect("a grant")
    }

    fn now(second: i64) -> Now {
        Now { wall: Timestamp::from_second(second).expect("a time"), moment: Moment::default() }
    }

    fn standing(reason: Reason, again: Option<u64>, failed: bool, shared: bool) -> Standing {
        let again = again.map(Duration::from_secs);
        Standing { reason, message: "as it stands".to_owned(), again, failed, shared }
    }

    #[test]
    fn conditions_tell_ready_from_under_way_from_stalled() {
        for (reason, shown) in [
            (Reason::Issued, ["True", "False", "False"]),
            (Reason::Refunded, ["True", "False", "False"]),
            (Reason::Expired, ["True", "False", "False"]),
            (Reason::OutcomeUnknown, ["False", "True", "False"]),
            (Reason::RevocationHeld, ["False", "True", "False"]),
            (Reason::SecretNameTaken, ["False", "False", "True"]),
            (Reason::Paused, ["Unknown", "False", "False"]),
        ] {
            let mut grant = grant(&json!({}));
            write(&mut grant, &standing(reason, None, false, false), now(100));
            let status = grant.status.expect("a status");
            let found = [READY, RECONCILING, STALLED].map(|kind| {
                let condition = status.conditions.iter().find(|condition| condition.type_ == kind);
                condition.expect("a condition").status.clone()
            });
            assert_eq!(found, shown, "{reason}");
        }
    }

    #[test]
    fn what_is_written_again_is_the_same_and_times_are_those_of_transitions() {
        let mut grant = grant(&json!({}));
        write(&mut grant, &standing(Reason::Issued, None, false, false), now(100));
        let first = grant.status.clone();
        write(&mut grant, &standing(Reason::Issued, None, false, false), now(200));
        assert_eq!(grant.status, first, "nothing to write");
        write(&mut grant, &standing(Reason::Unauthorized, Some(5), true, true), now(300));
        let times = grant
            .status
            .iter()
            .flat_map(|status| &status.conditions)
            .map(|condition| condition.last_transition_time.0.as_second());
        assert_eq!(times.collect::<Vec<_>>(), [300, 300, 100], "it is stalled no more than before");
    }

    #[test]
    fn failures_are_counted_and_what_holds_for_all_is_written_once() {
        let mut grant = grant(&json!({}));
        let next = |grant: &LicenseGrant| {
            let status = grant.status.as_ref().expect("a status");
            (status.next_retry.map(Timestamp::as_second), status.tries)
        };
        write(&mut grant, &standing(Reason::Rejected, Some(15), true, false), now(100));
        assert_eq!(next(&grant), (Some(115), Some(1)));
        write(&mut grant, &standing(Reason::Rejected, Some(30), true, false), now(115));
        assert_eq!(next(&grant), (Some(145), Some(2)));
        write(&mut grant, &standing(Reason::Unauthorized, Some(60), true, true), now(145));
        let paused = grant.status.clone();
        write(&mut grant, &standing(Reason::Unauthorized, Some(60), true, true), now(205));
        assert_eq!(grant.status, paused, "thousands that wait for one key are not written each minute");
        write(&mut grant, &standing(Reason::Issued, None, false, false), now(265));
        assert_eq!(next(&grant), (None, None));
    }

    #[test]
    fn what_is_left_to_do_is_told_by_the_grant_alone() {
        let settled = json!({"observedGeneration": 2});
        let unclear = json!({"observedGeneration": 2, "nextRetry": "2030-01-01T00:00:00Z", "attempts": [{
            "id": "a", "license": "main", "generation": 1, "openedAt": "2026-01-01T00:00:00Z", "outcome": "Open",
        }]});
        let at = Rest::At("2030-01-01T00:00:00Z".parse().expect("a time"));
        assert_eq!(rest(&grant(&json!({})), false), Rest::Now);
        assert_eq!(rest(&grant(&json!({"observedGeneration": 1})), false), Rest::Now, "the spec has changed");
        assert_eq!(rest(&grant(&settled), true), Rest::Settled);
        assert_eq!(rest(&grant(&unclear), false), at);
        assert_eq!(rest(&grant(&unclear), true), Rest::Now, "its quarantine counts from now");
        let mut leaving = grant(&settled);
        leaving.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        assert_eq!(rest(&leaving, true), Rest::Settled, "it goes by itself");
        let mut guarded = grant(&settled);
        guarded.spec.deletion_policy = DeletionPolicy::Revoke;
        assert_eq!(rest(&guarded, false), Rest::Now, "it could go unguarded");
    }
}
