//! From a purchase to its Secret and its mail, through the pods that the chart starts: `make bench ARGS=pods`.
//!
//! The images are those of a release, the node is the tests' own, and so are Stripe, AuthForge and the mailbox around it.
//! Everything shares one machine. Nothing here fails for being slow: whoever reads the table decides.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::expect_used,
    reason = "a benchmark prints, and may give up"
)]

#[path = "../../node/shop.rs"]
#[expect(dead_code, reason = "the tests need more of it")]
mod shop;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::bail;
use futures_util::{StreamExt as _, TryStreamExt as _};
use grantsmith_authforge::SystemClock;
use grantsmith_authforge::fake::RateLimit;
use grantsmith_core::port::Clock as _;
use grantsmith_core::{GrantId, PurchaseId};
use grantsmith_service::stripe::Mode;
use grantsmith_service::stripe::fake::{Bought, Rendering, World};
use grantsmith_tests::measure::{histogram, milliseconds, percentile, short, table};
use grantsmith_tests::node::{self, ADDRESS, Node};
use grantsmith_tests::stack::order;
use grantsmith_tests::wait::until_within;
use grantsmith_tests::{AUTHFORGE_KEY, Outside, Program, STRIPE_KEY, WEBHOOK_SECRET};
use hdrhistogram::Histogram;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, WatchEvent, WatchParams};
use serde_json::Value;

use crate::shop::{LICENSES, PARTS, SHOP, Shop};

/// Purchases a second, and for how long.
const RATE: u32 = 20;
const LENGTH: Duration = Duration::from_secs(30);
const QUICK: Duration = Duration::from_secs(5);

/// How long AuthForge takes for an answer.
const AUTHFORGE: Duration = Duration::from_millis(200);

/// Nothing here takes longer, also on a machine that does something else besides.
const PATIENCE: Duration = Duration::from_secs(300);

fn main() -> anyhow::Result<()> {
    let mut length = LENGTH;
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--quick" => length = QUICK,
            // From cargo.
            "--bench" => {}
            other => bail!("'{other}' is unknown; there is --quick"),
        }
    }
    if let Some(reason) = node::unable() {
        bail!("there can be no node here: {reason}");
    }
    let node: &'static Node = Box::leak(Box::new(Node::start()));
    node.run(|| measure(node, length));
    node.end();
    Ok(())
}

async fn measure(node: &'static Node, length: Duration) {
    let begun = Instant::now();
    let shop = shop::shared(node).await;
    println!(
        "grantsmith {}: the chart's pods (2 webhooks, 1 server, 2 operators) were ready {:.1} s after `helm install`; {} \
         processors, shared by pods, cluster, load, Stripe, AuthForge and mailbox",
        env!("CARGO_PKG_VERSION"),
        begun.elapsed().as_secs_f64(),
        std::thread::available_parallelism().map_or(0, usize::from),
    );
    shop.authforge.switch(|switches| {
        switches.latency_ms = u64::try_from(AUTHFORGE.as_millis()).unwrap_or_default();
        switches.rate_limit = Some(RateLimit::DOCUMENTED);
    });
    eprintln!("  at rest, then four times {} s of events", length.as_secs());
    // The first purchase opens connections everywhere.
    let first = shop.sell().await;
    shop.shown_key(&first.session).await;

    let rest = Usage::over(node, length.min(Duration::from_secs(20))).await;
    let outside = shop.outside().await;
    let kept = acknowledged(&sell(&outside, shop, Told::OnlyCharge, length).await);
    let arrivals = Arrivals::watch(node).await;
    let before = Usage::now(node).await;
    let sold = sell(&outside, shop, Told::Everything, length).await;
    let mut keys = Vec::new();
    for sale in &sold {
        keys.push(arrivals.of(&sale.grant).await.duration_since(sale.due));
    }
    let mails = mails(shop, &sold).await;
    let load = Usage::now(node).await.since(&before);
    shop.assert_promise().await;

    println!(
        "\n## {RATE} purchases a second for {} s, AuthForge at {} ms, from when each was due\n",
        length.as_secs(),
        AUTHFORGE.as_millis()
    );
    let [kept_alone, sold_alone] = alone(node, shop, length).await;
    let row = |what: &str, times: &Histogram<u64>| {
        vec![what.to_owned(), percentile(times, 50.0), percentile(times, 99.0), percentile(times, 100.0)]
    };
    let rows = [
        row("an event acknowledged by a webhook, over gRPC", &acknowledged(&sold)),
        row("the same by one process on the node", &sold_alone),
        row("an event that only has to be kept, over gRPC", &kept),
        row("the same by one process on the node", &kept_alone),
        row("purchase to Secret", &histogram(keys)),
        row("purchase to mail", &histogram(mails)),
    ];
    print!("{}", table(&["", "p50 ms", "p99 ms", "longest ms"], &rows));
    let hop = |percent: f64| milliseconds(&kept, percent) - milliseconds(&kept_alone, percent);
    println!(
        "\nThe hop adds {} ms at p50, {} ms at p99, where nothing else is done: one process has the processors for itself.",
        short(hop(50.0)),
        short(hop(99.0))
    );
    println!("429 of AuthForge: {}.", shop.authforge.counts().too_many);

    println!("\n## Pods: memory in use, and processor time, at rest and while buyers come\n");
    let mut rows = Vec::new();
    for (pod, [rest, load]) in rest.beside(&load) {
        let cell = |used: Option<Used>, of: fn(Used) -> f64| {
            used.map_or_else(|| "-".to_owned(), |used| short(of(used)))
        };
        rows.push(vec![
            pod,
            cell(rest, |used| used.mebibytes),
            cell(rest, |used| used.millicores),
            cell(load, |used| used.mebibytes),
            cell(load, |used| used.millicores),
        ]);
    }
    print!("{}", table(&["", "MiB", "mCPU", "MiB", "mCPU"], &rows));
    println!("\nTook {:.0} s.", begun.elapsed().as_secs_f64());
}

/// One purchase that was made.
struct Sale {
    due: Instant,
    due_at: Timestamp,
    buyer: String,
    grant: String,
    acknowledged: Vec<Duration>,
}

/// What comes of a purchase.
#[derive(Debug, Clone, Copy)]
enum Told {
    /// All its events.
    Everything,
    /// The charge alone, of a world whose sessions nobody knows.
    OnlyCharge,
}

/// Buyers come in an open loop, and Stripe tells each event as it happens.
async fn sell(outside: &Outside, shop: &'static Shop, told: Told, length: Duration) -> Vec<Sale> {
    let count = u32::try_from(length.as_secs()).expect("not ages") * RATE;
    let elsewhere = World::new(Mode::Test, rand::random());
    let (world, most) = match told {
        Told::Everything => (&*shop.world, usize::MAX),
        Told::OnlyCharge => (&elsewhere, 1),
    };
    let (begin, begin_at) = (Instant::now(), SystemClock.now().wall);
    let sales = (0..count).map(|number| async move {
        let after = Duration::from_secs(1) * number / RATE;
        tokio::time::sleep_until((begin + after).into()).await;
        let buyer = format!("load{number}.{}@example.com", begin_at.as_millisecond());
        let Bought { session, events, .. } = world.buy(order().by(&buyer), SystemClock.now().wall);
        let posts = events.iter().take(most).map(|event| async move {
            let start = Instant::now();
            outside.deliver(event.body(Rendering::Endive)).await;
            start.elapsed()
        });
        let acknowledged = futures_util::future::join_all(posts).await;
        let purchase: PurchaseId = PurchaseId::parse(&session).expect("a session");
        let grant = GrantId::of(&purchase).to_string();
        Sale { due: begin + after, due_at: begin_at + after, buyer, grant, acknowledged }
    });
    futures_util::future::join_all(sales).await
}

/// How long the acknowledgements took.
fn acknowledged(sold: &[Sale]) -> Histogram<u64> {
    histogram(sold.iter().flat_map(|sale| sale.acknowledged.iter().copied()))
}

/// How long each buyer waited for the mail.
async fn mails(shop: &Shop, sold: &[Sale]) -> Vec<Duration> {
    let taken = until_within(PATIENCE, "all mails", async || {
        let mut taken: BTreeMap<String, Timestamp> = BTreeMap::new();
        for mail in shop.mail.mails().await {
            let (address, at) = (mail["To"][0]["Address"].as_str()?, mail["Created"].as_str()?);
            taken.insert(address.to_owned(), at.parse().ok()?);
        }
        sold.iter().all(|sale| taken.contains_key(&sale.buyer)).then_some(taken)
    })
    .await;
    let wait = |sale: &Sale| taken[&sale.buyer].duration_since(sale.due_at).unsigned_abs();
    sold.iter().map(wait).collect()
}

/// How long the acknowledgement takes where webhook and record are one process: the image's own program, on the node.
async fn alone(node: &Node, shop: &'static Shop, length: Duration) -> [Histogram<u64>; 2] {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("a file");
    file("webhook-secrets", WEBHOOK_SECRET);
    file("stripe-key", STRIPE_KEY);
    file("authforge-key", AUTHFORGE_KEY);
    file("ca.crt", &shop.authority().pem());
    let [stripe, authforge] = shop.urls();
    let listen = format!("{ADDRESS}:0");
    let binary = std::env::var_os("GRANTSMITH_STANDALONE").expect("GRANTSMITH_STANDALONE, from the Makefile");
    let mut command = tokio::process::Command::new("nsenter");
    command.args(&node.before_command()[1..]).arg(binary);
    command.args(["standalone", "--log-format", "text", "--stripe-mode", "test"]);
    for (flag, value) in [
        ("--http-listen", listen.as_str()),
        ("--grpc-listen", "127.0.0.1:0"),
        ("--admin-listen", "127.0.0.1:0"),
        ("--stripe-url", &stripe),
        ("--stripe-api-key-file", "stripe-key"),
        ("--stripe-webhook-secrets-file", "webhook-secrets"),
        ("--authforge-url", &authforge),
        ("--authforge-api-key-file", "authforge-key"),
        ("--ca-file", "ca.crt"),
    ] {
        command.args([flag, value]);
    }
    let program = Program::of(command, &[], folder.path());
    let http = program.address("http").await;
    let outside = shop.outside_at(format!("http://{http}"));
    let kept = acknowledged(&sell(&outside, shop, Told::OnlyCharge, length).await);
    let sold = acknowledged(&sell(&outside, shop, Told::Everything, length).await);
    program.kill().await;
    [kept, sold]
}

/// When the Secret of each grant appeared.
struct Arrivals(Arc<Mutex<HashMap<String, Instant>>>);

impl Arrivals {
    async fn watch(node: &Node) -> Self {
        let secrets: Api<Secret> = Api::namespaced(node.client().await, LICENSES);
        let seen = Arc::new(Mutex::new(HashMap::new()));
        let watched = Arc::clone(&seen);
        let mut events = secrets.watch(&WatchParams::default(), "0").await.expect("a watch").boxed();
        tokio::spawn(async move {
            while let Ok(Some(event)) = events.try_next().await {
                let WatchEvent::Added(secret) = event else { continue };
                let name = secret.metadata.name.unwrap_or_default();
                let grant = name.strip_suffix("-license").unwrap_or_default().to_owned();
                watched
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .entry(grant)
                    .or_insert_with(Instant::now);
            }
        });
        Self(seen)
    }

    async fn of(&self, grant: &str) -> Instant {
        let seen = || self.0.lock().unwrap_or_else(PoisonError::into_inner).get(grant).copied();
        until_within(PATIENCE, &format!("the key of {grant}"), async || seen()).await
    }
}

/// What one pod uses.
#[derive(Debug, Clone, Copy)]
struct Used {
    mebibytes: f64,
    millicores: f64,
}

/// What the pods have used so far, as the kubelet tells: memory, and processor time.
struct Usage {
    at: Instant,
    pods: BTreeMap<String, (f64, f64)>,
}

/// The same over a time.
struct Over(BTreeMap<String, Used>);

impl Usage {
    async fn now(node: &Node) -> Self {
        let name = node.run_kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]).await;
        let path = format!("/api/v1/nodes/{name}/proxy/stats/summary");
        let told: Value =
            serde_json::from_str(&node.run_kubectl(&["get", "--raw", &path]).await).expect("JSON");
        let at = Instant::now();
        let mut pods = BTreeMap::new();
        for pod in
            told["pods"].as_array().into_iter().flatten().filter(|pod| pod["podRef"]["namespace"] == SHOP)
        {
            let bytes = pod["memory"]["workingSetBytes"].as_f64().unwrap_or_default();
            let nanoseconds = pod["cpu"]["usageCoreNanoSeconds"].as_f64().unwrap_or_default();
            pods.insert(pod["podRef"]["name"].as_str().unwrap_or_default().to_owned(), (bytes, nanoseconds));
        }
        Self { at, pods }
    }

    fn since(&self, before: &Self) -> Over {
        let seconds = self.at.duration_since(before.at).as_secs_f64();
        let used = |(name, (bytes, nanoseconds)): (&String, &(f64, f64))| {
            let (_, earlier) = before.pods.get(name)?;
            let millicores = (nanoseconds - earlier) / 1e6 / seconds;
            Some((name.clone(), Used { mebibytes: bytes / 1024.0 / 1024.0, millicores }))
        };
        Over(self.pods.iter().filter_map(used).collect())
    }

    async fn over(node: &Node, time: Duration) -> Over {
        let before = Self::now(node).await;
        tokio::time::sleep(time).await;
        Self::now(node).await.since(&before)
    }
}

impl Over {
    /// Both for each pod, named by its part.
    fn beside(&self, other: &Self) -> Vec<(String, [Option<Used>; 2])> {
        let mut rows = Vec::new();
        for part in PARTS {
            let of_part = |name: &&String| name.contains(&format!("-{part}-"));
            for (number, name) in (1..).zip(other.0.keys().filter(of_part)) {
                let both = [self.0.get(name).copied(), other.0.get(name).copied()];
                rows.push((format!("{part} {number}"), both));
            }
        }
        rows
    }
}
