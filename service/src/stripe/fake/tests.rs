mod routes;
mod subscriptions;

use std::collections::BTreeSet;

use grantsmith_core::purchase::{PaymentStatus, SessionStatus};
use jiff::Timestamp;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::Value;

use super::*;
use crate::stripe::event::{Event as Envelope, Signal};
use crate::stripe::secret::Secret;
use crate::stripe::{Mode, shape, signature};

const RENDERINGS: [Rendering; 3] = [Rendering::PreBasil, Rendering::Endive, Rendering::Thin];

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_795_430_000 + seconds).expect("in range")
}

fn world() -> World {
    World::new(Mode::Test, 7)
}

fn types(events: &[Event]) -> Vec<&'static str> {
    events.iter().map(|event| event.event_type).collect()
}

fn last_session(events: &[Event]) -> grantsmith_core::purchase::SessionSnapshot {
    let body = events.last().expect("an event").body(Rendering::Endive);
    shape::session_of_event(&Envelope::parse(&body).expect("an event")).expect("a session")
}

#[test]
fn events_read_in_every_rendering() {
    let world = world();
    let mut events = world.buy(Purchase::of("price_1"), at(0)).events;
    events.extend(world.buy(Purchase::of("price_1").kind(Kind::Subscription), at(1)).events);
    let delayed = world.buy(Purchase::of("price_1").paying(PaymentPlan::Delayed), at(2));
    events.extend(delayed.events);
    events.extend(world.turn(&delayed.session, Turn::Fail, at(3)));
    let mut ids = BTreeSet::new();
    for event in &events {
        for rendering in RENDERINGS {
            let body = event.body(rendering);
            let envelope = Envelope::parse(&body).expect("an event");
            assert_eq!(envelope.id, event.id(rendering));
            assert_eq!(envelope.event_type, event.event_type);
            assert_eq!(envelope.object_id.as_deref(), Some(event.object_id()));
            assert_eq!(envelope.livemode, Some(false));
            assert_eq!(envelope.created, Some(event.at));
            ids.insert(event.id(rendering));
        }
    }
    assert_eq!(ids.len(), events.len() * 2, "a thin event is another than its snapshot twin");
}

#[test]
fn bodies_of_sessions_are_as_large_as_real_ones() {
    let events = world().buy(Purchase::of("price_1"), at(0)).events;
    let body = events.last().expect("an event").body(Rendering::Endive);
    assert!((4_000..6_000).contains(&body.len()), "{} bytes", body.len());
}

#[test]
fn old_and_new_snapshots_say_the_same() {
    let events = world().buy(Purchase::of("price_1").metadata("a", "b"), at(0)).events;
    let read = |rendering| {
        let body = events.last().expect("an event").body(rendering);
        shape::session_of_event(&Envelope::parse(&body).expect("an event")).expect("a session")
    };
    assert_eq!(read(Rendering::PreBasil), read(Rendering::Endive));
}

#[test]
fn each_way_of_paying_has_its_history() {
    let world = world();
    let paid = world.buy(Purchase::of("price_1").times(2), at(0));
    assert_eq!(
        types(&paid.events),
        ["charge.succeeded", "payment_intent.succeeded", "checkout.session.completed"]
    );
    let late = world.buy(Purchase::of("price_1").paying(PaymentPlan::Delayed), at(1));
    assert_eq!(last_session(&late.events).payment_status, PaymentStatus::Unpaid);
    let never = world.buy(Purchase::of("price_1").paying(PaymentPlan::Delayed), at(2));
    let held =
        world.buy(Purchase::of("price_1").paying(PaymentPlan::ManualCapture { says_paid: true }), at(3));
    assert_eq!(last_session(&held.events).payment_status, PaymentStatus::Paid);
    let dropped =
        world.buy(Purchase::of("price_1").paying(PaymentPlan::ManualCapture { says_paid: false }), at(4));
    let free = world.buy(Purchase::of("price_1").paying(PaymentPlan::Free), at(5));
    assert_eq!(last_session(&free.events).payment_status, PaymentStatus::NoPaymentRequired);
    let setup = world.buy(Purchase::of("price_1").kind(Kind::Setup), at(6));
    let left = world.abandon(Purchase::of("price_1"), at(7));
    assert_eq!(last_session(&left.events).status, SessionStatus::Expired);
    let entitled = |world: &World| {
        world.true_history().into_iter().filter(|truth| truth.entitled).map(|t| t.session).collect::<Vec<_>>()
    };
    assert_eq!(entitled(&world), [paid.session.clone(), free.session.clone()]);

    assert_eq!(types(&world.turn(&late.session, Turn::Capture, at(8))), [""; 0], "it waits for no capture");
    let events = world.turn(&late.session, Turn::Succeed, at(9));
    assert_eq!(last_session(&events).payment_status, PaymentStatus::Paid);
    let events = world.turn(&never.session, Turn::Fail, at(9));
    assert!(last_session(&events).async_payment_failed);
    assert_eq!(
        types(&world.turn(&held.session, Turn::Capture, at(9))),
        ["charge.captured", "payment_intent.succeeded"]
    );
    assert_eq!(types(&world.turn(&dropped.session, Turn::Cancel, at(9))), ["payment_intent.canceled"]);
    assert_eq!(types(&world.turn(&held.session, Turn::Cancel, at(10))), [""; 0], "done is done");
    assert_eq!(entitled(&world), [paid.session, late.session, held.session, free.session]);
    assert!(!entitled(&world).contains(&setup.session));
}

#[test]
fn truth_counts_units() {
    let world = world();
    world.buy(Purchase::of("price_1").times(25).packed(10, true).and("price_2").times(2), at(0));
    assert_eq!(world.true_history()[0].units, 5);
}

#[test]
fn equal_seeds_tell_equal_stories_and_others_share_no_id() {
    let story = |seed| {
        let bought = World::new(Mode::Live, seed).buy(Purchase::of("price_1"), at(0));
        (bought.session, bought.events.iter().map(|event| event.id(Rendering::Endive)).collect::<Vec<_>>())
    };
    assert_eq!(story(1), story(1));
    assert_ne!(story(1).0, story(2).0);
    assert!(story(1).0.starts_with("cs_live_") && story(1).0.len() <= 96);
}

#[test]
fn ids_tell_their_second_as_stripes_do() {
    // Of examples in the reference: `evt_1NG8Du2eZvKYlo2CUI79vXWy`, `pi_3MtwBwLkdIwHu7ix28a3tqPa`,
    // `sub_1MowQVLkdIwHu7ixeRlqHVzs`, each with its `created`.
    for (second, letters) in [(1_686_089_970, "NG8Du"), (1_680_800_504, "MtwBw"), (1_679_609_767, "MowQV")] {
        assert_eq!(super::stamp(jiff::Timestamp::from_second(second).expect("a time")), letters);
    }
    let id = |second| {
        let at = jiff::Timestamp::from_second(second).expect("a time");
        world().buy(Purchase::of("price_1"), at).events[0].id(Rendering::Endive)
    };
    let (earlier, later) = (id(1_686_089_970), id(1_686_089_971));
    assert!(earlier < later && earlier.len() == "evt_1NG8Du2eZvKYlo2CUI79vXWy".len(), "{earlier}, {later}");
}

#[test]
fn a_twin_is_the_same_change_under_another_id() {
    let event = world().buy(Purchase::of("price_1"), at(0)).events.remove(0);
    let twin = event.twin();
    assert_ne!(twin.id(Rendering::Endive), event.id(Rendering::Endive));
    assert_eq!(twin.object_id(), event.object_id());
    assert_eq!(twin.twin().id(Rendering::Thin), twin.id(Rendering::Thin));
}

#[test]
fn a_storm_loses_nothing() {
    let events: Vec<_> = (0..50).collect();
    let stormed = storm(&events, 3, &mut StdRng::seed_from_u64(1));
    assert!(stormed.len() > events.len() && stormed.len() <= 150);
    assert_eq!(stormed.iter().copied().collect::<BTreeSet<_>>(), events.iter().copied().collect());
    assert!(!stormed.is_sorted());
    assert_eq!(storm(&events, 3, &mut StdRng::seed_from_u64(1)), stormed);
}

#[tokio::test]
async fn deliveries_carry_a_fresh_signature_of_the_exact_bytes() {
    let secret = Secret::new(Mode::Test, "whsec_demo").expect("not blank");
    let endpoint = {
        let secret = secret.clone();
        axum::Router::new().route(
            "/hook",
            axum::routing::post(async move |headers: http::HeaderMap, body: bytes::Bytes| {
                let header = headers["stripe-signature"].as_bytes();
                match signature::verify(header, &body, &[secret], signature::DEFAULT_TOLERANCE, at(5)) {
                    Ok(_) => (http::StatusCode::OK, "recorded"),
                    Err(_) => (http::StatusCode::BAD_REQUEST, "no"),
                }
            }),
        )
    };
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
    let server = tokio::spawn(async move { axum::serve(listener, endpoint).await });
    drop(rustls::crypto::ring::default_provider().install_default());
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    let events = world().buy(Purchase::of("price_1"), at(0)).events;
    let body = events[0].body(Rendering::Endive);
    let fresh = deliver(&http, &url, &secret, body.clone(), at(5)).await.expect("an answer");
    assert_eq!(fresh, Delivery { status: 200, body: "recorded".to_owned() });
    let stale = deliver(&http, &url, &secret, body, at(-500)).await.expect("an answer");
    assert_eq!(stale.status, 400);
    server.abort();
}

#[test]
fn signals_of_the_fake_are_those_of_stripe() {
    let world = world();
    let bought = world.buy(Purchase::of("price_1").kind(Kind::Subscription), at(0));
    let signals: Vec<_> =
        bought.events.iter().map(|e| crate::stripe::event::signal_of(e.event_type)).collect();
    assert_eq!(signals[..2], [Signal::Subscription, Signal::Invoice]);
    assert!(matches!(signals[2], Signal::Session(_)));
    let body: Value = serde_json::from_slice(&bought.events[0].body(Rendering::PreBasil)).expect("JSON");
    assert!(body["data"]["object"]["current_period_end"].is_i64(), "as it was before basil");
}
