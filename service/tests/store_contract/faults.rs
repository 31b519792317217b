//! Claims about a record that cannot be had.

use std::sync::Arc;
use std::time::Duration;

use grantsmith_core::port::LogError;
use grantsmith_service::store::{Error, EventFilter, Recorded};

use crate::Harness;
use crate::build::{attempt, decide, event, grant_id, session};

/// What Stripe is promised when the record is held by somebody else.
const PATIENCE: Duration = Duration::from_secs(15);

pub(crate) async fn a_second_process_is_told_that_the_record_is_in_use<H: Harness>(harness: H) {
    let store = harness.open().await;
    let second = harness.try_open().await;
    let error = second.expect_err("is refused");
    assert!(matches!(error, Error::InUse(_)), "{error}");
    assert!(error.to_string().contains("in use by another process"), "{error}");
    store.check().await.expect("the first goes on");
    drop(store);
    harness.open().await.check().await.expect("now it is the only one");
}

pub(crate) async fn a_newer_record_is_left_alone<H: Harness>(harness: H) {
    drop(harness.open().await);
    harness.outdate().await;
    for _ in 0..2 {
        let error = harness.try_open().await.expect_err("is refused");
        assert!(matches!(error, Error::TooNew { found: 99, known: 1 }), "{error}");
    }
}

pub(crate) async fn a_record_held_by_somebody_else_is_unavailable_and_comes_back<H: Harness>(harness: H) {
    let store = harness.open().await;
    decide(&*store, "cs_1", 1, 1).await;
    store.record_event(event("evt_before", 1, &session("cs_1"))).await.expect("records");
    let held = harness.hold().await;
    let tellings = (0..20).map(|n| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.record_event(event(&format!("evt_{n}"), n, &session("cs_1"))).await })
    });
    let tellings: Vec<_> = tellings.collect();
    let refused = tokio::time::timeout(PATIENCE, async {
        for telling in tellings {
            let error = telling.await.expect("ends").expect_err("is refused");
            assert!(matches!(error, Error::Unavailable(_)), "{error}");
        }
        let opened = store.open(&grant_id("cs_1"), 0, &attempt("attempt-1", 1, 1)).await;
        assert!(matches!(opened, Err(LogError::Unavailable(_))), "{opened:?}");
    });
    refused.await.expect("within Stripe's patience");
    let readable = store.event("evt_before").await.expect("reads go on");
    assert!(readable.is_some());
    drop(held);

    store.check().await.expect("works again");
    for n in 0..20 {
        let told = store.record_event(event(&format!("evt_{n}"), n, &session("cs_1"))).await;
        assert_eq!(told.expect("records"), Recorded::New, "nothing was written");
    }
    assert_eq!(store.events(&EventFilter::default(), None, 100).await.expect("lists").len(), 21);
}

pub(crate) async fn the_check_writes<H: Harness>(harness: H) {
    let store = harness.open().await;
    let before = store.ticket().await.expect("ticket");
    store.check().await.expect("can be written");
    assert!(store.ticket().await.expect("ticket").0 > before.0 + 1);
}
