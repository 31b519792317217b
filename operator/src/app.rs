//! The program, put together from its parts.

use std::future::IntoFuture as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use data_encoding::HEXLOWER;
use grantsmith_authforge::{
    ApiKey, Client as AuthForge, Pace, Settings, SharedKey, SystemClock, http_client, roots_from_pem,
    shared_key,
};
use grantsmith_core::plan::Policy;
use grantsmith_core::port::Clock;
use jiff::SignedDuration;
use rand::RngExt as _;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::config::{Cli, Command, Run, Wrong};
use crate::controller::{Controller, Parts};
use crate::metrics::{self, Admin, router, start_logging};

/// How often the key's file is read again. Kubernetes takes a minute to update a mounted Secret, so this adds nothing to feel.
const REREAD: Duration = Duration::from_secs(1);

/// The API server answers calls other than watches within this, or they are given up.
const ANSWERED_WITHIN: Duration = Duration::from_secs(15);

/// Runs the chosen command. 0 done, 1 failed, 2 wrong use.
pub fn main(cli: Cli) -> ExitCode {
    match command(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("grantsmith-operator: {error:#}");
            ExitCode::from(if is_wrong_use(&error) { 2 } else { 1 })
        }
    }
}

/// Whether better settings would help.
fn is_wrong_use(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Wrong>().is_some()
}

fn command(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Run(settings) => {
            if rustls::crypto::ring::default_provider().install_default().is_err() {
                tracing::debug!("a TLS provider was there already");
            }
            // Before anything is counted: what is counted without a recorder is lost.
            let _ = metrics::recorder();
            start_logging(settings.log_format);
            let runtime =
                tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start")?;
            let outcome = runtime.block_on(run(*settings));
            runtime.shutdown_timeout(Duration::from_secs(1));
            outcome
        }
        Command::Crd => {
            let definition = serde_saphyr::to_string(&grantsmith_crd::definition())?;
            std::io::Write::write_all(&mut std::io::stdout(), definition.as_bytes())?;
            Ok(())
        }
    }
}

async fn run(settings: Run) -> anyhow::Result<()> {
    settings.check()?;
    let stop = CancellationToken::new();
    stop_on_signals(&stop)?;
    let listener = TcpListener::bind(settings.admin_listen).await.map_err(|error| {
        let address = settings.admin_listen;
        Wrong(format!("--admin-listen {address}: {error}; choose another address, or port 0 for a free port"))
    })?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let authforge = authforge(&settings, Arc::clone(&clock), &stop)?;
    let mut config = kube::Config::infer().await.map_err(|error| {
        Wrong(format!("no cluster: {error}; run in one, or give a kubeconfig in KUBECONFIG"))
    })?;
    config.read_timeout = None;
    let watching = kube::Client::try_from(config.clone()).context("a client for the cluster")?;
    config.read_timeout = Some(ANSWERED_WITHIN);
    let client = kube::Client::try_from(config).context("a client for the cluster")?;
    let namespace = settings.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
    let controller = Controller::new(Parts {
        client,
        watching,
        authforge: authforge.clone(),
        clock,
        namespace,
        installation: settings.installation.clone(),
        allowed: settings.allowed(),
        policy: policy(&settings)?,
        concurrency: settings.concurrency,
        leader_election: settings.leader_election,
        instance: instance(),
        drift_interval: settings.drift_interval,
        drift_policy: settings.drift_policy,
    });
    let admin = Admin {
        sight: Arc::clone(&controller.sight),
        index: Arc::clone(&controller.index),
        queue: Arc::clone(&controller.queue),
        lease: Arc::clone(&controller.lease),
        authforge,
    };
    tracing::info!(admin = %listener.local_addr().context("a listener without an address")?, "listening");
    tokio::spawn(axum::serve(listener, router(admin)).into_future());
    controller.run(stop).await;
    tracing::info!("stopped");
    Ok(())
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

/// What no other replica is called: the pod's name where there is one, and something of its own, as a pod's name outlives its
/// process.
fn instance() -> String {
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "operator".to_owned());
    format!("{host}-{}", HEXLOWER.encode(&rand::rng().random::<[u8; 4]>()))
}

fn policy(settings: &Run) -> anyhow::Result<Policy> {
    let look_before_create_after = SignedDuration::try_from(settings.look_before_create_after)
        .map_err(|error| Wrong(format!("--look-before-create-after: {error}")))?;
    Ok(Policy {
        quarantine: settings.lost_create_quarantine,
        look_before_create_after,
        revocation_budget: settings.revocation_budget,
        ..Policy::default()
    })
}

fn authforge(settings: &Run, clock: Arc<dyn Clock>, stop: &CancellationToken) -> anyhow::Result<AuthForge> {
    let roots = match &settings.ca_file {
        Some(path) => roots_from_pem(&read(path)?).map_err(|error| Wrong(format!("--ca-file: {error}")))?,
        None => Vec::new(),
    };
    let http = http_client(&roots).context("a client for AuthForge")?;
    let key = api_key(settings.authforge_api_key_file.clone(), stop)?;
    let mut parts = Settings::new(settings.authforge_url.clone(), key, clock);
    parts.pace = Pace { per_second: settings.authforge_rate, burst: settings.authforge_burst };
    parts.activate_action.clone_from(&settings.authforge_activate_action);
    Ok(AuthForge::new(http, parts))
}

fn read(path: &Path) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let bytes =
        std::fs::read(path).map_err(|error| Wrong(format!("cannot read '{}': {error}", path.display())))?;
    Ok(Zeroizing::new(bytes))
}

/// The key, which follows its file. A later version that cannot be read or used is told, and the last good one stays in force.
fn api_key(file: Option<PathBuf>, stop: &CancellationToken) -> anyhow::Result<SharedKey> {
    let Some(path) = file else {
        let given = std::env::var("GRANTSMITH_AUTHFORGE_API_KEY").map(Zeroizing::new).ok();
        let missing = || {
            Wrong(
                "no AuthForge API key; give it with --authforge-api-key-file FILE or in GRANTSMITH_AUTHFORGE_API_KEY"
                    .to_owned(),
            )
        };
        return Ok(shared_key(parse_key(given.ok_or_else(missing)?.as_bytes())?));
    };
    let mut text = read(&path)?;
    let key = shared_key(parse_key(&text)?);
    let (shared, stop) = (Arc::clone(&key), stop.clone());
    tokio::spawn(async move {
        while stop.run_until_cancelled(tokio::time::sleep(REREAD)).await.is_some() {
            let Ok(fresh) = read(&path).inspect_err(|error| tracing::debug!(%error, "not read again")) else {
                continue;
            };
            if fresh == text {
                continue;
            }
            match parse_key(&fresh) {
                Ok(parsed) => {
                    shared.store(Arc::new(parsed));
                    tracing::info!("the AuthForge API key was read again, in force from now on");
                }
                Err(problem) => {
                    tracing::warn!(%problem, "the new API key cannot be used; the old one stays in force");
                }
            }
            text = fresh;
        }
    });
    Ok(key)
}

fn parse_key(text: &[u8]) -> Result<ApiKey, Wrong> {
    let wrong = |problem: &str| Wrong(format!("AuthForge API key: {problem}"));
    match std::str::from_utf8(text).map_err(|_| wrong("it is no text"))?.trim() {
        "" => Err(wrong("the key is blank")),
        key if key.contains(char::is_whitespace) => Err(wrong("there is white space inside the key")),
        key => Ok(ApiKey::new(key)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_one_word() {
        assert!(parse_key(b"af_live_1\n").is_ok());
        for bad in [&b""[..], b"\n", b"a b", b"\xff"] {
            assert!(parse_key(bad).is_err());
        }
    }
}
