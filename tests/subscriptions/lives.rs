use std::collections::BTreeMap;

use grantsmith_authforge::fake::Deeds;
use grantsmith_service::stripe::fake::SubscriptionTurn::{self as Turn, *};
use grantsmith_service::stripe::fake::{Event, Rendering, Start};
use grantsmith_tests::{Shape, Stack};
use jiff::Timestamp;

use super::{assert_license, days, shaped, subscription};

/// How a subscription begins, 25 days ago, and which turns it takes, each so many days ago.
struct Life {
    name: &'static str,
    start: Option<Start>,
    turns: &'static [(i64, Turn)],
}

const fn life(name: &'static str, start: Option<Start>, turns: &'static [(i64, Turn)]) -> Life {
    Life { name, start, turns }
}

/// Each begins by Checkout, or as told.
const LIVES: &[Life] = &[
    life("bought", None, &[]),
    life("made without Checkout", Some(Start::Active), &[]),
    life("renewed", None, &[(5, Renew)]),
    life("not paid at first", Some(Start::Incomplete), &[]),
    life("paid at last", Some(Start::Incomplete), &[(24, PayFirst)]),
    life("never paid", Some(Start::Incomplete), &[(24, Expire)]),
    life("tried", Some(Start::Trialing { days: 60 }), &[]),
    life("tried and bought", Some(Start::Trialing { days: 30 }), &[(11, EndTrial)]),
    life("canceled", None, &[(5, Renew), (4, Cancel)]),
    life(
        "to end, as the classic rendering tells",
        None,
        &[(5, Renew), (4, ScheduleCancel { classic: true })],
    ),
    life(
        "to end, as the flexible rendering tells",
        None,
        &[(5, Renew), (4, ScheduleCancel { classic: false })],
    ),
    life(
        "to end, and withdrawn",
        None,
        &[(5, Renew), (4, ScheduleCancel { classic: false }), (3, Unschedule)],
    ),
    life("failing", None, &[(5, RenewUnpaid)]),
    life("failing again", None, &[(5, RenewUnpaid), (3, FailAgain)]),
    life("paid late", None, &[(5, RenewUnpaid), (3, FailAgain), (1, PayLate)]),
    life("given up", None, &[(5, RenewUnpaid), (1, GiveUp { cancel: false })]),
    life(
        "given up and paid after all",
        None,
        &[(5, RenewUnpaid), (3, GiveUp { cancel: false }), (1, PayLate)],
    ),
    life("given up and canceled", None, &[(5, RenewUnpaid), (1, GiveUp { cancel: true })]),
    life(
        "a late payment revives nothing",
        None,
        &[(5, RenewUnpaid), (3, CancelForPayment), (1, PayAfterEnd)],
    ),
    life("its invoice taken back", None, &[(5, RenewUnpaid), (1, VoidInvoice)]),
    life("its invoice written off", None, &[(5, RenewUnpaid), (1, MarkUncollectible)]),
    life("paused", None, &[(5, Renew), (3, Pause)]),
    life("resumed", None, &[(5, Renew), (3, Pause), (1, Resume)]),
    life("more of it, not yet paid", None, &[(5, Renew), (3, SetQuantity(3))]),
    life("more of it", None, &[(5, Renew), (3, SetQuantity(3)), (2, PayProration)]),
    life("less of it", None, &[(5, Renew), (4, SetQuantity(3)), (3, PayProration), (2, SetQuantity(1))]),
];

/// One life that was told to the program.
struct Told {
    name: String,
    id: String,
    failed_at: Option<Timestamp>,
    events: Vec<Event>,
    rendering: Rendering,
}

impl Life {
    fn begin(&self, stack: &Stack, rendering: Rendering) -> Told {
        let at = stack.now() - days(25);
        let (id, events) = match self.start {
            None => {
                let bought = stack.world.buy(subscription(), at);
                let all = stack.world.true_subscriptions();
                let ours = all.into_iter().find(|truth| truth.session.as_ref() == Some(&bought.session));
                (ours.expect("a subscription").subscription, bought.events)
            }
            Some(start) => {
                let made = stack.world.subscribe(subscription(), start, at);
                (made.subscription, made.events)
            }
        };
        let name = format!("{}, {rendering:?}", self.name);
        Told { name, id, failed_at: None, events, rendering }
    }

    fn turn(&self, stack: &Stack, told: &mut Told, step: usize) {
        let Some((ago, turn)) = self.turns.get(step) else { return told.events.clear() };
        let at = stack.now() - days(*ago);
        told.events = stack.world.turn_subscription(&told.id, *turn, at);
        assert!(!told.events.is_empty(), "{}: {turn:?} can happen", told.name);
        let failed = told.events.iter().find(|event| event.event_type == "invoice.payment_failed");
        // To the second, as events tell times.
        told.failed_at = told.failed_at.or(failed.map(|event| whole_seconds(event.at)));
        if matches!(turn, Turn::PayLate | Turn::VoidInvoice | Turn::MarkUncollectible) {
            told.failed_at = None;
        }
    }
}

fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).expect("a time")
}

/// What was done at AuthForge in each life, in order.
type Done = BTreeMap<String, Vec<Deeds>>;

/// Lives all lives side by side, in these renderings, and looks at the licenses after each turn.
async fn live_all(shape: Shape, events_only: bool, renderings: &[Rendering]) -> Done {
    let stack = shaped(shape, events_only).await;
    let mut all: Vec<(&Life, Told)> = Vec::new();
    for rendering in renderings {
        all.extend(LIVES.iter().map(|life| (life, life.begin(&stack, *rendering))));
    }
    for step in 0..4 {
        for (_, told) in &all {
            for event in &told.events {
                stack.deliver(event.body(told.rendering)).await;
            }
        }
        stack.settled().await;
        for (_, told) in &all {
            let truth = super::truth(&stack, &told.id);
            // Items show more before it is paid, and the guide sells one.
            let units = if events_only { 1 } else { truth.units_paid };
            let units = usize::try_from(units).expect("a count");
            assert_license(&stack, &told.id, told.failed_at, units, &format!("{}, step {step}", told.name));
        }
        for (life, told) in &mut all {
            life.turn(&stack, told, step);
        }
    }
    let history = stack.authforge.history();
    let done = |id: &str| {
        let label = format!("Stripe sub {id}");
        let ours = |text: &str| text == label || text.starts_with(&format!("{label} "));
        let deeds = history.iter().filter(|deed| deed.label.as_deref().is_some_and(ours));
        deeds.map(|deed| deed.what).collect()
    };
    all.iter().map(|(_, told)| (told.name.clone(), done(&told.id))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_life_is_followed_with_a_stripe_key() {
    live_all(Shape::Standalone, false, &[Rendering::PreBasil, Rendering::Endive, Rendering::Thin]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_life_is_followed_by_events_alone() {
    live_all(Shape::Standalone, true, &[Rendering::PreBasil, Rendering::Endive]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_does_for_every_life_what_one_process_does() {
    let (one, cluster) = tokio::join!(
        live_all(Shape::Standalone, false, &[Rendering::Endive]),
        live_all(Shape::Cluster, false, &[Rendering::Endive]),
    );
    assert_eq!(cluster, one, "the same calls at AuthForge, in the same order, for each purchase");
}
