//! What becomes of a license after it was sold, when Stripe's facts change.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// What becomes of a license when Stripe's facts change. The defaults are what the guide's own code does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rules {
    /// Which time of a subscription the expiry follows.
    pub follow: Follow,
    /// Added to that time, in seconds: Stripe collects a renewal about an hour after the period's end.
    pub buffer: u32,
    /// What a failed payment does.
    pub on_payment_failure: OnPaymentFailure,
    /// What the end of a subscription does.
    pub on_cancel: OnCancel,
    /// What a refund does. Kept with what was sold, for the version that handles refunds.
    pub on_refund: OnRefund,
    /// What a dispute does. Kept with what was sold, for the version that handles disputes.
    pub on_dispute: OnDispute,
    /// What a change to another plan does. Kept with what was sold, for the version that handles such changes.
    pub on_plan_change: OnPlanChange,
}

/// Which time of a subscription a license's expiry follows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Follow {
    /// The end of the current period, which Stripe moves before the renewal is paid.
    #[default]
    Period,
    /// The end of the last period that was paid for.
    PaidThrough,
}

/// What a failed payment does to a license.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OnPaymentFailure {
    /// What is done.
    pub action: FailureAction,
    /// For how many seconds from the first failure the license stays; none is until Stripe gives up, [`LONGEST_GRACE`] at
    /// most.
    pub grace: Option<u32>,
}

/// What is done about a failed payment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureAction {
    /// Nothing, until Stripe gives up.
    Ignore,
    /// The buyer is told, and keeps the license for the time of grace.
    #[default]
    Warn,
    /// The license ends at once.
    Revoke,
}

/// What the end of a subscription does to a license.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnCancel {
    /// It ends at once, as in the guide.
    #[default]
    Immediately,
    /// It lasts to the end of the period that was paid for, unless the end came for want of payment.
    AtPeriodEnd,
}

/// What refunds do to a license.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OnRefund {
    /// All of the money goes back.
    pub full: RefundAction,
    /// Some of it does.
    pub partial: RefundAction,
}

impl Default for OnRefund {
    fn default() -> Self {
        Self { full: RefundAction::Revoke, partial: RefundAction::Ignore }
    }
}

/// What one kind of refund does to a license.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefundAction {
    /// The license ends.
    Revoke,
    /// Nothing.
    Ignore,
}

/// What a dispute does to a license.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDispute {
    /// The license rests until the dispute is decided.
    #[default]
    Suspend,
    /// It ends.
    Revoke,
    /// Nothing.
    Ignore,
}

/// What a change to another plan does to a license.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnPlanChange {
    /// A new license takes its place.
    #[default]
    Replace,
    /// It stays as it is.
    Keep,
}

/// The longest that a license outlives an unpaid invoice.
pub const LONGEST_GRACE: SignedDuration = SignedDuration::from_hours(21 * 24);

impl OnPaymentFailure {
    /// Until when a license stays whose payment failed first at `since`; none where failures are ignored.
    pub fn grace_end(self, since: Timestamp) -> Option<Timestamp> {
        let grace = match (self.action, self.grace) {
            (FailureAction::Ignore, _) => return None,
            (FailureAction::Revoke, _) => SignedDuration::ZERO,
            (FailureAction::Warn, None) => LONGEST_GRACE,
            (FailureAction::Warn, Some(seconds)) => {
                SignedDuration::from_secs(i64::from(seconds)).min(LONGEST_GRACE)
            }
        };
        Some(since.checked_add(grace).unwrap_or(Timestamp::MAX))
    }
}
