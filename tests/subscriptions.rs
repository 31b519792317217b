//! Subscriptions against the real program: what Stripe does to them, and what then becomes of the licenses.
//!
//! - [`lives`]: each turn that a subscription can take, in every rendering, fetched and believed.
//! - [`orders`]: events in any order, again and again.
//! - [`mails`]: who is told what.
//! - [`withstands`]: refusals, clocks, kills.
//!
//! Times lie in the past, so that nothing waits for a clock: what Stripe did a month ago is told now.

#![expect(clippy::expect_used, reason = "a test stops where the world is not as it set it up")]

mod lives;
mod mails;
mod orders;
mod withstands;

use grantsmith_service::stripe::fake::{Kind, Purchase, Status, SubscriptionTruth};
use grantsmith_tests::stack::Plan;
use grantsmith_tests::stack::order;
use grantsmith_tests::{APP, Shape, Stack};
use jiff::{SignedDuration, Timestamp};

/// A subscription as the guide's checkout sells it.
pub(crate) fn subscription() -> Purchase {
    order().kind(Kind::Subscription).subscription_metadata("authforge_app_id", APP)
}

async fn stack(events_only: bool) -> Stack {
    shaped(Shape::Standalone, events_only).await
}

async fn shaped(shape: Shape, events_only: bool) -> Stack {
    let plan = old_purchases(Stack::plan(shape).without_mail());
    if events_only { plan.events_only().start().await } else { plan.start().await }
}

/// With what was bought before the program was first started.
fn old_purchases(plan: Plan) -> Plan {
    plan.flags(&["--create-missing"])
}

fn days(days: i64) -> SignedDuration {
    SignedDuration::from_hours(24 * days)
}

fn truth(stack: &Stack, id: &str) -> SubscriptionTruth {
    let all = stack.world.true_subscriptions();
    all.into_iter().find(|truth| truth.subscription == id).expect("a subscription")
}

/// When AuthForge's live licenses of a purchase end.
fn ends(stack: &Stack, id: &str) -> Vec<Option<Timestamp>> {
    let label = format!("Stripe sub {id}");
    let ours = |text: &str| text == label || text.starts_with(&format!("{label} "));
    let live = stack.authforge.licenses().into_iter().filter(|license| !license.revoked);
    live.filter(|license| license.label.as_deref().is_some_and(ours))
        .map(|license| license.expires_at)
        .collect()
}

/// Compares what AuthForge has with what is true at Stripe, by the guide's own rules.
fn assert_license(stack: &Stack, id: &str, failed_at: Option<Timestamp>, units: usize, what: &str) {
    let truth = truth(stack, id);
    let lives = matches!(truth.status, Status::Active | Status::Trialing | Status::PastDue);
    let grace = failed_at.filter(|_| truth.status == Status::PastDue).map(|at| at + days(21));
    let end = Some(truth.period_end).max(grace);
    let expected = vec![end; if lives { units } else { 0 }];
    assert_eq!(ends(stack, id), expected, "{what}: {truth:?}");
}
