//! `/healthz`, `/readyz`, `/metrics`. Ready means: can durably accept. Nothing that AuthForge says makes it red.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use metrics::gauge;

use crate::backend::Backend;
use crate::store::{Counts, DeliveryState, GrantState, Store};
use crate::telemetry;

/// What the operator's routes work with.
#[derive(Clone)]
pub struct Admin {
    /// What readiness asks.
    pub backend: Arc<dyn Backend>,
    /// What is counted, where there is a record in this process.
    pub store: Option<Arc<dyn Store>>,
    /// AuthForge's client, where there is one in this process.
    pub authforge: Option<grantsmith_authforge::Client>,
    /// Red until every listener accepts, and again while stopping.
    pub serving: Arc<AtomicBool>,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}

/// The operator's routes.
pub fn router(admin: Admin) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(admin)
}

async fn ready(State(admin): State<Admin>) -> Response {
    if !admin.serving.load(Ordering::Relaxed) {
        return (StatusCode::SERVICE_UNAVAILABLE, "not serving\n").into_response();
    }
    if !admin.backend.ready().await {
        return (StatusCode::SERVICE_UNAVAILABLE, "the record cannot be written\n").into_response();
    }
    (StatusCode::OK, "ok\n").into_response()
}

async fn metrics(State(admin): State<Admin>) -> Response {
    if let Some(store) = &admin.store {
        match store.counts().await {
            Ok(counts) => measure(&counts),
            Err(error) => tracing::warn!(%error, "the record could not be counted"),
        }
    }
    if let Some(client) = &admin.authforge {
        for (reason, on) in client.health().pauses() {
            gauge!("grantsmith_authforge_paused", "reason" => reason.as_str()).set(if on {
                1.0
            } else {
                0.0
            });
        }
    }
    match telemetry::metrics() {
        Some(handle) => {
            handle.run_upkeep();
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], handle.render()).into_response()
        }
        None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

static SHOWN: Mutex<BTreeSet<(&str, &str)>> = Mutex::new(BTreeSet::new());

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
fn measure(counts: &Counts) {
    gauge!("grantsmith_dirty_objects").set(counts.dirty as f64);
    gauge!("grantsmith_open_attempts").set(counts.open_attempts as f64);
    for (state, count) in
        [(DeliveryState::Due, counts.deliveries_due), (DeliveryState::Parked, counts.deliveries_parked)]
    {
        let state = if state == DeliveryState::Due { "due" } else { "parked" };
        gauge!("grantsmith_deliveries", "state" => state).set(count as f64);
    }
    // A gauge that is not set again keeps its last value: those that have emptied go to zero.
    let mut shown = SHOWN.lock().unwrap_or_else(PoisonError::into_inner);
    for (state, reason) in shown.iter() {
        gauge!("grantsmith_grants", "state" => *state, "reason" => *reason).set(0.0);
    }
    for (state, reason, count) in &counts.grants {
        let state = match state {
            GrantState::Pending => "pending",
            GrantState::Issuing => "issuing",
            GrantState::Ready => "ready",
            GrantState::Ended => "ended",
            GrantState::Parked => "parked",
            GrantState::NotOurs => "not_ours",
        };
        shown.insert((state, reason.as_str()));
        gauge!("grantsmith_grants", "state" => state, "reason" => reason.as_str()).set(*count as f64);
    }
}
