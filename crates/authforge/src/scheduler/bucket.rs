//! The pace: a token bucket whose tokens go when a request is sent, not when it is allowed.

use std::time::Duration;

use grantsmith_core::port::Moment;

/// AuthForge's limit, or this process's share of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Requests a second, sustained.
    pub per_second: u32,
    /// Requests at once after a rest.
    pub burst: u32,
}

impl Default for Pace {
    /// AuthForge's documented limits.
    fn default() -> Self {
        Self { per_second: 50, burst: 100 }
    }
}

/// Counts what may be sent.
///
/// AuthForge counts requests when they arrive, and the network does not keep their distances: requests that left over a
/// second may arrive within half of one. A bucket that copied the limit would then overflow the server's. So a fifth of
/// the burst is left as slack, which absorbs 0.4 s of jitter at the default limit, and 2 % of the rate wins it back.
#[derive(Debug)]
pub(super) struct Bucket {
    /// What one request costs.
    cost: Duration,
    most: Duration,
    credit: Duration,
    at: Moment,
}

impl Bucket {
    pub(super) fn new(pace: Pace, now: Moment) -> Self {
        let cost = Duration::from_secs_f64(1.0 / (f64::from(pace.per_second.max(1)) * 0.98));
        let most = cost * (pace.burst / 5 * 4 + pace.burst % 5).max(1);
        Self { cost, most, credit: most, at: now }
    }

    fn refill(&mut self, now: Moment) {
        if now > self.at {
            self.credit = self.credit.saturating_add(now.since(self.at)).min(self.most);
            self.at = now;
        }
    }

    /// Whether `count` requests could be sent at once.
    pub(super) fn holds(&mut self, count: usize, now: Moment) -> bool {
        self.refill(now);
        self.credit >= self.price(count)
    }

    /// How long until it holds `count`; none if it never will.
    pub(super) fn time_until(&mut self, count: usize, now: Moment) -> Option<Duration> {
        self.refill(now);
        let price = self.price(count);
        (price <= self.most).then(|| self.at.since(now) + price.saturating_sub(self.credit))
    }

    /// Pays for a request that is being sent.
    pub(super) fn pay(&mut self, now: Moment) {
        self.refill(now);
        self.credit = self.credit.saturating_sub(self.cost);
    }

    /// Starts again empty at `at`: after a 429 the server's bucket is as empty as it was, whatever ours says.
    pub(super) fn drain_until(&mut self, at: Moment) {
        self.credit = Duration::ZERO;
        self.at = self.at.max(at);
    }

    fn price(&self, count: usize) -> Duration {
        self.cost.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX))
    }
}
