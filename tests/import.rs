//! Keys that were sold before: imported, known from then on, and never made or mailed again.

#![expect(clippy::expect_used, reason = "a test stops where the world is not as it set it up")]

use std::collections::BTreeSet;

use grantsmith_authforge::fake::{CallKind, NewLicense};
use grantsmith_service::stripe::fake::SubscriptionTurn::{Cancel, PayProration, Renew, SetQuantity};
use grantsmith_service::stripe::fake::{Bought, Kind};
use grantsmith_tests::stack::{Plan, order};
use grantsmith_tests::{APP, Shape, Stack, until};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

grantsmith_tests::walkthroughs! {
    in_one_process of Standalone:
        keys_are_known_whatever_their_label,
        without_a_stripe_key_they_stand_and_people_decide_about_them,
        a_purchase_that_was_held_gets_its_key,
        more_keys_than_units_stay_as_long_as_the_subscription;
    in_two of Split:
        keys_are_known_whatever_their_label;
    in_a_cluster of Cluster:
        keys_are_known_whatever_their_label,
        without_a_stripe_key_they_stand_and_people_decide_about_them,
        a_purchase_that_was_held_gets_its_key,
        more_keys_than_units_stay_as_long_as_the_subscription;
}

const HEAD: &str = "email,stripe_id,order,license_key,app_id\n";

/// With everything that is missing made at once: a key that is not known is made again.
fn eager(shape: Shape) -> Plan {
    Stack::plan(shape).flags(&["--look-before-create-after", "0s", "--create-missing"])
}

fn days(days: i64) -> SignedDuration {
    SignedDuration::from_hours(24 * days)
}

/// A key that another program has made at AuthForge.
fn sold(stack: &Stack, label: Option<String>, expires_at: Option<Timestamp>) -> String {
    let license = NewLicense { label, expires_at, max_hwid_slots: 3, ..NewLicense::labeled(APP, "") };
    stack.authforge.insert(license)
}

/// A subscription that was bought 25 days ago.
fn subscribed(stack: &Stack) -> (String, Bought) {
    let purchase = order().kind(Kind::Subscription).subscription_metadata("authforge_app_id", APP);
    let bought = stack.world.buy(purchase, stack.now() - days(25));
    (bought.subscription.clone().expect("a subscription"), bought)
}

fn bought(stack: &Stack) -> Bought {
    stack.world.buy(order(), stack.now() - days(25))
}

fn row(id: &str, key: &str) -> String {
    format!("old@example.com,{id},\"17, paid\",{key},{APP}\n")
}

/// Imports rows; gives the exit code and what is told.
async fn import(stack: &Stack, rows: &[String], flags: &[&str]) -> (i32, Value) {
    std::fs::write(stack.folder.path().join("sold.csv"), HEAD.to_owned() + &rows.concat()).expect("a file");
    let (code, out, error) = stack.tool(&[&["import", "sold.csv", "-o", "json"], flags].concat()).await;
    assert!(!out.is_empty(), "{error}");
    let told = serde_json::from_str(&out).expect("JSON");
    (code, told)
}

/// What becomes of a good row: an operator looks keys up later.
fn taken(shape: Shape) -> &'static str {
    if shape == Shape::Cluster { "declared" } else { "adopted" }
}

fn outcomes(told: &Value) -> Vec<String> {
    let rows = told["rows"].as_array().expect("rows");
    rows.iter().map(|row| row["outcome"].as_str().expect("a word").to_owned()).collect()
}

/// Everything that the record holds.
fn record(stack: &Stack) -> BTreeSet<String> {
    let record = rusqlite::Connection::open(stack.folder.path().join("grantsmith.db")).expect("the record");
    let mut tables = record.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'").expect("a schema");
    let names: Vec<String> =
        tables.query_map([], |row| row.get(0)).expect("rows").collect::<Result<_, _>>().expect("names");
    let dump = |name: &String| {
        let mut table = record.prepare(&format!("SELECT * FROM {name}")).expect("a table");
        let columns = table.column_count();
        let rows = table.query_map([], |row| {
            let value = |column| row.get::<_, rusqlite::types::Value>(column);
            (0..columns)
                .map(|column| value(column).map(|value| format!("|{value:?}")))
                .collect::<Result<String, _>>()
        });
        rows.expect("rows").map(|row| name.clone() + &row.expect("a row")).collect::<Vec<_>>()
    };
    names.iter().flat_map(dump).collect()
}

fn expiry(stack: &Stack, key: &str) -> Option<Timestamp> {
    let all = stack.authforge.licenses();
    all.into_iter().find(|license| license.key == key).expect("stored").expires_at
}

fn live(stack: &Stack) -> BTreeSet<String> {
    let all = stack.authforge.licenses().into_iter();
    all.filter(|license| !license.revoked).map(|license| license.key).collect()
}

fn period_end(stack: &Stack, id: &str) -> Option<Timestamp> {
    let all = stack.world.true_subscriptions();
    all.into_iter().find(|truth| truth.subscription == id).map(|truth| truth.period_end)
}

async fn keys_are_known_whatever_their_label(shape: Shape) {
    let stack = eager(shape).start().await;
    let end = "2031-05-05T00:00:00Z".parse().ok();
    let purchases: Vec<Bought> = (0..3).map(|_| bought(&stack)).collect();
    let (subscription, of_subscription) = subscribed(&stack);
    let keys = [
        sold(&stack, Some(format!("Stripe session {}", purchases[0].session)), end),
        sold(&stack, Some("order 17".to_owned()), end),
        sold(&stack, None, None),
        sold(&stack, Some("order 18".to_owned()), period_end(&stack, &subscription)),
    ];
    let ids = purchases.iter().map(|bought| &bought.session).chain([&subscription]);
    let rows: Vec<String> = ids.zip(&keys).map(|(id, key)| row(id, key)).collect();

    let before = record(&stack);
    let (code, told) = import(&stack, &rows, &["--dry-run"]).await;
    let would = if shape == Shape::Cluster { "would declare" } else { "would adopt" };
    assert_eq!((code, outcomes(&told)), (0, vec![would.to_owned(); 4]));
    assert_eq!(record(&stack), before, "a dry run writes nothing");

    let (code, told) = import(&stack, &rows, &[]).await;
    assert_eq!((code, outcomes(&told)), (0, vec![taken(shape).to_owned(); 4]));
    assert!(keys.iter().all(|key| !told.to_string().contains(key)), "no key is told whole");
    for id in purchases.iter().map(|bought| &bought.session).chain([&subscription]) {
        stack.until_grant(id, "READY", "Adopted").await;
    }
    // What Stripe has sent to the old program is sent again.
    for bought in purchases.iter().chain([&of_subscription]) {
        stack.deliver_all(&bought.events).await;
    }
    stack.settled().await;
    let (code, told) = import(&stack, &rows, &[]).await;
    assert_eq!((code, outcomes(&told)), (0, vec!["known".to_owned(); 4]));
    let (_, table, _) = stack.tool(&["import", "sold.csv"]).await;
    assert!(table.ends_with("4 rows: 4 known\n"), "{table}");

    stack.deliver_all(&stack.world.turn_subscription(&subscription, Renew, stack.now() - days(1))).await;
    let renewed = period_end(&stack, &subscription);
    until("the renewal", async || (expiry(&stack, &keys[3]) == renewed).then_some(())).await;
    assert_eq!(live(&stack), BTreeSet::from(keys.clone()), "no second key, and none revoked");
    assert_eq!(stack.authforge.counts().of(CallKind::Create), 0);
    assert_eq!(
        [&keys[0], &keys[1], &keys[2]].map(|key| expiry(&stack, key)),
        [end, end, None],
        "as it was sold"
    );

    stack.deliver_all(&stack.world.turn_subscription(&subscription, Cancel, stack.now())).await;
    until("its end", async || (!live(&stack).contains(&keys[3])).then_some(())).await;
    stack.settled().await;
    let mails = stack.mail.as_ref().expect("mail").mails().await;
    assert!(mails.is_empty(), "whoever made them has handed them over: {mails:?}");
    let grant = stack.grant(&keys[1]).await.expect("found by its key");
    assert_eq!(grant["licenses"][0]["max_hwid_slots"], 3, "the key's own, not the purchase's");
    assert!(keys.iter().all(|key| !stack.logs().contains(key)));
}

async fn without_a_stripe_key_they_stand_and_people_decide_about_them(shape: Shape) {
    let stack = eager(shape).events_only().start().await;
    let one = bought(&stack);
    let (subscription, of_subscription) = subscribed(&stack);
    let keys = [sold(&stack, None, None), sold(&stack, None, period_end(&stack, &subscription))];
    let rows = [row(&one.session, &keys[0]), row(&subscription, &keys[1])];
    assert_eq!(import(&stack, &rows, &[]).await.0, 0);
    let grant = stack.until_grant(&one.session, "READY", "Adopted").await;
    assert_eq!(grant["customer"]["email"], "old@example.com");
    stack.until_grant(&subscription, "READY", "Adopted").await;

    let name = grant["name"].as_str().expect("a name");
    assert_eq!(stack.tool(&["grants", "revoke", name]).await.0, 0);
    until("a revoked key", async || (!live(&stack).contains(&keys[0])).then_some(())).await;
    assert_eq!(stack.tool(&["grants", "clear-override", name]).await.0, 0);
    until("a key that is back", async || live(&stack).contains(&keys[0]).then_some(())).await;

    for bought in [&one, &of_subscription] {
        stack.deliver_all(&bought.events).await;
    }
    stack.deliver_all(&stack.world.turn_subscription(&subscription, Renew, stack.now() - days(1))).await;
    let renewed = period_end(&stack, &subscription);
    until("the renewal", async || (expiry(&stack, &keys[1]) == renewed).then_some(())).await;
    stack.settled().await;
    assert_eq!(live(&stack), BTreeSet::from(keys));
    assert!(stack.mail.as_ref().expect("mail").mails().await.is_empty());
}

async fn a_purchase_that_was_held_gets_its_key(shape: Shape) {
    let stack = Stack::plan(shape).start().await;
    let one = bought(&stack);
    stack.deliver_all(&one.events).await;
    stack.until_grant(&one.session, "PARKED", "BeforeStart").await;
    let key = sold(&stack, Some("order 17".to_owned()), None);
    assert_eq!(import(&stack, &[row(&one.session, &key)], &[]).await.0, 0);
    let grant = stack.until_grant(&one.session, "READY", "Adopted").await;
    assert_eq!(grant["licenses"].as_array().map(Vec::len), Some(1));
    assert_eq!(stack.keys(&one.session).await, [key]);
    assert_ne!(grant["customer"]["email"], "old@example.com", "Stripe knew a newer one");
}

async fn more_keys_than_units_stay_as_long_as_the_subscription(shape: Shape) {
    let stack = eager(shape).start().await;
    let (subscription, bought) = subscribed(&stack);
    let keys: Vec<String> =
        (0..2).map(|_| sold(&stack, Some(format!("Stripe sub {subscription}")), None)).collect();
    // One row names the session that sold it.
    let rows = [row(&subscription, &keys[0]), row(&bought.session, &keys[1])];
    let (code, told) = import(&stack, &rows, &[]).await;
    assert_eq!((code, outcomes(&told)), (0, vec![taken(shape).to_owned(); 2]));
    stack.deliver_all(&bought.events).await;
    stack.deliver_all(&stack.world.turn_subscription(&subscription, Renew, stack.now() - days(1))).await;
    let renewed = period_end(&stack, &subscription);
    until("both renewals", async || keys.iter().all(|key| expiry(&stack, key) == renewed).then_some(()))
        .await;
    stack.settled().await;
    assert_eq!(live(&stack), keys.iter().cloned().collect(), "one was paid for, and both were handed over");

    // Once a second unit was paid for, giving it back takes its key.
    for turn in [SetQuantity(2), PayProration, SetQuantity(1)] {
        assert_eq!(live(&stack).len(), 2);
        stack.deliver_all(&stack.world.turn_subscription(&subscription, turn, stack.now())).await;
        stack.settled().await;
    }
    until("one key", async || (live(&stack).len() == 1).then_some(())).await;
    stack.deliver_all(&stack.world.turn_subscription(&subscription, Cancel, stack.now())).await;
    until("their end", async || live(&stack).is_empty().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_cannot_be_true_are_refused_one_by_one() {
    let stack = eager(Shape::Standalone).start().await;
    let (one, other, third) = (bought(&stack), bought(&stack), bought(&stack));
    let good = sold(&stack, None, None);
    let elsewhere = sold(&stack, Some(format!("Stripe session {}", other.session)), None);
    let unnamed = sold(&stack, None, None);
    let rows = [
        row(&one.session, &good),
        row(&one.session, &elsewhere),
        row(&one.session, "AAAA-BBBB-CCCC-DDDD"),
        row("cs_test_nobody", &unnamed),
        format!(",{},,{unnamed},another-app\n", third.session),
    ];
    let (code, told) = import(&stack, &rows[..4], &[]).await;
    assert_eq!(code, 1);
    assert_eq!(outcomes(&told), ["adopted", "refused", "refused", "refused"]);
    let why = |told: &Value, row: usize| told["rows"][row]["why"].as_str().expect("why").to_owned();
    assert!(why(&told, 1).contains(&other.session), "{told}");
    assert!(why(&told, 2).contains("AuthForge has no license"), "{told}");
    assert!(why(&told, 3).contains("Stripe has no such object"), "{told}");
    let (code, told) = import(&stack, &rows[4..], &[]).await;
    assert!(code == 1 && why(&told, 0).contains("correct app_id"), "{told}");
    let (code, told) = import(&stack, &[row(&third.session, &good)], &[]).await;
    assert!(code == 1 && why(&told, 0).contains("another purchase"), "{told}");
    assert_eq!(stack.grants().await.len(), 1);

    let text = format!("{HEAD}{}{}", row(&third.session, &unnamed), row("pi_1", &unnamed));
    std::fs::write(stack.folder.path().join("sold.csv"), text).expect("a file");
    let (code, _, error) = stack.tool(&["import", "sold.csv"]).await;
    assert!(code == 2 && error.contains("line 3: stripe_id") && !error.contains(&unnamed), "{error}");
    assert_eq!(stack.grants().await.len(), 1, "nothing is done before the whole file was read");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_taken_in_while_observing() {
    let stack = Stack::plan(Shape::Standalone).flags(&["--mode", "observe"]).start().await;
    let one = bought(&stack);
    let key = sold(&stack, None, None);
    assert_eq!(import(&stack, &[row(&one.session, &key)], &[]).await.0, 0);
    stack.deliver_all(&one.events).await;
    let grant = stack.until_grant(&one.session, "READY", "Adopted").await;
    assert_eq!(grant["fix"], "", "nothing would be done");
    let calls = stack.authforge.counts();
    assert_eq!((calls.of(CallKind::Create), calls.of(CallKind::Put)), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_does_not_find_waits_for_the_right_key() {
    let stack = eager(Shape::Cluster).start().await;
    let (one, other) = (bought(&stack), bought(&stack));
    let (key, of_other) = (sold(&stack, None, None), sold(&stack, None, None));
    let wrong = [row(&one.session, "AAAA-BBBB-CCCC-DDDD"), row(&other.session, &of_other)];
    assert_eq!(outcomes(&import(&stack, &wrong, &[]).await.1), ["declared"; 2]);
    let parked = stack.until_grant(&one.session, "PARKED", "KeyNotFound").await;
    assert!(parked["fix"].as_str().is_some_and(|fix| fix.contains("import the right key")), "{parked}");
    stack.until_grant(&other.session, "READY", "Adopted").await;
    stack.deliver_all(&one.events).await;

    let taken = [row(&one.session, &of_other)];
    let (code, told) = import(&stack, &taken, &[]).await;
    assert!(code == 1 && told["rows"][0]["why"].to_string().contains("another purchase"), "{told}");
    let right = [row(&one.session, &key)];
    assert_eq!(outcomes(&import(&stack, &right, &[]).await.1), ["declared"]);
    let grant = stack.until_grant(&one.session, "READY", "Adopted").await;
    assert_eq!(grant["licenses"].as_array().map(Vec::len), Some(1), "in place of the wrong one");
    assert_eq!(stack.keys(&one.session).await, [key]);
    assert_eq!(stack.authforge.counts().of(CallKind::Create), 0);

    // What people declare is theirs to change.
    let third = bought(&stack);
    let purchase = serde_json::json!({"provider": "stripe", "id": third.session});
    let spec = serde_json::json!({"purchase": purchase, "licenses": [{"name": "main", "appId": APP, "state": "Revoked"}]});
    stack.realm.as_ref().expect("a cluster").declare("theirs", &spec).await;
    until("it to be known", async || stack.grant(&third.session).await).await;
    let (code, told) = import(&stack, &[row(&third.session, &sold(&stack, None, None))], &[]).await;
    let why = told["rows"][0]["why"].as_str().unwrap_or_default();
    assert!(code == 1 && why.contains("people declare the grant") && why.contains("'theirs'"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_old_purchase_only_what_was_imported_is_declared() {
    let stack = Stack::plan(Shape::Cluster).start().await;
    let one = stack.world.buy(order().times(2), stack.now() - days(25));
    let (key, of_other) = (sold(&stack, None, None), bought(&stack));
    assert_eq!(import(&stack, &[row(&one.session, &key)], &[]).await.0, 0);
    let grant = stack.until_grant(&one.session, "PARKED", "BeforeStart").await;
    stack.deliver_all(&one.events).await;
    stack.settled().await;
    assert_eq!(
        live(&stack),
        BTreeSet::from([key.clone()]),
        "somebody else may have handed the other one over"
    );
    let name = grant["name"].as_str().expect("a name");
    assert_eq!(stack.tool(&["grants", "release", name]).await.0, 0);
    stack.until_grant(&one.session, "READY", "Adopted").await;
    assert_eq!(live(&stack).len(), 2);
    stack.mail.as_ref().expect("mail").until_mails(1).await;

    // What its label says was sold to somebody else is not taken for them.
    let mistaken = sold(&stack, Some(format!("Stripe session {}", one.session)), None);
    assert_eq!(import(&stack, &[row(&of_other.session, &mistaken)], &[]).await.0, 0);
    stack.until_grant(&of_other.session, "PARKED", "KeyNotFound").await;
}
