//! Claims about dirty marks, tickets, links and the events that wait for a look.

use grantsmith_core::Reason;
use grantsmith_core::grant::Dunning;
use grantsmith_core::purchase::Email;
use grantsmith_service::store::{
    Attempted, Decision, DeliveryState, Dirty, EventFilter, EventState, GrantState, NewEvent, Object,
    ObjectKind, Progress, Recorded, Source, Store, Ticket,
};
use jiff::Timestamp;

use crate::Harness;
use crate::build::{
    at, decide, decision, due_at, event, grant_id, issue, parked, payment, progress, purchase, ready,
    session, stripe,
};

async fn record(store: &dyn Store, event: NewEvent) {
    assert_eq!(store.record_event(event).await.expect("records"), Recorded::New);
}

async fn ticket(store: &dyn Store) -> Ticket {
    store.ticket().await.expect("ticket")
}

async fn dirty(store: &dyn Store, now: Timestamp) -> Vec<Dirty> {
    due_at(store, now, 1_000).await.objects
}

async fn is_dirty(store: &dyn Store, object: &Object, now: i64) -> bool {
    dirty(store, at(now)).await.iter().any(|dirty| dirty.object == *object)
}

async fn state(store: &dyn Store, id: &str) -> EventState {
    store.event(id).await.expect("reads").expect("is there").state
}

async fn look_failed(store: &dyn Store, id: &str, look: Ticket, due: Timestamp) {
    let object = session(id);
    let failed = store.look_failed(&object, look, due, Reason::StripeUnavailable, at(2));
    failed.await.expect("writes");
}

/// A decision that knows a payment of the session.
fn linking(decision: Decision, payment: &str) -> Decision {
    Decision { links: vec![stripe(payment)], ..decision }
}

pub(crate) async fn tickets_grow_also_over_a_restart<H: Harness>(harness: H) {
    let mut last = Ticket(0);
    for _ in 0..3 {
        let store = harness.open().await;
        for _ in 0..5 {
            let next = ticket(&*store).await;
            assert!(next > last, "{next:?} after {last:?}");
            last = next;
            store.mark_dirty(&session("cs_1"), at(0)).await.expect("marks");
        }
    }
    let store = harness.open().await;
    last = ticket(&*store).await;
    let after = harness.crash().await.open().await;
    assert!(ticket(&*after).await > last, "after a crash");
}

pub(crate) async fn an_event_asks_for_a_look_at_its_session<H: Harness>(harness: H) {
    let store = harness.open().await;
    record(&*store, event("evt_1", 10, &session("cs_1"))).await;
    assert!(!is_dirty(&*store, &session("cs_1"), 9).await, "not before its time");
    assert!(is_dirty(&*store, &session("cs_1"), 10).await);
    let paid = linking(decision("cs_1", ticket(&*store).await, 1, 20), "pi_1");
    assert!(store.decide(paid).await.expect("decides"));
    assert!(dirty(&*store, at(1_000)).await.is_empty());
    // Told of the payment: the session is what is looked at.
    record(&*store, event("evt_2", 30, &payment("pi_1"))).await;
    let marked = dirty(&*store, at(30)).await;
    assert_eq!(marked.iter().map(|dirty| &dirty.object).collect::<Vec<_>>(), [&session("cs_1")]);
    let event = store.event("evt_2").await.expect("reads").expect("is there");
    assert_eq!(event.purchase, Some(purchase("cs_1")));
    assert_eq!(store.purchase(&purchase("cs_1")).await.expect("reads").events.len(), 1);
}

pub(crate) async fn objects_whose_ids_end_alike_are_kept_apart<H: Harness>(harness: H) {
    let store = harness.open().await;
    let [one, other, third] = ["cs_test_a1_endsAlike", "cs_test_b1_endsAlike", "sub_endsAlike"];
    record(&*store, event("evt_1", 1, &session(one))).await;
    record(&*store, event("evt_2", 2, &session(other))).await;
    let paid = linking(decision(one, ticket(&*store).await, 1, 3), "pi_1_endsAlike");
    assert!(store.decide(paid).await.expect("decides"));
    let left: Vec<_> = dirty(&*store, at(100)).await.into_iter().map(|dirty| dirty.object).collect();
    assert_eq!(left, [session(other)]);
    for (id, of) in [(one, Some(one)), ("pi_1_endsAlike", Some(one)), (other, None), (third, None)] {
        assert_eq!(store.linked(&stripe(id)).await.expect("reads"), of.map(purchase), "{id}");
    }
    for (id, events) in [(one, ["evt_1"].as_slice()), (other, &["evt_2"]), (third, &[])] {
        let filter = EventFilter { purchase: Some(id.to_owned()), ..EventFilter::default() };
        let listed = store.events(&filter, None, 10).await.expect("lists");
        assert_eq!(listed.iter().map(|event| &event.id[..]).collect::<Vec<_>>(), events, "{id}");
    }
}

pub(crate) async fn an_earlier_time_to_look_stays<H: Harness>(harness: H) {
    let store = harness.open().await;
    for due in [50, 20, 90] {
        store.mark_dirty(&session("cs_1"), at(due)).await.expect("marks");
    }
    assert!(!is_dirty(&*store, &session("cs_1"), 19).await);
    assert!(is_dirty(&*store, &session("cs_1"), 20).await);
    store.mark_dirty(&session("cs_2"), at(10)).await.expect("marks");
    let order: Vec<_> = dirty(&*store, at(100)).await.into_iter().map(|dirty| dirty.object).collect();
    assert_eq!(order, [session("cs_2"), session("cs_1")], "longest waiting first");
    assert_eq!(due_at(&*store, at(100), 1).await.objects.len(), 1);
}

pub(crate) async fn a_decision_ends_the_look<H: Harness>(harness: H) {
    let store = harness.open().await;
    record(&*store, event("evt_1", 1, &session("cs_1"))).await;
    let told =
        Source::Told { event: "evt_1".to_owned(), kind: "checkout.session.completed".to_owned(), at: at(0) };
    let mut decided = decision("cs_1", ticket(&*store).await, 1, 2);
    decided.snapshot.source = told.clone();
    let body = decided.snapshot.body.clone();
    assert!(store.decide(decided).await.expect("decides"));
    assert!(dirty(&*store, at(1_000)).await.is_empty());
    assert_eq!(state(&*store, "evt_1").await, EventState::Handled);
    let record = store.purchase(&purchase("cs_1")).await.expect("reads");
    let snapshot = record.session.expect("a snapshot");
    assert_eq!((snapshot.object, snapshot.source, snapshot.body), (session("cs_1"), told, body));
    assert!(record.events.is_empty(), "taken in");
    assert_eq!(store.linked(&stripe("cs_1")).await.expect("reads"), Some(purchase("cs_1")));
    assert_eq!(store.linked(&stripe("pi_9")).await.expect("reads"), None);
}

pub(crate) async fn a_mark_made_during_a_look_survives_it<H: Harness>(harness: H) {
    let store = harness.open().await;
    record(&*store, event("evt_1", 1, &session("cs_1"))).await;
    let look = ticket(&*store).await;
    record(&*store, event("evt_2", 2, &session("cs_1"))).await;
    assert!(store.decide(decision("cs_1", look, 1, 3)).await.expect("decides"));
    assert!(
        is_dirty(&*store, &session("cs_1"), 3).await,
        "the look may have missed what the second event tells"
    );
    assert_eq!(state(&*store, "evt_1").await, EventState::Handled);
    assert_eq!(state(&*store, "evt_2").await, EventState::Pending);
    decide(&*store, "cs_1", 1, 4).await;
    assert!(dirty(&*store, at(1_000)).await.is_empty());
    assert_eq!(state(&*store, "evt_2").await, EventState::Handled);
}

pub(crate) async fn a_look_may_be_asked_for_later<H: Harness>(harness: H) {
    let store = harness.open().await;
    let again = Decision { look_again: Some(at(500)), ..decision("cs_1", ticket(&*store).await, 1, 3) };
    assert!(store.decide(again).await.expect("decides"));
    assert!(!is_dirty(&*store, &session("cs_1"), 499).await);
    assert!(is_dirty(&*store, &session("cs_1"), 500).await);
    // A signal hastens it, and the next decision takes it back.
    record(&*store, event("evt_1", 100, &session("cs_1"))).await;
    assert!(is_dirty(&*store, &session("cs_1"), 100).await);
    decide(&*store, "cs_1", 1, 101).await;
    assert!(dirty(&*store, at(1_000)).await.is_empty());
}

pub(crate) async fn a_late_answer_never_replaces_a_newer_one<H: Harness>(harness: H) {
    let store = harness.open().await;
    let slow = ticket(&*store).await;
    decide(&*store, "cs_1", 2, 5).await;
    record(&*store, event("evt_1", 6, &session("cs_1"))).await;
    let before = store.journal(&crate::build::grant_id("cs_1")).await.expect("reads").len();
    let late = linking(decision("cs_1", slow, 1, 7), "pi_1");
    assert!(!store.decide(late).await.expect("refuses"));
    let grant = store.grant(&crate::build::grant_id("cs_1")).await.expect("reads").expect("is there");
    assert_eq!((grant.licenses.len(), grant.updated), (2, at(5)));
    assert_eq!(store.journal(&grant.id).await.expect("reads").len(), before);
    assert_eq!(store.linked(&stripe("pi_1")).await.expect("reads"), None);
    assert_eq!(state(&*store, "evt_1").await, EventState::Pending);
    assert!(is_dirty(&*store, &session("cs_1"), 6).await);
}

pub(crate) async fn a_decision_may_be_repeated<H: Harness>(harness: H) {
    // As after an answer that was lost between the record and the one who asked.
    let store = harness.open().await;
    record(&*store, event("evt_1", 1, &session("cs_1"))).await;
    let look = ticket(&*store).await;
    for _ in 0..2 {
        assert!(store.decide(decision("cs_1", look, 1, 2)).await.expect("decides"));
    }
    assert!(dirty(&*store, at(1_000)).await.is_empty());
    assert_eq!(store.journal(&crate::build::grant_id("cs_1")).await.expect("reads").len(), 1);
}

pub(crate) async fn an_orphan_is_joined_when_its_link_comes<H: Harness>(harness: H) {
    let store = harness.open().await;
    record(&*store, event("evt_refund", 1, &payment("pi_1"))).await;
    assert!(dirty(&*store, at(1_000)).await.is_empty(), "nobody knows yet what to look at");
    assert_eq!(store.event("evt_refund").await.expect("reads").expect("is there").purchase, None);

    let look = ticket(&*store).await;
    assert!(store.purchase(&purchase("cs_1")).await.expect("reads").events.is_empty());
    assert!(store.decide(linking(decision("cs_1", look, 1, 5), "pi_1")).await.expect("decides"));
    assert_eq!(state(&*store, "evt_refund").await, EventState::Pending, "this look has not taken it in");
    assert!(is_dirty(&*store, &session("cs_1"), 5).await);
    let waiting = store.purchase(&purchase("cs_1")).await.expect("reads").events;
    assert_eq!(waiting.iter().map(|event| event.id.as_str()).collect::<Vec<_>>(), ["evt_refund"]);

    let next = linking(decision("cs_1", ticket(&*store).await, 1, 6), "pi_1");
    assert!(store.decide(next).await.expect("decides"));
    assert_eq!(state(&*store, "evt_refund").await, EventState::Handled);
    assert!(dirty(&*store, at(1_000)).await.is_empty(), "joined once");
}

pub(crate) async fn what_a_look_has_seen_of_an_orphan_is_taken_in<H: Harness>(harness: H) {
    let store = harness.open().await;
    record(&*store, event("evt_before", 1, &payment("pi_1"))).await;
    let look = ticket(&*store).await;
    record(&*store, event("evt_during", 2, &payment("pi_2"))).await;
    let links = vec![stripe("pi_1"), stripe("pi_2")];
    let seeing =
        |ticket| Decision { links: links.clone(), seen: links.clone(), ..decision("cs_1", ticket, 1, 5) };
    assert!(store.decide(seeing(look)).await.expect("decides"));
    assert_eq!(state(&*store, "evt_before").await, EventState::Handled);
    assert_eq!(
        state(&*store, "evt_during").await,
        EventState::Pending,
        "the look may have missed what it tells"
    );
    assert!(is_dirty(&*store, &session("cs_1"), 5).await);
    assert!(store.decide(seeing(ticket(&*store).await)).await.expect("decides"));
    assert_eq!(state(&*store, "evt_during").await, EventState::Handled);
    assert!(dirty(&*store, at(1_000)).await.is_empty());
}

pub(crate) async fn whoever_waits_at_the_till_is_looked_at_first<H: Harness>(harness: H) {
    let store = harness.open().await;
    let [renewed, till] =
        ["sub_renewed", "sub_till"].map(|id| Object { kind: ObjectKind::Subscription, id: stripe(id) });
    let linked =
        Decision { links: vec![renewed.id.clone()], ..decision("cs_paid", ticket(&*store).await, 1, 1) };
    assert!(store.decide(linked).await.expect("decides"));
    let due = [(&renewed, 10), (&session("cs_paid"), 20), (&till, 30), (&session("cs_till"), 40)];
    for (object, due) in due {
        store.mark_dirty(object, at(due)).await.expect("marks");
    }
    let order: Vec<_> = dirty(&*store, at(100)).await.into_iter().map(|dirty| dirty.object).collect();
    assert_eq!(order, [till, session("cs_till"), session("cs_paid"), renewed]);
}

pub(crate) async fn an_orphan_joined_during_another_look_waits_for_the_next<H: Harness>(harness: H) {
    let store = harness.open().await;
    record(&*store, event("evt_refund", 1, &payment("pi_1"))).await;
    let first = ticket(&*store).await;
    let second = ticket(&*store).await;
    // The second look has read the purchase before the first one's link was written.
    assert!(store.decide(linking(decision("cs_1", first, 1, 5), "pi_1")).await.expect("decides"));
    assert!(store.decide(linking(decision("cs_1", second, 1, 6), "pi_1")).await.expect("decides"));
    assert_eq!(state(&*store, "evt_refund").await, EventState::Pending);
    assert!(is_dirty(&*store, &session("cs_1"), 6).await);
}

pub(crate) async fn a_failed_look_is_put_off<H: Harness>(harness: H) {
    let store = harness.open().await;
    record(&*store, event("evt_1", 1, &session("cs_1"))).await;
    for tries in 1..=3 {
        let look = ticket(&*store).await;
        let due = at(100 * i64::from(tries));
        look_failed(&*store, "cs_1", look, due).await;
        assert!(!is_dirty(&*store, &session("cs_1"), 100 * i64::from(tries) - 1).await);
        assert_eq!(dirty(&*store, due).await.first().map(|dirty| dirty.tries), Some(tries));
    }
    let event = store.event("evt_1").await.expect("reads").expect("is there");
    assert_eq!((event.state, event.reason), (EventState::Pending, Some(Reason::StripeUnavailable)));
    decide(&*store, "cs_1", 1, 400).await;
    let event = store.event("evt_1").await.expect("reads").expect("is there");
    assert_eq!((event.state, event.reason), (EventState::Handled, None));
    store.mark_dirty(&session("cs_1"), at(500)).await.expect("marks");
    assert_eq!(dirty(&*store, at(500)).await.first().map(|dirty| dirty.tries), Some(0), "in a row");
    // A look that nobody had asked for leaves no mark behind.
    let look = ticket(&*store).await;
    look_failed(&*store, "cs_2", look, at(1)).await;
    assert!(!is_dirty(&*store, &session("cs_2"), 1_000).await);
}

pub(crate) async fn a_mark_made_during_a_failed_look_keeps_its_time<H: Harness>(harness: H) {
    let store = harness.open().await;
    let look = ticket(&*store).await;
    store.mark_dirty(&session("cs_1"), at(10)).await.expect("marks");
    look_failed(&*store, "cs_1", look, at(900)).await;
    assert!(is_dirty(&*store, &session("cs_1"), 10).await);
}

pub(crate) async fn an_ended_look_tells_its_events_why<H: Harness>(harness: H) {
    let store = harness.open().await;
    record(&*store, event("evt_1", 1, &session("cs_1"))).await;
    let look = ticket(&*store).await;
    record(&*store, event("evt_2", 2, &session("cs_1"))).await;
    let object = session("cs_1");
    let ended =
        store.look_ended(&object, look, EventState::Parked, Reason::NeedsStripeKey, "set a key", at(3));
    ended.await.expect("writes");
    let event = store.event("evt_1").await.expect("reads").expect("is there");
    assert_eq!((event.state, event.reason), (EventState::Parked, Some(Reason::NeedsStripeKey)));
    assert_eq!(event.detail.as_deref(), Some("set a key"));
    assert_eq!(state(&*store, "evt_2").await, EventState::Pending, "it came after");
    assert!(is_dirty(&*store, &object, 3).await, "so did its mark");

    let look = ticket(&*store).await;
    let ended = store.look_ended(&object, look, EventState::Ignored, Reason::ObjectGone, "it is gone", at(4));
    ended.await.expect("writes");
    assert_eq!(state(&*store, "evt_2").await, EventState::Ignored);
    assert!(dirty(&*store, at(1_000)).await.is_empty());
}

pub(crate) async fn parked_events_are_taken_in_by_a_later_decision<H: Harness>(harness: H) {
    let store = harness.open().await;
    record(&*store, event("evt_1", 1, &session("cs_1"))).await;
    let bad = parked(decision("cs_1", ticket(&*store).await, 0, 2));
    assert!(store.decide(bad).await.expect("decides"));
    assert_eq!(state(&*store, "evt_1").await, EventState::Parked);
    decide(&*store, "cs_1", 1, 3).await;
    let event = store.event("evt_1").await.expect("reads").expect("is there");
    assert_eq!((event.state, event.reason, event.detail), (EventState::Handled, None, None));
}

pub(crate) async fn the_next_due_time_is_the_earliest_of_all<H: Harness>(harness: H) {
    let store = harness.open().await;
    assert_eq!(due_at(&*store, at(0), 1).await.earliest, None);
    store.mark_dirty(&session("cs_9"), at(900)).await.expect("marks");
    assert_eq!(due_at(&*store, at(0), 1).await.earliest, Some(at(900)));
    decide(&*store, "cs_1", 1, 500).await;
    assert_eq!(due_at(&*store, at(0), 1).await.earliest, Some(at(500)), "a grant");
    crate::build::issue(&*store, "cs_1", 1).await;
    crate::build::progress(&*store, crate::build::ready("cs_1", 1, 300)).await;
    assert_eq!(due_at(&*store, at(0), 1).await.earliest, Some(at(300)), "its sending");
}

pub(crate) async fn what_a_clock_that_ran_ahead_put_off_is_due_once_it_is_set_back<H: Harness>(harness: H) {
    const YEARS: i64 = 2 * 365 * 86_400_000;
    let store = harness.open().await;
    // Told, tried and put off by the wrong time.
    record(&*store, event("evt_1", YEARS, &session("cs_1"))).await;
    record(&*store, event("evt_2", 1, &session("cs_2"))).await;
    look_failed(&*store, "cs_2", ticket(&*store).await, at(YEARS)).await;
    decide(&*store, "cs_3", 1, 1).await;
    progress(
        &*store,
        Progress { state: GrantState::Issuing, due: Some(at(YEARS)), tries: 1, ..ready("cs_3", 1, 2) },
    )
    .await;
    let later = |reason| Attempted {
        state: DeliveryState::Due,
        reason,
        detail: None,
        due: Some(at(YEARS)),
        at: at(2),
    };
    decide(&*store, "cs_4", 1, 1).await;
    issue(&*store, "cs_4", 1).await;
    progress(&*store, ready("cs_4", 1, 2)).await;
    store.attempted(&grant_id("cs_4"), 1, later(Some(Reason::MailRefused))).await.expect("writes");
    let jane = Email::new("jane@example.com").expect("an address");
    store.wish_for_link(&jane, 3, at(1)).await.expect("writes");
    let wish = due_at(&*store, at(1), 10).await.wishes.pop().expect("a wish").number;
    store.wish_tried(wish, Some(at(YEARS))).await.expect("writes");
    // Planned for then, and put off for less than an hour.
    store.mark_dirty(&session("cs_5"), at(YEARS)).await.expect("marks");
    let dunning = Dunning { invoice: "in_1".to_owned(), since: at(YEARS), ends_at: at(2 * YEARS) };
    let look = ticket(&*store).await;
    let warned = Decision { dunning: Some(dunning), licenses: Vec::new(), ..decision("cs_6", look, 0, 1) };
    assert!(store.decide(parked(warned)).await.expect("decides"));
    record(&*store, event("evt_7", 1, &session("cs_7"))).await;
    look_failed(&*store, "cs_7", ticket(&*store).await, at(3_600_000)).await;

    let due = due_at(&*store, at(10), 10).await;
    assert!(
        due.objects.is_empty() && due.grants.is_empty() && due.deliveries.is_empty() && due.wishes.is_empty()
    );
    assert_eq!(store.clock_set_back(at(10)).await.expect("writes"), 5);
    let due = due_at(&*store, at(10), 10).await;
    let looks: Vec<_> = due.objects.iter().map(|dirty| dirty.object.id.to_string()).collect();
    assert_eq!(looks, ["cs_1", "cs_2"]);
    assert_eq!(due.grants, [grant_id("cs_3")]);
    assert_eq!(due.deliveries.iter().map(|mail| mail.grant.clone()).collect::<Vec<_>>(), [grant_id("cs_4")]);
    assert_eq!(due.wishes.len(), 1);
    assert_eq!(store.clock_set_back(at(10)).await.expect("writes"), 0);
}
