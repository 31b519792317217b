//! Ten thousand grants that nobody touches.

use std::time::{Duration, Instant};

use grantsmith_authforge::fake::{Counts, NewLicense};
use grantsmith_tests::measure::{percent, processor_seconds, resident, short, table};
use grantsmith_tests::realm::{Operator, Realm};
use grantsmith_tests::{APP, Cluster};
use serde_json::json;

use crate::{Arrivals, declare, stop};

/// How long it is looked at.
const LOOKED_AT: Duration = Duration::from_secs(20);

async fn ready(realm: &Realm<'_>) -> (Operator, Duration) {
    let begun = Instant::now();
    let operator = realm.start(&realm.plan(&["--authforge-rate", "2000", "--authforge-burst", "2000"])).await;
    operator.until_ready().await;
    let took = begun.elapsed();
    realm.beats(3).await;
    (operator, took)
}

pub(crate) async fn run(cluster: &Cluster, count: usize) -> anyhow::Result<()> {
    println!("\n## {count} grants at rest\n");
    let realm = Realm::new(cluster).await;
    let (operator, _) = ready(&realm).await;
    let idle = resident(operator.pid());
    stop(operator).await?;

    // Adopted rather than made: what is made is looked after once more some minutes later, which is no rest.
    eprintln!("  declaring {count}");
    let names: Vec<_> = (0..count).map(|number| format!("grant-{number}")).collect();
    for name in &names {
        realm.authforge.insert(NewLicense::labeled(APP, format!("Grant default/{name}")));
    }
    let spec = |name: &String| json!({"purchase": {"provider": "manual", "reference": name}, "licenses": [{"name": "main", "appId": APP}]});
    declare(&realm, names.iter().map(|name| (name.clone(), spec(name)))).await;
    eprintln!("  adopting");
    let arrivals = Arrivals::watch(&realm).await?;
    let (operator, _) = ready(&realm).await;
    arrivals.until("grant-", count).await;
    for name in &names {
        realm.until_settled(name).await;
    }
    let worked = resident(operator.pid());
    stop(operator).await?;

    eprintln!("  resting");
    realm.authforge.reset_counts();
    let asked = realm.audited().len();
    let (operator, took) = ready(&realm).await;
    let rested = resident(operator.pid());
    let before = processor_seconds(operator.pid());
    tokio::time::sleep(LOOKED_AT).await;
    let spent = (processor_seconds(operator.pid()) - before) / LOOKED_AT.as_secs_f64();
    let counts = realm.authforge.counts();
    let later = realm.audited().split_off(asked);
    let writes = later.iter().filter(|request| request.writes() && !request.concerns("leases")).count();
    stop(operator).await?;
    let calls: u64 = counts.calls.values().sum();
    anyhow::ensure!(calls > 0 || counts == Counts::default(), "{counts:?}");
    let each = |memory: f64| (memory - idle) * 1_024.0 / f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    let rows = vec![vec![
        short(idle),
        short(rested),
        short(each(rested)),
        short(each(worked)),
        percent(spent),
        short(took.as_secs_f64()),
        calls.to_string(),
        writes.to_string(),
    ]];
    let head = ["idle MiB", "MiB", "KiB/grant", "after work", "CPU at rest", "restart s", "calls", "writes"];
    print!("{}", table(&head, &rows));
    Ok(())
}
