use grantsmith_core::purchase::{Cancellation, SubscriptionSnapshot};
use serde_json::json;

use super::SubscriptionTurn::{
    BeginPeriod, Cancel, CancelForPayment, EndTrial, Expire, FailAgain, GiveUp, MarkUncollectible, Pause,
    PayAfterEnd, PayFirst, PayLate, PayProration, Renew, RenewUnpaid, Resume, ScheduleCancel, SetQuantity,
    Unschedule, VoidInvoice,
};
use super::*;

const DAY: i64 = 86_400;

fn monthly() -> Purchase {
    Purchase::of("price_1").kind(Kind::Subscription)
}

fn object(event: &Event, rendering: Rendering) -> Value {
    let mut body: Value = serde_json::from_slice(&event.body(rendering)).expect("JSON");
    body["data"]["object"].take()
}

fn previous(event: &Event, rendering: Rendering) -> Value {
    let mut body: Value = serde_json::from_slice(&event.body(rendering)).expect("JSON");
    body["data"]["previous_attributes"].take()
}

fn read(event: &Event, rendering: Rendering) -> SubscriptionSnapshot {
    shape::subscription(&object(event, rendering)).expect("a subscription")
}

/// Each event as its type, without `customer.`, and the status that its object has.
fn told(events: &[Event]) -> Vec<String> {
    let tell = |event: &Event| {
        let kind = event.event_type.trim_start_matches("customer.");
        format!("{kind} {}", object(event, Rendering::Endive)["status"].as_str().unwrap_or("-"))
    };
    events.iter().map(tell).collect()
}

fn truth(world: &World, id: &str) -> SubscriptionTruth {
    let all = world.true_subscriptions();
    all.into_iter().find(|truth| truth.subscription == id).expect("a subscription")
}

type Told = &'static [&'static str];

const UNPAID: Told =
    &["subscription.updated active", "invoice.payment_failed open", "subscription.updated past_due"];

/// How a subscription begins, and its turns with what Stripe tells of each, in Stripe's order.
const LIVES: &[(Start, &[(SubscriptionTurn, Told)])] = &[
    (
        Start::Incomplete,
        &[
            (FailAgain, &["invoice.payment_failed open"]),
            (PayFirst, &["invoice.paid paid", "subscription.updated active"]),
            (Renew, &["subscription.updated active", "invoice.paid paid"]),
        ],
    ),
    (Start::Incomplete, &[(Expire, &["invoice.voided void", "subscription.updated incomplete_expired"])]),
    (
        Start::Active,
        &[
            (BeginPeriod, &["subscription.updated active"]),
            (FailAgain, &["invoice.payment_failed open", "subscription.updated past_due"]),
            (FailAgain, &["invoice.payment_failed open"]),
            (PayLate, &["invoice.paid paid", "subscription.updated active"]),
            (Cancel, &["subscription.deleted canceled"]),
        ],
    ),
    (
        Start::Active,
        &[
            (RenewUnpaid, UNPAID),
            (GiveUp { cancel: false }, &["subscription.updated unpaid"]),
            (PayLate, &["invoice.paid paid", "subscription.updated active"]),
        ],
    ),
    (
        Start::Active,
        &[
            (RenewUnpaid, UNPAID),
            (GiveUp { cancel: true }, &["subscription.deleted canceled"]),
            (PayAfterEnd, &["invoice.paid paid"]),
        ],
    ),
    (
        Start::Active,
        &[
            (RenewUnpaid, UNPAID),
            (
                MarkUncollectible,
                &["invoice.marked_uncollectible uncollectible", "subscription.updated active"],
            ),
            (PayLate, &["invoice.paid paid"]),
            (RenewUnpaid, UNPAID),
            (VoidInvoice, &["invoice.voided void", "subscription.updated active"]),
            (CancelForPayment, &["subscription.deleted canceled"]),
        ],
    ),
    (
        Start::Active,
        &[
            (ScheduleCancel { classic: true }, &["subscription.updated active"]),
            (Unschedule, &["subscription.updated active"]),
            (ScheduleCancel { classic: false }, &["subscription.updated active"]),
            (Cancel, &["subscription.deleted canceled"]),
        ],
    ),
    (
        Start::Active,
        &[
            (Pause, &["subscription.paused paused"]),
            (Resume, &["subscription.resumed active"]),
            (SetQuantity(3), &["subscription.updated active"]),
            (PayProration, &["invoice.paid paid"]),
            (SetQuantity(2), &["subscription.updated active"]),
        ],
    ),
    (
        Start::Trialing { days: 7 },
        &[
            (SetQuantity(2), &["subscription.updated trialing"]),
            (EndTrial, &["subscription.updated active", "invoice.paid paid"]),
        ],
    ),
];

#[test]
fn each_turn_has_its_history() {
    for (start, turns) in LIVES {
        let world = world();
        let made = world.subscribe(monthly(), *start, at(0));
        let begun: Told = match start {
            Start::Active => &["subscription.created active", "invoice.paid paid"],
            Start::Incomplete => &["subscription.created incomplete"],
            Start::Trialing { .. } => &["subscription.created trialing", "invoice.paid paid"],
        };
        assert_eq!(told(&made.events), begun);
        for (day, (turn, expected)) in (1..).zip(*turns) {
            let events = world.turn_subscription(&made.subscription, *turn, at(day * DAY));
            assert_eq!(told(&events), *expected, "{turn:?} after {start:?}");
            assert!(events.iter().all(|event| event.at == at(day * DAY)));
            let shown = world.subscription(&made.subscription, object::billing::Expand::default());
            let status = truth(&world, &made.subscription).status;
            assert_eq!(shown.expect("a subscription")["status"], status.as_str(), "{turn:?}");
        }
    }
}

#[test]
fn old_and_new_snapshots_of_every_life_say_the_same() {
    for (start, turns) in LIVES {
        let world = world();
        let made = world.subscribe(monthly().subscription_metadata("a", "b"), *start, at(0));
        let turn = |(turn, _): &(SubscriptionTurn, Told)| {
            world.turn_subscription(&made.subscription, *turn, at(DAY))
        };
        for event in made.events.into_iter().chain(turns.iter().flat_map(turn)) {
            let (old, new) = (object(&event, Rendering::PreBasil), object(&event, Rendering::Endive));
            if event.event_type.starts_with("invoice.") {
                assert_eq!(shape::invoice(&old, Some(at(0))), shape::invoice(&new, Some(at(0))));
                let of = shape::subscription_of_invoice(&old).expect("an invoice of a subscription");
                assert_eq!(Some(&of), shape::subscription_of_invoice(&new).as_ref());
                assert_eq!(of.as_str(), made.subscription);
                assert_eq!(old["paid"], new["status"] == "paid");
            } else {
                let mut read = [read(&event, Rendering::PreBasil), read(&event, Rendering::Endive)];
                assert!(read[0].items.iter().all(|item| item.period_end.is_none()), "not an item's, then");
                assert!(read[1].items.iter().all(|item| item.period_end == read[1].period_end));
                for item in &mut read[1].items {
                    item.period_end = None;
                }
                assert_eq!(read[0], read[1], "{}", event.event_type);
            }
        }
    }
}

#[test]
fn what_cannot_happen_is_not_told() {
    let world = world();
    let ended = world.subscribe(monthly(), Start::Active, at(0)).subscription;
    world.turn_subscription(&ended, Cancel, at(1));
    let ending = world.subscribe(monthly(), Start::Active, at(0)).subscription;
    world.turn_subscription(&ending, ScheduleCancel { classic: false }, at(1));
    let begun = world.subscribe(monthly(), Start::Active, at(0)).subscription;
    world.turn_subscription(&begun, BeginPeriod, at(1));
    let before = world.true_subscriptions();
    for (id, turns) in [
        (ended.as_str(), &[Renew, Cancel, PayLate, PayAfterEnd, SetQuantity(2), Resume, Unschedule] as &[_]),
        (ending.as_str(), &[Renew, RenewUnpaid, ScheduleCancel { classic: true }, EndTrial, PayFirst]),
        (begun.as_str(), &[Renew, GiveUp { cancel: true }, VoidInvoice, PayProration, SetQuantity(1)]),
        ("sub_unknown", &[Renew, Cancel]),
    ] {
        for turn in turns {
            assert_eq!(told(&world.turn_subscription(id, *turn, at(2))), [""; 0], "{turn:?}");
        }
    }
    assert_eq!(world.true_subscriptions(), before);
}

#[test]
fn a_change_of_period_is_told_where_each_version_has_it() {
    let world = world();
    let id = world.subscribe(monthly(), Start::Active, at(0)).subscription;
    let renewed = world.turn_subscription(&id, Renew, at(30 * DAY)).remove(0);
    let end = at(30 * DAY).as_second();
    let old = previous(&renewed, Rendering::PreBasil);
    assert_eq!(
        (&old["current_period_start"], &old["current_period_end"]),
        (&json!(at(0).as_second()), &json!(end))
    );
    assert!(old["items"].is_null(), "items had no period");
    let new = previous(&renewed, Rendering::Endive);
    assert_eq!(new["items"]["data"][0]["current_period_end"], end);
    assert!(new["current_period_end"].is_null());
    assert_eq!(read(&renewed, Rendering::Endive).period_end, Some(at(60 * DAY)));
    let failed = world.turn_subscription(&id, RenewUnpaid, at(60 * DAY)).remove(2);
    assert_eq!(previous(&failed, Rendering::Endive), json!({"status": "active"}));
    let ended = world.turn_subscription(&id, GiveUp { cancel: true }, at(61 * DAY)).remove(0);
    assert!(previous(&ended, Rendering::Endive).is_null(), "the last word has no before");
}

#[test]
fn a_new_period_shows_before_its_money_comes() {
    let world = world();
    let id = world.subscribe(monthly(), Start::Active, at(0)).subscription;
    let renewed = world.turn_subscription(&id, Renew, at(30 * DAY));
    let latest = read(&renewed[0], Rendering::Endive).latest_invoice.expect("an invoice");
    assert_eq!(latest.as_str(), renewed[1].object_id());
    world.turn_subscription(&id, BeginPeriod, at(60 * DAY));
    let between = truth(&world, &id);
    assert_eq!((between.period_end, between.paid_through), (at(90 * DAY), Some(at(60 * DAY))));
    assert_eq!(world.invoices(Some(&id), Some("draft")).len(), 1);
    world.turn_subscription(&id, PayLate, at(60 * DAY + 3_600));
    assert_eq!(
        truth(&world, &id).paid_through,
        Some(at(90 * DAY)),
        "from the boundary, not from the payment"
    );
}

#[test]
fn units_are_bought_before_they_are_paid() {
    let world = world();
    let id = world.subscribe(monthly().times(2), Start::Active, at(0)).subscription;
    let units = || (truth(&world, &id).units, truth(&world, &id).units_paid);
    let raised = world.turn_subscription(&id, SetQuantity(5), at(DAY)).remove(0);
    assert_eq!(previous(&raised, Rendering::Endive)["items"]["data"][0]["quantity"], 2);
    assert_eq!(units(), (5, 2));
    let paid = world.turn_subscription(&id, PayProration, at(2 * DAY)).remove(0);
    assert_eq!(units(), (5, 5));
    assert_eq!(truth(&world, &id).paid_through, Some(at(30 * DAY)), "a proration pays for no more time");
    for rendering in [Rendering::PreBasil, Rendering::Endive] {
        let read = shape::invoice(&object(&paid, rendering), None).expect("an invoice");
        assert_eq!(read.pays_through, None, "{rendering:?}");
    }
    world.turn_subscription(&id, SetQuantity(1), at(3 * DAY));
    assert_eq!(units(), (1, 1));
    assert_eq!(world.invoices(Some(&id), Some("open")).len(), 0, "fewer bring no invoice");
}

#[test]
fn a_trial_is_free_and_its_end_is_paid() {
    let world = world();
    let bought = world.buy(monthly().trial(7), at(0));
    let session = last_session(&bought.events);
    assert_eq!(session.payment_status, PaymentStatus::NoPaymentRequired);
    let id = bought.subscription.expect("a subscription");
    let free = object(&bought.events[1], Rendering::Endive);
    assert_eq!((&free["amount_paid"], &free["status"]), (&json!(0), &json!("paid")));
    assert_eq!(truth(&world, &id).paid_through, Some(at(7 * DAY)));
    assert_eq!(read(&bought.events[0], Rendering::Endive).trial_end, Some(at(7 * DAY)));
    let ended = world.turn_subscription(&id, EndTrial, at(3 * DAY));
    assert_eq!(read(&ended[0], Rendering::Endive).trial_end, Some(at(3 * DAY)), "ended early");
    assert_eq!(object(&ended[1], Rendering::Endive)["amount_paid"], 4_900);
    assert_eq!(truth(&world, &id).paid_through, Some(at(33 * DAY)));
}

#[test]
fn a_pause_that_outlasts_its_period_ends_with_a_paid_one() {
    let world = world();
    let id = world.subscribe(monthly(), Start::Trialing { days: 7 }, at(0)).subscription;
    let paused = world.turn_subscription(&id, Pause, at(7 * DAY)).remove(0);
    let why = &object(&paused, Rendering::Endive)["status_details"]["paused"]["subscription"]["type"];
    assert_eq!(why, "trial_end_without_payment_method");
    assert!(object(&paused, Rendering::PreBasil)["status_details"].is_null(), "told since endive only");
    let resumed = world.turn_subscription(&id, Resume, at(20 * DAY));
    assert_eq!(told(&resumed), ["invoice.paid paid", "subscription.resumed active"]);
    assert_eq!(truth(&world, &id).paid_through, Some(at(50 * DAY)));
}

#[test]
fn a_scheduled_end_is_told_by_its_billing_mode() {
    for classic in [true, false] {
        let world = world();
        let id = world.subscribe(monthly(), Start::Active, at(0)).subscription;
        let scheduled = world.turn_subscription(&id, ScheduleCancel { classic }, at(DAY)).remove(0);
        let shown = object(&scheduled, Rendering::Endive);
        assert_eq!(shown["cancel_at_period_end"], classic);
        assert_eq!(shown["cancel_at"], at(30 * DAY).as_second());
        assert!(shown["ended_at"].is_null());
        assert_eq!(read(&scheduled, Rendering::PreBasil).cancellation, Some(Cancellation::Scheduled));
        let kept = world.turn_subscription(&id, Unschedule, at(2 * DAY)).remove(0);
        assert_eq!(read(&kept, Rendering::Endive).cancellation, None);
        assert_eq!(previous(&kept, Rendering::Endive)["cancel_at"], at(30 * DAY).as_second());
    }
}

#[test]
fn an_end_for_want_of_money_says_so_and_late_money_does_not_revive() {
    let world = world();
    let id = world.subscribe(monthly(), Start::Active, at(0)).subscription;
    world.turn_subscription(&id, RenewUnpaid, at(30 * DAY));
    let ended = world.turn_subscription(&id, CancelForPayment, at(40 * DAY)).remove(0);
    assert_eq!(read(&ended, Rendering::Endive).cancellation, Some(Cancellation::Unpaid));
    world.turn_subscription(&id, PayAfterEnd, at(41 * DAY));
    let truth = truth(&world, &id);
    assert_eq!((truth.status, truth.paid_through), (Status::Canceled, Some(at(60 * DAY))));
}

#[test]
fn what_is_sold_once_is_no_item_of_the_subscription() {
    let world = world();
    let bought = world.buy(
        monthly().lookup_key("pro").product("prod_1").and("price_2").times(3).one_time().metadata("a", "b"),
        at(0),
    );
    let subscription = read(&bought.events[0], Rendering::Endive);
    let price = subscription.items[0].line.price.as_ref().expect("a price");
    assert_eq!((price.id.as_str(), price.lookup_key.as_deref()), ("price_1", Some("pro")));
    assert_eq!((price.product.as_deref(), price.recurring), (Some("prod_1"), true));
    assert_eq!(subscription.items.len(), 1);
    assert!(subscription.metadata.is_empty(), "Stripe copies none from the session");
    let lines = world.lines(&bought.session).expect("lines");
    let recurring: Vec<_> = lines.iter().map(|line| line["price"]["type"].as_str()).collect();
    assert_eq!(recurring, [Some("recurring"), Some("one_time")]);
    for (rendering, kind) in [(Rendering::PreBasil, "/type"), (Rendering::Endive, "/parent/type")] {
        let invoice = object(&bought.events[1], rendering);
        let kinds: Vec<_> = (0..2).map(|n| invoice["lines"]["data"][n].pointer(kind).cloned()).collect();
        let expected = match rendering {
            Rendering::PreBasil => ["subscription", "invoiceitem"],
            _ => ["subscription_item_details", "invoice_item_details"],
        };
        assert_eq!(kinds, expected.map(|kind| Some(json!(kind))));
    }
    let id = bought.subscription.expect("a subscription");
    world.turn_subscription(&id, Renew, at(30 * DAY));
    let renewal = &world.invoices(Some(&id), None)[0];
    assert_eq!(renewal["lines"]["data"].as_array().map(Vec::len), Some(1), "and not on later invoices");
}

#[test]
fn customers_change_and_go() {
    let world = world();
    let made = world.subscribe(monthly().by("old@example.com"), Start::Active, at(0));
    let edited = world.edit_customer(&made.customer, Some("new@example.com"), at(1)).remove(0);
    assert_eq!(edited.event_type, "customer.updated");
    assert_eq!(previous(&edited, Rendering::Endive), json!({"email": "old@example.com"}));
    assert_eq!(world.customer(&made.customer).expect("a customer")["email"], "new@example.com");
    let gone = world.delete_customer(&made.customer, at(2)).remove(0);
    assert_eq!((gone.event_type, gone.object_id()), ("customer.deleted", made.customer.as_str()));
    let left = json!({"id": made.customer, "object": "customer", "deleted": true});
    assert_eq!(world.customer(&made.customer), Some(left));
    assert!(world.edit_customer(&made.customer, None, at(3)).is_empty());
    assert!(world.delete_customer(&made.customer, at(3)).is_empty());
}

#[test]
fn equal_seeds_live_equal_lives() {
    let life = |seed| {
        let world = World::new(Mode::Test, seed);
        let made = world.subscribe(monthly(), Start::Active, at(0));
        let mut events = made.events;
        events.extend(world.turn_subscription(&made.subscription, Renew, at(1)));
        let bodies = events.iter().map(|event| event.body(Rendering::Endive));
        (bodies.collect::<Vec<_>>(), events.last().map(|event| event.object_id().to_owned()))
    };
    assert_eq!(life(1), life(1));
    assert_ne!(life(1).1, life(2).1);
}
