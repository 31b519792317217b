//! To core's words and back: a spec becomes a grant, a status the record of it.
//!
//! What core says always has a place in a status. What people wrote may mean nothing to core, where a server let it pass
//! whose definition is another version's.

use grantsmith_core::grant::{
    self, Cause, Desired, DesiredState, Expiry, Grant, Hand, LicenseName, Standing,
};
use grantsmith_core::license::{AppId, Fingerprint, LicenseKey, Slots};
use grantsmith_core::port::{self, Attempt, AttemptId, Kept, Outcome, ResetOutcome};
use grantsmith_core::purchase::{InvalidId, PurchaseId};
use grantsmith_core::reason::Reason;
use jiff::{SignedDuration, Timestamp};

use crate::spec::{
    DeclaredLicense, FoundExpiry, LicenseGrantSpec, Override, Provider, Purchase, PurchaseKind, State,
    StateReason,
};
use crate::status::{AttemptOutcome, AttemptStatus, DevicesReset, KeptState, LicenseStatus, Refusal};
use grantsmith_core::manual::{InvalidManualId, ManualId};

/// What an object says that core has no word for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It names no purchase.
    #[error("spec.purchase names none: give id with provider: stripe, or reference with provider: manual")]
    NoPurchase,
    /// The id is not one of Stripe's.
    #[error("spec.purchase.id: {0}")]
    Id(InvalidId),
    /// The reference cannot stand in a label.
    #[error("spec.purchase.reference: {0}")]
    Reference(InvalidManualId),
    /// A license's name cannot stand in a label.
    #[error("'{0}' is no license's name: write 1 to 10 lower-case letters, digits and inner '-'")]
    Name(String),
    /// An app's id is none.
    #[error("'{0}' is no app id: copy it from AuthForge's dashboard")]
    App(String),
    /// A number is out of its range.
    #[error("{field} of license '{license}' is {value}, which is out of range")]
    Range {
        /// Which number.
        field: &'static str,
        /// Of which license.
        license: String,
        /// What it is.
        value: i32,
    },
}

impl Purchase {
    /// The purchase, as everything else names it. Manual grants carry the name of the installation.
    pub fn purchase_id(&self, installation: &str) -> Result<PurchaseId, Error> {
        match (self.provider, &self.id, &self.reference) {
            // A slash would read as a manual grant's id.
            (Provider::Stripe, Some(id), None) if !id.contains('/') => {
                PurchaseId::parse(id).map_err(Error::Id)
            }
            (Provider::Stripe, Some(_), None) => Err(Error::Id(InvalidId)),
            (Provider::Manual, None, Some(reference)) => {
                ManualId::new(installation, reference).map(PurchaseId::Manual).map_err(Error::Reference)
            }
            (Provider::Stripe | Provider::Manual, _, _) => Err(Error::NoPurchase),
        }
    }
}

impl LicenseGrantSpec {
    /// The grant that is declared, the override applied.
    pub fn grant(&self, installation: &str) -> Result<Grant, Error> {
        let hand = self.hand.as_ref().map(Override::hand).unwrap_or_default();
        let licenses = self.licenses.iter().map(|license| {
            let desired = license.desired()?;
            Ok(if license.withdrawn { hand.apply_to_withdrawn(desired) } else { hand.apply(desired) })
        });
        Ok(Grant {
            purchase: self.purchase.purchase_id(installation)?,
            paid_at: self.purchase.paid_at,
            standing: Standing::Entitled,
            licenses: licenses.collect::<Result<_, Error>>()?,
            released: hand.released,
            dunning: None,
            look_again: None,
        })
    }
}

impl DeclaredLicense {
    fn desired(&self) -> Result<Desired, Error> {
        let range = |field, value| Error::Range { field, license: self.name.clone(), value };
        let slots = match (self.unlimited_hwid_slots, self.max_hwid_slots) {
            (Some(true), _) => Slots::Unlimited,
            (_, Some(slots)) => u8::try_from(slots)
                .ok()
                .filter(|slots| (1..=Slots::MOST).contains(slots))
                .map(Slots::Limited)
                .ok_or_else(|| range("maxHwidSlots", slots))?,
            (_, None) => Slots::Limited(1),
        };
        let state = DesiredState::from(self.state);
        let reason = self.reason.map_or(
            if state == DesiredState::Active { Reason::Issued } else { Reason::Canceled },
            Reason::from,
        );
        Ok(Desired {
            name: name(&self.name)?,
            generation: generation(&self.name, self.generation)?,
            app_id: app(&self.app_id)?,
            slots,
            state,
            expires_at: self.expires_at,
            // What is declared may change, and the license follows.
            expiry: match self.found_expiry {
                FoundExpiry::Follow => Expiry::Followed,
                FoundExpiry::Keep => Expiry::Sold,
            },
            reason,
            cause: Cause::Rule,
            imported: false,
            withdrawn: false,
            adopt: self.adopt.clone().map(Fingerprint::from_hex),
        })
    }
}

/// How a license is declared.
impl From<&Desired> for DeclaredLicense {
    fn from(desired: &Desired) -> Self {
        let (max_hwid_slots, unlimited_hwid_slots) = match desired.slots {
            Slots::Limited(slots) => (Some(i32::from(slots)), None),
            Slots::Unlimited => (None, Some(true)),
        };
        Self {
            name: desired.name.to_string(),
            app_id: desired.app_id.to_string(),
            max_hwid_slots,
            unlimited_hwid_slots,
            state: desired.state.into(),
            reason: StateReason::of(desired.reason),
            expires_at: desired.expires_at,
            found_expiry: match desired.expiry {
                Expiry::Followed => FoundExpiry::Follow,
                Expiry::Sold => FoundExpiry::Keep,
            },
            withdrawn: false,
            generation: stored(desired.generation),
            devices_reset_at: None,
            adopt: desired.adopt.as_ref().map(ToString::to_string),
        }
    }
}

/// How a purchase is declared.
impl Purchase {
    /// A purchase that was paid then.
    pub fn of(purchase: &PurchaseId, paid_at: Option<Timestamp>, livemode: bool) -> Self {
        let (provider, kind, id, reference) = match purchase {
            PurchaseId::Session(id) => {
                (Provider::Stripe, Some(PurchaseKind::Session), Some(id.to_string()), None)
            }
            PurchaseId::Subscription(id) => {
                (Provider::Stripe, Some(PurchaseKind::Subscription), Some(id.to_string()), None)
            }
            PurchaseId::Manual(id) => (Provider::Manual, None, None, Some(id.reference().to_owned())),
        };
        Self { provider, kind, id, reference, paid_at, livemode: Some(livemode) }
    }
}

fn name(text: &str) -> Result<LicenseName, Error> {
    LicenseName::parse(text).ok_or_else(|| Error::Name(text.to_owned()))
}

fn app(text: &str) -> Result<AppId, Error> {
    AppId::parse(text).ok_or_else(|| Error::App(text.to_owned()))
}

fn generation(license: &str, value: i32) -> Result<u32, Error> {
    let range = || Error::Range { field: "generation", license: license.to_owned(), value };
    u32::try_from(value).ok().filter(|generation| *generation > 0).ok_or_else(range)
}

fn stored(generation: u32) -> i32 {
    i32::try_from(generation).unwrap_or(i32::MAX)
}

impl Override {
    /// What it does to licenses.
    pub fn hand(&self) -> Hand {
        let never = self.never_expires.unwrap_or(false);
        Hand {
            state: self.state.map(DesiredState::from),
            expires_at: if never { Some(None) } else { self.expires_at.map(Some) },
            released: self.release.unwrap_or(false),
            ..Hand::default()
        }
    }
}

impl From<DesiredState> for State {
    fn from(state: DesiredState) -> Self {
        match state {
            DesiredState::Active => Self::Active,
            DesiredState::Suspended => Self::Suspended,
            DesiredState::Revoked => Self::Revoked,
        }
    }
}

impl From<State> for DesiredState {
    fn from(state: State) -> Self {
        match state {
            State::Active => Self::Active,
            State::Suspended => Self::Suspended,
            State::Revoked => Self::Revoked,
        }
    }
}

impl StateReason {
    /// The word for a reason, if it is one that a state can have.
    pub fn of(reason: Reason) -> Option<Self> {
        Some(match reason {
            Reason::Canceled => Self::Canceled,
            Reason::Disputed => Self::Disputed,
            Reason::Ending => Self::Ending,
            Reason::Expired => Self::Expired,
            Reason::PaymentFailed => Self::PaymentFailed,
            Reason::PaymentPending => Self::PaymentPending,
            Reason::Refunded => Self::Refunded,
            _ => return None,
        })
    }
}

impl From<StateReason> for Reason {
    fn from(reason: StateReason) -> Self {
        match reason {
            StateReason::Canceled => Self::Canceled,
            StateReason::Disputed => Self::Disputed,
            StateReason::Ending => Self::Ending,
            StateReason::Expired => Self::Expired,
            StateReason::PaymentFailed => Self::PaymentFailed,
            StateReason::PaymentPending => Self::PaymentPending,
            StateReason::Refunded => Self::Refunded,
        }
    }
}

impl LicenseStatus {
    /// How a kept license is shown.
    pub fn of(kept: &Kept) -> Self {
        let (state, revoked) = match kept.state {
            port::KeptState::Live => (KeptState::Live, None),
            port::KeptState::Revoking { at, cause } => (KeptState::Revoking, Some((at, cause))),
            port::KeptState::Revoked { at, cause } => (KeptState::Revoked, Some((at, cause))),
            port::KeptState::Reinstating => (KeptState::Reinstating, None),
            port::KeptState::RevokedElsewhere => (KeptState::RevokedElsewhere, None),
        };
        let (refused, refused_expiry) = match kept.refused {
            None => (None, None),
            Some(port::Refusal::Reinstate) => (Some(Refusal::Reinstate), None),
            Some(port::Refusal::Shorten(to)) => (Some(Refusal::Shorten), Some(to)),
        };
        let (max_hwid_slots, unlimited_hwid_slots) = match kept.slots {
            None => (None, None),
            Some(Slots::Limited(slots)) => (Some(i32::from(slots)), None),
            Some(Slots::Unlimited) => (None, Some(true)),
        };
        Self {
            name: kept.name.to_string(),
            generation: stored(kept.generation),
            state,
            key: kept.key.masked(),
            fingerprint: kept.key.fingerprint().to_string(),
            app_id: kept.app_id.to_string(),
            max_hwid_slots,
            unlimited_hwid_slots,
            created_at: kept.created_at,
            expires_at: kept.expires_at,
            attempt: kept.attempt.as_ref().map(ToString::to_string),
            revoked_at: revoked.map(|(at, _)| at),
            cause: revoked.map(|(_, cause)| cause.into()),
            duplicated: kept.duplicated.then_some(true),
            refused,
            refused_expiry,
            drift: None,
            devices_reset_at: None,
            devices_reset: None,
        }
    }

    /// Takes a change in, as every record does.
    pub fn apply(&mut self, change: &port::Change) {
        // The key plays no part in a change.
        let Ok(mut kept) = self.kept(LicenseKey::new("")) else { return };
        kept.apply(change);
        let Self { key, fingerprint, drift, devices_reset_at, devices_reset, .. } = self.clone();
        *self = Self { key, fingerprint, drift, devices_reset_at, devices_reset, ..Self::of(&kept) };
    }

    /// Whether it is the license that an entry declares now.
    pub fn is_of(&self, declared: &DeclaredLicense) -> bool {
        self.name == declared.name && self.generation == declared.generation
    }

    /// Takes in what came of a wish to unbind its devices.
    pub fn reset_devices(&mut self, at: Timestamp, outcome: ResetOutcome) {
        self.devices_reset = match outcome {
            ResetOutcome::Asked => None,
            ResetOutcome::Sent => Some(DevicesReset::Sent),
            ResetOutcome::Done => Some(DevicesReset::Done),
            ResetOutcome::Unclear => Some(DevicesReset::Unclear),
            ResetOutcome::Refused => Some(DevicesReset::Refused),
            ResetOutcome::Dropped => Some(DevicesReset::Dropped),
        };
        self.devices_reset_at = self.devices_reset.map(|_| at);
    }

    /// The kept license that is shown, with its key.
    pub fn kept(&self, key: LicenseKey) -> Result<Kept, Error> {
        let at = self.revoked_at.unwrap_or(self.created_at);
        let cause = self.cause.map_or(Cause::Rule, Cause::from);
        Ok(Kept {
            name: name(&self.name)?,
            generation: generation(&self.name, self.generation)?,
            key,
            app_id: app(&self.app_id)?,
            slots: match (self.unlimited_hwid_slots, self.max_hwid_slots) {
                (Some(true), _) => Some(Slots::Unlimited),
                (_, slots) => slots.and_then(|slots| u8::try_from(slots).ok()).map(Slots::Limited),
            },
            created_at: self.created_at,
            expires_at: self.expires_at,
            attempt: self.attempt.clone().map(AttemptId),
            state: match self.state {
                KeptState::Live => port::KeptState::Live,
                KeptState::Revoking => port::KeptState::Revoking { at, cause },
                KeptState::Revoked => port::KeptState::Revoked { at, cause },
                KeptState::Reinstating => port::KeptState::Reinstating,
                KeptState::RevokedElsewhere => port::KeptState::RevokedElsewhere,
            },
            duplicated: self.duplicated.unwrap_or(false),
            refused: match (self.refused, self.refused_expiry) {
                (Some(Refusal::Reinstate), _) => Some(port::Refusal::Reinstate),
                (Some(Refusal::Shorten), Some(to)) => Some(port::Refusal::Shorten(to)),
                (Some(Refusal::Shorten), None) | (None, _) => None,
            },
        })
    }
}

impl From<DevicesReset> for ResetOutcome {
    fn from(outcome: DevicesReset) -> Self {
        match outcome {
            DevicesReset::Sent => Self::Sent,
            DevicesReset::Done => Self::Done,
            DevicesReset::Unclear => Self::Unclear,
            DevicesReset::Refused => Self::Refused,
            DevicesReset::Dropped => Self::Dropped,
        }
    }
}

impl From<grant::Cause> for crate::Cause {
    fn from(cause: grant::Cause) -> Self {
        match cause {
            grant::Cause::Rule => Self::Rule,
            grant::Cause::Hand => Self::Hand,
        }
    }
}

impl From<crate::Cause> for grant::Cause {
    fn from(cause: crate::Cause) -> Self {
        match cause {
            crate::Cause::Rule => Self::Rule,
            crate::Cause::Hand => Self::Hand,
        }
    }
}

impl AttemptStatus {
    /// How an attempt is written down.
    pub fn of(attempt: &Attempt) -> Self {
        let mut written = Self {
            id: attempt.id.to_string(),
            license: attempt.name.to_string(),
            generation: stored(attempt.generation),
            opened_at: attempt.opened_at,
            clock_offset_ms: i64::try_from(attempt.clock_offset.as_millis()).unwrap_or_default(),
            outcome: AttemptOutcome::Open,
            answered_at: None,
            watched_at: attempt.watched_at,
        };
        written.settle(&attempt.outcome);
        written
    }

    /// Writes down what became of it.
    pub fn settle(&mut self, outcome: &Outcome) {
        (self.outcome, self.answered_at) = match outcome {
            Outcome::Open => (AttemptOutcome::Open, None),
            Outcome::Answered { at } => (AttemptOutcome::Answered, Some(*at)),
            Outcome::Found => (AttemptOutcome::Found, None),
            Outcome::Absent => (AttemptOutcome::Absent, None),
            Outcome::NotSent => (AttemptOutcome::NotSent, None),
            Outcome::Refused => (AttemptOutcome::Refused, None),
        };
    }

    /// The attempt that is written down.
    pub fn attempt(&self) -> Result<Attempt, Error> {
        Ok(Attempt {
            id: AttemptId(self.id.clone()),
            name: name(&self.license)?,
            generation: generation(&self.license, self.generation)?,
            opened_at: self.opened_at,
            clock_offset: SignedDuration::from_millis(self.clock_offset_ms),
            outcome: match self.outcome {
                AttemptOutcome::Open => Outcome::Open,
                AttemptOutcome::Answered => {
                    Outcome::Answered { at: self.answered_at.unwrap_or(self.opened_at) }
                }
                AttemptOutcome::Found => Outcome::Found,
                AttemptOutcome::Absent => Outcome::Absent,
                AttemptOutcome::NotSent => Outcome::NotSent,
                AttemptOutcome::Refused => Outcome::Refused,
            },
            watched_at: self.watched_at,
        })
    }
}

#[cfg(test)]
mod tests;
