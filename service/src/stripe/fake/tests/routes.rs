use std::sync::Arc;
use std::time::Duration;

use grantsmith_core::purchase::StripeId;

use super::*;
use crate::stripe::client::{Client, Error, Pace, Settings};
use crate::stripe::key::ApiKey;

const KEY: &str = "rk_test_topsecret";

struct Bench {
    world: Arc<World>,
    server: Server,
    client: Client,
    http: reqwest::Client,
}

impl Bench {
    async fn start() -> Self {
        drop(rustls::crypto::ring::default_provider().install_default());
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        let world = Arc::new(world());
        let server = Server::start(Arc::clone(&world), KEY).await.expect("a port");
        let key = ApiKey::parse(KEY).expect("a key").shared();
        let mut settings = Settings::new(server.url(), key, Mode::Test, http.clone());
        settings.pace = Pace::UNBOUNDED;
        settings.backoff = Duration::from_millis(1);
        Self { world, server, client: Client::new(settings), http }
    }

    /// What an old account answers to somebody who names no version.
    async fn ask(&self, path: &str) -> Value {
        let request = self.http.get(format!("{}{path}", self.server.url())).bearer_auth(KEY);
        let answer = request.send().await.expect("an answer").bytes().await.expect("a body");
        serde_json::from_slice(&answer).expect("JSON")
    }
}

fn id(text: &str) -> StripeId {
    StripeId::parse(text).expect("an id")
}

fn ids(list: &Value) -> Vec<&str> {
    list["data"].as_array().expect("a list").iter().filter_map(|object| object["id"].as_str()).collect()
}

#[tokio::test]
async fn a_subscription_comes_with_its_customer_its_invoice_and_every_page_of_items() {
    let bench = Bench::start().await;
    for (items, pages) in [(1, 0), (10, 0), (11, 1), (111, 2)] {
        let before = bench.server.count(Route::SubscriptionItems);
        let wanted = (1..items).fold(Purchase::of("price_0"), |all, n| all.and(&format!("price_{n}")));
        let made = bench.world.subscribe(wanted, Start::Active, at(0));
        let fetched = bench.client.subscription(&id(&made.subscription)).await.expect("a subscription");
        assert_eq!(fetched["latest_invoice"]["status"], "paid");
        let read = shape::subscription(&fetched).expect("readable");
        assert_eq!(read.email.expect("an address").expose(), "buyer@example.com");
        assert!(read.items_complete);
        let prices: BTreeSet<_> =
            read.items.into_iter().filter_map(|item| item.line.price).map(|price| price.id).collect();
        assert_eq!(prices.len(), items);
        assert_eq!(bench.server.count(Route::SubscriptionItems) - before, pages, "{items} items");
    }
    assert_eq!(bench.server.count(Route::Subscription), 4);
}

#[tokio::test]
async fn invoices_are_found_by_subscription_and_status_newest_first() {
    let bench = Bench::start().await;
    let made = bench.world.subscribe(Purchase::of("price_1"), Start::Active, at(0));
    let another = bench.world.subscribe(Purchase::of("price_1"), Start::Active, at(0));
    for turn in [SubscriptionTurn::Renew, SubscriptionTurn::RenewUnpaid] {
        bench.world.turn_subscription(&made.subscription, turn, at(1));
    }
    let all = bench.ask(&format!("/v1/invoices?subscription={}", made.subscription)).await;
    assert_eq!(ids(&all).len(), 3);
    let first = bench.ask(&format!("/v1/invoices?subscription={}&limit=2", made.subscription)).await;
    assert_eq!((ids(&first), &first["has_more"]), (ids(&all)[..2].to_vec(), &Value::Bool(true)));
    let after =
        format!("/v1/invoices?subscription={}&limit=2&starting_after={}", made.subscription, ids(&all)[1]);
    let rest = bench.ask(&after).await;
    assert_eq!((ids(&rest), &rest["has_more"]), (ids(&all)[2..].to_vec(), &Value::Bool(false)));
    let paid = bench.client.paid_invoices(&id(&made.subscription)).await.expect("a list");
    let paid: Vec<_> = paid.iter().filter_map(|invoice| invoice["id"].as_str()).collect();
    assert_eq!(paid, ids(&all)[1..], "the newest is open");
    assert_eq!(ids(&bench.ask("/v1/invoices").await).len(), 4);
    let one = bench.client.invoice(&id(ids(&all)[0])).await.expect("an invoice");
    assert_eq!((&one["status"], &one["attempt_count"]), (&Value::from("open"), &Value::from(1)));
    assert_eq!(shape::subscription_of_invoice(&one), Some(id(&made.subscription)));
    assert_ne!(made.subscription, another.subscription);
    assert_eq!((bench.server.count(Route::Invoice), bench.server.count(Route::Invoices)), (1, 5));
}

#[tokio::test]
async fn a_session_is_found_by_what_it_sold() {
    let bench = Bench::start().await;
    let bought = bench.world.buy(Purchase::of("price_1").kind(Kind::Subscription), at(0));
    let made = bench.world.subscribe(Purchase::of("price_1"), Start::Active, at(1));
    let subscription = id(&bought.subscription.expect("a subscription"));
    let sessions = bench.client.sessions_of_subscription(&subscription).await.expect("a list");
    assert_eq!(sessions, [id(&bought.session)]);
    assert_eq!(bench.client.sessions_of_subscription(&id(&made.subscription)).await.expect("a list"), []);
    let truths = bench.world.true_subscriptions();
    assert_eq!(
        truths.iter().map(|truth| truth.session.clone()).collect::<Vec<_>>(),
        [Some(bought.session), None]
    );
    assert!(
        bench.world.abandon(Purchase::of("price_1").kind(Kind::Subscription), at(2)).subscription.is_none()
    );
}

#[tokio::test]
async fn a_deleted_customer_leaves_an_id() {
    let bench = Bench::start().await;
    let made = bench.world.subscribe(Purchase::of("price_1"), Start::Active, at(0));
    let path = format!("/v1/customers/{}", made.customer);
    assert_eq!(bench.ask(&path).await["email"], "buyer@example.com");
    bench.world.delete_customer(&made.customer, at(1));
    assert_eq!(bench.ask(&path).await["deleted"], true);
    let fetched = bench.client.subscription(&id(&made.subscription)).await.expect("a subscription");
    let read = shape::subscription(&fetched).expect("readable");
    assert_eq!((read.customer, read.email), (Some(id(&made.customer)), None));
    assert_eq!(bench.server.count(Route::Customer), 2);
}

#[tokio::test]
async fn what_is_billed_has_faults_and_old_shapes_like_the_rest() {
    let bench = Bench::start().await;
    let made = bench.world.subscribe(Purchase::of("price_1"), Start::Active, at(0));
    let path = format!("/v1/subscriptions/{}?expand[]=latest_invoice", made.subscription);
    let old = bench.ask(&path).await;
    assert!(old["current_period_end"].is_i64() && old["items"]["data"][0]["current_period_end"].is_null());
    assert_eq!(old["latest_invoice"]["subscription"], made.subscription, "what is inside is as old");
    bench.server.script(Route::Subscription, [Fault::status(403)]);
    let refused = bench.client.subscription(&id(&made.subscription)).await;
    assert!(matches!(refused, Err(Error::Unauthorized { .. })), "{refused:?}");
    assert!(bench.client.subscription(&id(&made.subscription)).await.is_ok(), "a scripted fault meets one");
    let unknown = bench.client.subscription(&id("sub_unknown")).await;
    assert!(matches!(unknown, Err(Error::Gone { .. })), "{unknown:?}");
}
