//! What the doctor asks Stripe.

use std::collections::{BTreeMap, BTreeSet};

use grantsmith_core::terms::Duration;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::{Report, Verdict};
use crate::app::back;
use crate::catalog::{Catalog, Key, Plan};
use crate::config::Standalone;
use crate::stripe::client::{Client, Error, Offered, STRIPE_VERSION};
use crate::stripe::event::{Signal, signal_of};

/// What may be read at Stripe, and the permission that a restricted key needs for it.
const PERMISSIONS: [(&str, &str); 8] = [
    ("/v1/checkout/sessions", "Checkout Sessions"),
    ("/v1/payment_intents", "PaymentIntents"),
    ("/v1/charges", "Charges"),
    ("/v1/subscriptions", "Subscriptions"),
    ("/v1/invoices", "Invoices"),
    ("/v1/customers", "Customers"),
    ("/v1/prices", "Prices"),
    ("/v1/products", "Products"),
];

/// Events that an endpoint needs; `deploy/OPERATING.md` lists the same.
const EVENTS: [&str; 19] = [
    "checkout.session.completed",
    "checkout.session.async_payment_succeeded",
    "checkout.session.async_payment_failed",
    "checkout.session.expired",
    "payment_intent.succeeded",
    "payment_intent.canceled",
    "payment_intent.payment_failed",
    "charge.succeeded",
    "charge.captured",
    "customer.subscription.created",
    "customer.subscription.updated",
    "customer.subscription.deleted",
    "customer.subscription.paused",
    "customer.subscription.resumed",
    "invoice.paid",
    "invoice.payment_failed",
    "invoice.voided",
    "invoice.marked_uncollectible",
    "invoice.finalized",
];

/// The key, the prices of the catalog, and the endpoint.
pub(super) async fn check(
    settings: &Standalone,
    public: &Url,
    http: &reqwest::Client,
    catalog: Option<&Catalog>,
    stop: &CancellationToken,
    report: &mut Report,
) {
    let check = "Stripe key";
    let client = back::stripe_client(&settings.back, settings.hook.stripe_mode, http.clone(), stop.clone());
    let client = match client {
        Ok(Some(client)) => client,
        Ok(None) => return report.warn(check, "--events-only: what events do not tell goes unseen"),
        Err(error) => return report.fail(check, format!("{error:#}")),
    };
    report.ok(check, "readable, and not of the other mode");
    for (path, permission) in PERMISSIONS {
        match client.first_of(path).await {
            Ok(()) => {}
            Err(Error::Unauthorized { answer }) if answer.status == http::StatusCode::FORBIDDEN => {
                report.fail(check, format!("it may not read {permission}; add that permission in Stripe"));
            }
            Err(error @ Error::Unauthorized { .. }) => return report.fail(check, error.to_string()),
            Err(error) => return report.fail(check, format!("{permission} cannot be asked for: {error}")),
        }
    }
    if let Some(catalog) = catalog {
        prices(&client, catalog, report).await;
    }
    if settings.public_url.is_some() {
        endpoint(&client, public, report).await;
    }
}

/// Whether Stripe sells what the catalog says. Entries of one plan follow each other in time and are sold by one price.
async fn prices(client: &Client, catalog: &Catalog, report: &mut Report) {
    let plans: BTreeMap<&str, &Plan> =
        catalog.plans().iter().map(|plan| (plan.name.as_str(), plan)).collect();
    for (name, plan) in plans {
        let (verdict, text) = match price(client, plan).await {
            Ok(found) => found,
            Err(error) => (Verdict::Fail, format!("its price cannot be read: {error}")),
        };
        report.say(verdict, "price", format!("plan '{name}': {text}"));
    }
}

async fn price(client: &Client, plan: &Plan) -> Result<(Verdict, String), Error> {
    let id = match &plan.key {
        Key::Price(id) => Some(id.clone()),
        Key::LookupKey(key) => client.price_of_lookup_key(key).await?,
        Key::Product(product) => client.default_price(product).await?,
    };
    let Some(id) = id else {
        return Ok(match &plan.key {
            Key::Price(id) | Key::Product(id) => {
                (Verdict::Warn, format!("{id} has no default price, which create-checkout would sell"))
            }
            Key::LookupKey(key) => (
                Verdict::Fail,
                format!("no active price at Stripe has the lookup key '{key}'; give it to one"),
            ),
        });
    };
    let Offered { active, recurring } = client.price(&id).await?;
    Ok(match (plan.terms.duration == Duration::Subscription, recurring) {
        _ if !active => (Verdict::Warn, format!("{id} is archived at Stripe: nobody can buy it any more")),
        (true, false) => {
            let text =
                format!("{id} is paid once; a plan with 'duration: subscription' needs a recurring price");
            (Verdict::Fail, text)
        }
        (false, true) => {
            let text = format!("{id} is paid again and again, but its license is not extended by that");
            (Verdict::Warn, format!("{text}; 'duration: subscription' would do so"))
        }
        (true, true) | (false, false) => (Verdict::Ok, format!("{id} is for sale")),
    })
}

async fn endpoint(client: &Client, public: &Url, report: &mut Report) {
    let check = "endpoint";
    let Ok(wanted) = public.join("webhooks/stripe") else { return };
    let endpoints = match client.webhook_endpoints().await {
        Ok(endpoints) => endpoints,
        Err(Error::Unauthorized { .. }) => {
            let text = "the key may not read Webhook Endpoints; it need not, but then they cannot be checked";
            return report.warn(check, text);
        }
        Err(error) => return report.warn(check, error.to_string()),
    };
    let ours: Vec<&Value> = endpoints.iter().filter(|endpoint| endpoint["url"] == wanted.as_str()).collect();
    if ours.is_empty() {
        return report.fail(check, format!("none at Stripe has the address {wanted}; add one"));
    }
    let (on, off): (Vec<&Value>, Vec<&Value>) =
        ours.into_iter().partition(|endpoint| endpoint["status"] == "enabled");
    if on.is_empty() {
        return report.fail(check, format!("{} at Stripe is disabled; enable it", off.len()));
    }
    let lists = on.iter().filter_map(|endpoint| endpoint["enabled_events"].as_array());
    let events: BTreeSet<&str> = lists.flatten().filter_map(Value::as_str).collect();
    let missing: Vec<&str> =
        EVENTS.into_iter().filter(|event| !events.contains("*") && !events.contains(event)).collect();
    let needless: Vec<&str> =
        events.into_iter().filter(|event| *event != "*" && signal_of(event) == Signal::Unknown).collect();
    if missing.is_empty() {
        report.ok(check, format!("{wanted} is enabled, with every event that is needed"));
    } else {
        report.fail(check, format!("it lacks events; add {}", missing.join(", ")));
    }
    // Objects are fetched in one version, whatever the events are in; with --events-only the events are all there is.
    let newer = |endpoint: &&&Value| endpoint["api_version"].as_str().is_some_and(|its| its > STRIPE_VERSION);
    if let Some(its) = on.iter().find(newer).and_then(|endpoint| endpoint["api_version"].as_str()) {
        let text = format!(
            "its API version {its} is newer than {STRIPE_VERSION}, which this program was tried with"
        );
        report.warn(check, format!("{text}; create it anew with that version, or update Grantsmith"));
    }
    if !needless.is_empty() {
        report.warn(check, format!("it has events that nothing is made of: {}", needless.join(", ")));
    }
}
