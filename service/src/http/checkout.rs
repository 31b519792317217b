//! `POST /api/create-checkout`: what a shop's page calls when somebody wants to buy.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, post};
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use metrics::counter;
use serde::Deserialize;
use serde_json::json;
use tower_http::cors::CorsLayer;

use super::Web;
use super::client_ip::client_ip;
use crate::checkout::{Error, Wish};

/// More than an order ever needs.
const LARGEST_BODY: usize = 4 << 10;
/// A body that has not arrived whole by then is given up.
const BODY_WITHIN: Duration = Duration::from_secs(10);
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// How long a browser may remember that it may call.
const PREFLIGHT_FOR: Duration = Duration::from_secs(3_600);

/// The optional body.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    plan: Option<String>,
    quantity: Option<i64>,
    email: Option<String>,
}

/// Why the call came to nothing.
enum Refusal {
    Body(String),
    TooMany(Duration),
    Checkout(Error),
}

/// The route, for these sites' pages besides our own.
pub(super) fn route(origins: &[HeaderValue]) -> MethodRouter<Web> {
    let route = post(create);
    if origins.is_empty() {
        return route;
    }
    let cors = CorsLayer::new()
        .allow_origin(origins.to_vec())
        .allow_methods([Method::POST])
        .allow_headers([header::CONTENT_TYPE, IDEMPOTENCY_KEY])
        .max_age(PREFLIGHT_FOR);
    route.layer(cors)
}

async fn create(
    State(web): State<Web>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let mut response = match sell(&web, peer, &headers, body).await {
        Ok(url) => Json(json!({ "url": url })).into_response(),
        Err(refusal) => refusal.into_response(),
    };
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let status = response.status().as_u16().to_string();
    counter!("grantsmith_checkout_requests_total", "status" => status).increment(1);
    response
}

async fn sell(web: &Web, peer: SocketAddr, headers: &HeaderMap, body: Body) -> Result<String, Refusal> {
    let client = client_ip(peer, headers, &web.trusted_proxies);
    web.limits.checkout(client).map_err(Refusal::TooMany)?;
    let order = read(body).await.map_err(Refusal::Body)?;
    let request_id = match headers.get(IDEMPOTENCY_KEY).map(HeaderValue::to_str) {
        None => None,
        Some(Ok(id)) => Some(id.to_owned()),
        Some(Err(_)) => return Err(Refusal::Body("the Idempotency-Key is no plain text".to_owned())),
    };
    // A field that was left blank is left out.
    let said = |text: Option<String>| text.filter(|text| !text.is_empty());
    let Order { plan, quantity, email } = order;
    let (plan, email, request_id) = (said(plan), said(email), said(request_id));
    let wish = Wish { plan, quantity: quantity.unwrap_or(1), email, request_id };
    web.backend.checkout(wish).await.map_err(Refusal::Checkout)
}

async fn read(body: Body) -> Result<Order, String> {
    let collected = tokio::time::timeout(BODY_WITHIN, Limited::new(body, LARGEST_BODY).collect()).await;
    let body: Bytes = match collected {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => return Err(format!("the body broke off, or is larger than {LARGEST_BODY} bytes")),
        Err(_) => return Err("the body did not arrive in time".to_owned()),
    };
    if body.is_empty() {
        return Ok(Order::default());
    }
    serde_json::from_slice(&body).map_err(|error| {
        format!("the body must be JSON such as {{\"plan\": \"pro\", \"quantity\": 1, \"email\": \"jane@example.com\"}}: {error}")
    })
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::Body(_) | Self::Checkout(Error::Wrong(_)) => StatusCode::BAD_REQUEST,
            Self::TooMany(_) | Self::Checkout(Error::Busy) => StatusCode::TOO_MANY_REQUESTS,
            Self::Checkout(Error::NoCatalog) => StatusCode::NOT_FOUND,
            Self::Checkout(Error::EventsOnly) => StatusCode::NOT_IMPLEMENTED,
            Self::Checkout(Error::KeyReused) => StatusCode::CONFLICT,
            Self::Checkout(Error::Refused) => StatusCode::BAD_GATEWAY,
            Self::Checkout(Error::Unavailable) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// In seconds.
    fn retry_after(&self) -> Option<u64> {
        match self {
            Self::TooMany(wait) => Some(wait.as_secs() + 1),
            Self::Checkout(Error::Busy) => Some(1),
            Self::Checkout(Error::Unavailable) => Some(10),
            Self::Body(_) | Self::Checkout(_) => None,
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let text = match &self {
            Self::Body(text) => text.clone(),
            Self::TooMany(_) => "too many requests; wait for Retry-After".to_owned(),
            Self::Checkout(error) => error.to_string(),
        };
        let mut response = (self.status(), Json(json!({ "error": text }))).into_response();
        if let Some(seconds) = self.retry_after() {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
