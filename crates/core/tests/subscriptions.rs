//! The decision table of subscriptions, for a seller to read: what Stripe says, and what the buyer then has.

#![expect(clippy::expect_used, reason = "a test stops where the world is not as it set it up")]

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use proptest::sample::subsequence;

use grantsmith_core::entitle::Facts;
use grantsmith_core::grant::{Cause, Declared, DesiredState, Expiry, Hand, Standing};
use grantsmith_core::license::Slots;
use grantsmith_core::purchase::{
    Cancellation, InvoiceFact, InvoiceStatus, LineItem, Payment, PaymentStatus, Price, SessionMode,
    SessionSnapshot, SessionStatus, StripeId, SubscriptionItem, SubscriptionSnapshot, SubscriptionStatus,
    ToldSubscription,
};
use grantsmith_core::terms::{
    Duration, FailureAction, Follow, LicenseTerms, LineTerms, OnCancel, OnPaymentFailure, Rules, Terms,
};
use grantsmith_core::{AppId, Grant, LicenseName, PurchaseId, Reason, entitle};

const DAY: i64 = 86_400;
/// The first second of the current period.
const START: i64 = 1_795_000_000;
/// Its last.
const END: i64 = START + 30 * DAY;

fn time(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("time")
}

fn app(name: &str) -> AppId {
    AppId::parse(name).expect("app")
}

fn item(price: &str, quantity: u64) -> SubscriptionItem {
    let price = Price { id: price.to_owned(), lookup_key: None, product: None, recurring: true };
    SubscriptionItem {
        line: LineItem { price: Some(price), quantity, transform: None },
        period_end: Some(time(END)),
    }
}

/// An active subscription whose newest invoice is paid.
fn subscription() -> SubscriptionSnapshot {
    SubscriptionSnapshot {
        id: StripeId::parse("sub_1").expect("id"),
        status: SubscriptionStatus::Active,
        created: time(START - 60 * DAY),
        livemode: false,
        metadata: BTreeMap::new(),
        customer: None,
        email: None,
        items: vec![item("price_1", 1)],
        items_complete: true,
        period_start: Some(time(START)),
        period_end: Some(time(END)),
        trial_end: None,
        cancellation: None,
        latest_invoice: Some(StripeId::parse("in_1").expect("id")),
    }
}

fn invoice(status: InvoiceStatus) -> InvoiceFact {
    InvoiceFact { id: "in_1".to_owned(), status, failed_since: None, pays_through: Some(time(END)) }
}

fn failing(since: i64) -> InvoiceFact {
    InvoiceFact { failed_since: Some(time(since)), ..invoice(InvoiceStatus::Open) }
}

struct Case {
    subscription: SubscriptionSnapshot,
    session: Option<SessionSnapshot>,
    invoices: Vec<InvoiceFact>,
    rules: Rules,
    /// Prices and the apps that they sell licenses of; none sells app-1 under any price.
    plans: &'static [(&'static str, &'static str)],
    /// Prices that were there from the first and sell no license.
    others: &'static [&'static str],
    declared: Vec<Declared>,
    now: i64,
}

impl Default for Case {
    fn default() -> Self {
        Self {
            subscription: subscription(),
            session: None,
            invoices: vec![invoice(InvoiceStatus::Paid)],
            rules: Rules::default(),
            plans: &[],
            others: &[],
            declared: Vec::new(),
            now: START + DAY,
        }
    }
}

impl Case {
    fn decide(&self) -> Grant {
        self.under(&Hand::default())
    }

    fn under(&self, hand: &Hand) -> Grant {
        self.by(self.terms(), hand)
    }

    fn by(&self, terms: Terms, hand: &Hand) -> Grant {
        let purchase = PurchaseId::Subscription(self.subscription.id.clone());
        let facts = Facts {
            subscription: Some(&self.subscription),
            session: self.session.as_ref(),
            invoices: &self.invoices,
            declared: &self.declared,
            ..Facts::of(&purchase)
        };
        entitle(&facts, &Ok(terms), hand, time(self.now))
    }

    fn terms(&self) -> Terms {
        let terms = |name: &str| LicenseTerms {
            app_id: app(name),
            duration: Duration::Subscription,
            slots: Slots::Limited(1),
            rules: self.rules.clone(),
        };
        if self.plans.is_empty() {
            return Terms::for_all(terms("app-1"));
        }
        let plans = self.plans.iter();
        let line =
            |(price, app): &(&str, &str)| LineTerms { price: Some((*price).to_owned()), terms: terms(app) };
        let others = self.others.iter().map(|price| (*price).to_owned()).collect();
        Terms { lines: plans.map(line).collect(), others }
    }
}

/// `active until +30d (Issued)`, with the end counted from the period's start.
fn in_words(grant: &Grant) -> String {
    match &grant.standing {
        Standing::Pending(reason) => format!("waits: {reason}"),
        Standing::Ended(reason) => format!("ended: {reason}"),
        Standing::Parked(reason, _) => format!("parked: {reason}"),
        Standing::NotOurs(_) => "not ours".to_owned(),
        Standing::Entitled => {
            let license = grant.licenses.first().expect("a license");
            let state = match license.state {
                DesiredState::Active => {
                    let end = license.expires_at.expect("an end").as_second() - START;
                    format!("active until {}d", end / DAY)
                }
                DesiredState::Suspended => "suspended".to_owned(),
                DesiredState::Revoked => "revoked".to_owned(),
            };
            format!("{state} ({})", license.reason)
        }
    }
}

fn row(what: &str, change: impl FnOnce(&mut Case), expected: &str) {
    let mut case = Case::default();
    change(&mut case);
    assert_eq!(in_words(&case.decide()), expected, "{what}");
}

#[test]
fn what_stripe_says_decides_what_the_buyer_has() {
    use SubscriptionStatus as Status;
    let status = |status| move |case: &mut Case| case.subscription.status = status;

    row("in good standing", |_| {}, "active until 30d (Issued)");
    row("first payment not done", status(Status::Incomplete), "waits: PaymentPending");
    row("first payment never done", status(Status::IncompleteExpired), "ended: PaymentFailed");
    row("Stripe gave up", status(Status::Unpaid), "suspended (PaymentFailed)");
    row("paused", status(Status::Paused), "suspended (Paused)");
    row("over", status(Status::Canceled), "revoked (Canceled)");
    row("a status of tomorrow", status(Status::Other), "parked: NotYetHandled");
    row(
        "in its trial",
        |case| {
            case.subscription.status = Status::Trialing;
            case.subscription.trial_end = Some(time(START + 14 * DAY));
        },
        "active until 14d (Issued)",
    );
    row(
        "its end is scheduled",
        |case| case.subscription.cancellation = Some(Cancellation::Scheduled),
        "active until 30d (Ending)",
    );
}

#[test]
fn the_plan_says_what_the_end_does() {
    let canceled = |cancellation, on_cancel| {
        move |case: &mut Case| {
            case.subscription.status = SubscriptionStatus::Canceled;
            case.subscription.cancellation = cancellation;
            case.rules.on_cancel = on_cancel;
        }
    };
    row("at once, as in the guide", canceled(None, OnCancel::Immediately), "revoked (Canceled)");
    row("at the end of the period", canceled(None, OnCancel::AtPeriodEnd), "active until 30d (Ending)");
    row(
        "of the period that was paid for, though Stripe has begun the next",
        |case| {
            canceled(None, OnCancel::AtPeriodEnd)(case);
            case.invoices = vec![
                InvoiceFact {
                    id: "in_0".to_owned(),
                    pays_through: Some(time(START)),
                    ..invoice(InvoiceStatus::Paid)
                },
                failing(START),
            ];
        },
        "active until 0d (Ending)",
    );
    row(
        "but not for want of payment",
        canceled(Some(Cancellation::Unpaid), OnCancel::AtPeriodEnd),
        "revoked (Canceled)",
    );
    row(
        "a late invoice revives nothing",
        |case| {
            case.subscription.status = SubscriptionStatus::Canceled;
            case.invoices =
                vec![InvoiceFact { failed_since: Some(time(START)), ..invoice(InvoiceStatus::Paid) }];
        },
        "revoked (Canceled)",
    );
}

#[test]
fn a_failed_payment_leaves_a_time_of_grace() {
    let failed = |rules: OnPaymentFailure, days: i64| {
        move |case: &mut Case| {
            case.subscription.status = SubscriptionStatus::PastDue;
            case.invoices = vec![failing(START)];
            case.rules.on_payment_failure = rules;
            case.now = START + days * DAY;
        }
    };
    let warn = OnPaymentFailure::default();
    let of = |action, grace| OnPaymentFailure { action, grace };
    let week = of(FailureAction::Warn, Some(7 * 86_400));
    row("just failed", failed(warn, 0), "active until 30d (PaymentFailed)");
    row("Stripe goes on trying", failed(warn, 20), "active until 30d (PaymentFailed)");
    row("for three weeks at most", failed(warn, 21), "suspended (PaymentFailed)");
    row("a week by plan", failed(week, 6), "active until 30d (PaymentFailed)");
    row("and no longer", failed(week, 7), "suspended (PaymentFailed)");
    row("at once by plan", failed(of(FailureAction::Revoke, None), 0), "suspended (PaymentFailed)");
    row("not at all by plan", failed(of(FailureAction::Ignore, None), 25), "active until 30d (Issued)");
    row(
        "paid in the end",
        |case| {
            case.invoices =
                vec![InvoiceFact { failed_since: Some(time(START)), ..invoice(InvoiceStatus::Paid) }];
        },
        "active until 30d (Issued)",
    );
    row(
        "an old invoice that stayed open takes no grace away from a new one",
        |case| {
            let old = |end, fact| InvoiceFact { pays_through: Some(time(START - end * DAY)), ..fact };
            failed(warn, 1)(case);
            case.invoices.push(InvoiceFact { id: "in_00".to_owned(), ..old(60, failing(START - 90 * DAY)) });
            case.invoices.push(InvoiceFact { id: "in_0".to_owned(), ..old(0, invoice(InvoiceStatus::Paid)) });
        },
        "active until 30d (PaymentFailed)",
    );
    row(
        "the newest invoice, though another plan is paid for longer",
        |case| {
            failed(warn, 22)(case);
            let year = Some(time(START + 300 * DAY));
            case.invoices.push(InvoiceFact {
                id: "in_0".to_owned(),
                pays_through: year,
                ..invoice(InvoiceStatus::Paid)
            });
        },
        "suspended (PaymentFailed)",
    );
    row(
        "an old invoice that stayed open, while Stripe says all is well",
        |case| case.invoices.push(InvoiceFact { id: "in_0".to_owned(), ..failing(START - 40 * DAY) }),
        "active until 30d (Issued)",
    );
}

#[test]
fn the_expiry_reaches_to_the_end_of_grace() {
    let mut case = Case { invoices: vec![failing(END - DAY)], now: END - DAY, ..Case::default() };
    case.subscription.status = SubscriptionStatus::PastDue;
    let grant = case.decide();
    assert_eq!(in_words(&grant), "active until 50d (PaymentFailed)");
    let dunning = grant.dunning.expect("the buyer is warned");
    assert_eq!((dunning.invoice.as_str(), dunning.since), ("in_1", time(END - DAY)));
    assert_eq!(dunning.ends_at, time(END + 20 * DAY));
    assert_eq!(grant.look_again, Some(dunning.ends_at), "nothing else tells of the end");
}

#[test]
fn the_expiry_follows_the_period_or_the_money() {
    use InvoiceStatus::{Draft, Paid};
    let follow = |follow, paid: &'static [i64], latest| {
        move |case: &mut Case| {
            case.rules.follow = follow;
            case.invoices = paid
                .iter()
                .map(|end| InvoiceFact {
                    id: format!("in_paid_{end}"),
                    status: InvoiceStatus::Paid,
                    failed_since: None,
                    pays_through: Some(time(START + end * DAY)),
                })
                .chain([invoice(latest)])
                .collect();
        }
    };
    row("the period", follow(Follow::Period, &[0], Draft), "active until 30d (Issued)");
    row("what is paid", follow(Follow::PaidThrough, &[0], Draft), "active until 0d (Issued)");
    row("and then the renewal", follow(Follow::PaidThrough, &[0], Paid), "active until 30d (Issued)");
    row(
        "nothing known to be paid, and something owed",
        follow(Follow::PaidThrough, &[], Draft),
        "active until 0d (Issued)",
    );
    row(
        "with a buffer",
        |case| {
            case.rules.buffer = 86_400;
        },
        "active until 31d (Issued)",
    );
}

fn declared(names: &[(&str, &str)]) -> Vec<Declared> {
    let one = |(name, app_id): &(&str, &str)| Declared {
        name: LicenseName::parse(name).expect("name"),
        app_id: app(app_id),
        slots: Slots::Limited(1),
        imported: false,
        expiry: Expiry::Followed,
        withdrawn: false,
    };
    names.iter().map(one).collect()
}

fn states(grant: &Grant) -> Vec<(String, DesiredState)> {
    grant.licenses.iter().map(|license| (license.name.to_string(), license.state)).collect()
}

#[test]
fn units_are_added_once_paid_and_taken_from_the_newest() {
    use DesiredState::{Active, Revoked};
    let named = |list: &[(&str, DesiredState)]| {
        list.iter().map(|(name, state)| ((*name).to_owned(), *state)).collect::<Vec<_>>()
    };
    let mut case = Case { declared: declared(&[("main", "app-1"), ("2", "app-1")]), ..Case::default() };
    case.subscription.items = vec![item("price_1", 3)];
    case.invoices = vec![invoice(InvoiceStatus::Open)];
    assert_eq!(states(&case.decide()), named(&[("main", Active), ("2", Active)]), "not paid yet");
    case.invoices = vec![invoice(InvoiceStatus::Paid)];
    assert_eq!(states(&case.decide()), named(&[("main", Active), ("2", Active), ("3", Active)]));
    case.subscription.items = vec![item("price_1", 1)];
    assert_eq!(states(&case.decide()), named(&[("main", Active), ("2", Revoked)]));
    case.subscription.items_complete = false;
    assert_eq!(states(&case.decide()), named(&[("main", Active)]), "absence counts only where all is known");
}

/// `main active, 2 revoked`.
fn all_in_words(case: &Case) -> String {
    let states = states(&case.decide()).into_iter();
    let words = states.map(|(name, state)| format!("{name} {state:?}").to_lowercase());
    words.collect::<Vec<_>>().join(", ")
}

#[test]
fn what_was_given_back_comes_back_once_it_is_paid_for_again() {
    let mut case = Case { declared: declared(&[("main", "app-1"), ("2", "app-1")]), ..Case::default() };
    case.declared[1].withdrawn = true;
    case.subscription.items = vec![item("price_1", 2)];
    case.invoices = vec![invoice(InvoiceStatus::Open)];
    assert_eq!(all_in_words(&case), "main active, 2 revoked");
    case.invoices = vec![invoice(InvoiceStatus::Paid)];
    assert_eq!(all_in_words(&case), "main active, 2 active");
}

#[test]
fn a_hand_brings_back_what_ended_though_its_last_invoice_stays_unpaid() {
    let mut case = Case { declared: declared(&[("main", "app-1"), ("2", "app-1")]), ..Case::default() };
    case.declared[1].withdrawn = true;
    case.subscription.items = vec![item("price_1", 1)];
    case.subscription.status = SubscriptionStatus::Canceled;
    case.invoices = vec![invoice(InvoiceStatus::Uncollectible)];
    let reinstated = case.under(&Hand { state: Some(DesiredState::Active), ..Hand::default() });
    let states = states(&reinstated);
    assert_eq!(states, [("main".to_owned(), DesiredState::Active), ("2".to_owned(), DesiredState::Revoked)]);
    let withdrawn: Vec<bool> = reinstated.licenses.iter().map(|license| license.withdrawn).collect();
    assert_eq!(withdrawn, [false, true]);
}

#[test]
fn what_was_sold_once_is_never_taken_for_what_renews() {
    let line = |price: &str, recurring| {
        let price = Price { id: price.to_owned(), lookup_key: None, product: None, recurring };
        LineItem { price: Some(price), quantity: 1, transform: None }
    };
    let session = |lines: &[(&str, bool)]| SessionSnapshot {
        payment_status: PaymentStatus::Paid,
        line_items: Some(lines.iter().map(|(price, recurring)| line(price, *recurring)).collect()),
        ..unpaid_session()
    };
    let once = |terms: &mut Terms| {
        let lasting = terms.lines.iter_mut().find(|line| line.price.as_deref() == Some("price_life"));
        lasting.expect("a line").terms.duration = Duration::Lifetime;
    };
    let decide = |case: &Case| {
        let mut terms = case.terms();
        once(&mut terms);
        let grant = case.by(terms, &Hand::default());
        states(&grant).into_iter().map(|(name, state)| format!("{name} {state:?}")).collect::<Vec<_>>()
    };
    let mut case = Case {
        declared: declared(&[("main", "app-1"), ("2", "app-1"), ("3", "app-1")]),
        plans: &[("price_1", "app-1"), ("price_life", "app-1")],
        session: Some(session(&[("price_1", true), ("price_life", false)])),
        ..Case::default()
    };
    case.declared[2].expiry = Expiry::Sold;
    assert_eq!(
        decide(&case),
        ["main Active", "3 Active", "2 Revoked"],
        "one of two that renew was given back"
    );
    // Beside something that renews and sells no license, it is one key, first and later.
    case.plans = &[("price_life", "app-1")];
    case.others = &["price_support"];
    case.session = Some(session(&[("price_support", true), ("price_life", false)]));
    case.subscription.items = vec![item("price_support", 1)];
    case.declared.clear();
    assert_eq!(decide(&case), ["main Active"]);
    case.declared = declared(&[("main", "app-1")]);
    case.declared[0].expiry = Expiry::Sold;
    assert_eq!(decide(&case), ["main Active"]);
    case.subscription.items = vec![item("price_support_by_the_year", 1)];
    case.subscription.status = SubscriptionStatus::Unpaid;
    assert_eq!(decide(&case), ["main Active"], "it does not depend on what is paid for support");
}

#[test]
fn another_price_goes_on_with_what_was_sold_and_adds_nothing_that_was_not() {
    let plans: &[_] = &[("price_1", "app-1"), ("price_2", "app-2")];
    let of = |known: &[(&str, &str)], items: &[(&str, u64)]| {
        let mut case =
            Case { declared: declared(known), plans, others: &["price_storage"], ..Case::default() };
        case.subscription.items = items.iter().map(|(price, units)| item(price, *units)).collect();
        case
    };
    let one: &[_] = &[("main", "app-1")];
    let both: &[_] = &[("main", "app-1"), ("2", "app-2")];
    let seats: &[_] = &[("main", "app-1"), ("2", "app-1"), ("3", "app-1")];
    for (what, known, items, expected) in [
        ("by the year", one, &[("price_new", 1)][..], "main active"),
        ("beside what sells no license", one, &[("price_new", 1), ("price_storage", 50)], "main active"),
        (
            "with something new that may sell none",
            one,
            &[("price_new", 1), ("price_later", 50)],
            "main active",
        ),
        ("one plan of two", both, &[("price_new", 1), ("price_2", 1)], "2 active, main active"),
        ("nobody can tell which plan is left", both, &[("price_new", 1)], "main active, 2 active"),
        ("more seats", one, &[("price_new", 3)], "main active, 2 active, 3 active"),
        ("fewer seats", seats, &[("price_new", 2)], "main active, 2 active, 3 revoked"),
        ("the plan is gone, the storage stays", one, &[("price_storage", 50)], "main revoked"),
        ("the first thing that is known", &[], &[("price_new", 2)], "main active, 2 active"),
        ("a subscription without items", seats, &[], "main active, 2 active, 3 active"),
    ] {
        assert_eq!(all_in_words(&of(known, items)), expected, "{what}");
    }
    let mut unpaid = of(one, &[("price_new", 3)]);
    unpaid.invoices = vec![invoice(InvoiceStatus::Open)];
    assert_eq!(all_in_words(&unpaid), "main active", "more seats, once paid");
}

#[test]
fn more_than_a_hundred_add_none_and_take_none_away() {
    let mut case = Case { declared: declared(&[("main", "app-1"), ("2", "app-1")]), ..Case::default() };
    for units in [101, u64::MAX] {
        case.subscription.items = vec![item("price_1", units)];
        case.subscription.status = SubscriptionStatus::Active;
        assert_eq!(all_in_words(&case), "main active, 2 active");
        assert_eq!(in_words(&case.decide()), "active until 30d (TooManyUnits)", "for a person to see");
        case.subscription.status = SubscriptionStatus::Canceled;
        assert_eq!(all_in_words(&case), "main revoked, 2 revoked");
    }
    case.declared.clear();
    assert_eq!(in_words(&case.decide()), "parked: TooManyUnits");
}

/// A session that was completed, and whose money has not come.
fn unpaid_session() -> SessionSnapshot {
    SessionSnapshot {
        id: StripeId::parse("cs_1").expect("id"),
        mode: SessionMode::Subscription,
        status: SessionStatus::Complete,
        payment_status: PaymentStatus::Unpaid,
        payment: Payment::None,
        async_payment_failed: false,
        subscription: Some(subscription().id),
        created: time(START),
        livemode: false,
        metadata: BTreeMap::new(),
        email: None,
        line_items: None,
    }
}

#[test]
fn no_key_while_a_bank_still_moves_the_money() {
    let unpaid = unpaid_session;
    let mut case =
        Case { session: Some(unpaid()), invoices: vec![invoice(InvoiceStatus::Open)], ..Case::default() };
    assert_eq!(in_words(&case.decide()), "waits: PaymentPending");
    case.invoices = vec![invoice(InvoiceStatus::Void)];
    assert_eq!(in_words(&case.decide()), "ended: PaymentFailed", "Stripe has given up");
    case.invoices = vec![invoice(InvoiceStatus::Open)];
    case.subscription.status = SubscriptionStatus::Canceled;
    assert_eq!(in_words(&case.decide()), "ended: PaymentFailed", "the debit was refused");
    case.subscription.status = SubscriptionStatus::Active;
    // Whatever its lines tell: an event brings the first few.
    case.invoices = vec![InvoiceFact { pays_through: None, ..invoice(InvoiceStatus::Paid) }];
    assert_eq!(in_words(&case.decide()), "active until 30d (Issued)");
    case.invoices = vec![invoice(InvoiceStatus::Open)];
    case.declared = declared(&[("main", "app-1")]);
    assert_eq!(in_words(&case.decide()), "active until 30d (Issued)", "a key that was given is not taken");
    let free = SessionSnapshot { payment_status: PaymentStatus::NoPaymentRequired, ..unpaid() };
    let case = Case { session: Some(free), invoices: Vec::new(), ..Case::default() };
    assert_eq!(in_words(&case.decide()), "active until 30d (Issued)");
}

#[test]
fn each_license_is_looked_at_again_when_its_own_grace_ends() {
    let mut case = Case { plans: &[("price_1", "app-1"), ("price_2", "app-2")], ..Case::default() };
    case.subscription.items = vec![item("price_1", 1), item("price_2", 1)];
    case.subscription.status = SubscriptionStatus::PastDue;
    case.invoices = vec![failing(START)];
    let mut terms = case.terms();
    for (line, days) in terms.lines.iter_mut().zip([3, 14]) {
        line.terms.rules.on_payment_failure.grace = Some(days * 86_400);
    }
    for (day, next) in [(0, Some(3)), (3, Some(14)), (14, None)] {
        case.now = START + day * DAY;
        let grant = case.by(terms.clone(), &Hand::default());
        assert_eq!(grant.look_again, next.map(|next| time(START + next * DAY)), "on day {day}");
        let warned = grant.dunning.expect("the buyer is warned").ends_at;
        assert_eq!(warned, time(START + next.unwrap_or(3) * DAY), "on day {day}");
    }
}

#[test]
fn a_hand_does_not_bring_back_units_that_nobody_pays_for() {
    use DesiredState::{Active, Revoked};
    let mut case = Case { declared: declared(&[("main", "app-1"), ("2", "app-1")]), ..Case::default() };
    case.subscription.items = vec![item("price_1", 1)];
    case.subscription.status = SubscriptionStatus::Canceled;
    let hand = |state| Hand { state: Some(state), ..Hand::default() };
    let of = |grant: Grant| grant.licenses.iter().map(|license| license.state).collect::<Vec<_>>();
    assert_eq!(of(case.under(&hand(Active))), [Active, Revoked]);
    let revoked = case.under(&hand(Revoked));
    assert!(revoked.licenses.iter().all(|license| license.cause == Cause::Hand), "not held by the budget");
    assert_eq!(of(revoked), [Revoked, Revoked]);
}

#[test]
fn a_name_stays_with_its_app() {
    let known = declared(&[("main", "app-1"), ("2", "app-2"), ("3", "app-1")]);
    let mut case = Case { declared: known, ..Case::default() };
    case.subscription.items = vec![item("price_2", 1), item("price_1", 1)];
    case.plans = &[("price_1", "app-1"), ("price_2", "app-2")];
    let grant = case.decide();
    let apps: Vec<(&str, &str, DesiredState)> = grant
        .licenses
        .iter()
        .map(|license| (license.name.as_str(), license.app_id.as_str(), license.state))
        .collect();
    assert_eq!(
        apps,
        [
            ("2", "app-2", DesiredState::Active),
            ("main", "app-1", DesiredState::Active),
            ("3", "app-1", DesiredState::Revoked)
        ]
    );
}

#[test]
fn imported_keys_are_no_surplus_and_end_with_the_subscription() {
    use DesiredState::{Active, Revoked, Suspended};
    let imported = |names: &[(&str, &str)]| {
        let known = declared(names).into_iter();
        known.map(|declared| Declared { imported: true, ..declared }).collect::<Vec<_>>()
    };
    let mut case = Case { declared: imported(&[("main", "app-1"), ("2", "app-1")]), ..Case::default() };
    let names = |grant: &Grant| -> Vec<(String, DesiredState, bool)> {
        let licenses = grant.licenses.iter();
        licenses.map(|license| (license.name.to_string(), license.state, license.imported)).collect()
    };
    let both = |state| vec![("main".to_owned(), state, false), ("2".to_owned(), state, true)];
    assert_eq!(names(&case.decide()), both(Active), "one was paid for, two were handed over");
    case.subscription.status = SubscriptionStatus::Unpaid;
    assert_eq!(names(&case.decide()), both(Suspended));
    case.subscription.status = SubscriptionStatus::Canceled;
    assert_eq!(names(&case.decide()), both(Revoked));

    let mut case = Case { declared: imported(&[("main", "app-9")]), ..Case::default() };
    let grant = case.decide();
    assert_eq!(names(&grant), [("main".to_owned(), Active, true)], "no second key for the one unit");
    assert_eq!(grant.licenses[0].app_id, app("app-9"), "the key's own app");

    // Once a unit was paid for, giving it back takes its key.
    case.declared = declared(&[("main", "app-1"), ("2", "app-1")]);
    assert_eq!(states(&case.decide()), [("main".to_owned(), Active), ("2".to_owned(), Revoked)]);
}

fn told(n: i64, status: SubscriptionStatus, was: Option<SubscriptionStatus>) -> ToldSubscription {
    let subscription = SubscriptionSnapshot { status, ..subscription() };
    // Several changes a second, as Stripe makes them.
    ToldSubscription { subscription, was, event_at: time(START + n / 3), event_id: format!("evt_{n}") }
}

/// Two true histories.
fn histories() -> [Vec<ToldSubscription>; 2] {
    use SubscriptionStatus::{Active, Canceled, Incomplete, PastDue, Unpaid};
    let chain = |statuses: &[SubscriptionStatus]| {
        let was = std::iter::once(None).chain(statuses.iter().copied().map(Some));
        (0..).zip(statuses).zip(was).map(|((n, status), was)| told(n, *status, was)).collect()
    };
    [
        chain(&[Incomplete, Active, PastDue, Active, PastDue, Unpaid]),
        chain(&[Incomplete, Active, PastDue, Unpaid, Active, Canceled]),
    ]
}

proptest! {
    #[test]
    fn the_order_of_events_does_not_matter(
        which in 0usize..2, order in Just((0..6).collect::<Vec<usize>>()).prop_shuffle(),
        again in subsequence((0..6).collect::<Vec<usize>>(), 0..6),
    ) {
        let history = &histories()[which];
        let last = history.last().expect("an end").subscription.status;
        let shuffled = order.iter().chain(&again).map(|n| history[*n].clone());
        let newest = ToldSubscription::newest(shuffled).expect("told");
        prop_assert_eq!(newest.subscription.status, last);
    }

    #[test]
    fn a_ledger_is_the_same_in_any_order(
        order in Just((0..4).collect::<Vec<usize>>()).prop_shuffle(), again in 0usize..4,
    ) {
        let facts = [failing(START + 50), failing(START), invoice(InvoiceStatus::Draft), invoice(InvoiceStatus::Paid)];
        let merge = |order: &[usize]| {
            order.iter().map(|n| facts[*n].clone()).reduce(|known, fact| known.merged(&fact)).expect("facts")
        };
        let mut repeated = order.clone();
        repeated.push(again);
        prop_assert_eq!(merge(&repeated), merge(&[0, 1, 2, 3]));
    }

    /// Whatever is known, grace is never longer than promised, and no license ends before it.
    #[test]
    fn grace_is_kept_and_ends(since in -40i64..40, days in -10i64..60, grace in prop::option::of(0u32..40)) {
        let mut case = Case { now: START + days * DAY, invoices: vec![failing(START + since * DAY)], ..Case::default() };
        case.subscription.status = SubscriptionStatus::PastDue;
        case.rules.on_payment_failure.grace = grace.map(|days| days * 86_400);
        let license = case.decide().licenses.remove(0);
        let length = grace.map_or(21, |days| i64::from(days).min(21));
        let end = time(START + (since + length) * DAY);
        let over = end <= time(case.now);
        prop_assert_eq!(license.state == DesiredState::Suspended, over);
        prop_assert!(license.expires_at.expect("an end").duration_since(end) >= SignedDuration::ZERO);
        prop_assert_eq!(license.reason, Reason::PaymentFailed);
    }
}
