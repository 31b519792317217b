//! Purchases, what was decided about them, and how far that is done.

use grantsmith_core::grant::{Declared, Dunning, Hand, LicenseName};
use grantsmith_core::license::Fingerprint;
use grantsmith_core::manual::Promised;
use grantsmith_core::port::{Kept, ResetOutcome};
use grantsmith_core::purchase::{Email, InvoiceFact, PurchaseId, StripeId};
use grantsmith_core::terms::Terms;
use grantsmith_core::{AppId, Desired, GrantId, Reason};
use jiff::Timestamp;

use super::{Delivery, Event, EventState, HandRow, Object, Snapshot, Ticket};

/// All that is on record about a purchase when it is decided.
#[derive(Debug, Clone, Default)]
pub struct PurchaseRecord {
    /// The session's snapshot.
    pub session: Option<Snapshot>,
    /// The subscription's snapshot.
    pub subscription: Option<Snapshot>,
    /// What is known of its invoices.
    pub invoices: Vec<InvoiceFact>,
    /// The licenses declared so far, in the order of their units.
    pub declared: Vec<Declared>,
    /// The terms fixed at the first decision.
    pub terms: Option<Terms>,
    /// What an imported license shows of the terms, until they are fixed.
    pub imported: Option<Terms>,
    /// The payment's time, stored at the first decision.
    pub paid_at: Option<Timestamp>,
    /// Why its grant stands where it does.
    pub reason: Option<Reason>,
    /// A person's decision.
    pub hand: Hand,
    /// What a person promised, where no purchase at Stripe stands behind it.
    pub promised: Vec<Promised>,
    /// Events about its objects that no decision has taken in yet, oldest first, with bodies; and those of the second that
    /// the subscription's snapshot was told in, which no clock puts in order.
    pub events: Vec<Event>,
}

/// Where a grant stands, as stored and filtered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrantState {
    /// Money may still come.
    Pending,
    /// Entitled; not every license is as declared.
    Issuing,
    /// Every license is as declared.
    Ready,
    /// It came to nothing, or is over.
    Ended,
    /// It waits for a person.
    Parked,
    /// Not ours.
    NotOurs,
}

/// The outcome of a decision, written in one transaction with what led to it.
#[derive(Debug, Clone)]
pub struct Decision {
    /// The purchase.
    pub purchase: PurchaseId,
    /// Stripe's mode.
    pub livemode: bool,
    /// The look that it is based on.
    pub ticket: Ticket,
    /// The object that was looked at.
    pub looked_at: Object,
    /// The snapshot that it is based on: of the purchase's own object.
    pub snapshot: Snapshot,
    /// Snapshots of other objects that belong to it, such as a subscription's session.
    pub others: Vec<Snapshot>,
    /// What is known of its invoices; the ledger only grows.
    pub invoices: Vec<InvoiceFact>,
    /// A payment is failing: the buyer is warned now, after a week, and two days before the end.
    pub dunning: Option<Dunning>,
    /// Ids of Stripe objects that belong to the purchase.
    pub links: Vec<StripeId>,
    /// Those of them that the look has seen as they stand, as they came whole inside its object: it has taken in what was told
    /// of them before it began.
    pub seen: Vec<StripeId>,
    /// The customer, `cus_…`, who may have other purchases.
    pub customer: Option<StripeId>,
    /// Where the grant stands: [`GrantState::Issuing`] when licenses are declared; the store keeps `Ready` if nothing that
    /// is declared has changed.
    pub state: GrantState,
    /// Why.
    pub reason: Reason,
    /// What the seller can do about it.
    pub detail: Option<String>,
    /// Fixed now, unless fixed before.
    pub terms: Option<Terms>,
    /// The prices and products that these terms show to sell licenses.
    pub sells: Vec<String>,
    /// Fixed now, unless fixed before.
    pub paid_at: Option<Timestamp>,
    /// The buyer's address.
    pub email: Option<Email>,
    /// The licenses that should exist.
    pub licenses: Vec<Desired>,
    /// When to look at the object again without being told.
    pub look_again: Option<Timestamp>,
    /// What becomes of the events about its objects.
    pub event_state: EventState,
    /// Who or what caused the decision, for the journal: `event evt_…`, `look`, `replay`.
    pub cause: String,
    /// The time of the decision.
    pub at: Timestamp,
}

/// An object that turned out to belong to the purchase of another one.
#[derive(Debug, Clone)]
pub struct Attachment {
    /// The object.
    pub object: Object,
    /// What it looks like; none if that does not matter.
    pub snapshot: Option<Snapshot>,
    /// The purchase.
    pub purchase: PurchaseId,
    /// The look that found it.
    pub ticket: Ticket,
    /// The time.
    pub at: Timestamp,
}

/// One license of a grant, declared and kept.
#[derive(Debug, Clone)]
pub struct GrantLicense {
    /// What is declared.
    pub desired: Desired,
    /// Where it stands.
    pub reason: Reason,
    /// The license, once kept, and once the one that it replaces is gone.
    pub kept: Option<Kept>,
    /// How its key is spoken of, also where the record does not hold it.
    pub shown: Option<Shown>,
    /// The mail server has taken its key.
    pub delivered: bool,
    /// The newest wish to unbind its devices.
    pub reset: Option<DevicesReset>,
}

/// A wish to unbind a license's devices, and what came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DevicesReset {
    /// When it was asked for.
    pub at: Timestamp,
    /// What came of it.
    pub outcome: ResetOutcome,
}

impl DevicesReset {
    /// Whether more may come of it.
    pub fn is_open(&self) -> bool {
        matches!(self.outcome, ResetOutcome::Asked | ResetOutcome::Sent)
    }
}

/// How a key is spoken of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The key, masked.
    pub masked: String,
    /// Its fingerprint.
    pub fingerprint: Fingerprint,
}

/// A license as the cluster tells of it. The record keeps what it takes to find it and to mail it once; its key is blank.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// The license, without its key.
    pub kept: Kept,
    /// How its key is spoken of.
    pub shown: Shown,
    /// An earlier record has seen its key mailed.
    pub delivered: bool,
    /// The last wish to unbind its devices that was acted on there.
    pub reset: Option<DevicesReset>,
}

/// What a round of work saw in the cluster.
#[derive(Debug, Clone)]
pub struct Sighting {
    /// The licenses there.
    pub licenses: Vec<Seen>,
    /// What of its override both sides agree upon; none leaves what was agreed.
    pub agreed: Option<String>,
}

/// The object in the cluster that a grant of people is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// Its name.
    pub name: String,
    /// The Secret of its keys.
    pub secret: String,
}

/// A grant that people declare in the cluster.
#[derive(Debug, Clone)]
pub struct Declaration {
    /// What names it.
    pub purchase: PurchaseId,
    /// The object.
    pub object: Resource,
    /// Whether it was paid with real money.
    pub livemode: bool,
    /// When it was paid.
    pub paid_at: Option<Timestamp>,
    /// Whose it is.
    pub email: Option<Email>,
    /// When the object was made.
    pub created: Timestamp,
    /// The licenses that it declares.
    pub licenses: Vec<Desired>,
    /// Where it stands.
    pub progress: Progress,
}

/// A grant on record.
#[derive(Debug, Clone)]
pub struct GrantRow {
    /// Its id.
    pub id: GrantId,
    /// Its purchase.
    pub purchase: PurchaseId,
    /// Stripe's mode.
    pub livemode: bool,
    /// Where it stands.
    pub state: GrantState,
    /// Why.
    pub reason: Reason,
    /// What the seller can do about it.
    pub detail: Option<String>,
    /// When it was paid.
    pub paid_at: Option<Timestamp>,
    /// The buyer's address.
    pub email: Option<Email>,
    /// The buyer was forgotten: an address that is declared of them does not count.
    pub forgotten: bool,
    /// A person's note.
    pub note: Option<String>,
    /// What people decided.
    pub hand: Option<HandRow>,
    /// What of that the cluster was last seen to agree upon.
    pub agreed: Option<String>,
    /// The object in the cluster, where people declare it there and not this program.
    pub object: Option<Resource>,
    /// Its licenses, in the order of their units.
    pub licenses: Vec<GrantLicense>,
    /// The newest delivery, if any was begun.
    pub delivery: Option<Delivery>,
    /// Failed rounds of work in a row.
    pub tries: u32,
    /// Grows with every decision that changes something: what [`Store::progress`] is fenced by.
    pub decided: u64,
    /// When it was first decided.
    pub created: Timestamp,
    /// When it last changed.
    pub updated: Timestamp,
}

/// What a round of work on a grant came to.
#[derive(Debug, Clone)]
pub struct Progress {
    /// The grant.
    pub id: GrantId,
    /// Where it stands now.
    pub state: GrantState,
    /// Why.
    pub reason: Reason,
    /// What the seller can do about it.
    pub detail: Option<String>,
    /// Where each license stands.
    pub licenses: Vec<(LicenseName, Reason)>,
    /// When to come back; none when nothing is left to do.
    pub due: Option<Timestamp>,
    /// Failed rounds in a row.
    pub tries: u32,
    /// Begin a delivery if a license that was made by us is in none yet, or go on with one that was called off: all that should
    /// be live are.
    pub deliver: bool,
    /// What was seen in the cluster, where licenses are kept there.
    pub sighting: Option<Sighting>,
    /// The time.
    pub at: Timestamp,
}

/// One line of a grant's history.
#[derive(Debug, Clone)]
pub struct JournalEntry {
    /// When.
    pub at: Timestamp,
    /// By what: an event, a rule, a hand.
    pub cause: String,
    /// What, in words without secrets.
    pub text: String,
}

/// Which grants to list. All conditions hold together.
#[derive(Debug, Clone, Default)]
pub struct GrantFilter {
    /// In this state.
    pub state: Option<GrantState>,
    /// Of this purchase.
    pub purchase: Option<String>,
    /// With this address, whatever its case.
    pub email: Option<String>,
    /// With a license for this app.
    pub app_id: Option<AppId>,
    /// First decided at or after.
    pub created_from: Option<Timestamp>,
    /// First decided before.
    pub created_before: Option<Timestamp>,
}
