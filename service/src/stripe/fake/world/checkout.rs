//! The part of the world where the seller's own programs offer sessions, and buyers go through them.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Bought, Stage, World};
use crate::stripe::fake::object;
use crate::stripe::fake::purchase::{Line, Purchase};

/// A price that sessions can be made for.
#[derive(Debug, Clone)]
pub(in super::super) struct Stocked {
    pub(in super::super) line: Line,
    pub(in super::super) recurring: bool,
    pub(in super::super) active: bool,
}

impl World {
    /// The seller makes a price, the default one of its product from now on; recurring, or to be paid once.
    pub fn stock(&self, line: Line, recurring: bool) {
        self.state().stock.push(Stocked { line, recurring, active: true });
    }

    /// The seller archives a price: it is not for sale any more.
    pub fn archive(&self, price: &str) {
        for stocked in self.state().stock.iter_mut().filter(|stocked| stocked.line.price == price) {
            stocked.active = false;
        }
    }

    /// Somebody goes through a session that was offered. None where there is none, or not any more.
    pub fn pay(&self, session: &str, at: Timestamp) -> Option<Bought> {
        let mut world = self.state();
        let open = |record: &&mut super::Record| record.session == session && record.stage == Stage::Open;
        let mut record = world.records.iter_mut().find(open)?.clone();
        // Whoever was not asked for an address before is asked by Checkout.
        record.purchase.email.get_or_insert_with(|| "buyer@example.com".to_owned());
        let (stage, types) = Self::outcome(&record.purchase);
        let bought = self.finish(&mut world, &mut record, stage, types, at);
        if let Some(known) = world.records.iter_mut().find(|known| known.session == session) {
            *known = record;
        }
        Some(bought)
    }

    /// A program of the seller's makes a session.
    pub(in super::super) fn offer(&self, purchase: Purchase, at: Timestamp) -> Value {
        let mut world = self.state();
        let record = self.begin(&mut world, purchase, at);
        let session = object::session(&record, object::Expand::default());
        world.records.push(record);
        session
    }

    pub(in super::super) fn stocked(&self, price: &str) -> Option<Stocked> {
        self.state().stock.iter().rev().find(|stocked| stocked.line.price == price).cloned()
    }

    pub(in super::super) fn price(&self, id: &str) -> Option<Value> {
        self.stocked(id).map(|stocked| self.price_of(&stocked))
    }

    /// The active prices that have a lookup key, which is one at most: the newest.
    pub(in super::super) fn prices(&self, lookup_key: Option<&str>) -> Vec<Value> {
        let world = self.state();
        let wanted = |stocked: &&Stocked| stocked.active && stocked.line.lookup_key.as_deref() == lookup_key;
        world.stock.iter().rev().find(wanted).map(|stocked| self.price_of(stocked)).into_iter().collect()
    }

    fn price_of(&self, stocked: &Stocked) -> Value {
        let mut price = object::price(&stocked.line, stocked.recurring, self.mode.livemode());
        price["active"] = json!(stocked.active);
        price
    }

    pub(in super::super) fn product(&self, id: &str) -> Option<Value> {
        let world = self.state();
        let stocked = world.stock.iter().rev().find(|stocked| object::product(&stocked.line) == id)?;
        Some(json!({
            "id": id, "object": "product", "active": true, "created": 1_700_000_000,
            "default_price": stocked.line.price, "description": null, "images": [],
            "livemode": self.mode.livemode(), "marketing_features": [], "metadata": {}, "name": "License",
            "package_dimensions": null, "shippable": null, "statement_descriptor": null, "tax_code": null,
            "unit_label": null, "updated": 1_700_000_000, "url": null
        }))
    }
}
