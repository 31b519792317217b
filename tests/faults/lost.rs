//! The answer to a create is lost, and how long one looks for what it may have made.

use std::time::Duration;

use grantsmith_authforge::fake::{CallKind, Deeds, Fault, Switches};
use grantsmith_tests::stack::order;
use grantsmith_tests::{Shape, Stack, until};
use tokio::time::Instant;

fn quarantine(shape: Shape, time: &str, lag: u64) -> grantsmith_tests::stack::Plan {
    let switches = Switches { list_lag_ms: lag, ..Switches::default() };
    Stack::plan(shape).flags(&["--lost-create-quarantine", time]).authforge(switches)
}

/// The keys of one purchase as its buyer was told of them: by page and by mail, which must say the same.
async fn told(stack: &Stack, session: &str) -> Vec<String> {
    let keys = stack.keys(session).await;
    let mail = stack.mail.as_ref().expect("mail");
    let mails = mail.until_mails(1).await;
    assert_eq!(mails.len(), 1, "one mail");
    let letter = mail.mail(mails[0]["ID"].as_str().expect("an id")).await;
    let text = letter["Text"].as_str().expect("a text");
    assert!(keys.iter().all(|key| text.contains(key)), "{text}");
    keys
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_found_by_looking_and_mailed_once() {
    for shape in Shape::ALL {
        for fault in [Fault::LostAfter, Fault::FiveHundredAfterCommit, Fault::TruncatedBody] {
            let stack = quarantine(shape, "60s", 0).start().await;
            stack.authforge.script(CallKind::Create, [fault]);
            let bought = stack.buy(order()).await;
            let keys = told(&stack, &bought.session).await;
            assert_eq!(keys, stack.live()[&bought.session]);
            let counts = stack.authforge.counts();
            assert_eq!(counts.of(CallKind::Create), 1, "{fault:?}: it was not made again");
            assert!(counts.of(CallKind::List) >= 1, "{fault:?}: it was found by looking");
            stack.assert_promise();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_listed_within_the_quarantine_is_not_made_twice() {
    for shape in [Shape::Standalone, Shape::Cluster] {
        let stack = quarantine(shape, "6s", 3_000).start().await;
        stack.authforge.script(CallKind::Create, [Fault::LostAfter]);
        let bought = stack.buy(order()).await;
        let grant = stack.until_grant(&bought.session, "ISSUING", "OutcomeUnknown").await;
        assert!(grant["licenses"][0]["masked_key"] == "", "nothing is shown before it is known");
        assert_eq!(told(&stack, &bought.session).await, stack.live()[&bought.session]);
        assert_eq!(stack.authforge.counts().of(CallKind::Create), 1);
        stack.assert_promise();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_never_made_is_made_once_the_quarantine_is_over() {
    for shape in [Shape::Standalone, Shape::Cluster] {
        let stack = quarantine(shape, "4s", 0).start().await;
        stack.authforge.script(CallKind::Create, [Fault::LostBefore]);
        let begun = Instant::now();
        let bought = stack.buy(order()).await;
        let keys = told(&stack, &bought.session).await;
        assert!(begun.elapsed() >= Duration::from_secs(4), "not before: {:?}", begun.elapsed());
        assert_eq!(keys, stack.live()[&bought.session]);
        assert_eq!(stack.authforge.counts().of(CallKind::Create), 2);
        stack.assert_promise();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_in_the_quarantine_begins_it_anew_and_makes_no_second_key() {
    let mut stack = quarantine(Shape::Standalone, "5s", 3_000).start().await;
    stack.authforge.script(CallKind::Create, [Fault::LostAfter]);
    let bought = stack.buy(order()).await;
    for _ in 0..3 {
        stack.until_grant(&bought.session, "ISSUING", "OutcomeUnknown").await;
        stack.kill_back().await;
        stack.up().await;
    }
    assert_eq!(told(&stack, &bought.session).await, stack.live()[&bought.session]);
    assert_eq!(stack.authforge.counts().of(CallKind::Create), 1);
    stack.assert_promise();
}

/// The assumption is broken: what was made shows only after the quarantine. Then there are two, and the buyer has one.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_listed_after_the_quarantine_is_a_second_key_that_nobody_gets() {
    for shape in [Shape::Standalone, Shape::Cluster] {
        let stack = quarantine(shape, "2s", 8_000).start().await;
        stack.authforge.script(CallKind::Create, [Fault::LostAfter]);
        let bought = stack.buy(order()).await;
        let keys = told(&stack, &bought.session).await;
        let made = stack.authforge.history();
        assert_eq!(made.iter().filter(|deed| deed.what == Deeds::Created).count(), 2);
        assert_eq!(keys, [made.last().expect("the second").key.clone()], "the one whose answer came");
        // A look by somebody else's purchase, with both in the listing, changes nothing about what the buyer has.
        until("both to be listed", async || {
            let now = stack.now();
            stack
                .authforge
                .licenses()
                .iter()
                .all(|l| now.duration_since(l.created_at).as_secs() > 8)
                .then_some(())
        })
        .await;
        stack.authforge.script(CallKind::Create, [Fault::LostBefore]);
        let other = stack.buy(order()).await;
        assert_eq!(stack.keys(&other.session).await.len(), 1);
        assert_eq!(stack.keys(&bought.session).await, keys);
        assert!(stack.live()[&bought.session].contains(&keys[0]), "and it is alive");
    }
}
