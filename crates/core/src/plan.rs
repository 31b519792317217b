//! From which licenses should exist and which do, the calls to make next.
//!
//! # The five laws
//! 1. **Revoke only** what a Stripe fact or a hand says, or a surplus that one of our own recorded attempts made, its
//!    `createdAt` inside that attempt's window. A surplus that we did not make is for a person to decide.
//! 2. **Never re-activate** what we did not revoke.
//! 3. **Absence is never evidence** in a listing that is empty because it is incomplete.
//! 4. **No create without proof** that none exists, unless the purchase is fresh and no attempt is open.
//! 5. **Every rule-made revocation passes the budget**; hands and surplus of our own attempts are exempt.
//!
//! A plan is a value with no choice left for run time. [`crate::execute`] performs it and asks for the next one.

mod policy;
mod unit;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

pub use self::policy::Policy;
use self::policy::later;
use self::unit::Unit;
use crate::grant::{Cause, Desired, DesiredState, Expiry, Grant, LicenseName};
use crate::label::Label;
use crate::license::{AppId, Fingerprint, License, LicenseKey, LicenseStatus};
use crate::port::{
    Attempt, AttemptId, CreateLicense, Kept, KeptState, Listing, Moment, Now, Outcome, Record, Refusal,
    ResetId,
};
use crate::purchase::PurchaseId;
use crate::reason::Reason;

/// Looks within the quarantine: a lost license is adopted as soon as it shows.
const LOOKS: &[Duration] =
    &[Duration::ZERO, Duration::from_secs(2), Duration::from_secs(10), Duration::from_secs(30)];

/// Until the next look at duplicates that wait for a person.
const DUPLICATES_AGAIN: Duration = Duration::from_secs(3_600);

/// Until a license that somebody named is looked for again: it may be made meanwhile, or not be listed yet.
const SOUGHT_AGAIN: Duration = Duration::from_secs(300);

/// Until the budget is asked again. Ten thousand may be held, and each hour frees a hundred.
const BUDGET_AGAIN: Duration = Duration::from_secs(300);

/// Until the next look after a listing that stopped early.
const BRIEFLY: Duration = Duration::from_secs(5);

/// What was paid so shortly before [`Policy::fulfil_since`] may have been paid after it, by another clock: it is looked for,
/// and not held.
const CLOCKS_APART: SignedDuration = SignedDuration::from_mins(10);

/// Expiries closer than this are the same: AuthForge may keep whole seconds.
const SAME_TIME: SignedDuration = SignedDuration::from_secs(1);

/// What was observed before planning.
#[derive(Debug, Clone, Copy)]
pub struct Observed<'a> {
    /// What is on record.
    pub record: &'a Record,
    /// What AuthForge listed since this round of work began.
    pub listings: &'a BTreeMap<AppId, Arc<Listing>>,
    /// When this process first saw each open attempt.
    pub first_seen: &'a BTreeMap<AttemptId, Moment>,
    /// What this process has lately brought licenses to: listings may not tell it yet.
    pub brought: &'a BTreeMap<Fingerprint, Brought>,
}

/// What a call has brought a license to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Brought {
    /// Its status since.
    pub status: LicenseStatus,
    /// When AuthForge had answered.
    pub at: Moment,
}

impl Observed<'_> {
    /// A license's status: what a listing tells of it, or what this process knows better.
    fn status(&self, row: &License, listing: &Listing, policy: &Policy) -> LicenseStatus {
        let brought = self.brought.get(&row.key.fingerprint());
        let late = brought.filter(|brought| listing.begun_at() < brought.at.plus(policy.quarantine));
        late.map_or(row.status, |brought| brought.status)
    }
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// The calls and writes, in order.
    pub steps: Vec<Step>,
    /// Where each license stands.
    pub licenses: Vec<(LicenseName, Reason)>,
    /// How long to wait before planning again, if nothing happens.
    pub again: Option<Duration>,
}

/// One call or write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Write down what became of an attempt.
    Settle(AttemptId, Outcome),
    /// Keep a license that was found at AuthForge.
    Adopt(Kept),
    /// Write down that somebody else revoked a kept license.
    NoteRevokedElsewhere(LicenseKey),
    /// Write down whether a live license that we did not make was listed beside a kept one.
    NoteDuplicated(LicenseKey, bool),
    /// Revoke a license: a kept one, or a surplus that we made.
    Revoke(LicenseKey, Revocation),
    /// Bring back a license that we revoked, or that a hand wants back.
    Reinstate(LicenseKey),
    /// Set a license's expiry.
    Extend(LicenseKey, Option<Timestamp>),
    /// Unbind a license's devices, as a person asked.
    ResetDevices(ResetId, LicenseKey),
    /// Write down that devices were not unbound, as the license is not live.
    DropReset(ResetId),
    /// Write down that an attempt was looked after.
    Watched(AttemptId, Timestamp),
    /// Create a license.
    Create(LicenseName, u32, CreateLicense),
    /// List an app's licenses; more cannot be decided before.
    Look(AppId, Moment),
}

/// Why a license is revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revocation {
    /// It is the kept one, and the grant says so.
    Declared(Cause),
    /// It is besides the kept one, and an attempt of ours made it.
    Surplus,
}

/// Plans the next steps for one grant. Total, and the same for the same arguments.
///
/// A grant that is as it should be gets an empty plan.
pub fn plan(grant: &Grant, observed: &Observed<'_>, policy: &Policy, now: Now) -> Plan {
    let replaced: Vec<Vec<Desired>> =
        grant.licenses.iter().map(|desired| replaced(desired, observed.record)).collect();
    let mut planner =
        Planner { grant, observed, policy, now, plan: Plan::default(), looks: BTreeMap::new(), spent: 0 };
    for (desired, replaced) in grant.licenses.iter().zip(&replaced) {
        let mut reason = planner.license(desired);
        for old in replaced {
            planner.license(old);
        }
        // The new key is not handed over while an old one works.
        let awaits = observed.record.awaits_revocation(&desired.name, desired.generation);
        if awaits && desired.state == DesiredState::Active && !replaced.is_empty() {
            reason = Reason::Issuing;
        }
        planner.plan.licenses.push((desired.name.clone(), reason));
    }
    planner.resets();
    let looks = std::mem::take(&mut planner.looks);
    planner.plan.steps.extend(looks.into_iter().map(|(app, not_before)| Step::Look(app, not_before)));
    // Buyers first; and a create is fenced by the version that was read, which every other write moves.
    planner.plan.steps.sort_by_key(|step| !matches!(step, Step::Create(..)));
    planner.plan
}

/// What is left to do about the generations that a license replaces: they are to be revoked once the new key is kept, or
/// when there is to be none. What their attempts may have made besides is looked after like any other's.
fn replaced(desired: &Desired, record: &Record) -> Vec<Desired> {
    let of_unit = |name: &LicenseName, generation| {
        (*name == desired.name && generation < desired.generation).then_some(generation)
    };
    let in_place = record.kept(&desired.name, desired.generation).is_some();
    if !in_place && desired.state == DesiredState::Active {
        return Vec::new();
    }
    let kept = record.licenses.iter().filter_map(|kept| of_unit(&kept.name, kept.generation));
    let tried = record.attempts.iter().filter_map(|attempt| of_unit(&attempt.name, attempt.generation));
    let generations: BTreeSet<u32> = kept.chain(tried).collect();
    let revoked = |generation| Desired {
        generation,
        state: DesiredState::Revoked,
        cause: Cause::Hand,
        reason: Reason::Overridden,
        adopt: None,
        ..desired.clone()
    };
    generations.into_iter().map(revoked).collect()
}

struct Planner<'a> {
    grant: &'a Grant,
    observed: &'a Observed<'a>,
    policy: &'a Policy,
    now: Now,
    plan: Plan,
    looks: BTreeMap<AppId, Moment>,
    spent: u32,
}

impl<'a> Planner<'a> {
    fn license(&mut self, desired: &'a Desired) -> Reason {
        let label = Label::new(&self.grant.purchase, &desired.name, desired.generation);
        let listing = self.observed.listings.get(&desired.app_id).map(AsRef::as_ref);
        let rows = listing.map_or_else(Vec::new, |listing| {
            let status = |row: &License| self.observed.status(row, listing, self.policy);
            listing.labeled(&label).iter().map(|row| License { status: status(row), ..row.clone() }).collect()
        });
        let record = self.observed.record;
        let mine = |name: &LicenseName, generation| *name == desired.name && generation == desired.generation;
        let attempts: Vec<&Attempt> =
            record.attempts.iter().filter(|a| mine(&a.name, a.generation)).collect();
        let kept = record.kept(&desired.name, desired.generation);

        let unit = Unit { desired, label, listing, rows, attempts };
        match kept {
            Some(kept) => {
                let settle = unit.open().map(|attempt| Step::Settle(attempt.id.clone(), Outcome::Found));
                self.plan.steps.extend(settle);
                let another = unit.sought(record).is_some();
                let duplicated = self.surplus(&unit, kept) || another;
                self.watch(&unit);
                match self.kept(&unit, kept) {
                    Reason::Issued if duplicated => Reason::DuplicateLicenses,
                    Reason::Issued if kept.attempt.is_none() => Reason::Adopted,
                    reason => reason,
                }
            }
            None => self.missing(&unit),
        }
    }

    /// No key is kept: find one, wait for one, or make one.
    fn missing(&mut self, unit: &Unit<'_>) -> Reason {
        if let Some(key) = unit.sought(self.observed.record) {
            return self.sought(unit, key);
        }
        if let Some(found) = unit.best(self.observed.record) {
            // Told by its time; failing that (clocks), a license that appears while our own attempt is unclear is ours:
            // the worse mistake is a buyer who never gets the mail.
            let maker = unit.maker(found, self.policy).or_else(|| unit.unclear().next());
            let attempt = maker.map(|attempt| attempt.id.clone());
            self.plan.steps.push(Step::Adopt(unit.adopted(found, attempt)));
            return Reason::Adopted;
        }
        // Revoked, in a listing that stopped early.
        if unit.rows.iter().any(|row| !self.observed.record.keeps(&row.key)) {
            self.look(unit, self.now.moment);
            return Reason::Issuing;
        }
        let open: Vec<&Attempt> = unit.open().collect();
        if !open.is_empty() {
            return self.unclear(unit, &open);
        }
        self.watch(unit);
        if unit.desired.state != DesiredState::Active {
            // We made none, but somebody else's code may have, before us.
            let looked = unit.listing.is_some_and(Listing::is_complete);
            if unit.attempts.is_empty() && !self.fresh() && !looked {
                self.look(unit, self.now.moment);
            }
            return unit.desired.reason;
        }
        if unit.desired.expires_at.is_some_and(|end| end <= self.now.wall) {
            return Reason::Expired;
        }
        // A replacement is of a license that this installation has had in its hands.
        let before_start = self.is_before_start() && unit.desired.generation == 1;
        if before_start && unit.listing.is_some_and(Listing::is_complete) {
            return Reason::BeforeStart;
        }
        let fresh = self.fresh() && !before_start;
        // What our own attempts made may be listed only after them.
        let from = self.observed.record.proof_from.filter(|_| unit.attempts.is_empty());
        let complete = unit.listing.filter(|listing| listing.is_complete());
        match (complete, from) {
            _ if fresh => self.create(unit),
            (Some(listing), Some(from)) if listing.begun_at() < from => {
                self.wait(from.since(self.now.moment));
            }
            (Some(_), _) => self.create(unit),
            (None, from) => self.look(unit, from.map_or(self.now.moment, |from| from.min(self.now.moment))),
        }
        Reason::Issuing
    }

    /// Somebody has said which license it is: another is neither made nor taken. What attempts of before have made is besides it,
    /// once it is there.
    fn sought(&mut self, unit: &Unit<'_>, key: &Fingerprint) -> Reason {
        let found = unit.listing.and_then(|listing| listing.of_key(key));
        match found.filter(|row| !self.observed.record.keeps(&row.key) && self.may_be_ours(row)) {
            Some(row) => {
                self.plan.steps.push(Step::Adopt(unit.adopted(row, None)));
                Reason::Adopted
            }
            None if !unit.listing.is_some_and(Listing::is_complete) => {
                self.look(unit, self.now.moment);
                Reason::Issuing
            }
            None => {
                let open: Vec<&Attempt> = unit.open().collect();
                if !open.is_empty() && !unit.rows.iter().any(|row| unit.maker(row, self.policy).is_some()) {
                    return self.unclear(unit, &open);
                }
                self.watch(unit);
                if unit.desired.state != DesiredState::Active {
                    return unit.desired.reason;
                }
                self.wait(SOUGHT_AGAIN);
                Reason::KeyNotFound
            }
        }
    }

    /// Whether no other purchase at Stripe is known to have been sold the license. A session may have sold the subscription.
    fn may_be_ours(&self, row: &License) -> bool {
        let label = row.label.as_deref().and_then(Label::read);
        match (label.map(|(purchase, ..)| purchase), &self.grant.purchase) {
            (Some(PurchaseId::Session(labeled)), PurchaseId::Session(own))
            | (Some(PurchaseId::Subscription(labeled)), PurchaseId::Subscription(own)) => labeled == *own,
            (Some(PurchaseId::Subscription(_)), _)
            | (Some(PurchaseId::Session(_)), PurchaseId::Manual(_)) => false,
            (Some(PurchaseId::Session(_) | PurchaseId::Manual(_)) | None, _) => true,
        }
    }

    fn create(&mut self, unit: &Unit<'_>) {
        let before = self.observed.record.before(&unit.desired.name, unit.desired.generation);
        self.plan.steps.push(unit.create(before));
    }

    /// An attempt is open and nothing shows: law 4 until a listing counts.
    fn unclear(&mut self, unit: &Unit<'_>, open: &[&Attempt]) -> Reason {
        let mut waiting = None;
        for attempt in open {
            let seen = self.observed.first_seen.get(&attempt.id).copied().unwrap_or(self.now.moment);
            let counts_from = seen.plus(self.policy.quarantine);
            let proof = unit
                .listing
                .is_some_and(|listing| listing.is_complete() && listing.begun_at() >= counts_from);
            if proof {
                self.plan.steps.push(Step::Settle(attempt.id.clone(), Outcome::Absent));
            } else {
                waiting = Some(waiting.map_or(seen, |first: Moment| first.max(seen)));
            }
        }
        if let Some(seen) = waiting {
            self.look_within_quarantine(unit, seen);
        }
        Reason::OutcomeUnknown
    }

    /// Looks at once, then ever less often, then when the quarantine is over.
    fn look_within_quarantine(&mut self, unit: &Unit<'_>, seen: Moment) {
        let quarantine = self.policy.quarantine;
        let waits = LOOKS.iter().copied().filter(|wait| *wait < quarantine).chain([quarantine]);
        let (past, coming): (Vec<Moment>, Vec<Moment>) =
            waits.map(|wait| seen.plus(wait)).partition(|due| *due <= self.now.moment);
        let due = past.last().copied().unwrap_or(seen);
        if unit.listing.is_some_and(|listing| listing.begun_at() >= due) {
            self.wait(coming.first().map_or(BRIEFLY, |next| next.since(self.now.moment)));
        } else {
            self.look(unit, due);
        }
    }

    /// A key is kept: bring it to its declared state and expiry.
    fn kept(&mut self, unit: &Unit<'_>, kept: &Kept) -> Reason {
        let listed = unit.rows.iter().find(|row| row.key == kept.key).map(|row| row.status);
        if listed == Some(LicenseStatus::Revoked) && kept.state == KeptState::Live {
            self.plan.steps.push(Step::NoteRevokedElsewhere(kept.key.clone()));
            return Reason::RevokedElsewhere;
        }
        let by_hand = unit.desired.cause == Cause::Hand;
        match (unit.desired.state, kept.state) {
            (DesiredState::Active, KeptState::Live) => self.expiry(unit, kept),
            (DesiredState::Active, KeptState::RevokedElsewhere) if !by_hand => Reason::RevokedElsewhere,
            (DesiredState::Active, _) if kept.refused == Some(Refusal::Reinstate) => Reason::ReinstateRefused,
            (DesiredState::Active, KeptState::Revoked { .. }) if self.is_cut_short(unit, kept) => {
                Reason::Expired
            }
            (DesiredState::Active, _) => {
                self.plan.steps.push(Step::Reinstate(kept.key.clone()));
                Reason::Issuing
            }
            (_, KeptState::Revoked { .. } | KeptState::RevokedElsewhere) => unit.desired.reason,
            (_, KeptState::Revoking { cause, .. }) => {
                self.plan.steps.push(Step::Revoke(kept.key.clone(), Revocation::Declared(cause)));
                unit.desired.reason
            }
            (_, KeptState::Live | KeptState::Reinstating) => self.revoke(unit, kept),
        }
    }

    fn revoke(&mut self, unit: &Unit<'_>, kept: &Kept) -> Reason {
        let cause = unit.desired.cause;
        if cause == Cause::Rule {
            let spent = self.observed.record.recent_revocations.saturating_add(self.spent);
            if spent >= self.policy.revocation_budget {
                self.wait(BUDGET_AGAIN);
                return Reason::RevocationHeld;
            }
            self.spent += 1;
        }
        self.plan.steps.push(Step::Revoke(kept.key.clone(), Revocation::Declared(cause)));
        unit.desired.reason
    }

    fn expiry(&mut self, unit: &Unit<'_>, kept: &Kept) -> Reason {
        let wanted = unit.desired.expires_at;
        // The buyer was told the expiry of the license that was made for them, by whomever.
        let own = unit.desired.expiry == Expiry::Sold;
        if !own && !same_time(wanted, kept.expires_at) {
            match kept.refused {
                Some(Refusal::Shorten(to)) if same_time(Some(to), wanted) => {
                    return self.cut_short(unit, kept, to);
                }
                _ => self.plan.steps.push(Step::Extend(kept.key.clone(), wanted)),
            }
        }
        let end = if own { kept.expires_at } else { wanted };
        if end.is_some_and(|end| end <= self.now.wall) { Reason::Expired } else { unit.desired.reason }
    }

    /// AuthForge would not bring the expiry forward: the license is revoked when its time has come.
    fn cut_short(&mut self, unit: &Unit<'_>, kept: &Kept, end: Timestamp) -> Reason {
        if self.is_cut_short(unit, kept) {
            return match self.revoke(unit, kept) {
                Reason::RevocationHeld => Reason::RevocationHeld,
                _ => Reason::Expired,
            };
        }
        self.wait(end.duration_since(self.now.wall).unsigned_abs());
        Reason::ShortenRefused
    }

    /// Whether a license has outlived an end that AuthForge would not set.
    fn is_cut_short(&self, unit: &Unit<'_>, kept: &Kept) -> bool {
        matches!(kept.refused, Some(Refusal::Shorten(to))
            if same_time(Some(to), unit.desired.expires_at) && to <= self.now.wall)
    }

    /// Revokes what our own attempts made besides the kept license; says whether there is more that we did not make.
    ///
    /// That is remembered until a complete listing says otherwise, so it is looked for again now and then.
    fn surplus(&mut self, unit: &Unit<'_>, kept: &Kept) -> bool {
        let (ours, others) = unit.besides(self.observed.record, self.policy);
        let foreign = !others.is_empty();
        let revoke = |row: &License| Step::Revoke(row.key.clone(), Revocation::Surplus);
        self.plan.steps.extend(ours.into_iter().map(revoke));
        let complete = unit.listing.is_some_and(Listing::is_complete);
        let duplicated = foreign || (kept.duplicated && !complete);
        if duplicated != kept.duplicated {
            self.plan.steps.push(Step::NoteDuplicated(kept.key.clone(), duplicated));
        }
        if duplicated {
            if unit.listing.is_none() {
                self.look(unit, self.now.moment);
            }
            self.wait(DUPLICATES_AGAIN);
        }
        duplicated
    }

    /// Keeps an eye on what attempts may have made besides.
    fn watch(&mut self, unit: &Unit<'_>) {
        for attempt in &unit.attempts {
            let Some(due) = self.policy.next_watch(attempt) else { continue };
            if due > self.now.wall {
                self.wait(due.duration_since(self.now.wall).unsigned_abs());
            } else if unit.listing.is_some_and(Listing::is_complete) {
                // Only once what was found is gone: nobody would look again for what could not be revoked.
                if unit.besides(self.observed.record, self.policy).0.is_empty() {
                    self.plan.steps.push(Step::Watched(attempt.id.clone(), self.now.wall));
                }
            } else {
                self.look(unit, self.now.moment);
            }
        }
    }

    /// Devices that a person wants unbound: of the license as it is declared, and only while it is live.
    fn resets(&mut self) {
        for reset in &self.observed.record.resets {
            let desired = self.grant.licenses.iter().find(|desired| desired.name == reset.license);
            let kept =
                desired.and_then(|desired| self.observed.record.kept(&desired.name, desired.generation));
            let step = match kept.filter(|kept| kept.state == KeptState::Live) {
                Some(kept) => Step::ResetDevices(reset.id.clone(), kept.key.clone()),
                None => Step::DropReset(reset.id.clone()),
            };
            self.plan.steps.push(step);
        }
    }

    /// Asks for a listing, unless this round has one that is as good as it gets now.
    fn look(&mut self, unit: &Unit<'_>, not_before: Moment) {
        match unit.listing {
            Some(listing) if !listing.is_complete() => self.wait(BRIEFLY),
            _ => {
                let at = self.looks.entry(unit.desired.app_id.clone()).or_insert(not_before);
                *at = (*at).max(not_before);
            }
        }
    }

    fn wait(&mut self, time: Duration) {
        self.plan.again = Some(self.plan.again.map_or(time, |again| again.min(time)));
    }

    /// Whether the purchase is older than this installation's part in it.
    fn is_before_start(&self) -> bool {
        let since = self.policy.fulfil_since.filter(|_| !self.grant.released);
        since.is_some_and(|since| {
            self.grant.paid_at.is_some_and(|paid_at| paid_at < later(since, -CLOCKS_APART))
        })
    }

    /// Whether nobody but this program can have made a license for the purchase: it has only just been paid.
    fn fresh(&self) -> bool {
        self.grant.paid_at.is_some_and(|paid_at| {
            // Stripe tells times in whole seconds.
            let whole = |since: Timestamp| paid_at.as_second() >= since.as_second();
            let since = self.policy.fulfil_since.is_none_or(whole);
            since && self.now.wall.duration_since(paid_at) < self.policy.look_before_create_after
        })
    }
}

fn same_time(a: Option<Timestamp>, b: Option<Timestamp>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a.duration_since(b).abs() < SAME_TIME,
        (None, None) => true,
        _ => false,
    }
}

impl Step {
    /// The license that the step touches, where it touches one.
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        match self {
            Self::Revoke(key, _)
            | Self::Reinstate(key)
            | Self::Extend(key, _)
            | Self::ResetDevices(_, key)
            | Self::NoteRevokedElsewhere(key)
            | Self::NoteDuplicated(key, _) => Some(key.fingerprint()),
            Self::Adopt(kept) => Some(kept.key.fingerprint()),
            Self::Settle(..) | Self::DropReset(_) | Self::Watched(..) | Self::Create(..) | Self::Look(..) => {
                None
            }
        }
    }
}
