use proptest::prelude::*;

use super::*;

macro_rules! fixture {
    ($name:literal) => {
        include_bytes!(concat!("../../../fixtures/stripe/", $name, ".json")).as_slice()
    };
}

const SESSION: &str = "cs_test_a1Qw8RfT2mXk5LpZ0vNc7JhB4sYd9GeU3iOaW6tKxMyP1rVbHnEqCzDl";

fn parse(body: &[u8]) -> Event<'_> {
    Event::parse(body).expect("an event")
}

fn error(body: &str) -> Error {
    Event::parse(body.as_bytes()).expect_err("no event")
}

#[test]
fn every_rendering_of_a_completed_session_reads_the_same() {
    for (body, version) in [
        (fixture!("checkout.session.completed.pre_basil"), Some("2024-06-20")),
        (fixture!("checkout.session.completed.basil"), Some("2025-03-31.basil")),
        (fixture!("checkout.session.completed.endive"), Some("2026-10-28.endive")),
        (fixture!("checkout.session.completed.request_as_text"), None),
        (fixture!("checkout.session.completed.thin"), None),
    ] {
        let event = parse(body);
        assert_eq!(event.api_version.as_deref(), version);
        assert_eq!(event.event_type, "checkout.session.completed");
        assert_eq!(event.signal(), Signal::Session(SessionEvent::Completed));
        assert_eq!(event.object_id.as_deref(), Some(SESSION));
        assert_eq!(event.object_kind.as_deref(), Some("checkout.session"));
        assert_eq!(event.livemode, Some(false));
        assert_eq!(event.created.map(Timestamp::as_second), Some(1_795_430_000));
        assert!(event.id.starts_with("evt_"));
        assert!(event.account.is_none());
    }
}

#[test]
fn every_fixture_is_named_after_what_is_inside() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/stripe");
    for file in std::fs::read_dir(folder).expect("a folder") {
        let file = file.expect("a file");
        let name = file.file_name().into_string().expect("a plain name");
        let body = std::fs::read(file.path()).expect("readable");
        if name.starts_with("checkout.session.fetched.") {
            assert_eq!(Event::parse(&body), Err(Error::NotAnEvent), "{name}: an answer of the API");
            continue;
        }
        let event = parse(&body);
        assert!(name.starts_with(event.event_type.as_ref()), "{name}");
        assert_eq!(name.ends_with(".thin.json"), event.rendering == Rendering::Thin, "{name}");
        assert_eq!(
            name.ends_with(".endive.json"),
            event.api_version.as_deref() == Some("2026-10-28.endive"),
            "{name}"
        );
    }
}

#[test]
fn renderings_are_told_apart() {
    assert_eq!(parse(fixture!("checkout.session.completed.endive")).rendering, Rendering::Snapshot);
    assert_eq!(parse(fixture!("checkout.session.completed.thin")).rendering, Rendering::Thin);
    let ping = parse(fixture!("v2.core.event_destination.ping.thin"));
    assert_eq!(ping.event_type, "v2.core.event_destination.ping");
    assert_eq!(ping.signal(), Signal::Unknown);
    let typed_v1 = parse(br#"{"id":"evt_1","object":"event","type":"v1.checkout.session.completed"}"#);
    assert_eq!(typed_v1.signal(), Signal::Unknown, "the prefix belongs to thin events only");
}

#[test]
fn request_reads_as_object_text_or_nothing() {
    let request = |body| parse(body).request.map(Cow::into_owned);
    assert_eq!(
        request(fixture!("checkout.session.completed.pre_basil")).as_deref(),
        Some("req_QwErTyUiOpAsDf")
    );
    assert_eq!(
        request(fixture!("checkout.session.completed.request_as_text")).as_deref(),
        Some("req_QwErTyUiOpAsDf")
    );
    assert_eq!(request(fixture!("checkout.session.completed.endive")), None);
    assert_eq!(request(br#"{"id":"evt_1","type":"x","request":null}"#), None);
    assert_eq!(request(br#"{"id":"evt_1","type":"x","request":[1]}"#), None);
}

#[test]
fn changed_fields_are_named() {
    let changed = |body| parse(body).changed.into_iter().map(Cow::into_owned).collect::<Vec<_>>();
    assert_eq!(
        changed(fixture!("customer.subscription.updated.pre_basil")),
        ["current_period_end", "current_period_start", "latest_invoice"]
    );
    assert_eq!(
        changed(fixture!("charge.captured.endive")),
        ["amount_captured", "balance_transaction", "captured", "receipt_url"]
    );
    assert!(changed(fixture!("checkout.session.completed.endive")).is_empty());
}

#[test]
fn each_type_is_sorted() {
    use {PaymentEvent as P, SessionEvent as S, Signal::*};
    for (event_type, signal) in [
        ("checkout.session.completed", Session(S::Completed)),
        ("checkout.session.async_payment_succeeded", Session(S::AsyncPaymentSucceeded)),
        ("checkout.session.async_payment_failed", Session(S::AsyncPaymentFailed)),
        ("checkout.session.expired", Session(S::Expired)),
        ("payment_intent.succeeded", Payment(P::IntentSucceeded)),
        ("payment_intent.canceled", Payment(P::IntentCanceled)),
        ("payment_intent.payment_failed", Payment(P::IntentPaymentFailed)),
        ("charge.succeeded", Payment(P::ChargeSucceeded)),
        ("charge.captured", Payment(P::ChargeCaptured)),
        ("customer.subscription.created", Subscription),
        ("customer.subscription.updated", Subscription),
        ("customer.subscription.deleted", Subscription),
        ("customer.subscription.cancel_at_changed", Subscription),
        ("invoice.paid", Invoice),
        ("invoice.payment_failed", Invoice),
        ("invoice.voided", Invoice),
        ("invoice.created", Unknown),
        ("invoice.upcoming", Unknown),
        ("payment_intent.created", Unknown),
        ("charge.failed", Unknown),
        ("product.created", Unknown),
        ("customer.created", Unknown),
        ("", Unknown),
    ] {
        assert_eq!(signal_of(event_type), signal, "{event_type}");
    }
    for later in "charge.refunded refund.created \
        refund.updated refund.failed charge.dispute.created charge.dispute.updated charge.dispute.closed \
        charge.dispute.funds_withdrawn charge.dispute.funds_reinstated customer.deleted invoice_payment.paid \
        entitlements.active_entitlement_summary.updated radar.early_fraud_warning.created"
        .split_whitespace()
    {
        assert_eq!(signal_of(later), NotYetHandled, "{later}");
    }
}

#[test]
fn what_is_no_event_is_refused_with_what_to_do() {
    assert_eq!(Event::parse(b"{\"id\":\"evt_\xff\"}"), Err(Error::NotUtf8));
    assert_eq!(Event::parse(b"{\"skipped\":\"\xff\",\"id\":\"evt_1\",\"type\":\"x\"}"), Err(Error::NotUtf8));
    for broken in ["", " ", "{", "nope", r#"{"id":"evt_1""#, r#"{"id":"evt_1","type":"x"} x"#, "\u{feff}{}"] {
        assert!(matches!(error(broken), Error::NotJson { .. }), "{broken:?}");
    }
    for other in ["[]", "null", "1", r#""evt_1""#, r#"["event","evt_1","x"]"#] {
        assert_eq!(error(other), Error::NotAnEvent, "{other}");
    }
    assert_eq!(error(r#"{"id":"cs_1","object":"checkout.session","type":"x"}"#), Error::NotAnEvent);
    assert_eq!(error("{}"), Error::NoId);
    assert_eq!(error(r#"{"id":null,"object":"event","type":"x"}"#), Error::NoId);
    assert_eq!(error(r#"{"id":17,"object":"event","type":"x"}"#), Error::NoId);
    let long = format!(r#"{{"id":"evt_{}","type":"x"}}"#, "a".repeat(252));
    for bad in
        [r#"{"id":"","type":"x"}"#, r#"{"id":"evt_","type":"x"}"#, r#"{"id":"evt_a b","type":"x"}"#, &long]
    {
        assert_eq!(error(bad), Error::BadId, "{bad}");
    }
    assert_eq!(error(r#"{"id":"evt_é","type":"x"}"#), Error::BadId);
    assert_eq!(error(r#"{"id":"ch_1","type":"x"}"#), Error::BadId);
    assert_eq!(error(r#"{"id":"evt_1","object":"event"}"#), Error::NoType);
    assert_eq!(error(r#"{"id":"evt_1","object":"event","type":""}"#), Error::NoType);
}

#[test]
fn fields_that_count_may_not_stand_twice_and_others_may() {
    for twice in [
        r#"{"id":"evt_1","type":"x","id":"evt_2"}"#,
        r#"{"id":"evt_1","type":"x","type":"y"}"#,
        r#"{"id":"evt_1","type":"x","livemode":true,"livemode":false}"#,
        r#"{"id":"evt_1","type":"x","data":{},"data":{}}"#,
        r#"{"id":"evt_1","type":"x","data":{"object":{"id":"cs_1","id":"cs_2"}}}"#,
        r#"{"id":"evt_1","type":"x","data":{"object":{"type":"a","type":"b"}}}"#,
        r#"{"id":"evt_1","type":"x","id":"evt_1"}"#,
        r#"{"id":null,"type":"x","id":"evt_1"}"#,
        r#"{"id":"evt_1","type":"x","\u0069d":"evt_2"}"#,
    ] {
        assert!(matches!(error(twice), Error::NotJson { .. }), "{twice}");
    }
    parse(br#"{"id":"evt_1","type":"x","other":1,"other":2,"data":{"object":{"a":1,"a":2}}}"#);
}

#[test]
fn optional_fields_of_another_type_read_as_absent() {
    let event = parse(
        br#"{"id":"evt_1","type":"x","created":"soon","livemode":"yes","api_version":7,"account":{},
            "data":[1,{"object":2}],"related_object":3}"#,
    );
    assert_eq!(event.created, None);
    assert_eq!(event.livemode, None);
    assert_eq!(event.api_version, None);
    assert_eq!(event.account, None);
    assert_eq!(event.object_id, None);
    let wild = parse(br#"{"id":"evt_1","type":"x","created":1e300,"data":{"object":{"id":"a\nb"}}}"#);
    assert_eq!((wild.created, wild.object_id), (None, None));
    assert_eq!(parse(br#"{"id":"evt_1","type":"x","created":18446744073709551615}"#).created, None);
}

#[test]
fn connected_accounts_bare_ids_and_escapes_are_read() {
    let event = parse(
        br#"{"id":"evt_1","type":"checkout\u002esession.expired","account":"acct_1","data":{"object":"cs_\u0031"}}"#,
    );
    assert_eq!(event.account.as_deref(), Some("acct_1"));
    assert_eq!(event.object_id.as_deref(), Some("cs_1"));
    assert_eq!(event.signal(), Signal::Session(SessionEvent::Expired));
    let thin =
        parse(br#"{"id":"evt_1","object":"v2.core.event","type":"v1.charge.captured","context":"acct_2"}"#);
    assert_eq!(thin.account.as_deref(), Some("acct_2"));
    assert_eq!(thin.signal(), Signal::Payment(PaymentEvent::ChargeCaptured));
}

#[test]
fn depth_costs_no_stack() {
    let deep = |field: &str| {
        format!(
            r#"{{"id":"evt_1","type":"x","{field}":{}{}}}"#,
            r#"{"id":"#.repeat(100_000),
            "}".repeat(100_000)
        )
    };
    assert!(matches!(error(&deep("skipped")), Error::NotJson { .. }), "the innermost value is missing");
    let lists =
        format!(r#"{{"id":"evt_1","type":"x","skipped":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(parse(lists.as_bytes()).id, "evt_1");
    assert!(matches!(error(&deep("request")), Error::NotJson { .. }));
    assert!(matches!(error(&"[".repeat(1_000_000)), Error::NotJson { .. }));
}

#[test]
fn what_is_read_is_borrowed() {
    let event = parse(fixture!("checkout.session.completed.endive"));
    assert!(matches!(event.id, Cow::Borrowed(_)));
    assert!(matches!(event.event_type, Cow::Borrowed(_)));
    assert!(matches!(event.object_id, Some(Cow::Borrowed(_))));
    assert!(matches!(parse(fixture!("checkout.session.completed.thin")).event_type, Cow::Borrowed(_)));
}

#[test]
fn an_error_never_tells_content() {
    let error = error(r#"{"id":"evt_1","type":"x","id":"jane@example.com"}"#);
    assert!(!format!("{error} {error:?}").contains("jane"));
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    use serde_json::Value;
    let key =
        prop::sample::select(vec!["id", "object", "type", "data", "created", "request", "livemode", "x"]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
        Just(Value::from("event")),
        Just(Value::from("evt_1")),
    ];
    leaf.prop_recursive(4, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key.clone(), inner), 0..6)
                .prop_map(|pairs| pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect::<Value>()),
        ]
    })
}

proptest! {
    #[test]
    fn random_bytes_never_panic(body: Vec<u8>) {
        drop(Event::parse(&body));
    }

    #[test]
    fn random_json_never_panics_and_only_events_pass(value in json()) {
        let body = value.to_string();
        if let Ok(event) = Event::parse(body.as_bytes()) {
            prop_assert_eq!(value["id"].as_str(), Some(event.id.as_ref()));
            prop_assert!(!event.event_type.is_empty());
        }
    }

    #[test]
    fn cut_events_are_refused(cut: prop::sample::Index) {
        let body = fixture!("checkout.session.completed.endive").trim_ascii_end();
        prop_assert!(Event::parse(&body[..cut.index(body.len())]).is_err());
    }
}
