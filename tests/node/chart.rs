//! The chart, installed: what a shop's owner does to it, and what must not come of it.

use std::time::{Duration, Instant};

use grantsmith_crd::LicenseGrant;
use grantsmith_tests::node::Node;
use grantsmith_tests::until;
use grantsmith_tests::wait::until_within;
use k8s_openapi::api::core::v1::{Event, PersistentVolumeClaim, Pod};
use kube::api::{Api, ListParams};
use serde_json::json;

use crate::shop::{self, LICENSES, PARTS, SHOP, helm, prepare, values};

pub(crate) async fn a_purchase_becomes_a_secret_a_mail_and_a_page(node: &'static Node) {
    let start = Instant::now();
    let shop = shop::shared(node).await;
    let installed = start.elapsed();
    let bought = shop.sell().await;
    let key = shop.shown_key(&bought.session).await;
    eprintln!(
        "helm install --wait took {installed:.1?}; the first key was shown after {:.1?}",
        start.elapsed()
    );
    shop.assert_promise().await;
    assert!(shop.kept_keys().await.contains(&key), "the page shows the Secret's key");
    let mails = shop.mail.mails().await;
    let mail = mails.last().and_then(|mail| mail["ID"].as_str()).expect("a mail");
    let text = shop.mail.mail(mail).await["Text"].as_str().unwrap_or_default().to_owned();
    assert!(text.contains(&key), "the mail tells the key: {text}");
}

pub(crate) async fn an_upgrade_amid_purchases_loses_and_doubles_none(node: &'static Node) {
    let shop = shop::shared(node).await;
    let pods: Api<Pod> = Api::namespaced(node.client().await, SHOP);
    let names = async || -> Vec<String> {
        let pods = pods.list(&ListParams::default()).await.expect("pods").items;
        pods.into_iter().filter_map(|pod| pod.metadata.name).collect()
    };
    let before = names().await;
    node.tag("next").await;
    let next = json!({"image": {"tag": "next"}, "operator": {"image": {"tag": "next"}}});
    shop.burst(100, shop.upgrade(&next)).await;
    // Those that were there may still be about to end.
    until_within(Duration::from_secs(90), "the pods of before to be gone", async || {
        names().await.iter().all(|name| !before.contains(name)).then_some(())
    })
    .await;
    shop.assert_promise().await;
}

pub(crate) async fn killed_pods_amid_purchases_lose_and_double_none(node: &'static Node) {
    let shop = shop::shared(node).await;
    shop.burst(100, async {
        for part in PARTS {
            let selector = format!("app.kubernetes.io/component={part}");
            shop.kubectl(&["delete", "pod", "--selector", &selector, "--wait=false"]).await;
            shop.until_rolled_out().await;
        }
        // Those were asked to end; these are not.
        let selector = format!("app.kubernetes.io/instance={SHOP}");
        shop.kubectl(&["delete", "pod", "--selector", &selector, "--force", "--grace-period=0"]).await;
        shop.until_rolled_out().await;
    })
    .await;
    shop.assert_promise().await;
}

pub(crate) async fn a_drained_node_amid_purchases_loses_and_doubles_none(node: &'static Node) {
    let shop = shop::shared(node).await;
    shop.burst(100, async {
        // Deleted, not evicted: on the only node a disruption budget would wait for pods that cannot come.
        let selector = format!("--pod-selector=app.kubernetes.io/instance={SHOP}");
        let drain =
            ["drain", "node", "--disable-eviction", "--delete-emptydir-data", "--timeout=120s", &selector];
        shop.kubectl(&drain).await;
        shop.kubectl(&["uncordon", "node"]).await;
        shop.until_rolled_out().await;
    })
    .await;
    shop.assert_promise().await;
}

pub(crate) async fn a_missing_secret_is_told_by_the_pods_event(node: &'static Node) {
    // The shop brings the definition.
    let shop = shop::shared(node).await;
    let release = "forgetful";
    prepare(node, release, shop.authority()).await;
    let forgetful = values(&json!({
        "crds": {"enabled": false},
        "authforge": {"apiKeySecret": {"name": "forgotten"}},
    }));
    let output = helm(node, "install", release, &forgetful, &["--timeout=20s"]).await;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "helm waits in vain");
    assert!(text.contains(&format!("{release}-grantsmith-operator")), "helm tells what is not ready: {text}");
    let events: Api<Event> = Api::namespaced(node.client().await, release);
    let event = until("an event that tells why", async || {
        let events = events.list(&ListParams::default()).await.ok()?.items;
        events.into_iter().find(|event| event.reason.as_deref() == Some("FailedMount"))
    })
    .await;
    assert_eq!(event.involved_object.kind.as_deref(), Some("Pod"));
    let message = event.message.unwrap_or_default();
    assert!(message.contains(r#"secret "forgotten" not found"#), "{message}");
    let mut uninstall = node.helm();
    grantsmith_tests::node::good(uninstall.args(["uninstall", release, "--namespace", release, "--wait"]))
        .await;
}

pub(crate) async fn what_was_sold_outlives_the_release(node: &'static Node) {
    let shop = shop::shared(node).await;
    let bought = shop.sell().await;
    let key = shop.shown_key(&bought.session).await;
    shop.assert_promise().await;
    let (keys, mails) = (shop.kept_keys().await, shop.mails().await);
    let client = node.client().await;
    let grants: Api<LicenseGrant> = Api::namespaced(client.clone(), LICENSES);
    let versions = async || -> Vec<_> {
        let grants = grants.list(&ListParams::default()).await.expect("grants").items;
        grants.into_iter().map(|grant| (grant.metadata.uid, grant.spec)).collect()
    };
    let declared = versions().await;

    shop.uninstall().await;
    assert!(versions().await == declared, "the grants are as they were");
    assert_eq!(shop.kept_keys().await, keys, "and so are the keys");
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client, SHOP);
    let claims = claims.list(&ListParams::default()).await.expect("claims").items;
    assert_eq!(claims.len(), 1, "and the record's claim");
    assert!(shop.record().exists(), "and the record");

    let calls = shop.authforge.counts();
    shop.install().await;
    assert_eq!(shop.shown_key(&bought.session).await, key, "the buyer sees the same key");
    let again = shop.sell().await;
    shop.shown_key(&again.session).await;
    shop.assert_promise().await;
    let now = shop.authforge.counts();
    let creates =
        |counts: &grantsmith_authforge::fake::Counts| counts.of(grantsmith_authforge::fake::CallKind::Create);
    assert_eq!(creates(&now), creates(&calls) + 1, "only the new purchase makes a license");
    let grown = shop.mails().await;
    assert_eq!(grown.len(), mails.len() + 1, "and only its buyer is written to");
}
