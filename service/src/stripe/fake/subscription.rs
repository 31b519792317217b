//! How subscriptions of the fake world begin, go on, and truly stand.

use jiff::Timestamp;

use super::event::Event;

/// How a subscription that is made without Checkout begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Paid at once.
    Active,
    /// Its first invoice waits for money.
    Incomplete,
    /// With free days, and an invoice over nothing.
    Trialing {
        /// How many.
        days: u32,
    },
}

/// What happens to a subscription. It does nothing where it cannot happen: a canceled subscription is not renewed, and one
/// whose end is scheduled for the end of its period neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubscriptionTurn {
    /// The first money comes: incomplete becomes active.
    PayFirst,
    /// The first money never came: incomplete becomes `incomplete_expired`, its invoice void.
    Expire,
    /// The next period begins and is paid.
    Renew,
    /// The next period begins. Its invoice stays a draft, as for Stripe's first hour, until [`Self::PayLate`] or
    /// [`Self::FailAgain`].
    BeginPeriod,
    /// The next period begins and its payment fails: `past_due`.
    RenewUnpaid,
    /// A payment of the invoice that is due fails, the first time or again.
    FailAgain,
    /// The invoice that is due, or was given up, is paid after all.
    PayLate,
    /// Stripe stops trying, after `past_due`.
    GiveUp {
        /// The seller's settings say to cancel then; otherwise the subscription becomes unpaid.
        cancel: bool,
    },
    /// It ends now.
    Cancel,
    /// It ends now because it was not paid (`cancellation_details.reason`).
    CancelForPayment,
    /// It shall end with its period.
    ScheduleCancel {
        /// Told by `cancel_at_period_end` and `cancel_at`; flexible billing tells by `cancel_at` alone.
        classic: bool,
    },
    /// It shall not end.
    Unschedule,
    /// It pauses; out of a trial, for want of a payment method.
    Pause,
    /// It goes on, after the end of its period with a new, paid one.
    Resume,
    /// The trial ends and the first period is paid.
    EndTrial,
    /// That many of the first item. More cost a proration, which is not yet paid; fewer cost nothing.
    SetQuantity(u64),
    /// The proration is paid.
    PayProration,
    /// An invoice of a canceled subscription is paid.
    PayAfterEnd,
    /// The newest open invoice is void.
    VoidInvoice,
    /// The newest open invoice is given up.
    MarkUncollectible,
}

/// `subscription.status`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are Stripe's words")]
pub enum Status {
    Incomplete,
    IncompleteExpired,
    Trialing,
    Active,
    PastDue,
    Unpaid,
    Paused,
    Canceled,
}

impl Status {
    /// Stripe's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Incomplete => "incomplete",
            Self::IncompleteExpired => "incomplete_expired",
            Self::Trialing => "trialing",
            Self::Active => "active",
            Self::PastDue => "past_due",
            Self::Unpaid => "unpaid",
            Self::Paused => "paused",
            Self::Canceled => "canceled",
        }
    }

    /// Whether nothing can follow it.
    pub fn is_final(self) -> bool {
        matches!(self, Self::IncompleteExpired | Self::Canceled)
    }
}

/// A subscription that was just made without Checkout.
#[derive(Debug, Clone)]
pub struct Subscribed {
    /// `sub_…`
    pub subscription: String,
    /// `cus_…`
    pub customer: String,
    /// The events that Stripe sends for it, in the order they happened.
    pub events: Vec<Event>,
}

/// What is true of a subscription, to compare with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionTruth {
    /// `sub_…`
    pub subscription: String,
    /// The session that sold it.
    pub session: Option<String>,
    /// `cus_…`
    pub customer: String,
    /// Where it stands.
    pub status: Status,
    /// When its current period ends, paid or not.
    pub period_end: Timestamp,
    /// The latest end of a period that is paid, free ones included.
    pub paid_through: Option<Timestamp>,
    /// How many units its items sell now, paid or not.
    pub units: u64,
    /// How many of them are paid.
    pub units_paid: u64,
}
