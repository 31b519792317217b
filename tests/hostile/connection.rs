//! Connections that dawdle, break, or go on after a refusal.

use std::time::Duration;

use grantsmith_tests::raw::{Raw, hook};
use grantsmith_tests::stack::order;
use grantsmith_tests::{Shape, Stack};
use reqwest::Method;

use super::{completed, recorded};

#[tokio::test(flavor = "multi_thread")]
async fn another_method_is_405_and_another_address_404() {
    let stack = Stack::plan(Shape::Standalone).without_mail().start().await;
    for method in [Method::GET, Method::PUT, Method::DELETE, Method::PATCH, Method::OPTIONS, Method::HEAD] {
        let answer = stack.client.request(method.clone(), stack.url("/webhooks/stripe")).send().await;
        assert_eq!(answer.expect("an answer").status(), 405, "{method}");
    }
    for path in
        ["/webhooks/stripe/", "/webhooks", "/metrics", "/healthz", "/.env", "/%2e%2e/etc/passwd", "//"]
    {
        let answer = stack.client.post(stack.url(path)).body("{}").send().await.expect("an answer");
        assert_eq!(answer.status(), 404, "{path}");
    }
}

/// Half of a body and then nothing: what the connection is told, and after how long.
async fn stalled(stack: &Stack) -> (u16, Duration) {
    let (_, body) = completed(stack);
    let request = hook(&stack.signature(stack.now(), &body), &body);
    let begun = tokio::time::Instant::now();
    let mut connection = Raw::connect(stack.http()).await;
    assert!(connection.send(request.get(..request.len() - body.len() / 2).expect("half")).await);
    let answer = connection.answer().await.expect("an answer");
    (answer.status, begun.elapsed())
}

/// Half of a head and then nothing: how long the connection lasts.
async fn headless(stack: &Stack) -> Duration {
    let begun = tokio::time::Instant::now();
    let mut connection = Raw::connect(stack.http()).await;
    assert!(connection.send(b"POST /webhooks/stripe HTTP/1.1\r\nhost: gr").await);
    let answer = connection.answer().await;
    assert!(answer.is_none_or(|answer| answer.status == 408));
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_dawdles_is_cut_off_while_others_are_served() {
    let stack = Stack::plan(Shape::Standalone).without_mail().start().await;
    let busy = async {
        for _ in 0..20 {
            let bought = stack.buy(order()).await;
            assert_eq!(stack.keys(&bought.session).await.len(), 1);
        }
    };
    let slow = async {
        let slow = futures_util::future::join_all((0..50).map(|_| stalled(&stack)));
        tokio::join!(slow, headless(&stack))
    };
    let begun = tokio::time::Instant::now();
    let served = async {
        busy.await;
        begun.elapsed()
    };
    let ((stalled, headless), served) = tokio::join!(slow, served);
    for (status, after) in stalled {
        assert_eq!(status, 408);
        assert!((Duration::from_secs(29)..Duration::from_secs(45)).contains(&after), "cut after {after:?}");
    }
    assert!(headless < Duration::from_secs(35), "a head that stalls lasts {headless:?}");
    assert!(served < Duration::from_secs(25), "others were served within {served:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_only_held_leave_files_for_everything_else() {
    let stack = Stack::plan(Shape::Standalone).without_mail().files(64, 256).start().await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", stack.back().pid())).expect("limits");
    let files = limits.lines().find(|line| line.starts_with("Max open files")).expect("of files");
    assert_eq!(files.split_whitespace().nth(3), Some("256"), "as many as the machine allows: {files}");
    let held = futures_util::future::join_all((0..300).map(|_| Raw::connect(stack.http()))).await;
    assert_eq!(stack.ready().await, 200);
    drop(held);
    let bought = stack.buy(order()).await;
    assert_eq!(stack.keys(&bought.session).await.len(), 1);
    assert!(!stack.logs().contains("cannot accept"), "{}", stack.logs());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_does_not_spoil_the_next_request_on_the_connection() {
    let stack = Stack::plan(Shape::Standalone).without_mail().start().await;
    let (session, body) = completed(&stack);
    let good = stack.signature(stack.now(), &body);
    let mut connection = Raw::connect(stack.http()).await;
    // Both at once, as a client that pipelines.
    assert!(connection.send(&[hook("t=1,v1=00", &body), hook(&good, &body)].concat()).await);
    assert_eq!(connection.answer().await.expect("the first answer").status, 400);
    assert_eq!(connection.answer().await.expect("the second answer").status, 200);
    assert_eq!(stack.keys(&session).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_too_large_is_told_so_even_if_it_is_much_too_large() {
    let stack = Stack::plan(Shape::Standalone).without_mail().start().await;
    for size in [(1 << 20) + 1, 3 << 20, 8 << 20] {
        let answer = stack.post(vec![b' '; size]).await;
        assert_eq!(
            answer.unwrap_or_else(|error| panic!("{size} bytes: {error:?}")).status,
            413,
            "{size} bytes"
        );
        let mut connection = Raw::connect(stack.http()).await;
        connection.send(&hook("t=1,v1=00", &vec![b' '; size])).await;
        assert_eq!(connection.answer().await.expect("an answer").status, 413, "{size} bytes");
        // The next request is answered, or the connection is at its end: never something else's answer.
        let (_, body) = completed(&stack);
        connection.send(&hook(&stack.signature(stack.now(), &body), &body)).await;
        assert!(connection.answer().await.is_none_or(|next| next.status == 200));
    }
    let bought = stack.buy(order()).await;
    assert_eq!(stack.keys(&bought.session).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_requests_are_refused_and_nothing_of_them_is_kept() {
    let stack = Stack::plan(Shape::Standalone).without_mail().start().await;
    let (_, body) = completed(&stack);
    let whole = hook(&stack.signature(stack.now(), &body), &body);
    let head = "POST /webhooks/stripe HTTP/1.1\r\nhost: grantsmith\r\n";
    let requests: [Vec<u8>; 7] = [
        whole.get(..whole.len() - 1).expect("all but one byte").to_vec(),
        format!("{head}transfer-encoding: chunked\r\n\r\nzz\r\nabc").into_bytes(),
        format!("{head}transfer-encoding: chunked\r\n\r\nffffffffffffffff0\r\nabc").into_bytes(),
        format!("{head}content-length: 3\r\ncontent-length: 4\r\n\r\nabcd").into_bytes(),
        format!("{head}content-length: -1\r\n\r\n").into_bytes(),
        b"GARBAGE\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
    ];
    for request in requests {
        let mut connection = Raw::connect(stack.http()).await;
        connection.send(&request).await;
        connection.finish().await;
        if let Some(answer) = connection.answer().await {
            assert_eq!(answer.status, 400, "{}", String::from_utf8_lossy(&request));
        }
    }
    assert_eq!(recorded(&stack).await, 0);
    let bought = stack.buy(order()).await;
    assert_eq!(stack.keys(&bought.session).await.len(), 1);
}
