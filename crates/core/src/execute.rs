//! Performs plans over the two ports: the only place that orders effects.
//!
//! A create is, in this order: the attempt written down, the request, the key kept, the attempt settled. A crash between
//! any two leaves something that the next plan understands.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use crate::grant::{Cause, Grant, GrantId, LicenseName};
use crate::license::{AppId, Fingerprint, LicenseKey, LicenseStatus};
use crate::plan::{Brought, Observed, Plan, Policy, Revocation, Step, plan};
use crate::port::{
    ApiError, Attempt, AttemptId, AttemptLog, Change, Class, Clock, CreateLicense, Kept, KeptState,
    LicenseApi, Listing, LogError, Moment, Outcome, Priority, Record, Refusal, ResetId, ResetOutcome,
};
use crate::reason::Reason;

/// A round of planning and performing is bounded, so that a port that lies cannot keep it going for ever.
const MOST_ROUNDS: usize = 1_000;

/// A create is sent this soon after its attempt was opened, or not at all: the process may have slept in between.
const SEND_WITHIN: Duration = Duration::from_secs(10);

/// Brings grants to what they declare. One per process: it remembers when this process first saw each open attempt, and for
/// the time of a quarantine what it has brought licenses to.
pub struct Executor {
    api: Arc<dyn LicenseApi>,
    log: Arc<dyn AttemptLog>,
    clock: Arc<dyn Clock>,
    policy: Policy,
    new_id: Box<dyn Fn() -> AttemptId + Send + Sync>,
    first_seen: Mutex<BTreeMap<AttemptId, Moment>>,
    brought: Mutex<BTreeMap<Fingerprint, Brought>>,
}

/// Where a grant stands after a round of work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Where each license stands.
    pub licenses: Vec<(LicenseName, Reason)>,
    /// When to come back if nothing happens: the plan's own wish, or the server's after a failure. A failure without a
    /// wish is for [`crate::retry::delay`].
    pub again: Option<Duration>,
    /// What stopped the round, if something did.
    pub failure: Option<Failure>,
}

/// What stopped a round of work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// AuthForge.
    #[error("AuthForge: {0}")]
    Api(ApiError),
    /// Our own record.
    #[error("the record: {0}")]
    Log(LogError),
    /// A license that was found is another grant's.
    #[error("the license was found, and its key is kept for grant {0} already")]
    Taken(String),
    /// The rounds ran out.
    #[error("no end after {MOST_ROUNDS} rounds of planning")]
    Endless,
}

impl Failure {
    /// The class that decides about retries.
    pub fn class(&self) -> Class {
        match self {
            Self::Api(error) => error.class,
            Self::Log(_) | Self::Endless => Class::Transient,
            Self::Taken(_) => Class::Rejected,
        }
    }

    /// The reason to show.
    pub fn reason(&self) -> Reason {
        if let Self::Taken(_) = self {
            return Reason::KeyNotFound;
        }
        match self.class() {
            Class::Transient => Reason::AuthForgeUnavailable,
            Class::RateLimited => Reason::RateLimited,
            Class::CreditsExhausted => Reason::CreditsExhausted,
            Class::Unauthorized => Reason::Unauthorized,
            Class::Rejected | Class::Refused | Class::Gone => Reason::Rejected,
            Class::OutcomeUnknown => Reason::OutcomeUnknown,
        }
    }
}

/// Why the steps of a plan were left before their end.
enum Halt {
    Replan,
    Failed(Failure),
}

impl From<LogError> for Halt {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Conflict => Self::Replan,
            LogError::Unavailable(_) => Self::Failed(Failure::Log(error)),
            LogError::Taken(owner) => Self::Failed(Failure::Taken(owner)),
        }
    }
}

impl From<ApiError> for Halt {
    fn from(error: ApiError) -> Self {
        Self::Failed(Failure::Api(error))
    }
}

impl fmt::Debug for Executor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Executor").field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl Executor {
    /// An executor over two ports. `new_id` must give a fresh id at every call.
    pub fn new(
        api: Arc<dyn LicenseApi>,
        log: Arc<dyn AttemptLog>,
        clock: Arc<dyn Clock>,
        policy: Policy,
        new_id: impl Fn() -> AttemptId + Send + Sync + 'static,
    ) -> Self {
        let new_id = Box::new(new_id);
        Self { api, log, clock, policy, new_id, first_seen: Mutex::default(), brought: Mutex::default() }
    }

    /// The policy that plans are made by.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Plans and performs until the grant is as declared, must wait, or a call fails.
    ///
    /// Dropping the future anywhere is a crash at that place, and safe.
    pub async fn advance(&self, grant: &Grant, priority: Priority) -> Report {
        let id = GrantId::of(&grant.purchase);
        let mut listings = BTreeMap::new();
        let mut last = Plan::default();
        for _ in 0..MOST_ROUNDS {
            let record = match self.log.load(&id).await {
                Ok(record) => record,
                Err(error) => return stopped(last, Failure::Log(error)),
            };
            let first_seen = self.see(&record);
            let plan = self.plan(grant, &record, &listings, &first_seen);
            if plan.steps.is_empty() {
                return Report { licenses: plan.licenses, again: plan.again, failure: None };
            }
            let round = Round { executor: self, id: &id, record: &record, priority };
            match round.perform(&plan.steps, &mut listings).await {
                Ok(()) | Err(Halt::Replan) => last = plan,
                Err(Halt::Failed(failure)) => return stopped(plan, failure),
            }
        }
        stopped(last, Failure::Endless)
    }

    /// What [`Self::advance`] would do now, without doing any of it: only listings are read.
    ///
    /// A license that would be adopted is taken as adopted, so that what follows from it is told too.
    pub async fn rehearse(&self, grant: &Grant, priority: Priority) -> Result<Plan, Failure> {
        let id = GrantId::of(&grant.purchase);
        let mut record = self.log.load(&id).await.map_err(Failure::Log)?;
        let mut listings = BTreeMap::new();
        for desired in &grant.licenses {
            if !listings.contains_key(&desired.app_id) {
                let begun = self.clock.now().moment;
                let listing = self.api.list(&desired.app_id, begun, priority).await.map_err(Failure::Api)?;
                listings.insert(desired.app_id.clone(), listing);
            }
        }
        let first_seen = self.see(&record);
        let mut rehearsed = Plan::default();
        loop {
            let next = self.plan(grant, &record, &listings, &first_seen);
            let adopted: Vec<Kept> = next.steps.iter().filter_map(adoption).collect();
            let over = adopted.is_empty();
            record.licenses.extend(adopted);
            let steps = next.steps.into_iter().filter(|step| over || adoption(step).is_some());
            rehearsed.steps.extend(steps);
            rehearsed.licenses = next.licenses;
            rehearsed.again = next.again;
            if over {
                return Ok(rehearsed);
            }
        }
    }

    fn plan(
        &self,
        grant: &Grant,
        record: &Record,
        listings: &BTreeMap<AppId, Arc<Listing>>,
        first_seen: &BTreeMap<AttemptId, Moment>,
    ) -> Plan {
        let brought = lock(&self.brought);
        let observed = Observed { record, listings, first_seen, brought: &brought };
        plan(grant, &observed, &self.policy, self.clock.now())
    }

    /// Remembers what AuthForge says it has brought a license to.
    fn brought(&self, key: &LicenseKey, status: LicenseStatus) {
        let at = self.clock.now().moment;
        let mut brought = lock(&self.brought);
        brought.retain(|_, brought| at < brought.at.plus(self.policy.quarantine));
        brought.insert(key.fingerprint(), Brought { status, at });
    }

    /// Remembers when each open attempt was first seen, and forgets those that are settled.
    fn see(&self, record: &Record) -> BTreeMap<AttemptId, Moment> {
        let now = self.clock.now().moment;
        let mut seen = lock(&self.first_seen);
        let mut open = BTreeMap::new();
        for attempt in &record.attempts {
            if attempt.outcome == Outcome::Open {
                open.insert(attempt.id.clone(), *seen.entry(attempt.id.clone()).or_insert(now));
            } else {
                seen.remove(&attempt.id);
            }
        }
        open
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn adoption(step: &Step) -> Option<Kept> {
    match step {
        Step::Adopt(kept) => Some(kept.clone()),
        _ => None,
    }
}

fn stopped(plan: Plan, failure: Failure) -> Report {
    let wish = match &failure {
        Failure::Api(error) => error.retry_after,
        Failure::Log(_) | Failure::Taken(_) | Failure::Endless => None,
    };
    let told = |reason| if reason == Reason::Issuing { failure.reason() } else { reason };
    let licenses = plan.licenses.into_iter().map(|(name, reason)| (name, told(reason))).collect();
    Report { licenses, again: wish, failure: Some(failure) }
}

/// One plan being performed.
struct Round<'a> {
    executor: &'a Executor,
    id: &'a GrantId,
    record: &'a Record,
    priority: Priority,
}

impl Round<'_> {
    /// Performs the steps in order. One that fails does not keep the others from going on, but ends the round.
    async fn perform(
        &self,
        steps: &[Step],
        listings: &mut BTreeMap<AppId, Arc<Listing>>,
    ) -> Result<(), Halt> {
        let mut failed = None;
        for (index, step) in steps.iter().enumerate() {
            match self.step(index, step, listings).await {
                Ok(()) => {}
                Err(Halt::Replan) => return Err(Halt::Replan),
                Err(Halt::Failed(failure)) => failed = failed.or(Some(failure)),
            }
        }
        failed.map_or(Ok(()), |failure| Err(Halt::Failed(failure)))
    }

    async fn step(
        &self,
        index: usize,
        step: &Step,
        listings: &mut BTreeMap<AppId, Arc<Listing>>,
    ) -> Result<(), Halt> {
        let Executor { api, log, .. } = self.executor;
        match step {
            // One create a round: the next one needs the version that this one leaves.
            Step::Create(name, generation, order) if index == 0 => {
                self.create(name, *generation, order).await?;
                Err(Halt::Replan)
            }
            Step::Create(..) => Ok(()),
            Step::Settle(attempt, outcome) => Ok(log.settle(self.id, attempt, outcome).await?),
            Step::Adopt(kept) => Ok(log.keep(self.id, kept).await?),
            Step::NoteRevokedElsewhere(key) => self.note(key, KeptState::RevokedElsewhere).await,
            Step::Revoke(key, Revocation::Surplus) => {
                api.revoke(key, self.priority).await?;
                self.executor.brought(key, LicenseStatus::Revoked);
                Ok(())
            }
            Step::Revoke(key, Revocation::Declared(cause)) => self.revoke(key, *cause).await,
            Step::Reinstate(key) => {
                self.note(key, KeptState::Reinstating).await?;
                match api.reinstate(key, self.priority).await {
                    Err(error) if error.class == Class::Refused => {
                        self.refused(key, Refusal::Reinstate).await
                    }
                    done => {
                        done?;
                        self.executor.brought(key, LicenseStatus::Active);
                        self.note(key, KeptState::Live).await
                    }
                }
            }
            Step::Extend(key, expires_at) => match api.extend(key, *expires_at, self.priority).await {
                Err(error) if error.class == Class::Refused && self.shortens(key, *expires_at) => {
                    let to = expires_at.unwrap_or(Timestamp::MAX);
                    self.refused(key, Refusal::Shorten(to)).await
                }
                done => {
                    done?;
                    Ok(log.note(self.id, &key.fingerprint(), &Change::Expiry(*expires_at)).await?)
                }
            },
            Step::ResetDevices(reset, key) => self.reset_devices(reset, key).await,
            Step::DropReset(reset) => Ok(log.reset(self.id, reset, ResetOutcome::Dropped).await?),
            Step::NoteDuplicated(key, duplicated) => {
                Ok(log.note(self.id, &key.fingerprint(), &Change::Duplicated(*duplicated)).await?)
            }
            Step::Watched(attempt, at) => Ok(log.watched(self.id, attempt, *at).await?),
            Step::Look(app, not_before) => {
                let listing = api.list(app, *not_before, self.priority).await?;
                listings.insert(app.clone(), listing);
                Ok(())
            }
        }
    }

    async fn create(&self, name: &LicenseName, generation: u32, order: &CreateLicense) -> Result<(), Halt> {
        let Executor { api, log, clock, .. } = self.executor;
        api.reserve_create(self.priority).await?;
        let now = clock.now();
        let attempt = Attempt {
            id: (self.executor.new_id)(),
            name: name.clone(),
            generation,
            opened_at: now.wall,
            clock_offset: api.clock_offset(),
            outcome: Outcome::Open,
            watched_at: None,
        };
        log.open(self.id, self.record.version, &attempt).await?;
        lock(&self.executor.first_seen).insert(attempt.id.clone(), now.moment);
        if clock.now().moment > now.moment.plus(SEND_WITHIN) {
            log.settle(self.id, &attempt.id, &Outcome::NotSent).await?;
            return Ok(());
        }
        match api.create(order).await {
            Ok(license) => {
                let at = clock.now().wall;
                let kept = Kept {
                    name: name.clone(),
                    generation,
                    key: license.key,
                    app_id: license.app_id,
                    slots: license.slots,
                    created_at: license.created_at,
                    expires_at: license.expires_at,
                    attempt: Some(attempt.id.clone()),
                    state: KeptState::Live,
                    duplicated: false,
                    refused: None,
                };
                log.keep(self.id, &kept).await?;
                Ok(log.settle(self.id, &attempt.id, &Outcome::Answered { at }).await?)
            }
            Err(error) => {
                let outcome = match error.class {
                    // The attempt stays open; the next plan looks for what it may have made.
                    Class::OutcomeUnknown => return Ok(()),
                    Class::Transient => Outcome::NotSent,
                    Class::RateLimited
                    | Class::CreditsExhausted
                    | Class::Unauthorized
                    | Class::Rejected
                    | Class::Refused
                    | Class::Gone => Outcome::Refused,
                };
                log.settle(self.id, &attempt.id, &outcome).await?;
                Err(error.into())
            }
        }
    }

    async fn revoke(&self, key: &LicenseKey, cause: Cause) -> Result<(), Halt> {
        let state = self.record.licenses.iter().find(|kept| kept.key == *key).map(|kept| kept.state);
        let at = if let Some(KeptState::Revoking { at, .. }) = state {
            at
        } else {
            let at = self.executor.clock.now().wall;
            match cause {
                // The plan counted what was on record; others may have spent since.
                Cause::Rule => {
                    let budget = self.executor.policy.revocation_budget;
                    self.executor.log.spend(self.id, &key.fingerprint(), at, budget).await?;
                }
                Cause::Hand => self.note(key, KeptState::Revoking { at, cause }).await?,
            }
            at
        };
        match self.executor.api.revoke(key, self.priority).await {
            // Deleted by hand, as whoever revokes it by hand may know. A rule goes on asking: the API key may be another account's.
            Err(error) if error.class == Class::Gone && cause == Cause::Hand => {}
            done => done?,
        }
        self.note(key, KeptState::Revoked { at, cause }).await
    }

    /// Whether an expiry is earlier than the one on record.
    fn shortens(&self, key: &LicenseKey, expires_at: Option<Timestamp>) -> bool {
        let kept = self.record.licenses.iter().find(|kept| kept.key == *key);
        kept.is_some_and(|kept| {
            expires_at.is_some_and(|wanted| kept.expires_at.is_none_or(|known| wanted < known))
        })
    }

    async fn refused(&self, key: &LicenseKey, refusal: Refusal) -> Result<(), Halt> {
        let change = Change::Refused(Some(refusal));
        Ok(self.executor.log.note(self.id, &key.fingerprint(), &change).await?)
    }

    /// Written down before it is sent, and never sent again: a crash in between leaves it unclear.
    async fn reset_devices(&self, reset: &ResetId, key: &LicenseKey) -> Result<(), Halt> {
        let Executor { api, log, .. } = self.executor;
        log.reset(self.id, reset, ResetOutcome::Sent).await?;
        let error = match api.reset_devices(key, self.priority).await {
            Ok(()) => return Ok(log.reset(self.id, reset, ResetOutcome::Done).await?),
            Err(error) => error,
        };
        let outcome = match error.class {
            Class::OutcomeUnknown => ResetOutcome::Unclear,
            Class::Rejected | Class::Refused | Class::Gone => ResetOutcome::Refused,
            Class::Transient | Class::RateLimited | Class::CreditsExhausted | Class::Unauthorized => {
                log.reset(self.id, reset, ResetOutcome::Asked).await?;
                return Err(error.into());
            }
        };
        Ok(log.reset(self.id, reset, outcome).await?)
    }

    async fn note(&self, key: &LicenseKey, state: KeptState) -> Result<(), Halt> {
        Ok(self.executor.log.note(self.id, &key.fingerprint(), &Change::State(state)).await?)
    }
}
