//! The portal, on real mail and in a real browser: who reads an address's mail sees its orders, and nobody else does.

#![expect(clippy::expect_used, reason = "a test stops where the world is not as it set it up")]

use fantoccini::Locator;
use grantsmith_service::stripe::fake::{Bought, Kind, PaymentPlan, Purchase};
use grantsmith_tests::mailpit::Mailpit;
use grantsmith_tests::stack::order;
use grantsmith_tests::{APP, Browser, Shape, Stack, until};
use memchr::memmem;
use reqwest::Response;
use serde_json::Value;

const BUYER: &str = "Buyer@Example.com";

fn server(stack: &Stack) -> &Mailpit {
    stack.mail.as_ref().expect("a mail server")
}

/// Somebody buys, and their key has been mailed.
async fn sold(stack: &Stack, purchase: Purchase) -> (Bought, String) {
    let bought = stack.buy(purchase).await;
    let key = stack.keys(&bought.session).await.remove(0);
    until("the key's mail", async || {
        (stack.grant(&bought.session).await?["delivery"]["state"] == "SENT").then_some(())
    })
    .await;
    (bought, key)
}

/// The mails to an address, oldest first, whole.
async fn mails_to(stack: &Stack, address: &str) -> Vec<Value> {
    let mut whole = Vec::new();
    for mail in server(stack).mails().await {
        if mail["To"][0]["Address"] == address {
            whole.push(server(stack).mail(mail["ID"].as_str().expect("an id")).await);
        }
    }
    whole
}

async fn until_mails_to(stack: &Stack, address: &str, count: usize) -> Vec<Value> {
    until(&format!("{count} mails to {address}"), async || {
        Some(mails_to(stack, address).await).filter(|mails| mails.len() >= count)
    })
    .await
}

/// The link in a mail.
fn link(mail: &Value) -> String {
    let text = mail["Text"].as_str().expect("a text");
    let link = text.lines().find(|line| line.contains("/portal/open?token="));
    link.expect("a link").trim().to_owned()
}

fn token(link: &str) -> &str {
    link.split("token=").nth(1).expect("a token")
}

async fn post(stack: &Stack, path: &str, fields: &[(&str, &str)], client: &str) -> Response {
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    form.extend_pairs(fields);
    let request = stack.client.post(stack.url(path)).body(form.finish());
    let request = request.header("content-type", "application/x-www-form-urlencoded");
    request.header("x-forwarded-for", client).send().await.expect("an answer")
}

async fn ask(stack: &Stack, address: &str, client: &str) -> Response {
    post(stack, "/portal", &[("email", address)], client).await
}

/// What stands in a hidden field of a page.
fn field<'a>(page: &'a str, name: &str) -> &'a str {
    let start = format!("name=\"{name}\" value=\"");
    page.split(&start).nth(1).and_then(|rest| rest.split('"').next()).expect("a field")
}

async fn assert_sound(browser: &Browser, fails: bool) {
    browser.assert_fits().await;
    let mut complaints = browser.complaints().await;
    if fails {
        complaints.retain(|complaint| !complaint.contains("the server responded with a status of"));
    }
    assert_eq!(complaints, Vec::<String>::new());
}

async fn buyers_way(stack: &Stack, name: &str, browser: &Browser) {
    let buyer = format!("{name}@example.com");
    let (bought, key) = sold(stack, order().by(&buyer)).await;
    browser.goto(&stack.url("/portal")).await;
    browser.until_text("Your orders and license keys").await;
    assert_sound(browser, false).await;
    browser.picture(&format!("portal-{name}")).await;
    // In another case than it was given at Stripe.
    browser.write("#email", &buyer.to_uppercase()).await;
    browser.press("main button").await;
    browser.until_text("Look in your mailbox").await;
    assert_sound(browser, false).await;
    browser.picture(&format!("portal-sent-{name}")).await;

    let mails = until_mails_to(stack, &buyer, 2).await;
    let link = link(&mails[1]);
    assert!(!mails[1]["Text"].as_str().expect("a text").contains(&key), "the letter has no key in it");
    browser.goto(&link).await;
    browser.until_text("One more step").await;
    assert_sound(browser, false).await;
    browser.picture(&format!("portal-link-{name}")).await;
    browser.press("main button").await;
    let text = browser.until_text(&key).await;
    for wanted in ["Active", "Valid until", "2 devices", &buyer, &bought.session, "Open billing at Stripe"] {
        assert!(text.contains(wanted), "{wanted} in {text}");
    }
    assert_eq!(text.contains("Copy"), !name.ends_with("plain"), "no button that cannot work: {text}");
    let billing = browser.window.find(Locator::LinkText("Open billing at Stripe")).await.expect("a link");
    let billing = billing.attr("href").await.expect("an attribute");
    assert_eq!(billing.as_deref(), Some("https://billing.stripe.com/p/login/test"));
    assert!(!browser.window.current_url().await.expect("an address").as_str().contains("token"));
    assert_sound(browser, false).await;
    browser.picture(&format!("portal-open-{name}")).await;

    browser.press("form button").await;
    let text = browser.until_text("On its way").await;
    assert!(text.contains(&key), "the orders stay: {text}");
    browser.picture(&format!("portal-resent-{name}")).await;
    let mails = until_mails_to(stack, &buyer, 3).await;
    assert!(mails[2]["Text"].as_str().expect("a text").contains(&key));

    browser.goto(&link).await;
    browser.press("main button").await;
    let text = browser.until_text("This link does not work any more").await;
    assert!(!text.contains(&key) && text.contains("Get a new link"), "{text}");
    assert_sound(browser, true).await;
    browser.picture(&format!("portal-gone-{name}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_buyer_finds_the_key_by_a_mailed_link_and_has_it_sent_again() {
    for shape in Shape::ALL {
        let stack = Stack::plan(shape)
            .flags(&["--mail-reply-to", "help@shop.example"])
            .web_flags(&["--seller-name", "Test Shop"])
            .web_flags(&["--billing-portal-url", "https://billing.stripe.com/p/login/test"])
            .start()
            .await;
        for (name, browser) in
            [("phone", Browser::phone(true).await), ("phone-plain", Browser::phone(false).await)]
        {
            buyers_way(&stack, name, &browser).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_order_of_the_address_is_there_with_its_state_and_no_other() {
    let stack = Stack::plan(Shape::Standalone).start().await;
    let (_, another) = sold(&stack, order().by("another@example.com")).await;
    let many = stack.buy(order().by(BUYER).times(3)).await;
    let keys = stack.keys(&many.session).await;
    let waiting = stack.buy(order().by(BUYER).paying(PaymentPlan::Delayed)).await;
    stack.until_grant(&waiting.session, "PENDING", "PaymentPending").await;
    let long_ago = stack.now() - jiff::SignedDuration::from_hours(24 * 400);
    let expired = stack.world.buy(order().by(BUYER), long_ago);
    stack.deliver_all(&expired.events).await;
    stack.until_grant(&expired.session, "READY", "Expired").await;

    let link = mailed_link(&stack, BUYER, "192.0.2.1").await;
    let browser = Browser::desktop(true).await;
    browser.goto(&link).await;
    browser.press("main button").await;
    let text = browser.until_text("Waiting for payment").await;
    let wanted = keys.iter().chain([&many.session, &waiting.session, &expired.session]);
    for wanted in wanted.map(String::as_str).chain(["Active", "Ended"]) {
        assert!(text.contains(wanted), "{wanted} in {text}");
    }
    let place = |bought: &Bought| text.find(&bought.session);
    assert!(place(&expired) > place(&many), "the oldest comes last: {text}");
    assert!(!text.contains(&another), "{text}");
    let buttons = browser.window.find_all(Locator::Css("form button")).await.expect("buttons");
    assert_eq!(buttons.len(), 1, "only what has all its keys can be sent");
    browser.press("[data-copy=key-2-1]").await;
    assert_sound(&browser, false).await;
    browser.picture("portal-open-desktop").await;
    browser.prefer("dark").await;
    browser.picture("portal-open-desktop-dark").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_letter_has_its_link_in_both_parts_and_fits_a_phone() {
    let stack = Stack::plan(Shape::Standalone)
        .flags(&["--public-url", "https://shop.example/keys", "--seller-name", "Test Shop"])
        .flags(&["--mail-reply-to", "help@shop.example"])
        .start()
        .await;
    sold(&stack, order().by(BUYER)).await;
    assert_eq!(ask(&stack, BUYER, "192.0.2.1").await.status(), 200);
    let mail = until_mails_to(&stack, BUYER, 2).await.remove(1);
    assert_eq!(mail["Subject"], "Your link to your orders with Test Shop");
    assert_eq!(mail["From"]["Address"], "keys@shop.example");
    let link = link(&mail);
    assert!(link.starts_with("https://shop.example/keys/portal/open?token="), "{link}");
    assert_eq!(token(&link).len(), 43, "256 bits");
    let html = mail["HTML"].as_str().expect("HTML").replace("&#x2f;", "/");
    for wanted in [link.as_str(), "15 minutes", "help@shop.example", "Did not ask for it?"] {
        assert!(html.contains(wanted), "{wanted} in {html}");
        assert!(mail["Text"].as_str().expect("a text").contains(wanted), "{wanted}");
    }
    let file = stack.folder.path().join("link.html");
    std::fs::write(&file, html).expect("a file");
    let browser = Browser::phone(true).await;
    browser.goto(&format!("file://{}", file.display())).await;
    browser.until_text("Open my orders").await;
    assert_sound(&browser, false).await;
    browser.picture("mail-link").await;
    browser.prefer("dark").await;
    browser.picture("mail-link-dark").await;
}

/// Asks for a link and takes it from the mail.
async fn mailed_link(stack: &Stack, address: &str, client: &str) -> String {
    let before = mails_to(stack, address).await.len();
    assert_eq!(ask(stack, address, client).await.status(), 200);
    link(&until_mails_to(stack, address, before + 1).await[before])
}

/// A page without what is new with every page, and without the address that was typed.
async fn page(answer: Response, address: &str) -> String {
    let policy = answer.headers()["content-security-policy"].to_str().expect("a policy").to_owned();
    let nonce = policy.split("'nonce-").nth(1).and_then(|rest| rest.split('\'').next()).expect("a nonce");
    answer.text().await.expect("a page").replace(nonce, "NONCE").replace(address, "ADDRESS")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_address_gets_the_same_page_and_no_mail() {
    for shape in Shape::ALL {
        let stack = Stack::plan(shape).start().await;
        sold(&stack, order().by(BUYER)).await;
        let stranger = "stranger@example.com";
        let (unknown, known) =
            (ask(&stack, stranger, "192.0.2.1").await, ask(&stack, BUYER, "192.0.2.2").await);
        assert_eq!((unknown.status(), known.status()), (reqwest::StatusCode::OK, reqwest::StatusCode::OK));
        let names = |answer: &Response| answer.headers().keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&unknown), names(&known));
        assert_eq!(page(unknown, stranger).await, page(known, BUYER).await);
        until_mails_to(&stack, BUYER, 2).await;
        until("the other wish to be answered", async || {
            let metrics = stack.metrics().await;
            metrics.contains("grantsmith_portal_links_total{outcome=\"unknown\"} 1").then_some(())
        })
        .await;
        assert!(mails_to(&stack, stranger).await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn opening_the_link_spends_nothing_and_pressing_spends_it_once() {
    for shape in Shape::ALL {
        let stack = Stack::plan(shape).start().await;
        let (_, key) = sold(&stack, order().by(BUYER)).await;
        let link = mailed_link(&stack, BUYER, "192.0.2.1").await;
        for _ in 0..15 {
            let seen = stack.client.get(&link).send().await.expect("an answer");
            assert_eq!(seen.status(), 200, "no limit either");
            assert_eq!(seen.headers()["cache-control"], "no-store");
            assert_eq!(seen.headers()["referrer-policy"], "no-referrer");
            assert!(!seen.text().await.expect("a page").contains(&key));
        }
        assert_eq!(stack.client.head(&link).send().await.expect("an answer").status(), 200);
        let token = [("token", token(&link))];
        let opened = post(&stack, "/portal/open", &token, "192.0.2.1").await;
        assert_eq!(
            (opened.status().as_u16(), &opened.headers()["cache-control"]),
            (200, &"no-store".parse().expect("a value"))
        );
        let opened = opened.text().await.expect("a page");
        assert!(opened.contains(&key));
        for spent in [token, [("token", "made-up")], [("token", "")]] {
            let again = post(&stack, "/portal/open", &spent, "192.0.2.1").await;
            assert_eq!(again.status(), 410);
            assert!(again.text().await.expect("a page").contains("does not work any more"));
        }

        let action = [("action", field(&opened, "action")), ("grant", field(&opened, "grant"))];
        let resent = post(&stack, "/portal/resend", &action, "192.0.2.1").await;
        assert_eq!(resent.status(), 200);
        assert!(resent.text().await.expect("a page").contains(&key));
        assert_eq!(post(&stack, "/portal/resend", &action, "192.0.2.1").await.status(), 410, "once");
        until_mails_to(&stack, BUYER, 3).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_can_have_the_keys_of_others_sent() {
    let stack = Stack::plan(Shape::Standalone).start().await;
    sold(&stack, order().by(BUYER)).await;
    let (theirs, _) = sold(&stack, order().by("another@example.com")).await;
    let grant = stack.grant(&theirs.session).await.expect("a grant");
    let grant = grant["name"].as_str().and_then(|name| name.strip_prefix("licenseGrants/")).expect("a name");
    let link = mailed_link(&stack, BUYER, "192.0.2.1").await;
    let opened = post(&stack, "/portal/open", &[("token", token(&link))], "192.0.2.1").await;
    let opened = opened.text().await.expect("a page");
    let action = [("action", field(&opened, "action")), ("grant", grant)];
    let refused = post(&stack, "/portal/resend", &action, "192.0.2.1").await;
    assert_eq!(refused.status(), 409);
    let link_as_action = [("action", token(&link)), ("grant", field(&opened, "grant"))];
    assert_eq!(post(&stack, "/portal/resend", &link_as_action, "192.0.2.1").await.status(), 410);
    let history = stack.grant(&theirs.session).await.expect("a grant");
    assert_eq!(history["delivery"]["number"], 1, "{history}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_has_three_links_an_hour_known_or_not() {
    for shape in Shape::ALL {
        let stack = Stack::plan(shape).start().await;
        sold(&stack, order().by(BUYER)).await;
        for address in [BUYER, "stranger@example.com"] {
            for client in ["192.0.2.1", "192.0.2.2", "192.0.2.3"] {
                assert_eq!(ask(&stack, address, client).await.status(), 200);
            }
            let refused = ask(&stack, &address.to_lowercase(), "192.0.2.4").await;
            assert_eq!(refused.status(), 429, "{address}");
            let wait: u64 =
                refused.headers()["retry-after"].to_str().expect("text").parse().expect("seconds");
            assert!((3_500..=3_601).contains(&wait), "{wait}");
        }
        until_mails_to(&stack, BUYER, 4).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_has_ten_requests_a_minute() {
    for shape in Shape::ALL {
        let stack = Stack::plan(shape).start().await;
        for n in 0..5 {
            assert_eq!(ask(&stack, &format!("stranger{n}@example.com"), "192.0.2.1").await.status(), 200);
            assert_eq!(
                post(&stack, "/portal/open", &[("token", "made-up")], "192.0.2.1").await.status(),
                410
            );
        }
        let refused = ask(&stack, "stranger@example.com", "192.0.2.1").await;
        assert_eq!(refused.status(), 429);
        let wait: u64 = refused.headers()["retry-after"].to_str().expect("text").parse().expect("seconds");
        assert!((1..=61).contains(&wait), "{wait}");
        assert_eq!(ask(&stack, "stranger@example.com", "192.0.2.2").await.status(), 200, "others may");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_buyer_who_mistyped_the_address_has_the_key_sent_to_another_one() {
    for (shape, javascript) in [(Shape::Standalone, true), (Shape::Split, false)] {
        let stack = Stack::plan(shape).start().await;
        let (bought, key) = sold(&stack, order().by("mistyped@example.com")).await;
        let browser = Browser::phone(javascript).await;
        browser.goto(&stack.url(&format!("/success?session_id={}", bought.session))).await;
        browser.until_text(&key).await;
        browser.press("summary").await;
        browser.picture(&format!("success-other-address-{javascript}")).await;
        browser.write("#email", "right@example.com").await;
        browser.press("details button").await;
        let text = browser.until_text("On its way").await;
        assert!(text.contains("r•••@e•••.com") && text.contains(&key), "{text}");
        assert_sound(&browser, false).await;
        let mails = until_mails_to(&stack, "right@example.com", 1).await;
        assert!(mails[0]["Text"].as_str().expect("a text").contains(&key));

        // Stripe knows the old address alone, and it does not come back.
        let event = stack.json(&["events", "list"]).await[0]["name"].as_str().expect("a name").to_owned();
        stack.json(&["events", "replay", &event]).await;
        until("the replay to be taken in", async || {
            let event = stack.json(&["events", "get", &event]).await;
            (event["state"] == "HANDLED").then_some(())
        })
        .await;
        let grant = stack.grant("right@example.com").await.expect("found by the new address");
        assert!(stack.grant("mistyped@example.com").await.is_none(), "{grant}");

        let correct = async |address: &str| {
            let fields = [("session_id", bought.session.as_str()), ("email", address)];
            post(&stack, "/success", &fields, "192.0.2.1").await
        };
        let refused = correct("no address").await;
        assert_eq!(refused.status(), 303);
        assert!(refused.headers()["location"].to_str().expect("text").ends_with("&note=address"));
        for status in [303, 303, 429] {
            assert_eq!(correct("third@example.com").await.status(), status, "three sendings an hour");
        }
        let fields = [("session_id", "cs_test_unknown"), ("email", "third@example.com")];
        assert_eq!(post(&stack, "/success", &fields, "192.0.2.2").await.status(), 404);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_is_found_by_its_address_and_readdressed_by_its_session() {
    let stack = Stack::plan(Shape::Standalone).start().await;
    let subscription = order().kind(Kind::Subscription).subscription_metadata("authforge_app_id", APP);
    let (bought, key) = sold(&stack, subscription.by("mistyped@example.com")).await;
    let fields = [("session_id", bought.session.as_str()), ("email", BUYER)];
    assert_eq!(post(&stack, "/success", &fields, "192.0.2.1").await.status(), 303);
    let mails = until_mails_to(&stack, BUYER, 1).await;
    assert!(mails[0]["Text"].as_str().expect("a text").contains(&key));
    let link = mailed_link(&stack, BUYER, "192.0.2.1").await;
    let opened = post(&stack, "/portal/open", &[("token", token(&link))], "192.0.2.1").await;
    let opened = opened.text().await.expect("a page");
    assert!(opened.contains(&key) && opened.contains(">sub_"), "the order is the subscription: {opened}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_installation_that_only_observes_mails_no_link() {
    let stack = Stack::plan(Shape::Standalone).flags(&["--mode", "observe"]).start().await;
    let bought = stack.buy(order().by(BUYER)).await;
    until("the purchase", async || stack.grant(&bought.session).await).await;
    assert_eq!(ask(&stack, BUYER, "192.0.2.1").await.status(), 200);
    until("the wish to be answered", async || {
        let metrics = stack.metrics().await;
        metrics.contains("grantsmith_portal_links_total{outcome=\"observed\"} 1").then_some(())
    })
    .await;
    assert!(server(&stack).mails().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_outlives_the_mail_server_and_a_kill() {
    let mut stack = Stack::plan(Shape::Standalone).start().await;
    let (_, key) = sold(&stack, order().by(BUYER)).await;
    stack.mail.as_mut().expect("a mail server").down().await;
    assert_eq!(ask(&stack, BUYER, "192.0.2.1").await.status(), 200);
    stack.kill_back().await;
    stack.mail.as_mut().expect("a mail server").up().await;
    stack.up_back().await;
    let link = link(&until_mails_to(&stack, BUYER, 1).await[0]);
    let opened = post(&stack, "/portal/open", &[("token", token(&link))], "192.0.2.1").await;
    assert!(opened.text().await.expect("a page").contains(&key));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_form_of_ours_sends_is_answered_kindly() {
    for shape in Shape::ALL {
        let stack = Stack::plan(shape).start().await;
        let hostile = "\"><script>window.x=1</script>@example.com";
        let bad = ask(&stack, hostile, "192.0.2.1").await;
        assert_eq!(bad.status(), 422);
        assert!(!bad.text().await.expect("a page").contains("<script>window"), "what was typed is escaped");
        for (path, fields, status) in [
            ("/portal", [("nothing", "")], 422),
            ("/portal", [("email", "two@example.com,three@example.com")], 422),
            ("/portal", [("email", "two@example.com\r\nBcc: three@example.com")], 422),
            ("/portal/open", [("nothing", "")], 410),
            ("/portal/resend", [("grant", "lg-none")], 410),
            ("/success", [("session_id", "none")], 303),
        ] {
            assert_eq!(post(&stack, path, &fields, "192.0.2.2").await.status(), status, "{path}");
        }
        let get =
            async |path: &str| stack.client.get(stack.url(path)).send().await.expect("an answer").status();
        for path in ["/portal/open", "/portal/open?token=", "/portal/resend"] {
            assert_eq!(get(path).await, 200, "{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_mail_the_portal_says_that_there_is_none() {
    for shape in Shape::ALL {
        let stack = Stack::plan(shape).without_mail().start().await;
        let bought = stack.buy(order().by(BUYER)).await;
        stack.keys(&bought.session).await;
        let answer = ask(&stack, BUYER, "192.0.2.1").await;
        assert_eq!(answer.status(), 404);
        assert!(answer.text().await.expect("a page").contains("no mail is sent from here"));
        let page = stack.client.get(stack.url(&format!("/success?session_id={}", bought.session)));
        let page = page.send().await.expect("an answer").text().await.expect("a page");
        assert!(!page.contains("<form"), "nor is anything offered");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_address_nor_token_is_in_logs_metrics_or_the_record() {
    for shape in Shape::ALL {
        let mut stack = Stack::plan(shape).start().await;
        let (bought, key) = sold(&stack, order().by("canary.buyer@very-secret.example")).await;
        ask(&stack, "canary.stranger@very-secret.example", "203.0.113.77").await;
        let link = mailed_link(&stack, "canary.buyer@very-secret.example", "203.0.113.77").await;
        stack.client.get(&link).send().await.expect("an answer");
        let opened = post(&stack, "/portal/open", &[("token", token(&link))], "203.0.113.77").await;
        let opened = opened.text().await.expect("a page");
        let action = [("action", field(&opened, "action")), ("grant", field(&opened, "grant"))];
        let resent = post(&stack, "/portal/resend", &action, "203.0.113.77").await;
        let resent = resent.text().await.expect("a page");
        let fields = [("session_id", bought.session.as_str()), ("email", "canary.other@very-secret.example")];
        assert_eq!(post(&stack, "/success", &fields, "203.0.113.77").await.status(), 303);
        until_mails_to(&stack, "canary.other@very-secret.example", 1).await;
        let tokens = [token(&link), field(&opened, "action"), field(&resent, "action")];
        let metrics = stack.metrics().await;
        assert!(
            metrics.contains("grantsmith_portal_requests_total{call=\"open\",outcome=\"done\"} 1"),
            "{metrics}"
        );
        stack.stop_back().await;
        let logs = stack.logs();
        assert!(logs.contains("portal link"), "the logs tell of it");
        for (place, text) in [("logs", &logs), ("metrics", &metrics)] {
            for secret in tokens.into_iter().chain(["canary", "very-secret", "203.0.113.77", key.as_str()]) {
                assert!(!text.contains(secret), "{secret} in {place}");
            }
        }
        for name in ["grantsmith.db", "grantsmith.db-wal"] {
            let Ok(bytes) = std::fs::read(stack.folder.path().join(name)) else { continue };
            for token in tokens {
                assert_eq!(memmem::find(&bytes, token.as_bytes()), None, "a token in {name}");
            }
        }
    }
}
