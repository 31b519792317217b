//! Bodies with a good signature that are not what they should be.

use grantsmith_tests::stack::order;
use grantsmith_tests::{Shape, Stack};
use serde_json::Value;

use super::{completed, recorded};

const MEBIBYTE: usize = 1 << 20;
/// Deeper than any reader's stack.
const DEPTH: usize = 100_000;

/// The body with a field more at its beginning.
fn with(body: &[u8], field: &str) -> Vec<u8> {
    let text = std::str::from_utf8(body).expect("a text");
    text.replacen('{', &format!("{{{field},"), 1).into_bytes()
}

fn deep(open: &str, close: &str) -> String {
    [open.repeat(DEPTH), "1".to_owned(), close.repeat(DEPTH)].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_no_event_is_answered_400_with_what_to_do() {
    for shape in [Shape::Standalone, Shape::Split] {
        let stack = Stack::plan(shape).without_mail().start().await;
        let (_, event) = completed(&stack);
        let truncated = event.get(..event.len() / 2).expect("half").to_vec();
        let mut not_text = event.clone();
        not_text[20] = 0xff;
        let deep_id = format!(r#"{{"object":"event","id":{},"type":"x"}}"#, deep("[", "]"));
        let cases: [(&str, Vec<u8>); 12] = [
            ("empty", Vec::new()),
            ("truncated", truncated),
            ("not UTF-8", not_text),
            ("two bodies in one", [event.clone(), event.clone()].concat()),
            ("a NUL behind it", [event.clone(), vec![0]].concat()),
            ("a list", b"[]".to_vec()),
            ("an empty object", b"{}".to_vec()),
            ("another object", br#"{"object":"charge","id":"ch_1","type":"x"}"#.to_vec()),
            ("a bad id", br#"{"object":"event","id":"evt_../../etc","type":"x"}"#.to_vec()),
            ("two ids", with(&event, r#""id":"evt_another""#)),
            ("a deep id", deep_id.into_bytes()),
            ("deep and never closed", "[".repeat(DEPTH).into_bytes()),
        ];
        for (what, body) in cases {
            let answer = stack.post(body).await.expect("an answer");
            assert_eq!(answer.status, 400, "{what}: {}", answer.body);
            let told: Value = serde_json::from_str(&answer.body).expect("JSON");
            let text = told["error"].as_str().expect("a text");
            assert!(
                text.len() > 20 && !text.contains("passwd") && !text.contains("another"),
                "{what}: {text}"
            );
        }
        assert_eq!(recorded(&stack).await, 0, "nothing was kept");
        assert_eq!(stack.ready().await, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_one_mebibyte_is_taken_and_one_byte_more_is_not() {
    for shape in [Shape::Standalone, Shape::Split] {
        let stack = Stack::plan(shape).without_mail().start().await;
        let (session, mut body) = completed(&stack);
        body.resize(MEBIBYTE + 1, b' ');
        let answer = stack.post(body.clone()).await.expect("an answer");
        assert_eq!(answer.status, 413, "{}", answer.body);
        assert_eq!(recorded(&stack).await, 0);

        body.truncate(MEBIBYTE);
        let answer = stack.post(body).await.expect("an answer");
        assert_eq!((answer.status, answer.body.as_str()), (200, r#"{"outcome":"recorded"}"#));
        assert_eq!(stack.keys(&session).await.len(), 1);
        stack.assert_promise();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn depth_in_parts_that_are_skipped_changes_nothing() {
    for shape in [Shape::Standalone, Shape::Split] {
        let stack = Stack::plan(shape).without_mail().start().await;
        for field in [
            format!(r#""junk":{}"#, deep("[", "]")),
            format!(r#""junk":{}"#, deep(r#"{"a":"#, "}")),
            // `request` is read, and what it has inside is not.
            format!(r#""request":{{"id":"req_1","more":{}}}"#, deep("[", "]")),
        ] {
            let (session, body) = completed(&stack);
            let body = String::from_utf8(body).expect("a text").replace(r#""request": {"#, r#""other": {"#);
            let answer = stack.post(with(body.as_bytes(), &field)).await.expect("an answer");
            assert_eq!(answer.status, 200, "{}", answer.body);
            assert_eq!(stack.keys(&session).await.len(), 1);
        }
        // The object inside is asked for at Stripe; what the event has in its place does not matter.
        let (session, body) = completed(&stack);
        let body = String::from_utf8(body).expect("a text");
        let at = body.find(r#""object": {"#).expect("the object") + r#""object": {"#.len();
        let body = format!("{}\"junk\":{},{}", &body[..at], deep("[", "]"), &body[at..]);
        assert_eq!(stack.post(body.into_bytes()).await.expect("an answer").status, 200);
        assert_eq!(stack.keys(&session).await.len(), 1);
        stack.assert_promise();
        for event in stack.json(&["events", "list"]).await.as_array().expect("events") {
            let name = event["name"].as_str().expect("a name");
            let (code, _, error) = stack.tool(&["events", "get", name, "-o", "json"]).await;
            assert_eq!(code, 0, "what was kept can be read back: {error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_stripe_key_depth_parks_the_event_and_stops_nothing() {
    let stack = Stack::plan(Shape::Standalone).events_only().without_mail().start().await;
    let (_, body) = completed(&stack);
    let body = String::from_utf8(body).expect("a text");
    let at = body.find(r#""object": {"#).expect("the object") + r#""object": {"#.len();
    let body = format!("{}\"junk\":{},{}", &body[..at], deep(r#"{"a":"#, "}"), &body[at..]);
    assert_eq!(stack.post(body.into_bytes()).await.expect("an answer").status, 200);
    let next = stack.buy(order()).await;
    assert_eq!(stack.keys(&next.session).await.len(), 1, "the next purchase goes its way");
    assert_eq!(stack.ready().await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_twice_counts_only_where_it_is_read() {
    let stack = Stack::plan(Shape::Standalone).without_mail().start().await;
    for read in [r#""type":"x""#, r#""livemode":true"#, r#""data":{"object":{"id":"cs_test_another"}}"#] {
        let (_, body) = completed(&stack);
        let answer = stack.post(with(&body, read)).await.expect("an answer");
        assert_eq!(answer.status, 400, "{read}: {}", answer.body);
    }
    let (session, body) = completed(&stack);
    let answer = stack.post(with(&body, r#""junk":1,"junk":2"#)).await.expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(stack.keys(&session).await.len(), 1);
}
