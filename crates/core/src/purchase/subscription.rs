//! Subscriptions and the invoices that pay for them, as last seen.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Email, LineItem, StripeId};

/// A subscription as last seen (Stripe, subscriptions/object).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionSnapshot {
    /// `sub_…`
    pub id: StripeId,
    /// Where it stands.
    pub status: SubscriptionStatus,
    /// When it was made.
    pub created: Timestamp,
    /// Stripe's live mode, as opposed to test mode.
    pub livemode: bool,
    /// The seller's metadata.
    pub metadata: BTreeMap<String, String>,
    /// The customer, `cus_…`.
    pub customer: Option<StripeId>,
    /// The customer's address, where the customer was told too.
    pub email: Option<Email>,
    /// What is subscribed to.
    pub items: Vec<SubscriptionItem>,
    /// Whether those are all items.
    pub items_complete: bool,
    /// When the current period began, the latest of all items.
    pub period_start: Option<Timestamp>,
    /// When the current period ends, the latest of all items.
    pub period_end: Option<Timestamp>,
    /// When the trial ends.
    pub trial_end: Option<Timestamp>,
    /// Why it ends or has ended, where that matters.
    pub cancellation: Option<Cancellation>,
    /// The newest invoice, `in_…`.
    pub latest_invoice: Option<StripeId>,
}

/// One thing subscribed to (Stripe, subscription items).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionItem {
    /// Price and quantity.
    pub line: LineItem,
    /// When its current period ends; mixed intervals differ.
    pub period_end: Option<Timestamp>,
}

/// Why a subscription ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancellation {
    /// Its end is scheduled: `cancel_at`, or `cancel_at_period_end` in the classic rendering.
    Scheduled,
    /// A payment failed or was disputed (`cancellation_details.reason`).
    Unpaid,
}

/// `subscription.status`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubscriptionStatus {
    /// The first payment is not done.
    Incomplete,
    /// The first payment was never done. Final.
    IncompleteExpired,
    /// In its trial.
    Trialing,
    /// In good standing.
    Active,
    /// The latest invoice is not paid; Stripe goes on trying.
    PastDue,
    /// Stripe has given up trying.
    Unpaid,
    /// Paused.
    Paused,
    /// Over. Final.
    Canceled,
    /// A value newer than this program, which changes nothing.
    Other,
}

impl SubscriptionStatus {
    /// Whether nothing can follow it.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Canceled | Self::IncompleteExpired)
    }

    /// How much it leaves to the buyer: of two that cannot be put in order, the greater is believed.
    fn kindness(self) -> u8 {
        match self {
            Self::Active | Self::Trialing => 3,
            Self::PastDue => 2,
            Self::Paused | Self::Unpaid | Self::Incomplete | Self::Other => 1,
            Self::IncompleteExpired | Self::Canceled => 0,
        }
    }
}

/// A subscription as an event told it, for installations that have no Stripe API key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToldSubscription {
    /// What the event's body showed.
    pub subscription: SubscriptionSnapshot,
    /// The status before the change, where the event tells (`previous_attributes`).
    pub was: Option<SubscriptionStatus>,
    /// The event's `created`, in whole seconds.
    pub event_at: Timestamp,
    /// The event's id, which breaks the last tie the same way in every order.
    pub event_id: String,
}

impl ToldSubscription {
    /// Of all tellings of one subscription the one to believe: a function of the set, whatever the order.
    ///
    /// A final status stays; then the latest second; within it, what another one names as its own past gives way; then the
    /// status that leaves the buyer more.
    pub fn newest(told: impl IntoIterator<Item = Self>) -> Option<Self> {
        let mut told: Vec<Self> = told.into_iter().collect();
        if told.iter().any(Self::is_final) {
            told.retain(Self::is_final);
        }
        let latest = told.iter().map(|told| told.event_at).max()?;
        told.retain(|told| told.event_at == latest);
        let past: Vec<bool> = told.iter().map(|one| told.iter().any(|other| other.follows(one))).collect();
        let current: Vec<Self> =
            told.iter().zip(past).filter(|(_, past)| !past).map(|(one, _)| one.clone()).collect();
        // In a circle of changes within one second each is the past of another.
        let candidates = if current.is_empty() { told } else { current };
        candidates.into_iter().max_by_key(|told| {
            (told.subscription.status.kindness(), told.subscription.period_end, told.event_id.clone())
        })
    }

    fn is_final(&self) -> bool {
        self.subscription.status.is_final()
    }

    fn follows(&self, other: &Self) -> bool {
        self.was == Some(other.subscription.status) && self.subscription.status != other.subscription.status
    }
}

/// What is known of one invoice: a ledger entry, which only ever grows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvoiceFact {
    /// `in_…`
    pub id: String,
    /// Where it stands.
    pub status: InvoiceStatus,
    /// When a payment of it failed first.
    pub failed_since: Option<Timestamp>,
    /// The end of the time that it pays for: of its subscription lines, prorations aside.
    pub pays_through: Option<Timestamp>,
}

/// `invoice.status`, in the order in which it may advance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InvoiceStatus {
    /// A value newer than this program.
    Other,
    /// Not final.
    Draft,
    /// To be paid.
    Open,
    /// Given up. A late payment may still come.
    Uncollectible,
    /// Taken back.
    Void,
    /// Paid.
    Paid,
}

impl InvoiceFact {
    /// Two views of one invoice as one: the same in any order, and however often.
    #[must_use]
    pub fn merged(self, other: &Self) -> Self {
        Self {
            status: self.status.max(other.status),
            failed_since: self.failed_since.into_iter().chain(other.failed_since).min(),
            pays_through: self.pays_through.max(other.pays_through),
            id: self.id,
        }
    }

    /// When its payment failed first, if it is still to be paid.
    pub fn failing_since(&self) -> Option<Timestamp> {
        self.failed_since.filter(|_| self.status <= InvoiceStatus::Open)
    }

    /// Those of `all` whose payment fails, and since when. One that was left open, and whose time has been paid for since by another,
    /// fails no longer, unless it is the `newest`.
    pub fn failing<'a>(
        all: &'a [Self],
        newest: Option<&'a str>,
    ) -> impl Iterator<Item = (&'a Self, Timestamp)> {
        let paid = Self::paid_through(all);
        let owed = move |fact: &&Self| {
            Some(fact.id.as_str()) == newest
                || fact.pays_through.is_none_or(|end| paid.is_none_or(|paid| end > paid))
        };
        all.iter().filter(owed).filter_map(|fact| Some((fact, fact.failing_since()?)))
    }

    /// The latest end of what was paid for.
    pub fn paid_through(all: &[Self]) -> Option<Timestamp> {
        all.iter()
            .filter(|fact| fact.status == InvoiceStatus::Paid)
            .filter_map(|fact| fact.pays_through)
            .max()
    }
}
