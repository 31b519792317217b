//! What strangers send: bodies, signatures, connections, names and floods that nobody means well with.

#![expect(clippy::expect_used, reason = "a test stops where the world is not as it set it up")]

mod body;
mod connection;
mod flood;
mod limits;
mod page;
mod random;
mod signature;

use grantsmith_service::stripe::fake::{Bought, Rendering};
use grantsmith_tests::Stack;
use grantsmith_tests::stack::order;

/// A purchase whose events were not delivered.
fn bought(stack: &Stack) -> Bought {
    stack.world.buy(order(), stack.now())
}

/// The last event of a new purchase, which completes its session.
fn completed(stack: &Stack) -> (String, Vec<u8>) {
    let bought = bought(stack);
    let event = bought.events.last().expect("an event");
    (bought.session, event.body(Rendering::Endive))
}

/// How many events are on record.
async fn recorded(stack: &Stack) -> usize {
    stack.json(&["events", "list", "--limit", "1000"]).await.as_array().map_or(0, Vec::len)
}
