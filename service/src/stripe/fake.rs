//! A Stripe of our own, for the demonstration and for tests: purchases with a true history, over real HTTP.
//!
//! A [`World`] holds what really happened. It yields the events that Stripe would send, and a [`Server`] answers for its
//! objects as they stand now, with faults by script. What a test then compares with is [`World::true_history`] and
//! [`World::true_subscriptions`].

mod billing;
mod event;
mod id;
mod object;
mod purchase;
mod send;
mod server;
mod subscription;
mod till;
mod world;

pub use event::{Event, Rendering};
pub use id::stamp;

pub use purchase::{Kind, Line, PaymentPlan, Purchase};
pub use send::{Delivery, deliver, storm};
pub use server::{Fault, Route, Server};
pub use subscription::{Start, Status, Subscribed, SubscriptionTruth, SubscriptionTurn};
pub use world::{Bought, Truth, Turn, World};

#[cfg(test)]
mod tests;
