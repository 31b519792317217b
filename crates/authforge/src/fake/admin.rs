//! `/_fake/…`: the fake's own routes, for other processes and for people who try things out.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{CallKind, Deeds, Fault, NewLicense, Shared, Switches};

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/history", get(history))
        .route("/licenses", get(licenses).post(insert))
        .route("/licenses/{key}/revoke", post(revoke))
        .route("/counts", get(counts))
        .route("/faults", post(faults))
        .route("/switches", get(show_switches).post(switches))
}

async fn history(State(shared): State<Arc<Shared>>) -> Response {
    Json(shared.world().store.history()).into_response()
}

async fn licenses(State(shared): State<Arc<Shared>>) -> Response {
    Json(shared.world().store.licenses().collect::<Vec<_>>()).into_response()
}

async fn counts(State(shared): State<Arc<Shared>>) -> Response {
    Json(&shared.world().counts).into_response()
}

async fn insert(State(shared): State<Arc<Shared>>, Json(license): Json<NewLicense>) -> Response {
    let mut world = shared.world();
    let now = shared.time(&world);
    Json(world.store.create(license, now, Deeds::Inserted)).into_response()
}

async fn revoke(State(shared): State<Arc<Shared>>, Path(key): Path<String>) -> Response {
    let mut world = shared.world();
    let now = shared.time(&world);
    match world.store.change(&key, now, Deeds::RevokedByHand, |license| license.revoked = true) {
        Some(license) => Json(license).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// `{"on": "create", "faults": ["lost_after", {"delayed": 500}]}`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Script {
    on: CallKind,
    faults: Vec<Fault>,
}

async fn faults(State(shared): State<Arc<Shared>>, Json(script): Json<Script>) -> Response {
    shared.world().faults.entry(script.on).or_default().extend(script.faults);
    StatusCode::NO_CONTENT.into_response()
}

async fn show_switches(State(shared): State<Arc<Shared>>) -> Response {
    Json(&shared.world().switches).into_response()
}

/// Changes the switches that the body names; answers with all of them.
async fn switches(State(shared): State<Arc<Shared>>, Json(change): Json<Value>) -> Response {
    let mut world = shared.world();
    let changed = serde_json::to_value(&world.switches).and_then(|mut all| {
        if let (Some(all), Some(change)) = (all.as_object_mut(), change.as_object()) {
            all.extend(change.clone());
        }
        serde_json::from_value::<Switches>(all)
    });
    match changed {
        Ok(changed) => {
            world.switches = changed;
            Json(&world.switches).into_response()
        }
        Err(error) => (StatusCode::BAD_REQUEST, Json(json!({"message": error.to_string()}))).into_response(),
    }
}
