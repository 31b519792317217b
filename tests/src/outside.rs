//! Stripe and the buyers, who go on while programs come and go.

use grantsmith_authforge::SystemClock;
use grantsmith_core::port::Clock as _;
use grantsmith_service::stripe::fake::{self, Delivery};
use grantsmith_service::stripe::secret::Secret;
use serde_json::Value;

use crate::until;

/// What reaches an installation from outside, whether or not it runs.
#[derive(Debug, Clone)]
pub struct Outside {
    client: reqwest::Client,
    base: String,
    secret: Secret,
}

impl Outside {
    /// With this client, to the pages' address, with the webhook's secret.
    pub fn new(client: reqwest::Client, base: String, secret: Secret) -> Self {
        Self { client, base, secret }
    }

    /// Posts a body as Stripe would, once.
    pub async fn post(&self, body: Vec<u8>) -> Result<Delivery, reqwest::Error> {
        let url = format!("{}/webhooks/stripe", self.base);
        fake::deliver(&self.client, &url, &self.secret, body, SystemClock.now().wall).await
    }

    /// Posts a body until it is answered 2xx, as Stripe does for three days.
    pub async fn deliver(&self, body: Vec<u8>) -> Delivery {
        until("a 2xx at the webhook", async || {
            self.post(body.clone()).await.ok().filter(|d| d.status / 100 == 2)
        })
        .await
    }

    /// What the success page tells a program; status 0 while nobody answers.
    pub async fn page(&self, session: &str) -> (u16, Value) {
        let url = format!("{}/success?session_id={session}", self.base);
        // Each buyer has an address of their own, as far as the limit for one client goes.
        let [a, b, c] = session.as_bytes().last_chunk().copied().unwrap_or([0, 0, 1]);
        let visit = self.client.get(url).header("x-forwarded-for", format!("10.{a}.{b}.{c}"));
        match visit.header("accept", "application/json").send().await {
            Ok(answer) => (answer.status().as_u16(), answer.json().await.unwrap_or_default()),
            Err(_) => (0, Value::Null),
        }
    }
}
