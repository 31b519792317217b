//! Posts events as Stripe does, and as disorderly.

use jiff::Timestamp;
use rand::seq::SliceRandom;
use rand::{Rng, RngExt};

use crate::stripe::secret::Secret;
use crate::stripe::signature;

/// What the endpoint answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The HTTP status; Stripe is content with 2xx only.
    pub status: u16,
    /// The body, which a seller reads in Stripe's delivery log.
    pub body: String,
}

/// Posts a body to an endpoint, with a signature of its own for this time, as each of Stripe's retries has.
pub async fn deliver(
    http: &reqwest::Client,
    endpoint: &str,
    secret: &Secret,
    body: impl Into<reqwest::Body> + AsRef<[u8]>,
    now: Timestamp,
) -> Result<Delivery, reqwest::Error> {
    let signature = signature::sign(secret, now, body.as_ref());
    let response = http
        .post(endpoint)
        .header("stripe-signature", signature)
        .header("content-type", "application/json; charset=utf-8")
        .header("user-agent", "Stripe/1.0 (+https://stripe.com/docs/webhooks)")
        .body(body)
        .send()
        .await?;
    Ok(Delivery { status: response.status().as_u16(), body: response.text().await? })
}

/// Everything at least once, some of it up to `most` times, in any order: what Stripe promises and no more.
pub fn storm<T: Clone>(events: &[T], most: usize, dice: &mut impl Rng) -> Vec<T> {
    let mut storm = Vec::new();
    for event in events {
        let times = dice.random_range(1..=most.max(1));
        storm.extend(std::iter::repeat_n(event.clone(), times));
    }
    storm.shuffle(dice);
    storm
}
