//! What cannot be declared, and the sentence that whoever tries it reads.

use std::fmt::Write as _;

use grantsmith_tests::{APP, Cluster};
use serde_json::{Value, json};

/// A manual grant that can be declared.
fn grant() -> Value {
    json!({
        "apiVersion": "grantsmith.dev/v1alpha1",
        "kind": "LicenseGrant",
        "metadata": {"name": "jane"},
        "spec": {
            "purchase": {"provider": "manual", "reference": "press-2026-17"},
            "licenses": [{"name": "main", "appId": APP, "maxHwidSlots": 2, "expiresAt": "2027-01-01T00:00:00Z"}],
        },
    })
}

/// The grant with `change` merged into it: objects field by field, null for what goes, all else as a whole.
fn with(change: &Value) -> Value {
    fn merge(into: &mut Value, change: &Value) {
        let (Value::Object(fields), Value::Object(changes)) = (&mut *into, change) else {
            *into = change.clone();
            return;
        };
        for (name, change) in changes {
            if change.is_null() {
                fields.remove(name);
            } else {
                merge(fields.entry(name).or_insert_with(|| json!({})), change);
            }
        }
    }
    let mut grant = grant();
    merge(&mut grant, change);
    grant
}

fn purchase(purchase: &Value) -> Value {
    let mut grant = grant();
    grant["spec"]["purchase"] = purchase.clone();
    grant
}

fn license(change: &Value) -> Value {
    let mut license = json!({"name": "main", "appId": APP});
    for (name, value) in change.as_object().expect("fields") {
        license[name] = value.clone();
    }
    with(&json!({"spec": {"licenses": [license]}}))
}

fn named(names: &[String]) -> Value {
    let licenses: Vec<_> = names.iter().map(|name| json!({"name": name, "appId": APP})).collect();
    with(&json!({"spec": {"licenses": licenses}}))
}

/// What cannot be made.
fn bad_grants() -> Vec<(&'static str, Value)> {
    let spec = |change: Value| with(&json!({"spec": change}));
    let many: Vec<String> = (0..101).map(|number| format!("m{number}")).collect();
    vec![
        ("nothing declared", with(&json!({"spec": null}))),
        ("no purchase", spec(json!({"purchase": null}))),
        ("no licenses", spec(json!({"licenses": null}))),
        ("an empty list of licenses", spec(json!({"licenses": []}))),
        ("101 licenses", named(&many)),
        ("two licenses of one name", named(&["main".to_owned(), "main".to_owned()])),
        ("a provider that we do not know", purchase(&json!({"provider": "paypal", "reference": "a"}))),
        ("nobody who was paid", purchase(&json!({"reference": "a"}))),
        ("a purchase at Stripe without its id", purchase(&json!({"provider": "stripe"}))),
        (
            "a purchase at Stripe under a name of one's own",
            purchase(&json!({"provider": "stripe", "reference": "a"})),
        ),
        (
            "two sources of truth",
            purchase(&json!({"provider": "stripe", "id": "cs_test_1", "reference": "a"})),
        ),
        ("a manual grant without a name", purchase(&json!({"provider": "manual"}))),
        ("a manual grant with Stripe's id", purchase(&json!({"provider": "manual", "id": "cs_test_1"}))),
        ("a payment intent", purchase(&json!({"provider": "stripe", "id": "pi_1"}))),
        ("an id with a space", purchase(&json!({"provider": "stripe", "id": "cs_test 1"}))),
        (
            "a session that is called a subscription",
            purchase(&json!({"provider": "stripe", "kind": "subscription", "id": "cs_test_1"})),
        ),
        (
            "a subscription that is called a session",
            purchase(&json!({"provider": "stripe", "kind": "session", "id": "sub_1"})),
        ),
        (
            "a kind of purchase that we do not know",
            purchase(&json!({"provider": "stripe", "kind": "invoice", "id": "cs_test_1"})),
        ),
        ("an empty reference", purchase(&json!({"provider": "manual", "reference": ""}))),
        ("a reference with a space", purchase(&json!({"provider": "manual", "reference": "press 17"}))),
        (
            "an address as reference",
            purchase(&json!({"provider": "manual", "reference": "jane@example.com"})),
        ),
        ("a reference with an umlaut", purchase(&json!({"provider": "manual", "reference": "prüfung"}))),
        ("a reference too long", purchase(&json!({"provider": "manual", "reference": "a".repeat(73)}))),
        (
            "a payment at no time",
            purchase(&json!({"provider": "manual", "reference": "a", "paidAt": "yesterday"})),
        ),
        (
            "a payment at a date",
            purchase(&json!({"provider": "manual", "reference": "a", "paidAt": "2026-11-24"})),
        ),
        ("a license without a name", with(&json!({"spec": {"licenses": [{"appId": APP}]}}))),
        ("a license in capitals", license(&json!({"name": "Main"}))),
        ("a license whose name ends in a dash", license(&json!({"name": "main-"}))),
        ("a license with a long name", license(&json!({"name": "professional"}))),
        ("a license for no app", with(&json!({"spec": {"licenses": [{"name": "main"}]}}))),
        ("a license for an empty app", license(&json!({"appId": ""}))),
        ("a license for a path", license(&json!({"appId": "../other"}))),
        ("no slots", license(&json!({"maxHwidSlots": 0}))),
        ("more slots than there are", license(&json!({"maxHwidSlots": 17}))),
        ("slots in words", license(&json!({"maxHwidSlots": "two"}))),
        ("slots and no limit", license(&json!({"maxHwidSlots": 2, "unlimitedHwidSlots": true}))),
        ("a state that there is not", license(&json!({"state": "Deleted"}))),
        ("a reason in one's own words", license(&json!({"reason": "fraud"}))),
        ("an end that is no time", license(&json!({"expiresAt": "never"}))),
        ("a generation before the first", license(&json!({"generation": 0}))),
        ("an override of nothing", spec(json!({"override": {}}))),
        (
            "an override that ends and never ends",
            spec(json!({"override": {"expiresAt": "2027-01-01T00:00:00Z", "neverExpires": true}})),
        ),
        ("an override to no state", spec(json!({"override": {"state": "Gone"}}))),
        ("a customer without an address", spec(json!({"customer": {}}))),
        ("an address without a domain", spec(json!({"customer": {"email": "jane"}}))),
        ("a delivery by post", spec(json!({"delivery": "Post"}))),
        ("a Secret in capitals", spec(json!({"secretName": "Jane"}))),
        ("a deletion policy of another kind", spec(json!({"deletionPolicy": "Delete"}))),
        ("a pause in words", spec(json!({"paused": "yes"}))),
        ("a field that does not exist", spec(json!({"license": "main"}))),
        (
            "a name that leaves no room for the Secret's",
            with(&json!({"metadata": {"name": "j".repeat(246)}})),
        ),
    ]
}

/// What cannot be made of a grant that is there, with these fields in its status.
fn bad_changes() -> Vec<(&'static str, Value, Value)> {
    let none = || json!({});
    let license = |change: Value| {
        let mut license = json!({"name": "main", "appId": APP, "maxHwidSlots": 2, "generation": 2});
        for (name, value) in change.as_object().expect("fields") {
            license[name] = value.clone();
        }
        json!({"spec": {"licenses": [license]}})
    };
    vec![
        ("another purchase", none(), json!({"spec": {"purchase": {"reference": "press-2026-18"}}})),
        (
            "a payment that was not there",
            none(),
            json!({"spec": {"purchase": {"paidAt": "2026-11-24T00:00:00Z"}}}),
        ),
        ("no license any more", none(), json!({"spec": {"licenses": []}})),
        ("another license instead", none(), license(json!({"name": "other"}))),
        ("another app", none(), license(json!({"appId": "other"}))),
        ("more slots", none(), license(json!({"maxHwidSlots": 3}))),
        ("slots without a limit", none(), license(json!({"maxHwidSlots": null, "unlimitedHwidSlots": true}))),
        ("an earlier generation", none(), license(json!({"generation": 1}))),
        (
            "another Secret once there is one",
            json!({"secretName": "jane-license"}),
            json!({"spec": {"secretName": "other"}}),
        ),
    ]
}

/// Asks the API server, which checks fields as strictly as kubectl lets it; gives its refusal.
async fn ask(client: &kube::Client, method: &str, path: &str, body: &Value) -> Result<Value, String> {
    let request = http::Request::builder()
        .method(method)
        .uri(format!("{path}{}fieldValidation=Strict", if path.contains('?') { '&' } else { '?' }))
        .header(
            "content-type",
            if method == "PATCH" { "application/merge-patch+json" } else { "application/json" },
        )
        .body(body.to_string().into_bytes())
        .expect("a request");
    client.request::<Value>(request).await.map_err(|refused| match refused {
        kube::Error::Api(status) => status.message.clone(),
        other => format!("no answer: {other}"),
    })
}

/// What is said, but for the grant's own name and what the server always adds.
fn sentence(refusal: &str) -> String {
    const UNCHECKED: &str = ", <nil>: Invalid value: null: some validation rules were not checked because the object \
                             was invalid; correct the existing errors to complete validation]";
    let name = refusal.find("is invalid: ").map_or(0, |at| at + "is invalid: ".len());
    let said = &refusal[name..];
    match said.strip_suffix(UNCHECKED) {
        Some(alone) => alone.trim_start_matches('[').to_owned(),
        None => said.to_owned(),
    }
}

/// Holds what people read against what was agreed to be read.
fn assert_reads(file: &str, text: &str) {
    let path = format!("{}/operator/{file}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("GRANTSMITH_WRITE_SNAPSHOTS").is_some() {
        std::fs::write(&path, text).expect("the file can be written");
    }
    let agreed = std::fs::read_to_string(&path).expect("the file is there");
    assert!(
        agreed == text,
        "it reads otherwise than {path}; if that is better, run the test with GRANTSMITH_WRITE_SNAPSHOTS=1\n{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_declared_is_refused_with_a_sentence_that_helps() {
    let cluster = Cluster::shared().await;
    let (client, namespace) = (cluster.client().await, cluster.namespace().await);
    let path = format!("/apis/grantsmith.dev/v1alpha1/namespaces/{namespace}/licensegrants?dryRun=All");
    ask(&client, "POST", &path, &grant()).await.expect("a good grant is taken");
    let mut said = String::new();
    for (what, grant) in bad_grants() {
        let answer = ask(&client, "POST", &path, &grant).await;
        writeln!(said, "{what}\n    {}", sentence(&answer.expect_err(what))).expect("a string");
    }
    assert_reads("bad_grants.txt", &said);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_change_is_refused_with_a_sentence_that_helps() {
    let cluster = Cluster::shared().await;
    let client = cluster.client().await;
    let mut said = String::new();
    for (what, status, change) in bad_changes() {
        let namespace = cluster.namespace().await;
        let path = format!("/apis/grantsmith.dev/v1alpha1/namespaces/{namespace}/licensegrants");
        ask(&client, "POST", &path, &license(&json!({"maxHwidSlots": 2, "generation": 2})))
            .await
            .expect("a grant");
        let one = format!("{path}/jane");
        ask(&client, "PATCH", &format!("{one}/status"), &json!({"status": status})).await.expect("a status");
        ask(&client, "PATCH", &one, &json!({"spec": {"paused": true}}))
            .await
            .expect("a good change is taken");
        let answer = ask(&client, "PATCH", &one, &change).await;
        writeln!(said, "{what}\n    {}", sentence(&answer.expect_err(what))).expect("a string");
    }
    assert_reads("bad_changes.txt", &said);
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_explains_the_whole_of_it() {
    let cluster = Cluster::shared().await;
    let mut said = cluster.run(&["explain", "licensegrant", "--recursive"]).await;
    for part in ["spec", "spec.purchase", "spec.licenses", "spec.override", "status", "status.licenses"] {
        said += &cluster.run(&["explain", &format!("licensegrant.{part}")]).await;
    }
    assert_reads("explain.txt", &said);
}
