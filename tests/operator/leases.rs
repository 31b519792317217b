//! Two replicas, of which one works.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use grantsmith_authforge::fake::CallKind;
use grantsmith_tests::cluster::config;
use grantsmith_tests::program::freeze;
use grantsmith_tests::proxy::{Fate, Passing, Proxy};
use grantsmith_tests::realm::{Realm, manual};
use grantsmith_tests::{Cluster, until};
use tokio::time::Instant;

/// How long work may rest after a leader's sudden end.
const TAKEOVER: Duration = Duration::from_secs(15);

async fn leader(realm: &Realm<'_>) -> Option<String> {
    realm.lease().await?.holder_identity.filter(|holder| !holder.is_empty())
}

/// Waits until somebody else leads; gives who.
async fn next_leader(realm: &Realm<'_>, before: Option<&str>) -> String {
    until(&format!("a leader after {before:?}"), async || {
        leader(realm).await.filter(|leader| Some(leader.as_str()) != before)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_is_replaced_within_15_seconds() {
    let realm = Realm::new(Cluster::shared().await).await;
    let first = realm.start(&realm.plan(&[])).await;
    let leader = next_leader(&realm, None).await;
    let _second = realm.start(&realm.plan(&[])).await;
    realm.issue("before").await;
    first.kill().await;
    let killed = Instant::now();
    realm.declare("after", &manual("after")).await;
    next_leader(&realm, Some(&leader)).await;
    assert!(killed.elapsed() <= TAKEOVER, "{:?}", killed.elapsed());
    realm.until_key("after").await;
    assert_eq!(realm.created(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_asked_to_end_hands_over_at_once() {
    let realm = Realm::new(Cluster::shared().await).await;
    let first = realm.start(&realm.plan(&[])).await;
    let leader = next_leader(&realm, None).await;
    let _second = realm.start(&realm.plan(&[])).await;
    realm.issue("before").await;
    let asked = Instant::now();
    let (code, log) = first.stop().await;
    assert_eq!(code, Some(0), "{log}");
    next_leader(&realm, Some(&leader)).await;
    realm.issue("after").await;
    assert!(asked.elapsed() < Duration::from_secs(8), "{:?}", asked.elapsed());
}

/// The leader stops between writing its attempt down and sending it, for longer than its lease and the quarantine.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_sleeps_past_its_lease_wakes_up_and_sends_nothing() {
    let realm = Realm::new(Cluster::shared().await).await;
    let pid = Arc::new(AtomicU32::new(0));
    let judge = {
        let pid = Arc::clone(&pid);
        move |passing: Passing<'_>| {
            let status = passing.uri.path().ends_with("/licensegrants/jane/status");
            let attempt = status && String::from_utf8_lossy(passing.body).contains("Open");
            let sleeper = if attempt { pid.swap(0, Ordering::SeqCst) } else { 0 };
            if sleeper == 0 {
                return Fate::Pass;
            }
            Fate::Then(Box::new(move || {
                freeze(sleeper);
                true
            }))
        }
    };
    let proxy = Proxy::start(config(&realm.cluster.kubeconfig()).await, judge).await;
    let mut plan = realm.plan(&["--lost-create-quarantine", "2s"]);
    let behind = plan.clone();
    plan.api = proxy.url();
    let first = realm.start(&plan).await;
    let leader = next_leader(&realm, None).await;
    pid.store(first.pid(), Ordering::SeqCst);
    let _second = realm.start(&behind).await;
    realm.declare("jane", &manual("jane")).await;
    next_leader(&realm, Some(&leader)).await;
    let key = realm.until_key("jane").await;
    first.thaw();
    // It works again, as far as it may: it tries for the lease, and knows of what comes after.
    until("the sleeper to look around", async || (first.readiness().await.0 > 0).then_some(())).await;
    realm.issue("after").await;
    assert_eq!(realm.authforge.counts().of(CallKind::Create), 2, "{:?}", realm.authforge.history());
    assert_eq!(realm.live("jane"), [key]);
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_a_minute_apart_make_nobody_leader_too_early_or_too_late() {
    let realm = Realm::new(Cluster::shared().await).await;
    let mut running = realm.start(&realm.plan(&[])).await;
    let mut leader = next_leader(&realm, None).await;
    for ahead in [60, -60, 45] {
        let mut plan = realm.plan(&[]);
        plan.ahead = ahead;
        let next = realm.start(&plan).await;
        for _ in 0..4 {
            realm.beats(1).await;
            assert_eq!(self::leader(&realm).await.as_ref(), Some(&leader), "{ahead} s");
        }
        running.kill().await;
        let killed = Instant::now();
        leader = next_leader(&realm, Some(&leader)).await;
        assert!(killed.elapsed() <= TAKEOVER, "{ahead} s: {:?}", killed.elapsed());
        let grant = format!("at{}", ahead + 100);
        let key = realm.issue(&grant).await;
        assert_eq!(realm.live(&grant), [key]);
        running = next;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_that_both_believe_to_lead_make_one_key_for_each_grant() {
    let realm = Realm::new(Cluster::shared().await).await;
    let flags = ["--lost-create-quarantine", "2s"];
    let (_one, _other) = tokio::join!(realm.operator(&flags), realm.operator(&flags));
    let names: Vec<_> = (0..20).map(|number| format!("grant-{number}")).collect();
    for name in &names {
        realm.declare(name, &manual(name)).await;
    }
    for name in &names {
        let key = realm.until_key(name).await;
        assert_eq!(realm.live(name), [key]);
    }
    assert_eq!(realm.created(), names.len());
}
