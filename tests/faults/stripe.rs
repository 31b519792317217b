//! Stripe's API is away while its events come.

use std::time::Duration;

use grantsmith_service::stripe::fake::{Fault, Rendering, Route};
use grantsmith_tests::stack::order;
use grantsmith_tests::{Shape, Stack, until};

use super::all_get_their_keys;

#[tokio::test(flavor = "multi_thread")]
async fn events_are_taken_while_stripes_api_is_away() {
    for (shape, fault) in [
        (Shape::Standalone, Fault::status(500)),
        (Shape::Standalone, Fault::status(401)),
        (Shape::Standalone, Fault::Drop),
        (Shape::Split, Fault::Garbage),
        (Shape::Split, Fault::Flood),
    ] {
        let stack = Stack::plan(shape).without_mail().start().await;
        stack.stripe.always(Some(fault.clone()));
        let mut sessions = Vec::new();
        for _ in 0..5 {
            let bought = stack.world.buy(order(), stack.now());
            for event in &bought.events {
                let answer = stack.post(event.body(Rendering::Endive)).await.expect("an answer");
                assert_eq!(answer.status, 200, "{fault:?}: {}", answer.body);
            }
            sessions.push(bought.session);
        }
        until("somebody to see why", async || {
            let events = stack.json(&["events", "list"]).await;
            let waits = |reason: &str| reason == "StripeUnavailable";
            events.as_array()?.iter().any(|e| e["reason"].as_str().is_some_and(waits)).then_some(())
        })
        .await;
        let (status, page) = stack.page(&sessions[0]).await;
        assert_eq!((status, page["status"].as_str()), (200, Some("pending")), "{fault:?}");
        assert_eq!(stack.ready().await, 200);
        assert!(stack.live().is_empty(), "nothing is guessed");
        stack.stripe.always(None);
        all_get_their_keys(&stack, &sessions).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stripe_that_asks_for_a_break_gets_one() {
    let stack = Stack::plan(Shape::Standalone).without_mail().start().await;
    stack.stripe.script(Route::Session, vec![Fault::Status(429, vec![("retry-after", "2")]); 3]);
    stack.stripe.always(Some(Fault::Latency(Duration::from_millis(50))));
    let bought = stack.buy(order()).await;
    all_get_their_keys(&stack, &[bought.session]).await;
    let asked = stack.stripe.count(Route::Session);
    assert!(asked <= 12, "{asked} requests for three refusals and three events");
}
