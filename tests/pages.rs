//! The buyer's pages in a real browser: on a phone and on a desktop, with JavaScript and without.

#![expect(clippy::expect_used, reason = "a test stops where the world is not as it set it up")]

use fantoccini::Locator;
use futures_util::future::join_all;
use grantsmith_service::stripe::fake::{Kind, PaymentPlan, Rendering, Turn};
use grantsmith_tests::stack::order;
use grantsmith_tests::{Browser, Shape, Stack, until};
use serde_json::json;

/// Every kind of window that a buyer may have.
async fn windows() -> Vec<(&'static str, Browser)> {
    let (phone, phone_plain, desktop, desktop_plain) = tokio::join!(
        Browser::phone(true),
        Browser::phone(false),
        Browser::desktop(true),
        Browser::desktop(false)
    );
    vec![
        ("phone", phone),
        ("phone-plain", phone_plain),
        ("desktop", desktop),
        ("desktop-plain", desktop_plain),
    ]
}

fn success(stack: &Stack, session: &str) -> String {
    stack.url(&format!("/success?session_id={session}"))
}

/// What holds of every page: it fits, and the browser finds nothing to complain about, such as something that the page's
/// own policy forbids.
async fn assert_sound(browser: &Browser, status: u16) {
    browser.assert_fits().await;
    let mut complaints = browser.complaints().await;
    if status >= 400 {
        complaints.retain(|complaint| !complaint.contains("the server responded with a status of"));
    }
    assert_eq!(complaints, Vec::<String>::new());
}

/// Goes where a link leads; the driver's own click never ends in a window without JavaScript.
async fn follow(browser: &Browser, link: &str) {
    let link = browser.window.find(Locator::LinkText(link)).await.expect("a link");
    let href = link.attr("href").await.expect("an attribute").expect("an address");
    let here = browser.window.current_url().await.expect("an address");
    browser.goto(here.join(&href).expect("an address").as_str()).await;
}

#[tokio::test]
async fn a_window_without_javascript_runs_none() {
    let page = "data:text/html,<noscript>none</noscript><script>document.write('some')</script>";
    for (javascript, shown) in [(true, "some"), (false, "none")] {
        let browser = Browser::phone(javascript).await;
        browser.goto(page).await;
        assert_eq!(browser.text().await, shown);
    }
}

#[tokio::test]
async fn a_paid_purchase_shows_its_key_in_every_window() {
    let stack = Stack::plan(Shape::Standalone).flags(&["--seller-name", "Test Shop"]).start().await;
    let bought = stack.buy(order()).await;
    let keys = stack.keys(&bought.session).await;
    for (name, browser) in windows().await {
        browser.goto(&success(&stack, &bought.session)).await;
        let text = browser.until_text(&keys[0]).await;
        assert!(text.contains("Here is your license key"), "{text}");
        assert!(text.contains("2 devices") && text.contains("Valid until"), "the terms: {text}");
        assert!(text.contains("b•••@e•••.com"), "the address is masked: {text}");
        assert_eq!(text.contains("Copy"), !name.ends_with("plain"), "no button that cannot work: {text}");
        assert_sound(&browser, 200).await;
        browser.picture(&format!("success-{name}")).await;
        if name == "phone" {
            browser.prefer("dark").await;
            browser.picture("success-phone-dark").await;
        }
    }
}

#[tokio::test]
async fn a_page_opened_before_the_webhook_becomes_the_key_by_itself() {
    let stack = Stack::plan(Shape::Standalone).start().await;
    stack.authforge.switch(|switches| switches.latency_ms = 5_000);
    let mut opened = Vec::new();
    for (name, browser) in windows().await {
        // No event is delivered at all.
        let bought = stack.world.buy(order(), stack.now());
        browser.goto(&success(&stack, &bought.session)).await;
        let text = browser.until_text("on its way").await;
        assert!(text.contains("looks again by itself"), "{text}");
        assert_sound(&browser, 200).await;
        browser.picture(&format!("pending-{name}")).await;
        opened.push((browser, bought.session));
    }
    join_all(opened.iter().map(async |(browser, session)| {
        let text = browser.until_text("Here is your license key").await;
        let keys = stack.keys(session).await;
        assert!(text.contains(&keys[0]), "{text}");
    }))
    .await;
    stack.assert_promise();
}

#[tokio::test]
async fn without_a_stripe_key_the_not_found_page_looks_again_until_the_webhook_came() {
    let stack = Stack::plan(Shape::Standalone).events_only().start().await;
    let bought = stack.world.buy(order(), stack.now());
    let windows = windows().await;
    for (name, browser) in &windows {
        browser.goto(&success(&stack, &bought.session)).await;
        let text = browser.text().await;
        assert!(text.contains("License not found") && text.contains("looks again by itself"), "{text}");
        assert_sound(browser, 404).await;
        browser.picture(&format!("not-found-{name}")).await;
    }
    stack.deliver_all(&bought.events).await;
    let keys = stack.keys(&bought.session).await;
    join_all(windows.iter().map(|(_, browser)| browser.until_text(&keys[0]))).await;
}

#[tokio::test]
async fn money_that_takes_days_is_waited_for_and_then_the_key_is_there() {
    let stack = Stack::plan(Shape::Standalone).start().await;
    let bought = stack.buy(order().paying(PaymentPlan::Delayed)).await;
    stack.until_grant(&bought.session, "PENDING", "PaymentPending").await;
    let windows = windows().await;
    for (name, browser) in &windows {
        browser.goto(&success(&stack, &bought.session)).await;
        let text = browser.until_text("Waiting for your payment").await;
        assert!(text.contains("do not order or pay a second time"), "{text}");
        assert!(text.contains("looks again by itself"), "{text}");
        assert_sound(browser, 200).await;
        browser.picture(&format!("payment-{name}")).await;
    }
    stack.deliver_all(&stack.world.turn(&bought.session, Turn::Succeed, stack.now())).await;
    let keys = stack.keys(&bought.session).await;
    for (_, browser) in &windows {
        follow(browser, "Look again now").await;
        browser.until_text(&keys[0]).await;
    }
}

#[tokio::test]
async fn an_order_that_came_to_nothing_says_so() {
    let stack = Stack::plan(Shape::Standalone).start().await;
    let failed = stack.buy(order().paying(PaymentPlan::Delayed)).await;
    stack.deliver_all(&stack.world.turn(&failed.session, Turn::Fail, stack.now())).await;
    let left = stack.world.abandon(order(), stack.now());
    let unsubscribed = stack.world.abandon(order().kind(Kind::Subscription), stack.now());
    for bought in [&left, &unsubscribed] {
        stack.deliver_all(&bought.events).await;
    }
    for bought in [&failed, &left, &unsubscribed] {
        until("the end", async || (stack.grant(&bought.session).await?["state"] == "ENDED").then_some(()))
            .await;
    }
    for (name, browser) in windows().await {
        for bought in [&failed, &left, &unsubscribed] {
            browser.goto(&success(&stack, &bought.session)).await;
            let text = browser.until_text("This order has ended").await;
            assert!(!text.contains("looks again"), "nothing comes any more: {text}");
            assert_sound(&browser, 200).await;
        }
        browser.picture(&format!("ended-{name}")).await;
    }
}

#[tokio::test]
async fn a_purchase_whose_time_is_over_has_no_key_to_show() {
    let stack = Stack::plan(Shape::Standalone).start().await;
    let three_days_ago = stack.now() - jiff::SignedDuration::from_hours(72);
    let bought = stack.world.buy(order().metadata("license_duration", "1"), three_days_ago);
    stack.deliver_all(&bought.events).await;
    let grant = until("the end", async || {
        stack.grant(&bought.session).await.filter(|grant| grant["reason"] == "Expired")
    })
    .await;
    let browser = Browser::phone(true).await;
    browser.goto(&success(&stack, &bought.session)).await;
    browser.until_text("This order has ended").await;
    assert_eq!(stack.page(&bought.session).await, (200, json!({ "status": "ended" })), "{grant}");
    assert!(stack.authforge.licenses().is_empty(), "and none was made");
}

#[tokio::test]
async fn each_of_three_licenses_is_shown_and_all_can_be_copied() {
    let stack = Stack::plan(Shape::Standalone).start().await;
    let bought = stack.buy(order().times(3)).await;
    let keys = stack.keys(&bought.session).await;
    assert_eq!(keys.len(), 3);
    for (name, browser) in windows().await {
        browser.goto(&success(&stack, &bought.session)).await;
        let text = browser.until_text("Here are your 3 license keys").await;
        assert!(keys.iter().all(|key| text.contains(key)), "{text}");
        assert_sound(&browser, 200).await;
        browser.picture(&format!("three-{name}")).await;
        if !name.ends_with("plain") {
            press(&browser, "[data-copy-all]", "All 3 keys").await;
            press(&browser, "[data-copy=key-2]", "Key 2").await;
        }
    }
}

#[tokio::test]
async fn the_copy_button_says_what_it_did() {
    let stack = Stack::plan(Shape::Standalone).start().await;
    let bought = stack.buy(order()).await;
    stack.keys(&bought.session).await;
    for browser in [Browser::phone(true).await, Browser::desktop(true).await] {
        browser.goto(&success(&stack, &bought.session)).await;
        press(&browser, "[data-copy]", "License key").await;
        assert_sound(&browser, 200).await;
    }
}

/// Presses a copy button and waits for what a screen reader announces then. Where the browser refuses its clipboard, the
/// key is selected for the buyer to copy.
async fn press(browser: &Browser, button: &str, what: &str) {
    browser.window.find(Locator::Css(button)).await.expect("a button").click().await.expect("a click");
    let [copied, selected] = ["copied", "selected"].map(|done| format!("{what} {done}"));
    until(&format!("'{copied}'"), async || {
        let said = browser.value("document.querySelector('[data-said]').textContent").await;
        let said = said.as_str()?.to_owned();
        (said.starts_with(&copied) || said.starts_with(&selected)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn hostile_names_are_shown_and_never_run() {
    let hostile = r#""><img src=x onerror="window.x=1"><script>window.x=1</script></title>{{ 7*7 }}"#;
    let stack = Stack::plan(Shape::Standalone)
        .flags(&["--seller-name", hostile, "--support", &format!("{hostile}@example.com")])
        .start()
        .await;
    let purchase = order()
        .by("<script>window.x=1</script>@example.com")
        .metadata("name", hostile)
        .metadata(hostile, hostile);
    let bought = stack.buy(purchase).await;
    let keys = stack.keys(&bought.session).await;
    let browser = Browser::phone(true).await;
    let addresses = [
        (200, success(&stack, &bought.session), keys[0].as_str()),
        (404, success(&stack, "cs_test_%22%3E%3Cscript%3Ewindow.x=1%3C/script%3E"), "License not found"),
        (200, stack.url("/?<script>window.x=1</script>"), "fulfilled"),
        (404, stack.url("/<script>window.x=1</script>"), "License not found"),
    ];
    for (status, address, shown) in addresses {
        browser.goto(&address).await;
        let text = browser.until_text(shown).await;
        assert!(text.contains(hostile), "a name is a name: {text}");
        assert_eq!(browser.value("typeof window.x").await, "undefined", "{address}");
        // A script that only the policy stopped would show here.
        assert_sound(&browser, status).await;
    }
    browser.goto(&success(&stack, &bought.session)).await;
    browser.picture("hostile").await;
}

#[tokio::test]
async fn the_same_event_in_every_rendering_changes_nothing_on_the_page() {
    let stack = Stack::plan(Shape::Standalone).start().await;
    let bought = stack.buy(order()).await;
    let keys = stack.keys(&bought.session).await;
    let browser = Browser::phone(true).await;
    for rendering in [Rendering::PreBasil, Rendering::Endive, Rendering::Thin] {
        for event in &bought.events {
            stack.deliver(event.twin().body(rendering)).await;
        }
    }
    browser.goto(&success(&stack, &bought.session)).await;
    let text = browser.until_text("Here is your license key").await;
    assert!(text.contains(&keys[0]), "{text}");
    stack.assert_promise();
}
