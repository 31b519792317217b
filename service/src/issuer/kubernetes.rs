//! An operator in a cluster issues: each grant is declared as a `LicenseGrant`, whose status and Secret tell what came of it.
//!
//! The cluster is the record of keys, attempts and license state. What this program knows of them is read from there, again
//! at each start, and decides nothing but what is shown and mailed.

mod resource;
mod watch;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use grantsmith_core::license::{Fingerprint, LicenseKey};
use grantsmith_core::port::{Class, Clock};
use grantsmith_core::{GrantId, LicenseName, Reason, retry};
use grantsmith_crd::LicenseGrant;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource as _};
use metrics::counter;

use self::resource::{MANAGER, Verdict};
use super::{Issuer, Unlocked};
use crate::decide::Offer;
use crate::hand;
use crate::store::{Act, Ask, Decide, Error, GrantRow, GrantState, Progress, Store, Taken};
use crate::worker::Touched;

pub use watch::Watch;

/// What the cluster tells is watched; this is the net under it.
const AGAIN: Duration = Duration::from_secs(600);
/// While an object of the same name is on its way out.
const SOON: Duration = Duration::from_secs(2);

/// What is held of an older purchase.
const BEFORE_START: &str = "it was paid before this installation began, and the cluster does not know it; import its keys, or \
                            release it to have it issued";

/// What was paid so shortly before the first start may have been paid after it, by another clock.
const CLOCKS_APART: SignedDuration = SignedDuration::from_mins(10);

/// The parts of a [`Cluster`].
pub struct Parts {
    /// The cluster's API.
    pub client: Client,
    /// Where grants are.
    pub namespace: String,
    /// The record.
    pub store: Arc<dyn Store>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// What this installation is called in labels of grants that people make.
    pub installation: String,
    /// What is sold where a purchase does not say.
    pub offer: Offer,
    /// Older purchases that the cluster does not know are held.
    pub fulfil_since: Option<Timestamp>,
    /// What this process is called in events.
    pub instance: String,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

/// Issues through a cluster.
pub struct Cluster {
    grants: Api<LicenseGrant>,
    secrets: Api<Secret>,
    events: Recorder,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    installation: String,
    offer: Offer,
    fulfil_since: Option<Timestamp>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").finish_non_exhaustive()
    }
}

/// Why a round ended early.
enum Halt {
    Cluster(kube::Error),
    Store(Error),
    /// What is to be done has changed.
    Changed,
}

impl From<kube::Error> for Halt {
    fn from(error: kube::Error) -> Self {
        Self::Cluster(error)
    }
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

#[async_trait]
impl Issuer for Cluster {
    async fn work(&self, row: &GrantRow) -> Result<Option<Progress>, Error> {
        let (outcome, result) = match self.round(row).await {
            Ok(progress) => ("done", Ok(Some(progress))),
            Err(Halt::Changed) => ("changed", Ok(None)),
            Err(Halt::Store(error)) => return Err(error),
            Err(Halt::Cluster(error)) => ("Cluster", Ok(Some(self.failed(row, &error)))),
        };
        counter!("grantsmith_rounds_total", "outcome" => outcome).increment(1);
        result
    }

    async fn rehearse(&self, row: &GrantRow) -> Progress {
        let count = row.licenses.len();
        let detail = format!("observed: would declare {count} license{}", if count == 1 { "" } else { "s" });
        self.unseen(row, GrantState::Issuing, Reason::Paused, Some(detail), None)
    }

    async fn unlock(&self, mut row: GrantRow) -> Result<Unlocked, Error> {
        if row.licenses.iter().all(|license| license.kept.is_none()) {
            return Ok(Unlocked { row, whole: true });
        }
        let keys = self.keys(&resource::secret(&row)).await.map_err(|error| unavailable(&error))?;
        let mut whole = true;
        for license in &mut row.licenses {
            let key = license.shown.as_ref().and_then(|shown| keys.get(&shown.fingerprint));
            match (&mut license.kept, key) {
                (Some(kept), Some(key)) => kept.key = key.clone(),
                (Some(_), None) => {
                    whole = false;
                    license.kept = None;
                }
                (None, _) => {}
            }
        }
        Ok(Unlocked { row, whole })
    }

    fn delivered(&self, grant: &GrantId, touched: &Touched) {
        touched.touch(grant.clone());
    }
}

impl Cluster {
    /// Over a cluster, which need not be there yet.
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts { client, namespace, store, clock, installation, offer, fulfil_since, instance } = parts;
        let reporter = Reporter { controller: MANAGER.to_owned(), instance: Some(instance) };
        Arc::new(Self {
            grants: Api::namespaced(client.clone(), &namespace),
            secrets: Api::namespaced(client.clone(), &namespace),
            events: Recorder::new(client, reporter),
            store,
            clock,
            installation,
            offer,
            fulfil_since,
        })
    }

    fn now(&self) -> Timestamp {
        self.clock.now().wall
    }

    fn after(&self, wait: Duration) -> Timestamp {
        self.now().checked_add(wait).unwrap_or(Timestamp::MAX)
    }

    async fn round(&self, row: &GrantRow) -> Result<Progress, Halt> {
        let found = self.grants.get_opt(resource::name(row)).await?;
        if let Some(found) = &found
            && found.metadata.deletion_timestamp.is_some()
        {
            let detail = "its LicenseGrant is being deleted; it is declared again after that".to_owned();
            return Ok(self.unseen(row, GrantState::Issuing, Reason::Issuing, Some(detail), Some(SOON)));
        }
        let grant = match (found, &row.object) {
            (Some(found), None) if self.is_declared(row, &found) => found,
            (None, None) if self.is_before_start(row) && !is_imported(row) => return Ok(self.held(row)),
            (found, None) => self.declare(&self.declarable(row, found.as_ref()), found.as_ref()).await?,
            (Some(found), Some(_)) => found,
            (None, Some(object)) => {
                self.store.let_go(&row.id, &object.name, self.now()).await?;
                return Err(Halt::Changed);
            }
        };
        let grant = match resource::compare(row, &grant) {
            Verdict::Same => grant,
            Verdict::Write => {
                if let Some(intent) = resource::intent(row, &grant) {
                    self.store.agree(&row.id, intent).await?;
                }
                let change = Patch::Merge(resource::overruling(row, &grant));
                match self.grants.patch(resource::name(row), &by_us(), &change).await {
                    // What has been written there meanwhile counts first.
                    Err(kube::Error::Api(status)) if status.is_conflict() => return Err(Halt::Changed),
                    written => written?,
                }
            }
            Verdict::TakeIn(act) => {
                self.take_in(row, *act, resource::person(&grant)).await?;
                return Err(Halt::Changed);
            }
        };
        if row.object.is_some() {
            let mut grant = grant;
            if let Some(marking) = resource::marking(row, &grant) {
                grant = self.grants.patch(resource::name(row), &by_us(), &Patch::Merge(marking)).await?;
            }
            if let Some(declaration) =
                resource::declaration(&grant, Some(row), &self.installation, self.now())
            {
                self.store.take_in(declaration).await?;
            }
            return Err(Halt::Changed);
        }
        let progress = self.progress(row, &grant);
        let again = (progress.state == GrantState::Issuing).then(|| self.after(AGAIN));
        Ok(Progress { due: again, ..progress })
    }

    /// Applies what this program declares. Fields that somebody else has changed are taken back, and that is said.
    async fn declare(&self, row: &GrantRow, found: Option<&LicenseGrant>) -> Result<LicenseGrant, Halt> {
        let manifest = resource::manifest(row, found);
        let (name, apply) = (row.id.as_str(), PatchParams::apply(MANAGER));
        match self.grants.patch(name, &apply, &Patch::Apply(&manifest)).await {
            Err(kube::Error::Api(status)) if status.is_conflict() => {
                let causes = status.details.iter().flat_map(|details| &details.causes);
                let fields: Vec<&str> = causes.map(|cause| cause.field.as_str()).collect();
                let grant = self.grants.patch(name, &apply.force(), &Patch::Apply(&manifest)).await?;
                self.reclaimed(&grant, &fields.join(", ")).await;
                self.purged(row, grant).await
            }
            applied => self.purged(row, applied?).await,
        }
    }

    /// Takes away what somebody has added to what was bought, and says so.
    async fn purged(&self, row: &GrantRow, grant: LicenseGrant) -> Result<LicenseGrant, Halt> {
        if resource::is_declared(row, &grant) {
            return Ok(grant);
        }
        let change = Patch::Merge(resource::purge(row, &grant));
        let grant = self.grants.patch(row.id.as_str(), &by_us(), &change).await?;
        self.reclaimed(&grant, ".spec.licenses").await;
        Ok(grant)
    }

    async fn reclaimed(&self, grant: &LicenseGrant, fields: &str) {
        let note = format!(
            "{fields} belong to what was bought and were set back; use spec.override to decide otherwise"
        );
        tracing::info!(grant.id = grant.metadata.name, fields, "fields were set back");
        let event = Event {
            type_: EventType::Warning,
            reason: "FieldReclaimed".to_owned(),
            // The API server takes a kilobyte.
            note: Some(note.chars().take(500).collect()),
            action: "Declare".to_owned(),
            secondary: None,
        };
        if let Err(error) = self.events.publish(&event, &grant.object_ref(&())).await {
            tracing::debug!(error = told(&error), "an event could not be written");
        }
    }

    /// Takes what somebody has written into an override into the record.
    async fn take_in(&self, row: &GrantRow, act: Act, person: String) -> Result<(), Error> {
        let at = self.now();
        let decide: Decide = {
            let offer = self.offer.clone();
            Arc::new(move |purchase, record, ticket| hand::decide(purchase, record, &offer, ticket, at))
        };
        let ask = Ask { grant: row.id.clone(), act, request: None, person, at };
        match self.store.take(ask, decide).await? {
            Taken::Done | Taken::Repeated => {
                tracing::info!(grant.id = %row.id, "an override in the cluster was taken in");
            }
            Taken::Refused(refusal) => {
                tracing::warn!(grant.id = %row.id, ?refusal, "an override in the cluster could not be taken in");
            }
        }
        Ok(())
    }

    /// Whether the purchase is older than this installation's part in it.
    fn is_before_start(&self, row: &GrantRow) -> bool {
        let released = row.hand.as_ref().is_some_and(|hand| hand.released);
        let since = self.fulfil_since.filter(|_| !released);
        let since = since.and_then(|since| since.checked_sub(CLOCKS_APART).ok());
        since.is_some_and(|since| row.paid_at.is_some_and(|paid_at| paid_at < since))
    }

    /// The licenses of an older purchase that are held: no key was imported for them, as there was for others.
    fn held_licenses(&self, row: &GrantRow, found: Option<&LicenseGrant>) -> Vec<LicenseName> {
        let entries = found.map_or(&[][..], |found| &found.spec.licenses);
        let imported = is_imported(row) || entries.iter().any(|entry| entry.adopt.is_some());
        if !imported || !self.is_before_start(row) {
            return Vec::new();
        }
        let there = |name: &LicenseName| entries.iter().any(|entry| entry.name == name.as_str());
        let unnamed = row.licenses.iter().filter(|license| license.desired.adopt.is_none());
        unnamed.map(|license| license.desired.name.clone()).filter(|name| !there(name)).collect()
    }

    /// What is to be declared of a grant.
    fn declarable<'r>(&self, row: &'r GrantRow, found: Option<&LicenseGrant>) -> Cow<'r, GrantRow> {
        let held = self.held_licenses(row, found);
        if held.is_empty() {
            return Cow::Borrowed(row);
        }
        let mut row = row.clone();
        row.licenses.retain(|license| !held.contains(&license.desired.name));
        Cow::Owned(row)
    }

    /// Where a grant stands, by its object and by what is held of it.
    fn progress(&self, row: &GrantRow, grant: &LicenseGrant) -> Progress {
        let mut progress = resource::progress(row, grant, self.now());
        let held = self.held_licenses(row, Some(grant));
        if held.is_empty() {
            return progress;
        }
        for (_, reason) in progress.licenses.iter_mut().filter(|(name, _)| held.contains(name)) {
            *reason = Reason::BeforeStart;
        }
        if progress.state == GrantState::Ready {
            progress.state = GrantState::Parked;
            progress.reason = Reason::BeforeStart;
            progress.detail = Some(BEFORE_START.to_owned());
            progress.deliver = false;
        }
        progress
    }

    fn held(&self, row: &GrantRow) -> Progress {
        self.unseen(row, GrantState::Parked, Reason::BeforeStart, Some(BEFORE_START.to_owned()), None)
    }

    fn failed(&self, row: &GrantRow, error: &kube::Error) -> Progress {
        let tries = row.tries.saturating_add(1);
        let wait = retry::delay(Class::Transient, tries);
        tracing::warn!(grant.id = %row.id, error = told(error), tries, "the cluster failed in a round of work");
        let detail = format!("the cluster could not be asked: {}; tried again by itself", told(error));
        let progress = self.unseen(row, GrantState::Issuing, Reason::Issuing, Some(detail), Some(wait));
        Progress { tries, ..progress }
    }

    /// Where a grant stands of which the cluster has told nothing.
    fn unseen(
        &self,
        row: &GrantRow,
        state: GrantState,
        reason: Reason,
        detail: Option<String>,
        again: Option<Duration>,
    ) -> Progress {
        Progress {
            id: row.id.clone(),
            state,
            reason,
            detail,
            licenses: resource::all(row, reason),
            due: again.map(|wait| self.after(wait)),
            tries: 0,
            deliver: false,
            sighting: None,
            at: self.now(),
        }
    }

    /// The keys in a Secret.
    async fn keys(&self, name: &str) -> Result<BTreeMap<Fingerprint, LicenseKey>, kube::Error> {
        let secret = self.secrets.get_opt(name).await?;
        let data = secret.and_then(|secret| secret.data).unwrap_or_default();
        let keys = data.values().filter_map(|value| std::str::from_utf8(&value.0).ok()).map(LicenseKey::new);
        Ok(keys.map(|key| (key.fingerprint(), key)).collect())
    }

    /// Whether an object says what this program would declare.
    fn is_declared(&self, row: &GrantRow, found: &LicenseGrant) -> bool {
        resource::is_declared(&self.declarable(row, Some(found)), found)
    }

    /// Whether the record tells what an object does, and nothing is left to do about it.
    async fn is_settled(&self, id: &GrantId, grant: &LicenseGrant) -> Result<bool, Error> {
        let Some(row) = self.store.grant(id).await? else { return Ok(false) };
        let told = resource::is_told(&row, &self.progress(&row, grant));
        let declared = row.object.is_some() || self.is_declared(&row, grant);
        Ok(told && declared && matches!(resource::compare(&row, grant), Verdict::Same))
    }
}

/// Whether a key was imported for it.
fn is_imported(row: &GrantRow) -> bool {
    row.licenses.iter().any(|license| license.desired.adopt.is_some())
}

fn by_us() -> PatchParams {
    PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() }
}

fn unavailable(error: &kube::Error) -> Error {
    Error::Unavailable(format!("the cluster has the keys: {}", told(error)))
}

/// An error of the API server, without its words about a body.
fn told(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if matches!(status.code, 401 | 403 | 404 | 409 | 422) => {
            format!("the API server answered {}: {}", status.code, status.message)
        }
        kube::Error::Api(status) => format!("the API server answered {} {}", status.code, status.reason),
        kube::Error::SerdeError(_) => "the API server's answer could not be read".to_owned(),
        error => format!("the API server could not be reached: {}", crate::app::chain(error)),
    }
}
