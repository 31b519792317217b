//! Claims about events.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use grantsmith_core::Reason;
use grantsmith_service::store::{Cursor, Event, EventFilter, EventState, NewEvent, Recorded, Store};

use crate::Harness;
use crate::build::{
    at, decide, decision, due_at, event, ignored, parked, payment, purchase, session, stripe,
};

async fn record(store: &dyn Store, event: NewEvent) {
    assert_eq!(store.record_event(event).await.expect("records"), Recorded::New);
}

async fn list(store: &dyn Store, filter: &EventFilter) -> Vec<String> {
    let events = store.events(filter, None, 1_000).await.expect("lists");
    events.into_iter().map(|event| event.id).collect()
}

pub(crate) async fn an_event_is_kept_once<H: Harness>(harness: H) {
    let store = harness.open().await;
    let told = event("evt_1", 5, &session("cs_1"));
    record(&*store, told.clone()).await;
    let again = NewEvent { received: at(9), body: Bytes::from_static(b"other"), ..told.clone() };
    let known = store.record_event(again).await.expect("records");
    assert_eq!(known, Recorded::Duplicate(EventState::Pending, None));

    let kept = store.event("evt_1").await.expect("reads").expect("is there");
    assert_eq!((kept.kind, kept.created, kept.received), (told.kind, told.created, told.received));
    assert_eq!((kept.livemode, kept.api_version), (told.livemode, told.api_version));
    assert_eq!((kept.object_id.as_deref(), kept.state), (Some("cs_1"), EventState::Pending));
    assert_eq!(
        kept.purchase,
        Some(purchase("cs_1")),
        "a session is a purchase until something else is known"
    );
    assert_eq!(kept.body, Some(told.body));
    assert!(store.event("evt_2").await.expect("reads").is_none());
}

pub(crate) async fn of_many_tellings_at_once_exactly_one_is_new<H: Harness>(harness: H) {
    let store = harness.open().await;
    let tellings = (0..200).map(|n| {
        let store = Arc::clone(&store);
        let told = event(&format!("evt_{}", n % 50), n, &session(&format!("cs_{}", n % 50)));
        tokio::spawn(async move { (told.id.clone(), store.record_event(told).await.expect("records")) })
    });
    let mut new = Vec::new();
    for telling in tellings.collect::<Vec<_>>() {
        match telling.await.expect("ends") {
            (id, Recorded::New) => new.push(id),
            (_, Recorded::Duplicate(state, reason)) => {
                assert_eq!((state, reason), (EventState::Pending, None));
            }
        }
    }
    assert_eq!(new.len(), 50, "one of four is new");
    assert_eq!(new.into_iter().collect::<BTreeSet<_>>().len(), 50, "and for each event");
    assert_eq!(list(&*store, &EventFilter::default()).await.len(), 50);
}

pub(crate) async fn bodies_come_back_byte_for_byte<H: Harness>(harness: H) {
    let store = harness.open().await;
    let mut noise = 7_u64;
    let noise = (0..5_000).map(|_| {
        noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        noise.to_be_bytes()[0]
    });
    let bodies = [
        Bytes::new(),
        Bytes::from_static(b"\xff\x00\xc3("),
        Bytes::from("{\"a\":1}".repeat(1_000)),
        noise.collect(),
        Bytes::from(vec![b' '; 1 << 20]),
    ];
    for (n, body) in (0..).zip(&bodies) {
        let told = event(&format!("evt_{n}"), n, &session("cs_1"));
        record(&*store, NewEvent { body: body.clone(), ..told }).await;
    }
    for (n, body) in bodies.iter().enumerate() {
        let kept = store.event(&format!("evt_{n}")).await.expect("reads").expect("is there");
        assert_eq!(kept.body.as_ref(), Some(body), "body {n}");
    }
    let read = store.purchase(&purchase("cs_1")).await.expect("reads").events;
    assert!(read.iter().map(|event| event.body.as_ref()).eq(bodies.iter().map(Some)));
    let listed = store.events(&EventFilter::default(), None, 10).await.expect("lists");
    assert!(listed.iter().all(|event| event.body.is_none()), "lists leave bodies out");
}

pub(crate) async fn events_are_listed_by_the_time_they_came<H: Harness>(harness: H) {
    let store = harness.open().await;
    // Handed in out of order, as concurrent requests may be; of one millisecond, the one that was kept last is the newest.
    for (id, received) in [("evt_b", 20), ("evt_d", 40), ("evt_a", 10), ("evt_c1", 30), ("evt_c2", 30)] {
        record(&*store, event(id, received, &session("cs_1"))).await;
    }
    let ids = ["evt_d", "evt_c2", "evt_c1", "evt_b", "evt_a"];
    assert_eq!(list(&*store, &EventFilter::default()).await, ids);
    let oldest_first = store.purchase(&purchase("cs_1")).await.expect("reads").events;
    assert!(oldest_first.iter().map(|event| event.id.as_str()).eq(ids.into_iter().rev()));
}

pub(crate) async fn a_page_follows_the_last_though_events_come_in<H: Harness>(harness: H) {
    let store = harness.open().await;
    let mut expected = Vec::new();
    for n in 0..30 {
        // Several in one millisecond, so that a page ends among them.
        record(&*store, event(&format!("evt_{n:02}"), n / 4, &session("cs_1"))).await;
        expected.insert(0, format!("evt_{n:02}"));
    }
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let page = store.events(&EventFilter::default(), after.as_ref(), 7).await.expect("lists");
        let Some(last) = page.last() else { break };
        after = Some(Cursor { at: last.received, id: last.id.clone() });
        seen.extend(page.into_iter().map(|event| event.id));
        let late = format!("evt_late_{}", seen.len());
        record(&*store, event(&late, 1_000, &session("cs_1"))).await;
    }
    assert_eq!(seen, expected);
}

pub(crate) async fn conditions_on_events_hold_together<H: Harness>(harness: H) {
    let store = harness.open().await;
    record(&*store, event("evt_done", 1, &session("cs_1"))).await;
    record(&*store, event("evt_bad", 2, &session("cs_2"))).await;
    decide(&*store, "cs_1", 1, 3).await;
    let ticket = store.ticket().await.expect("ticket");
    assert!(store.decide(parked(decision("cs_2", ticket, 0, 4))).await.expect("decides"));
    record(&*store, event("evt_new", 5, &session("cs_1"))).await;
    record(&*store, ignored("evt_other", 6)).await;

    let all = EventFilter::default;
    let state = |state| EventFilter { state: Some(state), ..all() };
    let of = |purchase: &str| EventFilter { purchase: Some(purchase.to_owned()), ..all() };
    let reason = |reason| EventFilter { reason: Some(reason), ..all() };
    let kind = |kind: &str| EventFilter { kind: Some(kind.to_owned()), ..all() };
    for (filter, ids) in [
        (state(EventState::Pending), vec!["evt_new"]),
        (state(EventState::Handled), vec!["evt_done"]),
        (state(EventState::Parked), vec!["evt_bad"]),
        (state(EventState::Ignored), vec!["evt_other"]),
        (of("cs_1"), vec!["evt_new", "evt_done"]),
        (of("cs_3"), vec![]),
        (reason(Reason::BadMetadata), vec!["evt_bad"]),
        (kind("customer.created"), vec!["evt_other"]),
        (EventFilter { state: Some(EventState::Handled), ..of("cs_1") }, vec!["evt_done"]),
        (EventFilter { state: Some(EventState::Parked), ..of("cs_1") }, vec![]),
        (EventFilter { reason: Some(Reason::BadMetadata), ..of("cs_2") }, vec!["evt_bad"]),
    ] {
        assert_eq!(list(&*store, &filter).await, ids, "{filter:?}");
    }
    let bad = store.event("evt_bad").await.expect("reads").expect("is there");
    assert_eq!((bad.reason, bad.detail.as_deref()), (Some(Reason::BadMetadata), Some("mend it")));
}

pub(crate) async fn an_ignored_event_asks_for_no_look<H: Harness>(harness: H) {
    let store = harness.open().await;
    record(&*store, ignored("evt_1", 1)).await;
    assert!(due_at(&*store, at(1_000), 10).await.objects.is_empty());
    assert_eq!(due_at(&*store, at(0), 1).await.earliest, None);
    let again = store.record_event(ignored("evt_1", 2)).await.expect("records");
    assert_eq!(again, Recorded::Duplicate(EventState::Ignored, Some(Reason::UnknownType)));
}

pub(crate) async fn a_replayed_event_counts_as_new<H: Harness>(harness: H) {
    let store = harness.open().await;
    let session = session("cs_1");
    record(&*store, event("evt_1", 1, &session)).await;
    decide(&*store, "cs_1", 1, 2).await;
    assert!(due_at(&*store, at(1_000), 10).await.objects.is_empty());
    let replay = |id: &'static str| {
        let (store, session) = (Arc::clone(&store), session.clone());
        async move { store.replay_event(id, Some(&session), EventState::Pending, None, at(500)).await }
    };
    assert!(replay("evt_1").await.expect("replays"));
    assert!(!replay("evt_2").await.expect("says that there is none"));
    assert!(due_at(&*store, at(499), 10).await.objects.is_empty(), "not before its time");
    assert_eq!(due_at(&*store, at(500), 10).await.objects.len(), 1);
    let event = store.event("evt_1").await.expect("reads").expect("is there");
    assert_eq!((event.state, event.received), (EventState::Pending, at(1)));
    assert_eq!(store.purchase(&purchase("cs_1")).await.expect("reads").events.len(), 1);
    // It can also be taken to mean nothing.
    let ignored = store.replay_event("evt_1", None, EventState::Ignored, Some(Reason::OtherMode), at(501));
    assert!(ignored.await.expect("replays"));
    let event = store.event("evt_1").await.expect("reads").expect("is there");
    assert_eq!((event.state, event.reason), (EventState::Ignored, Some(Reason::OtherMode)));
}

fn has_body(event: Option<Event>) -> bool {
    event.is_some_and(|event| event.body.is_some())
}

pub(crate) async fn bodies_are_forgotten_when_nothing_waits_for_them<H: Harness>(harness: H) {
    let store = harness.open().await;
    record(&*store, event("evt_done", 1, &session("cs_1"))).await;
    record(&*store, event("evt_parked", 2, &session("cs_2"))).await;
    record(&*store, event("evt_pending", 3, &session("cs_3"))).await;
    record(&*store, ignored("evt_ignored", 4)).await;
    record(&*store, ignored("evt_young", 5)).await;
    decide(&*store, "cs_1", 1, 6).await;
    let ticket = store.ticket().await.expect("ticket");
    assert!(store.decide(parked(decision("cs_2", ticket, 0, 6))).await.expect("decides"));

    assert_eq!(store.drop_bodies(at(5)).await.expect("drops"), 2);
    assert_eq!(store.drop_bodies(at(5)).await.expect("drops"), 0, "they are gone");
    for (id, kept) in
        [("evt_done", false), ("evt_parked", true), ("evt_pending", true), ("evt_ignored", false)]
    {
        assert_eq!(has_body(store.event(id).await.expect("reads")), kept, "{id}");
    }
    assert!(has_body(store.event("evt_young").await.expect("reads")), "not its time");
    let again = store.record_event(event("evt_done", 9, &session("cs_1"))).await.expect("records");
    assert_eq!(again, Recorded::Duplicate(EventState::Handled, None), "ids are kept for ever");
    // What waited goes once it waits no more.
    decide(&*store, "cs_3", 1, 7).await;
    assert_eq!(store.drop_bodies(at(5)).await.expect("drops"), 1);
}

pub(crate) async fn a_payment_that_no_purchase_claims_is_let_go<H: Harness>(harness: H) {
    let store = harness.open().await;
    record(&*store, event("evt_1", 1, &payment("pi_elsewhere"))).await;
    record(&*store, event("evt_2", 9, &payment("pi_young"))).await;
    store.drop_bodies(at(5)).await.expect("drops");
    let old = store.event("evt_1").await.expect("reads").expect("is there");
    assert_eq!((old.state, old.reason), (EventState::Ignored, Some(Reason::NotOurs)));
    assert!(old.body.is_none());
    let young = store.event("evt_2").await.expect("reads").expect("is there");
    assert_eq!(young.state, EventState::Pending);
}

pub(crate) async fn what_was_answered_survives_a_crash<H: Harness>(harness: H) {
    let store = harness.open().await;
    let tellings = (0..100).map(|n| {
        let store = Arc::clone(&store);
        let told = event(&format!("evt_{n}"), n, &session(&format!("cs_{n}")));
        tokio::spawn(async move { store.record_event(told).await.expect("records") })
    });
    for telling in tellings.collect::<Vec<_>>() {
        telling.await.expect("ends");
    }
    decide(&*store, "cs_7", 2, 200).await;
    store.mark_dirty(&session("cs_7"), at(300)).await.expect("marks");

    let after = harness.crash().await;
    let store = after.open().await;
    assert_eq!(list(&*store, &EventFilter::default()).await.len(), 100);
    assert_eq!(due_at(&*store, at(1_000), 1_000).await.objects.len(), 100);
    assert_eq!(store.linked(&stripe("cs_7")).await.expect("reads"), Some(purchase("cs_7")));
    let grant = store.grant(&crate::build::grant_id("cs_7")).await.expect("reads").expect("is there");
    assert_eq!(grant.licenses.len(), 2);
}
