//! Programs that die at any moment of a burst, and start again on what they left.

#![expect(clippy::expect_used, reason = "a test stops where the world is not as it set it up")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use grantsmith_authforge::fake::{CallKind, Fault, Switches};
use grantsmith_service::stripe::fake::{self, Rendering, Route, storm};
use grantsmith_tests::raw::{Raw, hook};
use grantsmith_tests::stack::order;
use grantsmith_tests::{Outside, Shape, Stack, until};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;
use tokio::time::{Instant, MissedTickBehavior, timeout};

/// How often a program is killed while it works, and at most how often the one with the record while it starts.
const KILLS: usize = 8;
const STILLBORN: usize = 3;

/// Short enough that a lost create is over within the test, far longer than any answer of the fake takes.
const FLAGS: &[&str] =
    &["--lost-create-quarantine", "3s", "--authforge-rate", "1000", "--authforge-burst", "1000"];

/// What every kind of fault leaves: nothing, or a license that nobody was told of.
const FAULTS: [Fault; 6] = [
    Fault::LostBefore,
    Fault::LostAfter,
    Fault::FiveHundredBefore,
    Fault::FiveHundredAfterCommit,
    Fault::TruncatedBody,
    Fault::Delayed(300),
];

/// An order by one of many buyers.
struct Order {
    session: String,
    email: String,
}

/// A burst of purchases and what became of it.
struct Burst {
    stack: Stack,
    seed: u64,
    dice: StdRng,
    orders: Vec<Order>,
    /// The ids of all events, and their deliveries in a disorder that Stripe allows.
    events: BTreeSet<String>,
    deliveries: Vec<Vec<u8>>,
}

impl Burst {
    async fn of(shape: Shape, purchases: usize) -> Self {
        let seed = rand::random();
        let switches = Switches { latency_ms: 15, retry_after: Some(1), ..Switches::default() };
        let stack = Stack::plan(shape).flags(FLAGS).authforge(switches).start().await;
        let mut dice = StdRng::seed_from_u64(seed);
        let (mut orders, mut events) = (Vec::new(), Vec::new());
        for number in 0..purchases {
            let email = format!("buyer{number}@example.com");
            let bought = stack.world.buy(order().by(&email), stack.now());
            events.extend(bought.events);
            orders.push(Order { session: bought.session, email });
        }
        let deliveries = storm(&events, 2, &mut dice);
        let deliveries = deliveries.iter().map(|event| event.body(Rendering::Endive)).collect();
        let events = events.iter().map(|event| format!("events/{}", event.id(Rendering::Endive))).collect();
        Self { stack, seed, dice, orders, events, deliveries }
    }

    /// Faults on at AuthForge and at Stripe's API.
    fn spoil(&mut self, faults: usize) {
        let mut script: Vec<Fault> = FAULTS.iter().copied().cycle().take(faults).collect();
        script.extend([Fault::TooManyRequests; 2]);
        script.shuffle(&mut self.dice);
        self.stack.authforge.script(CallKind::Create, script);
        let listing = [Fault::FiveHundredBefore, Fault::TruncatedBody, Fault::LostAfter];
        self.stack.authforge.script(CallKind::List, listing);
        let stripe = [
            fake::Fault::status(500),
            fake::Fault::Drop,
            fake::Fault::Garbage,
            fake::Fault::status(503),
            fake::Fault::status(429),
        ];
        self.stack.stripe.script(Route::Session, stripe.into_iter().cycle().take(20));
        self.stack.stripe.always(Some(fake::Fault::Latency(Duration::from_millis(10))));
    }

    /// Waits until AuthForge has made this share of all licenses, then for a moment more.
    async fn moment(&mut self, share: usize, of: usize) {
        let wanted = self.orders.len() * share / of;
        let made = self.stack.authforge.until(|deeds| deeds.len() >= wanted);
        // Where the work waits for a quarantine the moment is as good as another.
        let _ = timeout(Duration::from_secs(3), made).await;
        tokio::time::sleep(Duration::from_millis(self.dice.random_range(0..40))).await;
    }

    /// Kills and starts again, over and over, with more faults half way.
    async fn kill_and_restart(&mut self, shape: Shape) {
        for kill in 1..=KILLS {
            self.moment(kill, KILLS + 2).await;
            if kill == KILLS / 2 {
                self.spoil(12);
            }
            let front = shape != Shape::Standalone && self.dice.random();
            if front {
                self.stack.kill_front().await;
            }
            let operator = shape == Shape::Cluster && self.dice.random();
            if operator {
                self.stack.kill_operator().await;
            }
            if !(front || operator) || self.dice.random() {
                self.stack.kill_back().await;
                if kill <= STILLBORN {
                    let life = Duration::from_millis(self.dice.random_range(0..120));
                    self.stack.stillborn_back(life).await;
                }
                self.stack.up_back().await;
            }
            if operator {
                self.stack.up_operator().await;
            }
            if front {
                self.stack.up_front().await;
            }
        }
    }

    /// Plays the burst through while `disturb` goes on; gives every key that was ever shown.
    async fn play(&mut self, disturb: impl AsyncFnOnce(&mut Self)) -> BTreeMap<String, BTreeSet<String>> {
        eprintln!("seed {}", self.seed);
        let outside = self.stack.outside();
        let sender = outside.clone();
        let deliveries = stream::iter(std::mem::take(&mut self.deliveries));
        let deliver = tokio::spawn(deliveries.for_each_concurrent(16, move |body| {
            let sender = sender.clone();
            async move {
                sender.deliver(body).await;
            }
        }));
        let sessions: Vec<String> = self.orders.iter().map(|order| order.session.clone()).collect();
        let done = Arc::new(AtomicBool::new(false));
        let visit = tokio::spawn(visits(outside, sessions, done.clone()));
        disturb(self).await;
        deliver.await.expect("everything is delivered");
        self.settle().await;
        done.store(true, Ordering::Relaxed);
        visit.await.expect("everybody sees a key")
    }

    /// Waits until all is done, and the mails are out.
    async fn settle(&self) {
        let (seed, count) = (self.seed, self.orders.len());
        until(&format!("{count} grants to be ready and mailed (seed {seed})"), async || {
            let grants = self.stack.grants().await;
            let done = |grant: &&Value| grant["state"] == "READY" && grant["delivery"]["state"] == "SENT";
            (grants.iter().filter(done).count() == count).then_some(())
        })
        .await;
    }

    /// Every event that was answered is on record, and something is made of it.
    async fn assert_events(&self) {
        let seed = self.seed;
        let listed = until(&format!("all events to be handled (seed {seed})"), async || {
            let listed = self.stack.json(&["events", "list", "--limit", "100000"]).await;
            let listed = listed.as_array().cloned().unwrap_or_default();
            listed.iter().all(|event| event["state"] != "PENDING").then_some(listed)
        })
        .await;
        let names = listed.iter().filter_map(|event| event["name"].as_str().map(str::to_owned));
        assert_eq!(names.collect::<BTreeSet<_>>(), self.events, "seed {seed}");
        assert!(listed.iter().all(|event| event["state"] == "HANDLED"), "seed {seed}: {listed:?}");
    }

    /// One key each: in the mails, on the pages over time, and alive at AuthForge.
    async fn assert_deliveries(&self, mut shown: BTreeMap<String, BTreeSet<String>>) {
        let seed = self.seed;
        let live = self.stack.live();
        let mail = self.stack.mail.as_ref().expect("mail");
        let mut mailed: BTreeMap<String, BTreeSet<(String, String)>> = BTreeMap::new();
        for summary in mail.mails().await {
            let letter = mail.mail(summary["ID"].as_str().expect("an id")).await;
            let text = letter["Text"].as_str().expect("a text").to_owned();
            let id = letter["MessageID"].as_str().expect("an id").to_owned();
            for to in letter["To"].as_array().expect("addresses") {
                let to = to["Address"].as_str().expect("an address").to_owned();
                mailed.entry(to).or_default().insert((id.clone(), text.clone()));
            }
        }
        assert_eq!(mailed.len(), self.orders.len(), "seed {seed}: a mail to everybody and to nobody else");
        for Order { session, email } in &self.orders {
            let keys = shown.remove(session).unwrap_or_default();
            assert_eq!(keys.len(), 1, "seed {seed}: {session} was shown one key for ever: {keys:?}");
            let key = keys.first().expect("a key");
            assert!(live[session].contains(key), "seed {seed}: the key of {session} is alive");
            let letters = &mailed[email];
            assert_eq!(letters.len(), 1, "seed {seed}: one letter to {email}, repeated at most: {letters:?}");
            assert!(letters.iter().all(|(_, text)| text.contains(key)), "seed {seed}: {letters:?}");
        }
    }
}

/// Looks at every page now and then until all have shown a key and `done` says so; gives the keys that were shown.
async fn visits(
    outside: Outside,
    sessions: Vec<String>,
    done: Arc<AtomicBool>,
) -> BTreeMap<String, BTreeSet<String>> {
    let mut shown: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    // No more than 60 a minute for one session.
    let mut rounds = tokio::time::interval(Duration::from_millis(1_500));
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        rounds.tick().await;
        let last = done.load(Ordering::Relaxed);
        for session in &sessions {
            let (status, page) = outside.page(session).await;
            let licenses = page["licenses"].as_array().filter(|_| status == 200);
            let keys = licenses.into_iter().flatten().filter_map(|license| license["license_key"].as_str());
            shown.entry(session.clone()).or_default().extend(keys.map(str::to_owned));
        }
        if last {
            return shown;
        }
    }
}

async fn burst(shape: Shape, purchases: usize) {
    let mut burst = Burst::of(shape, purchases).await;
    burst.spoil(24);
    let shown = burst.play(async |burst| burst.kill_and_restart(shape).await).await;
    burst.stack.assert_promise();
    burst.assert_events().await;
    burst.assert_deliveries(shown).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_survives_kills_of_the_one_process() {
    burst(Shape::Standalone, 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_survives_kills_of_server_and_webhook() {
    burst(Shape::Split, 200).await;
}

/// Fewer, as each is several writes to a real cluster.
#[tokio::test(flavor = "multi_thread")]
async fn a_burst_survives_kills_of_server_webhook_and_operator() {
    burst(Shape::Cluster, 80).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_was_made_twice_is_delivered_once() {
    const TWICE: usize = 10;
    let mut burst = Burst::of(Shape::Standalone, 40).await;
    burst.stack.authforge.script(CallKind::Create, [Fault::Duplicated; TWICE]);
    let shown = burst.play(async |burst| burst.kill_and_restart(Shape::Standalone).await).await;
    burst.assert_events().await;
    burst.assert_deliveries(shown).await;
    // What is besides goes at the next look, which may be minutes away; here it only must not be more than was made.
    let live = burst.stack.live();
    let sold: BTreeSet<&String> = burst.orders.iter().map(|order| &order.session).collect();
    assert_eq!(live.keys().collect::<BTreeSet<_>>(), sold, "seed {}", burst.seed);
    let surplus = live.values().map(Vec::len).sum::<usize>() - sold.len();
    assert!(surplus <= TWICE, "seed {}: {surplus} keys besides", burst.seed);
}

async fn terminations(shape: Shape) {
    let mut burst = Burst::of(shape, 60).await;
    burst.spoil(6);
    let disturb = async |burst: &mut Burst| {
        for share in 1..=3 {
            burst.moment(share, 4).await;
            let begun = Instant::now();
            if shape == Shape::Split && share > 1 {
                assert_eq!(burst.stack.stop_front().await, Some(0));
            }
            assert_eq!(burst.stack.stop_back().await, Some(0));
            assert!(begun.elapsed() < Duration::from_secs(25), "seed {}: {:?}", burst.seed, begun.elapsed());
            burst.stack.up_back().await;
            if shape == Shape::Split && share > 1 {
                burst.stack.up_front().await;
            }
        }
    };
    let shown = burst.play(disturb).await;
    burst.stack.assert_promise();
    burst.assert_events().await;
    burst.assert_deliveries(shown).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_termination_of_the_one_process_loses_nothing() {
    terminations(Shape::Standalone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn terminations_of_server_and_webhook_lose_nothing() {
    terminations(Shape::Split).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_works_and_ends_though_nobody_reads_its_log() {
    let mut stack = Stack::plan(Shape::Standalone).start().await;
    stack.stop_reading_back().await;
    let bought = stack.buy(order()).await;
    assert_eq!(stack.keys(&bought.session).await.len(), 1);
    assert_eq!(stack.stop_back().await, Some(0));
    stack.up().await;
    assert_eq!(stack.keys(&bought.session).await, stack.live()[&bought.session]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_termination_waits_for_nobody_longer_than_25_seconds() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let smtp = format!("smtp://{}", silent.local_addr().expect("an address"));
    let flags = [FLAGS, &["--smtp-url", &smtp, "--mail-from", "keys@shop.example"]].concat();
    let mut stack = Stack::plan(Shape::Standalone).without_mail().flags(&flags).start().await;
    // A mail server that says nothing, an AuthForge that thinks for minutes, a Stripe that never ends its answer.
    let mut sessions = vec![stack.buy(order()).await.session];
    let connection = silent.accept().await.expect("a mail is being sent");
    stack.authforge.switch(|switches| switches.latency_ms = 120_000);
    sessions.push(stack.buy(order()).await.session);
    until("a create", async || (stack.authforge.counts().of(CallKind::Create) > 1).then_some(())).await;
    stack.stripe.always(Some(fake::Fault::Stall));
    let asked = stack.stripe.count(Route::Session);
    sessions.push(stack.buy(order()).await.session);
    until("a look", async || (stack.stripe.count(Route::Session) > asked).then_some(())).await;
    // And somebody who has sent half of a body.
    let mut dawdler = Raw::connect(stack.http()).await;
    let request = hook("t=1,v1=00", &[b' '; 100]);
    assert!(dawdler.send(request.get(..request.len() - 50).expect("half")).await);

    let begun = Instant::now();
    assert_eq!(stack.stop_back().await, Some(0));
    assert!(begun.elapsed() < Duration::from_secs(25), "ended after {:?}", begun.elapsed());

    drop(connection);
    stack.authforge.switch(|switches| switches.latency_ms = 0);
    stack.stripe.always(None);
    stack.up().await;
    for session in sessions {
        assert_eq!(stack.keys(&session).await, stack.live()[&session]);
    }
    stack.assert_promise();
}
