//! What has piled up while the operator was away, and an audit of it all, with people coming meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use grantsmith_authforge::fake::{CallKind, RateLimit};
use grantsmith_tests::measure::{percent, short, table};
use grantsmith_tests::realm::{Realm, manual};
use grantsmith_tests::{APP, Cluster};
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::{Arrivals, declare, histogram, percentile, slow_realm, stop};

/// How often somebody new comes meanwhile.
const COMES_EVERY: Duration = Duration::from_millis(500);
/// How long the audits are watched.
const AUDITED: Duration = Duration::from_secs(20);

/// What the names of the backlog begin with.
const BACKLOG: &str = "grant-";

/// A grant that was paid long ago.
fn old(reference: &str) -> Value {
    json!({
        "purchase": {"provider": "manual", "reference": reference, "paidAt": "2026-01-01T00:00:00Z"},
        "licenses": [{"name": "main", "appId": APP}],
    })
}

pub(crate) async fn run(cluster: &Cluster, count: usize) -> anyhow::Result<()> {
    println!("\n## A backlog of {count} grants, and somebody new every {} ms\n", COMES_EVERY.as_millis());
    let realm = slow_realm(cluster).await;
    let arrivals = Arrivals::watch(&realm).await?;
    eprintln!("  declaring {count}");
    let names = (0..count).map(|number| format!("{BACKLOG}{number}"));
    declare(&realm, names.map(|name| (name.clone(), old(&name)))).await;
    eprintln!("  working");
    let operator = realm.start(&realm.plan(&[])).await;
    let done = AtomicBool::new(false);
    let backlog = async {
        arrivals.until(BACKLOG, 1).await;
        let first = Instant::now();
        arrivals.until(BACKLOG, count).await;
        done.store(true, Ordering::Relaxed);
        (first.elapsed(), realm.authforge.counts())
    };
    let ((took, counts), comers) = tokio::join!(backlog, come(&realm, &arrivals, "comer", &done));
    let creates = f64::from(u32::try_from(
        counts.of(CallKind::Create).saturating_sub(u64::from(RateLimit::DOCUMENTED.burst)),
    )?);
    let rate = creates / took.as_secs_f64();
    let rows = vec![vec![
        short(took.as_secs_f64()),
        short(rate),
        percent(rate / f64::from(RateLimit::DOCUMENTED.per_second)),
        counts.of(CallKind::List).to_string(),
        counts.too_many.to_string(),
        comers.len().to_string(),
        percentile(&comers, 50.0),
        percentile(&comers, 99.0),
    ]];
    let head =
        ["seconds", "creates/s", "of the limit", "pages listed", "429", "new", "their p50 ms", "p99 ms"];
    print!("{}", table(&head, &rows));
    println!("    (the burst of {} that the limit allows at first is left out)", RateLimit::DOCUMENTED.burst);
    stop(operator).await?;

    println!(
        "\n## Audits of these, one after the other, and somebody new every {} ms\n",
        COMES_EVERY.as_millis()
    );
    let operator = realm.start(&realm.plan(&["--drift-interval", "1s"])).await;
    operator.until_ready().await;
    realm.authforge.reset_counts();
    let done = AtomicBool::new(false);
    let watch = async {
        tokio::time::sleep(AUDITED).await;
        done.store(true, Ordering::Relaxed);
        realm.authforge.counts()
    };
    let (counts, comers) = tokio::join!(watch, come(&realm, &arrivals, "late", &done));
    let rows = vec![vec![
        counts.of(CallKind::List).to_string(),
        counts.too_many.to_string(),
        comers.len().to_string(),
        percentile(&comers, 50.0),
        percentile(&comers, 99.0),
    ]];
    print!("{}", table(&["pages listed", "429", "new", "their p50 ms", "p99 ms"], &rows));
    stop(operator).await
}

/// Somebody buys every now and then, until it is done; how long each waited for the key.
async fn come(realm: &Realm<'_>, arrivals: &Arrivals, who: &str, done: &AtomicBool) -> Histogram<u64> {
    let mut ticks = tokio::time::interval(COMES_EVERY);
    let (mut came, mut waits, mut waiting) = (0, Vec::new(), FuturesUnordered::new());
    loop {
        tokio::select! {
            due = ticks.tick(), if !done.load(Ordering::Relaxed) => {
                let name = format!("{who}-{came}");
                came += 1;
                waiting.push(async move {
                    realm.declare(&name, &manual(&name)).await;
                    arrivals.of(&name).await.duration_since(due.into_std())
                });
            }
            Some(wait) = waiting.next() => waits.push(wait),
            else => return histogram(waits),
        }
    }
}
