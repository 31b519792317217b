//! The true history of some purchases, and the events that tell it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::object::{self, Expand};
use super::purchase::{Kind, PaymentPlan, Purchase};
use crate::stripe::Mode;
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

/// Where a purchase stands in truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Expired,
    Pending,
    Authorized { says_paid: bool },
    Paid,
    Free,
    Failed,
    Canceled { says_paid: bool },
}

/// One purchase of the world.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) session: String,
    pub(super) intent: String,
    pub(super) charge: String,
    pub(super) subscription: String,
    pub(super) invoice: String,
    pub(super) customer: String,
    pub(super) purchase: Purchase,
    pub(super) stage: Stage,
    pub(super) begun_at: Timestamp,
    pub(super) mode: Mode,
}

impl Record {
    /// Whether a PaymentIntent stands behind it: not in subscriptions and set-ups, nor where nothing is due.
    pub(super) fn has_intent(&self) -> bool {
        self.purchase.kind == Kind::Payment && !matches!(self.stage, Stage::Free | Stage::Expired)
    }
}

/// How a purchase that waits for its money goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// The delayed money comes.
    Succeed,
    /// The delayed money will not come.
    Fail,
    /// The authorized money is captured.
    Capture,
    /// The authorization is given up.
    Cancel,
}

/// A purchase that was just made.
#[derive(Debug, Clone)]
pub struct Bought {
    /// Its session.
    pub session: String,
    /// The events that Stripe sends for it, in the order they happened.
    pub events: Vec<Event>,
}

/// What is true of a purchase, to compare with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Truth {
    /// Its session.
    pub session: String,
    /// What the session sold.
    pub kind: Kind,
    /// Money came, or none was due: it entitles to `units` licenses. Never so for a set-up.
    pub entitled: bool,
    /// How many units were bought.
    pub units: u64,
}

/// An event, not yet rendered.
#[derive(Debug, Clone)]
pub struct Event {
    /// Its type, without `v1.`.
    pub event_type: &'static str,
    /// When it happened.
    pub at: Timestamp,
    serial: u64,
    seed: u64,
    livemode: bool,
    object: Value,
    previous: Option<Value>,
}

impl Event {
    /// Its id, which depends on the rendering: a thin destination sends other events than a snapshot one.
    pub fn id(&self, rendering: Rendering) -> String {
        match rendering {
            Rendering::PreBasil | Rendering::Endive => id_of("evt_1", 24, self.seed, self.serial, "event"),
            Rendering::Thin => id_of("evt_65", 40, self.seed, self.serial, "thin"),
        }
    }

    /// The same change under another id, as Stripe sends now and then (Stripe, webhooks).
    #[must_use]
    pub fn twin(&self) -> Self {
        Self { serial: self.serial | 1 << 63, ..self.clone() }
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
                let mut object = self.object.clone();
                let version = if rendering == Rendering::PreBasil {
                    object::age(&mut object);
                    object::OLD_VERSION
                } else {
                    STRIPE_VERSION
                };
                let mut data = json!({"object": object});
                if let Some(previous) = &self.previous {
                    data["previous_attributes"] = previous.clone();
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

/// Purchases as they really happened. The same seed and calls give the same ids.
#[derive(Debug)]
pub struct World {
    mode: Mode,
    seed: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    serial: u64,
    records: Vec<Record>,
}

impl World {
    /// A world without purchases. Worlds of different seeds share no id.
    pub fn new(mode: Mode, seed: u64) -> Self {
        Self { mode, seed, state: Mutex::default() }
    }

    /// Somebody goes through Checkout. A subscription is paid at once, or free as in a trial, whatever else was asked for.
    pub fn buy(&self, purchase: Purchase, at: Timestamp) -> Bought {
        let stage = match (purchase.kind, purchase.payment) {
            (Kind::Setup, _) | (_, PaymentPlan::Free) => Stage::Free,
            (Kind::Subscription, _) | (_, PaymentPlan::Paid) => Stage::Paid,
            (_, PaymentPlan::Delayed) => Stage::Pending,
            (_, PaymentPlan::ManualCapture { says_paid }) => Stage::Authorized { says_paid },
        };
        let types: &[&str] = match (purchase.kind, stage) {
            (Kind::Subscription, _) => {
                &["customer.subscription.created", "invoice.paid", "checkout.session.completed"]
            }
            (_, Stage::Paid) => {
                &["charge.succeeded", "payment_intent.succeeded", "checkout.session.completed"]
            }
            (_, Stage::Pending) => {
                &["charge.pending", "payment_intent.processing", "checkout.session.completed"]
            }
            (_, Stage::Authorized { .. }) => &[
                "charge.succeeded",
                "payment_intent.amount_capturable_updated",
                "checkout.session.completed",
            ],
            _ => &["checkout.session.completed"],
        };
        self.add(purchase, stage, types, at)
    }

    /// Somebody opens a session and never finishes.
    pub fn abandon(&self, purchase: Purchase, at: Timestamp) -> Bought {
        self.add(purchase, Stage::Expired, &["checkout.session.expired"], at)
    }

    fn add(&self, purchase: Purchase, stage: Stage, types: &[&'static str], at: Timestamp) -> Bought {
        let mut world = self.state();
        world.serial += 1;
        let serial = world.serial;
        let id = |prefix: &str, length| id_of(prefix, length, self.seed, serial, "object");
        let session = id(&format!("cs_{}_a1", self.mode), 56);
        let record = Record {
            session: session.clone(),
            intent: id("pi_3", 23),
            charge: id("ch_3", 23),
            subscription: id("sub_1", 23),
            invoice: id("in_1", 23),
            customer: id("cus_", 14),
            purchase,
            stage,
            begun_at: at,
            mode: self.mode,
        };
        let events = self.tell(&mut world, &record, types, at);
        world.records.push(record);
        Bought { session, events }
    }

    /// A purchase goes on; without events where it does not wait for this turn.
    pub fn turn(&self, session: &str, turn: Turn, at: Timestamp) -> Vec<Event> {
        let mut world = self.state();
        let Some(record) = world.records.iter_mut().find(|record| record.session == session) else {
            return Vec::new();
        };
        let (stage, types): (_, &[&str]) = match (record.stage, turn) {
            (Stage::Pending, Turn::Succeed) => (
                Stage::Paid,
                &["charge.succeeded", "payment_intent.succeeded", "checkout.session.async_payment_succeeded"],
            ),
            (Stage::Pending, Turn::Fail) => (
                Stage::Failed,
                &["charge.failed", "payment_intent.payment_failed", "checkout.session.async_payment_failed"],
            ),
            (Stage::Authorized { .. }, Turn::Capture) => {
                (Stage::Paid, &["charge.captured", "payment_intent.succeeded"])
            }
            (Stage::Authorized { says_paid }, Turn::Cancel) => {
                (Stage::Canceled { says_paid }, &["payment_intent.canceled"])
            }
            _ => return Vec::new(),
        };
        record.stage = stage;
        let record = record.clone();
        self.tell(&mut world, &record, types, at)
    }

    fn tell(&self, state: &mut State, record: &Record, types: &[&'static str], at: Timestamp) -> Vec<Event> {
        let mut event = |event_type: &&'static str| {
            state.serial += 1;
            Event {
                event_type,
                at,
                serial: state.serial,
                seed: self.seed,
                livemode: self.mode.livemode(),
                object: object::of_event(record, event_type),
                previous: (*event_type == "charge.captured")
                    .then(|| json!({"amount_captured": 0, "balance_transaction": null, "captured": false})),
            }
        };
        types.iter().map(&mut event).collect()
    }

    /// The seller changes a purchase's data afterwards, as in Stripe's dashboard.
    pub fn edit(&self, session: &str, change: impl FnOnce(Purchase) -> Purchase) {
        if let Some(record) = self.state().records.iter_mut().find(|record| record.session == session) {
            record.purchase = change(record.purchase.clone());
        }
    }

    /// The payment behind a session.
    pub fn payment_intent(&self, session: &str) -> Option<String> {
        self.state()
            .records
            .iter()
            .find(|record| record.session == session)
            .map(|record| record.intent.clone())
    }

    /// What is true now, oldest purchase first.
    pub fn true_history(&self) -> Vec<Truth> {
        let truth = |record: &Record| Truth {
            session: record.session.clone(),
            kind: record.purchase.kind,
            entitled: record.purchase.kind != Kind::Setup
                && matches!(record.stage, Stage::Paid | Stage::Free),
            units: record.purchase.units(),
        };
        self.state().records.iter().map(truth).collect()
    }

    pub(super) fn session(&self, id: &str, expand: Expand) -> Option<Value> {
        let world = self.state();
        world.records.iter().find(|record| record.session == id).map(|record| object::session(record, expand))
    }

    pub(super) fn sessions_of_intent(&self, intent: &str) -> Vec<Value> {
        let world = self.state();
        let theirs = world.records.iter().filter(|record| record.has_intent() && record.intent == intent);
        theirs.map(|record| object::session(record, Expand::default())).collect()
    }

    pub(super) fn charge(&self, id: &str) -> Option<Value> {
        let world = self.state();
        world.records.iter().find(|record| record.has_intent() && record.charge == id).map(object::charge)
    }

    pub(super) fn lines(&self, session: &str) -> Option<Vec<Value>> {
        let world = self.state();
        world.records.iter().find(|record| record.session == session).map(object::lines)
    }

    /// A test that panicked elsewhere must not take the fake with it.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An id that looks like Stripe's and is a function of seed, serial and what it names.
fn id_of(prefix: &str, length: usize, seed: u64, serial: u64, what: &str) -> String {
    let hex = HEXLOWER.encode(&Sha256::digest(format!("{what}/{prefix}/{seed}/{serial}")));
    format!("{prefix}{}", hex.get(..length).unwrap_or(&hex))
}
