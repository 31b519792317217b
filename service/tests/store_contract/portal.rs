//! Claims about the portal: wishes for links, what opens it, and what buyers ask for themselves.

use grantsmith_core::purchase::Email;
use grantsmith_service::fulfillment::portal::Token;
use grantsmith_service::store::{
    Attempted, BuyerResend, DeliveryState, GrantFilter, GrantState, Limited, Opens, Store, TokenHash, Wish,
};
use jiff::{SignedDuration, Timestamp};

use crate::Harness;
use crate::build::{at, decide, decision, due_at, grant_id, parked, progress, ready};

const HOUR: i64 = 3_600_000;

fn email(text: &str) -> Email {
    Email::new(text).expect("an address")
}

async fn wish(store: &dyn Store, address: &str, at_millis: i64) -> Limited {
    store.wish_for_link(&email(address), 3, at(at_millis)).await.expect("writes")
}

async fn due(store: &dyn Store, now: i64) -> Vec<Wish> {
    due_at(store, at(now), 10).await.wishes
}

fn address(wish: &Wish) -> Option<&str> {
    wish.email.as_ref().map(Email::expose)
}

async fn issue(store: &dyn Store, opens: Opens, until: Timestamp) -> TokenHash {
    let hash = Token::random().hash();
    store.issue_token(hash.clone(), opens, &email("Jane@Example.com"), until).await.expect("keeps");
    hash
}

async fn spend(store: &dyn Store, token: &TokenHash, opens: Opens, now: i64) -> Option<String> {
    let spent = store.spend_token(token.clone(), opens, at(now)).await.expect("spends");
    spent.map(|email| email.expose().to_owned())
}

pub(crate) async fn a_wish_is_answered_to_the_address_on_record<H: Harness>(harness: H) {
    let store = harness.open().await;
    decide(&*store, "cs_1", 1, 1).await;
    assert_eq!(wish(&*store, " jANE@example.COM ", 10).await, Limited::Taken);
    assert_eq!(wish(&*store, "stranger@example.com", 11).await, Limited::Taken, "and says nothing else");
    assert!(due(&*store, 9).await.is_empty());
    assert_eq!(due_at(&*store, at(0), 1).await.earliest, Some(at(1)), "the grant");
    let wishes = due(&*store, 11).await;
    assert_eq!(
        wishes.iter().map(address).collect::<Vec<_>>(),
        [Some("Jane@Example.com"), None],
        "not to what was typed"
    );
    store.wish_tried(wishes[0].number, Some(at(500))).await.expect("writes");
    store.wish_tried(wishes[1].number, None).await.expect("writes");
    assert!(due(&*store, 499).await.is_empty());
    assert_eq!(due(&*store, 500).await.iter().map(|wish| wish.tries).collect::<Vec<_>>(), [1]);
}

pub(crate) async fn a_purchase_that_is_not_ours_makes_no_address_known<H: Harness>(harness: H) {
    let store = harness.open().await;
    let mut foreign = parked(decision("cs_1", store.ticket().await.expect("ticket"), 0, 2));
    foreign.state = GrantState::NotOurs;
    assert!(store.decide(foreign).await.expect("decides"));
    wish(&*store, "jane@example.com", 10).await;
    assert_eq!(due(&*store, 10).await.iter().map(address).collect::<Vec<_>>(), [None]);
}

pub(crate) async fn no_hour_has_more_wishes_than_it_may<H: Harness>(harness: H) {
    let store = harness.open().await;
    for n in 0..3 {
        assert_eq!(wish(&*store, "jane@example.com", n * 1_000).await, Limited::Taken);
    }
    let free_at = at(HOUR);
    for one_too_many in ["jane@example.com", "JANE@example.com"] {
        assert_eq!(wish(&*store, one_too_many, HOUR - 1).await, Limited::TooMany { free_at });
    }
    assert_eq!(wish(&*store, "john@example.com", HOUR - 1).await, Limited::Taken, "others may");
    store.tidy_portal(at(HOUR - 1)).await.expect("tidies");
    assert_eq!(wish(&*store, "jane@example.com", HOUR - 1).await, Limited::TooMany { free_at });
    drop(store);
    let store = harness.open().await;
    let still = wish(&*store, "jane@example.com", HOUR - 1).await;
    assert_eq!(still, Limited::TooMany { free_at }, "a restart does not forget");
    assert_eq!(wish(&*store, "jane@example.com", HOUR).await, Limited::Taken);
    let second = Limited::TooMany { free_at: at(HOUR + 1_000) };
    assert_eq!(wish(&*store, "jane@example.com", HOUR).await, second);
}

pub(crate) async fn a_token_is_spent_once_before_its_end_and_on_its_use<H: Harness>(harness: H) {
    let store = harness.open().await;
    let token = issue(&*store, Opens::Portal, at(100)).await;
    assert_eq!(spend(&*store, &Token::random().hash(), Opens::Portal, 1).await, None);
    assert_eq!(spend(&*store, &token, Opens::Action, 1).await, None, "a link is no action");
    assert_eq!(spend(&*store, &token, Opens::Portal, 99).await.as_deref(), Some("jane@example.com"));
    assert_eq!(spend(&*store, &token, Opens::Portal, 99).await, None, "once");

    let late = issue(&*store, Opens::Action, at(100)).await;
    assert_eq!(spend(&*store, &late, Opens::Action, 100).await, None, "too late");
    store.tidy_portal(at(100)).await.expect("tidies");
    assert_eq!(spend(&*store, &late, Opens::Action, 99).await, None, "forgotten");
}

pub(crate) async fn of_many_who_spend_a_token_at_once_one_succeeds<H: Harness>(harness: H) {
    let store = harness.open().await;
    let token = issue(&*store, Opens::Portal, at(100)).await;
    let spending = (0..16).map(|_| {
        let (store, token) = (store.clone(), token.clone());
        tokio::spawn(async move { spend(&*store, &token, Opens::Portal, 1).await })
    });
    let mut opened = 0;
    for spent in spending.collect::<Vec<_>>() {
        opened += u32::from(spent.await.expect("ends").is_some());
    }
    assert_eq!(opened, 1);
}

fn resend(email: Option<Email>, at_millis: i64) -> BuyerResend {
    BuyerResend { grant: grant_id("cs_1"), email, most: 2, cause: "buyer", at: at(at_millis) }
}

pub(crate) async fn a_buyer_may_ask_for_so_many_sendings_an_hour<H: Harness>(harness: H) {
    let store = harness.open().await;
    decide(&*store, "cs_1", 1, 1).await;
    crate::build::issue(&*store, "cs_1", 1).await;
    progress(&*store, ready("cs_1", 1, 5)).await;
    for n in 0..2 {
        let taken = store.resend_for_buyer(resend(None, 10 + n)).await.expect("asks");
        assert_eq!(taken, Limited::Taken, "the first sending does not count");
    }
    let free_at = at(HOUR + 10);
    for email in [None, Email::new("john@example.com")] {
        let taken = store.resend_for_buyer(resend(email, HOUR + 9)).await.expect("asks");
        assert_eq!(taken, Limited::TooMany { free_at });
    }
    let row = store.grant(&grant_id("cs_1")).await.expect("reads").expect("a grant");
    assert_eq!(row.email.as_ref().map(Email::expose), Some("Jane@Example.com"), "nothing was written");
    let taken = store.resend_for_buyer(resend(None, HOUR + 10)).await.expect("asks");
    assert_eq!(taken, Limited::Taken);
}

pub(crate) async fn an_address_that_the_buyer_gave_stays<H: Harness>(harness: H) {
    let store = harness.open().await;
    decide(&*store, "cs_1", 1, 1).await;
    crate::build::issue(&*store, "cs_1", 1).await;
    progress(&*store, ready("cs_1", 1, 5)).await;
    store.resend_for_buyer(resend(Email::new("John@Example.com"), 10)).await.expect("asks");
    let due: Vec<u32> =
        due_at(&*store, at(10), 10).await.deliveries.into_iter().map(|delivery| delivery.number).collect();
    assert_eq!(due, [2], "what was to go to the old address is dropped");
    let sent = Attempted { state: DeliveryState::Sent, reason: None, detail: None, due: None, at: at(11) };
    store.attempted(&grant_id("cs_1"), 2, sent).await.expect("writes");
    // Stripe still tells the old one.
    decide(&*store, "cs_1", 1, 20).await;
    for (address, found) in [("john@example.com", 1), ("jane@example.com", 0)] {
        let filter = GrantFilter { email: Some(address.to_owned()), ..GrantFilter::default() };
        assert_eq!(store.grants(&filter, None, 10).await.expect("lists").len(), found, "{address}");
    }
    let journal = store.journal(&grant_id("cs_1")).await.expect("reads");
    let by_buyer: Vec<_> =
        journal.iter().filter(|line| line.cause == "buyer").map(|line| line.text.as_str()).collect();
    assert_eq!(by_buyer, ["the buyer's address has changed", "sending 2 is due"]);
}

pub(crate) async fn what_is_over_is_forgotten<H: Harness>(harness: H) {
    let store = harness.open().await;
    wish(&*store, "jane@example.com", 0).await;
    store.tidy_portal(at(2 * HOUR)).await.expect("tidies");
    let waiting = due(&*store, 2 * HOUR).await;
    assert_eq!(waiting.len(), 1, "what was not answered yet stays");
    store.wish_tried(waiting[0].number, None).await.expect("writes");
    store.tidy_portal(at(2 * HOUR)).await.expect("tidies");
    let hour = SignedDuration::from_hours(1);
    assert_eq!(due_at(&*store, at(0), 1).await.earliest, None);
    // As if it had never been: three more may be asked for in the same hour.
    for _ in 0..3 {
        let taken = store.wish_for_link(&email("jane@example.com"), 3, at(0) + hour / 2).await;
        assert_eq!(taken.expect("writes"), Limited::Taken);
    }
}
