//! What Stripe, buyers and operators talk to over HTTP.

pub mod admin;
mod checkout;
mod client_ip;
mod form;
mod limit;
mod pages;
mod portal;
pub mod serve;
mod webhook;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::http::HeaderValue;
use axum::routing::{get, post};
use grantsmith_core::port::Clock;
use ipnet::IpNet;
use url::Url;

use crate::backend::Backend;
use crate::render::Renderer;
use crate::stripe::secret::Secrets;

/// The largest body that the webhook takes, inclusive. Stripe publishes no limit; events of 52 kB were seen in the field.
pub const LARGEST_BODY: usize = 1 << 20;

/// What the public routes work with.
#[derive(Clone)]
pub struct Web {
    /// The server, here or over gRPC.
    pub backend: Arc<dyn Backend>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The webhook's secrets.
    pub secrets: Arc<ArcSwap<Secrets>>,
    /// How old or how far ahead a signature may be.
    pub tolerance: Duration,
    /// The pages' templates.
    pub renderer: Renderer,
    /// The seller's name.
    pub seller: Option<String>,
    /// Where a buyer with a question turns to.
    pub support: Option<String>,
    /// Stripe's customer portal.
    pub billing_portal: Option<Url>,
    /// Whose X-Forwarded-For counts.
    pub trusted_proxies: Arc<[IpNet]>,
    /// Sites whose pages may buy.
    pub cors_origins: Arc<[HeaderValue]>,
    /// Rate limits of the pages.
    pub limits: Arc<limit::Limits>,
}

impl std::fmt::Debug for Web {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Web").finish_non_exhaustive()
    }
}

/// Fresh rate limits.
pub fn limits() -> Arc<limit::Limits> {
    Arc::new(limit::Limits::new())
}

/// The public routes.
pub fn router(web: Web) -> Router {
    Router::new()
        .route("/webhooks/stripe", post(webhook::receive))
        .route("/api/create-checkout", checkout::route(&web.cors_origins))
        .route("/success", get(pages::success).post(portal::correct_email))
        .route("/portal", get(portal::form).post(portal::request_link))
        .route("/portal/open", get(portal::offer).post(portal::open))
        .route("/portal/resend", get(portal::form_again).post(portal::resend))
        .route("/", get(pages::home))
        .fallback(pages::nothing)
        .with_state(web)
}
