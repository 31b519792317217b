//! Logs and metrics. Neither ever holds a key, a token, a raw body or a buyer's address.

use std::io::IsTerminal;
use std::sync::OnceLock;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

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
        .unwrap_or_else(|_| EnvFilter::new("info,hyper=warn,h2=warn,tower=warn,lettre=warn,kube_client=off"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(terminal)
        // They would go to standard error, which panics where nobody reads it any more.
        .log_internal_errors(false);
    // A second start in one process (tests) keeps the first.
    let _ = match (format, terminal) {
        (LogFormat::Text, _) | (LogFormat::Auto, true) => builder.with_target(false).try_init(),
        (LogFormat::Json, _) | (LogFormat::Auto, false) => {
            builder.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init()
        }
    };
}

/// The metrics of this process, in Prometheus' text format.
pub fn metrics() -> Option<PrometheusHandle> {
    static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    HANDLE
        .get_or_init(|| {
            let builder = PrometheusBuilder::new()
                .set_buckets(&[
                    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0,
                ])
                .ok()?;
            let recorder = builder.build_recorder();
            let handle = recorder.handle();
            metrics::set_global_recorder(recorder).ok()?;
            describe();
            Some(handle)
        })
        .clone()
}

fn describe() {
    use metrics::{describe_counter, describe_gauge, describe_histogram};
    describe_counter!("grantsmith_events_total", "Events by outcome and reason");
    describe_counter!("grantsmith_hook_requests_total", "Requests at the webhook by answer");
    // There from the first: the rise of a counter that has only just appeared is seen by nobody.
    for status in ["200", "400", "503"] {
        metrics::counter!("grantsmith_hook_requests_total", "status" => status).absolute(0);
    }
    describe_histogram!("grantsmith_hook_seconds", "Time from a request at the webhook to its answer");
    describe_counter!("grantsmith_looks_total", "Looks at Stripe objects by outcome");
    describe_counter!("grantsmith_rounds_total", "Rounds of work on grants by outcome");
    describe_histogram!(
        "grantsmith_issue_seconds",
        "Time from a purchase's first paid decision to its last key"
    );
    describe_counter!("grantsmith_mails_total", "Mails by outcome");
    describe_gauge!("grantsmith_grants", "Grants by state and reason");
    describe_gauge!("grantsmith_dirty_objects", "Stripe objects waiting to be looked at");
    describe_gauge!("grantsmith_open_attempts", "Creates whose outcome is unknown");
    describe_gauge!("grantsmith_deliveries", "Mails waiting, by state");
    describe_gauge!("grantsmith_authforge_paused", "Whether calls to AuthForge are paused, by reason");
}
