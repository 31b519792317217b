//! What Stripe sends, and the objects that it is about.

use bytes::Bytes;
use grantsmith_core::Reason;
use grantsmith_core::purchase::{PurchaseId, StripeId};
use jiff::Timestamp;

/// What a Stripe object is, as far as dirty marks and snapshots tell kinds apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ObjectKind {
    /// `checkout.session`
    Session,
    /// `subscription`
    Subscription,
    /// `invoice`
    Invoice,
    /// `payment_intent`
    PaymentIntent,
    /// `charge`
    Charge,
    /// Anything else.
    Other,
}

/// A Stripe object.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Object {
    /// Its kind.
    pub kind: ObjectKind,
    /// Its id.
    pub id: StripeId,
}

/// What was made of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventState {
    /// Recorded; its object is, or will be, looked at.
    Pending,
    /// Its object was looked at after it, and decided.
    Handled,
    /// Its purchase waits for a person.
    Parked,
    /// It changes nothing.
    Ignored,
}

/// An event to record.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// `evt_…`
    pub id: String,
    /// Such as `checkout.session.completed`.
    pub kind: String,
    /// Stripe's `created`.
    pub created: Timestamp,
    /// When it reached us.
    pub received: Timestamp,
    /// Stripe's mode.
    pub livemode: bool,
    /// The version that shaped it.
    pub api_version: Option<String>,
    /// The id of what it tells of, whatever that is.
    pub object_id: Option<String>,
    /// The object to look at because of it. A session, subscription or invoice is marked dirty; anything else marks the
    /// purchase that it is linked to, or waits as an orphan until a link comes.
    pub signal: Option<Object>,
    /// [`EventState::Pending`] or [`EventState::Ignored`].
    pub state: EventState,
    /// Why it is ignored.
    pub reason: Option<Reason>,
    /// The raw bytes.
    pub body: Bytes,
}

/// What recording an event found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recorded {
    /// It is new, and kept.
    New,
    /// It was kept before; what was made of it then.
    Duplicate(EventState, Option<Reason>),
}

/// An event on record.
#[derive(Debug, Clone)]
pub struct Event {
    /// `evt_…`
    pub id: String,
    /// Such as `checkout.session.completed`.
    pub kind: String,
    /// Stripe's `created`.
    pub created: Timestamp,
    /// When it first reached us.
    pub received: Timestamp,
    /// Stripe's mode.
    pub livemode: bool,
    /// The version that shaped it.
    pub api_version: Option<String>,
    /// The id of what it tells of.
    pub object_id: Option<String>,
    /// What was made of it.
    pub state: EventState,
    /// Why.
    pub reason: Option<Reason>,
    /// What the seller can do about it.
    pub detail: Option<String>,
    /// The purchase that it belongs to, once known.
    pub purchase: Option<PurchaseId>,
    /// The raw bytes; gone once their time is over, and left out of lists.
    pub body: Option<Bytes>,
}

/// A dirty object whose time has come.
#[derive(Debug, Clone)]
pub struct Dirty {
    /// Which.
    pub object: Object,
    /// Failed looks in a row.
    pub tries: u32,
}

/// A place in the order of looks: drawn before the look, so that a slow answer never replaces a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// How a snapshot came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Read from Stripe's API.
    Fetched,
    /// Told by an event: its id, type and `created`.
    Told {
        /// `evt_…`
        event: String,
        /// Its type.
        kind: String,
        /// Its `created`.
        at: Timestamp,
    },
}

/// A Stripe object as last seen.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Which.
    pub object: Object,
    /// How it came.
    pub source: Source,
    /// The object's JSON.
    pub body: Bytes,
}

/// Which events to list. All conditions hold together.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    /// In this state.
    pub state: Option<EventState>,
    /// For this reason.
    pub reason: Option<Reason>,
    /// Of this type.
    pub kind: Option<String>,
    /// Of this purchase.
    pub purchase: Option<String>,
}
