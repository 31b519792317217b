//! The programs, put together from their parts.

mod back;
mod callers;
mod cluster;
mod doctor;
mod web;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use url::Url;

use crate::backend::{Backend, Remote};
use crate::cli;
use crate::config::{Cli, Command, Issuing, Server, Standalone, Webhook, Wrong};
use crate::http::admin::{self, Admin};
use crate::http::serve::serve;
use crate::telemetry;

pub use back::Running;

/// Everything must have ended by then; the kernel does the rest, and nothing is lost by it.
const STOP_WITHIN: Duration = Duration::from_secs(24);

/// Runs the chosen command. 0 done, 1 failed or not found, 2 wrong use.
pub fn main(cli: Cli) -> ExitCode {
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::debug!("a TLS provider was there already");
    }
    open_many_files();
    // Before anything is counted: what is counted without a recorder is lost.
    let _ = telemetry::metrics();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("grantsmith: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(command(cli.command));
    runtime.shutdown_timeout(Duration::from_secs(1));
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("grantsmith: {error:#}");
            ExitCode::from(if is_wrong_use(&error) { 2 } else { 1 })
        }
    }
}

/// Connections are files, and the usual limit is for programs that have few of them.
fn open_many_files() {
    let limit = getrlimit(Resource::Nofile);
    // Where it is refused, fewer connections are taken at once.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// Whether better settings would help: those errors end with code 2.
fn is_wrong_use(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.is::<Wrong>()
            || cause.is::<crate::catalog::Error>()
            || cause.is::<crate::secret_file::Error>()
            || cause.is::<crate::render::Error>()
            || cause.is::<crate::mail::Error>()
            || matches!(cause.downcast_ref(), Some(crate::store::Error::BadUrl(_)))
    })
}

async fn command(command: Command) -> anyhow::Result<ExitCode> {
    let stop = CancellationToken::new();
    match command {
        Command::Demo(settings) => {
            telemetry::start_logging(settings.log.log_format);
            stop_on_signals(&stop)?;
            crate::demo::run(settings, stop).await?;
        }
        Command::Standalone(settings) => {
            telemetry::start_logging(settings.log.log_format);
            stop_on_signals(&stop)?;
            standalone(*settings, stop).await?.wait().await?;
        }
        Command::Server(settings) => {
            telemetry::start_logging(settings.log.log_format);
            stop_on_signals(&stop)?;
            server(*settings, stop).await?.wait().await?;
        }
        Command::Webhook(settings) => {
            telemetry::start_logging(settings.log.log_format);
            stop_on_signals(&stop)?;
            webhook(*settings, stop).await?.wait().await?;
        }
        Command::Grants(client) => return cli::grants::run(client).await,
        Command::Events(client) => return cli::events::run(client).await,
        Command::Doctor(doctor) => return doctor::run(doctor.settings, doctor.output).await,
        Command::Backup(backup) => return cli::backup::run(backup).await,
        Command::Catalog { command } => return cli::catalog::run(&command),
        Command::Import(import) => return cli::import::run(import).await,
    }
    Ok(ExitCode::SUCCESS)
}

fn stop_on_signals(stop: &CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("signals")?;
    let stop = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        stop.cancel();
        tracing::info!("stopping");
    });
    Ok(())
}

/// A listener, bound before anything else is done, so that a taken port is told at once.
pub(crate) async fn bind(flag: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        Wrong(format!("--{flag} {address}: {error}; choose another address, or port 0 for a free port"))
            .into()
    })
}

/// Says where a listener really is, for scripts that chose port 0.
pub(crate) fn announce(name: &'static str, listener: &TcpListener) -> anyhow::Result<SocketAddr> {
    let address = listener.local_addr().context("a listener without an address")?;
    match name {
        "http" => tracing::info!(http = %address, "listening"),
        "grpc" => tracing::info!(grpc = %address, "listening"),
        _ => tracing::info!(admin = %address, "listening"),
    }
    Ok(address)
}

/// What runs, and how it ends.
pub(crate) struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    serving: Arc<AtomicBool>,
    failed: Arc<AtomicBool>,
}

impl Tasks {
    pub(crate) fn new(stop: CancellationToken) -> Self {
        let serving = Arc::new(AtomicBool::new(false));
        let (red, stopped) = (serving.clone(), stop.clone());
        tokio::spawn(async move {
            stopped.cancelled().await;
            red.store(false, Ordering::Relaxed);
        });
        Self { tracker: TaskTracker::new(), stop, serving, failed: Arc::default() }
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn(task);
    }

    pub(crate) fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    pub(crate) fn serving(&self) -> Arc<AtomicBool> {
        self.serving.clone()
    }

    /// Set by whoever stops the program because it cannot go on.
    pub(crate) fn failed(&self) -> Arc<AtomicBool> {
        self.failed.clone()
    }

    /// Waits until everything has ended after the stop.
    pub(crate) async fn wait(self) -> anyhow::Result<()> {
        self.tracker.close();
        self.stop.cancelled().await;
        if tokio::time::timeout(STOP_WITHIN, self.tracker.wait()).await.is_err() {
            tracing::warn!("not everything ended in time; the next start goes on from the record");
        }
        tracing::info!("stopped");
        anyhow::ensure!(
            !self.failed.load(Ordering::Relaxed),
            "stopped, because a part of it failed; the log tells which"
        );
        Ok(())
    }
}

/// `grantsmith standalone`.
pub async fn standalone(settings: Standalone, stop: CancellationToken) -> anyhow::Result<Running> {
    let http = bind("http-listen", settings.web.http_listen).await?;
    let grpc = bind("grpc-listen", settings.back.grpc_listen).await?;
    let admin_listener = bind("admin-listen", settings.admin.admin_listen).await?;
    let public_url = public_url(settings.public_url.as_ref(), &http)?;
    let tasks = Tasks::new(stop);
    let storefront = back::Shop {
        mode: settings.hook.stripe_mode,
        public_url,
        seller: settings.web.seller_name.clone(),
        templates: settings.web.templates.clone(),
    };
    let secrets = web::secrets(&settings.hook, tasks.stop())?;
    let mut back = back::start(settings.back, storefront, back::Issue::Direct, &tasks).await?;
    back.serve_grpc(grpc, &tasks)?;
    let web = web::web(settings.web, &settings.hook, back.fulfillment.clone(), secrets)?;
    let http_address = web::serve_web(web, http, &tasks)?;
    let admin = Admin {
        backend: back.fulfillment.clone(),
        store: Some(back.fulfillment.store().clone()),
        authforge: back.authforge.clone(),
        serving: tasks.serving(),
    };
    Ok(back.running(Some(http_address), serve_admin(admin, admin_listener, &tasks)?, tasks))
}

/// `grantsmith server`.
pub async fn server(settings: Server, stop: CancellationToken) -> anyhow::Result<Running> {
    settings.check()?;
    let grpc = bind("grpc-listen", settings.back.grpc_listen).await?;
    let admin_listener = bind("admin-listen", settings.admin.admin_listen).await?;
    let tasks = Tasks::new(stop);
    let missing = || Wrong("--public-url is missing; links in mails begin with it".to_owned());
    let public_url = match settings.public_url {
        Some(url) => folder(url),
        None if settings.back.smtp_url.is_some() => return Err(missing().into()),
        None => Url::parse("http://127.0.0.1:8080")?,
    };
    let storefront = back::Shop {
        mode: settings.stripe_mode,
        public_url,
        seller: settings.seller_name,
        templates: settings.templates,
    };
    let issue = match settings.issuer {
        Issuing::Direct => back::Issue::Direct,
        Issuing::Kubernetes => back::Issue::Kubernetes(settings.grants_namespace),
    };
    let mut back = back::start(settings.back, storefront, issue, &tasks).await?;
    back.serve_grpc(grpc, &tasks)?;
    let admin = Admin {
        backend: back.fulfillment.clone(),
        store: Some(back.fulfillment.store().clone()),
        authforge: back.authforge.clone(),
        serving: tasks.serving(),
    };
    Ok(back.running(None, serve_admin(admin, admin_listener, &tasks)?, tasks))
}

/// `grantsmith webhook`.
pub async fn webhook(settings: Webhook, stop: CancellationToken) -> anyhow::Result<Running> {
    let http = bind("http-listen", settings.web.http_listen).await?;
    let admin_listener = bind("admin-listen", settings.admin.admin_listen).await?;
    let tasks = Tasks::new(stop);
    let secrets = web::secrets(&settings.hook, tasks.stop())?;
    let tokens = cli::token_file(settings.token_file.as_deref(), tasks.stop())?;
    let channel = cli::lasting_channel(&settings.server, settings.ca_file.as_deref(), tasks.stop())?;
    let backend: Arc<dyn Backend> = Arc::new(Remote::new(channel, tokens));
    let web = web::web(settings.web, &settings.hook, backend.clone(), secrets)?;
    let http_address = web::serve_web(web, http, &tasks)?;
    let admin = Admin { backend, store: None, authforge: None, serving: tasks.serving() };
    let admin_address = serve_admin(admin, admin_listener, &tasks)?;
    Ok(Running::new(Some(http_address), None, admin_address, tasks))
}

/// What buyers see, when nobody says otherwise: where the pages really listen.
fn public_url(given: Option<&Url>, http: &TcpListener) -> anyhow::Result<Url> {
    match given {
        Some(url) if url.cannot_be_a_base() => {
            Err(Wrong("--public-url must begin with https://".to_owned()).into())
        }
        Some(url) => Ok(folder(url.clone())),
        None => Ok(Url::parse(&format!("http://{}", http.local_addr()?))?),
    }
}

/// An address that links can be appended to: without the slash the last part of a path would be replaced, not followed.
fn folder(mut url: Url) -> Url {
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    url
}

/// Serves health and metrics, and turns readiness green: it is started last.
fn serve_admin(admin: Admin, listener: TcpListener, tasks: &Tasks) -> anyhow::Result<SocketAddr> {
    let address = announce("admin", &listener)?;
    tasks.spawn(serve(listener, admin::router(admin), tasks.stop()));
    tasks.serving().store(true, Ordering::Relaxed);
    Ok(address)
}

/// Serves a router of the demonstration until stopped.
pub(crate) async fn serve_until(listener: TcpListener, router: axum::Router, stop: CancellationToken) {
    serve(listener, router, stop).await;
}

/// An error with all its causes, for one line of log.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_below_the_public_address() {
        for (public, link) in [
            ("https://shop.example", "https://shop.example/portal"),
            ("https://shop.example/keys", "https://shop.example/keys/portal"),
            ("https://shop.example/keys/", "https://shop.example/keys/portal"),
        ] {
            let public = folder(Url::parse(public).expect("an address"));
            assert_eq!(public.join("portal").expect("a link").as_str(), link);
        }
    }
}
