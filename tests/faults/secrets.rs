//! Webhook secrets: how they are written, changed while running, and kept apart by mode.

use grantsmith_service::stripe::Mode;
use grantsmith_service::stripe::fake::{Delivery, Rendering, World};
use grantsmith_service::stripe::secret::Secret;
use grantsmith_tests::stack::order;
use grantsmith_tests::{Outside, Shape, Stack, WEBHOOK_SECRET, until};
use serde_json::Value;

const NEW: &str = "whsec_newcanary0cc175b9c0f1b6a831c399e269772661";

fn write(stack: &Stack, text: &str) {
    std::fs::write(stack.folder.path().join("webhook-secrets"), text).expect("a file");
}

/// Stripe with another signing secret.
fn signing_with(stack: &Stack, secret: &str) -> Outside {
    Outside::new(stack.client.clone(), stack.url(""), Secret::new(Mode::Test, secret).expect("a secret"))
}

/// Waits until a new purchase that is signed so is answered so.
async fn until_answered(stack: &Stack, secret: &str, status: u16) -> String {
    let outside = signing_with(stack, secret);
    until(&format!("{status} for '{secret}'"), async || {
        let bought = stack.world.buy(order(), stack.now());
        let answer = outside.post(bought.events[2].body(Rendering::Endive)).await.ok()?;
        (answer.status == status).then_some(bought.session)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_changed_while_running() {
    for shape in Shape::ALL {
        let stack = Stack::plan(shape).without_mail().start().await;
        until_answered(&stack, NEW, 400).await;
        write(&stack, &format!("{WEBHOOK_SECRET}\r\n{NEW}\r\n\r\n"));
        let new = until_answered(&stack, NEW, 200).await;
        let old = until_answered(&stack, WEBHOOK_SECRET, 200).await;
        write(&stack, NEW);
        until_answered(&stack, WEBHOOK_SECRET, 400).await;
        let newer = until_answered(&stack, NEW, 200).await;
        for session in [new, old, newer] {
            assert_eq!(stack.keys(&session).await, stack.live()[&session]);
        }
        // What cannot be used is told, and what was in force stays in force.
        write(&stack, "sk_test_notasecret\n");
        until("the warning", async || stack.logs().contains("the old one stays in force").then_some(()))
            .await;
        until_answered(&stack, NEW, 200).await;
        let logs = stack.logs();
        assert!(!logs.contains(NEW) && !logs.contains("notasecret"), "no secret is in a log");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn live_and_test_are_kept_apart() {
    for shape in Shape::ALL {
        let stack = Stack::plan(shape).without_mail().start().await;
        write(&stack, &format!("test:{WEBHOOK_SECRET}\nlive:{NEW}\n"));
        let live = World::new(Mode::Live, rand::random());
        // An endpoint of live mode is known to the test installation only once the file was read again.
        let first = live.buy(order(), stack.now()).events[2].body(Rendering::Endive);
        let outside = signing_with(&stack, NEW);
        let ignored = |answer: &Delivery| {
            let body: Value = serde_json::from_str(&answer.body).unwrap_or_default();
            answer.status == 200 && body["outcome"] == "ignored" && body["reason"] == "OtherMode"
        };
        until("a live event of a live secret to be ignored", async || {
            outside.post(first.clone()).await.ok().filter(ignored)
        })
        .await;
        let event = live.buy(order(), stack.now()).events[2].body(Rendering::Endive);
        let answer = stack.post(event).await.expect("an answer");
        assert!(ignored(&answer), "a live event of a test secret: {}", answer.body);
        let test = stack.world.buy(order(), stack.now());
        let answer = outside.post(test.events[2].body(Rendering::Endive)).await.expect("an answer");
        assert!(ignored(&answer), "a test event of a live secret: {}", answer.body);

        let paid = stack.buy(order()).await;
        assert_eq!(stack.keys(&paid.session).await.len(), 1);
        assert_eq!(stack.authforge.licenses().len(), 1, "and nothing else was made");
        let events = stack.json(&["events", "list", "--filter", r#"reason = "OtherMode""#]).await;
        let events = events.as_array().expect("events");
        assert_eq!(events.len(), 3);
        for event in events {
            assert_eq!(event["state"], "IGNORED");
            let name = event["name"].as_str().expect("a name");
            assert_eq!(
                stack.json(&["events", "replay", name]).await["state"],
                "IGNORED",
                "also when replayed"
            );
        }
        assert_eq!(stack.authforge.licenses().len(), 1);
    }
}
