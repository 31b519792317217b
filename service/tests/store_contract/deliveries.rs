//! Claims about sendings.

use std::time::Duration;

use grantsmith_core::grant::Dunning;
use grantsmith_core::{Email, Reason};
use grantsmith_service::store::{Attempted, Decision, Delivery, DeliveryKind, DeliveryState, Store};
use jiff::Timestamp;

use crate::Harness;
use crate::build::{at, decide, decision, due_at, grant_id, issue, progress, ready};

fn tried(state: DeliveryState, reason: Option<Reason>, due: Option<Timestamp>, at: Timestamp) -> Attempted {
    Attempted { state, reason, detail: reason.map(|_| "550 no such mailbox".to_owned()), due, at }
}

async fn due(store: &dyn Store, now: i64) -> Vec<u32> {
    let due = due_at(store, at(now), 10).await.deliveries;
    due.into_iter().map(|delivery| delivery.number).collect()
}

async fn newest(store: &dyn Store) -> Delivery {
    let row = store.grant(&grant_id("cs_1")).await.expect("reads").expect("is there");
    row.delivery.expect("a sending")
}

/// How many mails wait to be sent, and how many for a person.
async fn waiting(store: &dyn Store) -> (u64, u64) {
    let counts = store.counts().await.expect("counts");
    (counts.deliveries_due, counts.deliveries_parked)
}

pub(crate) async fn the_first_sending_is_begun_once<H: Harness>(harness: H) {
    let store = harness.open().await;
    decide(&*store, "cs_1", 1, 1).await;
    issue(&*store, "cs_1", 1).await;
    assert!(due(&*store, 1_000).await.is_empty());
    progress(&*store, ready("cs_1", 1, 5)).await;
    progress(&*store, ready("cs_1", 1, 6)).await;
    assert_eq!(due(&*store, 5).await, [1]);
    let sent = newest(&*store).await;
    assert_eq!((sent.grant, sent.number, sent.state), (grant_id("cs_1"), 1, DeliveryState::Due));
    assert_eq!((sent.tries, sent.created, sent.updated), (0, at(5), at(5)));
    store
        .attempted(&grant_id("cs_1"), 1, tried(DeliveryState::Sent, None, None, at(7)))
        .await
        .expect("writes");
    progress(&*store, ready("cs_1", 1, 8)).await;
    assert!(due(&*store, 1_000).await.is_empty(), "once is enough");
    let sent = newest(&*store).await;
    assert_eq!((sent.state, sent.tries, sent.updated), (DeliveryState::Sent, 1, at(7)));
}

pub(crate) async fn a_try_says_when_to_come_back<H: Harness>(harness: H) {
    let store = harness.open().await;
    decide(&*store, "cs_1", 1, 1).await;
    issue(&*store, "cs_1", 1).await;
    progress(&*store, ready("cs_1", 1, 5)).await;
    let again = tried(DeliveryState::Due, Some(Reason::MailRefused), Some(at(100)), at(6));
    store.attempted(&grant_id("cs_1"), 1, again).await.expect("writes");
    assert!(due(&*store, 99).await.is_empty());
    assert_eq!(due(&*store, 100).await, [1]);
    let sent = newest(&*store).await;
    assert_eq!((sent.reason, sent.tries), (Some(Reason::MailRefused), 1));
    assert_eq!(sent.detail.as_deref(), Some("550 no such mailbox"));
    let parked = tried(DeliveryState::Parked, Some(Reason::MailRefused), None, at(100));
    store.attempted(&grant_id("cs_1"), 1, parked).await.expect("writes");
    assert!(due(&*store, 10_000).await.is_empty());
    assert_eq!(waiting(&*store).await, (0, 1));
    let unknown = store.attempted(&grant_id("cs_1"), 9, tried(DeliveryState::Sent, None, None, at(1))).await;
    assert!(unknown.is_err());
}

pub(crate) async fn a_resend_has_the_next_number<H: Harness>(harness: H) {
    let store = harness.open().await;
    decide(&*store, "cs_1", 1, 1).await;
    issue(&*store, "cs_1", 1).await;
    progress(&*store, ready("cs_1", 1, 5)).await;
    store
        .attempted(&grant_id("cs_1"), 1, tried(DeliveryState::Sent, None, None, at(6)))
        .await
        .expect("writes");
    for number in 2..=3 {
        let id = grant_id("cs_1");
        assert_eq!(store.resend(&id, "hand", at(10)).await.expect("asks"), number);
    }
    assert_eq!(due(&*store, 10).await, [3], "one letter is enough, whoever asks twice");
    assert_eq!(newest(&*store).await.number, 3);
    let journal = store.journal(&grant_id("cs_1")).await.expect("reads");
    let by_hand = journal.iter().filter(|line| line.cause == "hand").map(|line| line.text.as_str());
    assert_eq!(by_hand.collect::<Vec<_>>(), ["sending 2 is due", "sending 3 is due"]);
    assert!(store.resend(&grant_id("cs_unknown"), "hand", at(10)).await.is_err());
}

pub(crate) async fn what_was_not_sent_yet_gives_way_to_a_resend<H: Harness>(harness: H) {
    let store = harness.open().await;
    decide(&*store, "cs_1", 1, 1).await;
    issue(&*store, "cs_1", 1).await;
    progress(&*store, ready("cs_1", 1, 5)).await;
    let parked = tried(DeliveryState::Parked, Some(Reason::MailRefused), None, at(6));
    store.attempted(&grant_id("cs_1"), 1, parked).await.expect("writes");
    assert_eq!(store.resend(&grant_id("cs_1"), "hand", at(7)).await.expect("asks"), 2);
    harness.clock().advance(Duration::from_millis(7));
    assert_eq!(waiting(&*store).await, (1, 0));
    let put_off = tried(DeliveryState::Due, Some(Reason::MailRefused), Some(at(100)), at(8));
    store.attempted(&grant_id("cs_1"), 2, put_off).await.expect("writes");
    assert_eq!(store.resend(&grant_id("cs_1"), "hand", at(9)).await.expect("asks"), 3);
    assert_eq!(due(&*store, 1_000).await, [3]);
}

/// A purchase whose buyer has no address, with its key made and its mail begun.
async fn without_an_address(store: &dyn Store) {
    let ticket = store.ticket().await.expect("ticket");
    let told = Decision { email: None, ..decision("cs_1", ticket, 1, 1) };
    assert!(store.decide(told).await.expect("decides"));
    issue(store, "cs_1", 1).await;
    progress(store, ready("cs_1", 1, 5)).await;
}

pub(crate) async fn a_mail_without_an_address_goes_out_once_stripe_tells_one<H: Harness>(harness: H) {
    let store = harness.open().await;
    without_an_address(&*store).await;
    let parked = tried(DeliveryState::Parked, Some(Reason::NoAddress), None, at(6));
    store.attempted(&grant_id("cs_1"), 1, parked).await.expect("writes");
    assert!(due(&*store, 1_000).await.is_empty());
    decide(&*store, "cs_1", 1, 20).await;
    assert_eq!(due(&*store, 20).await, [1]);
    let sending = newest(&*store).await;
    assert_eq!((sending.kind, sending.tries, sending.created), (DeliveryKind::Keys, 0, at(20)));
    assert_eq!((sending.reason, sending.detail), (None, None));
    let again = tried(DeliveryState::Parked, Some(Reason::MailRefused), None, at(21));
    store.attempted(&grant_id("cs_1"), 1, again).await.expect("writes");
    decide(&*store, "cs_1", 1, 30).await;
    assert!(due(&*store, 1_000).await.is_empty(), "the address is no other one");
}

pub(crate) async fn of_what_waited_for_an_address_the_newest_goes_out<H: Harness>(harness: H) {
    let store = harness.open().await;
    without_an_address(&*store).await;
    let told = async |email: Option<Email>, at_millis| {
        let ticket = store.ticket().await.expect("ticket");
        let dunning = Some(failing("in_1"));
        let told = Decision { email, dunning, ..decision("cs_1", ticket, 2, at_millis) };
        assert!(store.decide(told).await.expect("decides"));
    };
    told(None, 6).await;
    issue(&*store, "cs_1", 2).await;
    progress(&*store, ready("cs_1", 2, 7)).await;
    let now = days(8);
    assert_eq!(due(&*store, now).await, [1, 2, 5, 3], "a key, a warning, another key, another warning");
    for number in [1, 2, 5, 3] {
        let parked = tried(DeliveryState::Parked, Some(Reason::NoAddress), None, at(now));
        store.attempted(&grant_id("cs_1"), number, parked).await.expect("writes");
    }
    told(Email::new("jane@example.com"), now).await;
    assert_eq!(due(&*store, now).await, [3, 5], "each tells all that the ones before it would");
    assert_eq!(waiting(&*store).await.1, 0);
}

pub(crate) async fn a_mail_whose_address_came_while_it_was_tried_goes_out<H: Harness>(harness: H) {
    let store = harness.open().await;
    without_an_address(&*store).await;
    decide(&*store, "cs_1", 1, 6).await;
    let parked = tried(DeliveryState::Parked, Some(Reason::NoAddress), None, at(7));
    store.attempted(&grant_id("cs_1"), 1, parked).await.expect("writes");
    assert_eq!(due(&*store, 7).await, [1]);
}

/// Days after the start, in milliseconds.
const fn days(days: i64) -> i64 {
    days * 86_400_000
}

/// A subscription's payment fails: the buyer is warned on days 0, 7 and 19.
fn failing(invoice: &str) -> Dunning {
    Dunning { invoice: invoice.to_owned(), since: at(0), ends_at: at(days(21)) }
}

/// Decides anew whether a payment fails.
async fn dun(store: &dyn Store, dunning: Option<Dunning>, at_millis: i64) {
    let ticket = store.ticket().await.expect("ticket");
    let decision = Decision { dunning, ..decision("cs_1", ticket, 1, at_millis) };
    assert!(store.decide(decision).await.expect("decides"));
}

pub(crate) async fn a_warning_is_as_old_as_its_time<H: Harness>(harness: H) {
    let store = harness.open().await;
    dun(&*store, Some(failing("in_1")), 9).await;
    let warnings = due_at(&*store, at(days(30)), 10).await.deliveries;
    let created: Vec<_> = warnings.iter().map(|warning| warning.created).collect();
    assert_eq!(created, [at(9), at(days(7)), at(days(19))], "how long it is tried counts from then");
}

pub(crate) async fn a_planned_warning_is_not_waiting<H: Harness>(harness: H) {
    let store = harness.open().await;
    harness.clock().advance(Duration::from_millis(9));
    dun(&*store, Some(failing("in_1")), 9).await;
    assert_eq!(waiting(&*store).await, (1, 0));
    let later = tried(DeliveryState::Due, Some(Reason::MailRefused), Some(at(days(1))), at(9));
    store.attempted(&grant_id("cs_1"), 1, later).await.expect("writes");
    assert_eq!(waiting(&*store).await, (1, 0), "one that was put off waits still");
    let sent = tried(DeliveryState::Sent, None, None, at(9));
    store.attempted(&grant_id("cs_1"), 1, sent).await.expect("writes");
    assert_eq!(waiting(&*store).await, (0, 0));
    harness.clock().advance(Duration::from_millis(days(7).unsigned_abs()));
    assert_eq!(waiting(&*store).await, (1, 0));
}

pub(crate) async fn a_parked_warning_goes_with_what_it_warns_of<H: Harness>(harness: H) {
    let store = harness.open().await;
    let park = async |number| {
        let parked = tried(DeliveryState::Parked, Some(Reason::MailRefused), None, at(10));
        store.attempted(&grant_id("cs_1"), number, parked).await.expect("writes");
    };
    harness.clock().advance(Duration::from_millis(days(1).unsigned_abs()));
    dun(&*store, Some(failing("in_1")), 9).await;
    park(1).await;
    assert_eq!(waiting(&*store).await, (0, 1));
    dun(&*store, Some(failing("in_1")), 11).await;
    assert_eq!(waiting(&*store).await, (0, 1), "nothing has changed");
    dun(&*store, Some(failing("in_2")), 12).await;
    assert_eq!(waiting(&*store).await, (1, 0), "another invoice is warned of");
    park(4).await;
    dun(&*store, None, 13).await;
    assert_eq!(waiting(&*store).await, (0, 0), "it was paid, or is over");
}

pub(crate) async fn a_parked_warning_is_tried_again_with_the_keys<H: Harness>(harness: H) {
    let store = harness.open().await;
    dun(&*store, Some(failing("in_1")), 9).await;
    let parked = tried(DeliveryState::Parked, Some(Reason::MailRefused), None, at(10));
    store.attempted(&grant_id("cs_1"), 1, parked).await.expect("writes");
    store.resend(&grant_id("cs_1"), "hand", at(11)).await.expect("asks");
    assert_eq!(due(&*store, 11).await, [1, 4]);
}

pub(crate) async fn a_parked_warning_tells_the_end_as_it_is_by_then<H: Harness>(harness: H) {
    let store = harness.open().await;
    dun(&*store, Some(failing("in_1")), 9).await;
    let parked = tried(DeliveryState::Parked, Some(Reason::MailRefused), None, at(10));
    store.attempted(&grant_id("cs_1"), 1, parked).await.expect("writes");
    dun(&*store, Some(Dunning { ends_at: at(days(30)), ..failing("in_1") }), 11).await;
    store.resend(&grant_id("cs_1"), "hand", at(12)).await.expect("asks");
    let due = due_at(&*store, at(12), 10).await.deliveries;
    let ends: Vec<_> = due.iter().map(|delivery| (delivery.number, delivery.until)).collect();
    assert_eq!(ends, [(1, Some(at(days(30)))), (4, None)]);
}
