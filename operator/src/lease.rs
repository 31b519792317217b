//! One replica works at a time: a lease in the cluster, held by whoever renews it.
//!
//! # Guarantees
//! - [`Lease::is_held`] turns false before another replica takes over, on a clock that also runs while this process is
//!   stopped or the machine sleeps. Nothing is asked of the wall clocks of different machines.
//! - Every write carries the version that was read, so that of two replicas one gets the lease.
//!
//! # Caveats
//! - Between the question and the effect that was asked for, the process may be stopped. The second line is the version
//!   that a grant's status is written with.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use grantsmith_core::port::{ApiError, Class, Clock, CreateLicense, LicenseApi, Listing, Moment, Priority};
use grantsmith_core::{AppId, License, LicenseKey};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::{Lease as Object, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, ObjectMeta, PostParams};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::attempts::told;

/// The lease's name.
pub const NAME: &str = "grantsmith-operator";

/// The annotation that remembers when all licenses were last compared with AuthForge's.
const AUDITED: &str = "grantsmith.dev/audited-at";

/// A lease that was not renewed for this long is anybody's.
const LASTS: Duration = Duration::from_secs(10);
/// The holder stops so much earlier.
const MARGIN: Duration = Duration::from_secs(2);
/// The holder renews it this often.
const RENEW: Duration = Duration::from_secs(2);
/// The others look at it this often.
const LOOK: Duration = Duration::from_secs(1);
/// A request that takes longer is given up.
const ANSWERED_WITHIN: Duration = Duration::from_secs(4);

/// A lease that this process wants, or has.
pub struct Lease {
    api: Option<Api<Object>>,
    holder: String,
    clock: Arc<dyn Clock>,
    /// Until when it is surely ours, in milliseconds of [`Moment`].
    until: AtomicU64,
    held: watch::Sender<bool>,
    audited: Mutex<Option<Timestamp>>,
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("holder", &self.holder).finish_non_exhaustive()
    }
}

/// The lease as another replica holds it, and since when it has not changed.
struct Seen {
    version: Option<String>,
    at: Moment,
}

impl Lease {
    /// A lease to be held by `holder`, which no other process is called.
    pub fn new(api: Api<Object>, holder: String, clock: Arc<dyn Clock>) -> Self {
        Self {
            api: Some(api),
            holder,
            clock,
            until: AtomicU64::new(0),
            held: watch::Sender::new(false),
            audited: Mutex::default(),
        }
    }

    /// For a replica that is sure to be the only one: it is always held, and remembers nothing.
    pub fn alone(clock: Arc<dyn Clock>) -> Self {
        Self {
            api: None,
            holder: String::new(),
            clock,
            until: AtomicU64::new(u64::MAX),
            held: watch::Sender::new(true),
            audited: Mutex::default(),
        }
    }

    /// Whether it is ours this moment.
    pub fn is_held(&self) -> bool {
        let now = u64::try_from(self.clock.now().moment.0.as_millis()).unwrap_or(u64::MAX);
        now < self.until.load(Ordering::Acquire)
    }

    /// Waits until it is ours.
    pub async fn wait(&self) {
        let mut held = self.held.subscribe();
        loop {
            if self.is_held() {
                return;
            }
            // The sender lives as long as this.
            if held.changed().await.is_err() {
                return;
            }
        }
    }

    /// When all licenses were last compared with AuthForge's, as far as is known.
    pub fn audited_at(&self) -> Option<Timestamp> {
        *self.audited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All licenses were compared; written down with the next renewal.
    pub fn audited(&self, at: Timestamp) {
        *self.audited.lock().unwrap_or_else(PoisonError::into_inner) = Some(at);
    }

    /// Gets the lease and keeps it, until `stop`; then gives it back, so that another replica need not wait.
    pub async fn campaign(&self, stop: CancellationToken) {
        let Some(api) = &self.api else { return };
        let mut seen: Option<Seen> = None;
        let mut ours: Option<Object> = None;
        loop {
            let asked = self.clock.now().moment;
            match tokio::time::timeout(ANSWERED_WITHIN, self.turn(api, ours.take(), &mut seen)).await {
                Ok(Ok(got)) => {
                    if got.is_some() {
                        let until = asked.plus(LASTS.saturating_sub(MARGIN));
                        self.until
                            .store(u64::try_from(until.0.as_millis()).unwrap_or(u64::MAX), Ordering::Release);
                    }
                    ours = got;
                }
                Ok(Err(error)) => {
                    tracing::warn!(error = told(&error), "the lease could not be renewed or asked for");
                }
                Err(_) => tracing::warn!("no answer about the lease"),
            }
            self.show();
            let pause = if ours.is_some() { RENEW } else { LOOK };
            if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                break;
            }
        }
        if let Some(lease) = ours {
            self.give_back(api, lease).await;
        }
    }

    fn show(&self) {
        let held = self.is_held();
        // Told anew each time: after a stop of the process it was lost and won without anybody having looked.
        let changed = self.held.send_replace(held) != held;
        metrics::gauge!("grantsmith_leader").set(if held { 1.0 } else { 0.0 });
        if changed {
            tracing::info!(held, holder = self.holder, "the lease");
        }
    }

    /// One look: renewed if it is ours, taken if nobody's.
    async fn turn(
        &self,
        api: &Api<Object>,
        ours: Option<Object>,
        seen: &mut Option<Seen>,
    ) -> Result<Option<Object>, kube::Error> {
        let there = match ours {
            Some(lease) => Some(lease),
            None => api.get_opt(NAME).await?,
        };
        let Some(there) = there else {
            let fresh = self.filled(Object::default(), self.clock.now().wall);
            return won(api.create(&PostParams::default(), &fresh).await);
        };
        let holder = there.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
        if holder != self.holder && !holder.is_empty() && !self.is_over(&there, seen) {
            return Ok(None);
        }
        if self.audited_at().is_none() {
            let told = there.metadata.annotations.as_ref().and_then(|notes| notes.get(AUDITED)?.parse().ok());
            *self.audited.lock().unwrap_or_else(PoisonError::into_inner) = told;
        }
        let lease = self.filled(there, self.clock.now().wall);
        won(api.replace(NAME, &PostParams::default(), &lease).await)
    }

    /// Whether another's lease has not been renewed for too long, by our clock alone.
    fn is_over(&self, lease: &Object, seen: &mut Option<Seen>) -> bool {
        let now = self.clock.now().moment;
        match seen {
            Some(seen) if seen.version == lease.metadata.resource_version => now.since(seen.at) >= LASTS,
            _ => {
                *seen = Some(Seen { version: lease.metadata.resource_version.clone(), at: now });
                false
            }
        }
    }

    fn filled(&self, lease: Object, now: Timestamp) -> Object {
        let before = lease.spec.unwrap_or_default();
        let stays = before.holder_identity.as_deref() == Some(&self.holder);
        let metadata = ObjectMeta {
            name: Some(NAME.to_owned()),
            annotations: self.audited_at().map(|at| BTreeMap::from([(AUDITED.to_owned(), at.to_string())])),
            resource_version: lease.metadata.resource_version,
            ..ObjectMeta::default()
        };
        let turns = before.lease_transitions.unwrap_or(0);
        let spec = LeaseSpec {
            holder_identity: Some(self.holder.clone()),
            lease_duration_seconds: i32::try_from(LASTS.as_secs()).ok(),
            acquire_time: if stays { before.acquire_time } else { Some(MicroTime(now)) },
            renew_time: Some(MicroTime(now)),
            lease_transitions: Some(if stays { turns } else { turns.saturating_add(1) }),
            ..LeaseSpec::default()
        };
        Object { metadata, spec: Some(spec) }
    }

    async fn give_back(&self, api: &Api<Object>, lease: Object) {
        self.until.store(0, Ordering::Release);
        self.show();
        let mut lease = self.filled(lease, self.clock.now().wall);
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = None;
        }
        match tokio::time::timeout(ANSWERED_WITHIN, api.replace(NAME, &PostParams::default(), &lease)).await {
            Ok(Ok(_)) => tracing::info!("the lease is given back"),
            Ok(Err(error)) => tracing::warn!(error = told(&error), "the lease could not be given back"),
            Err(_) => tracing::warn!("no answer when the lease was given back"),
        }
    }
}

/// A write that somebody else was faster with is no error: they have it.
fn won(written: Result<Object, kube::Error>) -> Result<Option<Object>, kube::Error> {
    match written {
        Ok(lease) => Ok(Some(lease)),
        Err(kube::Error::Api(status))
            if status.is_conflict() || status.is_already_exists() || status.is_not_found() =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// AuthForge, for whoever holds the lease: each call that has an effect asks for it right before.
pub struct Fenced<A> {
    api: A,
    lease: Arc<Lease>,
}

impl<A> fmt::Debug for Fenced<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fenced").finish_non_exhaustive()
    }
}

impl<A> Fenced<A> {
    /// `api`, while `lease` is held.
    pub fn new(api: A, lease: Arc<Lease>) -> Self {
        Self { api, lease }
    }

    fn check(&self) -> Result<(), ApiError> {
        if self.lease.is_held() {
            return Ok(());
        }
        let detail = "nothing was sent: another replica may have taken over".to_owned();
        Err(ApiError { class: Class::Transient, retry_after: None, detail })
    }
}

#[async_trait]
impl<A: LicenseApi> LicenseApi for Fenced<A> {
    async fn reserve_create(&self, priority: Priority) -> Result<(), ApiError> {
        self.check()?;
        self.api.reserve_create(priority).await
    }

    async fn create(&self, order: &CreateLicense) -> Result<License, ApiError> {
        self.check()?;
        self.api.create(order).await
    }

    async fn list(
        &self,
        app: &AppId,
        not_before: Moment,
        priority: Priority,
    ) -> Result<Arc<Listing>, ApiError> {
        self.check()?;
        self.api.list(app, not_before, priority).await
    }

    async fn revoke(&self, key: &LicenseKey, priority: Priority) -> Result<(), ApiError> {
        self.check()?;
        self.api.revoke(key, priority).await
    }

    async fn reinstate(&self, key: &LicenseKey, priority: Priority) -> Result<(), ApiError> {
        self.check()?;
        self.api.reinstate(key, priority).await
    }

    async fn extend(
        &self,
        key: &LicenseKey,
        expires_at: Option<Timestamp>,
        priority: Priority,
    ) -> Result<(), ApiError> {
        self.check()?;
        self.api.extend(key, expires_at, priority).await
    }

    async fn reset_devices(&self, key: &LicenseKey, priority: Priority) -> Result<(), ApiError> {
        self.check()?;
        self.api.reset_devices(key, priority).await
    }

    fn clock_offset(&self) -> SignedDuration {
        self.api.clock_offset()
    }
}
