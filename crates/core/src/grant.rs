//! The grant: our promise for one purchase, and the words for its parts.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::license::{AppId, Fingerprint, Slots};
use crate::purchase::PurchaseId;
use crate::reason::Reason;

/// The id of a grant, derived from its purchase: SQL key, resource name and page token all use it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GrantId(String);

impl GrantId {
    /// The id of a purchase's grant: `lg-` and 100 bits of a hash, fit for the name of a Kubernetes object.
    pub fn of(purchase: &PurchaseId) -> Self {
        let hash = Sha256::digest(purchase.as_str().as_bytes());
        let mut text = data_encoding::BASE32_NOPAD.encode(&hash).to_ascii_lowercase();
        text.truncate(20);
        Self(format!("lg-{text}"))
    }

    /// Reads an id that somebody typed.
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("lg-")?;
        let plain = rest.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        (plain && rest.len() == 20).then(|| Self(text.to_owned()))
    }

    /// The id's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for GrantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a license within its grant: `main`, then `2`, `3` and so on.
///
/// Ten characters at most, so that the longest id, name and generation still make a label that AuthForge takes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LicenseName(String);

impl LicenseName {
    const MAIN: &'static str = "main";
    const LONGEST: usize = 10;

    /// The first license of a grant.
    pub fn main() -> Self {
        Self(Self::MAIN.to_owned())
    }

    /// The name of the `ordinal`-th unit; the first is 1.
    pub fn of_unit(ordinal: u32) -> Self {
        if ordinal <= 1 { Self::main() } else { Self(ordinal.to_string()) }
    }

    /// Reads a name: up to ten lower-case letters, digits and inner `-`.
    pub fn parse(text: &str) -> Option<Self> {
        let plain = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        let edges = !text.starts_with('-') && !text.ends_with('-');
        (plain && edges && (1..=Self::LONGEST).contains(&text.len())).then(|| Self(text.to_owned()))
    }

    /// Whether it is the first license, whose label has no name.
    pub fn is_main(&self) -> bool {
        self.0 == Self::MAIN
    }

    /// Which unit the name was given to; none for a name that a person gave.
    pub fn ordinal(&self) -> Option<u32> {
        if self.is_main() { Some(1) } else { self.0.parse().ok().filter(|ordinal| *ordinal > 1) }
    }

    /// The name's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LicenseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a purchase entitles to: the outcome of [`crate::entitle()`] and the aim of [`crate::plan()`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Whose grant it is.
    pub purchase: PurchaseId,
    /// When it was paid; absent where nobody knows, and then nothing is created without a look.
    pub paid_at: Option<Timestamp>,
    /// Where the purchase stands.
    pub standing: Standing,
    /// The licenses that should exist, none unless the standing is [`Standing::Entitled`].
    pub licenses: Vec<Desired>,
    /// A person said that what is held may go on.
    pub released: bool,
    /// A payment is failing, and the buyer should know.
    pub dunning: Option<Dunning>,
    /// When to look at Stripe again without being told.
    pub look_again: Option<Timestamp>,
}

/// A payment that fails while its license stays for a time of grace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dunning {
    /// The invoice, `in_…`.
    pub invoice: String,
    /// When its payment failed first.
    pub since: Timestamp,
    /// When the license ends if it is not paid.
    pub ends_at: Timestamp,
}

/// A license that was declared before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    /// Its name.
    pub name: LicenseName,
    /// The app that the name belongs to.
    pub app_id: AppId,
    /// Its device slots.
    pub slots: Slots,
    /// Its key was imported, and no paid unit of its app has been found for it so far: it stays all the same.
    pub imported: bool,
    /// Whether its expiry was a term of sale, or followed the subscription.
    pub expiry: Expiry,
    /// Its unit was taken out of the purchase.
    pub withdrawn: bool,
}

/// Where a purchase stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Licenses are declared.
    Entitled,
    /// Money may still come.
    Pending(Reason),
    /// It came to nothing.
    Ended(Reason),
    /// It waits for a person.
    Parked(Reason, String),
    /// It is none of our business.
    NotOurs(String),
}

/// One license that should exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// Its name within the grant.
    pub name: LicenseName,
    /// 1, or more for replacements.
    pub generation: u32,
    /// The app it is for.
    pub app_id: AppId,
    /// Its device slots.
    pub slots: Slots,
    /// Live or not.
    pub state: DesiredState,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
    /// Whether the terms of an adopted license yield to these.
    pub expiry: Expiry,
    /// Why the state is what it is.
    pub reason: Reason,
    /// Who decided the state.
    pub cause: Cause,
    /// Its key was imported, and no paid unit of its app has been found for it so far.
    pub imported: bool,
    /// Its unit was taken out of the purchase: it is bought no more.
    pub withdrawn: bool,
    /// The key of the license that it is to be, whoever made that and whatever its label: it is found, or nothing is.
    pub adopt: Option<Fingerprint>,
}

/// Whether an expiry is a term of sale or follows something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// Fixed when sold: a license that somebody else made for this purchase keeps its own.
    Sold,
    /// Decided anew: the license is brought to it.
    Followed,
}

/// Whether a license should be live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DesiredState {
    /// Live.
    Active,
    /// Revoked at AuthForge, and brought back by rule.
    Suspended,
    /// Revoked at AuthForge, and brought back by a hand only.
    Revoked,
}

/// Who decided: the law on the revocation budget tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// A rule over Stripe's facts.
    Rule,
    /// A person.
    Hand,
}

/// What a person decided about a grant. State and expiry outrank Stripe both ways until they are taken back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hand {
    /// The state that the person wants.
    pub state: Option<DesiredState>,
    /// The expiry that the person wants; `Some(None)` is a lifetime.
    pub expires_at: Option<Option<Timestamp>>,
    /// What the rules revoke may be revoked whatever the budget says.
    pub released: bool,
    /// Once a person has set the expiry: what adopted licenses had before, as licenses are brought to what was sold when it
    /// is taken back.
    pub sold: Option<BTreeMap<LicenseName, Option<Timestamp>>>,
    /// The generations of replaced licenses. A replacement is never taken back: the old key is revoked.
    pub generations: BTreeMap<LicenseName, u32>,
}

impl Hand {
    /// A unit that was taken out of the purchase, as it is under this hand: whoever brings the purchase back means what is
    /// in it.
    #[must_use]
    pub fn apply_to_withdrawn(&self, desired: Desired) -> Desired {
        let state = self.state.filter(|state| *state != DesiredState::Active);
        Self { state, expires_at: None, sold: None, ..self.clone() }.apply(desired)
    }

    /// A license that the rules declare, as it is under this hand.
    #[must_use]
    pub fn apply(&self, mut desired: Desired) -> Desired {
        if let Some(generation) = self.generations.get(&desired.name) {
            desired.generation = *generation;
        }
        if let Some(state) = self.state {
            desired.state = state;
            desired.cause = Cause::Hand;
            desired.reason = Reason::Overridden;
        }
        if self.released && desired.state != DesiredState::Active {
            desired.cause = Cause::Hand;
        }
        match (self.expires_at, &self.sold) {
            (Some(expires_at), _) => {
                desired.expires_at = expires_at;
                desired.expiry = Expiry::Followed;
                if desired.state == DesiredState::Active {
                    desired.reason = Reason::Overridden;
                }
            }
            (None, Some(adopted)) if desired.expiry == Expiry::Sold => {
                desired.expires_at = adopted.get(&desired.name).copied().unwrap_or(desired.expires_at);
                desired.expiry = Expiry::Followed;
            }
            (None, _) => {}
        }
        desired
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grants_id_is_its_purchases_for_ever() {
        let purchase = PurchaseId::parse("cs_test_a1").expect("purchase");
        let id = GrantId::of(&purchase);
        // A changed hash would orphan every grant that exists.
        assert_eq!(id.as_str(), "lg-dqhj3k65imhraixkyney");
        assert_eq!(GrantId::parse(id.as_str()), Some(id));
        assert_eq!(GrantId::parse("lg-short"), None);
    }

    #[test]
    fn units_are_named_by_their_ordinal() {
        assert_eq!(LicenseName::of_unit(1).as_str(), "main");
        assert_eq!(LicenseName::of_unit(100).as_str(), "100");
        for bad in ["", "-a", "a-", "A", "a b", "abcdefghijk"] {
            assert_eq!(LicenseName::parse(bad), None, "{bad:?}");
        }
    }
}
