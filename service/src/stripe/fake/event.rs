//! What Stripe tells of a change, in each of the shapes that an endpoint may get.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::id::{id_at, id_of};
use super::object;
use crate::stripe::client::STRIPE_VERSION;

/// In which shape events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rendering {
    /// A snapshot of an endpoint that is pinned to a version before the great change of 2025.
    PreBasil,
    /// A snapshot of our pinned version.
    Endive,
    /// The name of the object only.
    Thin,
}

/// An event, not yet rendered.
#[derive(Debug, Clone)]
pub struct Event {
    /// Its type, without `v1.`.
    pub event_type: &'static str,
    /// When it happened.
    pub at: Timestamp,
    pub(super) serial: u64,
    pub(super) seed: u64,
    pub(super) livemode: bool,
    pub(super) object: Value,
    /// The object before the change, where the event tells what it was (`previous_attributes`).
    pub(super) before: Option<Value>,
}

impl Event {
    /// Its id, which depends on the rendering: a thin destination sends other events than a snapshot one.
    pub fn id(&self, rendering: Rendering) -> String {
        match rendering {
            Rendering::PreBasil | Rendering::Endive => {
                id_at("evt_1", self.at, self.seed, self.serial, "event")
            }
            Rendering::Thin => id_of("evt_65", 40, self.seed, self.serial, "thin"),
        }
    }

    /// The same change under another id, as Stripe sends now and then (Stripe, webhooks).
    #[must_use]
    pub fn twin(&self) -> Self {
        self.again(1)
    }

    /// The same change under a further id for each number from 1 on.
    #[must_use]
    pub fn again(&self, number: u64) -> Self {
        Self { serial: self.serial | number << 48, ..self.clone() }
    }

    /// The id of the object it is about.
    pub fn object_id(&self) -> &str {
        self.object["id"].as_str().unwrap_or_default()
    }

    /// The bytes that Stripe would post.
    pub fn body(&self, rendering: Rendering) -> Vec<u8> {
        let id = self.id(rendering);
        let kind = self.object["object"].as_str().unwrap_or_default();
        let envelope = match rendering {
            Rendering::Thin => json!({
                "id": id, "object": "v2.core.event", "context": null, "created": format!("{:.3}", self.at),
                "livemode": self.livemode, "reason": null, "type": format!("v1.{}", self.event_type),
                "related_object": {"id": self.object_id(), "type": kind, "url": object::url(kind, self.object_id())},
            }),
            Rendering::PreBasil | Rendering::Endive => {
                let (mut object, mut before) = (self.object.clone(), self.before.clone());
                let version = if rendering == Rendering::PreBasil {
                    object::age(&mut object);
                    before.as_mut().into_iter().for_each(object::age);
                    object::OLD_VERSION
                } else {
                    STRIPE_VERSION
                };
                let previous = before.and_then(|before| old_values(&before, &object));
                let mut data = json!({"object": object});
                if let Some(previous) = previous {
                    data["previous_attributes"] = previous;
                }
                json!({
                    "id": id, "object": "event", "api_version": version, "created": self.at.as_second(), "data": data,
                    "livemode": self.livemode, "pending_webhooks": 1,
                    "request": {"id": null, "idempotency_key": null}, "type": self.event_type,
                })
            }
        };
        serde_json::to_vec_pretty(&envelope).unwrap_or_default()
    }
}

/// What changed, as it was before: objects by their changed fields, lists whole (Stripe, events/object).
fn old_values(before: &Value, after: &Value) -> Option<Value> {
    let (Value::Object(old), Value::Object(new)) = (before, after) else {
        return (before != after).then(|| before.clone());
    };
    let mut changed: Map<_, _> = old
        .iter()
        .filter_map(|(key, value)| Some((key.clone(), old_values(value, new.get(key)?)?)))
        .collect();
    changed.extend(new.keys().filter(|key| !old.contains_key(*key)).map(|key| (key.clone(), Value::Null)));
    (!changed.is_empty()).then_some(Value::Object(changed))
}
