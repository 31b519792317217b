//! What `grantsmith doctor` finds, each both ways.

#![expect(clippy::expect_used, reason = "a test stops where the world is not as it set it up")]

use grantsmith_service::stripe::fake::Line;
use grantsmith_tests::program::run;
use grantsmith_tests::{APP, AUTHFORGE_KEY, STRIPE_KEY, Shape, Stack, WEBHOOK_SECRET};
use serde_json::{Value, json};

/// The events that an endpoint has in the documents.
fn documented() -> Vec<&'static str> {
    let page = include_str!("../deploy/OPERATING.md");
    let list = page.split("```\n").find(|block| block.starts_with("checkout.session.")).expect("a list");
    list.split_whitespace().collect()
}

/// Flags for the doctor of an installation; those of `other` stand for the right ones.
async fn doctor(stack: &Stack, other: &[(&str, &str)]) -> (i32, Vec<Value>) {
    let public = stack.url("");
    let mail = stack.mail.as_ref().expect("mail").url();
    let (authforge, stripe) = (stack.authforge.url(), stack.stripe.url());
    let right = [
        ("--stripe-mode", "test"),
        ("--public-url", public.as_str()),
        ("--database-url", "sqlite://grantsmith.db"),
        ("--stripe-webhook-secrets-file", "webhook-secrets"),
        ("--stripe-api-key-file", "stripe-key"),
        ("--stripe-url", stripe.as_str()),
        ("--authforge-url", authforge.as_str()),
        ("--authforge-api-key-file", "authforge-key"),
        ("--authforge-app", APP),
        ("--smtp-url", mail.as_str()),
        ("--mail-from", "keys@shop.example"),
    ];
    let mut arguments = vec!["doctor", "-o", "json"];
    let besides = other.iter().filter(|(flag, _)| right.iter().all(|(name, _)| name != flag));
    arguments.extend(besides.flat_map(|(flag, value)| [*flag, *value]));
    for (flag, value) in right {
        let value = other.iter().find(|(name, _)| *name == flag).map_or(value, |(_, value)| *value);
        arguments.extend([flag, value]);
    }
    let (code, out, error) = run(&arguments, &[], stack.folder.path()).await;
    for secret in [STRIPE_KEY, AUTHFORGE_KEY, WEBHOOK_SECRET] {
        assert!(!out.contains(secret) && !error.contains(secret), "no secret is told");
    }
    let lines: Value = serde_json::from_str(&out).expect(&error);
    (code, lines.as_array().cloned().expect("a list"))
}

/// An endpoint at Stripe for an installation.
fn endpoint(stack: &Stack, events: &[&str], status: &str, version: Option<&str>) -> Value {
    let url = stack.url("/webhooks/stripe");
    json!({"id": "we_1", "url": url, "enabled_events": events, "status": status, "api_version": version})
}

fn said(lines: &[Value], check: &str, verdict: &str, words: &str) -> bool {
    lines.iter().any(|line| {
        line["check"] == check
            && line["verdict"] == verdict
            && line["text"].as_str().is_some_and(|text| text.contains(words))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn each_check_finds_what_is_wrong_and_is_content_with_what_is_right() {
    let stack = Stack::plan(Shape::Standalone).start().await;
    let endpoint = |events: &[&str], status: &str| endpoint(&stack, events, status, None);
    stack.stripe.endpoints([endpoint(&documented(), "enabled")]);
    let (code, lines) = doctor(&stack, &[]).await;
    assert_eq!(code, 0, "{lines:?}");
    for check in [
        "settings",
        "webhook secret",
        "database",
        "Stripe key",
        "endpoint",
        "clock",
        "AuthForge key",
        "mail",
        "public URL",
    ] {
        assert!(said(&lines, check, "ok", ""), "{check}: {lines:?}");
    }
    assert!(said(&lines, "public URL", "warn", "https"), "{lines:?}");
    assert!(stack.mail.as_ref().expect("mail").mails().await.is_empty(), "nothing is sent");

    let write =
        |name: &str, text: &str| std::fs::write(stack.folder.path().join(name), text).expect("a file");
    write("live", "sk_live_1");
    write("wrong", "sk_test_wrong");
    write("blank", "\n");
    write("text.db", "no database");
    for (flag, value, check, words) in [
        ("--stripe-webhook-secrets-file", "blank", "webhook secret", "whsec_"),
        ("--stripe-api-key-file", "live", "Stripe key", "live mode"),
        ("--stripe-api-key-file", "wrong", "Stripe key", "does not accept"),
        ("--authforge-api-key-file", "missing", "AuthForge key", "missing"),
        ("--database-url", "sqlite://text.db", "database", "not a SQLite database"),
        ("--database-url", "sqlite://no/such/folder.db", "database", "does not exist"),
        ("--smtp-url", "smtp://127.0.0.1:1", "mail", "cannot be reached"),
        ("--public-url", "http://127.0.0.1:1", "endpoint", "add one"),
    ] {
        let (code, lines) = doctor(&stack, &[(flag, value)]).await;
        assert!(code == 1 && said(&lines, check, "FAIL", words), "{flag} {value}: {code} {lines:?}");
    }

    stack.authforge.switch(|switches| switches.unauthorized = true);
    let (code, lines) = doctor(&stack, &[]).await;
    assert!(code == 1 && said(&lines, "AuthForge key", "FAIL", "does not accept"), "{lines:?}");
    stack.authforge.switch(|switches| switches.unauthorized = false);
    stack.stripe.endpoints([endpoint(&documented()[1..], "enabled")]);
    let (code, lines) = doctor(&stack, &[]).await;
    assert!(code == 1 && said(&lines, "endpoint", "FAIL", "checkout.session.completed"), "{lines:?}");
    stack.stripe.endpoints([endpoint(&["*"], "disabled")]);
    let (code, lines) = doctor(&stack, &[]).await;
    assert!(code == 1 && said(&lines, "endpoint", "FAIL", "disabled"), "{lines:?}");
    stack.stripe.endpoints([endpoint(&[&documented()[..], &["account.updated"]].concat(), "enabled")]);
    let (code, lines) = doctor(&stack, &[]).await;
    assert!(code == 0 && said(&lines, "endpoint", "warn", "account.updated"), "{lines:?}");
    stack.stripe.forbid("/v1/charges");
    let (code, lines) = doctor(&stack, &[]).await;
    assert!(code == 1 && said(&lines, "Stripe key", "FAIL", "may not read Charges"), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_of_a_version_that_is_too_new_is_told_of() {
    let stack = Stack::plan(Shape::Standalone).start().await;
    for (version, warned) in [("2024-06-20", false), ("2026-10-28.endive", false), ("2027-03-31.fig", true)] {
        stack.stripe.endpoints([endpoint(&stack, &documented(), "enabled", Some(version))]);
        let (code, lines) = doctor(&stack, &[]).await;
        assert_eq!(code, 0, "{lines:?}");
        assert_eq!(said(&lines, "endpoint", "warn", version), warned, "{version}: {lines:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plans_that_stripe_does_not_sell_are_found() {
    let stack = Stack::plan(Shape::Standalone).start().await;
    stack.world.stock(Line::of("price_once"), false);
    stack.world.stock(Line::of("price_monthly"), true);
    stack.world.stock(Line::of("price_old"), false);
    stack.world.archive("price_old");
    stack.world.stock(Line { lookup_key: Some("key_year".to_owned()), ..Line::of("price_year") }, false);
    for (key, duration, verdict, words) in [
        ("price: price_once", "lifetime", "ok", "price_once is for sale"),
        ("price: price_monthly", "subscription", "ok", "price_monthly is for sale"),
        ("lookup_key: key_year", "365d", "ok", "price_year is for sale"),
        ("price: price_once", "subscription", "FAIL", "needs a recurring price"),
        ("price: price_monthly", "365d", "warn", "not extended"),
        ("price: price_old", "lifetime", "warn", "archived"),
        ("price: price_typo", "lifetime", "FAIL", "no such object"),
        ("lookup_key: key_typo", "lifetime", "FAIL", "lookup key 'key_typo'"),
        ("product: prod_typo", "lifetime", "FAIL", "no such object"),
    ] {
        let plan = format!("plans:\n  - name: pro\n    {key}\n    app_id: {APP}\n    duration: {duration}\n");
        std::fs::write(stack.folder.path().join("plans.yaml"), plan).expect("a file");
        let (_, lines) = doctor(&stack, &[("--catalog", "plans.yaml")]).await;
        assert!(said(&lines, "price", verdict, words), "{key} {duration}: {lines:?}");
        assert!(said(&lines, "price", verdict, "plan 'pro'"), "{lines:?}");
    }
}
