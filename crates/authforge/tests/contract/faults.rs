//! What can go wrong with a call, and what the client says of it.

use std::sync::Arc;
use std::time::Duration;

use grantsmith_authforge::ApiKey;
use grantsmith_authforge::fake::{CallKind, Deeds, Fault, Switches};
use grantsmith_core::LicenseKey;
use grantsmith_core::port::{Class, LicenseApi, Priority};

use crate::canned::canned;
use crate::support::{Bench, TOKEN, app, client_of, label, order};

/// How many licenses a fault leaves behind, and what the client says of it.
const FAULTS: &[(Fault, usize, Class)] = &[
    (Fault::LostBefore, 0, Class::OutcomeUnknown),
    (Fault::LostAfter, 1, Class::OutcomeUnknown),
    (Fault::FiveHundredAfterCommit, 1, Class::OutcomeUnknown),
    (Fault::FiveHundredBefore, 0, Class::OutcomeUnknown),
    (Fault::TruncatedBody, 1, Class::OutcomeUnknown),
    (Fault::TooManyRequests, 0, Class::RateLimited),
    (Fault::Status(200), 0, Class::OutcomeUnknown),
    (Fault::Status(204), 0, Class::OutcomeUnknown),
    (Fault::Status(302), 0, Class::Rejected),
    (Fault::Status(307), 0, Class::Rejected),
    (Fault::Status(400), 0, Class::Rejected),
    (Fault::Status(401), 0, Class::Unauthorized),
    (Fault::Status(402), 0, Class::CreditsExhausted),
    (Fault::Status(403), 0, Class::Rejected),
    (Fault::Status(404), 0, Class::Rejected),
    (Fault::Status(408), 0, Class::OutcomeUnknown),
    (Fault::Status(502), 0, Class::OutcomeUnknown),
    (Fault::Status(503), 0, Class::OutcomeUnknown),
    (Fault::Status(504), 0, Class::OutcomeUnknown),
];

#[tokio::test]
async fn each_fault_of_a_create_has_its_class_and_is_never_repeated_beneath() {
    for (fault, made, class) in FAULTS {
        let bench = Bench::with(Switches { retry_after: Some(0), ..Switches::default() }).await;
        // A connection that is in use already meets the drop differently from a fresh one.
        for warm in [false, true] {
            if warm {
                bench.client.list(&app(), bench.now(), Priority::Buyer).await.ok();
            }
            let before = (bench.fake.licenses().len(), bench.fake.counts().of(CallKind::Create));
            bench.fake.script(CallKind::Create, [*fault]);
            if bench.client.reserve_create(Priority::Buyer).await.is_err() {
                continue;
            }
            let error = bench.client.create(&order("cs_test_1")).await.expect_err("faulty");
            assert_eq!(error.class, *class, "{fault:?}: {error}");
            let after = (bench.fake.licenses().len(), bench.fake.counts().of(CallKind::Create));
            assert_eq!((after.0 - before.0, after.1 - before.1), (*made, 1), "{fault:?}");
        }
        assert!(bench.fake.history().iter().all(|deed| !deed.answered), "{fault:?}");
    }
}

#[tokio::test]
async fn a_create_done_late_is_of_unknown_outcome_and_appears() {
    let bench = Bench::with(Switches::default()).await;
    bench.fake.script(CallKind::Create, [Fault::Delayed(100)]);
    let error = bench.create("cs_test_1").await.expect_err("lost");
    assert_eq!((error.class, bench.fake.licenses().len()), (Class::OutcomeUnknown, 0));
    bench.fake.until(|history| !history.is_empty()).await;
    let listing = bench.client.list(&app(), bench.now(), Priority::Buyer).await.expect("listing");
    assert_eq!(listing.labeled(&label("cs_test_1")).len(), 1);
}

#[tokio::test]
async fn a_create_done_twice_is_answered_once_and_listed_twice() {
    let bench = Bench::with(Switches::default()).await;
    bench.fake.script(CallKind::Create, [Fault::Duplicated]);
    bench.create("cs_test_1").await.expect("answered");
    let listing = bench.client.list(&app(), bench.now(), Priority::Buyer).await.expect("listing");
    assert_eq!(listing.labeled(&label("cs_test_1")).len(), 2);
    let answered: Vec<_> = bench.fake.history().iter().map(|deed| (deed.what, deed.answered)).collect();
    assert_eq!(answered, [(Deeds::Created, false), (Deeds::Created, true)]);
}

#[tokio::test]
async fn an_answer_that_takes_too_long_is_of_unknown_outcome() {
    let slow = Switches { latency_ms: 2_000, ..Switches::default() };
    let bench = Bench::tuned(slow, |settings| settings.timeout = Duration::from_millis(100)).await;
    assert_eq!(bench.create("cs_test_1").await.expect_err("slow").class, Class::OutcomeUnknown);
    let listed = bench.client.list(&app(), bench.now(), Priority::Buyer).await;
    assert_eq!(listed.expect_err("slow").class, Class::Transient);
}

#[tokio::test]
async fn calls_that_can_be_repeated_are_never_in_doubt() {
    let bench = Bench::with(Switches::default()).await;
    let license = bench.create("cs_test_1").await.expect("created");
    for fault in [Fault::LostBefore, Fault::LostAfter, Fault::FiveHundredAfterCommit, Fault::TruncatedBody] {
        bench.fake.script(CallKind::Put, [fault]);
        let error = bench.client.revoke(&license.key, Priority::Refund).await.expect_err("faulty");
        assert_eq!(error.class, Class::Transient, "{fault:?}");
        bench.client.revoke(&license.key, Priority::Refund).await.expect("repeated");
        bench.fake.script(CallKind::Get, [fault]);
        let error = bench.client.get(&app(), &license.key, Priority::Refund).await.expect_err("faulty");
        assert_eq!(error.class, Class::Transient, "{fault:?}");
    }
}

#[tokio::test]
async fn only_what_a_look_confirms_is_refused_for_good() {
    let bench = Bench::with(Switches::default()).await;
    let license = bench.create("cs_test_1").await.expect("created");
    bench.client.revoke(&license.key, Priority::Refund).await.expect("revoked");
    let reinstate = async |fault| {
        bench.fake.script(CallKind::Put, [fault]);
        bench.client.reinstate(&license.key, Priority::Buyer).await.expect_err("faulty").class
    };
    // A proxy's words, or those for an API key of too small a scope, or of another account.
    for status in [302, 403, 404, 451] {
        assert_eq!(reinstate(Fault::Status(status)).await, Class::Rejected, "{status}");
    }
    for status in [400, 409, 422] {
        let expected = if status == 409 { Class::Transient } else { Class::Refused };
        assert_eq!(reinstate(Fault::Status(status)).await, expected, "{status}");
    }
    bench.client.reinstate(&license.key, Priority::Buyer).await.expect("reinstated once it is mended");
}

#[tokio::test]
async fn a_wish_to_be_left_alone_keeps_no_buyer_for_a_day() {
    for (fault, wish, expected) in [
        (Fault::TooManyRequests, 86_400, Some(600)),
        (Fault::TooManyRequests, 30, Some(30)),
        (Fault::TooManyRequests, 0, None),
    ] {
        let bench = Bench::with(Switches { retry_after: Some(wish), ..Switches::default() }).await;
        bench.fake.script(CallKind::List, [fault]);
        let error = bench.client.list(&app(), bench.now(), Priority::Buyer).await.expect_err("faulty");
        assert_eq!(error.retry_after, expected.map(Duration::from_secs), "{fault:?}, {wish} s");
    }
}

#[tokio::test]
async fn a_lost_device_reset_is_of_unknown_outcome() {
    let bench = Bench::with(Switches::default()).await;
    let license = bench.create("cs_test_1").await.expect("created");
    bench.fake.script(CallKind::Put, [Fault::LostAfter]);
    let error = bench.client.reset_devices(&license.key, Priority::Buyer).await.expect_err("lost");
    assert_eq!(error.class, Class::OutcomeUnknown);
    bench.client.reset_devices(&license.key, Priority::Buyer).await.expect("reset");
}

#[tokio::test]
async fn nobody_listening_is_no_effect() {
    let bench = Bench::with(Switches::default()).await;
    for url in ["http://127.0.0.1:9", "http://nowhere.invalid", &bench.fake.url().replace("http:", "https:")]
    {
        let client = client_of(url, &bench.key, &bench.clock, |_| ());
        client.reserve_create(Priority::Buyer).await.expect("reserved");
        let error = client.create(&order("cs_test_1")).await.expect_err("no connection");
        assert_eq!(error.class, Class::Transient, "{url}: {error}");
    }
}

#[tokio::test]
async fn a_create_answer_about_something_else_is_of_unknown_outcome() {
    let bench = Bench::with(Switches::default()).await;
    for body in [
        r#"{"licenses":[]}"#,
        r#"{"licenses":[{"licenseKey":"A","appId":"another-app","status":"active"}]}"#,
        r#"{"licenses":[{"licenseKey":"A"},{"licenseKey":"B"}]}"#,
        "<html>welcome to this hotel</html>",
        "",
    ] {
        let client = client_of(&canned(body).await, &bench.key, &bench.clock, |_| ());
        client.reserve_create(Priority::Buyer).await.expect("reserved");
        let error = client.create(&order("cs_test_1")).await.expect_err("not ours");
        assert_eq!(error.class, Class::OutcomeUnknown, "{body}");
    }
}

#[tokio::test]
async fn no_error_and_no_debug_text_tells_a_secret() {
    const CANARY: &str = "CANA-RYCA-NARY-CANA";
    let key = LicenseKey::new(CANARY);
    let mut told = Vec::new();
    for status in [302, 400, 401, 402, 403, 404, 408, 429, 500, 503] {
        for fault in
            [Fault::Status(status), Fault::LostBefore, Fault::TruncatedBody, Fault::FiveHundredBefore]
        {
            let bench = Bench::with(Switches { retry_after: Some(0), ..Switches::default() }).await;
            for kind in [CallKind::Create, CallKind::List, CallKind::Get, CallKind::Put] {
                bench.fake.script(kind, [fault, fault]);
            }
            told.push(format!("{:?}", bench.create("cs_test_1").await));
            told.push(format!("{:?}", bench.client.list(&app(), bench.now(), Priority::Audit).await));
            told.push(format!("{:?}", bench.client.revoke(&key, Priority::Refund).await));
            told.push(format!("{:?}", bench.client.extend(&key, None, Priority::Refund).await));
            told.push(format!("{:?}", bench.client.reset_devices(&key, Priority::Refund).await));
            told.push(format!("{:?}", bench.client.get(&app(), &key, Priority::Refund).await));
            told.push(format!("{:?} {:?} {:?}", bench.client, bench.key, bench.client.health()));
            let settings = grantsmith_authforge::Settings::new(
                format!("http://user:{TOKEN}@127.0.0.1:9").parse().expect("URL"),
                bench.key.clone(),
                bench.clock.clone(),
            );
            told.push(format!("{settings:?}").replace("http://127.0.0.1:9", ""));
        }
    }
    let bench = Bench::with(Switches::default()).await;
    for url in ["http://127.0.0.1:9", "http://nowhere.invalid", &bench.fake.url().replace("http:", "https:")]
    {
        let client = client_of(url, &bench.key, &bench.clock, |_| ());
        told.push(format!("{:?}", client.revoke(&key, Priority::Refund).await));
    }
    bench.key.store(Arc::new(ApiKey::new(format!("{TOKEN}\n"))));
    let error = bench.client.revoke(&key, Priority::Refund).await.expect_err("cannot be sent");
    assert_eq!(error.class, Class::Unauthorized);
    told.push(format!("{error:?} {error}"));
    for text in told {
        assert!(!text.contains(CANARY) && !text.contains("CANARY0token"), "{text}");
        assert!(!text.contains("http://") && !text.contains("scripted"), "{text}");
    }
}
