//! What is mailed, and what became of it.

use grantsmith_core::{GrantId, Reason};
use jiff::Timestamp;

/// Whether a mail went out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryState {
    /// To be sent.
    Due,
    /// Taken by the mail server.
    Sent,
    /// Waits for a person.
    Parked,
    /// Not sent, because the license was gone by then.
    Dropped,
}

/// What a mail is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryKind {
    /// It brings keys.
    Keys,
    /// It brings keys once more, because somebody asked for it.
    KeysAgain,
    /// It warns that a payment has failed.
    PaymentFailed,
}

/// One mail about a grant.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The grant.
    pub grant: GrantId,
    /// What it is for.
    pub kind: DeliveryKind,
    /// 1 for the first; a retry keeps it, a resend has the next. The Message-ID derives from it.
    pub number: u32,
    /// When the license ends that a warning is about.
    pub until: Option<Timestamp>,
    /// Whether it went out.
    pub state: DeliveryState,
    /// Why not.
    pub reason: Option<Reason>,
    /// What the mail server said, without addresses.
    pub detail: Option<String>,
    /// Tries so far.
    pub tries: u32,
    /// When it was asked for, and of a warning, when it is due: how long it is tried counts from then.
    pub created: Timestamp,
    /// When its state last changed.
    pub updated: Timestamp,
}

/// What became of one try to send.
#[derive(Debug, Clone)]
pub struct Attempted {
    /// Whether it went out.
    pub state: DeliveryState,
    /// Why not.
    pub reason: Option<Reason>,
    /// What the mail server said, without addresses.
    pub detail: Option<String>,
    /// When to try again, while due.
    pub due: Option<Timestamp>,
    /// The time.
    pub at: Timestamp,
}
