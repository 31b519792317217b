//! The side that faces strangers: webhook and pages.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use grantsmith_authforge::SystemClock;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{Tasks, announce};
use crate::backend::Backend;
use crate::config;
use crate::http::{self, Web};
use crate::render::Renderer;
use crate::secret_file::{Place, Watched};
use crate::stripe::secret::Secrets;

/// The webhook's secrets, following their file.
pub(super) fn secrets(hook: &config::Hook, stop: CancellationToken) -> anyhow::Result<Arc<ArcSwap<Secrets>>> {
    let mode = hook.stripe_mode;
    let from_file = hook.stripe_webhook_secrets_file.is_some();
    let place = Place {
        what: "Stripe webhook secret",
        flag: "stripe-webhook-secrets-file",
        env: "GRANTSMITH_STRIPE_WEBHOOK_SECRETS",
        file: hook.stripe_webhook_secrets_file.clone(),
    };
    let watched = Watched::open(place, stop, move |text| {
        let secrets = if from_file { Secrets::parse(text, mode) } else { Secrets::parse_list(text, mode) }?;
        for warning in secrets.warnings() {
            tracing::warn!(%warning, "Stripe webhook secrets");
        }
        Ok::<_, crate::stripe::secret::Error>(secrets)
    })?;
    Ok(watched.shared())
}

pub(super) fn web(
    settings: config::Web,
    hook: &config::Hook,
    backend: Arc<dyn Backend>,
    secrets: Arc<ArcSwap<Secrets>>,
) -> anyhow::Result<Web> {
    Ok(Web {
        backend,
        clock: Arc::new(SystemClock),
        secrets,
        tolerance: hook.stripe_tolerance,
        renderer: Renderer::new(settings.templates.as_deref())?,
        seller: settings.seller_name,
        support: settings.support,
        billing_portal: settings.billing_portal_url,
        trusted_proxies: settings.trusted_proxies.into(),
        cors_origins: settings.cors_origin.into(),
        limits: http::limits(),
    })
}

pub(super) fn serve_web(web: Web, listener: TcpListener, tasks: &Tasks) -> anyhow::Result<SocketAddr> {
    let address = announce("http", &listener)?;
    let (limits, stop) = (web.limits.clone(), tasks.stop());
    tasks.spawn(async move {
        while stop.run_until_cancelled(tokio::time::sleep(Duration::from_secs(60))).await.is_some() {
            limits.tidy();
        }
    });
    tasks.spawn(http::serve::serve(listener, http::router(web), tasks.stop()));
    Ok(address)
}
