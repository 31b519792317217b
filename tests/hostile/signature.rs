//! Signatures that are none.

use grantsmith_service::stripe::Mode;
use grantsmith_service::stripe::secret::Secret;
use grantsmith_service::stripe::signature::sign;
use grantsmith_tests::raw::{Raw, hook};
use grantsmith_tests::{Shape, Stack};
use jiff::SignedDuration;

use super::{completed, recorded};

/// Everything that a forger may try, each with what it is.
fn forgeries(stack: &Stack, body: &[u8]) -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let now = stack.now();
    let good = stack.signature(now, body);
    let seconds = |by| now.checked_add(SignedDuration::from_secs(by)).expect("a time");
    let (time, hex) = good.split_once(",v1=").expect("a signature");
    let stranger = Secret::new(Mode::Test, "whsec_of_somebody_else").expect("a secret");
    let one = |text: String| vec![text.into_bytes()];
    vec![
        ("missing", vec![]),
        ("empty", one(String::new())),
        ("of another secret", one(sign(&stranger, now, body))),
        ("of another body", one(stack.signature(now, b"{}"))),
        ("too old", one(stack.signature(seconds(-330), body))),
        ("too new", one(stack.signature(seconds(330), body))),
        ("without a time", one(format!("v1={hex}"))),
        ("with two times", one(format!("{time},{good}"))),
        ("with a moved time", one(format!("t={},v1={hex}", now.as_second() - 1))),
        ("with an odd time", one(format!("t=+{},v1={hex}", now.as_second()))),
        ("without a signature", one(time.to_owned())),
        ("of another scheme", one(format!("{time},v0={hex}"))),
        ("cut short", one(format!("{time},v1={}", &hex[..62]))),
        ("with a byte more", one(format!("{time},v1={hex}00"))),
        ("not hex", one(format!("{time},v1={}", "zz".repeat(32)))),
        ("not text", vec![[b"t=1,v1=".as_slice(), &[0xff; 64]].concat()]),
        ("twice", vec![good.clone().into_bytes(), good.clone().into_bytes()]),
        ("beside a bad one", vec![good.into_bytes(), b"t=1,v1=00".to_vec()]),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_signature_gets_the_very_same_answer() {
    for shape in [Shape::Standalone, Shape::Split] {
        let stack = Stack::plan(shape).without_mail().start().await;
        let (_, body) = completed(&stack);
        let mut answers = Vec::new();
        for (what, signatures) in forgeries(&stack, &body) {
            let answer = stack.post_signed(body.clone(), &signatures).await.expect("an answer");
            assert_eq!(answer.status, 400, "{what}");
            answers.push(answer.body);
        }
        answers.dedup();
        assert_eq!(answers.len(), 1, "a forger learns nothing: {answers:?}");
        assert!(answers[0].contains("signing secret"), "a seller learns what to do: {}", answers[0]);
        assert_eq!(recorded(&stack).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_good_signature_among_bad_ones_is_enough() {
    let stack = Stack::plan(Shape::Standalone).without_mail().start().await;
    let (session, body) = completed(&stack);
    let good = stack.signature(stack.now(), &body);
    let (time, hex) = good.split_once(",v1=").expect("a signature");
    let mixed = format!("{time},v1={},v0=abc,v1={hex},v1=short", "0".repeat(64));
    let answer = stack.post_signed(body, &[mixed]).await.expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(stack.keys(&session).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_candidates_are_refused_and_hurt_nobody() {
    let stack = Stack::plan(Shape::Standalone).without_mail().start().await;
    let (session, body) = completed(&stack);
    let now = stack.now();
    let good = stack.signature(now, &body);
    for candidate in ["v1=0", &format!("v1={}", "0".repeat(64))] {
        let flood = format!("t={},{},{good}", now.as_second(), vec![candidate; 10_000].join(","));
        let mut connection = Raw::connect(stack.http()).await;
        // What is longer than the server's head room is cut off while it is being sent.
        let sent = connection.send(&hook(&flood, &body)).await;
        match connection.answer().await {
            Some(answer) => assert_eq!(answer.status / 100, 4, "{}", answer.head),
            None => assert!(!sent, "cut off in the middle"),
        }
    }
    assert_eq!(recorded(&stack).await, 0);
    assert_eq!(stack.deliver(body).await.status, 200, "the server lives on");
    assert_eq!(stack.keys(&session).await.len(), 1);
}
