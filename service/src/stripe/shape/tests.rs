use proptest::prelude::*;
use serde_json::json;

use grantsmith_core::purchase::StripeId;

use super::*;
use crate::stripe::Mode;
use crate::stripe::fake::{Kind, PaymentPlan, Purchase, Rendering, World};

macro_rules! fixture {
    ($name:literal) => {
        serde_json::from_str::<Value>(include_str!(concat!("../../../fixtures/stripe/", $name, ".json")))
            .expect("JSON")
    };
}

const PAID_AT: i64 = 1_795_429_996;

fn id(text: &str) -> StripeId {
    StripeId::parse(text).expect("an id")
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).expect("in range")
}

fn bare() -> Value {
    json!({"id": "cs_1", "created": 5, "livemode": true})
}

fn with(key: &str, value: Value) -> Value {
    let mut object = bare();
    object[key] = value;
    object
}

fn told(event: &Value) -> SessionSnapshot {
    let body = event.to_string();
    session_of_event(&Event::parse(body.as_bytes()).expect("an event")).expect("a session")
}

#[test]
fn a_paid_session_reads_the_same_in_every_version() {
    let endive = told(&fixture!("checkout.session.completed.endive"));
    for event in [
        fixture!("checkout.session.completed.basil"),
        fixture!("checkout.session.completed.pre_basil"),
        fixture!("checkout.session.completed.request_as_text"),
    ] {
        assert_eq!(told(&event), endive);
    }
    assert_eq!(endive.mode, SessionMode::Payment);
    assert_eq!(endive.status, SessionStatus::Complete);
    assert_eq!(endive.payment_status, PaymentStatus::Paid);
    assert_eq!(endive.metadata["license_duration"], "365");
    assert_eq!(endive.email.as_ref().map(Email::expose), Some("buyer@example.com"));
    assert_eq!(endive.payment, Payment::Untold(id("pi_3QwErTyUiOpAsDfG0hJkLzXc")));
    assert_eq!(endive.line_items, None, "events carry no line items");
    assert_eq!(endive.created, at(1_795_429_760));
    assert!(!endive.livemode && !endive.async_payment_failed);
}

#[test]
fn only_the_event_tells_that_a_delayed_payment_failed() {
    let read = |event| {
        let session = told(&event);
        (session.payment_status, session.async_payment_failed)
    };
    let failed = (PaymentStatus::Unpaid, true);
    assert_eq!(read(fixture!("checkout.session.async_payment_failed.endive")), failed);
    assert_eq!(read(fixture!("checkout.session.async_payment_failed.pre_basil")), failed);
    assert_eq!(read(fixture!("checkout.session.completed.unpaid.endive")), (PaymentStatus::Unpaid, false));
    let succeeded = (PaymentStatus::Paid, false);
    assert_eq!(read(fixture!("checkout.session.async_payment_succeeded.endive")), succeeded);
    assert_eq!(read(fixture!("checkout.session.async_payment_succeeded.pre_basil")), succeeded);
}

#[test]
fn what_sells_nothing_reads_as_what_it_is() {
    let expired = told(&fixture!("checkout.session.expired.endive"));
    assert_eq!((expired.status, &expired.payment), (SessionStatus::Expired, &Payment::None));
    assert_eq!(expired.email.as_ref().map(Email::expose), Some("buyer@example.com"), "from customer_email");
    let setup = told(&fixture!("checkout.session.completed.setup.endive"));
    assert_eq!((setup.mode, setup.payment_status), (SessionMode::Setup, PaymentStatus::NoPaymentRequired));
    let subscribed = told(&fixture!("checkout.session.completed.subscription.endive"));
    assert_eq!((subscribed.mode, subscribed.payment), (SessionMode::Subscription, Payment::None));
}

#[test]
fn a_fetched_session_tells_lines_and_payment() {
    let fetched = session(&fixture!("checkout.session.fetched.endive")).expect("a session");
    let paid = Payment::Told {
        id: id("pi_3QwErTyUiOpAsDfG0hJkLzXc"),
        status: PaymentIntentStatus::Succeeded,
        paid_at: Some(at(PAID_AT)),
    };
    assert_eq!(fetched.payment, paid);
    let lines = fetched.line_items.expect("lines");
    assert_eq!(lines.iter().map(LineItem::units).collect::<Vec<_>>(), [2, 3]);
    let price = lines[0].price.as_ref().map(|price| price.id.as_str());
    assert_eq!(price, Some("price_1QwErTyUiOpAsDfGhJkLzXcV"));
    let old = session(&fixture!("checkout.session.fetched.pre_basil")).expect("a session");
    assert_eq!(old.payment, paid, "from charges.data, past the declined one");
    assert_eq!(old.email.as_ref().map(Email::expose), Some("buyer@example.com"), "typed before on record");
}

#[test]
fn payment_intents_read_alone() {
    let read = |event: &Value| payment(&event["data"]["object"]).expect("a payment");
    let status = |event| match read(&event) {
        Payment::Told { status, .. } => status,
        other => panic!("not told: {other:?}"),
    };
    assert_eq!(status(fixture!("payment_intent.succeeded.endive")), PaymentIntentStatus::Succeeded);
    assert_eq!(status(fixture!("payment_intent.succeeded.pre_basil")), PaymentIntentStatus::Succeeded);
    assert_eq!(status(fixture!("payment_intent.canceled.endive")), PaymentIntentStatus::Canceled);
    assert_eq!(
        status(fixture!("payment_intent.payment_failed.endive")),
        PaymentIntentStatus::RequiresPaymentMethod
    );
    assert_eq!(payment(&json!("pi_1")), Ok(Payment::Untold(id("pi_1"))));
    let Payment::Told { paid_at, .. } = read(&fixture!("payment_intent.succeeded.endive")) else { panic!() };
    assert_eq!(paid_at, None, "the charge is only named");
}

#[test]
fn a_declined_charge_is_no_payment() {
    let intent = |charge: Value| {
        let intent = json!({"id": "pi_1", "status": "requires_payment_method", "latest_charge": charge});
        match payment(&intent) {
            Ok(Payment::Told { paid_at, .. }) => paid_at,
            other => panic!("not told: {other:?}"),
        }
    };
    assert_eq!(intent(json!({"id": "ch_1", "status": "failed", "paid": false, "created": 7})), None);
    assert_eq!(intent(json!({"id": "ch_1", "status": "succeeded", "created": 7})), Some(at(7)));
}

#[test]
fn new_words_read_as_other() {
    let mut object = bare();
    for field in ["mode", "status", "payment_status"] {
        object[field] = json!("invented");
    }
    object["payment_intent"] = json!({"id": "pi_1", "status": "invented"});
    let read = session(&object).expect("a session");
    assert_eq!(read.mode, SessionMode::Other);
    assert_eq!(read.status, SessionStatus::Other);
    assert_eq!(read.payment_status, PaymentStatus::Other);
    assert!(matches!(read.payment, Payment::Told { status: PaymentIntentStatus::Other, paid_at: None, .. }));
}

#[test]
fn an_absent_status_is_complete_only_with_money() {
    let status = |payment: &str| session(&with("payment_status", json!(payment))).map(|read| read.status);
    assert_eq!(status("paid"), Ok(SessionStatus::Complete));
    assert_eq!(status("unpaid"), Ok(SessionStatus::Other));
    assert_eq!(status("no_payment_required"), Ok(SessionStatus::Other));
}

#[test]
fn the_typed_address_goes_before_the_others() {
    let email =
        |object: Value| session(&object).expect("a session").email.map(|email| email.expose().to_owned());
    let mut object = with("customer", json!({"id": "cus_1", "email": "c@example.com"}));
    assert_eq!(email(object.clone()).as_deref(), Some("c@example.com"));
    object["customer_email"] = json!("b@example.com");
    assert_eq!(email(object.clone()).as_deref(), Some("b@example.com"));
    object["customer_details"] = json!({"email": "a@example.com"});
    assert_eq!(email(object.clone()).as_deref(), Some("a@example.com"));
    object["customer_details"] = json!({"email": null});
    assert_eq!(email(object).as_deref(), Some("b@example.com"));
    assert_eq!(email(with("customer_details", Value::Null)), None);
    assert_eq!(email(with("customer", json!("cus_1"))), None);
    assert_eq!(email(with("customer", json!({"id": "cus_1", "deleted": true}))), None);
}

#[test]
fn metadata_that_is_no_text_is_read_as_text_or_passed_over() {
    let metadata = |value| session(&with("metadata", value)).map(|read| read.metadata);
    let read =
        metadata(json!({"a": "x", "b": 365, "c": true, "d": null, "e": [1], "f": {}})).expect("metadata");
    let expected = [("a", "x"), ("b", "365"), ("c", "true")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    assert_eq!(read, BTreeMap::from(expected));
    assert_eq!(metadata(Value::Null), Ok(BTreeMap::new()));
    assert!(metadata(json!([])).is_err());
}

#[test]
fn a_list_with_more_behind_it_is_not_told() {
    let lines =
        |value| session(&with("line_items", value)).map(|read| read.line_items.map(|lines| lines.len()));
    assert_eq!(lines(json!({"data": [{}], "has_more": true})), Ok(None));
    assert_eq!(lines(json!({"data": [{}], "has_more": false})), Ok(Some(1)));
    assert_eq!(lines(json!({"data": []})), Ok(Some(0)));
}

#[test]
fn line_items_read_with_price_bare_expanded_or_absent() {
    let read = |object| line_item(&object).expect("a line");
    let plain = |price: Option<&str>, quantity| LineItem {
        price: price.map(|id| Price { id: id.to_owned(), lookup_key: None, product: None, recurring: false }),
        quantity,
        transform: None,
    };
    assert_eq!(read(json!({"price": "price_1", "quantity": 3})), plain(Some("price_1"), 3));
    assert_eq!(read(json!({"price": {"id": "price_1"}, "quantity": null})), plain(Some("price_1"), 1));
    assert_eq!(read(json!({"price": null, "quantity": 0})), plain(None, 0));
    let packs = read(
        json!({"price": {"id": "p", "transform_quantity": {"divide_by": 5, "round": "down"}}, "quantity": 9}),
    );
    assert_eq!((packs.units(), packs.transform), (1, Some(Transform { divide_by: 5, round_up: false })));
}

#[test]
fn wrong_types_are_named_by_place_and_never_by_content() {
    let wrong = |key: &str, value| session(&with(key, value)).expect_err("unreadable").to_string();
    let details = json!({"email": ["jane@example.com"]});
    assert_eq!(
        wrong("customer_details", details),
        "'customer_details.email' of the object from Stripe is not a text"
    );
    assert_eq!(
        wrong("created", json!("jane")),
        "'created' of the object from Stripe is not a time in whole seconds"
    );
    assert_eq!(
        wrong("created", json!(i64::MAX)),
        "'created' of the object from Stripe is not a time in whole seconds"
    );
    assert_eq!(
        wrong("line_items", json!({"data": [{}, {"quantity": -1}]})),
        "'line_items.data[1].quantity' of the object from Stripe is not a whole number"
    );
    assert_eq!(
        wrong("payment_intent", json!("jane doe")),
        "'payment_intent' of the object from Stripe is not a Stripe id"
    );
    assert_eq!(wrong("payment_intent", json!({})), "object from Stripe has no 'payment_intent.id'");
    assert_eq!(wrong("object", json!("invoice")), "object from Stripe is not a 'checkout.session'");
    assert_eq!(
        session(&json!([])).map_err(|e| e.to_string()).err().as_deref(),
        Some("'(top)' of the object from Stripe is not an object")
    );
}

#[test]
fn every_session_says_its_id_time_and_mode() {
    for key in ["id", "created", "livemode"] {
        let mut object = bare();
        object[key] = Value::Null;
        assert_eq!(session(&object), Err(Error::Missing { path: key.to_owned() }));
    }
    let data = json!({"object": {"id": "cs_1"}});
    let read = told(&json!({"id": "evt_1", "type": "a", "created": 9, "livemode": false, "data": data}));
    assert_eq!((read.created, read.livemode), (at(9), false));
}

#[test]
fn links_are_found_in_every_shape() {
    use LinkKind::{Charge, Customer, Invoice, PaymentIntent, Subscription};
    let pi = (PaymentIntent, id("pi_3QwErTyUiOpAsDfG0hJkLzXc"));
    let ch = (Charge, id("ch_3QwErTyUiOpAsDfG0vBnMqWe"));
    assert_eq!(links(&fixture!("checkout.session.fetched.endive")), [pi.clone(), ch.clone()]);
    assert_eq!(
        links(&fixture!("checkout.session.fetched.pre_basil")),
        [
            pi.clone(),
            (Charge, id("ch_3QwErTyUiOpAsDfG0decline")),
            ch.clone(),
            (Customer, id("cus_RtYuIoPasDfGhJ"))
        ]
    );
    let inside = |event: Value| links(&event["data"]["object"]);
    assert_eq!(
        inside(fixture!("checkout.session.completed.subscription.endive")),
        [(Subscription, id("sub_1QwErTyUiOpAsDfGHjKlZxCv")), (Invoice, id("in_1QwErTyUiOpAsDfGzXcVbNmQ"))]
    );
    assert_eq!(inside(fixture!("payment_intent.succeeded.endive")), [ch]);
    for charge in [
        fixture!("charge.succeeded.endive"),
        fixture!("charge.succeeded.pre_basil"),
        fixture!("charge.captured.endive"),
    ] {
        assert_eq!(inside(charge), std::slice::from_ref(&pi));
    }
    assert_eq!(links(&json!("cs_1")), []);
    assert_eq!(links(&json!({"payment_intent": 7, "charges": {"data": "x"}})), []);
}

proptest! {
    #[test]
    fn nothing_panics_on_damaged_sessions(pick: prop::sample::Index, kind in 0_u8..6) {
        let mut object = fixture!("checkout.session.fetched.endive");
        let odd = [Value::Null, json!(1), json!(-1.5), json!("x"), json!([]), json!({})];
        let pointers = pointers(&object);
        let place = object.pointer_mut(&pointers[pick.index(pointers.len())]).expect("a place");
        *place = odd[usize::from(kind)].clone();
        if let Err(error) = session(&object) {
            prop_assert!(!error.to_string().contains("example.com"));
        }
        links(&object);
    }
}

/// Every place in a value, as JSON pointers.
fn pointers(value: &Value) -> Vec<String> {
    let below = |key: &str, inner: &Value| {
        pointers(inner).into_iter().map(|p| format!("/{key}{p}")).collect::<Vec<_>>()
    };
    let inner: Vec<String> = match value {
        Value::Object(map) => map.iter().flat_map(|(key, inner)| below(key, inner)).collect(),
        Value::Array(list) => {
            list.iter().enumerate().flat_map(|(i, inner)| below(&i.to_string(), inner)).collect()
        }
        _ => Vec::new(),
    };
    std::iter::once(String::new()).chain(inner).collect()
}

#[test]
fn an_event_tells_of_its_session_what_the_whole_of_it_does() {
    let world = World::new(Mode::Test, 7);
    let purchase = Purchase::of("price_pro").metadata("authforge_app_id", "app").metadata("type", "data");
    let sessions =
        [purchase.clone(), purchase.clone().kind(Kind::Subscription), purchase.paying(PaymentPlan::Delayed)];
    let events: Vec<_> =
        sessions.into_iter().flat_map(|bought| world.buy(bought, at(PAID_AT)).events).collect();
    let of_sessions = events.iter().filter(|event| event.event_type.starts_with("checkout.session."));
    assert!(of_sessions.count() >= 3);
    for event in events {
        for rendering in [Rendering::PreBasil, Rendering::Endive] {
            let body = event.body(rendering);
            let whole: Value = serde_json::from_slice(&body).expect("JSON");
            let told = session_of_event(&Event::parse(&body).expect("an event"));
            assert_eq!(told, session(&whole["data"]["object"]), "{}", event.event_type);
        }
    }
}

#[test]
fn what_is_no_session_is_not_taken_for_one() {
    let nested = |depth| {
        format!(
            r#"{{"id":"cs_1","created":1,"livemode":true,"metadata":{}1{}}}"#,
            "[".repeat(depth),
            "]".repeat(depth)
        )
    };
    for object in [
        "7",
        "[]",
        "null",
        "\"cs_1\"",
        "{}",
        r#"{"id":"cs_1","created":"now","livemode":true}"#,
        &nested(1),
        &nested(10_000),
    ] {
        let body =
            format!(r#"{{"id":"evt_1","type":"checkout.session.completed","data":{{"object":{object}}}}}"#);
        let event = Event::parse(body.as_bytes()).expect("an event");
        assert!(session_of_event(&event).is_err(), "{object:.99}");
    }
}
