//! Between a grant on record and its `LicenseGrant`: pure.

use std::collections::{BTreeMap, BTreeSet};

use grantsmith_core::grant::DesiredState;
use grantsmith_core::license::{Fingerprint, LicenseKey};
use grantsmith_core::port::ResetOutcome;
use grantsmith_core::{GrantId, LicenseName, PurchaseId, Reason};
use grantsmith_crd::{
    DeclaredLicense, Delivery, LicenseGrant, LicenseGrantStatus, LicenseStatus, Override, Purchase, READY,
    STALLED, State,
};
use jiff::Timestamp;
use kube::ResourceExt as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::issuer::{addressed, deliverable, weight};
use crate::store::{
    Act, Declaration, DevicesReset, GrantLicense, GrantRow, GrantState, HandRow, Progress, Resource, Seen,
    Shown, Sighting,
};

/// Who writes the fields of grants that this program declares.
pub(super) const MANAGER: &str = "grantsmith-server";

/// What the grants of this program are labeled with.
const LABEL: (&str, &str) = ("app.kubernetes.io/managed-by", MANAGER);

/// The licenses whose keys the mail server has taken, as `NAME.GENERATION`: what a new record must know so as not to mail them
/// again.
const DELIVERED: &str = "grantsmith.dev/delivered";

/// The longest reason and name of a person in an override.
const LONGEST_REASON: usize = 256;
const LONGEST_PERSON: usize = 128;

/// What of an override counts: who wrote it and why does not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ruling {
    state: Option<State>,
    end: Option<End>,
    released: bool,
}

/// When all licenses end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum End {
    Never,
    At(Timestamp),
}

impl End {
    fn of(expires_at: Option<Timestamp>) -> Self {
        expires_at.map_or(Self::Never, Self::At)
    }

    fn expires_at(self) -> Option<Timestamp> {
        match self {
            Self::Never => None,
            Self::At(at) => Some(at),
        }
    }
}

/// What the record and an object agreed upon last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Agreed {
    /// Which object: another one of the same name never agreed to anything.
    uid: String,
    ruling: Option<Ruling>,
    /// What this program has set out to write since. It may be there though nobody noted that it is: the process died, or the
    /// grant was decided anew meanwhile.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    writing: Vec<Option<Ruling>>,
}

impl Agreed {
    /// That both sides say what an object says.
    fn of(found: &LicenseGrant) -> Option<Self> {
        let ruling = Ruling::of(found.spec.hand.as_ref());
        Some(Self { uid: found.uid()?, ruling, writing: Vec::new() })
    }

    /// What was last agreed upon with this very object.
    fn with(row: &GrantRow, found: &LicenseGrant) -> Option<Self> {
        let agreed = row.agreed.as_deref().and_then(|agreed| serde_json::from_str::<Self>(agreed).ok());
        agreed.filter(|agreed| Some(&agreed.uid) == found.metadata.uid.as_ref())
    }

    /// Whether what is there needs nobody else to have written it.
    fn explains(&self, theirs: Option<&Ruling>) -> bool {
        theirs == self.ruling.as_ref() || self.writing.iter().any(|ours| theirs == ours.as_ref())
    }
}

/// Whose override counts.
#[derive(Debug, Clone)]
pub(super) enum Verdict {
    /// Both say the same.
    Same,
    /// Somebody has changed the object: the record takes it over.
    TakeIn(Box<Act>),
    /// The record was changed: the object takes it over.
    Write,
}

/// The name of a grant's object.
pub(super) fn name(row: &GrantRow) -> &str {
    row.object.as_ref().map_or(row.id.as_str(), |object| &object.name)
}

/// The name of the Secret with a grant's keys.
pub(super) fn secret(row: &GrantRow) -> String {
    row.object
        .as_ref()
        .map_or_else(|| grantsmith_crd::secret_of(row.id.as_str()), |object| object.secret.clone())
}

/// Which grant an object is; none if nothing can be made of it.
pub(super) fn purchase(grant: &LicenseGrant, installation: &str) -> Option<PurchaseId> {
    grant.spec.purchase.purchase_id(installation).ok()
}

/// Whether an object is the one that this program declares a grant by.
pub(super) fn is_ours(grant: &LicenseGrant, id: &GrantId) -> bool {
    grant.metadata.name.as_deref() == Some(id.as_str())
        && grant.labels().get(LABEL.0).is_some_and(|manager| manager == LABEL.1)
}

/// The fields that this program declares, on top of what is there.
pub(super) fn manifest(row: &GrantRow, found: Option<&LicenseGrant>) -> Value {
    // Fixed when it was made, and never to be made anew from what Stripe tells later.
    let purchase = found.map_or_else(
        || Purchase::of(&row.purchase, row.paid_at, row.livemode),
        |found| found.spec.purchase.clone(),
    );
    let mut metadata = json!({"name": row.id.as_str(), "labels": {LABEL.0: LABEL.1}});
    let delivered = delivered(row, found);
    if !delivered.is_empty() {
        let names: Vec<_> = delivered.into_iter().collect();
        metadata["annotations"] = json!({DELIVERED: names.join(",")});
    }
    json!({
        "apiVersion": "grantsmith.dev/v1alpha1",
        "kind": "LicenseGrant",
        "metadata": metadata,
        "spec": {
            "purchase": purchase,
            "licenses": licenses(row, found),
            "delivery": Delivery::Mail,
            "secretName": secret(row),
        },
    })
}

/// The change that takes away what others have added to the licenses of an object. Applying leaves alone what is not ours.
pub(super) fn purge(row: &GrantRow, found: &LicenseGrant) -> Value {
    let version = found.metadata.resource_version.as_ref();
    json!({"metadata": {"resourceVersion": version}, "spec": {"licenses": licenses(row, Some(found))}})
}

/// The change that tells an object of people which of its keys were mailed; none if it tells that.
pub(super) fn marking(row: &GrantRow, found: &LicenseGrant) -> Option<Value> {
    let delivered = delivered(row, Some(found));
    if delivered == marks(found).collect() {
        return None;
    }
    let names: Vec<_> = delivered.into_iter().collect();
    Some(json!({"metadata": {"annotations": {DELIVERED: names.join(",")}}}))
}

/// Whether an object says what this program would declare.
pub(super) fn is_declared(row: &GrantRow, found: &LicenseGrant) -> bool {
    let marks: BTreeSet<String> = marks(found).collect();
    is_ours(found, &row.id)
        && found.spec.delivery == Delivery::Mail
        && found.secret_name() == secret(row)
        && found.spec.licenses == licenses(row, Some(found))
        && marks == delivered(row, Some(found))
}

fn licenses(row: &GrantRow, found: Option<&LicenseGrant>) -> Vec<DeclaredLicense> {
    let known: BTreeMap<&str, &DeclaredLicense> = found
        .iter()
        .flat_map(|found| &found.spec.licenses)
        .map(|license| (license.name.as_str(), license))
        .collect();
    let by_hand = row.hand.as_ref().and_then(|hand| hand.state) == Some(DesiredState::Active);
    let mut licenses: Vec<DeclaredLicense> = row
        .licenses
        .iter()
        .map(|license| {
            let declared = DeclaredLicense::from(&license.desired);
            let known = known.get(declared.name.as_str());
            let generation = known.map_or(1, |known| known.generation);
            let there = known.and_then(|known| known.devices_reset_at);
            // What nobody has acted on is new here; else what somebody has written since stays.
            let fresh = license.reset.filter(|reset| reset.outcome == ResetOutcome::Asked);
            let asked = |reset: DevicesReset| reset.at;
            DeclaredLicense {
                // Whoever brings a purchase back means what is in it.
                withdrawn: by_hand && license.desired.state != DesiredState::Active,
                generation: declared.generation.max(generation),
                devices_reset_at: fresh.map(asked).or(there).or(license.reset.map(asked)),
                // What this record has lost, or somebody has added.
                adopt: declared.adopt.clone().or_else(|| known.and_then(|known| known.adopt.clone())),
                ..declared
            }
        })
        .collect();
    // A view that has shrunk is no reason to take anything away.
    let unknown = |known: &&&DeclaredLicense| !licenses.iter().any(|license| license.name == known.name);
    let kept: Vec<DeclaredLicense> = found
        .iter()
        .flat_map(|found| &found.spec.licenses)
        .filter(|license| unknown(&license))
        .cloned()
        .collect();
    licenses.extend(kept);
    licenses
}

fn marks(found: &LicenseGrant) -> impl Iterator<Item = String> {
    let marks = found.annotations().get(DELIVERED).map_or("", String::as_str);
    marks.split(',').filter(|mark| !mark.is_empty()).map(str::to_owned)
}

fn delivered(row: &GrantRow, found: Option<&LicenseGrant>) -> BTreeSet<String> {
    let mailed = row.licenses.iter().filter(|license| license.delivered);
    let mailed = mailed.map(|license| mark(license.desired.name.as_str(), license.desired.generation));
    mailed.chain(found.into_iter().flat_map(marks)).collect()
}

fn mark(name: &str, generation: impl std::fmt::Display) -> String {
    format!("{name}.{generation}")
}

impl Ruling {
    /// What an object's override says; none if it says nothing.
    fn of(written: Option<&Override>) -> Option<Self> {
        let written = written?;
        let never = written.never_expires.unwrap_or(false);
        // As fine as the record keeps it.
        let whole = |at: Timestamp| Timestamp::from_millisecond(at.as_millisecond()).unwrap_or(at);
        let ruling = Self {
            state: written.state,
            end: if never { Some(End::Never) } else { written.expires_at.map(whole).map(End::At) },
            released: written.release.unwrap_or(false),
        };
        (ruling != Self::default()).then_some(ruling)
    }

    fn on_record(hand: Option<&HandRow>) -> Option<Self> {
        let hand = hand?;
        let ruling = Self {
            state: hand.state.map(State::from),
            end: hand.expires_at.map(End::of),
            released: hand.released,
        };
        (ruling != Self::default()).then_some(ruling)
    }
}

/// Compares what people decided on record with what they decided in the cluster.
pub(super) fn compare(row: &GrantRow, found: &LicenseGrant) -> Verdict {
    let (ours, theirs) = (Ruling::on_record(row.hand.as_ref()), Ruling::of(found.spec.hand.as_ref()));
    if ours == theirs {
        return Verdict::Same;
    }
    let changed = match Agreed::with(row, found) {
        Some(base) => !base.explains(theirs.as_ref()),
        // Never seen before: what is there was written by somebody, what is not there was not taken back.
        None => theirs.is_some(),
    };
    if changed { Verdict::TakeIn(Box::new(take_over(theirs.as_ref(), found))) } else { Verdict::Write }
}

fn take_over(theirs: Option<&Ruling>, found: &LicenseGrant) -> Act {
    let Some(Ruling { state, end, released }) = theirs else { return Act::Clear };
    let reason = found.spec.hand.as_ref().and_then(|hand| hand.reason.clone()).unwrap_or_default();
    Act::Overrule {
        state: state.map(DesiredState::from),
        expires_at: end.map(End::expires_at),
        released: *released,
        reason,
    }
}

/// Who wrote an object's override.
pub(super) fn person(found: &LicenseGrant) -> String {
    found.spec.hand.as_ref().and_then(|hand| hand.by.clone()).unwrap_or_else(|| "kubectl".to_owned())
}

/// What was agreed upon, to be kept.
pub(super) fn agreed(found: &LicenseGrant) -> Option<String> {
    serde_json::to_string(&Agreed::of(found)?).ok()
}

/// What was agreed upon and what is about to be written, to be kept before it is written.
pub(super) fn intent(row: &GrantRow, found: &LicenseGrant) -> Option<String> {
    let mut agreed = Agreed::with(row, found).or_else(|| Agreed::of(found))?;
    let ours = Ruling::on_record(row.hand.as_ref());
    if !agreed.writing.contains(&ours) {
        agreed.writing.push(ours);
    }
    serde_json::to_string(&agreed).ok()
}

/// The change that makes an object's override what the record says, unless somebody has written to it since it was found.
pub(super) fn overruling(row: &GrantRow, found: &LicenseGrant) -> Value {
    let metadata = json!({"resourceVersion": found.metadata.resource_version});
    let Some(hand) = row.hand.as_ref().filter(|hand| Ruling::on_record(Some(hand)).is_some()) else {
        return json!({"metadata": metadata, "spec": {"override": null}});
    };
    let cut = |text: &str, longest| {
        let text: String = text.chars().take(longest).collect();
        (!text.is_empty()).then_some(text)
    };
    let fields = json!({
        "state": hand.state.map(State::from),
        "expiresAt": hand.expires_at.flatten(),
        "neverExpires": (hand.expires_at == Some(None)).then_some(true),
        "release": hand.released.then_some(true),
        "reason": cut(&hand.reason, LONGEST_REASON),
        "by": cut(&hand.person, LONGEST_PERSON),
    });
    json!({"metadata": metadata, "spec": {"override": fields}})
}

/// Where a grant stands, by its object.
pub(super) fn progress(row: &GrantRow, grant: &LicenseGrant, at: Timestamp) -> Progress {
    let seen = seen(grant);
    let said = standing(grant);
    let ready = said.0 == GrantState::Ready;
    let (state, reason, detail) = match unsaid(row) {
        Some(reason) if ready => (GrantState::Parked, reason, None),
        _ => said,
    };
    let licenses = paired(&row.licenses, &seen);
    let stands = licenses.iter().map(|license| (license.desired.name.clone(), told(license, state, reason)));
    let mailed = grant.spec.delivery == Delivery::Mail;
    Progress {
        id: row.id.clone(),
        state,
        reason,
        detail,
        licenses: stands.collect(),
        due: None,
        tries: 0,
        deliver: ready && mailed && addressed(row) && deliverable(&licenses),
        sighting: Some(Sighting { licenses: seen, agreed: agreed(grant) }),
        at,
    }
}

/// What waits for a person and has no word in an object: it is as declared there.
fn unsaid(row: &GrantRow) -> Option<Reason> {
    row.licenses.iter().map(|license| license.desired.reason).find(|reason| weight(*reason) == 3)
}

/// A grant of people, as it is in the cluster; `known` is what the record has of it so far.
pub(super) fn declaration(
    grant: &LicenseGrant,
    known: Option<&GrantRow>,
    installation: &str,
    at: Timestamp,
) -> Option<Declaration> {
    let declared = grant.spec.grant(installation).ok()?;
    let object = Resource { name: grant.name_any(), secret: grant.secret_name() };
    let email = grant.spec.customer.as_ref().and_then(|of| grantsmith_core::Email::new(&of.email));
    let created = grant.creation_timestamp().map_or(at, |time| time.0);
    let licenses = declared.licenses.clone().into_iter();
    let license = |desired: grantsmith_core::Desired| GrantLicense {
        reason: desired.reason,
        desired,
        kept: None,
        shown: None,
        delivered: false,
        reset: None,
    };
    let row = GrantRow {
        id: GrantId::of(&declared.purchase),
        purchase: declared.purchase.clone(),
        livemode: grant.spec.purchase.livemode.unwrap_or(true),
        state: GrantState::Issuing,
        reason: Reason::Issuing,
        detail: None,
        paid_at: declared.paid_at,
        email,
        forgotten: false,
        note: None,
        hand: None,
        agreed: None,
        object: Some(object.clone()),
        licenses: licenses.map(license).collect(),
        delivery: None,
        tries: 0,
        decided: 0,
        created,
        updated: at,
    };
    let mut progress = progress(&row, grant, at);
    let hand = known.and_then(|known| known.hand.as_ref());
    if let Some(sighting) = &mut progress.sighting
        && Ruling::on_record(hand) != Ruling::of(grant.spec.hand.as_ref())
    {
        // Nothing is agreed upon by being seen: somebody has written an override that is to be taken in yet.
        sighting.agreed = known.and_then(|known| known.agreed.clone());
    }
    Some(Declaration {
        progress,
        purchase: declared.purchase,
        object,
        livemode: row.livemode,
        paid_at: row.paid_at,
        email: row.email,
        created,
        licenses: declared.licenses,
    })
}

/// Whether the record tells all that an object does.
pub(super) fn is_told(row: &GrantRow, progress: &Progress) -> bool {
    let Some(sighting) = &progress.sighting else { return false };
    let paired = paired(&row.licenses, &sighting.licenses);
    let same = |(old, new): (&GrantLicense, &GrantLicense)| old.kept == new.kept && old.shown == new.shown;
    let stands =
        row.licenses.iter().zip(&progress.licenses).all(|(license, (_, reason))| license.reason == *reason);
    (row.state, row.reason, &row.detail) == (progress.state, progress.reason, &progress.detail)
        && row.agreed == sighting.agreed
        && row.licenses.iter().zip(&paired).all(same)
        && stands
        && sighting.licenses.iter().all(|seen| {
            let known = |license: &&GrantLicense| license.shown.as_ref() == Some(&seen.shown);
            let known = row.licenses.iter().find(known);
            let reset = known.and_then(|license| license.reset).zip(seen.reset);
            (!seen.delivered || known.is_none_or(|license| license.delivered))
                && reset.is_none_or(|(asked, told)| {
                    asked.at > told.at || !asked.is_open() || asked.outcome == told.outcome
                })
        })
}

fn standing(grant: &LicenseGrant) -> (GrantState, Reason, Option<String>) {
    let status = grant.status.as_ref();
    let condition = |kind: &str| {
        let conditions = status.into_iter().flat_map(|status| &status.conditions);
        conditions.into_iter().find(|condition| condition.type_ == kind)
    };
    let current = status.is_some_and(|status| status.observed_generation == grant.metadata.generation);
    let Some(ready) = condition(READY).filter(|_| current) else {
        return (GrantState::Issuing, Reason::Issuing, None);
    };
    let reason = ready.reason.parse().unwrap_or(Reason::Issuing);
    if ready.status == "True" {
        return (GrantState::Ready, reason, None);
    }
    let stalled = condition(STALLED).is_some_and(|condition| condition.status == "True");
    let waits = stalled || weight(reason) == 3;
    let state = if waits { GrantState::Parked } else { GrantState::Issuing };
    (state, reason, Some(ready.message.clone()).filter(|message| !message.is_empty()))
}

/// Where one license stands, as far as its object tells.
fn told(license: &GrantLicense, state: GrantState, reason: Reason) -> Reason {
    match &license.kept {
        Some(_) if state == GrantState::Ready && license.desired.state != DesiredState::Active => {
            license.desired.reason
        }
        Some(kept) if state == GrantState::Ready && license.desired.reason == Reason::Issued => {
            if kept.attempt.is_none() { Reason::Adopted } else { Reason::Issued }
        }
        Some(_) if state == GrantState::Ready => license.desired.reason,
        Some(_) | None => reason,
    }
}

/// The licenses that an object tells of.
fn seen(grant: &LicenseGrant) -> Vec<Seen> {
    let marks: BTreeSet<String> = marks(grant).collect();
    let licenses = grant.status.iter().flat_map(|status: &LicenseGrantStatus| &status.licenses);
    let seen = licenses.filter_map(|license| {
        Some(Seen {
            // Not one license that core has a word for is left out: the operator has written them.
            kept: license.kept(LicenseKey::new("")).ok()?,
            shown: Shown {
                masked: license.key.clone(),
                fingerprint: Fingerprint::from_hex(license.fingerprint.clone()),
            },
            delivered: marks.contains(&mark(&license.name, license.generation)),
            reset: devices_reset(grant, license),
        })
    });
    seen.collect()
}

/// The last wish to unbind a license's devices that the operator has acted on, or passed over.
fn devices_reset(grant: &LicenseGrant, license: &LicenseStatus) -> Option<DevicesReset> {
    let acted_on = license.devices_reset_at.zip(license.devices_reset);
    let acted_on = acted_on.map(|(at, outcome)| DevicesReset { at, outcome: outcome.into() });
    let wish = grant.spec.licenses.iter().find(|declared| declared.name == license.name)?.devices_reset_at;
    let passed_over = wish
        .filter(|at| !grant.takes_devices_reset(*at))
        .map(|at| DevicesReset { at, outcome: ResetOutcome::Dropped });
    acted_on.into_iter().chain(passed_over).max_by_key(|reset| reset.at)
}

/// Declared licenses with those that were seen. A key that people had replaced in the cluster is replaced here too.
fn paired(declared: &[GrantLicense], seen: &[Seen]) -> Vec<GrantLicense> {
    let pair = |license: &GrantLicense| {
        let of = |seen: &&Seen| seen.kept.name == license.desired.name;
        let newest = seen.iter().filter(of).map(|seen| seen.kept.generation).max();
        let generation = newest.unwrap_or_default().max(license.desired.generation);
        let replaces = seen
            .iter()
            .filter(of)
            .any(|seen| seen.kept.generation < generation && seen.kept.state.may_be_live());
        let own = seen.iter().filter(of).find(|seen| seen.kept.generation == generation);
        let own = own.filter(|_| !replaces);
        GrantLicense {
            kept: own.map(|seen| seen.kept.clone()),
            shown: own.map(|seen| seen.shown.clone()),
            delivered: license.delivered,
            reset: license.reset,
            reason: license.reason,
            desired: grantsmith_core::Desired { generation, ..license.desired.clone() },
        }
    };
    declared.iter().map(pair).collect()
}

/// Names and reasons for a grant that is not in the cluster yet.
pub(super) fn all(row: &GrantRow, reason: Reason) -> Vec<(LicenseName, Reason)> {
    row.licenses.iter().map(|license| (license.desired.name.clone(), reason)).collect()
}

#[cfg(test)]
mod tests;
