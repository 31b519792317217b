//! The executor's two ports, and the clock it is given.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};

use crate::grant::{Cause, GrantId, LicenseName};
use crate::label::Label;
use crate::license::{AppId, Fingerprint, License, LicenseKey, Slots};

/// What a failed call means for what may be done next. Retry, gRPC code, condition and metric label all derive from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// It had no effect and may go better next time.
    Transient,
    /// It had no effect: slower.
    RateLimited,
    /// It had no effect: the account needs a top-up (402).
    CreditsExhausted,
    /// It had no effect: the API key is not accepted.
    Unauthorized,
    /// It had no effect and will not go better as it stands: the request is wrong, or the account.
    Rejected,
    /// AuthForge will not do that to the license, which was looked at and is as before.
    Refused,
    /// AuthForge has no such license, and says so twice.
    Gone,
    /// Nobody can tell whether it had an effect.
    OutcomeUnknown,
}

/// A failed call to AuthForge. It never carries a key, a token or an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct ApiError {
    /// What it means.
    pub class: Class,
    /// How long the server wants to be left alone.
    pub retry_after: Option<Duration>,
    /// What was attempted and what came back.
    pub detail: String,
}

/// A point on a clock that cannot be set and that runs while the machine sleeps (`CLOCK_BOOTTIME`).
///
/// Meaningful within one boot of one machine, so it is never written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(pub Duration);

impl Moment {
    /// This moment, later by `wait`.
    #[must_use]
    pub fn plus(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(wait))
    }

    /// How long after `earlier` this is.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// What time it is, on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// The wall clock: may be wrong, may jump.
    pub wall: Timestamp,
    /// The clock to wait by.
    pub moment: Moment,
}

/// Tells the time.
pub trait Clock: Send + Sync {
    /// Both clocks, read together.
    fn now(&self) -> Now;
}

/// Whose turn it is when calls to AuthForge must wait. Earlier variants go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Somebody has paid and waits for a key.
    Buyer,
    /// Money went back.
    Refund,
    /// Time moves on.
    Renewal,
    /// Looking after what exists.
    Audit,
}

/// The license to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateLicense {
    /// The app.
    pub app_id: AppId,
    /// The label, by which a lost one is found.
    pub label: Label,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
    /// Its device slots.
    pub slots: Slots,
}

/// What AuthForge lists for one app.
#[derive(Debug, Clone)]
pub struct Listing {
    begun_at: Moment,
    complete: bool,
    /// By label; those without one together.
    licenses: BTreeMap<String, Vec<License>>,
    /// Under which label, and as which of it, each key is; made when first asked for.
    keys: OnceLock<BTreeMap<Fingerprint, (String, usize)>>,
}

impl Listing {
    /// A listing that began at `begun_at`. `complete` only if the last page was reached and every row's label is known.
    pub fn new(begun_at: Moment, complete: bool, licenses: impl IntoIterator<Item = License>) -> Self {
        let mut by_label: BTreeMap<String, Vec<License>> = BTreeMap::new();
        for license in licenses {
            by_label.entry(license.label.clone().unwrap_or_default()).or_default().push(license);
        }
        Self { begun_at, complete, licenses: by_label, keys: OnceLock::new() }
    }

    /// When its first page was asked for. A license made before that, list lag aside, is in it if it is complete.
    pub fn begun_at(&self) -> Moment {
        self.begun_at
    }

    /// Whether absence in it means anything.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// All licenses in it.
    pub fn licenses(&self) -> impl Iterator<Item = &License> {
        self.licenses.values().flatten()
    }

    /// The licenses that carry `label`.
    pub fn labeled(&self, label: &Label) -> &[License] {
        self.licenses.get(label.as_str()).map_or(&[], Vec::as_slice)
    }

    /// The license of a key, whatever its label.
    pub fn of_key(&self, fingerprint: &Fingerprint) -> Option<&License> {
        let keys = self.keys.get_or_init(|| {
            let mut keys = BTreeMap::new();
            for (label, licenses) in &self.licenses {
                for (place, license) in licenses.iter().enumerate() {
                    keys.insert(license.key.fingerprint(), (label.clone(), place));
                }
            }
            keys
        });
        let (label, place) = keys.get(fingerprint)?;
        self.licenses.get(label)?.get(*place)
    }
}

/// AuthForge, as the executor needs it.
///
/// # Guarantees asked of an implementation
/// - One call sends one request. Nothing is retried, redirected or replayed beneath.
/// - [`Class::OutcomeUnknown`] whenever the request may have had an effect and the answer does not tell. In doubt, this one.
/// - Repeating `revoke`, `reinstate` or `extend` on a license that is already so succeeds.
///
/// # Assumptions
/// - A created license is listed within the quarantine, the time of its request included.
#[async_trait]
pub trait LicenseApi: Send + Sync {
    /// Waits for the right to send one create at once, so that no attempt stands open in a queue.
    ///
    /// While creates are paused (402, 401, an outage) it fails instead of waiting, with the pause's class and time.
    async fn reserve_create(&self, priority: Priority) -> Result<(), ApiError>;

    /// Creates one license. **Not idempotent**: two calls make two licenses.
    async fn create(&self, order: &CreateLicense) -> Result<License, ApiError>;

    /// Lists an app's licenses, in a listing begun at `not_before` or later. One listing serves all that wait for it.
    ///
    /// A listing that stopped early comes back incomplete; `Err` means that not even a first page was had.
    async fn list(
        &self,
        app: &AppId,
        not_before: Moment,
        priority: Priority,
    ) -> Result<Arc<Listing>, ApiError>;

    /// Revokes a license.
    async fn revoke(&self, key: &LicenseKey, priority: Priority) -> Result<(), ApiError>;

    /// Re-activates a revoked license.
    async fn reinstate(&self, key: &LicenseKey, priority: Priority) -> Result<(), ApiError>;

    /// Sets a license's expiry to an absolute time.
    async fn extend(
        &self,
        key: &LicenseKey,
        expires_at: Option<Timestamp>,
        priority: Priority,
    ) -> Result<(), ApiError>;

    /// Unbinds all devices of a license.
    ///
    /// A lost answer is [`Class::OutcomeUnknown`]: a repetition would unbind devices that were bound in between.
    async fn reset_devices(&self, key: &LicenseKey, priority: Priority) -> Result<(), ApiError>;

    /// How far AuthForge's clock is ahead of ours, as last heard; zero before that.
    fn clock_offset(&self) -> SignedDuration;
}

/// Names one attempt to create a license.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptId(pub String);

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One attempt to create a license, written down before the request is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Its own name.
    pub id: AttemptId,
    /// Which license it is for.
    pub name: LicenseName,
    /// Which generation of it.
    pub generation: u32,
    /// When it was opened, by our wall clock.
    pub opened_at: Timestamp,
    /// AuthForge's clock minus ours, as known then.
    pub clock_offset: SignedDuration,
    /// What became of it.
    pub outcome: Outcome,
    /// When a listing was last searched for licenses that it made besides the kept one.
    pub watched_at: Option<Timestamp>,
}

/// What became of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Nobody knows yet.
    Open,
    /// AuthForge answered with the license, at this time of our wall clock.
    Answered {
        /// When the answer came.
        at: Timestamp,
    },
    /// The license was found at AuthForge, or in our own keeping, after the answer was lost.
    Found,
    /// A complete listing after the quarantine did not have it.
    Absent,
    /// The request was not sent.
    NotSent,
    /// AuthForge refused: nothing was made.
    Refused,
}

/// A license whose key is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its name within the grant.
    pub name: LicenseName,
    /// Its generation.
    pub generation: u32,
    /// The key.
    pub key: LicenseKey,
    /// Its app.
    pub app_id: AppId,
    /// Its slots, where known.
    pub slots: Option<Slots>,
    /// When AuthForge made it.
    pub created_at: Timestamp,
    /// When it ends, as last set or seen.
    pub expires_at: Option<Timestamp>,
    /// The attempt that brought it; none for a license that somebody else made.
    pub attempt: Option<AttemptId>,
    /// What we have done to it since.
    pub state: KeptState,
    /// The last complete listing had a live license beside it that we did not make.
    pub duplicated: bool,
    /// What AuthForge would not do with it.
    pub refused: Option<Refusal>,
}

impl Kept {
    /// Takes a change in, as every record does.
    pub fn apply(&mut self, change: &Change) {
        match *change {
            Change::State(state) => {
                self.state = state;
                if state == KeptState::Live {
                    self.refused = self.refused.filter(|refused| *refused != Refusal::Reinstate);
                }
            }
            Change::Expiry(expires_at) => {
                self.expires_at = expires_at;
                self.refused = self.refused.filter(|refused| *refused == Refusal::Reinstate);
            }
            Change::Duplicated(duplicated) => self.duplicated = duplicated,
            Change::Refused(refused) => self.refused = refused,
        }
    }
}

/// A change that AuthForge refused for good, so that it is not asked for again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// To re-activate the license. Forgotten when it lives again.
    Reinstate,
    /// To bring its expiry forward to this time. Forgotten when its expiry is set.
    Shorten(Timestamp),
}

/// What we have done to a kept license. The first step of each change is written before the call, so that after a crash
/// our own half-done revocation is never mistaken for somebody else's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeptState {
    /// Nothing, or brought back.
    Live,
    /// About to be revoked by us.
    Revoking {
        /// When that was decided; what the budget counts.
        at: Timestamp,
        /// Who decided.
        cause: Cause,
    },
    /// Revoked by us.
    Revoked {
        /// When that was decided.
        at: Timestamp,
        /// Who decided.
        cause: Cause,
    },
    /// About to be brought back by us.
    Reinstating,
    /// Revoked at AuthForge by somebody else.
    RevokedElsewhere,
}

/// Names one wish of a person to unbind a license's devices.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResetId(pub String);

/// A wish to unbind a license's devices that nobody has acted on yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reset {
    /// Its own name.
    pub id: ResetId,
    /// Of which license.
    pub license: LicenseName,
}

/// What became of a wish to unbind devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetOutcome {
    /// Not yet.
    Asked,
    /// The call is about to be sent. It is never sent again: by then the buyer may have bound a device anew.
    Sent,
    /// The devices are unbound.
    Done,
    /// The answer was lost.
    Unclear,
    /// AuthForge refused.
    Refused,
    /// The license was not live by then.
    Dropped,
}

/// All that is on record about the licenses of one grant.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// Grows with every write; what [`AttemptLog::open`] is fenced by.
    pub version: u64,
    /// The kept licenses.
    pub licenses: Vec<Kept>,
    /// Every attempt that may still matter.
    pub attempts: Vec<Attempt>,
    /// Devices to be unbound.
    pub resets: Vec<Reset>,
    /// Revocations by rule on record in the last hour, over all grants.
    pub recent_revocations: u32,
    /// From when on a listing proves that there is no license for which no attempt is on record. None: only one that is asked
    /// for now does.
    ///
    /// The past, where nobody but the keeper of this record can have made one since: then one listing serves all that
    /// were known when it began. The future, where one may have been made that is not listed yet.
    pub proof_from: Option<Moment>,
}

impl Record {
    /// The license that is kept as this generation of a unit.
    pub fn kept(&self, name: &LicenseName, generation: u32) -> Option<&Kept> {
        self.licenses.iter().find(|kept| kept.name == *name && kept.generation == generation)
    }

    /// Whether a key is kept, as whatever license of the grant.
    pub fn keeps(&self, key: &LicenseKey) -> bool {
        self.licenses.iter().any(|kept| kept.key == *key)
    }

    /// The newest license that was kept before this generation of a unit.
    pub fn before(&self, name: &LicenseName, generation: u32) -> Option<&Kept> {
        let older = self.licenses.iter().filter(|kept| kept.name == *name && kept.generation < generation);
        older.max_by_key(|kept| kept.generation)
    }

    /// Whether an older generation of a unit is still to be revoked.
    pub fn awaits_revocation(&self, name: &LicenseName, generation: u32) -> bool {
        let older = self.licenses.iter().filter(|kept| kept.name == *name && kept.generation < generation);
        older.into_iter().any(|kept| kept.state.may_be_live())
    }
}

impl KeptState {
    /// Whether the key may still work at AuthForge.
    pub fn may_be_live(self) -> bool {
        match self {
            Self::Live | Self::Revoking { .. } | Self::Reinstating => true,
            Self::Revoked { .. } | Self::RevokedElsewhere => false,
        }
    }
}

/// Why the log could not be read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// Somebody else has written since the record was read: read and plan again.
    #[error("the record has changed meanwhile")]
    Conflict,
    /// It cannot be had now.
    #[error("{0}")]
    Unavailable(String),
    /// The license is kept for another grant, of this name.
    #[error("its key is kept for grant {0} already")]
    Taken(String),
}

/// A change to a kept license, as written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Its state.
    State(KeptState),
    /// Its expiry.
    Expiry(Option<Timestamp>),
    /// Whether a live license beside it was listed that we did not make.
    Duplicated(bool),
    /// What AuthForge would not do with it; none forgets.
    Refused(Option<Refusal>),
}

/// Where attempts and keys are kept: SQL rows, or the status and Secret of a custom resource.
///
/// # Guarantees asked of an implementation
/// - A write that returned `Ok` survives a crash that follows it.
/// - `open` succeeds for one writer only: it fails with [`LogError::Conflict`] unless the record is still at `version`.
/// - `keep` of a license that is kept already changes nothing. One that another grant keeps is refused, so that none of two is
///   ever revoked for the other.
/// - `spend` counts and writes in one step: rounds side by side, of one process or of several, never overspend.
#[async_trait]
pub trait AttemptLog: Send + Sync {
    /// Reads the record of a grant.
    async fn load(&self, grant: &GrantId) -> Result<Record, LogError>;

    /// Writes down that a create is about to be sent.
    async fn open(&self, grant: &GrantId, version: u64, attempt: &Attempt) -> Result<(), LogError>;

    /// Keeps a license's key.
    async fn keep(&self, grant: &GrantId, license: &Kept) -> Result<(), LogError>;

    /// Writes down what became of an attempt.
    async fn settle(&self, grant: &GrantId, attempt: &AttemptId, outcome: &Outcome) -> Result<(), LogError>;

    /// Writes down a change to a kept license.
    async fn note(&self, grant: &GrantId, fingerprint: &Fingerprint, change: &Change)
    -> Result<(), LogError>;

    /// Writes down that a rule is about to revoke a license, which is then [`KeptState::Revoking`] since `at`.
    ///
    /// Fails with [`LogError::Conflict`], and writes nothing, if the hour before `at` holds `budget` revocations by rule already.
    async fn spend(
        &self,
        grant: &GrantId,
        fingerprint: &Fingerprint,
        at: Timestamp,
        budget: u32,
    ) -> Result<(), LogError>;

    /// Writes down what became of a wish to unbind devices.
    async fn reset(&self, grant: &GrantId, reset: &ResetId, outcome: ResetOutcome) -> Result<(), LogError>;

    /// Writes down that a listing was searched for what an attempt may have made besides.
    async fn watched(&self, grant: &GrantId, attempt: &AttemptId, at: Timestamp) -> Result<(), LogError>;
}
