//! Each reason that keeps a grant from being as declared, brought about, and the way out of it.

use grantsmith_authforge::fake::{CallKind, Fault, NewLicense};
use grantsmith_crd::{KeptState, LicenseGrant, RECONCILING, STALLED};
use grantsmith_tests::realm::{Operator, Realm, condition, manual};
use grantsmith_tests::{APP, AUTHFORGE_KEY, Cluster, until};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, ObjectMeta, PostParams};
use serde_json::{Value, json};

/// Compares everything every second, and trusts listings after one.
const AUDITS: [&str; 4] = ["--drift-interval", "1s", "--lost-create-quarantine", "1s"];

/// In milliseconds: what is made shows in listings after the test.
const AN_HOUR: u64 = 3_600_000;

fn message(grant: &LicenseGrant) -> String {
    condition(grant, "Ready").expect("ready").message.clone()
}

fn assert_stalled(grant: &LicenseGrant) {
    assert_eq!(condition(grant, STALLED).expect("stalled").status, "True");
    assert_eq!(condition(grant, "Ready").expect("ready").status, "False");
}

fn assert_reconciling(grant: &LicenseGrant) {
    assert_eq!(condition(grant, RECONCILING).expect("reconciling").status, "True");
    assert_eq!(condition(grant, STALLED).expect("stalled").status, "False");
}

async fn state(realm: &Realm<'_>, name: &str, entry: Value) {
    let grant = realm.grants().get(name).await.expect("a grant");
    let mut license = serde_json::to_value(&grant.spec.licenses[0]).expect("JSON");
    for (field, value) in entry.as_object().expect("fields") {
        license[field] = value.clone();
    }
    realm.edit(name, &json!({"spec": {"licenses": [license]}})).await;
}

/// Until an operator has found out about the present.
async fn until_told(realm: &Realm<'_>, operator: &Operator, reason: &str) {
    realm
        .until_grant("jane", &format!("to be {reason}; {}", operator.log()), |grant| {
            condition(grant, "Ready").is_some_and(|condition| condition.reason == reason)
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_grants_of_one_purchase_the_oldest_owns_it() {
    let realm = Realm::new(Cluster::shared().await).await;
    let operator = realm.operator(&[]).await;
    let spec = manual("press");
    realm.declare("first", &spec).await;
    let key = realm.until_key("first").await;
    realm.declare("second", &spec).await;
    let grant = realm.until_reason("second", "DuplicatePurchase").await;
    assert_stalled(&grant);
    assert!(message(&grant).contains("/first"), "{}", message(&grant));
    assert!(realm.keys("second").await.is_empty());
    // Nor does a restart change whose it is; and the heir takes the key over when the owner goes.
    operator.kill().await;
    let _operator = realm.operator(&[]).await;
    realm.delete("first").await;
    assert_eq!(realm.until_key("second").await, key);
    assert_eq!(realm.created(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_comes_second_leaves_the_work_on_the_first_alone() {
    let realm = Realm::new(Cluster::shared().await).await;
    let _operator = realm.operator(&[]).await;
    realm.authforge.switch(|switches| switches.latency_ms = 1_500);
    realm.declare("first", &manual("press")).await;
    until("a request", async || (realm.authforge.counts().of(CallKind::Create) > 0).then_some(())).await;
    realm.declare("second", &manual("press")).await;
    realm.until_reason("second", "DuplicatePurchase").await;
    realm.authforge.switch(|switches| switches.latency_ms = 0);
    realm.until_settled("first").await;
    assert_eq!(realm.live("press").len(), 1);
    let counts = realm.authforge.counts();
    let calls = (counts.of(CallKind::List), counts.of(CallKind::Create));
    assert_eq!(calls, (1, 1), "looked for before it was made; its answer was not lost");
    let told = realm.events("first").await;
    assert!(!told.iter().any(|reason| reason == "DuplicatePurchase"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_of_somebody_elses_is_left_alone_and_nothing_is_made() {
    let realm = Realm::new(Cluster::shared().await).await;
    let _operator = realm.operator(&[]).await;
    let metadata = ObjectMeta { name: Some("jane-license".to_owned()), ..ObjectMeta::default() };
    let data = [("main".to_owned(), "theirs".to_owned())].into();
    let other = Secret { metadata, string_data: Some(data), ..Secret::default() };
    realm.secrets().create(&PostParams::default(), &other).await.expect("a Secret");
    realm.declare("jane", &manual("jane")).await;
    assert_stalled(&realm.until_reason("jane", "SecretNameTaken").await);
    assert_eq!((realm.created(), realm.keys("jane").await["main"].as_str()), (0, "theirs"));
    realm.edit("jane", &json!({"spec": {"secretName": "jane-key"}})).await;
    realm.until_settled("jane").await;
    let secret = realm.secrets().get("jane-key").await.expect("a Secret");
    assert!(secret.data.expect("data").contains_key("main"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_revoked_stays_revoked_until_a_hand_wants_it() {
    let realm = Realm::new(Cluster::shared().await).await;
    let _operator = realm.operator(&AUDITS).await;
    let key = realm.issue("jane").await;
    assert!(realm.authforge.revoke_by_hand(&key));
    assert_stalled(&realm.until_reason("jane", "RevokedElsewhere").await);
    assert!(realm.live("jane").is_empty(), "it was not brought back");
    realm.edit("jane", &json!({"spec": {"override": {"state": "Active"}}})).await;
    realm.until_settled("jane").await;
    assert_eq!(realm.live("jane"), [key]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_audit_found_while_a_grant_was_paused_is_not_believed_later() {
    let realm = Realm::new(Cluster::shared().await).await;
    let operator = realm.operator(&AUDITS).await;
    let key = realm.issue("jane").await;
    realm.edit("jane", &json!({"spec": {"paused": true}})).await;
    realm.until_reason("jane", "Paused").await;
    assert!(realm.authforge.revoke_by_hand(&key));
    until_audited(&operator, 2.0).await;
    put(&realm, &key, &json!({"action": "activate"})).await;
    // A listing may be as old as the quarantine is long.
    until_audited(&operator, 3.0).await;
    realm.edit("jane", &json!({"spec": {"paused": false}})).await;
    realm.until_reason("jane", "Issued").await;
    until_audited(&operator, 2.0).await;
    realm.until_reason("jane", "Issued").await;
    assert_eq!(realm.live("jane"), [key]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_revoked_without_our_knowing_comes_back_when_a_hand_wants_it() {
    let realm = Realm::new(Cluster::shared().await).await;
    let _operator = realm.operator(&[]).await;
    let key = realm.issue("jane").await;
    assert!(realm.authforge.revoke_by_hand(&key));
    realm.edit("jane", &json!({"spec": {"override": {"state": "Active"}}})).await;
    realm.until_reason("jane", "Overridden").await;
    realm.until_settled("jane").await;
    assert_eq!(realm.live("jane"), [key]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_live_license_that_we_did_not_make_is_for_a_person() {
    let realm = Realm::new(Cluster::shared().await).await;
    let two = [(); 2].map(|()| realm.authforge.insert(NewLicense::labeled(APP, "Grant default/jane")));
    let _operator = realm.operator(&[]).await;
    let entry = json!([{"name": "main", "appId": APP}]);
    let purchase = json!({"provider": "manual", "reference": "jane"});
    realm.declare("jane", &json!({"purchase": purchase, "licenses": entry})).await;
    assert_stalled(&realm.until_reason("jane", "DuplicateLicenses").await);
    assert_eq!(realm.live("jane").len(), 2, "both live on");
    assert!(two.contains(&realm.keys("jane").await["main"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_budget_revocations_wait_and_are_released_by_hand() {
    let realm = Realm::new(Cluster::shared().await).await;
    let operator = realm.operator(&["--revocation-budget", "2/h"]).await;
    let names = ["a", "b", "c"];
    for name in names {
        realm.issue(name).await;
    }
    for name in names {
        state(&realm, name, json!({"state": "Revoked", "reason": "Refunded"})).await;
    }
    let reason = |grant: &LicenseGrant| condition(grant, "Ready").map(|condition| condition.reason.clone());
    let held = async || {
        let mut held = Vec::new();
        for name in names {
            let grant = realm.grants().get(name).await.ok()?;
            let current = grant.status.as_ref()?.observed_generation == grant.metadata.generation;
            match reason(&grant)?.as_str() {
                "RevocationHeld" => held.push(name),
                "Refunded" if current => {}
                _ => return None,
            }
        }
        (held.len() == 1).then(|| held[0])
    };
    let waiting = until("one that waits", held).await;
    assert_eq!(realm.live(waiting).len(), 1);
    assert_reconciling(&realm.grants().get(waiting).await.expect("a grant"));
    // A restart hands out no new budget, and new purchases go on.
    operator.kill().await;
    let _operator = realm.operator(&["--revocation-budget", "2/h"]).await;
    realm.issue("d").await;
    state(&realm, "d", json!({"state": "Revoked", "reason": "Refunded"})).await;
    realm.until_reason("d", "RevocationHeld").await;
    realm.edit(waiting, &json!({"spec": {"override": {"release": true}}})).await;
    realm.until_reason(waiting, "Refunded").await;
    assert!(realm.live(waiting).is_empty());
    assert_eq!(realm.live("d").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_the_definition_let_pass_is_not_made() {
    let cluster = Cluster::start().await;
    cluster.define_grants().await;
    let realm = Realm::new(&cluster).await;
    let _operator = realm.operator(&[]).await;
    let key = realm.issue("jane").await;
    let definitions: Api<CustomResourceDefinition> = Api::all(realm.client.clone());
    let mut lax = grantsmith_crd::definition();
    let there = definitions.get("licensegrants.grantsmith.dev").await.expect("a definition");
    lax.metadata.resource_version = there.metadata.resource_version;
    let schema = lax.spec.versions[0].schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut());
    let schema = schema.expect("a schema");
    schema.x_kubernetes_validations = None;
    let spec = schema.properties.as_mut().and_then(|fields| fields.get_mut("spec")).expect("a spec");
    *spec = serde_json::from_value(json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}))
        .expect("a schema");
    definitions
        .replace("licensegrants.grantsmith.dev", &PostParams::default(), &lax)
        .await
        .expect("it is replaced");
    let change = json!({"spec": {"licenses": [{"name": "main", "appId": "another-app"}]}});
    let patch = kube::api::Patch::Merge(&change);
    until("the laxer definition", async || {
        realm.grants().patch("jane", &kube::api::PatchParams::default(), &patch).await.ok()
    })
    .await;
    let grant = realm.until_reason("jane", "ChangeNotSupported").await;
    assert_stalled(&grant);
    assert!(message(&grant).contains("put the old appId back"), "{}", message(&grant));
    assert_eq!((realm.live("jane"), realm.created()), (vec![key], 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_return_is_told_and_a_new_generation_is_the_way_out() {
    let realm = Realm::new(Cluster::shared().await).await;
    realm.authforge.switch(|switches| switches.activate_refused = true);
    let _operator = realm.operator(&[]).await;
    realm.issue("jane").await;
    state(&realm, "jane", json!({"state": "Suspended"})).await;
    realm.until_reason("jane", "Canceled").await;
    state(&realm, "jane", json!({"state": "Active"})).await;
    let grant = realm.until_reason("jane", "ReinstateRefused").await;
    assert_stalled(&grant);
    assert!(message(&grant).contains("raise its generation"), "{}", message(&grant));
    state(&realm, "jane", json!({"generation": 2})).await;
    let key = realm.until_key("jane").await;
    assert_eq!(
        realm
            .authforge
            .licenses()
            .into_iter()
            .filter(|license| !license.revoked)
            .map(|l| l.key)
            .collect::<Vec<_>>(),
        [key]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_earlier_end_is_made_by_a_revocation_at_that_time() {
    use grantsmith_core::port::Clock as _;
    let realm = Realm::new(Cluster::shared().await).await;
    realm.authforge.switch(|switches| switches.shorten_refused = true);
    let _operator = realm.operator(&[]).await;
    realm.issue("jane").await;
    let soon = grantsmith_authforge::SystemClock.now().wall + jiff::SignedDuration::from_secs(4);
    state(&realm, "jane", json!({"expiresAt": soon.to_string()})).await;
    assert_stalled(&realm.until_reason("jane", "ShortenRefused").await);
    assert_eq!(realm.live("jane").len(), 1, "its time has not come");
    realm.until_reason("jane", "Expired").await;
    assert!(realm.live("jane").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_said_and_the_license_found() {
    let realm = Realm::new(Cluster::shared().await).await;
    realm.authforge.switch(|switches| switches.list_lag_ms = 2_500);
    realm.authforge.script(CallKind::Create, [Fault::LostAfter]);
    let _operator = realm.operator(&[]).await;
    realm.declare("jane", &manual("jane")).await;
    let grant = realm.until_reason("jane", "OutcomeUnknown").await;
    assert_reconciling(&grant);
    assert!(message(&grant).contains("The answer of a create was lost"), "{}", message(&grant));
    let key = realm.until_key("jane").await;
    assert_eq!((realm.live("jane"), realm.created()), (vec![key], 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_authforge_refuses_for_now_is_told_and_goes_on_by_itself() {
    let realm = Realm::new(Cluster::shared().await).await;
    let operator = realm.operator(&[]).await;
    realm.authforge.switch(|switches| switches.no_credits = true);
    realm.declare("jane", &manual("jane")).await;
    until_told(&realm, &operator, "CreditsExhausted").await;
    realm.authforge.switch(|switches| switches.no_credits = false);
    let key = realm.until_key("jane").await;
    realm.authforge.switch(|switches| switches.unauthorized = true);
    state(&realm, "jane", json!({"expiresAt": "2031-01-01T00:00:00Z"})).await;
    until_told(&realm, &operator, "Unauthorized").await;
    realm.authforge.switch(|switches| switches.unauthorized = false);
    realm.until_settled("jane").await;
    realm.authforge.switch(|switches| switches.down = true);
    state(&realm, "jane", json!({"expiresAt": "2032-01-01T00:00:00Z"})).await;
    until_told(&realm, &operator, "AuthForgeUnavailable").await;
    realm.authforge.switch(|switches| switches.down = false);
    realm.until_settled("jane").await;
    assert_eq!((realm.live("jane"), realm.created()), (vec![key], 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_is_refused_waits_on_after_a_restart() {
    let realm = Realm::new(Cluster::shared().await).await;
    realm.authforge.switch(|switches| switches.apps = Some(Vec::new()));
    let operator = realm.operator(&[]).await;
    realm.declare("jane", &manual("jane")).await;
    assert_stalled(&realm.until_reason("jane", "Rejected").await);
    let next = |grant: LicenseGrant| grant.status.expect("a status").next_retry.expect("a time");
    let before = next(
        realm
            .until_grant("jane", "to have failed", |grant| {
                grant.status.as_ref().is_some_and(|status| status.tries.is_some())
            })
            .await,
    );
    operator.kill().await;
    realm.authforge.reset_counts();
    let _operator = realm.operator(&[]).await;
    // It has looked at everything that was there when it started, and at what came then.
    let mut paused = manual("paused");
    paused["paused"] = json!(true);
    realm.declare("paused", &paused).await;
    realm.until_reason("paused", "Paused").await;
    let after = next(realm.grants().get("jane").await.expect("a grant"));
    assert_eq!(before, after, "it waits as long as it would have");
    assert_eq!(realm.authforge.counts().calls.values().sum::<u64>(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_differs_is_reported_or_brought_back_as_the_policy_says() {
    let realm = Realm::new(Cluster::shared().await).await;
    let operator = realm.operator(&AUDITS).await;
    let key = realm.issue("jane").await;
    state(&realm, "jane", json!({"expiresAt": "2031-01-01T00:00:00Z"})).await;
    realm.until_settled("jane").await;
    put(&realm, &key, &json!({"action": "extend", "expiresAt": "2040-01-01T00:00:00Z"})).await;
    let drifted = |grant: &LicenseGrant| {
        grant
            .status
            .as_ref()
            .is_some_and(|status| status.licenses.iter().any(|license| license.drift.is_some()))
    };
    realm.until_grant("jane", "to differ", drifted).await;
    until_audited(&operator, 2.0).await;
    let metrics = operator.metrics().await;
    assert!(metrics.contains("\ngrantsmith_drifted_licenses 1\n"), "told as long as it differs: {metrics}");
    let expiry = || realm.authforge.licenses()[0].expires_at.expect("an end").to_string();
    assert_eq!(expiry(), "2040-01-01T00:00:00Z", "it was only said");
    operator.kill().await;
    let mut repairing = AUDITS.to_vec();
    repairing.extend(["--drift-policy", "repair"]);
    let _operator = realm.operator(&repairing).await;
    realm.until_grant("jane", "to agree again", |grant| !drifted(grant)).await;
    assert_eq!(expiry(), "2031-01-01T00:00:00Z");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_listing_does_not_show_changes_nothing() {
    let realm = Realm::new(Cluster::shared().await).await;
    let operator = realm.operator(&AUDITS).await;
    let key = realm.issue("jane").await;
    realm.authforge.switch(|switches| switches.list_lag_ms = AN_HOUR);
    realm
        .until_grant("jane", "to be missed", |grant| {
            grant
                .status
                .as_ref()
                .is_some_and(|status| status.licenses.iter().any(|license| license.drift.is_some()))
        })
        .await;
    let grant = realm.until_settled("jane").await;
    assert_eq!(grant.status.expect("a status").licenses[0].state, KeptState::Live);
    assert_eq!((realm.live("jane"), realm.created()), (vec![key.clone()], 1));
    realm
        .authforge
        .script(CallKind::List, [Fault::TruncatedBody, Fault::FiveHundredBefore, Fault::Status(404)]);
    until_audited(&operator, 3.0).await;
    assert_eq!((realm.live("jane"), realm.keys("jane").await["main"].clone()), (vec![key.clone()], key));
}

/// As somebody does in the dashboard.
async fn put(realm: &Realm<'_>, key: &str, action: &Value) {
    let address = format!("{}/v1/licenses/{key}", realm.authforge.url());
    let client = grantsmith_authforge::http_client(&[]).expect("a client");
    let answer = client.put(address).bearer_auth(AUTHFORGE_KEY).json(action).send().await;
    assert!(answer.expect("an answer").status().is_success());
}

/// Until so many audits more were made.
async fn until_audited(operator: &Operator, more: f64) {
    let before = operator_audits(operator).await;
    until("audits", async || (operator_audits(operator).await >= before + more).then_some(())).await;
}

async fn operator_audits(operator: &Operator) -> f64 {
    let metrics = operator.metrics().await;
    let lines = metrics.lines().filter(|line| line.starts_with("grantsmith_audits_total"));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn when_everything_was_compared_last_is_known_after_a_restart() {
    let realm = Realm::new(Cluster::shared().await).await;
    let first = realm.start(&realm.plan(&AUDITS)).await;
    realm.issue("jane").await;
    until("an audit", async || (operator_audits(&first).await > 0.0).then_some(())).await;
    // Written down with the next renewal.
    realm.beats(2).await;
    first.stop().await;
    let remembered = async || {
        let leases: Api<Lease> = Api::namespaced(realm.client.clone(), &realm.namespace);
        let lease = leases.get("grantsmith-operator").await.expect("a lease");
        lease.metadata.annotations.expect("a note")["grantsmith.dev/audited-at"].clone()
    };
    let before = remembered().await;
    realm.authforge.reset_counts();
    let second = realm.start(&realm.plan(&["--drift-interval", "1h"])).await;
    second.until_ready().await;
    realm.beats(2).await;
    assert_eq!(remembered().await, before, "it is not due, and not forgotten");
    assert_eq!(realm.authforge.counts().of(CallKind::List), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_whose_license_is_gone_for_good_is_told() {
    let realm = Realm::new(Cluster::shared().await).await;
    let _operator = realm.operator(&[]).await;
    realm.issue("jane").await;
    realm.authforge.switch(|switches| switches.list_lag_ms = AN_HOUR);
    realm.secrets().delete("jane-license", &DeleteParams::default()).await.expect("it is deleted");
    let grant = realm.until_reason("jane", "RevokedElsewhere").await;
    assert_stalled(&grant);
    assert_eq!(realm.created(), 1, "and none is made for it");
}
