//! What the success page answers to programs and browsers: states, headers, limits, replaced templates.

#![expect(clippy::expect_used, clippy::panic, reason = "a test stops where the world is not as it set it up")]

use grantsmith_service::stripe::fake::{PaymentPlan, Turn};
use grantsmith_tests::program;
use grantsmith_tests::stack::order;
use grantsmith_tests::{APP, Shape, Stack, until};
use reqwest::Response;
use serde_json::{Value, json};
use tempfile::TempDir;

const UNKNOWN: &str = "cs_test_a1unknownunknownunknownunknownunknown";

async fn visit(stack: &Stack, path: &str) -> Response {
    let visit = stack.client.get(stack.url(path)).header("accept", "text/html");
    visit.send().await.expect("an answer")
}

fn header<'a>(answer: &'a Response, name: &str) -> &'a str {
    answer.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// What `nonce` a page's policy asks for.
fn nonce(answer: &Response) -> String {
    let policy = header(answer, "content-security-policy");
    let nonce = policy.split("script-src 'nonce-").nth(1).and_then(|rest| rest.split('\'').next());
    nonce.unwrap_or_else(|| panic!("a nonce in '{policy}'")).to_owned()
}

/// A folder of templates with this one in it.
fn template(path: &str, text: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join(path);
    std::fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
    std::fs::write(file, text).expect("a file");
    folder
}

#[tokio::test]
async fn no_page_is_kept_or_named_to_others_and_each_has_a_policy_of_its_own() {
    let stack = Stack::plan(Shape::Standalone).start().await;
    let bought = stack.buy(order()).await;
    stack.keys(&bought.session).await;
    let mut nonces = Vec::new();
    for path in [&format!("/success?session_id={}", bought.session), "/success", "/", "/nowhere"] {
        let answer = visit(&stack, path).await;
        assert_eq!(header(&answer, "cache-control"), "no-store", "{path}");
        assert_eq!(header(&answer, "referrer-policy"), "no-referrer", "{path}");
        assert_eq!(header(&answer, "x-content-type-options"), "nosniff", "{path}");
        assert!(header(&answer, "vary").eq_ignore_ascii_case("accept"), "{path}");
        let policy = header(&answer, "content-security-policy").to_owned();
        for rule in ["default-src 'none'", "base-uri 'none'", "frame-ancestors 'none'"] {
            assert!(policy.contains(rule), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{path}: {policy}");
        let nonce = nonce(&answer);
        let page = answer.text().await.expect("a page");
        for tag in ["<style", "<script"] {
            let all = page.matches(tag).count();
            assert_eq!(page.matches(&format!("{tag} nonce=\"{nonce}\"")).count(), all, "{path}: {tag}");
        }
        nonces.push(nonce);
    }
    nonces.sort_unstable();
    nonces.dedup();
    assert_eq!(nonces.len(), 4, "no nonce twice");
    let json = stack.client.get(stack.url("/success")).header("accept", "application/json");
    let json = json.send().await.expect("an answer");
    assert_eq!(header(&json, "cache-control"), "no-store");
    assert_eq!(header(&json, "referrer-policy"), "no-referrer");
}

#[tokio::test]
async fn a_program_is_told_the_same_in_json_by_one_process_and_by_two() {
    for shape in Shape::ALL {
        let stack = Stack::plan(shape).start().await;
        let bought = stack.buy(order().times(2)).await;
        let keys = stack.keys(&bought.session).await;
        let made = stack.authforge.licenses();
        let expiry = |key: &str| made.iter().find(|license| license.key == key).expect("it").expires_at;
        let license = |key: &String| {
            let expires_at = expiry(key).expect("it ends").to_string();
            json!({ "license_key": key, "app_id": APP, "expires_at": expires_at })
        };
        let (status, page) = stack.page(&bought.session).await;
        assert_eq!((status, &page["status"]), (200, &json!("ready")), "{page}");
        assert_eq!(page["licenses"], keys.iter().map(license).collect::<Value>(), "{page}");

        let delayed = stack.buy(order().paying(PaymentPlan::Delayed)).await;
        until("the payment to be waited for", async || {
            let (status, page) = stack.page(&delayed.session).await;
            (status == 200 && page["waits_for"] == "payment" && page["status"] == "pending").then_some(())
        })
        .await;
        stack.deliver_all(&stack.world.turn(&delayed.session, Turn::Fail, stack.now())).await;
        until("the end", async || {
            (stack.page(&delayed.session).await == (200, json!({ "status": "ended" }))).then_some(())
        })
        .await;

        let (status, page) = stack.page(UNKNOWN).await;
        assert_eq!((status, &page["error"]), (404, &json!("License not found")), "{shape:?}");
        assert_eq!(stack.page("").await.0, 404);
    }
}

#[tokio::test]
async fn a_lifetime_license_has_no_end_in_json() {
    let stack = Stack::plan(Shape::Standalone).start().await;
    let bought = stack.buy(order().metadata("license_duration", "lifetime")).await;
    let keys = stack.keys(&bought.session).await;
    let (_, page) = stack.page(&bought.session).await;
    let license = json!({ "license_key": keys[0], "app_id": APP, "expires_at": null });
    assert_eq!(page["licenses"], json!([license]));
}

#[tokio::test]
async fn while_authforge_is_down_the_page_is_pending_in_both_forms() {
    for shape in Shape::ALL {
        let stack = Stack::plan(shape).flags(&["--lost-create-quarantine", "1s"]).start().await;
        stack.authforge.switch(|switches| switches.down = true);
        let bought = stack.buy(order()).await;
        // A 503 may come from a proxy behind which the license was made after all. An operator that has only just begun looks
        // before it creates, and cannot.
        let reason = if shape == Shape::Cluster { "AuthForgeUnavailable" } else { "OutcomeUnknown" };
        stack.until_grant(&bought.session, "ISSUING", reason).await;
        assert_eq!(stack.page(&bought.session).await, (200, json!({ "status": "pending" })), "{shape:?}");
        let answer = visit(&stack, &format!("/success?session_id={}", bought.session)).await;
        assert_eq!(answer.status(), 200);
        assert!(answer.text().await.expect("a page").contains("Your license key is on its way"));
        stack.authforge.switch(|switches| switches.down = false);
        stack.keys(&bought.session).await;
        stack.assert_promise();
    }
}

#[tokio::test]
async fn the_page_forgets_the_key_after_its_time() {
    for shape in Shape::ALL {
        let stack = Stack::plan(shape).flags(&["--success-page-for", "1s"]).start().await;
        let bought = stack.buy(order()).await;
        stack.until_grant(&bought.session, "READY", "Issued").await;
        let key = stack.authforge.licenses()[0].key.clone();
        until("the page to be over", async || (stack.page(&bought.session).await.0 == 404).then_some(()))
            .await;
        let answer = visit(&stack, &format!("/success?session_id={}", bought.session)).await;
        assert_eq!(answer.status(), 404, "{shape:?}");
        let page = answer.text().await.expect("a page");
        assert!(page.contains("License not found") && !page.contains(&key), "{page}");
        let grant = stack.grant(&bought.session).await.expect("a grant");
        assert_eq!(grant["state"], "READY", "only the page is over");
    }
}

#[tokio::test]
async fn an_address_that_leads_nowhere_says_so_without_alarm() {
    let stack = Stack::plan(Shape::Standalone).start().await;
    for path in ["/nowhere", "/success", "/success?session_id=", "/success?session_id=pi_3abc"] {
        let answer = visit(&stack, path).await;
        assert_eq!(answer.status(), 404, "{path}");
        let page = answer.text().await.expect("a page");
        assert!(page.contains("License not found"), "{path}");
        assert!(!page.contains("http-equiv=\"refresh\""), "{path}: nothing will come");
    }
}

#[tokio::test]
async fn one_session_is_shown_sixty_times_a_minute() {
    let stack = Stack::plan(Shape::Standalone).start().await;
    let path = format!("/success?session_id={UNKNOWN}");
    let begun = std::time::Instant::now();
    let (mut looks, mut answer) = (1, visit(&stack, &path).await);
    while answer.status() == 404 && looks < 500 {
        (looks, answer) = (looks + 1, visit(&stack, &path).await);
    }
    assert_eq!(answer.status(), 429);
    assert!((61..=62 + begun.elapsed().as_secs()).contains(&looks), "refused at look {looks}");
    let wait: u64 = header(&answer, "retry-after").parse().expect("seconds");
    assert!((1..=61).contains(&wait), "{wait}");
    let page = answer.text().await.expect("a page");
    assert!(page.contains("One moment, please"), "{page}");
    assert_eq!(visit(&stack, "/success?session_id=cs_test_a1another").await.status(), 404, "others go on");
}

#[tokio::test]
async fn a_template_of_the_seller_replaces_the_built_in_one() {
    let text = "{% extends 'pages/base.html' %}{% block content %}<h1>Cheers!</h1>\
                {% for license in licenses %}<b>{{ license.key }}</b>{% endfor %}{% endblock %}";
    let folder = template("pages/success.html", text);
    let flags = ["--templates", folder.path().to_str().expect("a path")];
    let standalone = Stack::plan(Shape::Standalone).flags(&flags).start().await;
    let split = Stack::plan(Shape::Split).web_flags(&flags).start().await;
    for stack in [standalone, split] {
        let bought = stack.buy(order()).await;
        let keys = stack.keys(&bought.session).await;
        let answer = visit(&stack, &format!("/success?session_id={}", bought.session)).await;
        let page = answer.text().await.expect("a page");
        assert!(page.contains(&format!("<h1>Cheers!</h1><b>{}</b>", keys[0])), "{page}");
        let other = visit(&stack, "/success").await.text().await.expect("a page");
        assert!(other.contains("License not found"), "the others stay: {other}");
    }
}

#[tokio::test]
async fn a_template_with_a_mistake_stops_the_start() {
    let mistakes = [
        ("pages/success.html", "{% for license in licenses %}"),
        ("pages/pending.html", "{% if variant == 'payment' %}{{ order|no_such_filter }}{% endif %}"),
        ("pages/ended.html", "{% extends 'pages/missing.html' %}"),
        ("email/license.txt", "{{ licenses[0].key }"),
        ("email/license.subject.txt", "{{ licenses|no_such_filter }}"),
    ];
    for (path, text) in mistakes {
        let folder = template(path, text);
        let flags = [
            ["--database-url", "sqlite://grantsmith.db"],
            ["--authforge-url", "fake:"],
            ["--stripe-mode", "test"],
            ["--http-listen", "127.0.0.1:0"],
            ["--grpc-listen", "127.0.0.1:0"],
            ["--admin-listen", "127.0.0.1:0"],
            ["--templates", folder.path().to_str().expect("a path")],
        ];
        let arguments = [&["standalone", "--events-only"], flags.as_flattened()].concat();
        let environment = [("GRANTSMITH_STRIPE_WEBHOOK_SECRETS", grantsmith_tests::WEBHOOK_SECRET)];
        let (code, _, error) = program::run(&arguments, &environment, folder.path()).await;
        assert_eq!(code, 2, "{path}: {error}");
        assert!(error.contains(path), "the file is named: {error}");
    }
}
