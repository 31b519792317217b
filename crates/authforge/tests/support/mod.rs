//! What both test binaries stand on: a clock that the test can push, and a client of a fake.
#![expect(clippy::expect_used, reason = "a test that cannot be set up has failed")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use grantsmith_authforge::fake::{self, Fake, Switches};
use grantsmith_authforge::{ApiKey, Client, Settings, SharedKey, http_client, shared_key};
use grantsmith_core::port::{ApiError, Clock, CreateLicense, LicenseApi, Moment, Now, Priority};
use grantsmith_core::{AppId, Label, License, LicenseName, PurchaseId, Slots};
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

pub(crate) const TOKEN: &str = "af_live_CANARY0token";
pub(crate) const APP: &str = "7d9f6a9e-0000-4000-8000-000000000001";

/// Tokio's time, plus what the test adds. Its wall clock begins in April 2026.
pub(crate) struct TestClock {
    start: Instant,
    ahead: AtomicU64,
}

impl TestClock {
    pub(crate) fn start() -> Arc<Self> {
        Arc::new(Self { start: Instant::now(), ahead: AtomicU64::new(0) })
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.ahead.fetch_add(u64::try_from(by.as_millis()).expect("short"), Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Now {
        let ahead = Duration::from_millis(self.ahead.load(Ordering::SeqCst));
        let moment = self.start.elapsed() + ahead + Duration::from_secs(1000);
        let base: Timestamp = "2026-04-01T12:00:00Z".parse().expect("time");
        let wall = base + SignedDuration::try_from(moment).expect("short");
        Now { wall, moment: Moment(moment) }
    }
}

/// A client of a fake.
pub(crate) struct Bench {
    pub(crate) clock: Arc<TestClock>,
    pub(crate) key: SharedKey,
    pub(crate) fake: Fake,
    pub(crate) client: Client,
}

impl Bench {
    pub(crate) async fn with(switches: Switches) -> Self {
        Self::tuned(switches, |_| ()).await
    }

    pub(crate) async fn tuned(switches: Switches, tune: impl FnOnce(&mut Settings)) -> Self {
        let clock = TestClock::start();
        let fake = Fake::start(fake::Settings::new(clock.clone()).with(switches)).await.expect("fake");
        let key = shared_key(ApiKey::new(TOKEN));
        let client = client_of(&fake.url(), &key, &clock, tune);
        Self { clock, key, fake, client }
    }

    pub(crate) async fn create(&self, session: &str) -> Result<License, ApiError> {
        self.client.reserve_create(Priority::Buyer).await?;
        self.client.create(&order(session)).await
    }

    pub(crate) fn now(&self) -> Moment {
        self.clock.now().moment
    }
}

pub(crate) fn client_of(
    url: &str,
    key: &SharedKey,
    clock: &Arc<TestClock>,
    tune: impl FnOnce(&mut Settings),
) -> Client {
    let mut settings = Settings::new(url.parse().expect("URL"), key.clone(), clock.clone());
    tune(&mut settings);
    Client::new(http_client(&[]).expect("HTTP client"), settings)
}

pub(crate) fn app() -> AppId {
    AppId::parse(APP).expect("app")
}

pub(crate) fn label(session: &str) -> Label {
    Label::new(&PurchaseId::parse(session).expect("purchase"), &LicenseName::main(), 1)
}

pub(crate) fn order(session: &str) -> CreateLicense {
    CreateLicense {
        app_id: app(),
        label: label(session),
        expires_at: Some(at("2027-01-01T00:00:00Z")),
        slots: Slots::Limited(2),
    }
}

pub(crate) fn at(time: &str) -> Timestamp {
    time.parse().expect("time")
}
