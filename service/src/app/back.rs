//! The side that holds the record and the keys: server and worker.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use arc_swap::ArcSwap;
use data_encoding::BASE64URL_NOPAD;
use grantsmith_authforge::{
    ApiKey, Client as AuthForge, Pace, SharedKey, SystemClock, fake, http_client, roots_from_pem, shared_key,
};
use grantsmith_core::execute::Executor;
use grantsmith_core::plan::Policy;
use grantsmith_core::port::{AttemptId, Clock};
use jiff::{SignedDuration, Timestamp};
use rand::RngExt;
use rustls::pki_types::CertificateDer;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::{Tasks, announce, callers, cluster};
use crate::catalog::Catalog;
use crate::checkout::{self, Till};
use crate::config::{Back, RunMode, Wrong};
use crate::decide::Offer;
use crate::fulfillment::{self, Fulfillment};
use crate::grpc::Services;
use crate::grpc::accounts::Accounts;
use crate::grpc::tls::Certificate;
use crate::grpc::tokens::Tokens;
use crate::ingest::Rules;
use crate::issuer::{Direct, Issuer};
use crate::mail::{self, Mailer};
use crate::render::Renderer;
use crate::secret_file::{Place, Watched};
use crate::store::{self, Store};
use crate::stripe::{self, Mode};
use crate::worker::{self, Touched, Worker};

/// How often the memory of who has asked is tidied.
const TIDY_EVERY: Duration = Duration::from_secs(60);

/// What pages and mails of this side need to know of the other.
pub(super) struct Shop {
    pub(super) mode: Mode,
    pub(super) public_url: Url,
    pub(super) seller: Option<String>,
    pub(super) templates: Option<PathBuf>,
}

/// Who makes the licenses.
pub(super) enum Issue {
    /// This process.
    Direct,
    /// An operator, which is told in this namespace, or in our own.
    Kubernetes(Option<String>),
}

/// The parts that run.
pub(super) struct Started {
    pub(super) fulfillment: Arc<Fulfillment>,
    pub(super) authforge: Option<AuthForge>,
    tokens: Arc<ArcSwap<Tokens>>,
    accounts: Option<Arc<Accounts>>,
    certificate: Option<Certificate>,
    grpc: Option<SocketAddr>,
    fake: Option<fake::Fake>,
}

/// A program that runs.
pub struct Running {
    /// Where webhook and pages are, if they are.
    pub http: Option<SocketAddr>,
    /// Where gRPC is, if it is.
    pub grpc: Option<SocketAddr>,
    /// Where health and metrics are.
    pub admin: SocketAddr,
    tasks: Tasks,
    _fake: Option<fake::Fake>,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("http", &self.http).field("grpc", &self.grpc).finish_non_exhaustive()
    }
}

impl Running {
    pub(super) fn new(
        http: Option<SocketAddr>,
        grpc: Option<SocketAddr>,
        admin: SocketAddr,
        tasks: Tasks,
    ) -> Self {
        Self { http, grpc, admin, tasks, _fake: None }
    }

    /// Waits until the program was stopped and everything has ended. An error if it stopped because a part of it failed.
    pub async fn wait(self) -> anyhow::Result<()> {
        self.tasks.wait().await
    }
}

impl Started {
    pub(super) fn serve_grpc(&mut self, listener: TcpListener, tasks: &Tasks) -> anyhow::Result<()> {
        let address = announce("grpc", &listener)?;
        self.grpc = Some(address);
        let certificate = self.certificate.take();
        let services = Services::new(self.fulfillment.clone(), self.tokens.clone(), self.accounts.take());
        let (stop, failed) = (tasks.stop(), tasks.failed());
        tasks.spawn(async move {
            if let Err(error) = services.serve(listener, certificate, stop.clone()).await {
                tracing::error!(error = super::chain(&error), "gRPC ended");
                failed.store(true, Ordering::Relaxed);
                stop.cancel();
            }
        });
        Ok(())
    }

    pub(super) fn running(self, http: Option<SocketAddr>, admin: SocketAddr, tasks: Tasks) -> Running {
        Running { http, grpc: self.grpc, admin, tasks, _fake: self.fake }
    }
}

/// Starts server and worker.
pub(super) async fn start(
    settings: Back,
    shop: Shop,
    issue: Issue,
    tasks: &Tasks,
) -> anyhow::Result<Started> {
    settings.check(shop.mode, &shop.public_url)?;
    let catalog = settings.catalog.as_deref().map(Catalog::read).transpose()?.map(Arc::new);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let store = store::open(&settings.database_url, clock.clone()).await?;
    let (roots, certificates) = roots(&settings)?;
    let http = http_client(&certificates)?;
    let stripe = stripe_client(&settings, shop.mode, http.clone(), tasks.stop())?;
    let (authforge, fake) = match issue {
        Issue::Direct => {
            let (client, fake) =
                authforge_client(&settings, http, clock.clone(), store.clone(), tasks.stop()).await?;
            (Some(client), fake)
        }
        Issue::Kubernetes(_) => (None, None),
    };
    let tokens = callers::tokens(&settings, tasks.stop())?;
    let accounts = callers::accounts(&settings).await?;
    let certificate = callers::certificate(&settings, tasks.stop())?;
    let mailer = mailer(&settings, &shop, roots, tasks.stop())?;
    say_what_is_off(&settings, &shop);
    let wake = Arc::new(Notify::new());
    let offer = Offer { default_app: settings.authforge_app.clone(), catalog };
    let till = Till::new(checkout::Settings {
        catalog: offer.catalog.clone(),
        stripe: stripe.clone(),
        success_url: success_url(&settings, &shop),
        cancel_url: settings.cancel_url.clone().unwrap_or_else(|| shop.public_url.to_string()),
        clock: clock.clone(),
    });
    let fulfil_since = fulfil_since(&settings, &*store, shop.mode, &*clock).await?;
    let touched = Touched::new(wake.clone());
    let issuer: Arc<dyn Issuer> = match (issue, &authforge) {
        (Issue::Direct, Some(authforge)) => {
            let executor = executor(&settings, authforge, store.clone(), clock.clone(), fulfil_since)?;
            Arc::new(Direct::new(store.clone(), clock.clone(), executor))
        }
        (Issue::Direct, None) => anyhow::bail!("no AuthForge to issue at"),
        (Issue::Kubernetes(namespace), _) => {
            let parts = (store.clone(), clock.clone(), offer.clone(), touched.clone());
            cluster::issuer(&settings, namespace, fulfil_since, parts, tasks).await?
        }
    };
    let fulfillment = Fulfillment::new(fulfillment::Parts {
        issuer: issuer.clone(),
        store: store.clone(),
        clock: clock.clone(),
        rules: Rules { mode: shop.mode, events_only: settings.events_only, catalog: offer.catalog.is_some() },
        stripe: stripe.clone(),
        authforge: authforge.clone(),
        page_for: settings.success_page_for,
        mail_enabled: mailer.is_some(),
        installation: settings.installation.clone(),
        offer: offer.clone(),
        till,
        wake: wake.clone(),
    });
    tasks.spawn(tidy(fulfillment.clone(), tasks.stop()));
    let worker = Worker::new(worker::Parts {
        store,
        clock,
        issuer,
        touched,
        stripe,
        mailer,
        observe: settings.restored || settings.mode == RunMode::Observe,
        offer,
        keep_bodies: settings.keep_bodies,
        wake,
    });
    tasks.spawn(worker.run(tasks.stop()));
    Ok(Started { fulfillment, authforge, tokens, accounts, certificate, grpc: None, fake })
}

fn executor(
    settings: &Back,
    authforge: &AuthForge,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    fulfil_since: Option<Timestamp>,
) -> anyhow::Result<Executor> {
    let policy = Policy {
        quarantine: settings.lost_create_quarantine,
        look_before_create_after: SignedDuration::try_from(settings.look_before_create_after)
            .map_err(|_| Wrong("--look-before-create-after is too long".to_owned()))?,
        revocation_budget: settings.revocation_budget,
        fulfil_since,
        ..Policy::default()
    };
    Ok(Executor::new(Arc::new(authforge.clone()), store, clock, policy, new_attempt))
}

/// From when on purchases are fulfilled; none for all of them.
async fn fulfil_since(
    settings: &Back,
    store: &dyn Store,
    mode: Mode,
    clock: &dyn Clock,
) -> anyhow::Result<Option<Timestamp>> {
    let first = store.first_start(clock.now().wall, mode.livemode()).await?;
    if first.livemode != mode.livemode() {
        let other = if first.livemode { Mode::Live } else { Mode::Test };
        let url = &settings.database_url;
        let text =
            format!("{url} is a record of {other} mode; give {mode} mode one of its own with --database-url");
        return Err(Wrong(text).into());
    }
    let first = first.at;
    Ok(if settings.create_missing { None } else { settings.fulfil_since.or(Some(first)) })
}

/// Stripe fills in the braces, which must reach it as they are.
fn success_url(settings: &Back, shop: &Shop) -> String {
    let own = || format!("{}success?session_id={{CHECKOUT_SESSION_ID}}", shop.public_url);
    settings.success_url.clone().unwrap_or_else(own)
}

async fn tidy(fulfillment: Arc<Fulfillment>, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(TIDY_EVERY)).await.is_some() {
        fulfillment.tidy();
    }
}

/// Further roots for TLS: as they stand, and read.
pub(super) fn roots(settings: &Back) -> anyhow::Result<(Option<Vec<u8>>, Vec<CertificateDer<'static>>)> {
    let Some(pem) = settings.ca_file.as_deref().map(read).transpose()? else { return Ok((None, Vec::new())) };
    let certificates = roots_from_pem(&pem).map_err(|error| Wrong(format!("--ca-file: {error}")))?;
    Ok((Some(pem), certificates))
}

fn new_attempt() -> AttemptId {
    AttemptId(BASE64URL_NOPAD.encode(&rand::rng().random::<[u8; 15]>()))
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| Wrong(format!("cannot read '{}': {error}", path.display())).into())
}

fn say_what_is_off(settings: &Back, shop: &Shop) {
    if settings.smtp_url.is_none() {
        tracing::warn!(
            "mail is off, because there is no --smtp-url: buyers find their keys on the success page only"
        );
    }
    let open_to_buyers = success_url(settings, shop).starts_with("https://");
    if settings.catalog.is_some() && shop.mode == Mode::Live && !open_to_buyers {
        tracing::warn!(
            "Stripe takes no live Checkout session that leads to a page without https://; create-checkout needs --public-url \
             or --success-url"
        );
    }
    if settings.restored {
        tracing::warn!(
            "restored from a backup: nothing is created, mailed or revoked; see with `grantsmith grants list` what would be, \
             then start without --restored"
        );
    }
    if settings.events_only {
        tracing::warn!(
            "events only: one license per purchase, terms from metadata alone; quantities, uncaptured payments and missed \
             events go unseen, and a success page must wait for the webhook"
        );
    }
}

pub(super) fn stripe_client(
    settings: &Back,
    mode: Mode,
    http: reqwest::Client,
    stop: CancellationToken,
) -> anyhow::Result<Option<stripe::client::Client>> {
    if settings.events_only {
        return Ok(None);
    }
    let key = Watched::open(settings.stripe_api_key(), stop, move |text| {
        let key = stripe::key::ApiKey::parse(text).map_err(|error| error.to_string())?;
        match key.mode() {
            Some(other) if other != mode => Err(format!(
                "the key is of {other} mode and --stripe-mode is {mode}; use the key of {mode} mode"
            )),
            _ => Ok(key),
        }
    })?;
    let url = settings.stripe_url.as_str().trim_end_matches('/');
    Ok(Some(stripe::client::Client::new(stripe::client::Settings::new(url, key.shared(), mode, http))))
}

async fn authforge_client(
    settings: &Back,
    http: reqwest::Client,
    clock: Arc<dyn Clock>,
    store: Arc<dyn Store>,
    stop: CancellationToken,
) -> anyhow::Result<(AuthForge, Option<fake::Fake>)> {
    let (url, key, fake) = if settings.authforge_url.scheme() == "fake" {
        let fake = fake::Fake::start(fake_settings(clock.clone())).await.context("the fake AuthForge")?;
        tracing::warn!(url = fake.url(), "a fake AuthForge runs in this process: its keys open nothing");
        (Url::parse(&fake.url())?, shared_key(ApiKey::new("af_live_fake")), Some(fake))
    } else {
        (settings.authforge_url.clone(), authforge_key(settings, stop)?, None)
    };
    let mut parts = grantsmith_authforge::Settings::new(url, key, clock);
    parts.pace = Pace { per_second: settings.authforge_rate, burst: settings.authforge_burst };
    parts.activate_action.clone_from(&settings.authforge_activate_action);
    parts.labels = store;
    Ok((AuthForge::new(http, parts), fake))
}

/// Other keys at each start, because the record may outlive the fake.
fn fake_settings(clock: Arc<dyn Clock>) -> fake::Settings {
    fake::Settings { seed: rand::random(), ..fake::Settings::new(clock) }
}

pub(super) fn authforge_key(settings: &Back, stop: CancellationToken) -> anyhow::Result<SharedKey> {
    let place = Place {
        what: "AuthForge API key",
        flag: "authforge-api-key-file",
        env: "GRANTSMITH_AUTHFORGE_API_KEY",
        file: settings.authforge_api_key_file.clone(),
    };
    let key = Watched::open(place, stop, |text| match text.trim() {
        "" => Err("the key is blank"),
        key if key.contains(char::is_whitespace) => Err("there is white space inside the key"),
        key => Ok(ApiKey::new(key)),
    })?;
    Ok(key.shared())
}

/// What sends mails, if any are sent. Its password follows its file.
pub(super) fn mailer(
    settings: &Back,
    shop: &Shop,
    roots: Option<Vec<u8>>,
    ended: CancellationToken,
) -> anyhow::Result<Option<Mailer>> {
    let (Some(server), Some(from)) = (&settings.smtp_url, &settings.mail_from) else { return Ok(None) };
    let server = mail::Server { url: server.url().clone(), roots };
    let open = server.transport(None)?;
    let place = Place {
        what: "SMTP password",
        flag: "smtp-password-file",
        env: "GRANTSMITH_SMTP_PASSWORD",
        file: settings.smtp_password_file.clone(),
    };
    // A relay that knows us by our address has no password, and a service file may name an empty one all the same.
    let transport = if !server.url.username().is_empty() && place.is_given() {
        let log_in = move |text: &str| match line(text) {
            "" => Err("the password is blank".to_owned()),
            password => server.transport(Some(password)).map_err(|error| error.to_string()),
        };
        Watched::open(place, ended, log_in)?.shared()
    } else {
        Arc::new(ArcSwap::from_pointee(open))
    };
    let settings = mail::Settings {
        transport,
        from: from.clone(),
        reply_to: settings.mail_reply_to.clone(),
        seller: shop.seller.clone(),
        public_url: shop.public_url.clone(),
    };
    Ok(Some(Mailer::new(settings, Renderer::new(shop.templates.as_deref())?)?))
}

/// A secret that may hold anything, without the end of its line.
fn line(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}
