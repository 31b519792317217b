//! Listings: one serves all, and an incomplete one says so.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use grantsmith_authforge::MemoryLabels;
use grantsmith_authforge::fake::{CallKind, Fault, NewLicense, Switches};
use grantsmith_core::port::{Class, LicenseApi, Moment, Priority};
use grantsmith_core::{AppId, LicenseStatus};

use crate::canned::canned;
use crate::support::{APP, Bench, app, client_of, label};

#[tokio::test]
async fn one_listing_serves_fifty_that_wait() {
    let bench = Bench::with(Switches { latency_ms: 20, ..Switches::default() }).await;
    for n in 0..450 {
        bench.fake.insert(NewLicense::labeled(APP, label(&format!("cs_guide_{n}")).as_str()));
    }
    let app = app();
    let waiting = join_all((0..50).map(|_| bench.client.list(&app, bench.now(), Priority::Audit))).await;
    assert!(waiting.iter().all(|listing| listing.as_ref().is_ok_and(|listing| listing.is_complete())));
    assert_eq!(bench.fake.counts().of(CallKind::List), 3);
}

#[tokio::test]
async fn a_listing_that_began_too_early_is_not_joined() {
    let bench = Bench::with(Switches { latency_ms: 50, ..Switches::default() }).await;
    let first = tokio::spawn({
        let (client, now) = (bench.client.clone(), bench.now());
        async move { client.list(&app(), now, Priority::Audit).await }
    });
    while bench.fake.counts().of(CallKind::List) == 0 {
        tokio::task::yield_now().await;
    }
    let not_before = bench.now();
    let second = bench.client.list(&app(), not_before, Priority::Buyer).await.expect("listing");
    let first = first.await.expect("task").expect("listing");
    assert!(first.begun_at() < not_before && second.begun_at() >= not_before);
}

#[tokio::test]
async fn a_listing_for_a_later_time_begins_then() {
    let bench = Bench::with(Switches::default()).await;
    let later = bench.now().plus(Duration::from_millis(50));
    let listing = bench.client.list(&app(), later, Priority::Audit).await.expect("listing");
    assert!(listing.begun_at() >= later);
}

#[tokio::test]
async fn an_asker_that_goes_away_takes_nobodys_listing() {
    let bench = Bench::with(Switches { latency_ms: 50, ..Switches::default() }).await;
    let ask = || {
        let client = bench.client.clone();
        tokio::spawn(async move { client.list(&app(), Moment::default(), Priority::Audit).await })
    };
    let (gone, stays) = (ask(), ask());
    while bench.fake.counts().of(CallKind::List) == 0 {
        tokio::task::yield_now().await;
    }
    gone.abort();
    assert!(stays.await.expect("task").expect("listing").is_complete());
    assert_eq!(bench.fake.counts().of(CallKind::List), 1);
}

#[tokio::test]
async fn a_listing_that_stops_early_is_incomplete_and_one_that_never_started_fails() {
    let bench = Bench::with(Switches::default()).await;
    for n in 0..450 {
        bench.fake.insert(NewLicense::labeled(APP, label(&format!("cs_guide_{n}")).as_str()));
    }
    for fault in [Fault::LostBefore, Fault::FiveHundredBefore, Fault::TruncatedBody, Fault::Status(200)] {
        bench.fake.script(CallKind::List, [fault]);
        let never = bench.client.list(&app(), bench.now(), Priority::Audit).await;
        assert_eq!(never.expect_err("no first page").class, Class::Transient, "{fault:?}");
    }
    let whole = bench.client.list(&app(), bench.now(), Priority::Audit).await.expect("listing");
    assert!(whole.is_complete());
    let client = client_of(&bench.fake.url(), &bench.key, &bench.clock, |_| ());
    bench.fake.switch(|switches| switches.latency_ms = 200);
    let early = tokio::spawn({
        let now = bench.now();
        async move { client.list(&app(), now, Priority::Audit).await }
    });
    let seen = bench.fake.counts().of(CallKind::List);
    while bench.fake.counts().of(CallKind::List) == seen {
        tokio::task::yield_now().await;
    }
    // The first page has passed the script already.
    bench.fake.script(CallKind::List, [Fault::LostBefore]);
    assert!(!early.await.expect("task").expect("first page").is_complete());
}

#[tokio::test]
async fn a_listing_that_is_not_understood_whole_is_incomplete() {
    const ROW: &str = r#"{"licenses":[{"licenseKey":"A","appId":"7d9f6a9e-0000-4000-8000-000000000001","status":"active",
        "createdAt":"2026-04-01T12:00:00Z","label":"Stripe session cs_test_1","expiresAt":null}],"cursor":"again"}"#;
    let bench = Bench::with(Switches::default()).await;
    let list = async |body| {
        let client = client_of(&canned(body).await, &bench.key, &bench.clock, |_| ());
        client.list(&app(), bench.now(), Priority::Audit).await.expect("listing")
    };
    // A cursor that comes again would turn the same pages for ever.
    let circle = list(ROW).await;
    assert!(!circle.is_complete() && !circle.labeled(&label("cs_test_1")).is_empty());
    let odd = list(include_str!("../../fixtures/list-strange-rows.json")).await;
    assert!(!odd.is_complete());
    assert_eq!(odd.labeled(&label("cs_test_1")).len(), 1, "strange neighbours cost a row nothing");
    assert!(odd.labeled(&label("cs_test_2")).is_empty(), "a status that we do not know is no status");
}

#[tokio::test]
async fn rows_without_labels_cost_one_get_each_once() {
    let labels = Arc::new(MemoryLabels::default());
    let silent = Switches { list_labels: false, ..Switches::default() };
    let bench = Bench::tuned(silent, |settings| settings.labels = labels.clone()).await;
    for n in 0..60 {
        bench.fake.insert(NewLicense::labeled(APP, label(&format!("cs_guide_{n}")).as_str()));
    }
    bench.fake.insert(NewLicense { label: None, ..NewLicense::labeled(APP, "") });
    for _ in 0..3 {
        let listing = bench.client.list(&app(), bench.now(), Priority::Audit).await.expect("listing");
        assert!(listing.is_complete());
        assert_eq!(listing.labeled(&label("cs_guide_59")).len(), 1);
    }
    assert_eq!(bench.fake.counts().of(CallKind::Get), 61);
    // What we made ourselves is known, and so is everything to the next process.
    bench.create("cs_test_1").await.expect("created");
    bench.client.list(&app(), bench.now(), Priority::Audit).await.expect("listing");
    let next = client_of(&bench.fake.url(), &bench.key, &bench.clock, |settings| settings.labels = labels);
    let listing = next.list(&app(), bench.now(), Priority::Audit).await.expect("listing");
    assert_eq!(listing.labeled(&label("cs_test_1")).len(), 1);
    assert_eq!(bench.fake.counts().of(CallKind::Get), 61);
}

#[tokio::test]
async fn a_label_that_cannot_be_read_leaves_the_listing_incomplete_until_it_can() {
    let bench = Bench::with(Switches { list_labels: false, ..Switches::default() }).await;
    for n in 0..3 {
        bench.fake.insert(NewLicense::labeled(APP, label(&format!("cs_guide_{n}")).as_str()));
    }
    bench.fake.script(CallKind::Get, [Fault::FiveHundredBefore]);
    let list = async || bench.client.list(&app(), bench.now(), Priority::Audit).await.expect("listing");
    assert!(!list().await.is_complete());
    assert!(list().await.is_complete());
    assert_eq!(bench.fake.counts().of(CallKind::Get), 4);
}

#[tokio::test]
async fn a_license_made_within_the_list_lag_is_not_listed_and_made_anyway() {
    let bench = Bench::with(Switches { list_lag_ms: 60_000, ..Switches::default() }).await;
    bench.create("cs_test_1").await.expect("created");
    let list = async || bench.client.list(&app(), bench.now(), Priority::Buyer).await.expect("listing");
    assert!(list().await.labeled(&label("cs_test_1")).is_empty());
    bench.clock.advance(Duration::from_secs(60));
    assert_eq!(list().await.labeled(&label("cs_test_1")).len(), 1);
}

#[tokio::test]
async fn a_license_revoked_within_the_list_lag_is_listed_as_it_was() {
    let bench = Bench::with(Switches { list_lag_ms: 60_000, ..Switches::default() }).await;
    let license = bench.create("cs_test_1").await.expect("created");
    bench.clock.advance(Duration::from_secs(60));
    bench.client.revoke(&license.key, Priority::Refund).await.expect("revoked");
    let status = async || {
        let listing = bench.client.list(&app(), bench.now(), Priority::Buyer).await.expect("listing");
        listing.labeled(&label("cs_test_1"))[0].status
    };
    assert_eq!(status().await, LicenseStatus::Active);
    bench.clock.advance(Duration::from_secs(60));
    assert_eq!(status().await, LicenseStatus::Revoked);
}

#[tokio::test]
async fn other_apps_are_listed_apart() {
    let bench = Bench::with(Switches::default()).await;
    bench.create("cs_test_1").await.expect("created");
    let other = AppId::parse("another-app").expect("app");
    let listing = bench.client.list(&other, bench.now(), Priority::Buyer).await.expect("listing");
    assert!(listing.is_complete() && listing.labeled(&label("cs_test_1")).is_empty());
}
