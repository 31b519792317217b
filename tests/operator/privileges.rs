//! What the operator may do is what it does, and where keys are kept is the only place where they are.

use std::collections::BTreeSet;

use data_encoding::BASE64;
use grantsmith_authforge::fake::Stored;
use grantsmith_tests::cluster::Audited;
use grantsmith_tests::realm::{ROLE, Realm, manual};
use grantsmith_tests::{AUTHFORGE_KEY, Cluster, until};
use kube::api::DeleteParams;
use memchr::memmem;
use serde::Deserialize;
use serde_json::{Value, json};

/// Group, resource and verb.
type Right = (String, String, String);

fn granted() -> BTreeSet<Right> {
    let text = std::fs::read_to_string(ROLE).expect("the role");
    let mut rights = BTreeSet::new();
    for document in serde_saphyr::from_multiple::<Value>(&text).expect("manifests") {
        let Some(rules) = document["rules"].as_array() else { continue };
        for rule in rules {
            let names = |field: &str| Vec::<String>::deserialize(&rule[field]).expect("names");
            for group in names("apiGroups") {
                for resource in names("resources") {
                    for verb in names("verbs") {
                        rights.insert((group.clone(), resource.clone(), verb));
                    }
                }
            }
        }
    }
    rights
}

fn used(audited: &[Audited]) -> BTreeSet<Right> {
    let targets =
        audited.iter().filter_map(|request| Some((request.object_ref.clone()?, request.verb.clone())));
    // Kubernetes lets everybody ask what they may do.
    let targets = targets.filter(|(target, _)| target.resource != "selfsubjectaccessreviews");
    targets
        .map(|(target, verb)| {
            let resource = match target.subresource.as_str() {
                "" => target.resource,
                subresource => format!("{}/{subresource}", target.resource),
            };
            (target.api_group, resource, verb)
        })
        .collect()
}

/// Everything that an operator does, done once.
async fn live(realm: &Realm<'_>) {
    realm.issue("kept").await;
    realm.secrets().delete("kept-license", &DeleteParams::default()).await.expect("the Secret is deleted");
    until("the Secret to come back", async || (!realm.keys("kept").await.is_empty()).then_some(())).await;
    // A new key in its place, in the same Secret.
    let mut kept = realm.grants().get("kept").await.expect("a grant").spec;
    kept.licenses[0].generation = 2;
    realm.declare("kept", &serde_json::to_value(kept).expect("a spec")).await;
    realm.until_settled("kept").await;
    let mut withdrawn = manual("withdrawn");
    withdrawn["deletionPolicy"] = json!("Revoke");
    realm.declare("withdrawn", &withdrawn).await;
    realm.until_key("withdrawn").await;
    realm.edit("withdrawn", &json!({"spec": {"override": {"state": "Suspended"}}})).await;
    realm.until_settled("withdrawn").await;
    realm.edit("withdrawn", &json!({"spec": {"override": null}})).await;
    realm.until_settled("withdrawn").await;
    realm.delete("withdrawn").await;
    let grants = realm.grants();
    until("the grant to go", async || grants.get_opt("withdrawn").await.ok()?.is_none().then_some(())).await;
    until("its Secret to go", async || realm.keys("withdrawn").await.is_empty().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_verb_that_is_granted_is_used_and_no_other() {
    let realm = Realm::new(Cluster::shared().await).await;
    let first = realm.start(&realm.plan(&[])).await;
    live(&realm).await;
    first.stop().await;
    let second = realm.start(&realm.plan(&[])).await;
    realm.issue("second").await;
    second.stop().await;
    let (granted, used) = (granted(), used(&realm.audited()));
    let idle: Vec<_> = granted.difference(&used).collect();
    let taken: Vec<_> = used.difference(&granted).collect();
    assert!(
        idle.is_empty() && taken.is_empty(),
        "granted, never used: {idle:#?}; used, not granted: {taken:#?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_in_its_secret_and_nowhere_else() {
    let cluster = Cluster::shared().await;
    let realm = Realm::new(cluster).await;
    let operator = realm.start(&realm.plan(&[])).await;
    live(&realm).await;
    let metrics = operator.metrics().await;
    let (_, log) = operator.stop().await;
    let licenses = realm.authforge.licenses();
    assert_eq!(licenses.len(), 3);
    let place = format!("/registry/secrets/{}/kept-license", realm.namespace);
    // A key that was replaced stays beside the new one; the Secret of a grant that is gone is gone too.
    let kept = |license: &Stored| license.label.as_deref().is_some_and(|label| label.contains("kept"));
    let mut secrets: Vec<_> =
        licenses.into_iter().map(|license| (kept(&license).then_some(&place), license.key)).collect();
    secrets.push((None, AUTHFORGE_KEY.to_owned()));
    secrets.push((None, realm.token.clone()));
    let stored = cluster.stored().await;
    for (place, secret) in &secrets {
        let forms = [secret.clone(), BASE64.encode(secret.as_bytes())];
        let told = |text: &[u8]| forms.iter().any(|form| memmem::find(text, form.as_bytes()).is_some());
        assert!(!told(log.as_bytes()), "in the log");
        assert!(!told(metrics.as_bytes()), "in the metrics");
        let places: Vec<_> = stored.iter().filter(|(_, value)| told(value)).map(|(key, _)| key).collect();
        assert_eq!(places, place.iter().copied().collect::<Vec<_>>());
    }
    let about = stored.iter().filter(|(key, _)| key.contains(&realm.namespace));
    let kinds: BTreeSet<_> = about.filter_map(|(key, _)| key.split('/').nth(2)).collect();
    assert!(
        kinds.contains("events") && kinds.contains("grantsmith.dev"),
        "all of it was looked at: {kinds:?}"
    );
}
