//! Whose call goes when, and what one refusal means for all the others.
#![expect(clippy::expect_used, reason = "helpers of tests, which clippy does not know for tests")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use grantsmith_authforge::fake::{CallKind, Fault, RateLimit, Switches};
use grantsmith_authforge::{ApiKey, Pace, Scheduler, Verdict, shared_key};
use grantsmith_core::port::{Class, Clock, LicenseApi, Moment, Priority};
use jiff::Timestamp;
use tokio::time::{Instant, sleep};

use support::{Bench, TestClock, app, client_of, order};

fn scheduler(pace: Pace) -> (Arc<Scheduler>, Arc<TestClock>) {
    let clock = TestClock::start();
    (Scheduler::new(pace, clock.clone(), shared_key(ApiKey::new("key"))), clock)
}

/// AuthForge's bucket, as strict as can be.
struct Strict {
    level: f64,
    at: Duration,
    refused: u32,
}

impl Strict {
    fn arrive(&mut self, at: Duration) {
        self.level = (self.level + at.abs_diff(self.at).as_secs_f64() * 50.0).min(100.0);
        self.at = at;
        if self.level >= 1.0 {
            self.level -= 1.0;
        } else {
            self.refused += 1;
        }
    }
}

/// Sends `count` requests as fast as they may go; the `n`-th takes `way(n)` to arrive. Returns the arrivals in order.
async fn send_all(scheduler: &Arc<Scheduler>, count: u64, way: fn(u64) -> Duration) -> Vec<Duration> {
    let start = Instant::now();
    let sends = (0..count).map(|n| {
        let scheduler = Arc::clone(scheduler);
        async move {
            let mut ticket = scheduler.acquire(Priority::Buyer, true).await.expect("permit");
            ticket.send();
            sleep(way(n)).await;
            let arrival = start.elapsed();
            sleep(Duration::from_millis(100)).await;
            ticket.report(Verdict::DONE);
            arrival
        }
    });
    let mut arrivals = join_all(sends).await;
    arrivals.sort();
    arrivals
}

#[tokio::test(start_paused = true)]
async fn a_backlog_never_overflows_a_strict_bucket_and_uses_95_percent_of_it() {
    let (scheduler, _) = scheduler(Pace::default());
    // From 0 to 0.3 s, and every seventh at once: the network does not keep distances.
    let way =
        |n: u64| Duration::from_millis(if n.is_multiple_of(7) { 0 } else { n.wrapping_mul(7919) % 300 });
    let arrivals = send_all(&scheduler, 2_000, way).await;
    let mut strict = Strict { level: 100.0, at: Duration::ZERO, refused: 0 };
    for at in &arrivals {
        strict.arrive(*at);
    }
    assert_eq!(strict.refused, 0);
    let took = arrivals.last().expect("some").as_secs_f64();
    assert!(2_000.0 / took >= 0.95 * 50.0, "{took} s");
}

#[tokio::test(start_paused = true)]
async fn a_jam_that_lets_all_go_at_once_does_not_overflow_it_either() {
    let (scheduler, _) = scheduler(Pace::default());
    let way = |n: u64| Duration::from_millis(if n < 100 { 1_900 } else { 0 });
    let mut strict = Strict { level: 100.0, at: Duration::ZERO, refused: 0 };
    for at in send_all(&scheduler, 400, way).await {
        strict.arrive(at);
    }
    assert_eq!(strict.refused, 0);
}

#[tokio::test(start_paused = true)]
async fn reserved_creates_that_are_sent_late_overflow_nothing() {
    let (scheduler, _) = scheduler(Pace::default());
    let start = Instant::now();
    let mut strict = Strict { level: 100.0, at: Duration::ZERO, refused: 0 };
    for round in 0..20 {
        let reserved = join_all((0..100).map(|_| scheduler.reserve(Priority::Buyer))).await;
        assert!(reserved.iter().all(Result::is_ok));
        // The disk takes its time with the attempts, and then all of them go at once.
        sleep(Duration::from_millis(2_100)).await;
        for _ in 0..100 {
            let mut ticket = scheduler.claim().expect("reserved");
            ticket.send();
            strict.arrive(start.elapsed());
            ticket.report(Verdict::DONE);
        }
        assert_eq!(strict.refused, 0, "round {round}");
    }
}

#[tokio::test]
async fn a_backlog_over_http_meets_no_429_at_95_percent_of_the_limit() {
    let limit = RateLimit { per_second: 200, burst: 400 };
    let switches = Switches { rate_limit: Some(limit), ..Switches::default() };
    let bench = Bench::tuned(switches, |settings| {
        settings.pace = Pace { per_second: limit.per_second, burst: limit.burst };
        settings.timeout = Duration::from_secs(60);
    })
    .await;
    let creates = join_all((0..1_000).map(|n| {
        let bench = &bench;
        async move { bench.create(&format!("cs_test_{n}")).await }
    }))
    .await;
    assert!(creates.iter().all(Result::is_ok), "{:?}", creates.iter().find(|result| result.is_err()));
    assert_eq!(bench.fake.counts().too_many, 0);
    let made: Vec<Timestamp> = bench.fake.licenses().iter().map(|license| license.created_at).collect();
    // What is sustained once the burst is spent. A machine that stands still for a moment is caught up with afterwards, so
    // any end of the stretch will do.
    let share = |end: u32| {
        let took = made[end as usize].duration_since(made[500]).as_secs_f64();
        f64::from(end - 500) / took / f64::from(limit.per_second)
    };
    let best = (800..1_000).map(share).fold(0.0, f64::max);
    assert!(best >= 0.95, "{best}");
}

#[tokio::test(start_paused = true)]
async fn a_buyer_gets_the_next_permit_whoever_waits() {
    let (scheduler, clock) = scheduler(Pace { per_second: 50, burst: 1 });
    let order: Arc<std::sync::Mutex<Vec<Priority>>> = Arc::default();
    let go = |priority| {
        let (scheduler, order) = (Arc::clone(&scheduler), Arc::clone(&order));
        tokio::spawn(async move {
            let mut ticket = scheduler.acquire(priority, false).await.expect("permit");
            ticket.send();
            order.lock().expect("order").push(priority);
            ticket.report(Verdict::DONE);
        })
    };
    let audits: Vec<_> = (0..100).map(|_| go(Priority::Audit)).collect();
    sleep(Duration::from_millis(100)).await;
    let before = order.lock().expect("order").len();
    let asked = clock.now().moment;
    let others = [go(Priority::Renewal), go(Priority::Refund), go(Priority::Buyer)];
    let [renewal, refund, buyer] = others;
    buyer.await.expect("buyer");
    assert!(clock.now().moment.since(asked) <= Duration::from_millis(25));
    for task in [refund, renewal].into_iter().chain(audits) {
        task.await.expect("task");
    }
    let order = order.lock().expect("order").clone();
    assert_eq!(order[before..before + 3], [Priority::Buyer, Priority::Refund, Priority::Renewal]);
}

#[tokio::test(start_paused = true)]
async fn within_a_class_the_first_come_is_the_first_served() {
    let (scheduler, _) = scheduler(Pace { per_second: 50, burst: 1 });
    let order: std::sync::Mutex<Vec<u32>> = std::sync::Mutex::default();
    join_all((0..20).map(|n| {
        let (scheduler, order) = (&scheduler, &order);
        async move {
            let mut ticket = scheduler.acquire(Priority::Buyer, false).await.expect("permit");
            ticket.send();
            order.lock().expect("order").push(n);
            ticket.report(Verdict::DONE);
        }
    }))
    .await;
    assert_eq!(*order.lock().expect("order"), (0..20).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_429_with_retry_after_holds_everybody_until_then() {
    let (scheduler, clock) = scheduler(Pace::default());
    let mut ticket = scheduler.acquire(Priority::Audit, false).await.expect("permit");
    ticket.send();
    let refused_at = clock.now().moment;
    let retry_after = Some(Duration::from_secs(7));
    ticket.report(Verdict { retry_after, ..Verdict::failed(Class::RateLimited) });
    assert!(scheduler.health().slowed.is_some());
    let arrivals: Vec<Moment> = join_all((0..10).map(|_| async {
        scheduler.acquire(Priority::Buyer, true).await.expect("permit").send();
        clock.now().moment
    }))
    .await;
    assert!(arrivals.iter().all(|at| at.since(refused_at) >= Duration::from_secs(7)));
    // The server's bucket is as empty as it was: no burst afterwards.
    assert!(arrivals[9].since(arrivals[0]) >= Duration::from_millis(180));
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_429s_is_one_429_and_the_next_one_waits_longer() {
    let (scheduler, _) = scheduler(Pace::default());
    let slowed =
        |scheduler: &Scheduler| scheduler.health().slowed.expect("slowed").as_millis().div_ceil(1_000);
    let mut tickets = join_all((0..20).map(|_| scheduler.acquire(Priority::Audit, false))).await;
    for ticket in &mut tickets {
        ticket.as_mut().expect("permit").send();
    }
    for ticket in tickets {
        ticket.expect("permit").report(Verdict::failed(Class::RateLimited));
    }
    assert_eq!(slowed(&scheduler), 2);
    let mut ticket = scheduler.acquire(Priority::Audit, false).await.expect("permit");
    ticket.send();
    ticket.report(Verdict::failed(Class::RateLimited));
    assert_eq!(slowed(&scheduler), 4);
}

#[tokio::test(start_paused = true)]
async fn a_permit_that_nobody_wants_any_more_goes_to_the_next() {
    let (scheduler, _) = scheduler(Pace { per_second: 50, burst: 1 });
    let held = scheduler.acquire(Priority::Buyer, false).await.expect("permit");
    let waits = tokio::spawn({
        let scheduler = Arc::clone(&scheduler);
        async move { scheduler.acquire(Priority::Audit, false).await.map(drop) }
    });
    tokio::task::yield_now().await;
    drop(held);
    waits.await.expect("task").expect("permit");
    assert_eq!(scheduler.health().waiting, 0);
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_reservation_gives_its_turn_back() {
    let (scheduler, clock) = scheduler(Pace { per_second: 50, burst: 1 });
    scheduler.reserve(Priority::Buyer).await.expect("reserved");
    let asked = clock.now().moment;
    scheduler.reserve(Priority::Buyer).await.expect("reserved");
    assert!(clock.now().moment.since(asked) >= Duration::from_secs(15));
}

/// Reports `class` for as many calls as may go, and returns how many went.
async fn fail_all(scheduler: &Arc<Scheduler>, class: Class, tries: usize) -> usize {
    let mut sent = 0;
    for _ in 0..tries {
        if let Ok(mut ticket) = scheduler.acquire(Priority::Audit, true).await {
            ticket.send();
            ticket.report(Verdict {
                class: Some(class),
                answered: class != Class::Transient,
                retry_after: None,
            });
            sent += 1;
        }
    }
    sent
}

#[tokio::test(start_paused = true)]
async fn probes_come_after_5_s_doubling_to_60_and_a_success_ends_the_pause() {
    for (class, first) in [(Class::Unauthorized, 1), (Class::CreditsExhausted, 1), (Class::Transient, 5)] {
        let (scheduler, _) = scheduler(Pace::default());
        assert_eq!(fail_all(&scheduler, class, 100).await, first, "{class:?}");
        for wait in [5, 10, 20, 40, 60, 60] {
            let refusal = scheduler.acquire(Priority::Buyer, true).await.expect_err("paused");
            assert_eq!(refusal.class, class);
            let retry_after = refusal.retry_after.expect("time").as_secs_f64();
            assert!((retry_after - f64::from(wait)).abs() < 0.1, "{class:?}: {retry_after} and not {wait}");
            sleep(refusal.retry_after.expect("time")).await;
            assert_eq!(fail_all(&scheduler, class, 100).await, 1, "{class:?} after {wait} s");
        }
        sleep(Duration::from_secs(60)).await;
        let mut probe = scheduler.acquire(Priority::Audit, true).await.expect("probe");
        scheduler.acquire(Priority::Buyer, true).await.expect_err("one probe only");
        probe.send();
        probe.report(Verdict::DONE);
        scheduler.acquire(Priority::Buyer, true).await.expect("over");
        assert_eq!((scheduler.health().paused, scheduler.health().creates_paused), (None, None));
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_never_reports_blocks_for_15_s_and_a_dropped_one_not_at_all() {
    let (scheduler, _) = scheduler(Pace::default());
    fail_all(&scheduler, Class::Unauthorized, 1).await;
    sleep(Duration::from_secs(5)).await;
    drop(scheduler.acquire(Priority::Audit, false).await.expect("probe"));
    scheduler.reserve(Priority::Buyer).await.expect("probe again");
    scheduler.reserve(Priority::Buyer).await.expect_err("the probe is out");
    sleep(Duration::from_secs(15)).await;
    scheduler.reserve(Priority::Buyer).await.expect("the lease is over");
}

#[tokio::test(start_paused = true)]
async fn those_that_wait_are_told_of_a_pause() {
    let (scheduler, _) = scheduler(Pace { per_second: 1, burst: 1 });
    let mut first = scheduler.acquire(Priority::Buyer, false).await.expect("permit");
    first.send();
    let waiting = join_all((0..10).map(|_| scheduler.acquire(Priority::Buyer, false)));
    let report = async {
        tokio::task::yield_now().await;
        first.report(Verdict::failed(Class::Unauthorized));
    };
    let (told, ()) = tokio::join!(waiting, report);
    assert!(told.iter().all(|told| told.as_ref().is_err_and(|error| error.class == Class::Unauthorized)));
    assert_eq!(scheduler.health().waiting, 0);
}

#[tokio::test]
async fn no_credits_pause_creates_alone_and_one_probe_looks_whether_it_is_over() {
    let bench = Bench::with(Switches { no_credits: true, ..Switches::default() }).await;
    let first = bench.create("cs_test_0").await.expect_err("no credits");
    assert_eq!(first.class, Class::CreditsExhausted);
    bench.client.list(&app(), bench.now(), Priority::Audit).await.expect("lists go on");
    for round in 1..=3 {
        bench.clock.advance(Duration::from_secs(60));
        let tries = join_all((0..50).map(|_| bench.create("cs_test_1"))).await;
        assert!(
            tries
                .iter()
                .all(|result| result.as_ref().is_err_and(|error| error.class == Class::CreditsExhausted))
        );
        assert_eq!(bench.fake.counts().of(CallKind::Create), 1 + round, "one probe, not all");
    }
    bench.fake.switch(|switches| switches.no_credits = false);
    let health = bench.client.health();
    assert_eq!(health.creates_paused.map(|paused| paused.class), Some(Class::CreditsExhausted));
    bench.clock.advance(Duration::from_secs(60));
    bench.create("cs_test_1").await.expect("topped up");
    let rest = join_all((2..50).map(|n| {
        let bench = &bench;
        async move { bench.create(&format!("cs_test_{n}")).await }
    }));
    assert!(rest.await.iter().all(Result::is_ok));
}

#[tokio::test]
async fn creates_reserved_before_a_402_are_not_sent_after_it() {
    let bench = Bench::with(Switches { no_credits: true, ..Switches::default() }).await;
    for _ in 0..10 {
        bench.client.reserve_create(Priority::Buyer).await.expect("reserved");
    }
    for n in 0..10 {
        let error = bench.client.create(&order(&format!("cs_test_{n}"))).await.expect_err("no credits");
        assert_eq!(error.class, Class::CreditsExhausted);
    }
    assert_eq!(bench.fake.counts().of(CallKind::Create), 1);
}

#[tokio::test]
async fn a_rotated_key_ends_the_pause_for_401_at_once() {
    let accepted_key = Some("af_live_new".to_owned());
    let bench = Bench::with(Switches { accepted_key, ..Switches::default() }).await;
    assert_eq!(bench.create("cs_test_0").await.expect_err("old key").class, Class::Unauthorized);
    let barred = bench.client.list(&app(), bench.now(), Priority::Buyer).await.expect_err("paused");
    assert_eq!((barred.class, bench.fake.counts().of(CallKind::List)), (Class::Unauthorized, 0));
    // The same key read again from its file is no news.
    bench.key.store(Arc::new(ApiKey::new(support::TOKEN)));
    assert_eq!(bench.create("cs_test_0").await.expect_err("paused").class, Class::Unauthorized);
    bench.key.store(Arc::new(ApiKey::new("af_live_new")));
    bench.create("cs_test_0").await.expect("new key");
    assert_eq!(bench.fake.counts().unauthorized, 1);
}

#[tokio::test]
async fn a_refusal_of_one_call_stops_no_other() {
    let bench = Bench::with(Switches { apps: Some(Vec::new()), ..Switches::default() }).await;
    for n in 0..10 {
        assert_eq!(bench.create(&format!("cs_test_{n}")).await.expect_err("foreign").class, Class::Rejected);
    }
    assert_eq!(bench.client.health().paused, None);
}

#[tokio::test]
async fn an_outage_is_probed_and_not_stormed() {
    let bench = Bench::with(Switches::default()).await;
    let client = client_of("http://127.0.0.1:9", &bench.key, &bench.clock, |_| ());
    for _ in 0..5 {
        client.reserve_create(Priority::Buyer).await.expect("not known yet");
        let error = client.create(&order("cs_test_0")).await.expect_err("nobody there");
        assert_eq!(error.class, Class::Transient);
    }
    let barred = client.reserve_create(Priority::Buyer).await.expect_err("down");
    assert_eq!(barred.class, Class::Transient);
    assert!(barred.retry_after.is_some_and(|wait| wait <= Duration::from_secs(5)));
}

#[tokio::test]
async fn a_429_of_the_server_slows_and_loses_nothing() {
    let bench = Bench::with(Switches { retry_after: Some(1), ..Switches::default() }).await;
    bench.fake.script(CallKind::Create, [Fault::TooManyRequests]);
    let error = bench.create("cs_test_0").await.expect_err("too fast");
    assert_eq!((error.class, error.retry_after), (Class::RateLimited, Some(Duration::from_secs(1))));
    let refused_at = bench.now();
    bench.create("cs_test_0").await.expect("later");
    assert!(bench.now().since(refused_at) >= Duration::from_millis(900));
    assert_eq!(bench.fake.licenses().len(), 1);
}
