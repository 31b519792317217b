//! How grants are brought to what they declare: in this process, or by an operator in a cluster.

pub mod direct;
pub mod kubernetes;

use async_trait::async_trait;
use grantsmith_core::port::KeptState;
use grantsmith_core::{DesiredState, GrantId, Reason};

use crate::store::{Error, GrantLicense, GrantRow, GrantState, Progress};
use crate::worker::Touched;

pub use direct::Direct;
pub use kubernetes::Cluster;

/// Brings grants to what they declare.
///
/// # Guarantees
/// - Whatever dies when: of each license that is declared one key becomes known, once.
/// - A round that fails leaves all that it has done known to the next one.
///
/// # Caveats
/// - One round at a time for each grant.
#[async_trait]
pub trait Issuer: Send + Sync + std::fmt::Debug {
    /// One round of work on a grant: what it came to. None if what was to be done has changed meanwhile.
    async fn work(&self, row: &GrantRow) -> Result<Option<Progress>, Error>;

    /// What would be done, for `--mode observe`.
    async fn rehearse(&self, row: &GrantRow) -> Progress;

    /// Puts the keys in place, where the record does not hold them. A license whose key is not there is not kept.
    async fn unlock(&self, row: GrantRow) -> Result<Unlocked, Error>;

    /// A mail with a grant's keys was taken.
    fn delivered(&self, grant: &GrantId, touched: &Touched);
}

/// A grant with its keys.
#[derive(Debug)]
pub struct Unlocked {
    /// The grant.
    pub row: GrantRow,
    /// Whether every key is there of which the grant tells.
    pub whole: bool,
}

/// What a reason says about its grant: 0 as declared, 1 the same but out of the ordinary, 2 under way, 3 for a person.
fn weight(reason: Reason) -> u8 {
    match reason {
        Reason::RevokedElsewhere
        | Reason::BeforeStart
        | Reason::DuplicateLicenses
        | Reason::KeyNotFound
        | Reason::ReinstateRefused
        | Reason::ShortenRefused
        | Reason::TooManyUnits => 3,
        Reason::Issuing
        | Reason::OutcomeUnknown
        | Reason::RateLimited
        | Reason::CreditsExhausted
        | Reason::Unauthorized
        | Reason::Rejected
        | Reason::AuthForgeUnavailable
        | Reason::RevocationHeld => 2,
        Reason::Issued => 0,
        _ => 1,
    }
}

fn state(licenses: &[(grantsmith_core::LicenseName, Reason)]) -> GrantState {
    let any = |wanted: u8| licenses.iter().any(|(_, reason)| weight(*reason) == wanted);
    if any(3) {
        GrantState::Parked
    } else if any(2) {
        GrantState::Issuing
    } else {
        GrantState::Ready
    }
}

/// Whether somebody waits for a mail: who makes a grant without an address hands the keys over, while one at Stripe always has
/// a buyer, and a missing address is worth an alarm.
fn addressed(row: &GrantRow) -> bool {
    row.email.is_some() || row.purchase.stripe_id().is_some()
}

/// Whether there is something to mail, and every license that should be live is.
fn deliverable(licenses: &[GrantLicense]) -> bool {
    let mut wanted =
        licenses.iter().filter(|license| license.desired.state == DesiredState::Active).peekable();
    let live =
        |license: &GrantLicense| license.kept.as_ref().is_some_and(|kept| kept.state == KeptState::Live);
    wanted.peek().is_some() && wanted.all(live)
}
