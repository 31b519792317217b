//! The pace: a token bucket that is never fuller than AuthForge's.

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
/// AuthForge counts a request when it arrives, which is somewhere between its sending and its answer: the network does not
/// keep distances, and a burst that opens connections arrives much later than the requests behind it. So a token is held
/// from the permit on and paid for only when the answer is there. Whenever within that time the request arrived, the
/// server's bucket had a token for it, and has had at least as long as ours to fill again. The price is that no more than
/// the burst can be under way at once, which binds only at answers slower than two seconds. (A bucket that pays at the
/// permit and leaves a fifth of the burst as slack was tried: under load it met 429.) 1 % of the rate is left for clocks
/// that do not run alike.
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
        let cost = Duration::from_secs_f64(1.0 / (f64::from(pace.per_second.max(1)) * 0.99));
        let most = cost * pace.burst.max(1);
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

    /// Pays for a request that has been answered.
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
