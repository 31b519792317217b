//! Nothing has changed, and nothing is done.

use futures_util::StreamExt as _;
use grantsmith_authforge::fake::Counts;
use grantsmith_tests::Cluster;
use grantsmith_tests::realm::{Realm, manual};

const GRANTS: usize = 1_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_with_a_thousand_unchanged_grants_calls_nobody_and_writes_its_lease_alone() {
    let cluster = Cluster::start().await;
    cluster.define_grants().await;
    let realm = Realm::new(&cluster).await;
    let plan = realm.plan(&["--authforge-rate", "2000", "--authforge-burst", "2000"]);
    let operator = realm.start(&plan).await;
    let declare = |number| {
        let (realm, name) = (&realm, format!("grant-{number}"));
        async move { realm.declare(&name, &manual(&name)).await }
    };
    futures_util::stream::iter((0..GRANTS).map(declare)).buffer_unordered(16).collect::<Vec<_>>().await;
    for number in 0..GRANTS {
        realm.until_settled(&format!("grant-{number}")).await;
    }
    let (code, log) = operator.stop().await;
    assert_eq!(code, Some(0), "{log}");

    let asked = realm.audited().len();
    realm.authforge.reset_counts();
    let operator = realm.start(&plan).await;
    operator.until_ready().await;
    // The lease is its pulse: after some beats it has long looked at everything.
    realm.beats(4).await;
    let later = realm.audited().split_off(asked);
    assert!(!later.is_empty(), "it has read");
    let written: Vec<_> = later.iter().filter(|request| request.writes()).collect();
    let (lease, others): (Vec<_>, Vec<_>) =
        written.into_iter().partition(|request| request.concerns("leases"));
    assert!(!lease.is_empty(), "it leads");
    assert!(others.is_empty(), "{} writes: {:#?}", others.len(), &others[..others.len().min(5)]);
    assert_eq!(realm.authforge.counts(), Counts::default());

    realm.issue("another").await;
}
