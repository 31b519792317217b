//! The webhook process while its server is away.

use std::time::Duration;

use grantsmith_service::stripe::fake::Rendering;
use grantsmith_tests::stack::order;
use grantsmith_tests::{Shape, Stack, until};
use tokio::time::Instant;

use super::all_get_their_keys;

#[tokio::test(flavor = "multi_thread")]
async fn the_webhook_tries_for_eight_seconds_before_it_gives_up() {
    let mut stack = Stack::plan(Shape::Split).without_mail().start().await;
    stack.kill_back().await;
    let bought = stack.world.buy(order(), stack.now());
    let begun = Instant::now();
    let answer = stack.post(bought.events[2].body(Rendering::Endive)).await.expect("an answer");
    assert_eq!(answer.status, 503, "{}", answer.body);
    let took = begun.elapsed();
    assert!((Duration::from_secs(6)..Duration::from_secs(10)).contains(&took), "gave up after {took:?}");
    until("readiness to turn red", async || (stack.ready().await == 503).then_some(())).await;
    let (status, _) = stack.page(&bought.session).await;
    assert_eq!(status, 503, "a buyer is asked to come again");

    stack.up_back().await;
    stack.deliver_all(&bought.events).await;
    all_get_their_keys(&stack, &[bought.session]).await;
    until("readiness", async || (stack.ready().await == 200).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_comes_back_in_time_is_not_noticed() {
    // A kill may come between a create's attempt and its request: nothing shows then until the quarantine is over.
    let plan = Stack::plan(Shape::Split).without_mail().flags(&["--lost-create-quarantine", "3s"]);
    let mut stack = plan.start().await;
    let mut sessions = Vec::new();
    for _ in 0..8 {
        stack.kill_back().await;
        let bought = stack.world.buy(order(), stack.now());
        let outside = stack.outside();
        let posts = bought.events.iter().map(|event| {
            let (outside, body) = (outside.clone(), event.body(Rendering::Endive));
            tokio::spawn(async move { outside.post(body).await })
        });
        let posts: Vec<_> = posts.collect();
        stack.up_back().await;
        for post in posts {
            let answer = post.await.expect("it ran").expect("an answer");
            assert_eq!(answer.status, 200, "{}", answer.body);
        }
        sessions.push(bought.session);
    }
    all_get_their_keys(&stack, &sessions).await;
}
