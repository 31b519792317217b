//! What happens to grants and their Secrets, as the API server tells it.
//!
//! Of Secrets only the metadata is asked for, and only of those that carry our label. A watch that breaks is begun anew; what
//! came and went in between was not seen, and the index is told so.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use grantsmith_core::Reason;
use grantsmith_crd::{DeletionPolicy, LicenseGrant};
use k8s_openapi::api::core::v1::{ObjectReference, Secret};
use kube::api::{Api, PartialObjectMeta};
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Config, Event, watcher};
use kube::{Client, Resource as _, ResourceExt as _};
use metrics::gauge;
use tokio::sync::Notify;

use crate::attempts::told;
use crate::events::{Action, Events};
use crate::index::{Index, Place};
use crate::lease::Lease;
use crate::queue::Queue;
use crate::secret;
use crate::status::Rest;

/// Objects in one answer of a listing. Each takes some ten kilobytes while it is read, of which little is kept.
pub(crate) const PAGE: u32 = 100;

/// What was seen of the cluster so far.
#[derive(Debug)]
pub struct Sight {
    state: Mutex<Seen>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Seen {
    waiting: BTreeSet<(String, &'static str)>,
    undefined: bool,
}

impl Sight {
    /// Nothing seen yet of these namespaces.
    pub fn new<'a>(namespaces: impl IntoIterator<Item = &'a String>) -> Self {
        let both = |namespace: &String| [(namespace.clone(), "grants"), (namespace.clone(), "Secrets")];
        let waiting = namespaces.into_iter().flat_map(both).collect();
        Self { state: Mutex::new(Seen { waiting, undefined: false }), changed: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is missing until everything is known, in words that say what to do.
    pub fn missing(&self) -> Option<String> {
        let seen = self.lock();
        if seen.undefined {
            return Some(
                "waiting for the definition of LicenseGrants; apply it: grantsmith-operator crd | kubectl apply --server-side -f -"
                    .to_owned(),
            );
        }
        seen.waiting
            .first()
            .map(|(namespace, what)| format!("waiting for the {what} of namespace {namespace}"))
    }

    /// Waits until everything was listed once.
    pub async fn all(&self) {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.lock().waiting.is_empty() {
                return;
            }
            changed.await;
        }
    }

    fn is_all(&self) -> bool {
        self.lock().waiting.is_empty()
    }

    fn listed(&self, namespace: &str, what: &'static str) {
        self.lock().waiting.remove(&(namespace.to_owned(), what));
        self.changed.notify_waiters();
    }

    fn defined(&self, defined: bool) {
        let before = std::mem::replace(&mut self.lock().undefined, !defined);
        gauge!("grantsmith_definition_present").set(if defined { 1.0 } else { 0.0 });
        if before == defined {
            if defined {
                tracing::info!("the cluster knows LicenseGrants now");
            } else {
                tracing::warn!(
                    "the cluster does not know LicenseGrants; apply their definition: grantsmith-operator crd | kubectl apply \
                     --server-side -f -"
                );
            }
        }
    }
}

/// Where what happens goes.
#[derive(Clone)]
pub struct Watch {
    /// The cluster.
    pub client: Client,
    /// What was seen so far.
    pub sight: Arc<Sight>,
    /// What is known of grants.
    pub index: Arc<Index>,
    /// Which of them wait.
    pub queue: Arc<Queue>,
    /// Says what becomes of grants that are gone.
    pub events: Events,
    /// Who says it.
    pub lease: Arc<Lease>,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("sight", &self.sight).finish_non_exhaustive()
    }
}

/// Pauses between tries: short, because a definition that has just been applied is waited for.
#[derive(Debug, Default)]
pub(crate) struct Pauses(u32);

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.0 = self.0.saturating_add(1);
        let pause = Duration::from_millis(250).saturating_mul(1 << self.0.min(4));
        // Replicas that have lost the same server do not come back in step.
        Some(pause.mul_f64(rand::random_range(0.75..1.25)))
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.0 = 0;
    }
}

impl Watch {
    /// Follows the grants of a namespace, for ever.
    pub async fn grants(&self, namespace: String) {
        let api: Api<DeserializeGuard<LicenseGrant>> = Api::namespaced(self.client.clone(), &namespace);
        let mut unreadable = BTreeMap::new();
        loop {
            // A watch goes on from where it broke, which is nowhere once the definition is gone: then all is listed anew.
            self.grants_while_defined(&namespace, api.clone(), &mut unreadable).await;
        }
    }

    async fn grants_while_defined(
        &self,
        namespace: &str,
        api: Api<DeserializeGuard<LicenseGrant>>,
        unreadable: &mut BTreeMap<Place, Option<i64>>,
    ) {
        let mut stream = pin!(watcher(api, Config::default().page_size(PAGE)).backoff(Pauses::default()));
        let mut missing = BTreeSet::new();
        while let Some(event) = stream.next().await {
            match event {
                Ok(Event::Init) => {
                    self.index.watching(namespace);
                    missing = self.index.grants_in(namespace);
                }
                Ok(Event::InitApply(grant)) => {
                    missing.remove(&Place::of(&grant));
                    self.grant(grant, unreadable, Index::observe).await;
                }
                Ok(Event::Apply(grant)) => self.grant(grant, unreadable, Index::follow).await,
                Ok(Event::InitDone) => {
                    for place in std::mem::take(&mut missing) {
                        unreadable.remove(&place);
                        self.gone(&place);
                    }
                    self.sight.defined(true);
                    self.listed(namespace, "grants");
                }
                Ok(Event::Delete(grant)) => {
                    let place = Place::of(&grant);
                    unreadable.remove(&place);
                    self.gone(&place);
                    if let DeserializeGuard(Ok(grant)) = grant {
                        self.retained(&grant).await;
                    }
                }
                Err(error) => {
                    trouble(namespace, &error);
                    match error {
                        watcher::Error::InitialListFailed(cause) if is_missing(&cause) => {
                            self.sight.defined(false);
                        }
                        watcher::Error::WatchStartFailed(cause) if is_missing(&cause) => return,
                        _ => {}
                    }
                }
            }
            #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
            gauge!("grantsmith_unreadable_grants", "namespace" => namespace.to_owned())
                .set(unreadable.len() as f64);
        }
    }

    /// Follows the Secrets of a namespace that are ours, for ever.
    pub async fn secrets(&self, namespace: String) {
        let api: Api<PartialObjectMeta<Secret>> = Api::namespaced(self.client.clone(), &namespace);
        let config =
            Config::default().page_size(PAGE).labels(&format!("{}={}", secret::LABEL.0, secret::LABEL.1));
        let mut stream = pin!(watcher(api, config).backoff(Pauses::default()));
        let mut missing = BTreeSet::new();
        while let Some(event) = stream.next().await {
            match event {
                Ok(Event::Init) => missing = self.index.secrets_in(&namespace),
                Ok(Event::InitApply(secret) | Event::Apply(secret)) => {
                    missing.remove(&Place::of(&secret));
                    self.secret(&secret);
                }
                Ok(Event::InitDone) => {
                    for place in std::mem::take(&mut missing) {
                        self.wake(self.index.remove_secret(&place));
                    }
                    self.listed(&namespace, "Secrets");
                }
                Ok(Event::Delete(secret)) => self.wake(self.index.remove_secret(&Place::of(&secret))),
                Err(error) => trouble(&namespace, &error),
            }
        }
    }

    fn listed(&self, namespace: &str, what: &'static str) {
        if self.sight.is_all() {
            return;
        }
        self.sight.listed(namespace, what);
        if self.sight.is_all() {
            self.wake(self.index.touch_bereft());
        }
    }

    async fn grant(
        &self,
        grant: DeserializeGuard<LicenseGrant>,
        unreadable: &mut BTreeMap<Place, Option<i64>>,
        take_in: fn(&Index, &LicenseGrant),
    ) {
        let place = Place::of(&grant);
        match grant.0 {
            Ok(grant) => {
                unreadable.remove(&place);
                take_in(&self.index, &grant);
                self.wake([place]);
            }
            Err(error) => {
                let generation = error.metadata.generation;
                if unreadable.insert(place.clone(), generation) == Some(generation) {
                    return;
                }
                tracing::warn!(grant = %place, error = error.error, "this version cannot read the grant");
                let about = ObjectReference {
                    api_version: Some(LicenseGrant::api_version(&()).into_owned()),
                    kind: Some(LicenseGrant::kind(&()).into_owned()),
                    namespace: error.metadata.namespace,
                    name: error.metadata.name,
                    uid: error.metadata.uid,
                    ..ObjectReference::default()
                };
                if self.lease.is_held() {
                    let note = format!("this version of the operator cannot read the grant: {}", error.error);
                    self.events.tell(&about, Action::Reconcile, Reason::Rejected, &note).await;
                }
            }
        }
    }

    fn secret(&self, secret: &PartialObjectMeta<Secret>) {
        let owner = secret.owner_references().iter().find(|owner| owner.kind == LicenseGrant::kind(&()));
        let uid = owner.map_or("", |owner| &owner.uid);
        let version = secret.resource_version().unwrap_or_default();
        self.wake(self.index.observe_secret(&Place::of(secret), uid, &version));
    }

    fn gone(&self, place: &Place) {
        self.wake(self.index.remove(place));
    }

    async fn retained(&self, grant: &LicenseGrant) {
        let has_keys = crate::status::kept(grant).next().is_some();
        if has_keys && grant.spec.deletion_policy == DeletionPolicy::Retain && self.lease.is_held() {
            let note =
                "the grant is deleted; its keys at AuthForge stay as they are (deletionPolicy: Retain)";
            let reason = crate::status::reason(grant).unwrap_or(Reason::Issued);
            self.events.tell(&grant.object_ref(&()), Action::Retain, reason, note).await;
        }
    }

    /// Queues grants for what they wait for.
    fn wake(&self, places: impl IntoIterator<Item = Place>) {
        for place in places {
            let (Some(rest), Some(turn)) = (self.index.rest(&place), self.index.turn(&place)) else {
                continue;
            };
            match rest {
                Rest::Settled => {}
                Rest::Now => self.queue.push(turn),
                Rest::At(at) => self.queue.push_later(turn, self.index.until(at)),
            }
        }
    }
}

fn is_missing(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

fn trouble(namespace: &str, error: &watcher::Error) {
    match error {
        watcher::Error::InitialListFailed(cause)
        | watcher::Error::WatchStartFailed(cause)
        | watcher::Error::WatchFailed(cause) => {
            tracing::warn!(namespace, error = told(cause), "a watch broke; it is begun anew");
        }
        watcher::Error::WatchError(status) => {
            tracing::info!(namespace, code = status.code, "a watch ended; it is begun anew");
        }
        watcher::Error::NoResourceVersion => {
            tracing::warn!(namespace, "a watch without versions; it is begun anew");
        }
    }
}
