//! Stripe's objects, in every shape they come in, as the domain's snapshots (Stripe, API changelog).
//!
//! An object that we fetch has the one shape of our pinned version; one inside an event has the shape of the endpoint's
//! version, which may be ten years old. So every field that Stripe has moved is looked for in both places, every id may come
//! expanded, and every word that Stripe has not told us about yet reads as `Other`, which entitles to nothing.

mod cut;
mod links;
mod node;
mod subscription;

use std::collections::BTreeMap;

use grantsmith_core::purchase::{
    Email, LineItem, Payment, PaymentIntentStatus, PaymentStatus, Price, SessionMode, SessionSnapshot,
    SessionStatus, Transform,
};
use jiff::Timestamp;
use serde_json::Value;

pub(crate) use cut::cut;
pub use links::{LinkKind, links};
pub use subscription::{invoice, subscription, subscription_of_invoice, subscription_status};

use super::event::{Event, SessionEvent, Signal};
use node::Node;

/// Why an object cannot be read. It names the place and never the content, which is personal data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A field that every such object has is absent.
    #[error("object from Stripe has no '{path}'")]
    Missing {
        /// Where.
        path: String,
    },
    /// A field has another type than Stripe documents.
    #[error("'{path}' of the object from Stripe is not {expected}")]
    WrongType {
        /// Where.
        path: String,
        /// What belongs there.
        expected: &'static str,
    },
    /// A value is nested deeper than anything that Stripe sends.
    #[error("object from Stripe is nested too deep")]
    TooDeep,
    /// It is another kind of object.
    #[error("object from Stripe is not a '{expected}'")]
    OtherObject {
        /// The kind wanted.
        expected: &'static str,
    },
}

/// What the object inside an event lacks and its envelope has.
#[derive(Debug, Clone, Copy, Default)]
struct Fallback {
    created: Option<Timestamp>,
    livemode: Option<bool>,
}

/// Reads a Checkout session as the API answers it (Stripe, checkout/sessions/object).
pub fn session(object: &Value) -> Result<SessionSnapshot, Error> {
    read_session(&Node::root(object)?, Fallback::default())
}

/// Reads the Checkout session inside a snapshot event of type `checkout.session.*` (Stripe, events/object).
///
/// Only an event tells that a delayed payment failed, so its type is read too. The envelope stands in for a `created` or
/// `livemode` that old or hand-made objects lack.
pub fn session_of_event(event: &Event<'_>) -> Result<SessionSnapshot, Error> {
    let fallback = Fallback { created: event.created, livemode: event.livemode };
    let object = event.object().map_err(|_| Error::TooDeep)?;
    let mut session = read_session(&Node::root(&object)?, fallback)?;
    session.async_payment_failed = event.signal() == Signal::Session(SessionEvent::AsyncPaymentFailed);
    Ok(session)
}

fn read_session(node: &Node<'_>, fallback: Fallback) -> Result<SessionSnapshot, Error> {
    node.expect_object("checkout.session")?;
    let payment_status = match node.text("payment_status")? {
        Some("paid") => PaymentStatus::Paid,
        Some("unpaid") => PaymentStatus::Unpaid,
        Some("no_payment_required") => PaymentStatus::NoPaymentRequired,
        _ => PaymentStatus::Other,
    };
    Ok(SessionSnapshot {
        id: node.own_id()?,
        mode: match node.text("mode")? {
            Some("payment") => SessionMode::Payment,
            Some("subscription") => SessionMode::Subscription,
            Some("setup") => SessionMode::Setup,
            _ => SessionMode::Other,
        },
        subscription: node.get("subscription")?.map(|subscription| subscription.id()).transpose()?,
        status: match (node.text("status")?, payment_status) {
            // Events stored before Stripe knew the field; money that came is proof enough.
            (Some("complete"), _) | (None, PaymentStatus::Paid) => SessionStatus::Complete,
            (Some("open"), _) => SessionStatus::Open,
            (Some("expired"), _) => SessionStatus::Expired,
            _ => SessionStatus::Other,
        },
        payment_status,
        created: node.seconds("created")?.or(fallback.created).ok_or_else(|| node.missing("created"))?,
        livemode: node.bool("livemode")?.or(fallback.livemode).ok_or_else(|| node.missing("livemode"))?,
        metadata: metadata(node)?,
        email: email(node)?,
        payment: node.get("payment_intent")?.map_or(Ok(Payment::None), |intent| read_payment(&intent))?,
        line_items: line_items(node)?,
        async_payment_failed: false,
    })
}

/// Stripe's values are texts. Numbers and words of JSON, which hand-made events have, read as their text; anything else is
/// passed over, since one odd key of somebody else's is no reason to hold up a purchase.
fn metadata(node: &Node<'_>) -> Result<BTreeMap<String, String>, Error> {
    let Some(map) = node.get("metadata")? else { return Ok(BTreeMap::new()) };
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(word) => Some(word.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    };
    Ok(map.fields()?.iter().filter_map(|(key, value)| Some((key.clone(), text(value)?))).collect())
}

/// A guest has no customer, a known customer may have typed another address into this session, and the typed one is meant.
fn email(node: &Node<'_>) -> Result<Option<Email>, Error> {
    let typed = match node.get("customer_details")? {
        Some(details) => details.text("email")?,
        None => None,
    };
    let prefilled = node.text("customer_email")?;
    let on_record = match node.get("customer")? {
        Some(customer) if customer.is_expanded() => customer.text("email")?,
        _ => None,
    };
    Ok([typed, prefilled, on_record].into_iter().flatten().find_map(Email::new))
}

/// Reads a PaymentIntent, or the bare id of one (Stripe, payment intents/object).
pub fn payment(object: &Value) -> Result<Payment, Error> {
    read_payment(&Node::new(object))
}

fn read_payment(node: &Node<'_>) -> Result<Payment, Error> {
    let id = node.id()?;
    if !node.is_expanded() {
        return Ok(Payment::Untold(id));
    }
    node.expect_object("payment_intent")?;
    let status = match node.text("status")? {
        Some("succeeded") => PaymentIntentStatus::Succeeded,
        Some("requires_capture") => PaymentIntentStatus::RequiresCapture,
        Some("processing") => PaymentIntentStatus::Processing,
        Some("requires_payment_method") => PaymentIntentStatus::RequiresPaymentMethod,
        Some("canceled") => PaymentIntentStatus::Canceled,
        _ => PaymentIntentStatus::Other,
    };
    Ok(Payment::Told { id, status, paid_at: paid_at(node)? })
}

/// The `created` of the charge that went through; older versions list all charges inside, newest first.
fn paid_at(intent: &Node<'_>) -> Result<Option<Timestamp>, Error> {
    let paid = |charge: &Node<'_>| -> Result<Option<Timestamp>, Error> {
        let went_through = charge.text("status")? == Some("succeeded") || charge.bool("paid")? == Some(true);
        if went_through { charge.seconds("created") } else { Ok(None) }
    };
    match intent.get("latest_charge")? {
        Some(charge) if charge.is_expanded() => return paid(&charge),
        _ => {}
    }
    let Some(charges) = intent.get("charges")? else { return Ok(None) };
    for charge in charges.list("data")?.unwrap_or_default() {
        if let Some(time) = paid(&charge)? {
            return Ok(Some(time));
        }
    }
    Ok(None)
}

/// `None` too where the list has more than is shown: a part of it would sell too little.
fn line_items(node: &Node<'_>) -> Result<Option<Vec<LineItem>>, Error> {
    let Some(list) = node.get("line_items")? else { return Ok(None) };
    if list.bool("has_more")? == Some(true) {
        return Ok(None);
    }
    let Some(lines) = list.list("data")? else { return Ok(None) };
    lines.iter().map(read_line_item).collect::<Result<_, _>>().map(Some)
}

/// Reads one line item of a session (Stripe, checkout/sessions/line items).
pub fn line_item(object: &Value) -> Result<LineItem, Error> {
    read_line_item(&Node::root(object)?)
}

fn read_line_item(node: &Node<'_>) -> Result<LineItem, Error> {
    let price = node.get("price")?;
    let transform = match &price {
        Some(price) if price.is_expanded() => {
            price.get("transform_quantity")?.map(|t| transform(&t)).transpose()?
        }
        _ => None,
    };
    Ok(LineItem {
        price: price.as_ref().map(read_price).transpose()?,
        // Usage-based prices have none: one thing was bought, and its use is counted elsewhere.
        quantity: node.count("quantity")?.unwrap_or(1),
        transform,
    })
}

/// A price, or the bare id of one.
fn read_price(node: &Node<'_>) -> Result<Price, Error> {
    let id = node.id_text()?.to_owned();
    if !node.is_expanded() {
        return Ok(Price { id, lookup_key: None, product: None, recurring: false });
    }
    Ok(Price {
        id,
        lookup_key: node.text("lookup_key")?.map(str::to_owned),
        product: node.get("product")?.map(|product| product.id_text().map(str::to_owned)).transpose()?,
        recurring: node.text("type")? == Some("recurring") || node.get("recurring")?.is_some(),
    })
}

fn transform(node: &Node<'_>) -> Result<Transform, Error> {
    Ok(Transform {
        divide_by: node.count("divide_by")?.ok_or_else(|| node.missing("divide_by"))?,
        round_up: node.text("round")? == Some("up"),
    })
}

#[cfg(test)]
mod tests;
