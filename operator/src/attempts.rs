//! The executor's log over the cluster: attempts and states in a grant's status, keys in its Secret.
//!
//! Every write carries the version of what was read. That a create is about to be sent is written so or not at all: whoever
//! else has touched the grant meanwhile, in its spec or its status, has planned on something that we have not seen. What has
//! happened already is written onto whatever is there by now.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use grantsmith_core::grant::Cause;
use grantsmith_core::license::Fingerprint;
use grantsmith_core::port::{
    Attempt, AttemptId, AttemptLog, Change, Clock, Kept, KeptState, LogError, Moment, Outcome, Record, Reset,
    ResetId, ResetOutcome,
};
use grantsmith_core::{GrantId, LicenseKey, LicenseName};
use grantsmith_crd::{AttemptOutcome, AttemptStatus, LicenseGrant, LicenseGrantStatus, LicenseStatus};
use jiff::Timestamp;
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt as _};

use crate::index::{self, Index, Place};
use crate::secret::{self, Found, Keys, Secrets};
use crate::status;

/// Writes of others in between are rare, and each is one of a person or of a replica that gives up soon.
const MOST_WRITES: usize = 8;

/// The log of one process.
pub struct Attempts {
    client: Client,
    secrets: Secrets,
    index: Arc<Index>,
    clock: Arc<dyn Clock>,
    sessions: Mutex<HashMap<GrantId, Arc<tokio::sync::Mutex<Session>>>>,
}

impl fmt::Debug for Attempts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempts").finish_non_exhaustive()
    }
}

/// One grant while it is worked on.
#[derive(Debug)]
pub struct Session {
    /// The grant as it was read, its status as it is to be.
    pub grant: LicenseGrant,
    /// The status as the API server has it.
    saved: Option<LicenseGrantStatus>,
    keys: Keys,
    /// [`Record::proof_from`].
    proof_from: Option<Moment>,
    version: u64,
    /// Somebody else has written: it must be read again.
    stale: bool,
    /// What is declared has changed, or the grant is gone: whoever plans must begin anew.
    pub moved: bool,
}

/// Who writes the status, as managed fields tell it.
pub(crate) fn by_us() -> PostParams {
    PostParams { field_manager: Some("grantsmith-operator".to_owned()), ..PostParams::default() }
}

impl Session {
    /// A grant that was just read.
    pub fn reading(grant: LicenseGrant) -> Self {
        let saved = grant.status.clone();
        Self { grant, saved, keys: Keys::default(), proof_from: None, version: 0, stale: false, moved: false }
    }

    /// What an audit found that the API server was not told yet.
    pub fn fresh_drift(&self) -> Option<String> {
        let told = |license: &LicenseStatus| {
            let mut before = self.saved.iter().flat_map(|status| &status.licenses);
            before.any(|known| known.fingerprint == license.fingerprint && known.drift == license.drift)
        };
        let fresh = status::kept(&self.grant).filter(|license| license.drift.is_some() && !told(license));
        let words = fresh.map(|license| {
            format!(
                "license '{}' differs at AuthForge: {}",
                license.name,
                license.drift.as_deref().unwrap_or_default()
            )
        });
        let words: Vec<String> = words.collect();
        (!words.is_empty()).then(|| words.join("; "))
    }

    fn status(&mut self) -> &mut LicenseGrantStatus {
        self.grant.status.get_or_insert_default()
    }

    fn leaving(&self) -> bool {
        self.grant.metadata.deletion_timestamp.is_some()
    }

    /// What the Secret tells and the status does not: the process ended in between.
    fn catch_up(&mut self) {
        let known: Vec<LicenseStatus> = self.keys.born().to_vec();
        for license in known {
            let status = self.status();
            if !status.licenses.iter().any(|there| there.fingerprint == license.fingerprint) {
                status.licenses.push(license);
            }
        }
    }

    fn record(&self, recent_revocations: u32, now: Timestamp) -> Result<Record, LogError> {
        let unreadable = |error: grantsmith_crd::convert::Error| LogError::Unavailable(error.to_string());
        let mut record = Record {
            version: self.version,
            recent_revocations,
            proof_from: self.proof_from,
            ..Record::default()
        };
        let Some(status) = &self.grant.status else { return Ok(record) };
        for license in &status.licenses {
            let fingerprint = Fingerprint::from_hex(license.fingerprint.clone());
            if let Some(key) = self.keys.get(&fingerprint) {
                record.licenses.push(license.kept(key.clone()).map_err(unreadable)?);
            }
        }
        for attempt in &status.attempts {
            record.attempts.push(attempt.attempt().map_err(unreadable)?);
        }
        record.resets.extend(self.resets(&status.licenses, now));
        Ok(record)
    }

    /// The wishes to unbind devices that nobody has acted on yet, of licenses that are there.
    fn resets(&self, known: &[LicenseStatus], now: Timestamp) -> impl Iterator<Item = Reset> {
        self.grant.spec.licenses.iter().filter_map(move |declared| {
            let at = declared.devices_reset_at?;
            if at > now || !self.grant.takes_devices_reset(at) {
                return None;
            }
            // A replacement has no devices of before.
            let of_name = known.iter().filter(|license| license.name == declared.name);
            let acted_on = of_name.filter_map(|license| license.devices_reset_at).max();
            let open = acted_on < Some(at) && known.iter().any(|license| license.is_of(declared));
            let license = LicenseName::parse(&declared.name).filter(|_| open)?;
            Some(Reset { id: wish(&declared.name, at), license })
        })
    }
}

/// How long until devices are to be unbound, where somebody has written that ahead.
pub fn until_reset(grant: &LicenseGrant, now: Timestamp) -> Option<Duration> {
    let times = grant.spec.licenses.iter().filter_map(|license| license.devices_reset_at);
    times.filter(|at| *at > now).min().map(|at| at.duration_since(now).unsigned_abs())
}

/// A wish has no name in a spec but its license's and its time.
fn wish(license: &str, at: Timestamp) -> ResetId {
    ResetId(format!("{license}@{at}"))
}

fn wished(reset: &ResetId) -> Option<(&str, Timestamp)> {
    let (license, at) = reset.0.split_once('@')?;
    Some((license, at.parse().ok()?))
}

impl Attempts {
    /// A log over a cluster.
    pub fn new(client: Client, index: Arc<Index>, clock: Arc<dyn Clock>) -> Self {
        let secrets = Secrets::new(client.clone());
        Self { client, secrets, index, clock, sessions: Mutex::default() }
    }

    fn api(&self, grant: &LicenseGrant) -> Api<LicenseGrant> {
        Api::namespaced(self.client.clone(), &grant.namespace().unwrap_or_default())
    }

    /// Begins to work on a grant that was just read, with its keys. `false` if another one of its purchase is worked on.
    pub fn begin(&self, id: &GrantId, grant: LicenseGrant, keys: Keys, proof_from: Option<Moment>) -> bool {
        let mut session = Session { keys, proof_from, ..Session::reading(grant) };
        session.catch_up();
        match self.sessions().entry(id.clone()) {
            Entry::Occupied(_) => false,
            Entry::Vacant(place) => {
                place.insert(Arc::new(tokio::sync::Mutex::new(session)));
                true
            }
        }
    }

    /// Ends the work on a grant, and gives it back as it is by now. What was not written yet is in its status.
    pub fn end(&self, id: &GrantId) -> Option<Session> {
        let session = self.sessions().remove(id)?;
        // Nobody else has it: calls of an executor that was dropped are dropped too.
        Some(Arc::into_inner(session)?.into_inner())
    }

    fn sessions(&self) -> std::sync::MutexGuard<'_, HashMap<GrantId, Arc<tokio::sync::Mutex<Session>>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn session(&self, id: &GrantId) -> Result<Arc<tokio::sync::Mutex<Session>>, LogError> {
        let session = self.sessions().get(id).cloned();
        session.ok_or_else(|| LogError::Unavailable("nobody works on the grant".to_owned()))
    }

    /// Gives keys that were found again to a grant whose Secret has lost them. While the grant goes they are only remembered: its
    /// namespace may take no new Secrets, and the keys are needed for their revocation alone.
    pub async fn restore(&self, id: &GrantId, found: &[(LicenseStatus, LicenseKey)]) -> Result<(), LogError> {
        let session = self.session(id)?;
        let mut session = session.lock().await;
        self.write_keys(&mut session, found).await
    }

    /// Writes down what an audit found of a license; saved with whatever is written next.
    pub async fn tell_drift(
        &self,
        id: &GrantId,
        fingerprint: &str,
        drift: Option<String>,
    ) -> Result<(), LogError> {
        let session = self.session(id)?;
        let mut session = session.lock().await;
        for license in &mut session.status().licenses {
            if license.fingerprint == fingerprint {
                license.drift.clone_from(&drift);
            }
        }
        Ok(())
    }

    /// Saves a grant's status if it differs from what the API server has. `false` if somebody else was faster.
    pub async fn save(&self, session: &mut Session) -> Result<bool, kube::Error> {
        if session.grant.status == session.saved {
            return Ok(true);
        }
        match self.replace(session).await {
            Ok(()) => Ok(true),
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn replace(&self, session: &mut Session) -> Result<(), kube::Error> {
        let api = self.api(&session.grant);
        let written = api.replace_status(&session.grant.name_any(), &by_us(), &session.grant).await?;
        self.index.follow(&written);
        session.saved.clone_from(&written.status);
        session.grant = written;
        session.version += 1;
        Ok(())
    }

    /// Reads a grant and its Secret again.
    async fn read_again(&self, session: &mut Session) -> Result<(), LogError> {
        let known = &session.grant;
        let found = self.api(known).get_opt(&known.name_any()).await.map_err(|error| unavailable(&error))?;
        let Some(grant) = found.filter(|grant| grant.uid() == known.uid()) else {
            session.moved = true;
            return Err(LogError::Unavailable("the grant is gone".to_owned()));
        };
        let changed = |of: fn(&LicenseGrant) -> Option<String>| of(&grant) != of(known);
        session.moved |= grant.metadata.generation != known.metadata.generation
            || changed(|grant| grant.metadata.deletion_timestamp.as_ref().map(|time| time.0.to_string()));
        match self.secrets.read(&grant).await.map_err(|error| unavailable(&error))? {
            // What is only remembered stays remembered.
            Found::Keys(_) if session.leaving() => {}
            Found::Keys(keys) => session.keys = keys,
            Found::Taken => {
                session.moved = true;
                return Err(LogError::Unavailable("the Secret's name belongs to something else".to_owned()));
            }
        }
        session.saved.clone_from(&grant.status);
        session.grant = grant;
        session.stale = false;
        session.version += 1;
        session.catch_up();
        Ok(())
    }

    /// Writes what is about to be done, or nothing if somebody else has written.
    async fn announce(&self, session: &mut Session) -> Result<(), LogError> {
        self.replace(session).await.map_err(|error| {
            session.stale = true;
            match error {
                kube::Error::Api(status) if status.is_conflict() => LogError::Conflict,
                error => unavailable(&error),
            }
        })
    }

    /// Writes what has happened onto whatever is there by now.
    async fn write(
        &self,
        session: &mut Session,
        change: impl Fn(&mut LicenseGrantStatus),
    ) -> Result<(), LogError> {
        for _ in 0..MOST_WRITES {
            if session.stale {
                self.read_again(session).await?;
            }
            change(session.status());
            match self.replace(session).await {
                Ok(()) => return Ok(()),
                Err(kube::Error::Api(status)) if status.is_conflict() || status.is_not_found() => {
                    session.stale = true;
                }
                Err(error) => {
                    // Whether it was written is not known.
                    session.stale = true;
                    return Err(unavailable(&error));
                }
            }
        }
        Err(LogError::Conflict)
    }

    /// Writes keys beside those that are in the Secret, never in place of one.
    async fn write_keys(
        &self,
        session: &mut Session,
        fresh: &[(LicenseStatus, LicenseKey)],
    ) -> Result<(), LogError> {
        for _ in 0..MOST_WRITES {
            if session.stale {
                self.read_again(session).await?;
            }
            if fresh.iter().any(|(license, _)| session.keys.has_another(license)) {
                // Somebody else was faster. Theirs is kept, and the next plan sees ours as what it is.
                session.stale = true;
                return Err(LogError::Conflict);
            }
            let mut keys = session.keys.clone();
            for (license, key) in fresh {
                keys.add(license.clone(), key.clone());
            }
            if session.leaving() {
                session.keys = keys;
                session.catch_up();
                return Ok(());
            }
            match self.secrets.write(&session.grant, &mut keys).await {
                Ok(()) => {
                    let place = Place::of(&session.grant).beside(&session.grant.secret_name());
                    let uid = session.grant.uid().unwrap_or_default();
                    self.index.wrote_secret(&place, &uid, keys.version().unwrap_or_default());
                    session.keys = keys;
                    session.version += 1;
                    session.catch_up();
                    return Ok(());
                }
                Err(secret::Error::Conflict) => session.stale = true,
                Err(secret::Error::Server(error)) => {
                    session.stale = true;
                    return Err(unavailable(&error));
                }
                Err(error @ secret::Error::Record(_)) => {
                    return Err(LogError::Unavailable(error.to_string()));
                }
            }
        }
        Err(LogError::Conflict)
    }
}

/// What the API server said, as far as it cannot hold a key.
fn unavailable(error: &kube::Error) -> LogError {
    LogError::Unavailable(told(error))
}

/// An error of the API server for logs: without its words about a body, in which a key may stand.
pub fn told(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if matches!(status.code, 401 | 403 | 404 | 409) => {
            format!("the API server answered {}: {}", status.code, status.message)
        }
        kube::Error::Api(status) => format!("the API server answered {} {}", status.code, status.reason),
        kube::Error::SerdeError(_) => "the API server's answer could not be read".to_owned(),
        error => {
            let mut text = "the API server could not be asked".to_owned();
            let mut cause = std::error::Error::source(error);
            while let Some(error) = cause {
                text.push_str(": ");
                text.push_str(&error.to_string());
                cause = error.source();
            }
            text
        }
    }
}

#[async_trait]
impl AttemptLog for Attempts {
    async fn load(&self, grant: &GrantId) -> Result<Record, LogError> {
        let session = self.session(grant)?;
        let mut session = session.lock().await;
        if session.stale {
            self.read_again(&mut session).await?;
        }
        if session.moved {
            return Err(LogError::Unavailable("what is declared has changed meanwhile".to_owned()));
        }
        let now = self.clock.now().wall;
        session.record(self.index.revocations(now), now)
    }

    async fn open(&self, grant: &GrantId, version: u64, attempt: &Attempt) -> Result<(), LogError> {
        let session = self.session(grant)?;
        let mut session = session.lock().await;
        if session.version != version || session.stale {
            return Err(LogError::Conflict);
        }
        // What was refused or not sent proves nothing and is not needed any more.
        let over = |outcome| matches!(outcome, AttemptOutcome::NotSent | AttemptOutcome::Refused);
        session.status().attempts.retain(|attempt| !over(attempt.outcome));
        session.status().attempts.push(AttemptStatus::of(attempt));
        self.announce(&mut session).await
    }

    async fn keep(&self, grant: &GrantId, license: &Kept) -> Result<(), LogError> {
        let session = self.session(grant)?;
        let mut session = session.lock().await;
        // What was made for the grant is nobody else's.
        if license.attempt.is_none()
            && let Some(key) = index::Fingerprint::parse(license.key.fingerprint().as_str())
        {
            let claimed = self.index.claim_key(key, &Place::of(&session.grant));
            claimed.map_err(|owner| LogError::Taken(owner.to_string()))?;
        }
        self.write_keys(&mut session, &[(LicenseStatus::of(license), license.key.clone())]).await
    }

    async fn settle(&self, grant: &GrantId, attempt: &AttemptId, outcome: &Outcome) -> Result<(), LogError> {
        let session = self.session(grant)?;
        let mut session = session.lock().await;
        self.write(&mut session, |status| {
            for known in status.attempts.iter_mut().filter(|known| known.id == attempt.0) {
                known.settle(outcome);
            }
        })
        .await
    }

    async fn note(
        &self,
        grant: &GrantId,
        fingerprint: &Fingerprint,
        change: &Change,
    ) -> Result<(), LogError> {
        let session = self.session(grant)?;
        let mut session = session.lock().await;
        self.write(&mut session, |status| {
            let of_key = |license: &&mut LicenseStatus| license.fingerprint == fingerprint.as_str();
            for license in status.licenses.iter_mut().filter(of_key) {
                license.apply(change);
            }
        })
        .await
    }

    async fn spend(
        &self,
        grant: &GrantId,
        fingerprint: &Fingerprint,
        at: Timestamp,
        budget: u32,
    ) -> Result<(), LogError> {
        let counted = index::Fingerprint::parse(fingerprint.as_str())
            .ok_or_else(|| LogError::Unavailable("a fingerprint that is none".to_owned()))?;
        if !self.index.spend(counted, at, budget) {
            return Err(LogError::Conflict);
        }
        let change = Change::State(KeptState::Revoking { at, cause: Cause::Rule });
        let written = self.note(grant, fingerprint, &change).await;
        if written.is_err() {
            self.index.refund(counted, at);
        }
        written
    }

    async fn reset(&self, grant: &GrantId, reset: &ResetId, outcome: ResetOutcome) -> Result<(), LogError> {
        let (name, at) =
            wished(reset).ok_or_else(|| LogError::Unavailable("a wish that nobody made".to_owned()))?;
        let session = self.session(grant)?;
        let mut session = session.lock().await;
        let declared = session.grant.spec.licenses.iter().find(|declared| declared.name == name).cloned();
        let note = |status: &mut LicenseGrantStatus| {
            let of_wish = |license: &&mut LicenseStatus| {
                declared.as_ref().is_some_and(|declared| license.is_of(declared))
            };
            for license in status.licenses.iter_mut().filter(of_wish) {
                license.reset_devices(at, outcome);
            }
        };
        if outcome != ResetOutcome::Sent {
            return self.write(&mut session, note).await;
        }
        if session.stale {
            return Err(LogError::Conflict);
        }
        note(session.status());
        self.announce(&mut session).await
    }

    async fn watched(&self, grant: &GrantId, attempt: &AttemptId, at: Timestamp) -> Result<(), LogError> {
        let session = self.session(grant)?;
        let mut session = session.lock().await;
        self.write(&mut session, |status| {
            for known in status.attempts.iter_mut().filter(|known| known.id == attempt.0) {
                known.watched_at = Some(at);
            }
        })
        .await
    }
}
