//! What a grant declares comes about: at AuthForge, in a Secret, and in what people read.

use grantsmith_authforge::SystemClock;
use grantsmith_authforge::fake::{CallKind, Fault, NewLicense, Stored};
use grantsmith_core::port::Clock as _;
use grantsmith_crd::{DevicesReset, LicenseGrant, READY, RECONCILING, STALLED};
use grantsmith_tests::realm::{Realm, condition, manual};
use grantsmith_tests::{APP, Cluster, until};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt as _;
use kube::api::DeleteParams;
use serde_json::{Value, json};

fn license(realm: &Realm<'_>, key: &str) -> Stored {
    realm.authforge.licenses().into_iter().find(|license| license.key == key).expect("a license")
}

fn at(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

/// A grant of these licenses, without a time of payment.
fn licenses(reference: &str, licenses: &Value) -> Value {
    json!({"purchase": {"provider": "manual", "reference": reference}, "licenses": licenses})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_becomes_a_key_in_a_secret_that_it_owns() {
    let realm = Realm::new(Cluster::shared().await).await;
    let _operator = realm.operator(&[]).await;
    let mut spec = manual("jane");
    spec["licenses"][0]["maxHwidSlots"] = json!(2);
    spec["licenses"][0]["expiresAt"] = json!("2031-01-01T00:00:00Z");
    realm.declare("jane", &spec).await;
    let key = realm.until_key("jane").await;

    let made = license(&realm, &key);
    assert_eq!((made.app_id.as_str(), made.max_hwid_slots), (APP, 2));
    assert_eq!(
        (made.label.as_deref(), made.expires_at),
        (Some("Grant default/jane"), Some(at("2031-01-01T00:00:00Z")))
    );

    let grant = realm.until_settled("jane").await;
    let secret = realm.secrets().get("jane-license").await.expect("a Secret");
    let owners = secret.owner_references();
    assert_eq!(owners.len(), 1);
    assert_eq!((owners[0].kind.as_str(), &owners[0].uid), ("LicenseGrant", &grant.uid().expect("a uid")));

    for (kind, status) in [(READY, "True"), (RECONCILING, "False"), (STALLED, "False")] {
        let condition = condition(&grant, kind).expect("a condition");
        assert_eq!((condition.status.as_str(), condition.reason.as_str()), (status, "Issued"), "{kind}");
    }
    let status = grant.status.expect("a status");
    assert_eq!((status.issued.as_deref(), status.expires.as_deref()), (Some("1/1"), Some("2031-01-01")));
    assert_eq!(status.licenses[0].key, format!("****-****-****-{}", &key[key.len() - 4..]));

    let table = realm.cluster.run(&["get", "lg", "--namespace", &realm.namespace]).await;
    let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let columns = ["NAME", "READY", "REASON", "PURCHASE", "LICENSES", "EXPIRES", "AGE"];
    assert_eq!(lines.next().expect("a head"), columns);
    assert_eq!(lines.next().expect("a line")[..6], ["jane", "True", "Issued", "jane", "1/1", "2031-01-01"]);
    until("the event", async || (realm.events("jane").await == ["Issued"]).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_declared_anew_is_brought_about_at_authforge() {
    let realm = Realm::new(Cluster::shared().await).await;
    let _operator = realm.operator(&[]).await;
    let key = realm.issue("jane").await;
    let purchase = manual("jane")["purchase"].clone();
    let purchase = realm
        .grants()
        .get("jane")
        .await
        .map_or(purchase, |grant| serde_json::to_value(grant.spec.purchase).expect("JSON"));
    for (change, reason, revoked, ends) in [
        (json!({"expiresAt": "2031-01-01T00:00:00Z"}), "Issued", false, Some(at("2031-01-01T00:00:00Z"))),
        (json!({"expiresAt": "2030-01-01T00:00:00Z"}), "Issued", false, Some(at("2030-01-01T00:00:00Z"))),
        (
            json!({"state": "Suspended", "reason": "Disputed"}),
            "Disputed",
            true,
            Some(at("2030-01-01T00:00:00Z")),
        ),
        (json!({"state": "Active"}), "Issued", false, None),
        (json!({"state": "Revoked", "reason": "Refunded"}), "Refunded", true, None),
    ] {
        let mut entry = change.clone();
        entry["name"] = json!("main");
        entry["appId"] = json!(APP);
        realm.declare("jane", &json!({"purchase": purchase, "licenses": [entry]})).await;
        let grant = realm.until_settled("jane").await;
        assert_eq!(condition(&grant, READY).expect("ready").reason, reason, "{change}");
        let made = license(&realm, &key);
        assert_eq!((made.revoked, made.expires_at), (revoked, ends), "{change}");
    }
    assert_eq!(realm.created(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_override_outranks_what_is_declared_until_it_is_taken_back() {
    let realm = Realm::new(Cluster::shared().await).await;
    let _operator = realm.operator(&[]).await;
    let key = realm.issue("jane").await;
    let hand = json!({"state": "Revoked", "reason": "leaked", "by": "max"});
    realm.edit("jane", &json!({"spec": {"override": hand}})).await;
    let grant = realm.until_settled("jane").await;
    assert_eq!(condition(&grant, READY).expect("ready").reason, "Overridden");
    assert!(license(&realm, &key).revoked);
    realm
        .edit(
            "jane",
            &json!({"spec": {"override": {"state": "Active", "expiresAt": "2032-01-01T00:00:00Z"}}}),
        )
        .await;
    realm.until_settled("jane").await;
    let made = license(&realm, &key);
    assert_eq!((made.revoked, made.expires_at), (false, Some(at("2032-01-01T00:00:00Z"))));
    realm.edit("jane", &json!({"spec": {"override": null}})).await;
    realm.until_settled("jane").await;
    assert_eq!(license(&realm, &key).expires_at, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_grant_is_left_as_it_is_and_says_so() {
    let realm = Realm::new(Cluster::shared().await).await;
    let _operator = realm.operator(&[]).await;
    let mut spec = manual("jane");
    spec["paused"] = json!(true);
    realm.declare("jane", &spec).await;
    let grant = realm.until_reason("jane", "Paused").await;
    assert_eq!(condition(&grant, READY).expect("ready").status, "Unknown");
    realm.edit("jane", &json!({"spec": {"override": {"state": "Active", "neverExpires": true}}})).await;
    realm
        .until_grant("jane", "to be seen", |grant| {
            grant.status.as_ref().and_then(|status| status.observed_generation) == grant.metadata.generation
        })
        .await;
    let counts = realm.authforge.counts();
    assert_eq!(counts.of(CallKind::Create) + counts.of(CallKind::List), 0);
    realm.edit("jane", &json!({"spec": {"paused": false}})).await;
    realm.until_key("jane").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_grant_has_as_many_keys_as_it_declares() {
    let realm = Realm::new(Cluster::shared().await).await;
    let _operator = realm.operator(&[]).await;
    let mut entries = vec![
        json!({"name": "main", "appId": APP}),
        json!({"name": "2", "appId": APP, "unlimitedHwidSlots": true}),
    ];
    realm.declare("team", &licenses("team", &json!(entries))).await;
    realm.until_settled("team").await;
    let before = realm.keys("team").await;
    assert_eq!(before.keys().collect::<Vec<_>>(), ["2", "main"]);
    assert!(license(&realm, &before["2"]).unlimited);
    entries.push(json!({"name": "3", "appId": APP}));
    entries[0]["state"] = json!("Revoked");
    realm.declare("team", &licenses("team", &json!(entries))).await;
    let grant = realm.until_settled("team").await;
    assert_eq!(grant.status.expect("a status").issued.as_deref(), Some("3/3"));
    let after = realm.keys("team").await;
    assert_eq!((&after["main"], &after["2"], after.len()), (&before["main"], &before["2"], 3));
    assert!(license(&realm, &after["main"]).revoked && !license(&realm, &after["2"]).revoked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raised_generation_replaces_the_key() {
    let realm = Realm::new(Cluster::shared().await).await;
    let _operator = realm.operator(&[]).await;
    let entry = json!([{"name": "main", "appId": APP}]);
    realm.declare("jane", &licenses("jane", &entry)).await;
    let old = realm.until_key("jane").await;
    let entry = json!([{"name": "main", "appId": APP, "generation": 2}]);
    realm.declare("jane", &licenses("jane", &entry)).await;
    let new = realm.until_key("jane").await;
    assert_ne!(old, new);
    assert_eq!(license(&realm, &new).label.as_deref(), Some("Grant default/jane ~2"));
    assert!(license(&realm, &old).revoked && !license(&realm, &new).revoked);
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_unbound_once_for_each_time_that_is_written() {
    let realm = Realm::new(Cluster::shared().await).await;
    let operator = realm.operator(&[]).await;
    let declare = async |time: Timestamp, generation: u32| {
        let entry = json!([{"name": "main", "appId": APP, "generation": generation, "devicesResetAt": time}]);
        realm.declare("jane", &licenses("jane", &entry)).await;
        realm.until_settled("jane").await
    };
    let outcome = |grant: LicenseGrant| grant.status.expect("a status").licenses[0].devices_reset;

    let before = at("2020-01-01T00:00:00Z");
    assert_eq!(
        (outcome(declare(before, 1).await), realm.resets()),
        (None, 0),
        "from before the grant was made"
    );
    let ahead = at("2036-01-01T00:00:00Z");
    assert_eq!((outcome(declare(ahead, 1).await), realm.resets()), (None, 0), "its time has not come");

    let soon = SystemClock.now().wall + SignedDuration::from_secs(2);
    declare(soon, 1).await;
    realm
        .until_grant("jane", "to have its devices unbound", |grant| {
            outcome(grant.clone()) == Some(DevicesReset::Done) && SystemClock.now().wall >= soon
        })
        .await;
    operator.kill().await;
    let _operator = realm.operator(&[]).await;
    realm.edit("jane", &json!({"spec": {"override": {"expiresAt": "2031-01-01T00:00:00Z"}}})).await;
    realm.until_settled("jane").await;
    assert_eq!(realm.resets(), 1, "a time counts once");

    realm.authforge.script(CallKind::Put, [Fault::LostAfter]);
    let second = SystemClock.now().wall;
    assert_eq!(outcome(declare(second, 1).await), Some(DevicesReset::Unclear));
    let old = realm.keys("jane").await;
    declare(second, 2).await;
    assert_ne!(realm.keys("jane").await["main"], old["main"]);
    assert_eq!(realm.resets(), 2, "neither a lost answer nor a new key repeats it");

    realm.delete("jane").await;
    until("it is gone", async || {
        realm.grants().get_opt("jane").await.expect("answers").is_none().then_some(())
    })
    .await;
    declare(before, 2).await;
    assert_eq!(realm.resets(), 2, "nor does the grant made anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_there_already_is_adopted_and_none_is_made() {
    let realm = Realm::new(Cluster::shared().await).await;
    let known = NewLicense::labeled(APP, "Stripe session cs_test_guide");
    let key = realm.authforge.insert(known);
    let _operator = realm.operator(&[]).await;
    let purchase = json!({"provider": "stripe", "kind": "session", "id": "cs_test_guide"});
    realm
        .declare("guide", &json!({"purchase": purchase, "licenses": [{"name": "main", "appId": APP}]}))
        .await;
    let grant = realm.until_settled("guide").await;
    assert_eq!(condition(&grant, READY).expect("ready").reason, "Adopted");
    assert_eq!(realm.keys("guide").await["main"], key);
    assert_eq!(realm.created(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_any_label_is_adopted_by_its_fingerprint_or_none_is() {
    let realm = Realm::new(Cluster::shared().await).await;
    let operator = realm.operator(&[]).await;
    let fingerprint = |key: &str| grantsmith_core::LicenseKey::new(key).fingerprint().to_string();
    let [bare, labeled] = [None, Some("order 17".to_owned())]
        .map(|label| realm.authforge.insert(NewLicense { label, ..NewLicense::labeled(APP, "") }));
    let adopting = |key: &str, generation: u32| json!([{"name": "main", "appId": APP, "adopt": fingerprint(key), "generation": generation}]);
    for (name, key) in [("bare", &bare), ("labeled", &labeled)] {
        realm.declare(name, &licenses(name, &adopting(key, 1))).await;
        let grant = realm.until_reason(name, "Adopted").await;
        assert_eq!((realm.keys(name).await["main"].as_str(), issued(&grant)), (key.as_str(), "1/1"));
    }
    // A key is one grant's.
    realm.declare("again", &licenses("again", &adopting(&bare, 1))).await;
    let grant = realm.until_reason("again", "KeyNotFound").await;
    let message = &condition(&grant, READY).expect("ready").message;
    assert!(message.contains("/bare already"), "{message}");
    realm.edit("again", &json!({"spec": {"deletionPolicy": "Revoke"}})).await;
    realm.delete("again").await;
    until("it is gone", async || {
        realm.grants().get_opt("again").await.expect("answers").is_none().then_some(())
    })
    .await;
    assert!(!license(&realm, &bare).revoked, "what it never had is not revoked with it");
    // One that nobody has is not made, until that is asked for.
    let unknown = "AAAA-BBBB-CCCC-DDDD";
    realm.declare("unknown", &licenses("unknown", &adopting(unknown, 1))).await;
    let grant = realm.until_reason("unknown", "KeyNotFound").await;
    let message = &condition(&grant, READY).expect("ready").message;
    assert!(message.contains("correct adopt"), "{message}");
    assert_eq!(realm.created(), 0);
    realm.declare("unknown", &licenses("unknown", &adopting(unknown, 2))).await;
    realm.until_reason("unknown", "Issued").await;

    // It is the grant's as any other: found again without its Secret, and revoked with it.
    operator.kill().await;
    realm.secrets().delete("bare-license", &DeleteParams::default()).await.expect("it is deleted");
    let _operator = realm.operator(&[]).await;
    until("the Secret", async || (realm.keys("bare").await.get("main") == Some(&bare)).then_some(())).await;
    realm.edit("bare", &json!({"spec": {"override": {"state": "Revoked"}}})).await;
    until("a revoked key", async || license(&realm, &bare).revoked.then_some(())).await;
    assert!(!license(&realm, &labeled).revoked);
    assert_eq!(realm.created(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_grants_that_name_one_key_at_once_one_has_it() {
    let realm = Realm::new(Cluster::shared().await).await;
    let key = realm.authforge.insert(NewLicense { label: None, ..NewLicense::labeled(APP, "") });
    let adopt = grantsmith_core::LicenseKey::new(key.as_str()).fingerprint();
    let names: Vec<String> = (0..8).map(|number| format!("g{number}")).collect();
    for name in &names {
        let entries = json!([
            {"name": "main", "appId": APP, "adopt": adopt},
            {"name": "own", "appId": APP},
        ]);
        realm.declare(name, &licenses(name, &entries)).await;
    }
    let _operator = realm.operator(&[]).await;
    let mut owners = Vec::new();
    for name in &names {
        let settled = |grant: &LicenseGrant| {
            let reason = condition(grant, READY).map(|ready| ready.reason.clone());
            matches!(reason.as_deref(), Some("Adopted" | "KeyNotFound")) && issued(grant) != "0/2"
        };
        realm.until_grant(name, "to have what it can have", settled).await;
        let keys = realm.keys(name).await;
        assert!(keys.contains_key("own"), "the others are not held up by it");
        owners.extend(keys.get("main").map(|there| (name, there.clone())));
    }
    assert_eq!(owners.len(), 1, "{owners:?}");
    assert_eq!(owners[0].1, key);
    for name in names.iter().filter(|name| *name != owners[0].0) {
        realm.edit(name, &json!({"spec": {"override": {"state": "Revoked"}}})).await;
        until("its own key to be revoked", async || {
            let own = realm.keys(name).await["own"].clone();
            license(&realm, &own).revoked.then_some(())
        })
        .await;
    }
    assert!(!license(&realm, &key).revoked, "nor is it revoked for another");
}

fn issued(grant: &LicenseGrant) -> &str {
    grant.status.as_ref().and_then(|status| status.issued.as_deref()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_or_spoiled_secret_comes_back_with_the_same_key() {
    let realm = Realm::new(Cluster::shared().await).await;
    let operator = realm.operator(&[]).await;
    let key = realm.issue("jane").await;
    let back = async |what: &str| {
        until(what, async || (realm.keys("jane").await.get("main") == Some(&key)).then_some(())).await;
    };
    realm.secrets().delete("jane-license", &DeleteParams::default()).await.expect("it is deleted");
    back("the deleted Secret").await;
    let spoiled = json!({"stringData": {"main": "WRNG-WRNG-WRNG-WRNG"}});
    let patch = kube::api::Patch::Merge(&spoiled);
    realm
        .secrets()
        .patch("jane-license", &kube::api::PatchParams::default(), &patch)
        .await
        .expect("it is spoiled");
    back("the spoiled Secret").await;
    operator.kill().await;
    realm.secrets().delete("jane-license", &DeleteParams::default()).await.expect("it is deleted");
    let _operator = realm.operator(&[]).await;
    back("the Secret that was deleted while nobody watched").await;
    assert_eq!(realm.created(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_uses_the_apps_that_it_may() {
    let realm = Realm::new(Cluster::shared().await).await;
    let rule = format!("{}={APP}", realm.namespace);
    let _operator = realm.operator(&["--allow", &rule]).await;
    realm.issue("own").await;
    let other = json!([{"name": "main", "appId": "another-app"}]);
    realm.declare("other", &licenses("other", &other)).await;
    let grant = realm.until_reason("other", "Rejected").await;
    let stalled = condition(&grant, STALLED).expect("stalled");
    assert_eq!(stalled.status, "True");
    assert!(stalled.message.contains("may not use app another-app"), "{}", stalled.message);
    assert_eq!(realm.created(), 1);
}
