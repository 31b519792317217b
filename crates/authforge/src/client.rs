//! The client: core's port over AuthForge's REST API.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use grantsmith_core::port::{ApiError, Class, Clock, CreateLicense, LicenseApi, Listing, Moment, Priority};
use grantsmith_core::{AppId, License, LicenseKey, LicenseStatus};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use url::Url;

use crate::error::{Call, Error};
use crate::key::SharedKey;
use crate::label_cache::{Fresh, LabelCache, MemoryLabels};
use crate::listing::Listings;
use crate::scheduler::{Health, Pace, Scheduler};
use crate::transport::{Failure, Request, Transport};
use crate::wire::{Action, Known, Order, Row, read_created};

/// What a [`Client`] is made of.
#[derive(Clone)]
pub struct Settings {
    /// Where AuthForge is; `/v1/licenses` hangs below it, with or without a trailing slash.
    pub base_url: Url,
    /// The API key, exchangeable while the process runs.
    pub key: SharedKey,
    /// This process's share of AuthForge's limit.
    pub pace: Pace,
    /// The name of the `PUT` action that re-activates. The vendor's page for it could not be read; `activate` is inferred.
    pub activate_action: String,
    /// How long one request may take, answer included.
    pub timeout: Duration,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Remembers labels that listings leave out.
    pub labels: Arc<dyn LabelCache>,
}

impl Settings {
    /// The defaults: the documented limits, 10 s a request, labels in memory.
    pub fn new(base_url: Url, key: SharedKey, clock: Arc<dyn Clock>) -> Self {
        Self {
            base_url,
            key,
            pace: Pace::default(),
            activate_action: "activate".to_owned(),
            timeout: Duration::from_secs(10),
            clock,
            labels: Arc::new(MemoryLabels::default()),
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("base_url", &self.base_url.origin().ascii_serialization())
            .field("pace", &self.pace)
            .field("activate_action", &self.activate_action)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// AuthForge's developer API. Clones share one scheduler and one listing.
#[derive(Debug, Clone)]
pub struct Client {
    api: Arc<Api>,
    listings: Arc<Listings>,
}

impl Client {
    /// A client over `http`, which is to come from [`crate::http_client`].
    pub fn new(http: reqwest::Client, settings: Settings) -> Self {
        let Settings { base_url, key, pace, activate_action, timeout, clock, labels } = settings;
        let api = Arc::new(Api {
            transport: Transport::new(http, base_url, timeout, Arc::clone(&clock)),
            scheduler: Scheduler::new(pace, Arc::clone(&clock), key),
            activate_action,
            clock,
            labels,
            fresh: Fresh::default(),
        });
        let listings = Arc::new(Listings::new(Arc::clone(&api)));
        Self { api, listings }
    }

    /// What is paused, and how many calls wait.
    pub fn health(&self) -> Health {
        self.api.scheduler.health()
    }

    /// Reads one license; none if AuthForge says that there is no such key.
    pub async fn get(
        &self,
        app: &AppId,
        key: &LicenseKey,
        priority: Priority,
    ) -> Result<Option<License>, ApiError> {
        match self.api.get(key, priority).await {
            // A license without a label says so by leaving the field out.
            Ok(row) => {
                let known = Known { label: Some(None), created_at: None };
                let license = row.into_license(app, known);
                license.map(Some).ok_or_else(|| unreadable(Call::Get, "it is no license that we understand"))
            }
            Err(Trouble::Call(Failure { error: Error::Status { status: 404, .. }, .. })) => Ok(None),
            Err(trouble) => Err(trouble.into()),
        }
    }
}

/// The calls, one request each.
pub(crate) struct Api {
    pub(crate) transport: Transport,
    pub(crate) scheduler: Arc<Scheduler>,
    activate_action: String,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) labels: Arc<dyn LabelCache>,
    pub(crate) fresh: Fresh,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").field("scheduler", &self.scheduler).finish_non_exhaustive()
    }
}

/// Why a call did not succeed: it was not let go, or it failed.
#[derive(Debug)]
pub(crate) enum Trouble {
    Barred(ApiError),
    Call(Failure),
}

impl From<Trouble> for ApiError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Barred(error) => error,
            Trouble::Call(failure) => failure.into(),
        }
    }
}

/// What a license must look like for a change to count as made.
#[derive(Clone, Copy)]
enum Wanted {
    Status(LicenseStatus),
    Expiry(Option<Timestamp>),
}

impl Wanted {
    /// Whether a row shows it; none if the row does not tell.
    fn is_met(self, row: &Row) -> Option<bool> {
        match self {
            Self::Status(status) => row.status.map(|seen| seen == status),
            Self::Expiry(wanted) => row.expires_at.map(|seen| match (seen, wanted) {
                (None, None) => true,
                // The service may keep whole seconds.
                (Some(seen), Some(wanted)) => {
                    seen.duration_since(wanted).abs() <= SignedDuration::from_secs(1)
                }
                (None, Some(_)) | (Some(_), None) => false,
            }),
        }
    }
}

impl Api {
    async fn create(&self, order: &CreateLicense) -> Result<License, ApiError> {
        let body = json(Call::Create, &Order::of(order))?;
        let ticket = self.scheduler.claim()?;
        let request = Request { body: Some(body), ..Request::default() };
        let answer = self.transport.call(ticket, Call::Create, request).await?;
        let row = read_created(&answer.body).filter(|row| !row.is_foreign(&order.app_id));
        let Some(row) = row else {
            return Err(unreadable(Call::Create, "it does not name the one license ordered"));
        };
        // What the answer leaves out is as ordered. Its creation is the present, on AuthForge's clock.
        let row = Row {
            status: row.status.or(Some(LicenseStatus::Active)),
            expires_at: row.expires_at.or(Some(order.expires_at)),
            slots: row.slots.or(Some(order.slots)),
            ..row
        };
        let known = Known {
            label: Some(Some(order.label.as_str().to_owned())),
            created_at: Some(self.transport.their_time()),
        };
        let license = row.into_license(&order.app_id, known);
        let license =
            license.ok_or_else(|| unreadable(Call::Create, "it is no license that we understand"))?;
        self.fresh.add(&order.app_id, license.key.fingerprint(), license.label.clone());
        Ok(license)
    }

    pub(crate) async fn get(&self, key: &LicenseKey, priority: Priority) -> Result<Row, Trouble> {
        let ticket = self.scheduler.acquire(priority, false).await.map_err(Trouble::Barred)?;
        let request = Request { key: Some(key), ..Request::default() };
        let answer = self.transport.call(ticket, Call::Get, request).await.map_err(Trouble::Call)?;
        let row = serde_json::from_slice::<Value>(&answer.body).ok().and_then(|value| Row::read(&value));
        row.filter(|row| row.key == *key).ok_or_else(|| {
            let error = Error::Unreadable { status: answer.status, why: "it is not the license asked for" };
            Trouble::Call(Failure { call: Call::Get, error })
        })
    }

    /// One action. The license as the answer shows it, or none: the answer may be partial or `{}`, and need not be JSON.
    async fn put(
        &self,
        call: Call,
        key: &LicenseKey,
        action: &Action<'_>,
        priority: Priority,
    ) -> Result<Option<Row>, Trouble> {
        let body = json(call, action).map_err(Trouble::Barred)?;
        let ticket = self.scheduler.acquire(priority, false).await.map_err(Trouble::Barred)?;
        let request = Request { key: Some(key), body: Some(body), ..Request::default() };
        let answer = self.transport.call(ticket, call, request).await.map_err(Trouble::Call)?;
        Ok(serde_json::from_slice::<Value>(&answer.body).ok().and_then(|value| Row::read_fields(&value)))
    }

    /// One action whose repetition is to succeed, also at a service that refuses repetitions.
    async fn change(
        &self,
        key: &LicenseKey,
        action: &Action<'_>,
        wanted: Wanted,
        priority: Priority,
    ) -> Result<(), ApiError> {
        match self.put(Call::Put, key, action, priority).await {
            // An action that is not known to the service may be ignored and answered 200.
            Ok(Some(row)) if wanted.is_met(&row) == Some(false) => Err(Error::NotDone.to_api(Call::Put)),
            Ok(_) => Ok(()),
            Err(Trouble::Call(failure)) if failure.error.is_refusal() || failure.error.is_missing() => {
                let missing = failure.error.is_missing();
                match self.get(key, priority).await {
                    Ok(row) if wanted.is_met(&row) == Some(true) => Ok(()),
                    Ok(_) if missing => Err(failure.into()),
                    Ok(_) => Err(ApiError { class: Class::Refused, ..failure.into() }),
                    Err(Trouble::Call(seen)) if missing && seen.error.is_missing() => {
                        Err(ApiError { class: Class::Gone, ..failure.into() })
                    }
                    // Whether it is refused for good is not known yet, so neither is said.
                    Err(trouble) => Err(trouble.into()),
                }
            }
            Err(trouble) => Err(trouble.into()),
        }
    }
}

fn unreadable(call: Call, why: &'static str) -> ApiError {
    Error::Unreadable { status: 200, why }.to_api(call)
}

fn json<T: serde::Serialize>(call: Call, body: &T) -> Result<Vec<u8>, ApiError> {
    serde_json::to_vec(body).map_err(|_| Error::Unsendable.to_api(call))
}

#[async_trait]
impl LicenseApi for Client {
    async fn reserve_create(&self, priority: Priority) -> Result<(), ApiError> {
        self.api.scheduler.reserve(priority).await
    }

    async fn create(&self, order: &CreateLicense) -> Result<License, ApiError> {
        self.api.create(order).await
    }

    async fn list(
        &self,
        app: &AppId,
        not_before: Moment,
        priority: Priority,
    ) -> Result<Arc<Listing>, ApiError> {
        self.listings.list(app, not_before, priority).await
    }

    async fn revoke(&self, key: &LicenseKey, priority: Priority) -> Result<(), ApiError> {
        let action = Action { action: "revoke", expires_at: None };
        self.api.change(key, &action, Wanted::Status(LicenseStatus::Revoked), priority).await
    }

    async fn reinstate(&self, key: &LicenseKey, priority: Priority) -> Result<(), ApiError> {
        let action = Action { action: &self.api.activate_action, expires_at: None };
        self.api.change(key, &action, Wanted::Status(LicenseStatus::Active), priority).await
    }

    async fn extend(
        &self,
        key: &LicenseKey,
        at: Option<Timestamp>,
        priority: Priority,
    ) -> Result<(), ApiError> {
        let action = Action { action: "extend", expires_at: Some(at) };
        self.api.change(key, &action, Wanted::Expiry(at), priority).await
    }

    async fn reset_devices(&self, key: &LicenseKey, priority: Priority) -> Result<(), ApiError> {
        let action = Action { action: "reset-hwid", expires_at: None };
        self.api.put(Call::Reset, key, &action, priority).await.map(|_| ()).map_err(ApiError::from)
    }

    fn clock_offset(&self) -> SignedDuration {
        self.api.transport.clock_offset()
    }
}
