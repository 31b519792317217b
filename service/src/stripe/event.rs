//! The envelope of an event, in every rendering that Stripe sends (Stripe, events).
//!
//! An event is only a signal that names an object; the object is fetched as it stands now. So of a body of 5 kB only a dozen
//! fields are read, borrowed from it, and everything else is skipped unparsed. What is skipped may have any shape and depth:
//! to be stricter than needed with a genuine event would cost its seller three days of retries.

mod read;
mod signal;

use std::borrow::Cow;

use jiff::Timestamp;
use serde_json::Value;

pub use signal::{PaymentEvent, SessionEvent, Signal, signal_of};

/// The longest event id accepted; Stripe's own column recommendation (Stripe, upgrades).
pub const LONGEST_ID: usize = 255;

/// Why a body is no event. The text tells the seller what to do; it never tells the content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The bytes are no text.
    #[error("body is not UTF-8; Stripe's events are, so look for a proxy that rewrites or compresses bodies")]
    NotUtf8,
    /// The text is no JSON, or one of the fields that count stands there twice.
    #[error(
        "body is not the JSON of an event (line {line}, column {column}); post what Stripe sends, unchanged"
    )]
    NotJson {
        /// Where.
        line: usize,
        /// Where.
        column: usize,
    },
    /// It is JSON, but no event: a list, another of Stripe's objects, or an event of `EventBridge`, which is wrapped.
    #[error("body is not a Stripe event; this address takes events from a webhook endpoint of Stripe only")]
    NotAnEvent,
    /// It has no id, so that it could not be told from its own repetition.
    #[error("event has no 'id'; post what Stripe sends, unchanged")]
    NoId,
    /// Its id has another shape than `evt_…`.
    #[error("event has an 'id' that is not 'evt_' and up to {LONGEST_ID} letters, digits, '_' or '-'")]
    BadId,
    /// It has no type.
    #[error("event has no 'type'; post what Stripe sends, unchanged")]
    NoType,
}

/// How the event was rendered, which is a setting of its destination (Stripe, event destinations).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rendering {
    /// With the object inside, as of when the event happened.
    Snapshot,
    /// With the name of the object only.
    Thin,
}

/// What an event says about itself, borrowed from its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event<'b> {
    /// `evt_…`
    pub id: Cow<'b, str>,
    /// Its type, without the `v1.` of thin events, so that both renderings of a change read the same.
    pub event_type: Cow<'b, str>,
    /// How it was rendered.
    pub rendering: Rendering,
    /// When the change happened, to the second in snapshots. Not an order: distinct events share it.
    pub created: Option<Timestamp>,
    /// Live mode, where it says so; all of Stripe's do.
    pub livemode: Option<bool>,
    /// The API version that shaped the object inside; none in thin and in very old events.
    pub api_version: Option<Cow<'b, str>>,
    /// The connected account it happened in, `acct_…`; none for the seller's own.
    pub account: Option<Cow<'b, str>>,
    /// The id of the object it is about; a few objects have none.
    pub object_id: Option<Cow<'b, str>>,
    /// The kind of that object, such as `checkout.session`.
    pub object_kind: Option<Cow<'b, str>>,
    /// The API request that caused it, `req_…`; none when Stripe acted by itself.
    pub request: Option<Cow<'b, str>>,
    /// Which of the object's fields changed: the keys of `previous_attributes`.
    pub changed: Vec<Cow<'b, str>>,
    /// What the object inside says, as far as it counts before Stripe is answered: fields and the JSON of their values, as it
    /// stands in the body. See [`Event::object`].
    told: Vec<read::Told<'b>>,
}

impl<'b> Event<'b> {
    /// Reads the envelope of a body whose signature was verified (Stripe, events/object, v2 events).
    ///
    /// A field that counts and stands there twice is refused, because two readers would disagree about it; the same in parts
    /// that are skipped goes unnoticed. Optional fields of an unexpected type read as absent.
    pub fn parse(body: &'b [u8]) -> Result<Self, Error> {
        let text = std::str::from_utf8(body).map_err(|_| Error::NotUtf8)?;
        let raw = read::fields(text)
            .map_err(|error| Error::NotJson { line: error.line(), column: error.column() })?
            .ok_or(Error::NotAnEvent)?;
        let rendering = match raw.object.as_deref() {
            // Without the word it is a hand-made event; its id and type must still be those of an event.
            Some("event") | None => Rendering::Snapshot,
            Some("v2.core.event") => Rendering::Thin,
            Some(_) => return Err(Error::NotAnEvent),
        };
        let id = raw.id.ok_or(Error::NoId)?;
        if !is_event_id(&id) {
            return Err(Error::BadId);
        }
        let event_type = raw.event_type.filter(|text| !text.is_empty()).ok_or(Error::NoType)?;
        let (event_type, object_id, object_kind) = match rendering {
            Rendering::Snapshot => (event_type, raw.data.object.name.id, raw.data.object.name.object),
            Rendering::Thin => (strip_v1(event_type), raw.related.id, raw.related.kind),
        };
        Ok(Self {
            id,
            event_type,
            rendering,
            created: raw.created,
            livemode: raw.livemode,
            api_version: raw.api_version,
            account: raw.account.or(raw.context),
            object_id: object_id.filter(|id| is_object_id(id)),
            object_kind,
            request: raw.request,
            changed: raw.data.changed,
            told: raw.data.object.told,
        })
    }

    /// The object inside, without the parts that nobody reads before Stripe is answered: of the two hundred lines of a session
    /// a dozen count, and a tree of all of them would cost more than verifying the signature.
    ///
    /// Fails if a value is nested deeper than anything that Stripe sends.
    pub fn object(&self) -> serde_json::Result<Value> {
        let mut object = serde_json::Map::new();
        object.insert("id".to_owned(), self.object_id.as_deref().into());
        object.insert("object".to_owned(), self.object_kind.as_deref().into());
        for (key, json) in &self.told {
            object.insert((*key).to_owned(), serde_json::from_str(json)?);
        }
        Ok(Value::Object(object))
    }

    /// What the event asks us to look at.
    pub fn signal(&self) -> Signal {
        signal_of(&self.event_type)
    }
}

fn is_event_id(id: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    id.len() <= LONGEST_ID
        && id.strip_prefix("evt_").is_some_and(|rest| !rest.is_empty() && rest.bytes().all(plain))
}

/// Ids of coupons and products may be the seller's own words, so this bounds no more than their size and printing.
fn is_object_id(id: &str) -> bool {
    (1..=LONGEST_ID).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic())
}

fn strip_v1(text: Cow<'_, str>) -> Cow<'_, str> {
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.strip_prefix("v1.").unwrap_or(text)),
        Cow::Owned(text) => Cow::Owned(text.strip_prefix("v1.").map(str::to_owned).unwrap_or(text)),
    }
}

#[cfg(test)]
mod tests;
