//! How often pages may be asked for: per session id, so that nobody polls a key away, and per client, so that nobody tries
//! ids.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use sha2::{Digest, Sha256};

const PER_SESSION: NonZeroU32 = NonZeroU32::new(60).expect("not zero");
const PER_CLIENT: NonZeroU32 = NonZeroU32::new(600).expect("not zero");

/// The limits' memory.
#[derive(Debug)]
pub struct Limits {
    sessions: DefaultKeyedRateLimiter<[u8; 8]>,
    clients: DefaultKeyedRateLimiter<IpAddr>,
    clock: DefaultClock,
}

impl Limits {
    pub(super) fn new() -> Self {
        Self {
            sessions: RateLimiter::keyed(Quota::per_minute(PER_SESSION)),
            clients: RateLimiter::keyed(Quota::per_minute(PER_CLIENT)),
            clock: DefaultClock::default(),
        }
    }

    /// Counts one visit; the time to wait if it is one too many.
    pub(super) fn visit(&self, client: IpAddr, session: &str) -> Result<(), Duration> {
        let wait = |until: governor::NotUntil<_>| until.wait_time_from(self.clock.now());
        self.clients.check_key(&client).map_err(wait)?;
        let hash = Sha256::digest(session.as_bytes());
        let key = hash.first_chunk().copied().unwrap_or_default();
        self.sessions.check_key(&key).map_err(wait)
    }

    /// Forgets who has not come lately, so that memory stays bounded.
    pub fn tidy(&self) {
        self.sessions.retain_recent();
        self.clients.retain_recent();
    }
}
