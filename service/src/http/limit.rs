//! How often pages may be asked for: per session id, so that nobody polls a key away, and per client, so that nobody tries
//! ids. And how often a client may ask for payment pages.

use std::net::IpAddr;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::window::{Window, household};

const PER_SESSION: usize = 60;
const PER_CLIENT: usize = 600;
/// Each is a session at Stripe.
const CHECKOUTS_PER_CLIENT: usize = 30;
const MINUTE: Duration = Duration::from_secs(60);

/// The limits' memory.
#[derive(Debug)]
pub struct Limits {
    sessions: Window<[u8; 8]>,
    clients: Window<IpAddr>,
    checkouts: Window<IpAddr>,
}

impl Limits {
    pub(super) fn new() -> Self {
        Self {
            sessions: Window::new(PER_SESSION, MINUTE),
            clients: Window::new(PER_CLIENT, MINUTE),
            checkouts: Window::new(CHECKOUTS_PER_CLIENT, MINUTE),
        }
    }

    /// Counts one visit; the time to wait if it is one too many.
    pub(super) fn visit(&self, client: IpAddr, session: &str) -> Result<(), Duration> {
        self.visit_at(client, session, Instant::now())
    }

    fn visit_at(&self, client: IpAddr, session: &str, now: Instant) -> Result<(), Duration> {
        self.clients.visit(household(client), now)?;
        let hash = Sha256::digest(session.as_bytes());
        self.sessions.visit(hash.first_chunk().copied().unwrap_or_default(), now)
    }

    /// Counts one call of `create-checkout`; the time to wait if it is one too many.
    pub(super) fn checkout(&self, client: IpAddr) -> Result<(), Duration> {
        self.checkouts.visit(household(client), Instant::now())
    }

    /// Forgets who has not come lately, so that memory stays bounded.
    pub fn tidy(&self) {
        self.tidy_at(Instant::now());
    }

    fn tidy_at(&self, now: Instant) {
        self.sessions.tidy(now);
        self.clients.tidy(now);
        self.checkouts.tidy(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_minute_has_more_visits_than_it_may() {
        let (limits, begun) = (Limits::new(), Instant::now());
        let mut counted = Vec::new();
        for second in 0..300_u64 {
            let now = begun + Duration::from_secs(second);
            for client in 0..4 {
                match limits.visit_at(IpAddr::from([192, 0, 2, client]), "cs_1", now) {
                    Ok(()) => counted.push(second),
                    Err(wait) => assert!(!wait.is_zero() && wait <= MINUTE),
                }
            }
        }
        assert_eq!(counted.len(), 300);
        for second in 0..240 {
            let minute = counted.iter().filter(|at| (second..second + 60).contains(*at)).count();
            assert!(minute <= PER_SESSION, "{minute} visits in the minute from second {second}");
        }
    }

    #[test]
    fn who_waits_as_told_gets_in_and_who_stays_away_is_forgotten() {
        let (limits, begun) = (Limits::new(), Instant::now());
        let client = IpAddr::from([192, 0, 2, 1]);
        for number in 0..PER_CLIENT {
            assert_eq!(limits.visit_at(client, &number.to_string(), begun), Ok(()));
        }
        let wait = limits.visit_at(client, "another", begun).expect_err("one too many");
        assert_eq!(limits.visit_at(client, "another", begun + wait), Ok(()));
        limits.tidy_at(begun + wait + MINUTE);
        assert!(limits.clients.is_empty() && limits.sessions.is_empty());
    }

    #[test]
    fn one_network_is_one_client() {
        let (limits, begun) = (Limits::new(), Instant::now());
        let of = |network: u16, host: u16| IpAddr::from([0x2001, 0xdb8, 1, network, 0, 0, 0, host]);
        let refused = |visited: Result<(), Duration>| visited.is_err();
        let visits = (0..=PER_CLIENT).zip(0_u16..);
        let last =
            visits.map(|(number, host)| limits.visit_at(of(1, host), &number.to_string(), begun)).last();
        assert!(last.is_some_and(refused));
        let calls = (0..=CHECKOUTS_PER_CLIENT).zip(0_u16..);
        assert!(calls.map(|(_, host)| limits.checkout(of(1, host))).last().is_some_and(refused));
        assert_eq!(limits.visit_at(of(2, 0), "another", begun), Ok(()), "the neighbour");
        assert_eq!(limits.checkout(of(2, 0)), Ok(()));
    }
}
