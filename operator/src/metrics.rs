//! Logs, metrics, and where they and the program's health are asked for. None of them ever holds a key or an address.

use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use grantsmith_authforge::Client;
use grantsmith_core::Reason;
use metrics::gauge;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::index::Index;
use crate::lease::Lease;
use crate::queue::Queue;
use crate::watch::Sight;

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// `key=value` text.
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging to standard error. `RUST_LOG` chooses what; the default is `info`.
pub fn start_logging(format: LogFormat) {
    let terminal = std::io::stderr().is_terminal();
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("info,hyper=warn,h2=warn,tower=warn,kube=warn,kube_client=off"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(terminal)
        // They would go to standard error, which panics where nobody reads it any more.
        .log_internal_errors(false);
    // A second start in one process keeps the first.
    let _ = match (format, terminal) {
        (LogFormat::Text, _) | (LogFormat::Auto, true) => builder.with_target(false).try_init(),
        (LogFormat::Json, _) | (LogFormat::Auto, false) => {
            builder.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init()
        }
    };
}

/// The metrics of this process, in Prometheus' text format.
pub fn recorder() -> Option<PrometheusHandle> {
    static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    HANDLE
        .get_or_init(|| {
            let buckets = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0];
            let recorder = PrometheusBuilder::new().set_buckets(&buckets).ok()?.build_recorder();
            let handle = recorder.handle();
            metrics::set_global_recorder(recorder).ok()?;
            describe();
            Some(handle)
        })
        .clone()
}

fn describe() {
    use metrics::{describe_counter, describe_gauge, describe_histogram};
    describe_counter!("grantsmith_rounds_total", "Rounds of work on grants by outcome");
    describe_histogram!("grantsmith_issue_seconds", "Time from a grant's creation to its last key");
    describe_gauge!("grantsmith_grants", "Grants by reason");
    describe_gauge!("grantsmith_waiting_grants", "Grants that wait for a free worker");
    describe_gauge!("grantsmith_unreadable_grants", "Grants that this version cannot read");
    describe_gauge!("grantsmith_definition_present", "Whether the cluster knows LicenseGrants");
    describe_gauge!("grantsmith_leader", "Whether this replica is the one that works");
    describe_counter!("grantsmith_audits_total", "Audits of an app's licenses by outcome");
    describe_gauge!("grantsmith_drifted_licenses", "Licenses that differ at AuthForge, as of the last audit");
    describe_gauge!("grantsmith_authforge_paused", "Whether calls to AuthForge are paused, by reason");
}

/// What the operator's routes work with.
#[derive(Debug, Clone)]
pub struct Admin {
    /// What was seen of the cluster.
    pub sight: Arc<Sight>,
    /// What is known of grants.
    pub index: Arc<Index>,
    /// Which of them wait.
    pub queue: Arc<Queue>,
    /// Who may call.
    pub lease: Arc<Lease>,
    /// AuthForge's client.
    pub authforge: Client,
}

/// `/healthz`, `/readyz`, `/metrics`. Ready means: every grant is known. Nothing that AuthForge says makes it red.
pub fn router(admin: Admin) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(measures))
        .with_state(admin)
}

async fn ready(State(admin): State<Admin>) -> Response {
    match admin.sight.missing() {
        None => (StatusCode::OK, "ok\n").into_response(),
        Some(what) => (StatusCode::SERVICE_UNAVAILABLE, format!("{what}\n")).into_response(),
    }
}

static SHOWN: Mutex<BTreeSet<&str>> = Mutex::new(BTreeSet::new());

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
async fn measures(State(admin): State<Admin>) -> Response {
    // Who may not call cannot tell whether a pause is over.
    let calls = admin.lease.is_held();
    for (reason, on) in admin.authforge.health().pauses() {
        gauge!("grantsmith_authforge_paused", "reason" => reason.as_str()).set(f64::from(on && calls));
    }
    gauge!("grantsmith_waiting_grants").set(admin.queue.waiting() as f64);
    {
        // A gauge that is not set again keeps its last value: those that have emptied go to zero.
        let mut shown = SHOWN.lock().unwrap_or_else(PoisonError::into_inner);
        for reason in shown.iter() {
            gauge!("grantsmith_grants", "reason" => *reason).set(0.0);
        }
        for (reason, count) in admin.index.reasons() {
            let reason = reason.map_or("New", Reason::as_str);
            shown.insert(reason);
            gauge!("grantsmith_grants", "reason" => reason).set(count as f64);
        }
    }
    match recorder() {
        Some(handle) => {
            handle.run_upkeep();
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], handle.render()).into_response()
        }
        None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}
