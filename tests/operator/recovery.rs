//! What the operator stands on is missing, goes away, forgets, or is newer than the operator.

use std::process::Stdio;

use grantsmith_tests::cluster::DEFINITION;
use grantsmith_tests::realm::{Realm, manual};
use grantsmith_tests::{Cluster, until};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn it_waits_for_its_definition_says_so_and_begins() {
    let cluster = Cluster::start().await;
    let realm = Realm::new(&cluster).await;
    let operator = realm.start(&realm.plan(&["--leader-election", "false"])).await;
    let (status, said) = until("it to say what it lacks", async || {
        let said = operator.readiness().await;
        said.1.contains("LicenseGrants").then_some(said)
    })
    .await;
    assert_eq!(status, 503, "{said}");
    assert!(operator.log().contains("LicenseGrants"), "{}", operator.log());
    cluster.define_grants().await;
    operator.until_ready().await;
    realm.issue("jane").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_on_where_the_api_server_was_away() {
    let cluster = Cluster::start().await;
    cluster.define_grants().await;
    let realm = Realm::new(&cluster).await;
    let operator = realm.start(&realm.plan(&[])).await;
    let key = realm.issue("before").await;
    cluster.stop_api_server();
    cluster.start_api_server().await;
    realm.issue("after").await;
    assert_eq!(realm.keys("before").await["main"], key);
    assert_eq!(realm.created(), 2);
    operator.until_ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_is_too_old_is_begun_anew() {
    let cluster = Cluster::start().await;
    cluster.define_grants().await;
    let realm = Realm::new(&cluster).await;
    let operator = realm.operator(&[]).await;
    realm.issue("before").await;
    operator.freeze();
    // Once to break its watch, before there is anything to hear; and once more to forget what it has missed.
    cluster.stop_api_server();
    cluster.start_api_server().await;
    realm.declare("meanwhile", &manual("meanwhile")).await;
    cluster.forget_versions().await;
    cluster.stop_api_server();
    cluster.start_api_server().await;
    let lists = || {
        let audited = realm.audited();
        audited.iter().filter(|request| request.verb == "list" && request.concerns("licensegrants")).count()
    };
    let before = lists();
    operator.thaw();
    realm.until_key("meanwhile").await;
    assert!(lists() > before, "it could not go on where it was");
    realm.issue("after").await;
}

/// The definition of a later version, which knows one state more.
async fn define_later_version(cluster: &Cluster) {
    let text = std::fs::read_to_string(DEFINITION).expect("the definition");
    let mut definition: Value = serde_saphyr::from_str(&text).expect("a definition");
    let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
    let states = format!("{spec}/licenses/items/properties/state/enum");
    let states = definition.pointer_mut(&states).and_then(Value::as_array_mut).expect("the states");
    states.push(json!("Frozen"));
    let mut apply = cluster.kubectl();
    let mut apply = apply
        .args(["apply", "--server-side", "--force-conflicts", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("kubectl runs");
    let mut input = apply.stdin.take().expect("a pipe");
    tokio::io::AsyncWriteExt::write_all(&mut input, definition.to_string().as_bytes())
        .await
        .expect("it reads");
    drop(input);
    assert!(apply.wait().await.expect("it ends").success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_it_cannot_read_stops_no_other() {
    let cluster = Cluster::start().await;
    cluster.define_grants().await;
    define_later_version(&cluster).await;
    let realm = Realm::new(&cluster).await;
    let mut strange = manual("strange");
    strange["licenses"][0]["state"] = json!("Frozen");
    until("the later version to be served", async || {
        let manifest = json!({
            "apiVersion": "grantsmith.dev/v1alpha1", "kind": "LicenseGrant",
            "metadata": {"name": "strange"}, "spec": strange,
        });
        let path = format!("/apis/grantsmith.dev/v1alpha1/namespaces/{}/licensegrants", realm.namespace);
        let request = http::Request::post(path).body(manifest.to_string().into_bytes()).expect("a request");
        realm.client.request::<Value>(request).await.ok()
    })
    .await;
    let operator = realm.operator(&[]).await;
    realm.issue("plain").await;
    until("it to name what it cannot read", async || operator.log().contains("strange").then_some(())).await;
    operator.kill().await;
    let _again = realm.operator(&[]).await;
    realm.issue("another").await;
    assert_eq!(realm.created(), 2, "nothing was made of what is not understood");
}
