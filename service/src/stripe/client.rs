//! Fetches objects from Stripe as they stand now, and makes Checkout sessions (Stripe, API).

mod checkout;
mod error;
mod pace;
mod retry;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use grantsmith_core::purchase::StripeId;
use http::header::{ACCEPT, AUTHORIZATION, HeaderValue};
use serde_json::Value;

use super::Mode;
use super::key::SharedKey;

pub use checkout::Offered;
pub use error::Error;
pub use pace::Pace;

use error::Failure;
use pace::{Operation, Pacer};

/// The one API version that we ask for, so that answers have one shape whatever the account's default is, and however many
/// years pass (Stripe, API versioning). Raised by hand, together with `shape` and its fixtures.
pub const STRIPE_VERSION: &str = "2026-10-28.endive";

/// Where Stripe is.
pub const DEFAULT_URL: &str = "https://api.stripe.com";

/// Most answers are a tenth of this; a hundred line items with their prices make half of it.
const LARGEST_ANSWER: usize = 1024 * 1024;

/// Stripe's largest page (Stripe, pagination).
const PAGE: usize = 100;

/// Ten times what a session can hold (100 line items), so that a list without an end cannot keep us.
const MOST_ENTRIES: usize = 1_000;

/// How to reach Stripe.
#[derive(Clone)]
pub struct Settings {
    /// Without a path: `/v1/…` hangs below it.
    pub base_url: String,
    /// The key in use; a swap takes effect with the next request.
    pub api_key: SharedKey,
    /// The client that all of our outgoing calls share.
    pub http: reqwest::Client,
    /// How many requests a second.
    pub pace: Pace,
    /// How long one request may take. Stripe's libraries wait 80 s, for calls that move money: they must not be cut off. Ours
    /// only read, come back through the worker's queue, and a buyer looks at the success page meanwhile.
    pub timeout: Duration,
    /// The first pause before a request is repeated.
    pub backoff: Duration,
}

impl Settings {
    /// The settings for production.
    pub fn new(base_url: impl Into<String>, api_key: SharedKey, mode: Mode, http: reqwest::Client) -> Self {
        Self {
            base_url: base_url.into(),
            api_key,
            http,
            pace: Pace::of(mode),
            timeout: Duration::from_secs(30),
            backoff: retry::FIRST_PAUSE,
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("base_url", &self.base_url)
            .field("pace", &self.pace)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// A client of Stripe's API. Clones share one rate limit.
#[derive(Clone, Debug)]
pub struct Client {
    settings: Settings,
    pacer: Arc<Pacer>,
}

type Query<'q> = &'q [(&'q str, &'q str)];

impl Client {
    /// A client that has called nobody yet.
    pub fn new(mut settings: Settings) -> Self {
        let trimmed = settings.base_url.trim_end_matches('/').len();
        settings.base_url.truncate(trimmed);
        let pacer = Arc::new(Pacer::new(settings.pace));
        Self { settings, pacer }
    }

    /// Fetches a Checkout session with its payment, its latest charge, and all of its line items.
    ///
    /// However many pages the line items come in, the answer holds all of them: `line_items.has_more` is false.
    pub async fn session(&self, id: &StripeId) -> Result<Value, Error> {
        let path = format!("/v1/checkout/sessions/{id}");
        let expand = [("expand[]", "payment_intent.latest_charge"), ("expand[]", "line_items")];
        let mut session = self.get(Operation::Session, &path, &expand).await?;
        self.complete(
            session.get_mut("line_items"),
            Operation::LineItems,
            &format!("{path}/line_items"),
            &[],
        )
        .await?;
        Ok(session)
    }

    /// Fetches what is left of a list of which an object brought the first page.
    async fn complete(
        &self,
        whole: Option<&mut Value>,
        operation: Operation,
        path: &str,
        of: &[(&str, &str)],
    ) -> Result<(), Error> {
        let Some(whole) = whole else { return Ok(()) };
        let limit = PAGE.to_string();
        while whole["has_more"] == Value::Bool(true) {
            let entries = list(whole)?;
            if entries.len() > MOST_ENTRIES {
                return Err(Error::odd("a list without an end"));
            }
            let id_of = |entry: &Value| {
                entry["id"].as_str().map(str::to_owned).ok_or_else(|| Error::odd("an entry without an id"))
            };
            let last = entries.last().map(id_of).transpose()?;
            let mut query = of.to_vec();
            query.push(("limit", &limit));
            query.extend(last.as_deref().map(|last| ("starting_after", last)));
            let page = self.get(operation, path, &query).await?;
            merge(whole, page)?;
        }
        Ok(())
    }

    /// All lines of an invoice: Stripe shows prorations first, and what pays for the period after them.
    async fn complete_invoice(&self, invoice: &mut Value) -> Result<(), Error> {
        let Some(path) = invoice["id"].as_str().map(|id| format!("/v1/invoices/{id}/lines")) else {
            return Ok(());
        };
        self.complete(invoice.get_mut("lines"), Operation::Invoice, &path, &[]).await
    }

    /// The sessions that a PaymentIntent paid; one, or none where it was made without Checkout.
    pub async fn sessions_of_payment_intent(&self, id: &StripeId) -> Result<Vec<StripeId>, Error> {
        let query = [("payment_intent", id.as_str()), ("limit", "100")];
        let answer = self.get(Operation::Sessions, "/v1/checkout/sessions", &query).await?;
        let id_of = |session: &Value| StripeId::parse(session["id"].as_str()?).ok();
        let sessions = list(&answer)?.iter().map(id_of).collect::<Option<_>>();
        sessions.ok_or_else(|| Error::odd("a session without an id"))
    }

    /// The sessions that a subscription came of; one, or none where it was made without Checkout.
    pub async fn sessions_of_subscription(&self, id: &StripeId) -> Result<Vec<StripeId>, Error> {
        let query = [("subscription", id.as_str()), ("limit", "10")];
        let answer = self.get(Operation::Sessions, "/v1/checkout/sessions", &query).await?;
        let id_of = |session: &Value| StripeId::parse(session["id"].as_str()?).ok();
        let sessions = list(&answer)?.iter().map(id_of).collect::<Option<_>>();
        sessions.ok_or_else(|| Error::odd("a session without an id"))
    }

    /// Fetches a subscription with its newest invoice, its customer, and all of its items and of the invoice's lines.
    pub async fn subscription(&self, id: &StripeId) -> Result<Value, Error> {
        let expand = [("expand[]", "latest_invoice"), ("expand[]", "customer")];
        let mut subscription =
            self.get(Operation::Subscription, &format!("/v1/subscriptions/{id}"), &expand).await?;
        let of = [("subscription", id.as_str())];
        let (operation, path) = (Operation::SubscriptionItems, "/v1/subscription_items");
        self.complete(subscription.get_mut("items"), operation, path, &of).await?;
        if let Some(invoice) = subscription.get_mut("latest_invoice") {
            self.complete_invoice(invoice).await?;
        }
        Ok(subscription)
    }

    /// Fetches an invoice with all of its lines.
    pub async fn invoice(&self, id: &StripeId) -> Result<Value, Error> {
        let mut invoice = self.get(Operation::Invoice, &format!("/v1/invoices/{id}"), &[]).await?;
        self.complete_invoice(&mut invoice).await?;
        Ok(invoice)
    }

    /// The newest paid invoices of a subscription, with all of their lines.
    pub async fn paid_invoices(&self, subscription: &StripeId) -> Result<Vec<Value>, Error> {
        let query = [("subscription", subscription.as_str()), ("status", "paid"), ("limit", "10")];
        let mut answer = self.get(Operation::Invoices, "/v1/invoices", &query).await?;
        list(&answer)?;
        let Value::Array(mut invoices) = answer["data"].take() else {
            return Err(Error::odd("a list without 'data'"));
        };
        for invoice in &mut invoices {
            self.complete_invoice(invoice).await?;
        }
        Ok(invoices)
    }

    /// The PaymentIntent that a charge belongs to, which thin events do not tell; none for charges made without one.
    pub async fn payment_intent_of_charge(&self, id: &StripeId) -> Result<Option<StripeId>, Error> {
        let charge = self.get(Operation::Charge, &format!("/v1/charges/{id}"), &[]).await?;
        match &charge["payment_intent"] {
            Value::Null => Ok(None),
            Value::String(id) => StripeId::parse(id).map(Some).map_err(|_| Error::odd("an odd id")),
            _ => Err(Error::odd("an odd id")),
        }
    }

    /// The first of all objects of a kind: whether the key may read them.
    pub async fn first_of(&self, path: &str) -> Result<(), Error> {
        self.get(Operation::Other, path, &[("limit", "1")]).await.map(|_| ())
    }

    /// The webhook endpoints of the account.
    pub async fn webhook_endpoints(&self) -> Result<Vec<Value>, Error> {
        let answer = self.get(Operation::Other, "/v1/webhook_endpoints", &[("limit", "100")]).await?;
        list(&answer).cloned()
    }

    async fn get(&self, operation: Operation, path: &str, query: Query<'_>) -> Result<Value, Error> {
        let http = &self.settings.http;
        self.ask(operation, || http.get(format!("{}{path}", self.settings.base_url)).query(query)).await
    }

    /// A repeated key changes nothing at Stripe, so this is repeated like a reading.
    async fn post(
        &self,
        operation: Operation,
        path: &str,
        form: &[(String, String)],
        idempotency_key: &str,
    ) -> Result<Value, Error> {
        let (http, url) = (&self.settings.http, format!("{}{path}", self.settings.base_url));
        self.ask(operation, || http.post(&url).form(form).header("idempotency-key", idempotency_key)).await
    }

    /// Repeats what Stripe's libraries repeat, twice at most: the queue behind us repeats too, and with longer pauses.
    async fn ask(
        &self,
        operation: Operation,
        request: impl Fn() -> reqwest::RequestBuilder,
    ) -> Result<Value, Error> {
        let mut attempt = 0;
        loop {
            self.pacer.turn(operation).await;
            match self.ask_once(request()).await {
                Ok(answer) => return Ok(answer),
                Err(failure) if failure.repeat && attempt < retry::REPEATS => {
                    let pause = retry::pause(attempt, self.settings.backoff, rand::random());
                    tracing::debug!(attempt, ?pause, error = %failure.error, "asking Stripe again");
                    tokio::time::sleep(pause).await;
                    attempt += 1;
                }
                Err(failure) => return Err(failure.error),
            }
        }
    }

    async fn ask_once(&self, request: reqwest::RequestBuilder) -> Result<Value, Failure> {
        let response = request
            .header(AUTHORIZATION, self.bearer()?)
            .header(ACCEPT, "application/json")
            .header("stripe-version", STRIPE_VERSION)
            .timeout(self.settings.timeout)
            .send()
            .await
            .map_err(Failure::lost)?;
        let answer = error::Answer::of(&response);
        let body = read(response).await?;
        let json = serde_json::from_slice(&body);
        if !answer.status.is_success() {
            return Err(Failure::refused(answer, json.ok().as_ref()));
        }
        json.map_err(|_| Failure::of(Error::odd("an answer that is not JSON")))
    }

    fn bearer(&self) -> Result<HeaderValue, Error> {
        let key = self.settings.api_key.load();
        let text = zeroize::Zeroizing::new(format!("Bearer {}", key.expose()));
        // The key is printable ASCII since it was read, so this does not fail.
        let mut value = HeaderValue::from_str(&text).map_err(|_| Error::odd("a key that fits no header"))?;
        value.set_sensitive(true);
        Ok(value)
    }
}

/// Reads a body, up to a bound that no honest answer reaches.
async fn read(mut response: reqwest::Response) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(Failure::lost)? {
        if body.len() + chunk.len() > LARGEST_ANSWER {
            return Err(Failure::of(Error::odd("an answer larger than 1 MiB")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn list(object: &Value) -> Result<&Vec<Value>, Error> {
    object["data"].as_array().ok_or_else(|| Error::odd("a list without 'data'"))
}

/// Appends a page to a list. A page that says there is more must bring some, or we would ask for ever.
fn merge(whole: &mut Value, mut page: Value) -> Result<(), Error> {
    let more = page["has_more"] == Value::Bool(true);
    match (whole["data"].as_array_mut(), page["data"].as_array_mut()) {
        (Some(whole), Some(page)) if !(more && page.is_empty()) => whole.append(page),
        _ => return Err(Error::odd("a list that has more and shows none")),
    }
    whole["has_more"] = Value::Bool(more);
    Ok(())
}

#[cfg(test)]
mod tests;
