//! Grants in namespaces that nobody serves are told so, by an operator that may see them, and are served when somebody comes.

use grantsmith_crd::READY;
use grantsmith_tests::Cluster;
use grantsmith_tests::realm::{ACCOUNT, Realm, condition, manual};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_where_nobody_serves_is_rejected_until_somebody_does() {
    let cluster = Cluster::start().await;
    cluster.define_grants().await;
    let (here, elsewhere) = (Realm::new(&cluster).await, Realm::new(&cluster).await);
    let all_namespaces = json!([
        {"apiGroups": ["grantsmith.dev"], "resources": ["licensegrants"], "verbs": ["list", "watch"]},
        {"apiGroups": ["grantsmith.dev"], "resources": ["licensegrants/status"], "verbs": ["update"]},
    ]);
    here.allow_everywhere(ACCOUNT, &all_namespaces).await;
    elsewhere.declare("before", &manual("before")).await;
    let _operator = here.operator(&[]).await;
    elsewhere.declare("after", &manual("after")).await;
    for name in ["before", "after"] {
        let told = elsewhere.until_reason(name, "Rejected").await;
        let message = &condition(&told, READY).expect("a condition").message;
        assert!(message.contains(&elsewhere.namespace) && message.contains("--allow"), "{message}");
    }
    here.issue("served").await;
    assert_eq!((here.created(), elsewhere.created()), (1, 0), "only what is served has a key");

    let _other = elsewhere.operator(&[]).await;
    elsewhere.until_key("before").await;
    elsewhere.until_key("after").await;
    elsewhere.issue("new").await;
    assert_eq!(elsewhere.created(), 3, "one key each, with two operators that see the grants");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_rights_of_one_namespace_nothing_is_asked_of_others() {
    let realm = Realm::new(Cluster::shared().await).await;
    let operator = realm.operator(&[]).await;
    realm.issue("served").await;
    operator.stop().await;
    let elsewhere = |namespace: &str| namespace != realm.namespace;
    let audited = realm.audited();
    let grants = audited.iter().filter(|request| request.concerns("licensegrants"));
    let namespaces =
        grants.filter_map(|request| request.object_ref.as_ref()).map(|target| &*target.namespace);
    assert_eq!(namespaces.filter(|namespace| elsewhere(namespace)).count(), 0);
}
