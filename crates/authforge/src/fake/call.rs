//! One call to the fake: gate, fault, effect, answer.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use serde_json::{Value, json};

use super::serve::Drop;
use super::{CallKind, Fault, Shared, Switches, World};

/// What a call answers: a status, a body, and the key of the license that it was about.
pub(super) struct Reply {
    status: u16,
    body: Vec<u8>,
    key: Option<String>,
    json: bool,
}

impl Reply {
    pub(super) fn json(status: u16, body: &Value) -> Self {
        Self { status, body: body.to_string().into_bytes(), key: None, json: true }
    }

    pub(super) fn error(status: u16, code: &str, message: &str) -> Self {
        Self::json(status, &json!({"error": code, "message": message}))
    }

    fn html(status: u16) -> Self {
        let body = format!("<html><body><h1>{status}</h1></body></html>").into_bytes();
        Self { status, body, key: None, json: false }
    }

    pub(super) fn about(mut self, key: &str) -> Self {
        self.key = Some(key.to_owned());
        self
    }
}

/// Counts a request as under way, for as long as it is: also one whose caller goes away.
struct InFlight(Arc<Shared>);

impl InFlight {
    fn enter(shared: &Arc<Shared>, kind: CallKind) -> Self {
        let mut world = shared.world();
        *world.counts.calls.entry(kind).or_default() += 1;
        world.in_flight += 1;
        world.counts.most_in_flight = world.counts.most_in_flight.max(world.in_flight);
        Self(Arc::clone(shared))
    }
}

impl std::ops::Drop for InFlight {
    fn drop(&mut self) {
        self.0.world().in_flight -= 1;
    }
}

/// Lets one call through gate, fault and effect.
pub(super) async fn run<F>(shared: Arc<Shared>, kind: CallKind, headers: &HeaderMap, effect: F) -> Response
where
    F: Fn(&mut World, Timestamp) -> Reply + Send + 'static,
{
    let _in_flight = InFlight::enter(&shared, kind);
    let bearer =
        headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let (refusal, fault, latency) = {
        let mut world = shared.world();
        let refusal = refusal(&shared, &mut world, kind, bearer);
        let fault = match refusal {
            None => world.faults.get_mut(&kind).and_then(VecDeque::pop_front),
            Some(_) => None,
        };
        (refusal, fault, Duration::from_millis(world.switches.latency_ms))
    };
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
    match refusal {
        Some(reply) => respond(&shared, reply),
        None => perform(&shared, fault, effect),
    }
}

/// Key, limit and credits, in this order.
fn refusal(shared: &Shared, world: &mut World, kind: CallKind, bearer: Option<&str>) -> Option<Reply> {
    let known = |key: &str| world.switches.accepted_key.as_deref().is_none_or(|accepted| accepted == key);
    let Some(key) = bearer.filter(|key| !key.is_empty() && !world.switches.unauthorized && known(key)) else {
        return Some(Reply::error(401, "invalid_api_key", "the API key is missing, malformed or revoked"));
    };
    if let Some(limit) = world.switches.rate_limit {
        let now = shared.clock.now().moment;
        let (level, at) = world.buckets.get(key).copied().unwrap_or((f64::from(limit.burst), now));
        let gained = now.since(at).as_secs_f64() * f64::from(limit.per_second);
        let level = (level + gained).min(f64::from(limit.burst));
        let passes = level >= 1.0;
        world.buckets.insert(key.to_owned(), (if passes { level - 1.0 } else { level }, now));
        if !passes {
            return Some(too_many(&world.switches));
        }
    }
    if world.switches.down {
        return Some(Reply::html(503));
    }
    if world.switches.no_credits && kind == CallKind::Create {
        return Some(Reply::error(402, "no_credits", "not enough credits"));
    }
    None
}

fn too_many(switches: &Switches) -> Reply {
    if switches.documented_429 {
        Reply::error(429, "rate_limited", "too many requests")
    } else {
        Reply::json(429, &json!({"message": "Too Many Requests"}))
    }
}

/// Does what the call asks, unless a fault comes in between.
fn perform<F>(shared: &Arc<Shared>, fault: Option<Fault>, effect: F) -> Response
where
    F: Fn(&mut World, Timestamp) -> Reply + Send + 'static,
{
    let act = |shared: &Shared| {
        let mut world = shared.world();
        let now = shared.time(&world);
        let reply = effect(&mut world, now);
        drop(world);
        shared.changed.send_replace(());
        reply
    };
    match fault {
        None => respond(shared, act(shared)),
        Some(Fault::LostBefore) => dropped(),
        Some(Fault::LostAfter) => {
            act(shared);
            dropped()
        }
        Some(Fault::Duplicated) => {
            act(shared);
            respond(shared, act(shared))
        }
        Some(Fault::Delayed(ms)) => {
            let shared = Arc::clone(shared);
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                let mut world = shared.world();
                let now = shared.time(&world);
                effect(&mut world, now);
                drop(world);
                shared.changed.send_replace(());
            });
            dropped()
        }
        Some(Fault::FiveHundredAfterCommit) => {
            act(shared);
            respond(shared, Reply::html(500))
        }
        Some(Fault::FiveHundredBefore) => respond(shared, Reply::html(500)),
        Some(Fault::TooManyRequests) => {
            let reply = too_many(&shared.world().switches);
            respond(shared, reply)
        }
        Some(Fault::TruncatedBody) => {
            let reply = act(shared);
            let half = Bytes::copy_from_slice(reply.body.get(..reply.body.len() / 2).unwrap_or_default());
            let mut response = respond(shared, Reply { key: None, ..reply });
            let cut = std::io::Error::new(std::io::ErrorKind::ConnectionAborted, "cut by script");
            *response.body_mut() = Body::from_stream(futures_util::stream::iter([Ok(half), Err(cut)]));
            response
        }
        Some(Fault::Status(status)) => {
            respond(shared, Reply::error(status, "scripted", "answered by script"))
        }
    }
}

fn dropped() -> Response {
    let mut response = Response::new(Body::empty());
    response.extensions_mut().insert(Drop);
    response
}

/// Writes the answer, counts it, and notes in the history that the caller is being told.
fn respond(shared: &Shared, reply: Reply) -> Response {
    let mut world = shared.world();
    let Reply { status, body, key, json } = reply;
    match status {
        401 => world.counts.unauthorized += 1,
        402 => world.counts.no_credits += 1,
        429 => world.counts.too_many += 1,
        _ => {}
    }
    if let Some(key) = key {
        world.store.answered(&key);
    }
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    let kind = if json { "application/json" } else { "text/html" };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    if let (429, Some(seconds)) = (status, world.switches.retry_after) {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if world.switches.date_header {
        let date = DateTimePrinter::new().timestamp_to_rfc9110_string(&shared.time(&world));
        headers.extend(
            date.ok().and_then(|date| HeaderValue::try_from(date).ok()).map(|date| (header::DATE, date)),
        );
    }
    response
}
