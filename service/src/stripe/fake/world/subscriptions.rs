//! The part of the world that is billed.

use jiff::Timestamp;
use serde_json::Value;

use super::World;
use crate::stripe::fake::event::Event;
use crate::stripe::fake::object::billing::Expand;
use crate::stripe::fake::purchase::{Kind, Purchase};
use crate::stripe::fake::subscription::{Start, Subscribed, SubscriptionTruth, SubscriptionTurn};

impl World {
    /// The seller subscribes a customer without Checkout. The purchase's address is the customer's; `trial_days` is for
    /// Checkout, and `start` counts here.
    pub fn subscribe(&self, purchase: Purchase, start: Start, at: Timestamp) -> Subscribed {
        let purchase = purchase.kind(Kind::Subscription);
        let mut world = self.state();
        world.serial += 1;
        let ids = self.ids(world.serial, at);
        let (subscription, customer) = (ids.subscription.clone(), ids.customer.clone());
        world.books.open(ids.clone(), None, &purchase, start, at.as_second());
        let changes = world.books.first_changes(&ids, start);
        let events = self.tell(&mut world, changes, at);
        Subscribed { subscription, customer, events }
    }

    /// A subscription goes on; without events where this turn cannot happen.
    pub fn turn_subscription(&self, id: &str, turn: SubscriptionTurn, at: Timestamp) -> Vec<Event> {
        let mut world = self.state();
        world.serial += 1;
        let invoice = self.ids(world.serial, at).invoice;
        let changes = world.books.turn(id, turn, at.as_second(), invoice);
        self.tell(&mut world, changes, at)
    }

    /// The customer gets another address, or none.
    pub fn edit_customer(&self, id: &str, email: Option<&str>, at: Timestamp) -> Vec<Event> {
        let mut world = self.state();
        let email = email.map(str::to_owned);
        let changes = world.books.change_customer(id, "customer.updated", |customer| customer.email = email);
        self.tell(&mut world, changes, at)
    }

    /// The customer is deleted. Stripe cancels subscriptions with their customer: that is [`SubscriptionTurn::Cancel`], on its
    /// own so that a test can look in between.
    pub fn delete_customer(&self, id: &str, at: Timestamp) -> Vec<Event> {
        let mut world = self.state();
        let changes = world.books.change_customer(id, "customer.deleted", |customer| customer.deleted = true);
        self.tell(&mut world, changes, at)
    }

    /// What is true now of all subscriptions, however they were bought, oldest first.
    pub fn true_subscriptions(&self) -> Vec<SubscriptionTruth> {
        self.state().books.truths()
    }

    pub(in super::super) fn subscription(&self, id: &str, expand: Expand) -> Option<Value> {
        self.state().books.show_subscription(id, expand)
    }

    pub(in super::super) fn subscription_items(&self, subscription: &str) -> Vec<Value> {
        self.state().books.show_items(subscription)
    }

    pub(in super::super) fn invoice(&self, id: &str) -> Option<Value> {
        self.state().books.show_invoice(id)
    }

    pub(in super::super) fn invoice_lines(&self, id: &str) -> Option<Vec<Value>> {
        self.state().books.show_invoice_lines(id)
    }

    pub(in super::super) fn invoices(&self, subscription: Option<&str>, status: Option<&str>) -> Vec<Value> {
        self.state().books.show_invoices(subscription, status)
    }

    pub(in super::super) fn customer(&self, id: &str) -> Option<Value> {
        self.state().books.show_customer(id)
    }
}
