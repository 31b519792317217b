//! What people ask of grants, and what came of it.

use std::sync::Arc;

use grantsmith_core::grant::{DesiredState, LicenseName};
use grantsmith_core::license::{AppId, Fingerprint};
use grantsmith_core::manual::Promised;
use grantsmith_core::purchase::{Email, PurchaseId};
use grantsmith_core::terms::Terms;
use grantsmith_core::{Desired, GrantId, License, Reason, Slots};
use jiff::Timestamp;

use super::{Decision, GrantState, PurchaseRecord, Ticket};

/// What a person asks for.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The grant.
    pub grant: GrantId,
    /// What is to become of it.
    pub act: Act,
    /// Makes a repetition count once.
    pub request: Option<Request>,
    /// The name of the person's token.
    pub person: String,
    /// The time.
    pub at: Timestamp,
}

/// A request that may be repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The caller's id for it.
    pub id: String,
    /// A hash of all that it says: the same id for something else is a mistake.
    pub digest: String,
}

/// One act on a grant.
#[derive(Debug, Clone)]
pub enum Act {
    /// Make it.
    Promise(Promise),
    /// Change what is not about licenses, or their expiry. What is `None` stays.
    Update {
        /// The address, from now on whatever Stripe says.
        email: Option<Email>,
        /// The note; empty for none.
        note: Option<String>,
        /// The expiry of every license; `Some(None)` is never.
        expires_at: Option<Option<Timestamp>>,
    },
    /// Set the state of every license.
    Override {
        /// The state.
        state: DesiredState,
        /// Why, in the person's words.
        reason: String,
    },
    /// Take over what somebody has written into the override of a LicenseGrant.
    Overrule {
        /// The state of every license.
        state: Option<DesiredState>,
        /// The expiry of every license; `Some(None)` is never.
        expires_at: Option<Option<Timestamp>>,
        /// A held revocation may pass.
        released: bool,
        /// Why, in the person's words.
        reason: String,
    },
    /// Take state and expiry back.
    Clear,
    /// Let a held revocation pass.
    Release,
    /// Replace the key of a license; none is the only one.
    Replace(Option<LicenseName>),
    /// Unbind the devices of a license; none is the only one.
    ResetDevices(Option<LicenseName>),
    /// Keep a key that was sold without this program, as the next license of its purchase that has none. A repetition is
    /// told by the key.
    Import(Import),
}

/// A key that was sold without this program.
#[derive(Debug, Clone)]
pub struct Import {
    /// What it was sold for.
    pub purchase: PurchaseId,
    /// The mode of this installation.
    pub livemode: bool,
    /// The license.
    pub license: SoldLicense,
    /// What it shows of the terms: they count where the purchase itself tells none.
    pub terms: Terms,
    /// The buyer's address, if none is known.
    pub email: Option<Email>,
    /// Whether Stripe can be asked about the purchase.
    pub look: bool,
}

/// The license of a key that was sold without this program.
#[derive(Debug, Clone)]
pub enum SoldLicense {
    /// As AuthForge has it.
    Found(License),
    /// To be found by an operator.
    Sought {
        /// Its app.
        app_id: AppId,
        /// The name of its key.
        key: Fingerprint,
    },
}

impl SoldLicense {
    /// Its app.
    pub fn app_id(&self) -> &AppId {
        match self {
            Self::Found(license) => &license.app_id,
            Self::Sought { app_id, .. } => app_id,
        }
    }

    /// The name of its key.
    pub fn fingerprint(&self) -> Fingerprint {
        match self {
            Self::Found(license) => license.key.fingerprint(),
            Self::Sought { key, .. } => key.clone(),
        }
    }

    /// Its device slots, where they are known.
    pub fn slots(&self) -> Option<Slots> {
        match self {
            Self::Found(license) => license.slots,
            Self::Sought { .. } => None,
        }
    }
}

/// A grant that a person makes.
#[derive(Debug, Clone)]
pub struct Promise {
    /// What names it.
    pub purchase: PurchaseId,
    /// The mode of this installation.
    pub livemode: bool,
    /// The licenses, in their order.
    pub licenses: Vec<Promised>,
    /// Where their keys go.
    pub email: Option<Email>,
    /// The person's note.
    pub note: String,
}

/// What came of an ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It is done, and on record.
    Done,
    /// It was done before: this is a repetition.
    Repeated,
    /// Not, and nothing was written.
    Refused(Refusal),
}

/// Why an ask was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The request's id was used for something else.
    RequestReused,
    /// The reference names a grant already.
    Exists,
    /// There is no such grant.
    NoGrant,
    /// It has no license that could be meant.
    NothingDeclared,
    /// It has several licenses, and none was named.
    WhichLicense,
    /// It has no license of that name.
    NoLicense,
    /// The license has no live key, or its replacement is being made.
    KeyPending,
    /// No revocation of it is held.
    NothingHeld,
    /// The key is kept for another purchase.
    KeyTaken,
}

/// Where a grant stands when a person has decided.
#[derive(Debug, Clone)]
pub struct Redecided {
    /// Where it stands.
    pub state: GrantState,
    /// Why.
    pub reason: Reason,
    /// What the seller can do about it.
    pub detail: Option<String>,
    /// Fixed now, unless fixed before.
    pub terms: Option<Terms>,
    /// Fixed now, unless fixed before.
    pub paid_at: Option<Timestamp>,
    /// The licenses that should exist.
    pub licenses: Vec<Desired>,
}

impl From<Decision> for Redecided {
    fn from(decision: Decision) -> Self {
        let Decision { state, reason, detail, terms, paid_at, licenses, .. } = decision;
        Self { state, reason, detail, terms, paid_at, licenses }
    }
}

/// Decides a purchase from what is on record, within the transaction that wrote the hand. None leaves it as it is: nothing
/// was ever seen of it.
pub type Decide = Arc<dyn Fn(&PurchaseId, &PurchaseRecord, Ticket) -> Option<Redecided> + Send + Sync>;

/// What people decided about a grant, as lists show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandRow {
    /// The state of every license.
    pub state: Option<DesiredState>,
    /// The expiry of every license; `Some(None)` is never.
    pub expires_at: Option<Option<Timestamp>>,
    /// A held revocation may pass.
    pub released: bool,
    /// Why, in the person's words.
    pub reason: String,
    /// The name of the token that decided last.
    pub person: String,
    /// When.
    pub at: Timestamp,
}
