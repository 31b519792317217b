//! One grant, once: validate, observe, plan and perform, status.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use grantsmith_core::execute::{Executor, Failure, Report};
use grantsmith_core::grant::DesiredState;
use grantsmith_core::license::Fingerprint;
use grantsmith_core::port::{
    self, ApiError, AttemptLog as _, Change, Class, Clock, LicenseApi, Listing, LogError, Priority,
};
use grantsmith_core::{AppId, Grant, GrantId, LicenseKey, Reason};
use grantsmith_crd::{DeletionPolicy, FINALIZER, KeptState, LicenseGrant, LicenseStatus, State};
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Resource as _, ResourceExt as _};
use metrics::{counter, histogram};
use serde_json::json;

use crate::attempts::{Attempts, Session, told, until_reset};
use crate::audit::Finding;
use crate::events::{Action, Events};
use crate::index::{Fresh, Index, Past, Place};
use crate::lease::Lease;
use crate::secret::{Found, Keys, Secrets};
use crate::status::{self, Standing, Weight, weight};
use crate::validate::{self, Held, Rules, validate};

/// After the API server failed.
const SOON: Duration = Duration::from_secs(2);

/// What a grant that cannot go yet tells whoever waits for it.
const WAY_OUT: &str = ". Its deletion waits until the keys are revoked; set spec.deletionPolicy: Retain to let it go and leave \
                       them as they are";

/// What happens next to a grant that was worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Whatever its status says.
    Rest,
    /// It is looked at again after this time.
    In(Duration),
    /// Something has changed meanwhile: it is looked at again at once.
    Again,
}

/// The licenses that a person has just said are to be live. AuthForge is asked even where they are held for live: somebody may
/// have revoked one there without our knowing.
fn wanted_back(grant: &LicenseGrant, declared: &Grant) -> Vec<Fingerprint> {
    let by_hand = grant.spec.hand.as_ref().and_then(|hand| hand.state) == Some(State::Active);
    let observed = grant.status.as_ref().and_then(|status| status.observed_generation);
    if !by_hand || observed == grant.metadata.generation {
        return Vec::new();
    }
    let wanted =
        |license: &&LicenseStatus| is_declared(declared, license) && license.state == KeptState::Live;
    let fingerprint = |license: &LicenseStatus| Fingerprint::from_hex(license.fingerprint.clone());
    status::kept(grant).filter(wanted).map(fingerprint).collect()
}

/// Brings grants to what they declare.
pub struct Reconciler {
    /// The cluster.
    pub client: Client,
    /// Who may use what.
    pub rules: Rules,
    /// What is known of all grants.
    pub index: Arc<Index>,
    /// The executor's log.
    pub attempts: Arc<Attempts>,
    /// The executor: one for all grants, as it remembers what it has seen.
    pub executor: Executor,
    /// AuthForge.
    pub api: Arc<dyn LicenseApi>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Says what happens.
    pub events: Events,
    /// Who may write.
    pub lease: Arc<Lease>,
    /// What audits found, until it is written down.
    pub findings: Mutex<HashMap<Place, Vec<Finding>>>,
}

impl fmt::Debug for Reconciler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reconciler").finish_non_exhaustive()
    }
}

/// A round of work on a grant, as far as it was only looked at.
struct Round {
    declared: Grant,
    priority: Priority,
    /// Licenses whose keys the Secret has lost.
    lost: Vec<LicenseStatus>,
    findings: Vec<Finding>,
    wanted_back: Vec<Fingerprint>,
    until_reset: Option<Duration>,
}

/// Why a grant was not worked on to the end.
enum Halt {
    /// It waits for a person.
    Held(Held),
    /// AuthForge did not do what was asked.
    Failed(Failure),
    /// The cluster did not.
    Server(kube::Error),
    /// Our log did not.
    Log(LogError),
}

impl From<kube::Error> for Halt {
    fn from(error: kube::Error) -> Self {
        Self::Server(error)
    }
}

impl From<Held> for Halt {
    fn from(held: Held) -> Self {
        Self::Held(held)
    }
}

impl From<ApiError> for Halt {
    fn from(error: ApiError) -> Self {
        Self::Failed(Failure::Api(error))
    }
}

impl From<LogError> for Halt {
    fn from(error: LogError) -> Self {
        Self::Log(error)
    }
}

impl Reconciler {
    /// Works on a grant once.
    pub async fn reconcile(&self, place: &Place) -> Next {
        self.index.begin(place);
        let outcome = self.pass(place).await;
        match outcome {
            Ok(next) => next,
            Err(error) => {
                counter!("grantsmith_rounds_total", "outcome" => "Cluster").increment(1);
                tracing::warn!(error = told(&error), "the cluster failed in a round of work");
                // What was to be done is still to be done.
                self.index.touch(place);
                Next::In(SOON)
            }
        }
    }

    async fn pass(&self, place: &Place) -> Result<Next, kube::Error> {
        // Written down now or never: the next audit finds again what is still so then.
        let findings = self.findings().remove(place).unwrap_or_default();
        let Some(grant) = self.grants(place).get_opt(&place.name).await? else {
            return Ok(Next::Rest);
        };
        let Some(grant) = self.guarded(place, grant).await? else { return Ok(Next::Rest) };
        let before = status::reason(&grant);
        let tries = grant.status.as_ref().and_then(|status| status.tries).unwrap_or(0);
        let mut session = Session::reading(grant.clone());
        let standing = match validate(&grant, &self.rules) {
            Err(held) => Standing::held(held),
            Ok(declared) => {
                let id = GrantId::of(&declared.purchase);
                let worked = match self.begin(place, &id, grant, &declared, findings).await {
                    Ok(round) => {
                        let worked = self.work(&id, round).await;
                        if let Some(worked) = self.attempts.end(&id) {
                            session = worked;
                        }
                        worked
                    }
                    Err(halt) => Err(halt),
                };
                match worked {
                    Ok(_) | Err(Halt::Log(_)) if session.moved => return Ok(Next::Again),
                    Ok(Report { failure: Some(Failure::Log(error)), .. }) | Err(Halt::Log(error)) => {
                        tracing::warn!(%error, "the grant could not be written in a round of work");
                        self.index.touch(place);
                        return Ok(Next::In(SOON));
                    }
                    Ok(report) => Standing::of(&report, &declared, tries, self.clock.now()),
                    Err(Halt::Held(held)) => Standing::held(held),
                    Err(Halt::Failed(failure)) => {
                        let wish = if let Failure::Api(error) = &failure { error.retry_after } else { None };
                        Standing::failed(&failure, wish, tries)
                    }
                    Err(Halt::Server(error)) => return Err(error),
                }
            }
        };
        if !self.lease.is_held() {
            // What failed for want of the lease is nothing to be told of the grant.
            self.index.touch(place);
            return Ok(Next::In(SOON));
        }
        self.tell(session, standing, before).await
    }

    /// What the last audit found and nobody has written down.
    pub fn findings(&self) -> MutexGuard<'_, HashMap<Place, Vec<Finding>>> {
        self.findings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn grants(&self, place: &Place) -> Api<LicenseGrant> {
        Api::namespaced(self.client.clone(), &place.namespace)
    }

    /// Observes. Only then is the purchase's work this grant's, and another of the same purchase may not touch it.
    async fn begin(
        &self,
        place: &Place,
        id: &GrantId,
        grant: LicenseGrant,
        declared: &Grant,
        findings: Vec<Finding>,
    ) -> Result<Round, Halt> {
        let leaving = grant.metadata.deletion_timestamp.is_some();
        if !leaving && let Err(owner) = self.index.claim(id, place) {
            let message =
                format!("grant {owner} is of the same purchase and came first; delete one of the two");
            return Err(Held::new(Reason::DuplicatePurchase, message).into());
        }
        let keys = match Secrets::new(self.client.clone()).read(&grant).await? {
            Found::Keys(keys) => keys,
            Found::Taken if leaving => Keys::default(),
            Found::Taken => {
                let message = format!(
                    "Secret {} belongs to something else; give another spec.secretName, or remove that Secret",
                    grant.secret_name()
                );
                return Err(Held::new(Reason::SecretNameTaken, message).into());
            }
        };
        let policy = self.executor.policy();
        let fresh = Fresh { lag: policy.quarantine, young: policy.look_before_create_after };
        let past = self.index.past(place, id, declared.paid_at, fresh);
        let (paid_at, proof_from) = match past {
            Past::None => (declared.paid_at, None),
            Past::KnownFrom(from) => (None, Some(from)),
            Past::Unknown => (None, None),
        };
        let mut declared = Grant { paid_at, ..declared.clone() };
        if leaving {
            // What was never found was never the grant's.
            declared.licenses.iter_mut().for_each(|license| license.adopt = None);
        }
        let priority = validate::priority(&grant);
        let lost = lost(&grant, &keys);
        let wanted_back = wanted_back(&grant, &declared);
        let until_reset = until_reset(&grant, self.clock.now().wall);
        if !self.attempts.begin(id, grant, keys, proof_from) {
            return Err(LogError::Unavailable(
                "another grant of the same purchase is on its way out".to_owned(),
            )
            .into());
        }
        let findings = findings.into_iter().filter(|finding| self.index.is_still(place, &finding.known));
        Ok(Round { declared, priority, lost, findings: findings.collect(), wanted_back, until_reset })
    }

    /// Plans and performs.
    async fn work(&self, id: &GrantId, round: Round) -> Result<Report, Halt> {
        let Round { declared, priority, lost, findings, wanted_back, until_reset } = round;
        if !lost.is_empty() {
            let found = self.find(&declared, lost).await?;
            self.attempts.restore(id, &found).await?;
        }
        self.write_findings(id, findings).await?;
        for fingerprint in wanted_back {
            self.attempts.note(id, &fingerprint, &Change::State(port::KeptState::Reinstating)).await?;
        }
        let mut report = self.executor.advance(&declared, priority).await;
        if report.failure.is_none() {
            report.again = report.again.into_iter().chain(until_reset).min();
        }
        Ok(report)
    }

    /// Finds keys again that the Secret has lost.
    async fn find(
        &self,
        declared: &Grant,
        lost: Vec<LicenseStatus>,
    ) -> Result<Vec<(LicenseStatus, LicenseKey)>, Halt> {
        let begun = self.clock.now().moment;
        let mut listings: BTreeMap<AppId, Arc<Listing>> = BTreeMap::new();
        let mut found = Vec::new();
        for license in lost {
            let read = license
                .kept(LicenseKey::new(""))
                .map_err(|error| LogError::Unavailable(error.to_string()))?;
            let listing = match listings.entry(read.app_id.clone()) {
                Entry::Occupied(there) => there.into_mut(),
                Entry::Vacant(place) => {
                    place.insert(self.api.list(&read.app_id, begun, Priority::Buyer).await?)
                }
            };
            let row = listing.of_key(&Fingerprint::from_hex(license.fingerprint.clone()));
            match (row, license.state) {
                (Some(row), _) => found.push((license, row.key.clone())),
                (None, _) if !listing.is_complete() => {
                    let detail = "the listing in which a lost key is looked for stopped early".to_owned();
                    return Err(ApiError { class: Class::Transient, retry_after: None, detail }.into());
                }
                // Nobody needs the key of a license that is over and gone.
                (None, KeptState::Revoked | KeptState::RevokedElsewhere)
                    if !is_declared(declared, &license) => {}
                (None, _) => {
                    let message = format!(
                        "the Secret has lost the key of license '{}', and AuthForge has no such license any more; raise its \
                         generation to make another",
                        license.name
                    );
                    return Err(Held::new(Reason::RevokedElsewhere, message).into());
                }
            }
        }
        Ok(found)
    }

    /// Writes down what audits found, as far as it changes what is known.
    async fn write_findings(&self, id: &GrantId, findings: Vec<Finding>) -> Result<(), LogError> {
        for finding in findings {
            let fingerprint = Fingerprint::from_hex(finding.known.fingerprint.to_string());
            self.attempts.tell_drift(id, fingerprint.as_str(), finding.drift).await?;
            for change in finding.changes {
                self.attempts.note(id, &fingerprint, &change).await?;
            }
        }
        Ok(())
    }

    /// Writes the status, if it says something new, and says what has changed.
    async fn tell(
        &self,
        mut session: Session,
        mut standing: Standing,
        before: Option<Reason>,
    ) -> Result<Next, kube::Error> {
        counter!("grantsmith_rounds_total", "outcome" => standing.reason.as_str()).increment(1);
        let now = self.clock.now();
        if session.grant.metadata.deletion_timestamp.is_some() {
            if is_over(&session.grant, &standing) {
                self.let_go(&session.grant).await?;
                return Ok(Next::Rest);
            }
            standing.message.push_str(WAY_OUT);
        }
        let drift = session.fresh_drift();
        status::write(&mut session.grant, &standing, now);
        if !self.attempts.save(&mut session).await? {
            return Ok(Next::Again);
        }
        let grant = &session.grant;
        if before != Some(standing.reason) {
            if weight(standing.reason) == Weight::Ready {
                tracing::info!(reason = %standing.reason, "as declared");
            } else {
                tracing::warn!(reason = %standing.reason, message = standing.message, "not as declared");
            }
            if before.is_none_or(|before| weight(before) != Weight::Ready)
                && standing.reason == Reason::Issued
            {
                let created = grant.creation_timestamp().map_or(now.wall, |time| time.0);
                histogram!("grantsmith_issue_seconds")
                    .record(now.wall.duration_since(created).as_secs_f64().max(0.0));
            }
            self.events
                .tell(&grant.object_ref(&()), Action::Reconcile, standing.reason, &standing.message)
                .await;
        }
        if let Some(drift) = drift {
            self.events.tell(&grant.object_ref(&()), Action::Audit, standing.reason, &drift).await;
        }
        Ok(standing.again.map_or(Next::Rest, Next::In))
    }

    /// Sees to it that a grant whose keys are to be revoked cannot go before, and that no other is held back. None if there is
    /// nothing left to do about it.
    async fn guarded(&self, place: &Place, grant: LicenseGrant) -> Result<Option<LicenseGrant>, kube::Error> {
        let held_back = status::is_held_back(&grant);
        let leaving = grant.metadata.deletion_timestamp.is_some();
        let guard = grant.spec.deletion_policy == DeletionPolicy::Revoke;
        let untouched = !status::is_tried(&grant);
        match (leaving, held_back) {
            (true, false) => Ok(None),
            // There is nothing to revoke, or nothing is to be revoked.
            (true, true) if !guard || untouched => {
                self.let_go(&grant).await?;
                Ok(None)
            }
            (false, held_back) if held_back != guard => {
                let mut finalizers = grant.metadata.finalizers.clone().unwrap_or_default();
                finalizers.retain(|finalizer| finalizer != FINALIZER);
                if guard {
                    finalizers.push(FINALIZER.to_owned());
                }
                self.set_finalizers(place, &grant, &finalizers).await
            }
            _ => Ok(Some(grant)),
        }
    }

    async fn set_finalizers(
        &self,
        place: &Place,
        grant: &LicenseGrant,
        finalizers: &[String],
    ) -> Result<Option<LicenseGrant>, kube::Error> {
        let metadata = json!({"resourceVersion": grant.resource_version(), "finalizers": finalizers});
        let patch = Patch::Merge(json!({"metadata": metadata}));
        match self.grants(place).patch(&place.name, &PatchParams::default(), &patch).await {
            Ok(grant) => {
                self.index.follow(&grant);
                Ok(Some(grant))
            }
            // It goes on with what the watch tells.
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_not_found() => {
                self.index.touch(place);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn let_go(&self, grant: &LicenseGrant) -> Result<(), kube::Error> {
        let revoked = grant.spec.deletion_policy == DeletionPolicy::Revoke;
        let (action, note) = if revoked {
            (Action::Revoke, "the grant is deleted; its keys are revoked")
        } else {
            (Action::Retain, "the grant is deleted; its keys at AuthForge stay as they are")
        };
        if status::is_tried(grant) {
            self.events.tell(&grant.object_ref(&()), action, Reason::Canceled, note).await;
        }
        let mut finalizers = grant.metadata.finalizers.clone().unwrap_or_default();
        finalizers.retain(|finalizer| finalizer != FINALIZER);
        self.set_finalizers(&Place::of(grant), grant, &finalizers).await?;
        Ok(())
    }
}

/// The licenses whose keys the Secret has lost.
fn lost(grant: &LicenseGrant, keys: &Keys) -> Vec<LicenseStatus> {
    let fingerprint = |license: &LicenseStatus| Fingerprint::from_hex(license.fingerprint.clone());
    status::kept(grant).filter(|license| keys.get(&fingerprint(license)).is_none()).cloned().collect()
}

fn is_declared(declared: &Grant, license: &LicenseStatus) -> bool {
    declared.licenses.iter().any(|desired| {
        desired.name.as_str() == license.name
            && i64::from(desired.generation) == i64::from(license.generation)
            && desired.state == DesiredState::Active
    })
}

/// Whether nothing of a grant that goes can still be live.
fn is_over(grant: &LicenseGrant, standing: &Standing) -> bool {
    let dead =
        |license: &LicenseStatus| matches!(license.state, KeptState::Revoked | KeptState::RevokedElsewhere);
    !standing.failed
        && weight(standing.reason) == Weight::Ready
        && !status::is_unclear(grant)
        && status::kept(grant).all(dead)
}
