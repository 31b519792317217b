//! How often Stripe may be asked: an account, and each of its operations (Stripe, rate limits).

use std::num::NonZeroU32;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use crate::stripe::Mode;

/// Requests a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Of all operations together. Stripe allows 100 to a live account, and 25 to a sandbox.
    pub account: NonZeroU32,
    /// Of each operation. Stripe allows 25.
    pub operation: NonZeroU32,
}

impl Pace {
    /// No pace at all.
    pub const UNBOUNDED: Self = Self { account: NonZeroU32::MAX, operation: NonZeroU32::MAX };

    /// What a mode allows, less a fifth that is left to the seller's other programs.
    pub const fn of(mode: Mode) -> Self {
        match mode {
            Mode::Live => Self { account: rate(80), operation: rate(20) },
            Mode::Test => Self { account: rate(20), operation: rate(20) },
        }
    }
}

/// A rate that is not zero.
const fn rate(rate: u32) -> NonZeroU32 {
    match NonZeroU32::new(rate) {
        Some(rate) => rate,
        None => NonZeroU32::MIN,
    }
}

/// What Stripe counts apart. The rare ones share a place, as they are never many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Session,
    Sessions,
    CreateSession,
    LineItems,
    Subscription,
    SubscriptionItems,
    Invoice,
    Invoices,
    Charge,
    Other,
}

/// Makes requests wait for their turn.
#[derive(Debug)]
pub(super) struct Pacer {
    account: DefaultDirectRateLimiter,
    operations: [DefaultDirectRateLimiter; Operation::Other as usize + 1],
}

impl Pacer {
    pub(super) fn new(pace: Pace) -> Self {
        let operations = std::array::from_fn(|_| RateLimiter::direct(quota(pace.operation)));
        Self { account: RateLimiter::direct(quota(pace.account)), operations }
    }

    /// Waits until one more request of this operation keeps the pace.
    pub(super) async fn turn(&self, operation: Operation) {
        if let Some(limiter) = self.operations.get(operation as usize) {
            limiter.until_ready().await;
        }
        self.account.until_ready().await;
    }
}

/// A quarter of the rate at once: with more, a second that begins rested would see nearly twice the rate.
fn quota(rate: NonZeroU32) -> Quota {
    let burst = NonZeroU32::new(rate.get() / 4).unwrap_or(NonZeroU32::MIN);
    Quota::per_second(rate).allow_burst(burst)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn no_second_sees_more_than_stripe_allows() {
        let most = |rate| {
            let quota = quota(rate);
            let within_a_second = Duration::from_secs(1).div_duration_f64(quota.replenish_interval());
            f64::from(quota.burst_size().get()) + within_a_second
        };
        for (mode, allowed) in [(Mode::Live, 100.0), (Mode::Test, 25.0)] {
            let pace = Pace::of(mode);
            assert!(most(pace.account) <= allowed, "{mode}");
            assert!(most(pace.operation) <= 25.0, "{mode}");
        }
        assert_eq!(quota(NonZeroU32::MIN).burst_size(), NonZeroU32::MIN);
    }
}
