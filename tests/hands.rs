//! The merchant's hand: grants made without a purchase, overridden, replaced, and what their history tells.

#![expect(clippy::expect_used, reason = "a test stops where the world is not as it set it up")]

use grantsmith_authforge::fake::{CallKind, Deeds, Fault, NewLicense};
use grantsmith_proto::v1 as pb;
use grantsmith_service::grpc::tokens::Role;
use grantsmith_service::stripe::fake::{
    Event, Fault as StripeFault, Kind, Start, Subscribed, SubscriptionTurn,
};
use grantsmith_tests::mailpit::Mailpit;
use grantsmith_tests::stack::order;
use grantsmith_tests::{APP, Shape, Stack, until};
use serde_json::Value;
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// Runs a walkthrough in every shape, side by side.
macro_rules! in_every_shape {
    ($($name:ident;)*) => {
        mod standalone {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name(Shape::Standalone).await; })*
        }
        mod server_and_webhook {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name(Shape::Split).await; })*
        }
        mod server_webhook_and_operator {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name(Shape::Cluster).await; })*
        }
    };
}

in_every_shape! {
    a_grant_by_rpc_has_its_key_and_mail_once;
    a_grant_by_command_line_has_as_many_keys_as_asked_for;
    what_a_person_decides_outranks_the_purchase_until_it_is_taken_back;
    a_key_revoked_at_authforge_comes_back_by_hand;
    a_leaked_key_is_replaced;
    a_replacement_survives_a_lost_answer_and_a_kill;
    an_address_set_by_hand_stays;
    an_expiry_set_by_hand_is_taken_back_with_the_rest;
    the_history_tells_all_in_words_and_no_secret;
    a_hand_works_while_stripe_is_down;
    a_subscription_that_is_over_lives_on_by_hand;
    a_held_revocation_passes_when_it_is_released;
    a_grant_is_found_by_whatever_names_it;
    devices_are_unbound_once_for_each_request;
    what_cannot_be_done_says_why;
}

fn mailbox(stack: &Stack) -> &Mailpit {
    stack.mail.as_ref().expect("a mail server")
}

fn order_of(reference: &str) -> pb::CreateLicenseGrantRequest {
    let license = pb::License { app_id: APP.to_owned(), ..Default::default() };
    pb::CreateLicenseGrantRequest {
        license_grant: Some(pb::LicenseGrant {
            licenses: vec![license],
            customer: Some(pb::Customer { email: "press@example.com".to_owned() }),
            ..Default::default()
        }),
        external_reference: reference.to_owned(),
        request_id: String::new(),
        wait: true,
    }
}

fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

/// The keys of a label that work at AuthForge.
fn live(stack: &Stack, label: &str) -> Vec<String> {
    let licenses = stack.authforge.licenses().into_iter();
    let of_label =
        |found: &str| found == label || found.strip_prefix(label).is_some_and(|rest| rest.starts_with(' '));
    licenses
        .filter(|license| !license.revoked && license.label.as_deref().is_some_and(of_label))
        .map(|license| license.key)
        .collect()
}

async fn tool(stack: &Stack, arguments: &[&str]) -> Value {
    stack.json(&[&["grants"], arguments].concat()).await
}

/// The keys that a person with the right to see them is told.
async fn told(stack: &Stack, name: &str) -> Vec<String> {
    let keys = tool(stack, &["key", name]).await;
    let keys = keys.as_array().cloned().unwrap_or_default();
    keys.iter().filter_map(|key| key["license_key"].as_str().map(str::to_owned)).collect()
}

/// Buys something; gives the grant's name once its key is there and mailed.
async fn bought(stack: &Stack, buyer: &str) -> (String, String) {
    let bought = stack.buy(order().by(buyer)).await;
    let grant = until("the mail of a purchase", async || {
        stack.grant(&bought.session).await.filter(|grant| grant["delivery"]["state"] == "SENT")
    })
    .await;
    (bought.session, grant["name"].as_str().expect("a name").to_owned())
}

async fn until_ready(stack: &Stack, name: &str, reason: &str) -> Value {
    until(&format!("{name} to be ready, {reason}"), async || {
        let grant = tool(stack, &["get", name]).await;
        (grant["state"] == "READY" && grant["reason"] == reason).then_some(grant)
    })
    .await
}

async fn a_grant_by_rpc_has_its_key_and_mail_once(shape: Shape) {
    let stack = Stack::plan(shape).flags(&["--installation", "shop-1"]).start().await;
    let mut service = stack.grant_service();
    let mut first = order_of("press-2026-17");
    "0a1b".clone_into(&mut first.request_id);
    let grant = service.create_license_grant(stack.authorized(Role::Manage, first.clone())).await;
    let grant = grant.expect("made").into_inner();
    assert_eq!((grant.state(), grant.reason.as_str()), (pb::license_grant::State::Ready, "Issued"));
    let purchase = grant.purchase.clone().expect("a purchase");
    assert_eq!((purchase.provider.as_str(), purchase.id.as_str()), ("manual", "shop-1/press-2026-17"));
    let keys = live(&stack, "Grant shop-1/press-2026-17");
    assert_eq!(keys, told(&stack, &grant.name).await);
    let mails = mailbox(&stack).until_mails(1).await;
    let mail = mailbox(&stack).mail(mails[0]["ID"].as_str().expect("an id")).await;
    assert!(mail["Text"].as_str().expect("text").contains(&keys[0]));
    assert!(mail["Text"].as_str().expect("text").contains("Order press-2026-17"), "{}", mail["Text"]);

    let again = service.create_license_grant(stack.authorized(Role::Manage, first.clone())).await;
    assert_eq!(again.expect("a repetition counts once").into_inner().name, grant.name);
    let twice = service.create_license_grant(stack.authorized(Role::Manage, order_of("press-2026-17"))).await;
    let twice = twice.expect_err("the reference is used");
    let info = twice.get_details_error_info().expect("details");
    assert_eq!((twice.code(), info.metadata.get("license_grant")), (Code::AlreadyExists, Some(&grant.name)));
    let mut other = order_of("another");
    other.request_id.clone_from(&first.request_id);
    let other = service.create_license_grant(stack.authorized(Role::Manage, other)).await;
    let other = other.expect_err("the request id is used");
    assert_eq!((other.code(), reason(&other).as_str()), (Code::InvalidArgument, "REQUEST_ID_REUSED"));
    let stranger = service.create_license_grant(stack.authorized(Role::Read, order_of("no"))).await;
    assert_eq!(stranger.expect_err("needs the role manage").code(), Code::PermissionDenied);
    assert_eq!(stack.authforge.counts().of(CallKind::Create), 1);
}

async fn a_grant_by_command_line_has_as_many_keys_as_asked_for(shape: Shape) {
    let stack = Stack::plan(shape).start().await;
    let create =
        ["create", "--reference", "reseller:7/2", "--app", APP, "--quantity", "3", "--slots", "2", "--wait"];
    let grant = tool(&stack, &[&create[..], &["--days", "30", "--note", "for Mona"]].concat()).await;
    assert_eq!((&grant["state"], &grant["note"]), (&"READY".into(), &"for Mona".into()));
    let name = grant["name"].as_str().expect("a name");
    assert_eq!(told(&stack, name).await.len(), 3);
    let mut labels: Vec<_> =
        stack.authforge.licenses().into_iter().filter_map(|license| license.label).collect();
    labels.sort();
    let label = "Grant default/reseller:7/2";
    assert_eq!(labels, [label.to_owned(), format!("{label} #2"), format!("{label} #3")]);
    assert!(
        stack
            .authforge
            .licenses()
            .iter()
            .all(|license| license.max_hwid_slots == 2 && license.expires_at.is_some())
    );
    assert!(grant["delivery"].is_null(), "nobody to mail to, and nothing to worry about");
    let (code, _, error) = stack.tool(&[&["grants"], &create[..]].concat()).await;
    assert!(code == 1 && error.contains(name), "{error}");
    assert_eq!(stack.grant("default/reseller:7/2").await.expect("found")["name"], name);
}

async fn what_a_person_decides_outranks_the_purchase_until_it_is_taken_back(shape: Shape) {
    let stack = Stack::plan(shape).start().await;
    let (session, name) = bought(&stack, "jane@example.com").await;
    let label = format!("Stripe session {session}");
    let key = live(&stack, &label);
    tool(&stack, &["revoke", &name, "--reason", "charged back by phone"]).await;
    let grant = until_ready(&stack, &name, "Overridden").await;
    assert_eq!(live(&stack, &label), Vec::<String>::new());
    assert_eq!(stack.page(&session).await.1["status"], "ended");
    let (code, _, error) = stack.tool(&["grants", "resend", &name]).await;
    assert!(code == 1 && error.contains("Overridden") && error.contains("reinstate"), "{code} {error}");
    let mut service = stack.grant_service();
    let again = pb::ResendLicenseKeyRequest { name: name.clone() };
    let refused =
        service.resend_license_key(stack.authorized(Role::Manage, again)).await.expect_err("none to send");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::FailedPrecondition, "OVERRIDDEN"));
    let hand = &grant["override"];
    assert_eq!((&hand["state"], &hand["person"]), (&"REVOKED".into(), &"manage".into()));
    assert_eq!(hand["reason"], "charged back by phone");
    // Stripe says again that it was paid, and that does not count.
    let paid = stack.world.true_history();
    assert!(paid.iter().any(|truth| truth.entitled));
    let event =
        stack.json(&["events", "list", "--limit", "1"]).await[0]["name"].as_str().expect("a name").to_owned();
    assert_eq!(stack.tool(&["events", "replay", &event]).await.0, 0);
    bought(&stack, "other@example.com").await;
    assert_eq!(live(&stack, &label), Vec::<String>::new());
    tool(&stack, &["clear-override", &name]).await;
    let grant = until_ready(&stack, &name, "Issued").await;
    assert!(grant["override"].is_null());
    assert_eq!(live(&stack, &label), key, "the same key works again");
    stack.assert_promise();
}

async fn a_key_revoked_at_authforge_comes_back_by_hand(shape: Shape) {
    let stack = Stack::plan(shape).start().await;
    let (session, name) = bought(&stack, "jane@example.com").await;
    let key = live(&stack, &format!("Stripe session {session}")).remove(0);
    assert!(stack.authforge.revoke_by_hand(&key));
    tool(&stack, &["reinstate", &name]).await;
    until_ready(&stack, &name, "Overridden").await;
    assert_eq!(live(&stack, &format!("Stripe session {session}")), [key]);
}

async fn a_leaked_key_is_replaced(shape: Shape) {
    let stack = Stack::plan(shape).start().await;
    let (session, name) = bought(&stack, "jane@example.com").await;
    let label = format!("Stripe session {session}");
    let old = live(&stack, &label);
    // The old key cannot be revoked at first: the new one is not handed over while it works.
    stack.authforge.script(CallKind::Put, [Fault::FiveHundredBefore, Fault::FiveHundredBefore]);
    for _ in 0..2 {
        tool(&stack, &["replace", &name, "--request-id", "leak-1"]).await;
    }
    let new = until("another key", async || {
        let (code, keys, _) = stack.tool(&["grants", "key", &name]).await;
        let keys: Vec<String> = keys.lines().map(str::to_owned).collect();
        (code == 0 && keys != old).then(|| {
            assert_eq!(live(&stack, &label), keys, "the only key that works is the one that is told");
            keys
        })
    })
    .await;
    let grant = until_ready(&stack, &name, "Issued").await;
    assert_eq!(grant["licenses"][0]["generation"], 2);
    assert_eq!(stack.authforge.counts().of(CallKind::Create), 2, "one request, one new key");
    assert_eq!(stack.page(&session).await.1["licenses"][0]["license_key"], new[0].as_str());
    let mails = mailbox(&stack).until_mails(2).await;
    let mail = mailbox(&stack).mail(mails[1]["ID"].as_str().expect("an id")).await;
    let text = mail["Text"].as_str().expect("text");
    assert!(
        text.contains(&new[0]) && !text.contains(&old[0]) && text.contains("does not work any more"),
        "{text}"
    );
    assert!(mail["Subject"].as_str().expect("a subject").contains("replaced"));
    let stored = stack.authforge.licenses();
    let expiry = |key: &String| stored.iter().find(|license| license.key == *key).expect("stored").expires_at;
    assert_eq!(expiry(&new[0]), expiry(&old[0]));
    stack.assert_promise();
}

async fn a_replacement_survives_a_lost_answer_and_a_kill(shape: Shape) {
    let mut stack =
        Stack::plan(shape).without_mail().flags(&["--lost-create-quarantine", "2s"]).start().await;
    let bought = stack.buy(order()).await;
    let old = stack.keys(&bought.session).await;
    let name =
        stack.grant(&bought.session).await.expect("a grant")["name"].as_str().expect("a name").to_owned();
    stack.authforge.script(CallKind::Create, [Fault::LostAfter]);
    tool(&stack, &["replace", &name]).await;
    stack.authforge.until(|deeds| deeds.iter().filter(|deed| deed.what == Deeds::Created).count() == 2).await;
    stack.kill_back().await;
    stack.up_back().await;
    let grant = until_ready(&stack, &name, "Issued").await;
    assert_eq!(grant["licenses"][0]["generation"], 2);
    let new = live(&stack, &format!("Stripe session {}", bought.session));
    assert_eq!((new.len(), told(&stack, &name).await), (1, new.clone()));
    assert_ne!(new, old);
    assert_eq!(stack.authforge.counts().of(CallKind::Create), 2, "what was made is found, not made again");
}

async fn devices_are_unbound_once_for_each_request(shape: Shape) {
    let stack = Stack::plan(shape).start().await;
    let (_, name) = bought(&stack, "jane@example.com").await;
    let resets = || stack.authforge.history().iter().filter(|deed| deed.what == Deeds::DevicesReset).count();
    for _ in 0..3 {
        tool(&stack, &["reset-devices", &name, "--request-id", "new-laptop"]).await;
    }
    let done = async |wanted: usize| {
        until("unbound devices", async || {
            let history = tool(&stack, &["get", &name, "--history"]).await["history"].to_string();
            (history.matches("its devices were unbound").count() == wanted).then_some(())
        })
        .await;
    };
    done(1).await;
    tool(&stack, &["reset-devices", &name]).await;
    done(2).await;
    assert_eq!(resets(), 2);
}

async fn an_address_set_by_hand_stays(shape: Shape) {
    let stack = Stack::plan(shape).start().await;
    let (session, name) = bought(&stack, "jnae@example.com").await;
    tool(&stack, &["set-email", &name, "jane@example.com", "--resend"]).await;
    let mails = mailbox(&stack).until_mails(2).await;
    assert_eq!(mails[1]["To"][0]["Address"], "jane@example.com");
    let event =
        stack.json(&["events", "list", "--limit", "1"]).await[0]["name"].as_str().expect("a name").to_owned();
    assert_eq!(stack.tool(&["events", "replay", &event]).await.0, 0);
    bought(&stack, "other@example.com").await;
    let grant = stack.grant(&session).await.expect("a grant");
    assert_eq!(grant["customer"]["email"], "jane@example.com", "Stripe still has the other one");
    assert_eq!(stack.grant("JANE@example.com").await.expect("found by it")["name"], name);
    let (code, _, error) = stack.tool(&["grants", "set-email", &name, "nobody"]).await;
    assert!(code == 2 && error.contains("no address"), "{error}");
}

async fn an_expiry_set_by_hand_is_taken_back_with_the_rest(shape: Shape) {
    let stack = Stack::plan(shape).flags(&["--look-before-create-after", "0s"]).start().await;
    let made = stack.world.buy(order(), stack.now());
    let sold = "2031-05-05T00:00:00Z".parse().ok();
    let label = format!("Stripe session {}", made.session);
    stack.authforge.insert(NewLicense { expires_at: sold, ..NewLicense::labeled(APP, label) });
    stack.deliver_all(&made.events).await;
    let grant = stack.until_grant(&made.session, "READY", "Adopted").await;
    let name = grant["name"].as_str().expect("a name");
    let expiry = || stack.authforge.licenses()[0].expires_at;
    tool(&stack, &["set-expiry", name, "2033-01-01T00:00:00Z"]).await;
    until_ready(&stack, name, "Overridden").await;
    assert_eq!(expiry(), "2033-01-01T00:00:00Z".parse().ok());
    tool(&stack, &["clear-override", name]).await;
    until("the old expiry", async || (expiry() == sold).then_some(())).await;
}

async fn the_history_tells_all_in_words_and_no_secret(shape: Shape) {
    let stack = Stack::plan(shape).start().await;
    let (session, name) = bought(&stack, "jane@example.com").await;
    let mut keys = live(&stack, &format!("Stripe session {session}"));
    tool(&stack, &["set-note", &name, "calls herself canary-note"]).await;
    tool(&stack, &["replace", &name]).await;
    until_ready(&stack, &name, "Issued").await;
    keys.extend(told(&stack, &name).await);
    tool(&stack, &["set-email", &name, "joe@example.org"]).await;
    tool(&stack, &["revoke", &name, "--reason", "canary-reason"]).await;
    until_ready(&stack, &name, "Overridden").await;
    let (code, text, _) = stack.tool(&["grants", "get", &name, "--history"]).await;
    let (_, history) = text.split_once("TIME").expect("a history");
    assert_eq!(code, 0);
    for words in [
        "event evt_",
        "declared 1 license, active",
        "sending 1 was taken by the mail server",
        "hand manage",
        "its key is to be replaced (generation 2)",
        "the buyer's address was changed",
        "every license is to be revoked, whatever the purchase says: canary-reason",
        "is revoked",
    ] {
        assert!(history.contains(words), "{words}: {history}");
    }
    let secrets = ["jane@example.com", "joe@example.org", "canary-note"];
    for secret in secrets.into_iter().chain(keys.iter().map(String::as_str)) {
        assert!(!history.contains(secret), "{secret}: {history}");
    }
    let logs = stack.logs();
    for secret in secrets.into_iter().chain(keys.iter().map(String::as_str)) {
        assert!(!logs.contains(secret), "{secret} in the logs");
    }
    assert!(!logs.contains("canary-reason"), "a person's words are for the history alone");
}

async fn a_hand_works_while_stripe_is_down(shape: Shape) {
    let stack = Stack::plan(shape).start().await;
    let (session, name) = bought(&stack, "jane@example.com").await;
    // An event that nobody can look after yet must not be lost to the hand, nor the hand to it.
    let event =
        stack.json(&["events", "list", "--limit", "1"]).await[0]["name"].as_str().expect("a name").to_owned();
    stack.stripe.always(Some(StripeFault::status(500)));
    assert_eq!(stack.tool(&["events", "replay", &event]).await.0, 0);
    tool(&stack, &["revoke", &name]).await;
    until_ready(&stack, &name, "Overridden").await;
    assert_eq!(live(&stack, &format!("Stripe session {session}")), Vec::<String>::new());
    assert_eq!(stack.json(&["events", "get", &event]).await["state"], "PENDING");
    stack.stripe.always(None);
    until("the event", async || {
        (stack.json(&["events", "get", &event]).await["state"] == "HANDLED").then_some(())
    })
    .await;
    until_ready(&stack, &name, "Overridden").await;
    assert_eq!(live(&stack, &format!("Stripe session {session}")), Vec::<String>::new());
}

/// A subscription with its key; gives the grant's name too.
async fn subscribed(stack: &Stack) -> (Subscribed, String) {
    let wanted = order().kind(Kind::Subscription).subscription_metadata("authforge_app_id", APP);
    let made = stack.world.subscribe(wanted, Start::Active, stack.now());
    stack.deliver_all(&made.events).await;
    let grant = stack.until_grant(&made.subscription, "READY", "Issued").await;
    (made, grant["name"].as_str().expect("a name").to_owned())
}

async fn cancel(stack: &Stack, subscription: &str) {
    let events = stack.world.turn_subscription(subscription, SubscriptionTurn::Cancel, stack.now());
    stack.deliver_all(&events).await;
}

async fn a_subscription_that_is_over_lives_on_by_hand(shape: Shape) {
    let stack = Stack::plan(shape).without_mail().start().await;
    let (made, name) = subscribed(&stack).await;
    let id = made.subscription;
    let label = format!("Stripe sub {id}");
    let key = live(&stack, &label);
    cancel(&stack, &id).await;
    stack.until_grant(&id, "READY", "Canceled").await;
    assert_eq!(live(&stack, &label), Vec::<String>::new());
    tool(&stack, &["reinstate", &name]).await;
    tool(&stack, &["set-expiry", &name, "never"]).await;
    until_ready(&stack, &name, "Overridden").await;
    assert_eq!(live(&stack, &label), key);
    assert_eq!(stack.authforge.licenses()[0].expires_at, None);
    tool(&stack, &["clear-override", &name]).await;
    until_ready(&stack, &name, "Canceled").await;
    assert_eq!(live(&stack, &label), Vec::<String>::new());
}

async fn a_held_revocation_passes_when_it_is_released(shape: Shape) {
    let stack = Stack::plan(shape).without_mail().flags(&["--revocation-budget", "0/h"]).start().await;
    let (made, name) = subscribed(&stack).await;
    let (other, _) = subscribed(&stack).await;
    let (id, other) = (made.subscription, other.subscription);
    for id in [&id, &other] {
        cancel(&stack, id).await;
        stack.until_grant(id, "ISSUING", "RevocationHeld").await;
    }
    tool(&stack, &["release", &name]).await;
    until_ready(&stack, &name, "Canceled").await;
    assert_eq!(live(&stack, &format!("Stripe sub {id}")), Vec::<String>::new());
    assert_eq!(live(&stack, &format!("Stripe sub {other}")).len(), 1, "one grant was released");
}

async fn a_grant_is_found_by_whatever_names_it(shape: Shape) {
    let stack = Stack::plan(shape).without_mail().start().await;
    let (made, name) = subscribed(&stack).await;
    tool(&stack, &["create", "--reference", "order-77", "--app", APP, "--wait"]).await;
    let bought = stack.buy(order()).await;
    stack.keys(&bought.session).await;
    let session = stack.grant(&bought.session).await.expect("a grant")["name"].clone();
    let payment = stack.world.payment_intent(&bought.session).expect("a payment");
    let object = |prefix: &str, events: &[Event]| {
        let ids = events.iter().map(|event| event.object_id().to_owned());
        ids.into_iter().find(|id| id.starts_with(prefix)).expect("an event about it")
    };
    let session = session.as_str().expect("a name");
    for (text, wanted) in [
        (made.subscription.clone(), name.as_str()),
        (object("in_", &made.events), &name),
        (made.customer, &name),
        (payment, session),
        (object("ch_", &bought.events), session),
    ] {
        assert_eq!(stack.grant(&text).await.expect(&text)["name"], wanted, "{text}");
    }
    assert_eq!(
        stack.grant("order-77").await.expect("by its reference")["purchase"]["id"],
        "default/order-77"
    );
}

async fn what_cannot_be_done_says_why(shape: Shape) {
    let stack = Stack::plan(shape).without_mail().start().await;
    let three = stack.buy(order().times(3)).await;
    stack.keys(&three.session).await;
    let three =
        stack.grant(&three.session).await.expect("a grant")["name"].as_str().expect("a name").to_owned();
    let parked = stack.buy(order().times(101)).await;
    let parked = stack.until_grant(&parked.session, "PARKED", "TooManyUnits").await["name"].clone();
    let parked = parked.as_str().expect("a name");
    for (arguments, expected, words) in [
        (&["replace", &three][..], 2, "name one"),
        (&["replace", &three, "--license", "9"], 1, "no license of that name"),
        (&["release", &three], 1, "nothing to release"),
        (&["reinstate", parked], 1, "no license"),
        (&["reset-devices", parked], 1, "no license"),
        (&["revoke", "lg-aaaaaaaaaaaaaaaaaaaa"], 1, "list them"),
        (&["create", "--reference", "a b", "--app", APP], 2, "no spaces"),
        (&["create", "--reference", "spent", "--app", "not an app"], 2, "UUID"),
        (&["create", "--reference", "spent", "--app", APP, "--days", "0"], 2, "--days"),
        (&["create", "--reference", "spent", "--app", APP, "--days", "99999999"], 2, "--days"),
        (
            &["create", "--reference", "spent", "--app", APP, "--expires", "2020-01-01T00:00:00Z"],
            2,
            "later end",
        ),
        (&["replace", &three, "--license", "2", "--request-id", "a b"], 2, "UUID"),
    ] {
        let (code, out, error) = stack.tool(&[&["grants"], arguments].concat()).await;
        assert!(code == expected && error.contains(words) && out.is_empty(), "{arguments:?}: {code} {error}");
        let of_the_rpc = ["external_reference", "request_id", "app_id", "LicenseGrant("];
        assert!(!of_the_rpc.iter().any(|term| error.contains(term)), "{arguments:?}: {error}");
    }
    tool(&stack, &["create", "--reference", "spent", "--app", APP, "--wait"]).await;
    tool(&stack, &["replace", &three, "--license", "2"]).await;
    until_ready(&stack, &three, "Issued").await;
    let generations: Vec<Value> = tool(&stack, &["get", &three]).await["licenses"]
        .as_array()
        .expect("licenses")
        .iter()
        .map(|license| license["generation"].clone())
        .collect();
    assert_eq!(generations, [1, 2, 1]);
    assert_eq!(stack.live().values().map(Vec::len).sum::<usize>(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_stripe_key_a_hand_decides_from_what_events_told() {
    let stack = Stack::plan(Shape::Standalone).without_mail().events_only().start().await;
    let wanted = order().kind(Kind::Subscription).subscription_metadata("authforge_app_id", APP).times(3);
    let made = stack.world.subscribe(wanted, Start::Active, stack.now());
    stack.deliver_all(&made.events).await;
    let grant = stack.until_grant(&made.subscription, "READY", "Issued").await;
    let name = grant["name"].as_str().expect("a name");
    let key = live(&stack, &format!("Stripe sub {}", made.subscription));
    assert_eq!(key.len(), 1, "one key for each purchase");
    tool(&stack, &["revoke", name]).await;
    until_ready(&stack, name, "Overridden").await;
    tool(&stack, &["clear-override", name]).await;
    until_ready(&stack, name, "Issued").await;
    assert_eq!(stack.authforge.licenses().len(), 1);
    assert_eq!(live(&stack, &format!("Stripe sub {}", made.subscription)), key);
}
