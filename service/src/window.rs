//! How often something may happen: at most so many times in any span of time whatever.
//!
//! "At most 60 a minute" is meant as it stands. A bucket that refills lets twice as many through while it empties, so each
//! time is remembered for as long as it counts instead.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The visits of the last span, oldest first, for each key.
#[derive(Debug)]
pub(crate) struct Window<K> {
    most: usize,
    span: Duration,
    visits: Mutex<HashMap<K, VecDeque<Instant>>>,
}

impl<K: Eq + Hash> Window<K> {
    /// So many visits in any span of this length.
    pub(crate) fn new(most: usize, span: Duration) -> Self {
        Self { most, span, visits: Mutex::default() }
    }

    /// Counts a visit; one too many is not counted, and told how long to wait.
    pub(crate) fn visit(&self, key: K, now: Instant) -> Result<(), Duration> {
        let mut all = self.visits();
        let visits = all.entry(key).or_default();
        while visits.front().is_some_and(|first| now.duration_since(*first) >= self.span) {
            visits.pop_front();
        }
        match visits.front() {
            Some(first) if visits.len() >= self.most => {
                Err(self.span.saturating_sub(now.duration_since(*first)))
            }
            _ => {
                visits.push_back(now);
                Ok(())
            }
        }
    }

    /// Forgets who has not come lately, so that memory stays bounded.
    pub(crate) fn tidy(&self, now: Instant) {
        let mut all = self.visits();
        all.retain(|_, visits| visits.back().is_some_and(|last| now.duration_since(*last) < self.span));
        all.shrink_to_fit();
    }

    /// Whether nobody is remembered.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.visits().is_empty()
    }

    fn visits(&self) -> MutexGuard<'_, HashMap<K, VecDeque<Instant>>> {
        self.visits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who counts as one client: an IPv6 customer has as many addresses as they like, but one network.
pub(crate) fn household(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => client,
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_network_is_one_client() {
        let of = |text: &str| household(text.parse().expect("an address"));
        assert_eq!(of("2001:db8:1:2:3::4"), of("2001:db8:1:2:ffff::1"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }
}
