//! What the catalog sells, and that nothing sold before changes with it.

#![expect(clippy::expect_used, reason = "a test stops where the world is not as it set it up")]

use grantsmith_service::stripe::fake::{Kind, Purchase, Rendering, SubscriptionTurn};
use grantsmith_tests::program::run;
use grantsmith_tests::stack::order;
use grantsmith_tests::{APP, AUTHFORGE_KEY, Shape, Stack, until};
use jiff::Timestamp;
use serde_json::Value;

const APP_2: &str = "7d9f6a9e-0000-4000-8000-000000000002";

/// A catalog of one-time plans: name, what each is sold by, and for how long on how many devices.
fn catalog(plans: &[(&str, &str, &str)]) -> String {
    let plan = |(name, key, lasts): &(&str, &str, &str)| {
        format!("  - name: {name}\n    {key}\n    app_id: {APP}\n    {lasts}\n")
    };
    format!("plans:\n{}", plans.iter().map(plan).collect::<String>())
}

fn pro(lasts: &str) -> String {
    catalog(&[("pro", "price: price_pro", lasts)])
}

/// Whole days from the payment to the end of the first license, and on how many devices it may be used.
fn sold(grant: &Value) -> (Option<i64>, i64) {
    let time = |value: &Value| value.as_str().and_then(|text| text.parse::<Timestamp>().ok());
    let license = &grant["licenses"][0];
    let paid = time(&grant["purchase"]["pay_time"]).expect("paid");
    let days = time(&license["expire_time"]).map(|ends| ends.duration_since(paid).as_hours() / 24);
    (days, license["max_hwid_slots"].as_i64().unwrap_or_default())
}

async fn ready(stack: &Stack, purchase: &str) -> Value {
    stack.until_grant(purchase, "READY", "Issued").await
}

async fn replay_all(stack: &Stack, purchase: &str) {
    let events = stack.json(&["events", "list"]).await;
    let about = |event: &&Value| event["object"] == purchase;
    for event in events.as_array().expect("a list").iter().filter(about) {
        let (code, _, error) =
            stack.tool(&["events", "replay", event["name"].as_str().expect("a name")]).await;
        assert_eq!(code, 0, "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purchase_without_metadata_gets_what_its_price_lookup_key_or_product_sells() {
    for shape in [Shape::Standalone, Shape::Split] {
        let plans = catalog(&[
            ("pro", "price: price_pro", "duration: 30d\n    max_hwid_slots: 3"),
            ("key", "lookup_key: key_year", "duration: 365d"),
            ("all", "product: prod_all", "duration: lifetime\n    unlimited_hwid_slots: true"),
        ]);
        let stack = Stack::plan(shape).without_mail().catalog(&plans).start().await;
        for (purchase, expected) in [
            (Purchase::of("price_pro"), (Some(30), 3)),
            (Purchase::of("price_any").lookup_key("key_year"), (Some(365), 1)),
            (Purchase::of("price_other").product("prod_all"), (None, 0)),
        ] {
            let bought = stack.buy(purchase).await;
            assert_eq!(stack.keys(&bought.session).await.len(), 1);
            assert_eq!(sold(&ready(&stack, &bought.session).await), expected);
        }
        let metadata = stack.buy(order()).await;
        assert_eq!(sold(&ready(&stack, &metadata.session).await), (Some(365), 2), "metadata goes first");
        stack.assert_promise();

        // The event does not tell the price, so its answer does not call it somebody else's.
        let foreign = stack.world.buy(Purchase::of("price_mug").product("prod_mug"), stack.now());
        for event in &foreign.events {
            let answer = stack.deliver(event.body(Rendering::Endive)).await;
            assert!(!answer.body.contains("NotOurs"), "{}", answer.body);
        }
        stack.until_grant(&foreign.session, "NOT_OURS", "NotOurs").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_of_several_plans_are_sold_each_by_its_own() {
    let plans = format!(
        "plans:\n  - {{name: a, price: price_a, app_id: {APP}, duration: 30d}}\n  \
         - {{name: b, price: price_b, app_id: {APP_2}, duration: lifetime}}\n"
    );
    let stack = Stack::plan(Shape::Standalone).without_mail().catalog(&plans).start().await;
    let lines = Purchase::of("price_a").times(2).and("price_mug").and("price_b");
    let bought = stack.buy(lines).await;
    let grant = ready(&stack, &bought.session).await;
    let licenses = grant["licenses"].as_array().expect("licenses");
    let mut apps: Vec<&str> = licenses.iter().filter_map(|license| license["app_id"].as_str()).collect();
    apps.sort_unstable();
    assert_eq!(apps, [APP, APP, APP_2], "and none for what the catalog does not sell");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_catalog_is_for_later_purchases() {
    for shape in [Shape::Standalone, Shape::Split] {
        let before = pro("duration: 30d\n    max_hwid_slots: 2");
        let mut stack = Stack::plan(shape).without_mail().catalog(&before).start().await;
        let first = stack.buy(Purchase::of("price_pro")).await;
        let keys = stack.keys(&first.session).await;

        stack.sell(&pro("duration: 90d\n    max_hwid_slots: 5")).await;
        replay_all(&stack, &first.session).await;
        let second = stack.buy(Purchase::of("price_pro")).await;
        assert_eq!(sold(&ready(&stack, &second.session).await), (Some(90), 5));
        assert_eq!(sold(&ready(&stack, &first.session).await), (Some(30), 2));
        assert_eq!(stack.keys(&first.session).await, keys);
        stack.assert_promise();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_keeps_the_rules_it_was_sold_with() {
    let team = |buffer: &str| {
        catalog(&[("team", "price: price_team", &format!("duration: subscription\n    buffer: {buffer}"))])
    };
    let mut stack = Stack::plan(Shape::Standalone).without_mail().catalog(&team("24h")).start().await;
    let bought = stack.buy(Purchase::of("price_team").kind(Kind::Subscription)).await;
    let subscription = bought.subscription.expect("a subscription");
    let buffer = async |stack: &Stack| {
        let truth = stack.world.true_subscriptions();
        let end = truth.iter().find(|truth| truth.subscription == subscription).expect("known").period_end;
        until("the license to follow the period", async || {
            let grant = stack.grant(&subscription).await?;
            let ends: Timestamp = grant["licenses"][0]["expire_time"].as_str()?.parse().ok()?;
            (ends > end).then(|| ends.duration_since(end).as_hours())
        })
        .await
    };
    assert_eq!(buffer(&stack).await, 24);
    stack.sell(&team("72h")).await;
    let renewed = stack.world.turn_subscription(&subscription, SubscriptionTurn::Renew, stack.now());
    stack.deliver_all(&renewed).await;
    assert_eq!(buffer(&stack).await, 24, "as it was sold");
}

#[tokio::test(flavor = "multi_thread")]
async fn money_for_a_price_that_lost_its_terms_waits_for_a_person() {
    let pro = pro("duration: 30d");
    let mut stack = Stack::plan(Shape::Standalone).without_mail().catalog(&pro).start().await;
    let price = || Purchase::of("price_pro").product("prod_pro");
    stack.keys(&stack.buy(price()).await.session).await;

    stack.sell(&catalog(&[("other", "price: price_other", "duration: 30d")])).await;
    let waiting = stack.buy(price()).await;
    let new_price = stack.buy(Purchase::of("price_new").product("prod_pro")).await;
    let foreign = stack.buy(Purchase::of("price_mug").product("prod_mug")).await;
    let abandoned = stack.world.abandon(price(), stack.now());
    stack.deliver_all(&abandoned.events).await;
    let grant = stack.until_grant(&waiting.session, "PARKED", "NoTerms").await;
    assert!(grant["fix"].as_str().expect("a fix").contains("catalog"), "{grant}");
    stack.until_grant(&new_price.session, "PARKED", "NoTerms").await;
    stack.until_grant(&foreign.session, "NOT_OURS", "NotOurs").await;
    stack.until_grant(&abandoned.session, "NOT_OURS", "NotOurs").await;

    stack.sell(&pro).await;
    replay_all(&stack, &waiting.session).await;
    assert_eq!(stack.keys(&waiting.session).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_stripe_key_prices_that_no_event_tells_are_not_guessed() {
    let plan = Stack::plan(Shape::Standalone).without_mail().catalog(&pro("duration: 30d")).events_only();
    let stack = plan.start().await;
    let untold = stack.buy(Purchase::of("price_pro")).await;
    stack.until_grant(&untold.session, "PARKED", "NeedsStripeKey").await;
    let told = stack.buy(order()).await;
    assert_eq!(stack.keys(&told.session).await.len(), 1, "metadata is told");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalog_is_checked_with_line_and_column_before_it_is_used() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("a file");
    write("good.yaml", &pro("duration: 30d"));
    write("bad.yaml", &pro("duration: 30d\n    colour: red"));
    let (code, out, error) = run(&["catalog", "check", "good.yaml"], &[], folder.path()).await;
    assert_eq!((code, error.as_str()), (0, ""));
    assert!(out.contains("1 plan"), "{out}");
    for (file, words) in [("bad.yaml", "bad.yaml:6:5: unknown field `colour`"), ("none.yaml", "none.yaml")] {
        let (code, out, error) = run(&["catalog", "check", file], &[], folder.path()).await;
        assert_eq!((code, out.as_str()), (2, ""), "{error}");
        assert!(error.contains(words), "{error}");
    }
    write("authforge", AUTHFORGE_KEY);
    write("secrets", "whsec_1\n");
    let start = [
        "standalone",
        "--stripe-mode",
        "test",
        "--events-only",
        "--stripe-webhook-secrets-file",
        "secrets",
        "--authforge-api-key-file",
        "authforge",
        "--http-listen",
        "127.0.0.1:0",
        "--grpc-listen",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
        "--catalog",
        "bad.yaml",
    ];
    let (code, _, error) = run(&start, &[], folder.path()).await;
    assert_eq!(code, 2, "{error}");
    assert!(error.contains("bad.yaml:6:5"), "{error}");
}
