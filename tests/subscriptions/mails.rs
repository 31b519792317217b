use grantsmith_service::stripe::fake::SubscriptionTurn::{PayLate, Renew, RenewUnpaid};
use grantsmith_service::stripe::fake::{Rendering, Start};
use grantsmith_tests::{Shape, Stack};

use super::{days, old_purchases, subscription};

/// The subjects of all mails, sorted.
async fn subjects(stack: &Stack, count: usize) -> Vec<String> {
    let mails = stack.mail.as_ref().expect("mail").until_mails(count).await;
    let mut subjects: Vec<String> =
        mails.iter().filter_map(|mail| mail["Subject"].as_str().map(str::to_owned)).collect();
    subjects.sort();
    subjects
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_payment_is_told_once_and_a_renewal_is_not() {
    let stack = old_purchases(Stack::plan(Shape::Standalone)).start().await;
    let bought = stack.world.buy(subscription(), stack.now() - days(25));
    stack.deliver_all(&bought.events).await;
    let id = stack.world.true_subscriptions()[0].subscription.clone();
    assert_eq!(subjects(&stack, 1).await, ["Your license key"]);
    stack.deliver_all(&stack.world.turn_subscription(&id, Renew, stack.now() - days(2))).await;
    let failed = stack.world.turn_subscription(&id, RenewUnpaid, stack.now());
    stack.deliver_all(&failed).await;
    assert_eq!(subjects(&stack, 2).await, ["A payment for your license has failed", "Your license key"]);
    let mail = stack.mail.as_ref().expect("mail");
    let mails = mail.until_mails(2).await;
    let warning = mails.iter().find(|mail| mail["Subject"] != "Your license key").expect("a warning");
    let warning = warning["ID"].as_str().expect("an id").to_owned();
    let text = mail.mail(&warning).await["Text"].as_str().expect("text").to_owned();
    let end = stack.now() + days(21);
    assert!(text.contains(&end.strftime("%-d %B %Y").to_string()), "it says until when: {text}");
    for event in &failed {
        stack.deliver(event.twin().body(Rendering::PreBasil)).await;
    }
    stack.deliver_all(&stack.world.turn_subscription(&id, PayLate, stack.now())).await;
    stack.settled().await;
    assert_eq!(subjects(&stack, 2).await.len(), 2, "told once, and nothing more once it is paid");
    stack.assert_promise();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_customers_address_is_looked_up_and_a_deleted_one_is_shown() {
    let stack = Stack::plan(Shape::Standalone).start().await;
    let made = stack.world.subscribe(subscription().by("customer@example.com"), Start::Active, stack.now());
    stack.deliver_all(&made.events).await;
    let mails = stack.mail.as_ref().expect("mail").until_mails(1).await;
    assert_eq!(mails[0]["To"][0]["Address"], "customer@example.com");

    let made = stack.world.subscribe(subscription(), Start::Active, stack.now());
    stack.world.delete_customer(&made.customer, stack.now());
    stack.deliver_all(&made.events).await;
    stack.settled().await;
    let grant = grantsmith_tests::until("the delivery to be parked", async || {
        let grant = stack.grant(&made.subscription).await?;
        (grant["delivery"]["reason"] == "NoAddress").then_some(grant)
    })
    .await;
    assert_eq!(grant["delivery"]["state"], "PARKED");
    assert_eq!(stack.live()[&made.subscription].len(), 1, "the key is made all the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_whose_address_is_told_later_is_mailed_then() {
    let stack = Stack::plan(Shape::Standalone).events_only().start().await;
    let bought = stack.world.buy(subscription(), stack.now());
    let (sessions, others): (Vec<_>, Vec<_>) =
        bought.events.into_iter().partition(|event| event.event_type.starts_with("checkout.session."));
    stack.deliver_all(&others).await;
    let id = stack.world.true_subscriptions()[0].subscription.clone();
    grantsmith_tests::until("the delivery to be parked", async || {
        (stack.grant(&id).await?["delivery"]["reason"] == "NoAddress").then_some(())
    })
    .await;
    stack.deliver_all(&sessions).await;
    assert_eq!(subjects(&stack, 1).await, ["Your license key"]);
    stack.assert_promise();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_bought_by_checkout_shows_its_key_on_the_success_page() {
    for shape in [Shape::Standalone, Shape::Split] {
        let stack = Stack::plan(shape).start().await;
        let bought = stack.world.buy(subscription(), stack.now());
        // The page comes before any event.
        assert_eq!(stack.page(&bought.session).await.1["status"], "pending");
        stack.deliver_all(&bought.events).await;
        let id = stack.world.true_subscriptions()[0].subscription.clone();
        let keys = stack.keys(&bought.session).await;
        assert_eq!(keys, stack.live()[&id]);
        let grants = stack.grants().await;
        assert_eq!(grants.len(), 1, "session and subscription are one purchase");
        assert_eq!(grants[0]["purchase"]["id"], id.as_str());
        stack.assert_promise();
    }
}
