use std::time::Duration;

use futures_util::{StreamExt, stream};
use grantsmith_service::stripe::fake::SubscriptionTurn::Cancel;
use grantsmith_service::stripe::fake::{Event, Rendering, Start};
use grantsmith_tests::stack::order;
use grantsmith_tests::wait::until_within;
use grantsmith_tests::{Shape, Stack};

use crate::subscriptions::subscription;

/// Subscriptions that end.
const ENDED: usize = 2_500;
/// Events that tell each end, so that ten thousand come.
const TELLINGS: u64 = 4;
const BUDGET: usize = 100;

/// Delivers events over many connections, as Stripe does in a burst.
async fn deliver_at_once(stack: &Stack, events: Vec<Event>) {
    let outside = stack.outside();
    let deliver = async |event: Event| {
        outside.deliver(event.body(Rendering::Endive)).await;
    };
    stream::iter(events).for_each_concurrent(32, deliver).await;
}

fn revoked(stack: &Stack) -> usize {
    stack.authforge.licenses().iter().filter(|license| license.revoked).count()
}

/// The grants that the metrics count for a state and reason.
async fn counted(stack: &Stack, state: &str, reason: &str) -> usize {
    let metrics = stack.metrics().await;
    let line = |line: &&str| {
        line.starts_with("grantsmith_grants{")
            && line.contains(&format!(r#"state="{state}""#))
            && line.contains(&format!(r#"reason="{reason}""#))
    };
    metrics.lines().find(line).and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
}

/// A stolen webhook secret, a seller's own mistake, a fault at Stripe: ten thousand events at once tell of ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_ends_is_held_by_the_budget_and_buyers_go_on() {
    let plan = Stack::plan(Shape::Standalone).without_mail().events_only();
    let stack = plan.flags(&["--authforge-rate", "5000", "--authforge-burst", "5000"]).start().await;
    let now = stack.now();
    let subscribe = |_| stack.world.subscribe(subscription(), Start::Active, now);
    let made: Vec<_> = (0..ENDED).map(subscribe).collect();
    deliver_at_once(&stack, made.iter().map(|made| made.events[0].clone()).collect()).await;
    let patience = Duration::from_secs(600);
    until_within(patience, "all keys", async || {
        (counted(&stack, "ready", "Issued").await == ENDED).then_some(())
    })
    .await;
    assert_eq!(stack.authforge.licenses().len(), ENDED);

    let end = |id: &str| {
        let events = stack.world.turn_subscription(id, Cancel, now);
        events.into_iter().find(|event| event.event_type == "customer.subscription.deleted").expect("an end")
    };
    let ends: Vec<Event> = made.iter().map(|made| end(&made.subscription)).collect();
    let tellings = (0..TELLINGS).flat_map(|number| ends.iter().map(move |end| end.again(number)));
    deliver_at_once(&stack, tellings.collect()).await;
    // Somebody buys meanwhile.
    let bought = stack.buy(order()).await;
    assert_eq!(stack.keys(&bought.session).await.len(), 1);
    until_within(patience, "the rest to be held", async || {
        (counted(&stack, "issuing", "RevocationHeld").await == ENDED - BUDGET).then_some(())
    })
    .await;
    assert_eq!(revoked(&stack), BUDGET, "no more than the budget");

    // A restart does not forget what was spent, and a person can let one pass.
    let mut stack = stack;
    stack.kill_back().await;
    stack.up().await;
    let held = stack.json(&["grants", "list", "--limit", "1", "--filter", "state = ISSUING"]).await;
    let name = held[0]["name"].as_str().expect("a name").to_owned();
    let (code, _, error) = stack.tool(&["grants", "release", &name]).await;
    assert_eq!(code, 0, "{error}");
    until_within(patience, "the released one", async || (revoked(&stack) == BUDGET + 1).then_some(())).await;
    let bought = stack.buy(order()).await;
    assert_eq!(stack.keys(&bought.session).await.len(), 1);
    assert_eq!(revoked(&stack), BUDGET + 1, "and the others go on waiting");
}
