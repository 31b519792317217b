//! A server that issues through a cluster: what people do there counts, whatever is lost comes back, and whoever calls is known.
//!
//! - [`people`]: kubectl beside the server.
//! - [`losses`]: the API server away; the record lost; the cluster lost.
//! - [`callers`]: service accounts, certificates that change, a client in another language.
//!
//! That purchases, hands and subscriptions come to the same as in one process is told by `purchase.rs`, `hands.rs` and
//! `subscriptions/lives.rs`, which run over both.

#![expect(clippy::expect_used, reason = "a test stops where the world is not as it set it up")]

mod callers;
mod losses;
mod people;

use grantsmith_tests::stack::order;
use grantsmith_tests::{Realm, Shape, Stack};

/// An installation in a cluster.
async fn stack() -> Stack {
    Stack::plan(Shape::Cluster).start().await
}

fn realm(stack: &Stack) -> &Realm<'static> {
    stack.realm.as_ref().expect("a cluster")
}

/// Buys something and waits for its mail; gives the session and the name of its LicenseGrant.
async fn bought(stack: &Stack, buyer: &str) -> (String, String) {
    let bought = stack.buy(order().by(buyer)).await;
    let name = mailed(stack, &bought.session).await;
    (bought.session, name)
}

/// Waits for the mail of a purchase; gives the name of its LicenseGrant.
async fn mailed(stack: &Stack, session: &str) -> String {
    let grant = grantsmith_tests::until(&format!("the mail of {session}"), async || {
        stack.grant(session).await.filter(|grant| grant["delivery"]["state"] == "SENT")
    })
    .await;
    object(&grant)
}

/// What a grant's LicenseGrant is called.
fn object(grant: &serde_json::Value) -> String {
    grant["name"].as_str().expect("a name").trim_start_matches("licenseGrants/").to_owned()
}

/// The keys of a purchase that work at AuthForge.
fn live(stack: &Stack, session: &str) -> Vec<String> {
    stack.live().remove(session).unwrap_or_default()
}
