//! From a grant's declaration to its Secret.

use std::time::{Duration, Instant};

use grantsmith_authforge::SystemClock;
use grantsmith_authforge::fake::CallKind;
use grantsmith_core::port::Clock as _;
use grantsmith_tests::Cluster;
use grantsmith_tests::measure::{processor_seconds, short, table};
use grantsmith_tests::realm::manual;
use jiff::SignedDuration;
use serde_json::{Value, json};

use crate::{AUTHFORGE, Arrivals, histogram, percentile, slow_realm, stop};

/// Grants a second.
const RATES: [u32; 3] = [1, 10, 40];

/// What an operator that has just started cannot know: whether somebody else was there before it, and made the license. So for
/// ten minutes it looks before it creates.
const FIRST_LOOKS: SignedDuration = SignedDuration::from_mins(10);

/// A grant that was paid when an operator that is started now will have watched for long enough.
fn paid_later(reference: &str) -> Value {
    let mut spec = manual(reference);
    let paid_at = SystemClock.now().wall + FIRST_LOOKS + SignedDuration::from_mins(1);
    spec["purchase"]["paidAt"] = json!(paid_at.to_string());
    spec
}

pub(crate) async fn run(cluster: &Cluster, length: Duration) -> anyhow::Result<()> {
    println!("\n## From kubectl apply to the Secret\n");
    println!(
        "Open loop of {} s, AuthForge takes {} ms of it; from when each was due.",
        length.as_secs(),
        AUTHFORGE.as_millis()
    );
    println!(
        "In its first ten minutes an operator searches AuthForge before each create: two answers instead of one."
    );
    let mut rows = Vec::new();
    let both = [("watching", paid_later as fn(&str) -> Value), ("just started", manual)];
    for (state, spec, rate) in
        both.into_iter().flat_map(|(state, spec)| RATES.map(|rate| (state, spec, rate)))
    {
        eprintln!("  {state}, {rate} a second");
        let realm = slow_realm(cluster).await;
        let operator = realm.start(&realm.plan(&[])).await;
        operator.until_ready().await;
        let arrivals = Arrivals::watch(&realm).await?;
        // The first declaration opens connections, and the first create learns AuthForge's time.
        realm.issue("first").await;
        let before = processor_seconds(operator.pid());
        let count = u32::try_from(length.as_secs())? * rate;
        let begin = Instant::now();
        let due = |number: u32| begin + Duration::from_secs(1) * number / rate;
        let declare = |number: u32| {
            let realm = &realm;
            async move {
                tokio::time::sleep_until(due(number).into()).await;
                let name = format!("grant-{number}");
                realm.declare(&name, &spec(&name)).await;
            }
        };
        futures_util::future::join_all((0..count).map(declare)).await;
        let mut times = Vec::new();
        for number in 0..count {
            times.push(arrivals.of(&format!("grant-{number}")).await.duration_since(due(number)));
        }
        let spent = processor_seconds(operator.pid()) - before;
        let times = histogram(times);
        let counts = realm.authforge.counts();
        anyhow::ensure!(counts.of(CallKind::Create) == u64::from(count) + 1, "{counts:?}");
        rows.push(vec![
            state.to_owned(),
            rate.to_string(),
            percentile(&times, 50.0),
            percentile(&times, 99.0),
            percentile(&times, 100.0),
            short(spent * 1_000.0 / f64::from(count)),
            counts.too_many.to_string(),
        ]);
        stop(operator).await?;
    }
    print!("{}", table(&["", "grants/s", "p50 ms", "p99 ms", "longest ms", "CPU ms/grant", "429"], &rows));
    Ok(())
}
