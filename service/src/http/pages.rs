//! The buyer's pages. They work without JavaScript, are never cached, and tell nobody where they were linked from.

use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::{ConnectInfo, Query, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use data_encoding::BASE64URL_NOPAD;
use minijinja::value::Serde;
use minijinja::{Value, context};
use rand::RngExt;
use serde::Deserialize;
use serde_json::json;

use super::Web;
use super::client_ip::client_ip;
use crate::fulfillment::{Page, PageLicense};
use crate::render;

/// How often a page whose key is being made looks again.
const LOOK_AGAIN: u32 = 2;
/// How often a page whose payment is on its way looks again.
const LOOK_AGAIN_FOR_MONEY: u32 = 60;
/// How often a page that found nothing looks again by itself, for two minutes: the buyer may be faster than Stripe's event.
const LOOK_AGAIN_FOR_NEWS: u32 = 5;
const NEWS_LOOKS: u32 = 24;
/// After this many looks a page says what to do instead of waiting.
const PATIENCE: u32 = 60;

/// What a page's address carries.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Visit {
    #[serde(default)]
    session_id: String,
    /// How many times the page has looked again by itself.
    #[serde(default)]
    look: u32,
    /// What became of the form for another address: `sent` or `address`.
    #[serde(default)]
    note: String,
}

/// `GET /success?session_id=`
pub(super) async fn success(
    State(web): State<Web>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    query: Result<Query<Visit>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let json = wants_json(&headers);
    let visit = query.map(|Query(visit)| visit).unwrap_or_default();
    let client = client_ip(peer, &headers, &web.trusted_proxies);
    if let Err(wait) = web.limits.visit(client, &visit.session_id) {
        return too_many(&web, wait, json);
    }
    match web.backend.page(&visit.session_id).await {
        Ok((page, mail_on)) if json => as_json(&page, mail_on),
        Ok((page, mail_on)) => as_html(&web, &visit, page, mail_on),
        Err(error) => {
            tracing::warn!(%error, "a success page");
            let mut response = if json {
                private((
                    StatusCode::SERVICE_UNAVAILABLE,
                    axum::Json(json!({ "error": "try again in a moment" })),
                ))
            } else {
                web.show(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "pages/error.html",
                    context! { refresh_seconds => 10 },
                )
            };
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("10"));
            response
        }
    }
}

/// `GET /`
pub(super) async fn home(State(web): State<Web>) -> Response {
    web.show(StatusCode::OK, "pages/home.html", context! { portal => "portal" })
}

/// Every other address: a link that was cut off, more likely than a fault of ours.
pub(super) async fn nothing(State(web): State<Web>, _method: Method, uri: Uri) -> Response {
    tracing::debug!(path = uri.path(), "no such page");
    web.show(StatusCode::NOT_FOUND, "pages/not_found.html", context! {})
}

fn wants_json(headers: &HeaderMap) -> bool {
    headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|accept| accept.contains("application/json"))
}

fn as_json(page: &Page, mail_on: bool) -> Response {
    let license = |license: &PageLicense| {
        json!({
            "license_key": license.key.expose(),
            "app_id": license.app_id.as_str(),
            "expires_at": license.expires_at.map(|at| at.to_string()),
        })
    };
    let (status, body) = match page {
        Page::Ready { licenses, masked_email } => {
            let licenses: Vec<_> = licenses.iter().map(license).collect();
            let mailed = mail_on && masked_email.is_some();
            (StatusCode::OK, json!({ "status": "ready", "licenses": licenses, "mailed": mailed }))
        }
        Page::Pending => (StatusCode::OK, json!({ "status": "pending" })),
        Page::PaymentPending => (StatusCode::OK, json!({ "status": "pending", "waits_for": "payment" })),
        Page::Ended => (StatusCode::OK, json!({ "status": "ended" })),
        Page::NotFound => (StatusCode::NOT_FOUND, json!({ "error": "License not found" })),
    };
    private((status, axum::Json(body)))
}

fn as_html(web: &Web, visit: &Visit, page: Page, mail_on: bool) -> Response {
    let order = visit.session_id.as_str();
    let next = format!(
        "?session_id={}&look={}",
        url::form_urlencoded::byte_serialize(order.as_bytes()).collect::<String>(),
        visit.look + 1
    );
    let pending = |variant: &str, seconds: u32| {
        context! {
            order,
            variant,
            mail_on,
            give_up => visit.look >= PATIENCE,
            refresh_seconds => if visit.look < PATIENCE { seconds } else { seconds.max(30) },
            refresh_url => next.as_str(),
        }
    };
    match page {
        Page::Ready { licenses, masked_email } => {
            let licenses = Value::from(Serde(licenses.iter().map(shown_license).collect::<Vec<_>>()));
            let email_masked = masked_email.filter(|_| mail_on);
            let note = visit.note.as_str();
            let context = context! { licenses, email_masked, order, mail_on, note };
            web.show(StatusCode::OK, "pages/success.html", context)
        }
        Page::Pending => web.show(StatusCode::OK, "pages/pending.html", pending("issuing", LOOK_AGAIN)),
        Page::PaymentPending => {
            web.show(StatusCode::OK, "pages/pending.html", pending("payment", LOOK_AGAIN_FOR_MONEY))
        }
        Page::Ended => web.show(StatusCode::OK, "pages/ended.html", context! { order }),
        Page::NotFound => {
            let again = visit.look < NEWS_LOOKS && order.starts_with("cs_");
            let context = context! {
                portal => "portal",
                refresh_seconds => again.then_some(LOOK_AGAIN_FOR_NEWS),
                refresh_url => again.then_some(next.as_str()),
            };
            web.show(StatusCode::NOT_FOUND, "pages/not_found.html", context)
        }
    }
}

/// A license as templates see it.
pub(super) fn shown_license(license: &PageLicense) -> render::PageLicense {
    let PageLicense { name, key, app_id, expires_at, slots } = license;
    render::PageLicense::new(name, key.expose(), app_id.as_str(), *expires_at, *slots)
}

fn too_many(web: &Web, wait: Duration, json: bool) -> Response {
    let seconds = u32::try_from(wait.as_secs()).unwrap_or(60).saturating_add(1);
    let status = StatusCode::TOO_MANY_REQUESTS;
    let mut response = if json {
        private((status, axum::Json(json!({ "error": "too many requests; wait for Retry-After" }))))
    } else {
        web.show(status, "pages/too_many.html", context! { refresh_seconds => seconds })
    };
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    response
}

/// Nothing of a purchase is kept by browsers and proxies, or told to the next site.
pub(super) fn private(response: impl IntoResponse) -> Response {
    let mut response = response.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    headers.insert("x-robots-tag", HeaderValue::from_static("noindex"));
    response
}

impl Web {
    pub(super) fn show(&self, status: StatusCode, page: &str, context: Value) -> Response {
        let nonce = BASE64URL_NOPAD.encode(&rand::rng().random::<[u8; 16]>());
        let shared = context! { nonce => nonce.as_str(), seller => self.seller.clone(), support => self.support.clone(), ..context };
        let (status, html) = match self.renderer.render(page, &shared) {
            Ok(html) => (status, html),
            Err(error) => {
                tracing::error!(page, %error, "a template cannot be used");
                (
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "This page cannot be shown now. Please try again later.".to_owned(),
                )
            }
        };
        let policy = format!(
            "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; img-src data:; form-action 'self'; \
             base-uri 'none'; frame-ancestors 'none'"
        );
        let mut response = private((status, axum::response::Html(html)));
        if let Ok(policy) = HeaderValue::try_from(policy) {
            response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
        }
        response
    }
}
