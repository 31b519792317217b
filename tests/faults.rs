//! Everything around the product fails for a while, and nothing of the work is lost.

#![expect(clippy::expect_used, reason = "a test stops where the world is not as it set it up")]

mod authforge;
mod lost;
mod mail;
mod record;
mod secrets;
mod split;
mod stripe;

use std::time::Duration;

use grantsmith_tests::stack::order;
use grantsmith_tests::wait::until_within;
use grantsmith_tests::{Stack, until};
use serde_json::Value;

/// Some purchases, their events delivered.
async fn buy(stack: &Stack, count: usize) -> Vec<String> {
    let mut sessions = Vec::new();
    for _ in 0..count {
        sessions.push(stack.buy(order()).await.session);
    }
    sessions
}

/// What is away is asked by one call at least once a minute, and all others come within seconds of its answer.
const BACK_WITHIN: Duration = Duration::from_secs(90);

/// Waits until each has its one key.
async fn all_get_their_keys(stack: &Stack, sessions: &[String]) {
    until_within(BACK_WITHIN, "work to go on", async || {
        let grants = stack.grants().await;
        grants.iter().all(|grant| grant["state"] == "READY").then_some(())
    })
    .await;
    for session in sessions {
        assert_eq!(stack.keys(session).await, stack.live()[session]);
    }
    stack.assert_promise();
}

/// Waits until every grant waits for one of these reasons; gives them.
async fn all_wait(stack: &Stack, count: usize, reasons: &[&str]) -> Vec<Value> {
    until(&format!("{count} grants to wait for {reasons:?}"), async || {
        let grants = stack.grants().await;
        let waits = |grant: &&Value| {
            grant["state"] == "ISSUING" && grant["reason"].as_str().is_some_and(|r| reasons.contains(&r))
        };
        (grants.iter().filter(waits).count() == count).then_some(grants)
    })
    .await
}
