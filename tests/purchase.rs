//! The walkthroughs: what somebody pays for, and what they get. Each runs in one process, as server and webhook, and with
//! the operator in a real cluster.

#![expect(clippy::expect_used, reason = "a test stops where the world is not as it set it up")]

use grantsmith_authforge::fake::CallKind;
use grantsmith_service::stripe::fake::{Kind, PaymentPlan, Rendering, Route, Turn};
use grantsmith_tests::stack::order;
use grantsmith_tests::{Shape, Stack, until};

/// Runs a walkthrough in every shape, side by side.
macro_rules! in_every_shape {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        mod standalone {
            use super::*;
            $($(#[$doc])* #[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name(Shape::Standalone).await; })*
        }
        mod server_and_webhook {
            use super::*;
            $($(#[$doc])* #[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name(Shape::Split).await; })*
        }
        mod server_webhook_and_operator {
            use super::*;
            $($(#[$doc])* #[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name(Shape::Cluster).await; })*
        }
    };
}

in_every_shape! {
    a_paid_session_becomes_one_key_that_is_shown_and_mailed;
    one_look_takes_in_all_that_was_told_before_it;
    the_same_events_again_change_nothing;
    every_rendering_of_the_events_comes_to_the_same;
    as_many_keys_as_were_bought;
    a_delayed_payment_gets_its_key_when_the_money_comes;
    a_delayed_payment_that_fails_gets_none;
    an_authorized_payment_gets_its_key_when_it_is_captured;
    what_costs_nothing_gets_a_key;
    what_sells_nothing_of_ours_is_left_alone;
    unreadable_metadata_waits_and_is_played_again;
    what_a_later_version_handles_is_kept_for_it;
    without_a_stripe_key_the_events_are_believed;
    the_page_of_a_stranger_is_not_found;
}

async fn a_paid_session_becomes_one_key_that_is_shown_and_mailed(shape: Shape) {
    let stack = Stack::plan(shape).start().await;
    let bought = stack.buy(order()).await;
    let keys = stack.keys(&bought.session).await;
    assert_eq!(keys, stack.live()[&bought.session], "the page shows AuthForge's own key");
    let mails = stack.mail.as_ref().expect("mail").until_mails(1).await;
    let mail = stack.mail.as_ref().expect("mail").mail(mails[0]["ID"].as_str().expect("an id")).await;
    assert!(
        mail["Text"].as_str().expect("text").contains(&keys[0])
            && mail["HTML"].as_str().expect("html").contains(&keys[0])
    );

    let grant = stack.grant(&bought.session).await.expect("a grant");
    let license = &grant["licenses"][0];
    assert_eq!(license["max_hwid_slots"], 2);
    assert_eq!(license["masked_key"].as_str().expect("masked")[..15], *"****-****-****-");
    let stored = &stack.authforge.licenses()[0];
    assert_eq!(
        stored.label.as_deref(),
        Some(format!("Stripe session {}", bought.session).as_str()),
        "the guide's own label"
    );
    let paid: jiff::Timestamp =
        grant["purchase"]["pay_time"].as_str().expect("paid").parse().expect("a time");
    let expires: jiff::Timestamp = license["expire_time"].as_str().expect("ends").parse().expect("a time");
    assert_eq!(expires.duration_since(paid).as_hours(), 365 * 24);
    assert_eq!(stack.authforge.counts().of(CallKind::Create), 1);
    stack.assert_promise();
}

async fn one_look_takes_in_all_that_was_told_before_it(shape: Shape) {
    let stack = Stack::plan(shape).start().await;
    let bought = stack.world.buy(order(), stack.now());
    let (session, before) = bought.events.split_last().expect("events");
    assert_eq!(before.len(), 2, "of the charge and of the payment");
    for event in before.iter().chain([session]) {
        stack.deliver(event.body(Rendering::Endive)).await;
    }
    stack.keys(&bought.session).await;
    until("every event is handled", async || {
        let handled = stack.json(&["events", "list", "--filter", "state = HANDLED"]).await;
        (handled.as_array().map(Vec::len) == Some(3)).then_some(())
    })
    .await;
    assert_eq!(stack.stripe.count(Route::Session), 1, "each look is a request of the few that Stripe allows");
}

async fn the_same_events_again_change_nothing(shape: Shape) {
    let stack = Stack::plan(shape).start().await;
    let bought = stack.buy(order()).await;
    let keys = stack.keys(&bought.session).await;
    stack.mail.as_ref().expect("mail").until_mails(1).await;
    for event in bought.events.iter().rev() {
        let again = stack.deliver(event.body(Rendering::Endive)).await;
        assert!(again.body.contains(r#""outcome":"duplicate""#), "{}", again.body);
        // Stripe sometimes makes two events of one change.
        stack.deliver(event.twin().body(Rendering::Endive)).await;
    }
    // A later purchase has its key and mail, so whatever the repetitions would have caused has happened by now.
    let other = stack.buy(order().by("other@example.com")).await;
    stack.keys(&other.session).await;
    stack.mail.as_ref().expect("mail").until_mails(2).await;
    assert_eq!(stack.keys(&bought.session).await, keys);
    assert_eq!(stack.mail.as_ref().expect("mail").mails().await.len(), 2);
    assert_eq!(stack.authforge.counts().of(CallKind::Create), 2);
    stack.assert_promise();
}

async fn every_rendering_of_the_events_comes_to_the_same(shape: Shape) {
    let stack = Stack::plan(shape).without_mail().start().await;
    for rendering in [Rendering::PreBasil, Rendering::Endive, Rendering::Thin] {
        let bought = stack.world.buy(order(), stack.now());
        for event in &bought.events {
            stack.deliver(event.body(rendering)).await;
        }
        assert_eq!(stack.keys(&bought.session).await.len(), 1, "{rendering:?}");
    }
    stack.assert_promise();
}

async fn as_many_keys_as_were_bought(shape: Shape) {
    let stack = Stack::plan(shape).without_mail().start().await;
    let three = stack.buy(order().times(3)).await;
    let lines = stack.buy(order().times(2).and("price_addon")).await;
    let packages = stack.buy(order().times(25).packed(10, true)).await;
    let many_lines = (0..120).fold(order().times(1), |order, n| order.and(&format!("price_{n}")).times(0));
    let many_lines = stack.buy(many_lines).await;
    let too_many = stack.buy(order().times(101)).await;
    assert_eq!(stack.keys(&three.session).await.len(), 3);
    assert_eq!(stack.keys(&lines.session).await.len(), 3);
    assert_eq!(stack.keys(&packages.session).await.len(), 3);
    assert_eq!(stack.keys(&many_lines.session).await.len(), 1, "lines of two pages are read");
    stack.until_grant(&too_many.session, "PARKED", "TooManyUnits").await;
    let labels: Vec<_> = stack.authforge.licenses().into_iter().filter_map(|license| license.label).collect();
    let label = format!("Stripe session {}", three.session);
    for suffix in ["", " #2", " #3"] {
        assert!(labels.contains(&format!("{label}{suffix}")), "{labels:?}");
    }
}

async fn a_delayed_payment_gets_its_key_when_the_money_comes(shape: Shape) {
    let stack = Stack::plan(shape).without_mail().start().await;
    let bought = stack.buy(order().paying(PaymentPlan::Delayed)).await;
    stack.until_grant(&bought.session, "PENDING", "PaymentPending").await;
    assert_eq!(stack.page(&bought.session).await.1["status"], "pending");
    assert_eq!(stack.authforge.counts().of(CallKind::Create), 0);
    stack.deliver_all(&stack.world.turn(&bought.session, Turn::Succeed, stack.now())).await;
    assert_eq!(stack.keys(&bought.session).await.len(), 1);
    stack.assert_promise();
}

async fn a_delayed_payment_that_fails_gets_none(shape: Shape) {
    let stack = Stack::plan(shape).without_mail().start().await;
    let bought = stack.buy(order().paying(PaymentPlan::Delayed)).await;
    stack.until_grant(&bought.session, "PENDING", "PaymentPending").await;
    stack.deliver_all(&stack.world.turn(&bought.session, Turn::Fail, stack.now())).await;
    stack.until_grant(&bought.session, "ENDED", "PaymentFailed").await;
    assert_eq!(stack.page(&bought.session).await.1["status"], "ended");
    stack.assert_promise();
}

async fn an_authorized_payment_gets_its_key_when_it_is_captured(shape: Shape) {
    let stack = Stack::plan(shape).without_mail().start().await;
    let kept = stack.buy(order().paying(PaymentPlan::ManualCapture { says_paid: true })).await;
    let let_go = stack.buy(order().paying(PaymentPlan::ManualCapture { says_paid: false })).await;
    stack.until_grant(&kept.session, "PENDING", "PaymentPending").await;
    stack.until_grant(&let_go.session, "PENDING", "PaymentPending").await;
    stack.deliver_all(&stack.world.turn(&kept.session, Turn::Capture, stack.now())).await;
    stack.deliver_all(&stack.world.turn(&let_go.session, Turn::Cancel, stack.now())).await;
    assert_eq!(stack.keys(&kept.session).await.len(), 1);
    stack.until_grant(&let_go.session, "ENDED", "Canceled").await;
    stack.assert_promise();
}

async fn what_costs_nothing_gets_a_key(shape: Shape) {
    let stack = Stack::plan(shape).without_mail().start().await;
    let bought = stack.buy(order().paying(PaymentPlan::Free)).await;
    assert_eq!(stack.keys(&bought.session).await.len(), 1);
    stack.assert_promise();
}

async fn what_sells_nothing_of_ours_is_left_alone(shape: Shape) {
    use grantsmith_service::stripe::fake::Purchase;
    let stack = Stack::plan(shape).without_mail().start().await;
    let foreign = stack.world.buy(Purchase::of("price_mug").metadata("order", "17"), stack.now());
    for event in &foreign.events {
        let answer = stack.deliver(event.body(Rendering::Endive)).await;
        if event.event_type == "checkout.session.completed" {
            assert!(
                answer.body.contains(r#""outcome":"ignored""#) && answer.body.contains("NotOurs"),
                "{}",
                answer.body
            );
            assert!(answer.body.contains("authforge_app_id"), "the answer says what to do: {}", answer.body);
        }
    }
    stack.until_grant(&foreign.session, "NOT_OURS", "NotOurs").await;
    let setup = stack.buy(order().kind(Kind::Setup)).await;
    stack.until_grant(&setup.session, "NOT_OURS", "NotOurs").await;
    assert_eq!(stack.page(&foreign.session).await.0, 404);
    let listed = stack.json(&["events", "list", "--filter", "reason = NotOurs"]).await;
    assert!(!listed.as_array().expect("a list").is_empty());
    assert_eq!(stack.authforge.counts().of(CallKind::Create), 0);
}

async fn unreadable_metadata_waits_and_is_played_again(shape: Shape) {
    let stack = Stack::plan(shape).without_mail().start().await;
    let bought = stack.world.buy(order().metadata("license_duration", "soon"), stack.now());
    let mut answers = String::new();
    for event in &bought.events {
        answers += &stack.deliver(event.body(Rendering::Endive)).await.body;
    }
    assert!(answers.contains("BadMetadata") && answers.contains("license_duration"), "{answers}");
    let grant = stack.until_grant(&bought.session, "PARKED", "BadMetadata").await;
    assert!(grant["fix"].as_str().expect("a fix").contains("license_duration"));
    let parked = stack.json(&["events", "list", "--filter", "reason = BadMetadata"]).await;
    let event = parked[0]["name"].as_str().expect("a name").to_owned();

    stack.world.edit(&bought.session, |purchase| purchase.metadata("license_duration", "30"));
    let (code, _, error) = stack.tool(&["events", "replay", &event]).await;
    assert_eq!(code, 0, "{error}");
    assert_eq!(stack.keys(&bought.session).await.len(), 1);
    stack.assert_promise();
}

async fn what_a_later_version_handles_is_kept_for_it(shape: Shape) {
    let stack = Stack::plan(shape).without_mail().start().await;
    let bought = stack.buy(order()).await;
    let keys = stack.keys(&bought.session).await;
    let now = stack.now().as_second();
    for (n, kind) in [
        "charge.refunded",
        "refund.created",
        "charge.dispute.created",
        "customer.deleted",
        "invoice_payment.paid",
    ]
    .into_iter()
    .enumerate()
    {
        let body = format!(
            r#"{{"id":"evt_later{n}","object":"event","type":"{kind}","created":{now},"livemode":false,
                "api_version":"2026-10-28.endive","data":{{"object":{{"id":"obj_{n}","object":"any"}}}}}}"#
        );
        let answer = stack.deliver(body.into_bytes()).await;
        assert!(answer.body.contains("NotYetHandled"), "{kind}: {}", answer.body);
    }
    let unknown = format!(
        r#"{{"id":"evt_odd","object":"event","type":"thing.happened","created":{now},"livemode":false,"data":{{"object":{{}}}}}}"#
    );
    let answer = stack.deliver(unknown.into_bytes()).await;
    assert!(
        answer.body.contains(r#""outcome":"ignored""#) && answer.body.contains("UnknownType"),
        "{}",
        answer.body
    );
    let kept = stack.json(&["events", "list", "--filter", "reason = NotYetHandled"]).await;
    assert_eq!(kept.as_array().map(Vec::len), Some(5));
    assert_eq!(kept[0]["state"], "IGNORED");
    assert_eq!(stack.keys(&bought.session).await, keys, "and nothing is changed by them");
    stack.assert_promise();
}

async fn without_a_stripe_key_the_events_are_believed(shape: Shape) {
    let stack = Stack::plan(shape).events_only().without_mail().start().await;
    // The success page comes first, and finds nothing to say yet.
    let bought = stack.world.buy(order().times(3), stack.now());
    assert_eq!(stack.page(&bought.session).await.0, 404);
    stack.deliver_all(&bought.events).await;
    assert_eq!(
        stack.keys(&bought.session).await.len(),
        1,
        "events do not tell quantities: one, as in the guide"
    );
    let delayed = stack.buy(order().paying(PaymentPlan::Delayed)).await;
    stack.until_grant(&delayed.session, "PENDING", "PaymentPending").await;
    let failed = stack.buy(order().paying(PaymentPlan::Delayed)).await;
    // The end is told before the beginning is repeated.
    stack.deliver_all(&stack.world.turn(&failed.session, Turn::Fail, stack.now())).await;
    for event in &failed.events {
        stack.deliver(event.twin().body(Rendering::Endive)).await;
    }
    stack.until_grant(&failed.session, "ENDED", "PaymentFailed").await;
    stack.deliver_all(&stack.world.turn(&delayed.session, Turn::Succeed, stack.now())).await;
    assert_eq!(stack.keys(&delayed.session).await.len(), 1);
    let thin = stack.world.buy(order(), stack.now());
    for event in thin.events.iter().filter(|event| event.event_type.starts_with("checkout.")) {
        let answer = stack.deliver(event.body(Rendering::Thin)).await;
        assert!(answer.body.contains("NeedsStripeKey"), "{}", answer.body);
    }
    assert!(stack.logs().contains("events only"), "its limits are said at the start");
}

async fn the_page_of_a_stranger_is_not_found(shape: Shape) {
    let stack = Stack::plan(shape).without_mail().start().await;
    stack.keys(&stack.buy(order()).await.session).await;
    for session in ["", "cs_test_nobody", "cs_live_other", "pi_1", "cs_test_a'b", "%00"] {
        let (status, page) = stack.page(session).await;
        assert_eq!((status, page["error"].as_str()), (404, Some("License not found")), "{session}");
    }
    // Asking costs Stripe nothing for ids that cannot be ours.
    until("the page of somebody faster than the event", async || {
        let early = stack.world.buy(order(), stack.now());
        let (status, page) = stack.page(&early.session).await;
        (status == 200 && page["status"] == "pending").then_some(())
    })
    .await;
}
