//! Sells a plan of the catalog: makes the Checkout session that a buyer is sent to.
//!
//! The session carries its terms as metadata, as in AuthForge's guide, so that it stays what was offered whatever the catalog
//! says by the time it is paid.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use grantsmith_core::entitle::MOST_UNITS;
use grantsmith_core::port::Clock;
use grantsmith_core::terms;
use rand::RngExt;

use crate::catalog::{Catalog, Key, Plan};
use crate::stripe::client::{Client as Stripe, Error as StripeError};

/// How many sessions are made a second: whoever opens more must not use up the pace at which Stripe lets us look at
/// purchases.
const PACE: NonZeroU32 = NonZeroU32::new(10).expect("not zero");

/// A buyer does not wait longer.
pub const WITHIN: Duration = Duration::from_secs(20);

/// What becomes of every key of a request at Stripe, where the seller's other programs have keys too.
const KEY_PREFIX: &str = "grantsmith-checkout-";

/// What somebody wants to buy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wish {
    /// The plan's name; none is the default plan.
    pub plan: Option<String>,
    /// How many.
    pub quantity: i64,
    /// The buyer's address, to be filled in; none lets Stripe ask.
    pub email: Option<String>,
    /// The same again makes no second session.
    pub request_id: Option<String>,
}

/// Why no session was made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is nothing to sell.
    #[error("there is no catalog, so there is nothing to buy; start the server with --catalog FILE")]
    NoCatalog,
    /// Stripe cannot be asked at all.
    #[error(
        "a Checkout session needs Stripe's API; start the server with --stripe-api-key-file FILE instead of --events-only"
    )]
    EventsOnly,
    /// The wish cannot be fulfilled as it stands.
    #[error("{0}")]
    Wrong(String),
    /// Stripe knows the request's id from another request.
    #[error("this idempotency key came with another request before, or just now; choose another one")]
    KeyReused,
    /// Too many at once.
    #[error("too many are buying at once; try again in a moment")]
    Busy,
    /// Stripe does not take the plan.
    #[error("Stripe does not sell this plan as it stands; the server's log says why")]
    Refused,
    /// Not now.
    #[error("the payment page cannot be made now; try again in a moment")]
    Unavailable,
}

/// Where sessions are made.
#[derive(Debug)]
pub struct Till {
    settings: Settings,
    pace: DefaultDirectRateLimiter,
}

/// What a [`Till`] works with.
pub struct Settings {
    /// What is sold.
    pub catalog: Option<Arc<Catalog>>,
    /// Stripe's API, where there is a key for it.
    pub stripe: Option<Stripe>,
    /// Where a buyer goes afterwards. Stripe fills in `{CHECKOUT_SESSION_ID}`.
    pub success_url: String,
    /// Where a buyer goes who does not buy.
    pub cancel_url: String,
    /// The clock.
    pub clock: Arc<dyn Clock>,
}

impl Till {
    /// A till that has sold nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self { settings, pace: RateLimiter::direct(Quota::per_second(PACE)) }
    }

    /// Makes a session; gives the address of its payment page.
    pub async fn open(&self, wish: &Wish) -> Result<String, Error> {
        let stripe = self.settings.stripe.as_ref().ok_or(Error::EventsOnly)?;
        let catalog = self.settings.catalog.as_ref().ok_or(Error::NoCatalog)?;
        let now = self.settings.clock.now().wall;
        let plan =
            catalog.plan(wish.plan.as_deref(), now).map_err(|error| Error::Wrong(error.to_string()))?;
        check(wish)?;
        let key = match &wish.request_id {
            Some(id) => format!("{KEY_PREFIX}{id}"),
            None => format!("{KEY_PREFIX}{}", BASE64URL_NOPAD.encode(&rand::rng().random::<[u8; 18]>())),
        };
        self.pace.check().map_err(|_| Error::Busy)?;
        let made = tokio::time::timeout(WITHIN, self.make(stripe, plan, wish, &key)).await;
        made.unwrap_or(Err(Error::Unavailable))
    }

    async fn make(&self, stripe: &Stripe, plan: &Plan, wish: &Wish, key: &str) -> Result<String, Error> {
        let told = |error: StripeError| told(&error, plan);
        let price = match &plan.key {
            Key::Price(id) => Some(id.clone()),
            Key::LookupKey(key) => stripe.price_of_lookup_key(key).await.map_err(told)?,
            Key::Product(id) => stripe.default_price(id).await.map_err(told)?,
        };
        let Some(price) = price else {
            tracing::error!(
                plan = plan.name,
                "Stripe has no active price for the plan's lookup key, or no default price for its product"
            );
            return Err(Error::Refused);
        };
        stripe.create_session(&self.form(plan, &price, wish), key).await.map_err(told)
    }

    fn form(&self, plan: &Plan, price: &str, wish: &Wish) -> Vec<(String, String)> {
        let (mode, within) = if plan.recurs() {
            ("subscription", "subscription_data")
        } else {
            ("payment", "payment_intent_data")
        };
        let checkout = &plan.checkout;
        let fixed = [
            ("mode", mode.to_owned()),
            ("line_items[0][price]", price.to_owned()),
            ("line_items[0][quantity]", wish.quantity.to_string()),
            ("success_url", self.settings.success_url.clone()),
            ("cancel_url", self.settings.cancel_url.clone()),
        ];
        let switches = [
            ("automatic_tax[enabled]", checkout.automatic_tax),
            ("allow_promotion_codes", checkout.allow_promotion_codes),
            ("tax_id_collection[enabled]", checkout.tax_id_collection),
        ];
        let switches = switches.into_iter().filter(|(_, on)| *on).map(|(name, _)| (name, "true".to_owned()));
        let texts = [("customer_email", &wish.email), ("locale", &checkout.locale)];
        let texts = texts.into_iter().filter_map(|(name, text)| Some((name, text.clone()?)));
        let named =
            fixed.into_iter().chain(switches).chain(texts).map(|(name, text)| (name.to_owned(), text));
        // On the session for us, and on what comes of it for whoever looks at that in Stripe's dashboard.
        let metadata = terms::to_metadata(&plan.terms).into_iter().flat_map(|(key, value)| {
            let both = [format!("metadata[{key}]"), format!("{within}[metadata][{key}]")];
            both.map(|name| (name, value.clone()))
        });
        named.chain(metadata).collect()
    }
}

fn check(wish: &Wish) -> Result<(), Error> {
    let wrong = |text: String| Err(Error::Wrong(text));
    if !(1..=MOST_UNITS).contains(&u64::try_from(wish.quantity).unwrap_or_default()) {
        return wrong(format!("the quantity must be from 1 to {MOST_UNITS}"));
    }
    if wish.email.as_ref().is_some_and(|email| email.parse::<lettre::Address>().is_err()) {
        return wrong("the email is no mail address; leave it out to let the buyer type it".to_owned());
    }
    let fits = |id: &String| (1..=200).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic());
    if !wish.request_id.as_ref().is_none_or(fits) {
        return wrong("an idempotency key has 1 to 200 printable characters without spaces".to_owned());
    }
    Ok(())
}

/// What a buyer is told of Stripe's answer; the seller finds the rest in the log.
fn told(error: &StripeError, plan: &Plan) -> Error {
    if error.is_key_reused() {
        return Error::KeyReused;
    }
    tracing::warn!(plan = plan.name, %error, "no Checkout session");
    if error.is_transient() { Error::Unavailable } else { Error::Refused }
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings").field("success_url", &self.success_url).finish_non_exhaustive()
    }
}
