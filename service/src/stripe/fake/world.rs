//! The true history of some purchases, and the events that tell it.

use std::sync::{Mutex, MutexGuard, PoisonError};

mod checkout;
mod subscriptions;

use jiff::Timestamp;
use serde_json::Value;

use super::billing::{Books, Change, Ids};
use super::event::Event;
use super::id::{id_at, id_of};
use super::object::{self, Expand, billing};
use super::purchase::{Kind, PaymentPlan, Purchase};
use super::subscription::Start;
use crate::stripe::Mode;

/// Where a purchase stands in truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Open,
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
        self.purchase.kind == Kind::Payment
            && !matches!(self.stage, Stage::Free | Stage::Open | Stage::Expired)
    }

    pub(super) fn has_subscription(&self) -> bool {
        self.purchase.kind == Kind::Subscription && !matches!(self.stage, Stage::Open | Stage::Expired)
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
    /// Its subscription, if it sold one.
    pub subscription: Option<String>,
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

/// Purchases as they really happened. The same seed and calls give the same ids.
#[derive(Debug)]
pub struct World {
    mode: Mode,
    seed: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    serial: u64,
    records: Vec<Record>,
    stock: Vec<Stocked>,
    books: Books,
}

pub(super) use checkout::Stocked;

impl World {
    /// A world without purchases. Worlds of different seeds share no id.
    pub fn new(mode: Mode, seed: u64) -> Self {
        let state =
            State { serial: 0, records: Vec::new(), stock: Vec::new(), books: Books::new(mode.livemode()) };
        Self { mode, seed, state: Mutex::new(state) }
    }

    /// Somebody goes through Checkout. A subscription is paid at once, or free as in a trial, whatever else was asked for. What
    /// follows is for [`Self::turn_subscription`].
    pub fn buy(&self, purchase: Purchase, at: Timestamp) -> Bought {
        let (stage, types) = Self::outcome(&purchase);
        self.add(purchase, stage, types, at)
    }

    /// Where a buyer's going through Checkout leads, and what is told of it.
    fn outcome(purchase: &Purchase) -> (Stage, &'static [&'static str]) {
        let stage = match (purchase.kind, purchase.payment) {
            (Kind::Setup, _) | (_, PaymentPlan::Free) => Stage::Free,
            (Kind::Subscription, _) if purchase.is_free() => Stage::Free,
            (Kind::Subscription, _) | (_, PaymentPlan::Paid) => Stage::Paid,
            (_, PaymentPlan::Delayed) => Stage::Pending,
            (_, PaymentPlan::ManualCapture { says_paid }) => Stage::Authorized { says_paid },
        };
        let types: &[&'static str] = match (purchase.kind, stage) {
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
        (stage, types)
    }

    /// Somebody opens a session and never finishes.
    pub fn abandon(&self, purchase: Purchase, at: Timestamp) -> Bought {
        self.add(purchase, Stage::Expired, &["checkout.session.expired"], at)
    }

    fn add(&self, purchase: Purchase, stage: Stage, types: &[&'static str], at: Timestamp) -> Bought {
        let mut world = self.state();
        let mut record = self.begin(&mut world, purchase, at);
        let bought = self.finish(&mut world, &mut record, stage, types, at);
        world.records.push(record);
        bought
    }

    /// A session that nobody has gone through yet.
    fn begin(&self, world: &mut State, purchase: Purchase, at: Timestamp) -> Record {
        world.serial += 1;
        let serial = world.serial;
        let Ids { subscription, invoice, customer } = self.ids(serial, at);
        let id = |prefix: &str| id_at(prefix, at, self.seed, serial, "object");
        Record {
            session: id_of(&format!("cs_{}_a1", self.mode), 56, self.seed, serial, "object"),
            intent: id("pi_3"),
            charge: id("ch_3"),
            subscription,
            invoice,
            customer,
            purchase,
            stage: Stage::Open,
            begun_at: at,
            mode: self.mode,
        }
    }

    /// Its buyer goes through it, or leaves it.
    fn finish(
        &self,
        world: &mut State,
        record: &mut Record,
        stage: Stage,
        types: &[&'static str],
        at: Timestamp,
    ) -> Bought {
        record.stage = stage;
        if record.has_subscription() {
            let start = record.purchase.trial_days.map_or(Start::Active, |days| Start::Trialing { days });
            let ids = Ids {
                subscription: record.subscription.clone(),
                invoice: record.invoice.clone(),
                customer: record.customer.clone(),
            };
            world.books.open(ids, Some(&record.session), &record.purchase, start, at.as_second());
        }
        let changes = types.iter().map(|event_type| world.change(record, event_type, None)).collect();
        let events = self.tell(world, changes, at);
        let subscription = record.has_subscription().then(|| record.subscription.clone());
        Bought { session: record.session.clone(), subscription, events }
    }

    /// The ids of what begins with this serial number.
    fn ids(&self, serial: u64, at: Timestamp) -> Ids {
        let id = |prefix| id_at(prefix, at, self.seed, serial, "object");
        let customer = id_of("cus_", 14, self.seed, serial, "object");
        Ids { subscription: id("sub_1"), invoice: id("in_1"), customer }
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
        let before = record.clone();
        record.stage = stage;
        let record = record.clone();
        let changes =
            types.iter().map(|event_type| world.change(&record, event_type, Some(&before))).collect();
        self.tell(&mut world, changes, at)
    }

    fn tell(&self, state: &mut State, changes: Vec<Change>, at: Timestamp) -> Vec<Event> {
        let event = |change: Change| {
            state.serial += 1;
            Event {
                event_type: change.event_type,
                at,
                serial: state.serial,
                seed: self.seed,
                livemode: self.mode.livemode(),
                object: change.object,
                before: change.before,
            }
        };
        changes.into_iter().map(event).collect()
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

    /// What is true now of what Checkout sold, oldest purchase first; of a subscription, how it began.
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

    /// The sessions behind a payment, or a subscription, or all of them; newest first.
    pub(super) fn sessions(&self, intent: Option<&str>, subscription: Option<&str>) -> Vec<Value> {
        let world = self.state();
        let wanted = |record: &&Record| {
            intent.is_none_or(|id| record.has_intent() && record.intent == id)
                && subscription.is_none_or(|id| record.has_subscription() && record.subscription == id)
        };
        let theirs = world.records.iter().rev().filter(wanted);
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

impl State {
    /// What an event of this type tells of a purchase; a capture tells what the charge was before, too.
    fn change(&self, record: &Record, event_type: &'static str, before: Option<&Record>) -> Change {
        let object = match event_type.split('.').next() {
            Some("payment_intent") => object::intent(record, Expand::default()),
            Some("charge") => object::charge(record),
            Some("customer") => self
                .books
                .show_subscription(&record.subscription, billing::Expand::default())
                .unwrap_or_default(),
            Some("invoice") => self.books.show_invoice(&record.invoice).unwrap_or_default(),
            _ => object::session(record, Expand::default()),
        };
        let before = before.filter(|_| event_type == "charge.captured").map(object::charge);
        Change { event_type, object, before }
    }
}
