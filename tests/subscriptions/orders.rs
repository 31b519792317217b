use grantsmith_service::stripe::fake::SubscriptionTurn::{Cancel, PayLate, RenewUnpaid};
use grantsmith_service::stripe::fake::{Event, Rendering, Start};
use grantsmith_tests::Stack;
use jiff::Timestamp;

use super::{days, ends, stack, subscription, truth};

/// Every order of `count` things.
fn orders(count: usize) -> Vec<Vec<usize>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for shorter in orders(count - 1) {
        for place in 0..count {
            let mut order = shorter.clone();
            order.insert(place, count - 1);
            all.push(order);
        }
    }
    all
}

/// What is told of a subscription that is made, fails, is paid and, if it ends so, is deleted.
fn history(stack: &Stack, ends: bool, spread: bool) -> (String, Vec<Event>) {
    let begun = stack.now() - days(31);
    let made = stack.world.subscribe(subscription(), Start::Active, begun);
    let later = stack.now() - days(1);
    let at = |n: i64| if spread { later + jiff::SignedDuration::from_mins(n) } else { later };
    let mut events = vec![made.events[0].clone()];
    let mut turn = |turn, at: Timestamp| {
        for event in stack.world.turn_subscription(&made.subscription, turn, at) {
            // Stripe also tells of the period that begins unpaid; the change to past_due is the one that counts.
            events.retain(|known| known.event_type != event.event_type);
            events.push(event);
        }
    };
    turn(RenewUnpaid, at(0));
    turn(PayLate, at(1));
    if ends {
        turn(Cancel, at(2));
    }
    (made.subscription, events)
}

async fn any_order_ends_the_same(events_only: bool) {
    let stack = stack(events_only).await;
    let mut told: Vec<String> = Vec::new();
    for ends in [false, true] {
        for (n, order) in orders(if ends { 5 } else { 4 }).into_iter().enumerate() {
            let rendering = if n % 2 == 0 { Rendering::Endive } else { Rendering::PreBasil };
            let (id, events) = history(&stack, ends, n % 3 != 0);
            assert_eq!(
                events.len(),
                order.len(),
                "{:?}",
                events.iter().map(|e| e.event_type).collect::<Vec<_>>()
            );
            for place in &order {
                stack.deliver(events[*place].body(rendering)).await;
            }
            // Once more, and the first under another id, as Stripe does now and then.
            stack.deliver(events[order[0]].body(rendering)).await;
            stack.deliver(events[order[0]].twin().body(rendering)).await;
            told.push(id);
        }
    }
    stack.settled().await;
    for id in &told {
        let truth = truth(&stack, id);
        let expected = if truth.status.is_final() { vec![] } else { vec![Some(truth.period_end)] };
        assert_eq!(ends(&stack, id), expected, "{truth:?}");
    }
    let mut labels: Vec<_> = stack.authforge.licenses().into_iter().map(|license| license.label).collect();
    let made = labels.len();
    labels.sort();
    labels.dedup();
    assert_eq!(labels.len(), made, "one license a subscription, whatever was told first");
}

#[tokio::test(flavor = "multi_thread")]
async fn any_order_of_events_ends_the_same_with_a_stripe_key() {
    any_order_ends_the_same(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_order_of_events_ends_the_same_by_events_alone() {
    any_order_ends_the_same(true).await;
}
