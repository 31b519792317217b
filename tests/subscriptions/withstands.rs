use std::time::Duration;

use futures_util::{StreamExt, stream};
use grantsmith_authforge::fake::Switches;
use grantsmith_service::stripe::fake::SubscriptionTurn::{Cancel, Pause, Renew, Resume};
use grantsmith_service::stripe::fake::{Event, Rendering, Start, storm};
use grantsmith_tests::{Shape, Stack, until};
use jiff::SignedDuration;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{days, ends, old_purchases, subscription, truth};

async fn stack(switches: Switches) -> Stack {
    old_purchases(Stack::plan(Shape::Standalone)).without_mail().authforge(switches).start().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_license_that_cannot_be_cut_short_is_revoked_in_time() {
    let stack = stack(Switches { shorten_refused: true, ..Switches::default() }).await;
    let made = stack.world.subscribe(subscription(), Start::Active, stack.now());
    stack.deliver_all(&made.events).await;
    let grant = stack.until_grant(&made.subscription, "READY", "Issued").await;
    let name = grant["name"].as_str().expect("a name");
    let long = ends(&stack, &made.subscription);

    let soon = stack.now() + SignedDuration::from_secs(4);
    let (code, _, error) = stack.tool(&["grants", "set-expiry", name, &soon.to_string()]).await;
    assert_eq!(code, 0, "{error}");
    stack.until_grant(&made.subscription, "PARKED", "ShortenRefused").await;
    assert_eq!(ends(&stack, &made.subscription), long, "AuthForge shows the later date");
    let calls = stack.authforge.counts().calls;
    until("the end", async || ends(&stack, &made.subscription).is_empty().then_some(())).await;
    let more = stack.authforge.counts().calls.values().sum::<u64>() - calls.values().sum::<u64>();
    assert!(more <= 2, "it is not asked for again and again: {more} calls");
    assert!(stack.now() >= soon, "not before its time");

    let (code, _, error) = stack.tool(&["grants", "clear-override", name]).await;
    assert_eq!(code, 0, "{error}");
    stack.until_grant(&made.subscription, "READY", "Issued").await;
    assert_eq!(ends(&stack, &made.subscription), long, "taken back, it lives on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_license_that_cannot_be_brought_back_waits_for_a_person() {
    let stack = stack(Switches { activate_refused: true, repeat_refused: true, ..Switches::default() }).await;
    let made = stack.world.subscribe(subscription(), Start::Active, stack.now());
    let turn = |turn| stack.world.turn_subscription(&made.subscription, turn, stack.now());
    stack.deliver_all(&made.events).await;
    stack.until_grant(&made.subscription, "READY", "Issued").await;
    stack.deliver_all(&turn(Pause)).await;
    stack.until_grant(&made.subscription, "READY", "Paused").await;
    stack.deliver_all(&turn(Resume)).await;
    let grant = stack.until_grant(&made.subscription, "PARKED", "ReinstateRefused").await;

    let name = grant["name"].as_str().expect("a name");
    let (code, _, error) = stack.tool(&["grants", "replace", name]).await;
    assert_eq!(code, 0, "{error}");
    stack.until_grant(&made.subscription, "READY", "Issued").await;
    assert_eq!(stack.live()[&made.subscription].len(), 1, "another key in its place");
    stack.assert_promise();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_has_revoked_already_is_revoked_in_peace() {
    let stack = stack(Switches { repeat_refused: true, ..Switches::default() }).await;
    let made = stack.world.subscribe(subscription(), Start::Active, stack.now());
    stack.deliver_all(&made.events).await;
    stack.until_grant(&made.subscription, "READY", "Issued").await;
    let key = stack.live()[&made.subscription][0].clone();
    assert!(stack.authforge.revoke_by_hand(&key));
    stack.deliver_all(&stack.world.turn_subscription(&made.subscription, Cancel, stack.now())).await;
    stack.until_grant(&made.subscription, "READY", "Canceled").await;
    stack.assert_promise();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_at_the_very_second_of_the_end_brings_the_key() {
    let stack = stack(Switches::default()).await;
    let made = stack.world.subscribe(subscription(), Start::Active, stack.now() - days(30));
    // Its first period ends this very second, so nothing is owed by now; then it is renewed.
    stack.deliver_all(&made.events).await;
    stack.until_grant(&made.subscription, "READY", "Expired").await;
    stack.deliver_all(&stack.world.turn_subscription(&made.subscription, Renew, stack.now())).await;
    stack.until_grant(&made.subscription, "READY", "Issued").await;
    assert_eq!(ends(&stack, &made.subscription), [Some(truth(&stack, &made.subscription).period_end)]);
    stack.assert_promise();
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_that_are_five_minutes_apart_change_nothing() {
    for ahead in [-300_000, 300_000] {
        let stack = stack(Switches { clock_skew_ms: ahead, ..Switches::default() }).await;
        for skew in [-5, 5] {
            let at = stack.now() + SignedDuration::from_mins(skew);
            let made = stack.world.subscribe(subscription(), Start::Active, at);
            stack.deliver_all(&made.events).await;
            stack.deliver_all(&stack.world.turn_subscription(&made.subscription, Renew, at)).await;
        }
        stack.settled().await;
        stack.assert_promise();
        assert_eq!(stack.authforge.licenses().len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_renewals_survives_being_killed() {
    const MANY: usize = 120;
    let seed = rand::random();
    let mut dice = StdRng::seed_from_u64(seed);
    let mut stack = stack(Switches { latency_ms: 20, ..Switches::default() }).await;
    let begun = stack.now() - days(25);
    let made: Vec<_> =
        (0..MANY).map(|_| stack.world.subscribe(subscription(), Start::Active, begun)).collect();
    for made in &made {
        stack.deliver_all(&made.events).await;
    }
    stack.settled().await;
    let renewals: Vec<Event> = made
        .iter()
        .flat_map(|made| stack.world.turn_subscription(&made.subscription, Renew, stack.now()))
        .collect();
    let outside = stack.outside();
    let sent = storm(&renewals, 2, &mut dice);
    let sending = tokio::spawn(async move {
        let deliver = async |event: Event| {
            outside.deliver(event.body(Rendering::Endive)).await;
        };
        stream::iter(sent).for_each_concurrent(16, deliver).await;
    });
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(dice.random_range(50..700))).await;
        stack.kill_back().await;
        stack.up().await;
    }
    sending.await.expect("Stripe sends all");
    stack.settled().await;
    for made in &made {
        let truth = truth(&stack, &made.subscription);
        assert_eq!(ends(&stack, &made.subscription), [Some(truth.period_end)], "seed {seed}");
    }
    assert_eq!(stack.authforge.licenses().len(), MANY, "seed {seed}: none twice");
}
