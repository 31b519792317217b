//! What becomes of keys when grants go, and of grants that come again.

use grantsmith_crd::LicenseGrant;
use grantsmith_tests::realm::{Realm, condition, manual};
use grantsmith_tests::{APP, Cluster, until};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams};
use serde_json::{Value, json};

async fn until_gone(realm: &Realm<'_>, name: &str) {
    let grants = realm.grants();
    until(&format!("{name} to go"), async || grants.get_opt(name).await.ok()?.is_none().then_some(())).await;
}

/// A manual grant that does not say when it was paid.
fn undated(reference: &str) -> Value {
    json!({
        "purchase": {"provider": "manual", "reference": reference},
        "licenses": [{"name": "main", "appId": APP}],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_grant_leaves_its_key_and_says_so() {
    let realm = Realm::new(Cluster::shared().await).await;
    let _operator = realm.operator(&[]).await;
    let key = realm.issue("jane").await;
    realm.delete("jane").await;
    until_gone(&realm, "jane").await;
    let notes =
        ["get", "events", "--namespace", &realm.namespace, "--output", "jsonpath={.items[*].message}"];
    until("the event", async || {
        realm.cluster.run(&notes).await.contains("its keys at AuthForge stay as they are").then_some(())
    })
    .await;
    assert_eq!(realm.live("jane"), [key]);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_revoked_before_their_grant_goes_if_it_says_so() {
    let realm = Realm::new(Cluster::shared().await).await;
    let _operator = realm.operator(&["--revocation-budget", "0/h"]).await;
    let mut spec = manual("jane");
    spec["deletionPolicy"] = json!("Revoke");
    realm.declare("jane", &spec).await;
    realm.until_key("jane").await;
    // The Secret may well go first.
    realm.secrets().delete("jane-license", &DeleteParams::default()).await.expect("it is deleted");
    realm.delete("jane").await;
    until_gone(&realm, "jane").await;
    assert!(realm.live("jane").is_empty());
    assert_eq!(realm.created(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_authforge_holds_the_deletion_and_the_grant_tells_the_way_out() {
    let realm = Realm::new(Cluster::shared().await).await;
    let _operator = realm.operator(&[]).await;
    let mut spec = manual("jane");
    spec["deletionPolicy"] = json!("Revoke");
    realm.declare("jane", &spec).await;
    let key = realm.until_key("jane").await;
    realm.authforge.switch(|switches| switches.down = true);
    realm.delete("jane").await;
    let grant = realm.until_reason("jane", "AuthForgeUnavailable").await;
    let told = &condition(&grant, "Ready").expect("ready").message;
    assert!(told.contains("set spec.deletionPolicy: Retain"), "{told}");
    realm.edit("jane", &json!({"spec": {"deletionPolicy": "Retain"}})).await;
    until_gone(&realm, "jane").await;
    assert_eq!(realm.live("jane"), [key]);
}

#[tokio::test(flavor = "multi_thread")]
async fn grants_that_own_nothing_are_never_held_back() {
    let realm = Realm::new(Cluster::shared().await).await;
    let operator = realm.operator(&[]).await;
    let key = realm.issue("owner").await;
    let mut second = manual("owner");
    second["purchase"] =
        serde_json::to_value(realm.grants().get("owner").await.expect("a grant").spec.purchase)
            .expect("JSON");
    second["deletionPolicy"] = json!("Revoke");
    realm.declare("second", &second).await;
    realm.until_reason("second", "DuplicatePurchase").await;
    realm.delete("second").await;
    until_gone(&realm, "second").await;
    assert_eq!(realm.live("owner"), [key]);
    // One whose policy is taken back is not held either, whoever watches.
    let mut third = manual("third");
    third["deletionPolicy"] = json!("Revoke");
    realm.declare("third", &third).await;
    realm.until_key("third").await;
    realm.edit("third", &json!({"spec": {"deletionPolicy": "Retain"}})).await;
    let free = |grant: &LicenseGrant| grant.metadata.finalizers.as_ref().is_none_or(Vec::is_empty);
    realm.until_grant("third", "to be free", free).await;
    operator.kill().await;
    realm.delete("third").await;
    until_gone(&realm, "third").await;
    assert_eq!(realm.live("third").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_comes_again_finds_its_key() {
    let realm = Realm::new(Cluster::shared().await).await;
    let operator = realm.operator(&[]).await;
    let (dated, undated) = (manual("dated"), undated("undated"));
    let mut keys = Vec::new();
    for (name, spec) in [("dated", &dated), ("undated", &undated)] {
        realm.declare(name, spec).await;
        keys.push(realm.until_key(name).await);
        realm.delete(name).await;
        until_gone(&realm, name).await;
        realm.declare(name, spec).await;
        assert_eq!(realm.until_key(name).await, *keys.last().expect("a key"), "{name}");
    }
    // And if it goes and comes while nobody watches.
    operator.kill().await;
    for (name, spec) in [("dated", &dated), ("undated", &undated)] {
        realm.delete(name).await;
        until_gone(&realm, name).await;
        realm.declare(name, spec).await;
    }
    let _operator = realm.operator(&[]).await;
    for (name, key) in [("dated", &keys[0]), ("undated", &keys[1])] {
        assert_eq!(realm.until_key(name).await, *key, "{name}");
    }
    assert_eq!(realm.created(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_comes_again_before_its_key_is_listed_waits_for_it() {
    let realm = Realm::new(Cluster::shared().await).await;
    realm.authforge.switch(|switches| switches.list_lag_ms = 4_000);
    let _operator = realm.operator(&["--lost-create-quarantine", "6s"]).await;
    let spec = manual("jane");
    realm.declare("jane", &spec).await;
    let key = realm.until_key("jane").await;
    realm.delete("jane").await;
    until_gone(&realm, "jane").await;
    realm.declare("jane", &spec).await;
    assert_eq!(realm.until_key("jane").await, key);
    assert_eq!(realm.created(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_is_lost_and_applied_again_costs_no_key() {
    // Its own rights would go with the namespace; and who has rights everywhere tells grants of other tests that nobody
    // serves them.
    let cluster = &Cluster::start().await;
    cluster.define_grants().await;
    let mut realm = Realm::new(cluster).await;
    let (account, right) = ("--serviceaccount=default:default", "--clusterrole=cluster-admin");
    cluster.run(&["create", "clusterrolebinding", &realm.namespace, right, account]).await;
    realm.token = cluster.token("default", "default").await;
    let _operator = realm.operator(&[]).await;
    let mut guarded = manual("guarded");
    guarded["deletionPolicy"] = json!("Revoke");
    let (dated, undated) = (manual("dated"), undated("undated"));
    realm.declare("dated", &dated).await;
    realm.declare("undated", &undated).await;
    realm.declare("guarded", &guarded).await;
    let keys = [realm.until_key("dated").await, realm.until_key("undated").await];
    realm.until_key("guarded").await;
    cluster.delete_namespace(&realm.namespace).await;
    let namespaces: Api<Namespace> = Api::all(realm.client.clone());
    until("the namespace to go", async || {
        namespaces.get_opt(&realm.namespace).await.ok()?.is_none().then_some(())
    })
    .await;
    assert!(realm.live("guarded").is_empty(), "revoked before it went");
    cluster.run(&["create", "namespace", &realm.namespace]).await;
    realm.declare("dated", &dated).await;
    realm.declare("undated", &undated).await;
    for (name, key) in [("dated", &keys[0]), ("undated", &keys[1])] {
        assert_eq!(realm.until_key(name).await, *key, "{name}");
    }
    assert_eq!(realm.created(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_that_is_lost_and_applied_again_costs_no_key() {
    let cluster = Cluster::start().await;
    cluster.define_grants().await;
    let realm = Realm::new(&cluster).await;
    let operator = realm.operator(&[]).await;
    let (dated, undated) = (manual("dated"), undated("undated"));
    realm.declare("dated", &dated).await;
    realm.declare("undated", &undated).await;
    let keys = [realm.until_key("dated").await, realm.until_key("undated").await];
    let definitions: Api<CustomResourceDefinition> = Api::all(realm.client.clone());
    let name = "licensegrants.grantsmith.dev";
    definitions.delete(name, &DeleteParams::default()).await.expect("it is deleted");
    until("the definition to go", async || definitions.get_opt(name).await.ok()?.is_none().then_some(()))
        .await;
    until("the operator to say so", async || {
        let (status, told) = operator.readiness().await;
        (status == 503 && told.contains("grantsmith-operator crd")).then_some(())
    })
    .await;
    cluster.define_grants().await;
    operator.until_ready().await;
    realm.declare("dated", &dated).await;
    realm.declare("undated", &undated).await;
    for (name, key) in [("dated", &keys[0]), ("undated", &keys[1])] {
        assert_eq!(realm.until_key(name).await, *key, "{name}");
    }
    assert_eq!(realm.created(), 2);
}
