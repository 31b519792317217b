//! `POST /api/create-checkout`: what a shop's page is answered, what Stripe is asked for, and what the buyer gets.

#![expect(clippy::expect_used, reason = "a test stops where the world is not as it set it up")]

use std::collections::BTreeMap;

use grantsmith_service::stripe::fake::{Bought, Fault, Line, Route};
use grantsmith_tests::stack::Plan;
use grantsmith_tests::{APP, Shape, Stack, StripeMock};
use jiff::Timestamp;
use reqwest::{Method, Response};
use serde_json::{Value, json};

const SHAPES: [Shape; 2] = [Shape::Standalone, Shape::Split];

/// A plan by price, by lookup key and by product.
fn catalog() -> String {
    format!(
        "default_plan: pro
plans:
  - name: pro
    price: price_pro
    app_id: {APP}
    duration: 30d
    max_hwid_slots: 3
    checkout: {{automatic_tax: true, allow_promotion_codes: true, locale: de}}
  - name: team
    lookup_key: key_team
    app_id: {APP}
    duration: subscription
    buffer: 24h
    checkout: {{tax_id_collection: true}}
  - name: all
    product: prod_all
    app_id: {APP}
    duration: lifetime
    unlimited_hwid_slots: true
  - name: gone
    lookup_key: key_gone
    app_id: {APP}
    duration: 30d
"
    )
}

fn selling(shape: Shape) -> Plan {
    Stack::plan(shape).without_mail().catalog(&catalog())
}

async fn open(plan: Plan) -> Stack {
    let stack = plan.start().await;
    stack.world.stock(Line::of("price_pro"), false);
    stack.world.stock(Line { lookup_key: Some("key_team".to_owned()), ..Line::of("price_team") }, true);
    stack.world.stock(Line { product: Some("prod_all".to_owned()), ..Line::of("price_all") }, false);
    stack
}

async fn ask(stack: &Stack, body: &str, headers: &[(&str, &str)]) -> Response {
    let mut request = stack.client.post(stack.url("/api/create-checkout")).body(body.to_owned());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.expect("an answer")
}

async fn answer(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    (status, response.json().await.expect("JSON"))
}

async fn checkout(stack: &Stack, body: &str) -> (u16, Value) {
    answer(ask(stack, body, &[]).await).await
}

/// The session behind a payment page.
async fn session(stack: &Stack, body: &str) -> String {
    let (status, answer) = checkout(stack, body).await;
    assert_eq!(status, 200, "{answer}");
    let url = answer["url"].as_str().expect("an address");
    url.rsplit('/').next().expect("a session").to_owned()
}

async fn pay(stack: &Stack, session: &str) -> Bought {
    let bought = stack.world.pay(session, stack.now()).expect("the session is open");
    stack.deliver_all(&bought.events).await;
    bought
}

fn made(stack: &Stack) -> Vec<BTreeMap<String, String>> {
    stack.stripe.sessions_made().into_iter().map(|form| form.into_iter().collect()).collect()
}

fn fields(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_is_paid_for_and_becomes_its_keys() {
    for shape in SHAPES {
        let stack = open(selling(shape)).await;
        let session = session(&stack, r#"{"plan": "pro", "quantity": 2, "email": "jane@example.com"}"#).await;
        let success = stack.url("/success?session_id={CHECKOUT_SESSION_ID}");
        let expected = fields(&[
            ("mode", "payment"),
            ("line_items[0][price]", "price_pro"),
            ("line_items[0][quantity]", "2"),
            ("success_url", &success),
            ("cancel_url", &stack.url("/")),
            ("automatic_tax[enabled]", "true"),
            ("allow_promotion_codes", "true"),
            ("customer_email", "jane@example.com"),
            ("locale", "de"),
            ("metadata[authforge_app_id]", APP),
            ("metadata[license_duration]", "30"),
            ("metadata[max_hwid_slots]", "3"),
            ("payment_intent_data[metadata][authforge_app_id]", APP),
            ("payment_intent_data[metadata][license_duration]", "30"),
            ("payment_intent_data[metadata][max_hwid_slots]", "3"),
        ]);
        assert_eq!(made(&stack), [expected]);

        pay(&stack, &session).await;
        assert_eq!(stack.keys(&session).await.len(), 2);
        let grant = stack.until_grant(&session, "READY", "Issued").await;
        assert_eq!(grant["licenses"][0]["max_hwid_slots"], 3);
        stack.assert_promise();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_is_bought_by_lookup_key_and_keeps_its_plans_rules() {
    for shape in SHAPES {
        let stack = open(selling(shape)).await;
        let session = session(&stack, r#"{"plan": "team"}"#).await;
        let form = &made(&stack)[0];
        for (name, value) in [
            ("mode", "subscription"),
            ("line_items[0][price]", "price_team"),
            ("tax_id_collection[enabled]", "true"),
            ("subscription_data[metadata][authforge_app_id]", APP),
            ("subscription_data[metadata][max_hwid_slots]", "1"),
        ] {
            assert_eq!(form.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert!(!form.contains_key("metadata[license_duration]"), "it lasts as long as the subscription");

        let subscription = pay(&stack, &session).await.subscription.expect("a subscription");
        let grant = stack.until_grant(&subscription, "READY", "Issued").await;
        let ends: Timestamp =
            grant["licenses"][0]["expire_time"].as_str().expect("ends").parse().expect("a time");
        let truth = stack.world.true_subscriptions();
        // Metadata cannot tell the buffer: it is the plan's.
        assert_eq!(ends.duration_since(truth[0].period_end).as_hours(), 24);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_products_default_price_is_sold_to_any_number_of_devices() {
    let stack = open(selling(Shape::Standalone)).await;
    let session = session(&stack, r#"{"plan": "all"}"#).await;
    assert_eq!(made(&stack)[0]["line_items[0][price]"], "price_all");
    pay(&stack, &session).await;
    stack.keys(&session).await;
    let grant = stack.until_grant(&session, "READY", "Issued").await;
    let license = &grant["licenses"][0];
    assert_eq!((license["max_hwid_slots"].as_i64().unwrap_or(0), &license["expire_time"]), (0, &Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_offered_is_what_is_sold() {
    let mut stack = open(selling(Shape::Standalone)).await;
    let session = session(&stack, "").await;
    stack.sell(&catalog().replace("max_hwid_slots: 3", "max_hwid_slots: 9")).await;
    pay(&stack, &session).await;
    stack.keys(&session).await;
    let grant = stack.until_grant(&session, "READY", "Issued").await;
    assert_eq!(grant["licenses"][0]["max_hwid_slots"], 3, "as when the buyer saw it");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_cannot_be_is_told_why_and_costs_stripe_nothing() {
    for shape in SHAPES {
        let stack = open(selling(shape)).await;
        let long = format!(r#"{{"plan": "{}"}}"#, "x".repeat(5_000));
        for (body, words) in [
            (r#"{"plan": "basic"}"#, "pro, team, all"),
            (r#"{"quantity": 0}"#, "from 1 to 100"),
            (r#"{"quantity": -1}"#, "from 1 to 100"),
            (r#"{"quantity": 101}"#, "from 1 to 100"),
            (r#"{"quantity": 9223372036854775807}"#, "from 1 to 100"),
            (r#"{"quantity": 1.5}"#, "JSON"),
            (r#"{"quantity": "2"}"#, "JSON"),
            (r#"{"email": "jane"}"#, "mail address"),
            (r#"{"email": "jane@example.com\nBcc: x@example.com"}"#, "mail address"),
            (r#"{"price": "price_free"}"#, "unknown field `price`"),
            ("plan=pro", "JSON"),
            (&long, "larger than"),
        ] {
            let (status, answer) = checkout(&stack, body).await;
            assert_eq!(status, 400, "{body}: {answer}");
            assert!(answer["error"].as_str().expect("an error").contains(words), "{body}: {answer}");
        }
        for key in ["x y", &"x".repeat(201)] {
            assert_eq!(ask(&stack, "", &[("idempotency-key", key)]).await.status(), 400, "{key}");
        }
        assert_eq!(
            stack.client.get(stack.url("/api/create-checkout")).send().await.expect("an answer").status(),
            405
        );
        assert_eq!(stack.stripe.count(Route::CreateSession), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_makes_one_session() {
    for shape in SHAPES {
        let stack = open(selling(shape)).await;
        let key = [("idempotency-key", "order-17")];
        let first = answer(ask(&stack, "{}", &key).await).await;
        assert_eq!(first.0, 200, "{}", first.1);
        assert_eq!(answer(ask(&stack, "{}", &key).await).await, first);
        assert_eq!(
            ask(&stack, r#"{"quantity": 2}"#, &key).await.status(),
            409,
            "another order by the same key"
        );
        assert_eq!(made(&stack).len(), 1);
        assert_ne!(
            checkout(&stack, "{}").await,
            checkout(&stack, "{}").await,
            "two buyers have two sessions"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stripes_failures_are_told_without_its_words() {
    for shape in SHAPES {
        let stack = open(selling(shape)).await;
        stack.stripe.script(Route::CreateSession, [Fault::Drop, Fault::status(500)]);
        let (status, answer) = checkout(&stack, "{}").await;
        assert_eq!(status, 200, "a broken answer is asked for again: {answer}");

        stack.stripe.always(Some(Fault::status(429)));
        let response = ask(&stack, "{}", &[]).await;
        assert_eq!(response.status(), 503);
        assert!(response.headers().contains_key("retry-after"));
        stack.stripe.always(Some(Fault::status(401)));
        assert_eq!(checkout(&stack, "{}").await.0, 502);
        stack.stripe.always(None);

        // No price at Stripe has its lookup key.
        let (status, answer) = checkout(&stack, r#"{"plan": "gone"}"#).await;
        assert_eq!(status, 502, "{answer}");
        assert!(!answer.to_string().contains("example.com"), "{answer}");
        assert!(stack.logs().contains("lookup key"), "the seller finds why");
        assert!(!stack.logs().contains("buyer@example.com"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_catalog_or_key_the_answer_says_what_to_start() {
    for shape in SHAPES {
        let none = Stack::plan(shape).without_mail().start().await;
        let (status, answer) = checkout(&none, "").await;
        assert_eq!(status, 404);
        assert!(answer["error"].as_str().expect("an error").contains("--catalog"), "{answer}");

        let events = selling(shape).events_only().start().await;
        let (status, answer) = checkout(&events, "").await;
        assert_eq!(status, 501);
        assert!(answer["error"].as_str().expect("an error").contains("--stripe-api-key-file"), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_sites_that_were_named_may_call_from_a_browser() {
    let plan = selling(Shape::Split).web_flags(&[
        "--cors-origin",
        "https://shop.example",
        "--cors-origin",
        "http://localhost:3000",
    ]);
    let stack = open(plan).await;
    let preflight = async |origin: &str| {
        let request = stack.client.request(Method::OPTIONS, stack.url("/api/create-checkout"));
        let request = request.header("origin", origin).header("access-control-request-method", "POST");
        let response = request.header("access-control-request-headers", "content-type").send().await;
        let headers = response.expect("an answer").headers().clone();
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        (header("access-control-allow-origin"), header("access-control-allow-headers"))
    };
    for origin in ["https://shop.example", "http://localhost:3000"] {
        let (allowed, headers) = preflight(origin).await;
        assert_eq!(allowed.as_deref(), Some(origin));
        assert!(headers.is_some_and(|headers| headers.contains("idempotency-key")));
    }
    assert_eq!(preflight("https://elsewhere.example").await.0, None);
    let response = ask(&stack, "{}", &[("origin", "https://shop.example")]).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["access-control-allow-origin"], "https://shop.example");
    let other = stack.client.get(stack.url("/")).header("origin", "https://shop.example").send().await;
    assert!(!other.expect("a page").headers().contains_key("access-control-allow-origin"), "nothing else");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_client_has_thirty_calls_a_minute() {
    let stack = open(selling(Shape::Standalone)).await;
    let call = async |client: &str| ask(&stack, "nonsense", &[("x-forwarded-for", client)]).await;
    for _ in 0..30 {
        assert_eq!(call("192.0.2.1").await.status(), 400);
    }
    let response = call("192.0.2.1").await;
    assert_eq!(response.status(), 429);
    assert!(response.headers().contains_key("retry-after"));
    assert_eq!(call("192.0.2.2").await.status(), 400, "another client behind the same proxy");
}

#[tokio::test(flavor = "multi_thread")]
async fn stripes_own_mock_takes_every_request() {
    let mock = StripeMock::start().await;
    for shape in SHAPES {
        let stack = selling(shape).stripe(mock.url()).start().await;
        for plan in ["pro", "team", "all", "gone"] {
            let order = json!({"plan": plan, "quantity": 3, "email": "jane@example.com"});
            let (status, answer) = checkout(&stack, &order.to_string()).await;
            assert_eq!(status, 200, "{plan}: {answer}\n{}", stack.logs());
        }
    }
}
