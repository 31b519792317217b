//! What Argo CD, Flux and kubectl make of a grant, over statuses that a real operator wrote.

use std::fmt::Write as _;
use std::process::Command;

use grantsmith_crd::LicenseGrant;
use grantsmith_tests::Cluster;
use grantsmith_tests::realm::{Realm, manual};
use serde_json::{Value, json};

use crate::{given, read, told};

const CHECK: &str = "deploy/argocd/health.lua";

/// A value as Lua writes it.
fn lua(value: &Value, into: &mut String) {
    match value {
        Value::Null => into.push_str("nil"),
        Value::Bool(_) | Value::Number(_) => write!(into, "{value}").expect("a string"),
        Value::String(text) => {
            into.push('"');
            for byte in text.bytes() {
                write!(into, "\\{byte:03}").expect("a string");
            }
            into.push('"');
        }
        Value::Array(entries) => {
            into.push('{');
            for entry in entries {
                lua(entry, into);
                into.push(',');
            }
            into.push('}');
        }
        Value::Object(fields) => {
            into.push('{');
            for (name, field) in fields {
                into.push('[');
                lua(&json!(name), into);
                into.push_str("]=");
                lua(field, into);
                into.push(',');
            }
            into.push('}');
        }
    }
}

/// What Argo CD would show: the health, and its message.
fn argocd(grant: &LicenseGrant) -> (String, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut object = String::new();
    lua(&serde_json::to_value(grant).expect("JSON"), &mut object);
    let check = read(CHECK);
    let program = format!(
        "obj = {object}\nlocal function check()\n{check}\nend\nlocal health = check()\nprint(health.status)\nprint(health.message)\n"
    );
    let file = folder.path().join("check.lua");
    std::fs::write(&file, program).expect("a file");
    let said = told(Command::new(given("GRANTSMITH_GLUA", "glua")).arg(file)).expect("it runs");
    let (health, message) = said.split_once('\n').expect("two lines");
    (health.to_owned(), message.trim_end().to_owned())
}

/// The rules of kstatus, by which Flux and Helm wait.
fn kstatus(grant: &LicenseGrant) -> &'static str {
    let status = grant.status.clone().unwrap_or_default();
    let is = |kind: &str| status.conditions.iter().any(|c| c.type_ == kind && c.status == "True");
    let ready = status.conditions.iter().any(|c| c.type_ == "Ready");
    let old = status.observed_generation.is_some_and(|seen| Some(seen) != grant.metadata.generation);
    if old || is("Reconciling") {
        "InProgress"
    } else if is("Stalled") {
        "Failed"
    } else if ready && !is("Ready") {
        "InProgress"
    } else {
        "Current"
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_is_healthy_when_it_is_as_declared_and_its_trouble_is_told() {
    let cluster = Cluster::shared().await;
    let realm = Realm::new(cluster).await;
    let operator = realm.operator(&["--revocation-budget", "0/h"]).await;
    let seen = |grant: &LicenseGrant| (argocd(grant).0, kstatus(grant));
    let is = |health: &str, status: &'static str| (health.to_owned(), status);

    realm.issue("jane").await;
    let issued = realm.until_settled("jane").await;
    assert_eq!(seen(&issued), is("Healthy", "Current"));
    let wait = ["wait", "--for=condition=Ready", "--timeout=60s", "lg/jane", "-n", realm.namespace.as_str()];
    cluster.run(&wait).await;

    realm.edit("jane", &json!({"spec": {"override": {"state": "Revoked"}}})).await;
    let revoked = realm.until_settled("jane").await;
    assert_eq!(seen(&revoked), is("Healthy", "Current"), "as declared");

    realm.declare("twin", &manual("jane")).await;
    let twin = realm.until_reason("twin", "DuplicatePurchase").await;
    assert_eq!(seen(&twin), is("Degraded", "Failed"));
    assert!(argocd(&twin).1.starts_with("DuplicatePurchase: "), "{:?}", argocd(&twin));

    realm.issue("held").await;
    let mut spec = realm.grants().get("held").await.expect("a grant").spec;
    spec.licenses[0].state = serde_json::from_value(json!("Revoked")).expect("a state");
    realm.declare("held", &serde_json::to_value(spec).expect("JSON")).await;
    let held = realm.until_reason("held", "RevocationHeld").await;
    assert_eq!(seen(&held), is("Progressing", "InProgress"));

    let mut spec = manual("paused");
    spec["paused"] = json!(true);
    realm.declare("paused", &spec).await;
    let paused = realm.until_reason("paused", "Paused").await;
    assert_eq!(seen(&paused), is("Suspended", "InProgress"));

    operator.stop().await;
    let unseen = realm.declare("unseen", &manual("unseen")).await;
    assert_eq!(argocd(&unseen).0, "Progressing");
    realm.edit("jane", &json!({"spec": {"override": null}})).await;
    let changed = realm.grants().get("jane").await.expect("a grant");
    assert_eq!(seen(&changed), is("Progressing", "InProgress"), "what was said of an older generation");
}

#[test]
fn the_settings_for_argocd_hold_the_check() {
    let patch: Value = serde_saphyr::from_str(&read("deploy/argocd/argocd-cm.yaml")).expect("YAML");
    let check = &patch["data"]["resource.customizations.health.grantsmith.dev_LicenseGrant"];
    assert_eq!(check.as_str(), Some(read(CHECK).as_str()));
}
