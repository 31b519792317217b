//! An event without the parts that nobody reads.
//!
//! Of the two hundred lines of a session a dozen count. Before the answer to Stripe, a tree of all of them would cost more
//! than verifying the signature.

use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// What is read of an event, of its `data`, and of the session in there.
const EVENT: [&[&str]; 3] = [
    &["type", "created", "livemode", "data"],
    &["object"],
    &[
        "id",
        "object",
        "mode",
        "status",
        "payment_status",
        "created",
        "livemode",
        "metadata",
        "customer",
        "customer_details",
        "customer_email",
        "payment_intent",
        "subscription",
        "line_items",
    ],
];

/// Reads the parts of a session's event that count for [`super::session_of_event`].
pub(super) fn event(body: &[u8]) -> serde_json::Result<Value> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let value = Trim(&EVENT).deserialize(&mut json)?;
    json.end()?;
    Ok(value)
}

/// For each level, which keys are kept; below the last level everything is.
struct Trim(&'static [&'static [&'static str]]);

impl<'b> DeserializeSeed<'b> for Trim {
    type Value = Value;

    fn deserialize<D: Deserializer<'b>>(self, from: D) -> Result<Value, D::Error> {
        if self.0.is_empty() { Value::deserialize(from) } else { from.deserialize_any(self) }
    }
}

impl<'b> Visitor<'b> for Trim {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    /// A list where an object belongs: empty is as wrong as whole.
    fn visit_seq<A: SeqAccess<'b>>(self, mut list: A) -> Result<Value, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Array(Vec::new()))
    }

    fn visit_map<A: MapAccess<'b>>(self, mut map: A) -> Result<Value, A::Error> {
        let Some((kept, below)) = self.0.split_first() else { return Ok(Value::Null) };
        let mut object = Map::new();
        while let Some(key) = map.next_key_seed(Kept(kept))? {
            match key {
                Some(key) => drop(object.insert(key.to_owned(), map.next_value_seed(Trim(below))?)),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(Value::Object(object))
    }
}

/// A key, if it is one of those that are kept.
struct Kept(&'static [&'static str]);

impl<'b> DeserializeSeed<'b> for Kept {
    type Value = Option<&'static str>;

    fn deserialize<D: Deserializer<'b>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_str(self)
    }
}

impl Visitor<'_> for Kept {
    type Value = Option<&'static str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().copied().find(|kept| *kept == key))
    }
}

#[cfg(test)]
mod tests {
    use crate::stripe::fake::{Purchase, Rendering, World};
    use crate::stripe::{Mode, shape};

    #[test]
    fn what_is_left_reads_as_the_whole_does() {
        let world = World::new(Mode::Test, 7);
        let purchase = Purchase::of("price_pro").metadata("authforge_app_id", "app").metadata("type", "data");
        let at = "2026-01-02T03:04:05Z".parse().expect("a time");
        for event in world.buy(purchase, at).events {
            for rendering in [Rendering::PreBasil, Rendering::Endive] {
                let body = event.body(rendering);
                let whole = serde_json::from_slice(&body).expect("JSON");
                let told = shape::session_of_event(&whole);
                let trimmed = shape::session_of_body(&body);
                assert_eq!(trimmed, told.ok(), "{}", event.event_type);
            }
        }
    }

    #[test]
    fn nonsense_stays_nonsense() {
        for body in ["", "[]", "7", "{\"data\":[{}]}", "{\"data\":{\"object\":\"x\"}}", "{} {}"] {
            assert!(shape::session_of_body(body.as_bytes()).is_none(), "{body}");
        }
    }
}
