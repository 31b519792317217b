use std::sync::Arc;

use grantsmith_core::purchase::{LineItem, Payment, PaymentIntentStatus};
use jiff::Timestamp;

use super::*;
use crate::stripe::fake::{Fault, Kind, PaymentPlan, Purchase, Route, Server, World};
use crate::stripe::key::ApiKey;
use crate::stripe::shape;

const KEY: &str = "rk_test_topsecret";

struct Bench {
    world: Arc<World>,
    server: Server,
    client: Client,
    key: SharedKey,
}

impl Bench {
    async fn start() -> Self {
        let world = Arc::new(World::new(Mode::Test, 1));
        let server = Server::start(Arc::clone(&world), KEY).await.expect("a port");
        let key = ApiKey::parse(KEY).expect("a key").shared();
        let client = Client::new(settings(&server.url(), &key));
        Self { world, server, client, key }
    }

    fn buy(&self, purchase: Purchase) -> StripeId {
        let at = Timestamp::from_second(1_795_430_000).expect("in range");
        id(&self.world.buy(purchase, at).session)
    }

    async fn failure(&self, faults: impl IntoIterator<Item = Fault>) -> Error {
        let session = self.buy(Purchase::of("price_1"));
        self.server.script(Route::Session, faults);
        self.client.session(&session).await.expect_err("a fault")
    }
}

fn settings(url: &str, key: &SharedKey) -> Settings {
    drop(rustls::crypto::ring::default_provider().install_default());
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    let mut settings = Settings::new(format!("{url}/"), Arc::clone(key), Mode::Test, http);
    settings.pace = Pace::UNBOUNDED;
    settings.backoff = Duration::from_millis(1);
    settings
}

fn id(text: &str) -> StripeId {
    StripeId::parse(text).expect("an id")
}

#[tokio::test]
async fn a_session_comes_with_payment_and_lines_at_the_pinned_version() {
    let bench = Bench::start().await;
    let session = bench.buy(Purchase::of("price_1").times(3).metadata("authforge_app_id", "app"));
    let fetched =
        shape::session(&bench.client.session(&session).await.expect("a session")).expect("readable");
    assert_eq!(fetched.id, session);
    assert_eq!(fetched.metadata["authforge_app_id"], "app");
    assert!(matches!(
        fetched.payment,
        Payment::Told { status: PaymentIntentStatus::Succeeded, paid_at: Some(_), .. }
    ));
    assert_eq!(fetched.line_items.expect("lines").iter().map(LineItem::units).sum::<u64>(), 3);
    assert_eq!(bench.server.versions(), [STRIPE_VERSION]);
    assert_eq!((bench.server.count(Route::Session), bench.server.count(Route::LineItems)), (1, 0));
}

#[tokio::test]
async fn every_page_of_line_items_is_read() {
    let bench = Bench::start().await;
    for (lines, pages) in [(10, 0), (11, 1), (110, 1), (111, 2), (250, 3)] {
        let before = bench.server.count(Route::LineItems);
        let purchase =
            (1..lines).fold(Purchase::of("price_0"), |purchase, n| purchase.and(&format!("price_{n}")));
        let session = bench.buy(purchase);
        let fetched =
            shape::session(&bench.client.session(&session).await.expect("a session")).expect("readable");
        let prices: Vec<_> = fetched
            .line_items
            .expect("all lines")
            .into_iter()
            .filter_map(|line| line.price)
            .map(|price| price.id)
            .collect();
        assert_eq!(prices, (0..lines).map(|n| format!("price_{n}")).collect::<Vec<_>>());
        assert_eq!(bench.server.count(Route::LineItems) - before, pages, "{lines} lines");
    }
}

#[tokio::test]
async fn every_line_of_an_invoice_is_read() {
    let bench = Bench::start().await;
    let plans = (1..12).fold(Purchase::of("price_0"), |purchase, n| purchase.and(&format!("price_{n}")));
    let session = bench.buy(plans.kind(Kind::Subscription));
    let session = bench.client.session(&session).await.expect("a session");
    let subscription = id(session["subscription"].as_str().expect("a subscription"));
    let fetched = bench.client.subscription(&subscription).await.expect("a subscription");
    let latest = &fetched["latest_invoice"];
    let invoice = bench.client.invoice(&id(latest["id"].as_str().expect("an id"))).await.expect("an invoice");
    let paid = bench.client.paid_invoices(&subscription).await.expect("invoices");
    for invoice in [latest, &invoice, &paid[0]] {
        assert_eq!(invoice["lines"]["data"].as_array().expect("lines").len(), 12);
    }
    assert_eq!(bench.server.count(Route::InvoiceLines), 3);
}

#[tokio::test]
async fn a_list_without_an_end_is_given_up() {
    let bench = Bench::start().await;
    let purchase = (0..1_200).fold(Purchase::of("price_0"), |purchase, _| purchase.and("price_1"));
    let session = bench.buy(purchase);
    assert!(matches!(bench.client.session(&session).await, Err(Error::Odd { .. })));
}

#[tokio::test]
async fn sessions_are_found_by_payment_and_payments_by_charge() {
    let bench = Bench::start().await;
    let session = bench.buy(Purchase::of("price_1"));
    let links = shape::links(&bench.client.session(&session).await.expect("a session"));
    let find = |kind| links.iter().find(|(of, _)| *of == kind).expect("a link").1.clone();
    let intent = find(shape::LinkKind::PaymentIntent);
    assert_eq!(bench.client.sessions_of_payment_intent(&intent).await.expect("a list"), [session]);
    assert_eq!(bench.client.sessions_of_payment_intent(&id("pi_other")).await.expect("a list"), []);
    let charge = find(shape::LinkKind::Charge);
    assert_eq!(bench.client.payment_intent_of_charge(&charge).await.expect("a charge"), Some(intent));
}

#[tokio::test]
async fn what_is_gone_is_asked_for_once() {
    let bench = Bench::start().await;
    let error = bench.client.session(&id("cs_test_gone")).await.expect_err("gone");
    assert!(
        matches!(&error, Error::Gone { answer } if answer.request_id.as_deref() == Some("req_Fake000000001"))
    );
    assert_eq!(error.reason(), grantsmith_core::Reason::ObjectGone);
    assert_eq!(bench.server.count(Route::Session), 1);
}

#[tokio::test]
async fn a_swapped_key_counts_from_the_next_request() {
    let bench = Bench::start().await;
    let session = bench.buy(Purchase::of("price_1"));
    bench.key.store(Arc::new(ApiKey::parse("rk_test_wrong").expect("a key")));
    assert!(matches!(bench.client.session(&session).await, Err(Error::Unauthorized { .. })));
    assert_eq!(bench.server.refused(), 1, "not repeated");
    bench.key.store(Arc::new(ApiKey::parse(KEY).expect("a key")));
    bench.client.session(&session).await.expect("a session");
}

#[tokio::test]
async fn passing_faults_are_survived() {
    let bench = Bench::start().await;
    let session = bench.buy(Purchase::of("price_1"));
    for faults in [
        vec![Fault::status(500), Fault::status(503)],
        vec![Fault::status(409), Fault::Drop],
        vec![Fault::Drop, Fault::Drop],
        vec![Fault::Status(429, vec![("stripe-should-retry", "true")])],
        vec![Fault::Latency(Duration::from_millis(1))],
    ] {
        bench.server.script(Route::Session, faults.clone());
        bench.client.session(&session).await.unwrap_or_else(|error| panic!("{faults:?}: {error}"));
    }
}

#[tokio::test]
async fn lasting_faults_are_reported_after_two_repeats() {
    let bench = Bench::start().await;
    let error = bench.failure([Fault::status(500), Fault::status(502), Fault::status(503)]).await;
    assert!(matches!(&error, Error::Unavailable { answer } if answer.status == 503), "{error:?}");
    assert!(error.is_transient());
    assert_eq!(bench.server.count(Route::Session), 3);
    let error = bench.failure([Fault::Drop, Fault::Drop, Fault::Drop]).await;
    assert!(matches!(error, Error::Lost { .. }), "{error:?}");
    bench.failure([Fault::Status(500, vec![("stripe-should-retry", "false")])]).await;
    assert_eq!(bench.server.count(Route::Session), 7, "Stripe's word goes before the status");
}

#[tokio::test]
async fn being_throttled_is_reported_with_a_wait() {
    let bench = Bench::start().await;
    for (headers, expected) in
        [(vec![], 1), (vec![("retry-after", "7")], 7), (vec![("retry-after", "86400")], 60)]
    {
        let before = bench.server.count(Route::Session);
        let error = bench.failure([Fault::Status(429, headers)]).await;
        assert!(
            matches!(error, Error::RateLimited { retry_after, .. } if retry_after == Duration::from_secs(expected)),
            "{error:?}"
        );
        assert_eq!(bench.server.count(Route::Session) - before, 1, "not repeated");
    }
}

#[tokio::test]
async fn each_refusal_has_its_class() {
    let bench = Bench::start().await;
    assert!(matches!(bench.failure([Fault::status(401)]).await, Error::Unauthorized { .. }));
    assert!(matches!(bench.failure([Fault::status(403)]).await, Error::Unauthorized { .. }));
    assert!(matches!(bench.failure([Fault::status(400)]).await, Error::Rejected { .. }));
    assert!(
        matches!(bench.failure([Fault::status(404)]).await, Error::Rejected { .. }),
        "no word of an object"
    );
    assert!(matches!(bench.failure([Fault::status(302)]).await, Error::Unavailable { .. }));
    assert!(matches!(bench.failure([Fault::Garbage]).await, Error::Odd { .. }));
    assert!(matches!(bench.failure([Fault::Flood]).await, Error::Odd { .. }));
}

#[tokio::test]
async fn an_answer_that_never_ends_is_cut() {
    let bench = Bench::start().await;
    let session = bench.buy(Purchase::of("price_1"));
    let mut settings = settings(&bench.server.url(), &bench.key);
    settings.timeout = Duration::from_millis(30);
    bench.server.script(Route::Session, [Fault::Stall, Fault::Stall, Fault::Stall]);
    let error = Client::new(settings).session(&session).await.expect_err("stalled");
    assert!(matches!(&error, Error::Lost { source } if source.is_timeout()), "{error:?}");
}

#[tokio::test]
async fn a_closed_port_is_a_lost_request() {
    let bench = Bench::start().await;
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    drop(listener);
    let error = Client::new(settings(&url, &bench.key)).session(&id("cs_1")).await.expect_err("closed");
    assert!(matches!(error, Error::Lost { .. }));
    assert_eq!(error.to_string(), "Stripe cannot be reached");
}

#[tokio::test]
async fn errors_and_settings_tell_neither_key_nor_content() {
    let bench = Bench::start().await;
    let mut said = format!("{:?} {:?}", bench.client, settings("http://x", &bench.key));
    for fault in [Fault::status(500), Fault::status(401), Fault::status(429), Fault::Garbage, Fault::Drop] {
        bench.server.always(Some(fault));
        let error = bench.failure([]).await;
        let source = std::error::Error::source(&error).map(ToString::to_string);
        said += &[error.to_string(), format!("{error:?} {source:?}")].concat();
    }
    for secret in ["topsecret", "example.com", "cs_test", "<html>"] {
        assert!(!said.contains(secret), "{secret} in {said}");
    }
}

#[tokio::test]
async fn uncaptured_money_is_told_by_the_payment() {
    let bench = Bench::start().await;
    let session = bench.buy(Purchase::of("price_1").paying(PaymentPlan::ManualCapture { says_paid: true }));
    let fetched =
        shape::session(&bench.client.session(&session).await.expect("a session")).expect("readable");
    assert!(matches!(fetched.payment, Payment::Told { status: PaymentIntentStatus::RequiresCapture, .. }));
}
