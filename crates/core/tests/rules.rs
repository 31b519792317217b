//! The decision table of one-time purchases, for a seller to read: what Stripe says, and what the buyer then has.

#![expect(clippy::expect_used, reason = "a test stops where the world is not as it set it up")]

use std::collections::BTreeMap;

use jiff::Timestamp;

use grantsmith_core::entitle::Facts;
use grantsmith_core::grant::{DesiredState, Hand, Standing};
use grantsmith_core::purchase::{
    LineItem, Payment, PaymentIntentStatus, PaymentStatus, Price, SessionMode, SessionSnapshot,
    SessionStatus, StripeId, Transform,
};
use grantsmith_core::terms::{self, Problem, Sources, Terms};
use grantsmith_core::{Grant, PurchaseId, Reason, entitle};

const SESSION_AT: i64 = 1_795_000_000;
const EVENT_AT: i64 = SESSION_AT + 60;
const CHARGE_AT: i64 = SESSION_AT + 50;

fn time(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("time")
}

/// A finished, paid session as the API tells it.
fn session() -> SessionSnapshot {
    SessionSnapshot {
        id: StripeId::parse("cs_test_1").expect("id"),
        mode: SessionMode::Payment,
        subscription: None,
        status: SessionStatus::Complete,
        payment_status: PaymentStatus::Paid,
        created: time(SESSION_AT),
        livemode: false,
        metadata: metadata(&[("authforge_app_id", "app-1"), ("license_duration", "30")]),
        email: None,
        payment: intent(PaymentIntentStatus::Succeeded),
        line_items: Some(vec![line(1)]),
        async_payment_failed: false,
    }
}

fn metadata(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn intent(status: PaymentIntentStatus) -> Payment {
    Payment::Told { id: StripeId::parse("pi_1").expect("id"), status, paid_at: Some(time(CHARGE_AT)) }
}

fn line(quantity: u64) -> LineItem {
    let price = Price { id: "price_1".to_owned(), lookup_key: None, product: None, recurring: false };
    LineItem { price: Some(price), quantity, transform: None }
}

fn decide(session: &SessionSnapshot) -> Grant {
    let purchase = PurchaseId::Session(session.id.clone());
    let facts =
        Facts { session: Some(session), paying_event_at: Some(time(EVENT_AT)), ..Facts::of(&purchase) };
    entitle(&facts, &terms_of(session), &Hand::default(), time(EVENT_AT + 5))
}

fn terms_of(session: &SessionSnapshot) -> Result<Terms, Problem> {
    terms::resolve(&Sources {
        session: Some(&session.metadata),
        subscription: None,
        prices: &[],
        catalog: &|_| None,
        default_app: None,
    })
}

/// One row: what is different from a paid session, and what comes of it.
fn row(what: &str, change: impl FnOnce(&mut SessionSnapshot), expected: &str) {
    let mut session = session();
    change(&mut session);
    let grant = decide(&session);
    let said = match &grant.standing {
        Standing::Entitled => format!("{} active", grant.licenses.len()),
        Standing::Pending(reason) => format!("waits: {reason}"),
        Standing::Ended(reason) => format!("ended: {reason}"),
        Standing::Parked(reason, _) => format!("parked: {reason}"),
        Standing::NotOurs(_) => "not ours".to_owned(),
    };
    assert_eq!(said, expected, "{what}");
    let entitled = grant.standing == Standing::Entitled;
    assert_eq!(entitled, !grant.licenses.is_empty(), "{what}: licenses if and only if entitled");
    assert!(grant.licenses.iter().all(|license| license.state == DesiredState::Active), "{what}");
}

#[test]
fn what_stripe_says_decides_what_the_buyer_has() {
    use PaymentIntentStatus as Intent;
    use PaymentStatus::{NoPaymentRequired, Unpaid};
    use SessionStatus::{Expired, Open};

    row("paid", |_| {}, "1 active");
    row(
        "a full discount",
        |s| (s.payment_status, s.payment) = (NoPaymentRequired, Payment::None),
        "1 active",
    );
    row("a full discount, reported as paid", |s| s.payment = Payment::None, "1 active");
    row(
        "paid, as an event tells it",
        |s| s.payment = Payment::Untold(StripeId::parse("pi_1").unwrap()),
        "1 active",
    );
    row("still at the till", |s| (s.status, s.payment_status) = (Open, Unpaid), "waits: PaymentPending");
    row("left the till", |s| (s.status, s.payment_status) = (Expired, Unpaid), "ended: Canceled");
    row(
        "left the till before it was a subscription",
        |s| (s.mode, s.status, s.payment_status) = (SessionMode::Subscription, Expired, Unpaid),
        "ended: Canceled",
    );
    row(
        "a bank transfer under way",
        |s| (s.payment_status, s.payment) = (Unpaid, intent(Intent::Processing)),
        "waits: PaymentPending",
    );
    row(
        "a bank transfer that failed",
        |s| (s.payment_status, s.payment) = (Unpaid, intent(Intent::RequiresPaymentMethod)),
        "ended: PaymentFailed",
    );
    row(
        "a bank transfer that failed, as an event tells it",
        |s| {
            (s.payment_status, s.async_payment_failed) = (Unpaid, true);
            s.payment = Payment::Untold(StripeId::parse("pi_1").unwrap());
        },
        "ended: PaymentFailed",
    );
    row("authorized, not captured", |s| s.payment = intent(Intent::RequiresCapture), "waits: PaymentPending");
    row(
        "authorized, not captured, reported as unpaid",
        |s| (s.payment_status, s.payment) = (Unpaid, intent(Intent::RequiresCapture)),
        "waits: PaymentPending",
    );
    row("authorized, then let go", |s| s.payment = intent(Intent::Canceled), "ended: Canceled");
    row(
        "a payment status newer than us",
        |s| s.payment_status = PaymentStatus::Other,
        "waits: PaymentPending",
    );
    row("a session status newer than us", |s| s.status = SessionStatus::Other, "waits: PaymentPending");
    row("a payment state newer than us", |s| s.payment = intent(Intent::Other), "waits: PaymentPending");
    row("a card put on file", |s| s.mode = SessionMode::Setup, "not ours");
    row("a subscription", |s| s.mode = SessionMode::Subscription, "parked: NotYetHandled");
    row("metadata of another shop", |s| s.metadata = metadata(&[("order", "1")]), "not ours");
    row(
        "a duration nobody can read",
        |s| s.metadata = metadata(&[("authforge_app_id", "app-1"), ("license_duration", "soon")]),
        "parked: BadMetadata",
    );
}

#[test]
fn as_many_licenses_as_units_were_bought() {
    row("five of one", |s| s.line_items = Some(vec![line(5)]), "5 active");
    row("two lines", |s| s.line_items = Some(vec![line(2), line(1)]), "3 active");
    row("a line taken out at the till", |s| s.line_items = Some(vec![line(0), line(1)]), "1 active");
    row("nothing left", |s| s.line_items = Some(vec![line(0)]), "not ours");
    row("lines nobody told of", |s| s.line_items = None, "1 active");
    row("a hundred", |s| s.line_items = Some(vec![line(100)]), "100 active");
    row("more than a hundred", |s| s.line_items = Some(vec![line(101)]), "parked: TooManyUnits");
    row(
        "more than can be counted",
        |s| s.line_items = Some(vec![line(u64::MAX), line(u64::MAX)]),
        "parked: TooManyUnits",
    );
    row(
        "25 in packages of 10",
        |s| {
            let transform = Some(Transform { divide_by: 10, round_up: true });
            s.line_items = Some(vec![LineItem { transform, ..line(25) }]);
        },
        "3 active",
    );
}

#[test]
fn a_license_lasts_from_the_payment_on() {
    let end = |change: fn(&mut SessionSnapshot)| {
        let mut session = session();
        change(&mut session);
        decide(&session).licenses.first().expect("entitled").expires_at
    };
    let days = |from: i64| Some(time(from + 30 * 86_400));
    assert_eq!(end(|_| {}), days(CHARGE_AT), "the charge's time, where it was told");
    assert_eq!(end(|s| s.payment = Payment::None), days(EVENT_AT), "else the paying event's");
    assert_eq!(end(|s| drop(s.metadata.remove("license_duration"))), None, "no duration is for ever");
}

#[test]
fn what_was_stored_at_the_first_decision_stays() {
    let session = session();
    let purchase = PurchaseId::Session(session.id.clone());
    let stored = time(SESSION_AT - 1_000);
    let facts = Facts { session: Some(&session), paid_at: Some(stored), ..Facts::of(&purchase) };
    let grant = entitle(&facts, &terms_of(&session), &Hand::default(), time(EVENT_AT));
    assert_eq!(grant.paid_at, Some(stored));
    assert_eq!(
        grant.licenses.first().expect("entitled").expires_at,
        Some(time(SESSION_AT - 1_000 + 30 * 86_400))
    );
}

#[test]
fn a_hand_outranks_stripe() {
    let session = session();
    let purchase = PurchaseId::Session(session.id.clone());
    let facts = Facts { session: Some(&session), ..Facts::of(&purchase) };
    let hand = Hand { state: Some(DesiredState::Revoked), expires_at: Some(None), ..Hand::default() };
    let grant = entitle(&facts, &terms_of(&session), &hand, time(EVENT_AT));
    let license = grant.licenses.first().expect("declared");
    assert_eq!(
        (license.state, license.reason, license.expires_at),
        (DesiredState::Revoked, Reason::Overridden, None)
    );
}

#[test]
fn money_that_may_still_come_is_looked_for() {
    let mut waiting = session();
    waiting.payment = intent(PaymentIntentStatus::RequiresCapture);
    assert!(decide(&waiting).look_again.is_some(), "nothing else tells of a capture that no event reported");
    waiting.created = time(SESSION_AT - 40 * 86_400);
    assert_eq!(decide(&waiting).look_again, None, "but not for ever");
    assert_eq!(decide(&session()).look_again, None);
}
