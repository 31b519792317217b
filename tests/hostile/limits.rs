//! How often the success page may be asked for.

use grantsmith_tests::stack::order;
use grantsmith_tests::{Shape, Stack};
use reqwest::Response;

async fn ask(stack: &Stack, session: &str, forwarded: &str) -> Response {
    let request = stack.client.get(stack.url(&format!("/success?session_id={session}")));
    request.header("x-forwarded-for", forwarded).send().await.expect("an answer")
}

fn retry_after(answer: &Response) -> u64 {
    let header = answer.headers().get("retry-after").expect("Retry-After");
    header.to_str().ok().and_then(|text| text.parse().ok()).expect("seconds")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_shown_sixty_times_a_minute_to_all_the_world_together() {
    let stack = Stack::plan(Shape::Standalone).without_mail().start().await;
    let bought = stack.buy(order()).await;
    for visit in 0..60 {
        let answer = ask(&stack, &bought.session, &format!("198.51.100.{visit}")).await;
        assert_eq!(answer.status(), 200, "visit {visit}");
    }
    let answer = ask(&stack, &bought.session, "198.51.100.200").await;
    assert_eq!(answer.status(), 429);
    assert!((1..=60).contains(&retry_after(&answer)));
    let json = stack.page(&bought.session).await;
    assert_eq!(json.0, 429);
    assert!(json.1["error"].is_string(), "a program is told in its own language: {}", json.1);

    let other = stack.buy(order()).await;
    assert_eq!(ask(&stack, &other.session, "198.51.100.200").await.status(), 200, "others are not held up");
}

/// Asks 601 times as many clients; gives the last answer's status.
async fn as_many_clients(stack: &Stack) -> u16 {
    let mut last = 0;
    for visit in 0..601 {
        let client = format!("203.0.{}.{}", visit / 250, visit % 250);
        last = ask(stack, &format!("none{visit}"), &client).await.status().as_u16();
        if visit < 600 {
            assert_eq!(last, 404, "visit {visit}");
        }
    }
    last
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_who_a_trusted_proxy_says() {
    let stack = Stack::plan(Shape::Standalone).without_mail().start().await;
    assert_eq!(as_many_clients(&stack).await, 404, "601 clients behind one proxy");
    for visit in 0..600 {
        assert_eq!(ask(&stack, &format!("none{visit}"), "203.0.113.9").await.status(), 404);
    }
    assert_eq!(ask(&stack, "none", "203.0.113.9").await.status(), 429, "one client");
    let forged = ask(&stack, "none", "198.51.100.7, 203.0.113.9").await;
    assert_eq!(forged.status(), 429, "what the client itself wrote before does not count");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_cannot_say_who_it_is() {
    let flags = ["--trusted-proxies", "10.0.0.0/8"];
    let stack = Stack::plan(Shape::Standalone).without_mail().web_flags(&flags).start().await;
    assert_eq!(as_many_clients(&stack).await, 429, "one client with 601 names");
}
