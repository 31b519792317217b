//! What selling needs of Stripe: a Checkout session, and the price behind a name for it.

use serde_json::Value;

use super::pace::Operation;
use super::{Client, Error, list};

/// What a price is for sale as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offered {
    /// It can be bought.
    pub active: bool,
    /// It is paid again and again.
    pub recurring: bool,
}

impl Client {
    /// Makes a Checkout session of these parameters; gives the address of its page. With the same idempotency key and
    /// parameters it is the same session.
    pub async fn create_session(
        &self,
        parameters: &[(String, String)],
        idempotency_key: &str,
    ) -> Result<String, Error> {
        let session =
            self.post(Operation::CreateSession, "/v1/checkout/sessions", parameters, idempotency_key).await?;
        let url = session["url"].as_str().map(str::to_owned);
        url.ok_or_else(|| Error::odd("a Checkout session without an address"))
    }

    /// What a price is for sale as (`price.active`, `price.type`).
    pub async fn price(&self, id: &str) -> Result<Offered, Error> {
        let price = self.get(Operation::Other, &format!("/v1/prices/{id}"), &[]).await?;
        Ok(Offered { active: price["active"] == true, recurring: price["type"] == "recurring" })
    }

    /// The active price that has a lookup key now.
    pub async fn price_of_lookup_key(&self, key: &str) -> Result<Option<String>, Error> {
        let query = [("lookup_keys[]", key), ("active", "true"), ("limit", "1")];
        let prices = self.get(Operation::Other, "/v1/prices", &query).await?;
        list(&prices)?.first().map(id_of).transpose()
    }

    /// The default price of a product.
    pub async fn default_price(&self, product: &str) -> Result<Option<String>, Error> {
        let product = self.get(Operation::Other, &format!("/v1/products/{product}"), &[]).await?;
        match &product["default_price"] {
            Value::Null => Ok(None),
            Value::String(id) => Ok(Some(id.clone())),
            price => id_of(price).map(Some),
        }
    }
}

fn id_of(price: &Value) -> Result<String, Error> {
    price["id"].as_str().map(str::to_owned).ok_or_else(|| Error::odd("a price without an id"))
}
