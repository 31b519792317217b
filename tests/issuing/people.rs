//! What people do with kubectl, beside a server that declares grants.

use grantsmith_crd::LicenseGrant;
use grantsmith_tests::realm::manual;
use grantsmith_tests::stack::order;
use grantsmith_tests::{APP, until};
use memchr::memmem;
use serde_json::{Value, json};

use super::{bought, live, object, realm, stack};

#[tokio::test(flavor = "multi_thread")]
async fn an_override_by_kubectl_is_a_hand_and_is_taken_back_by_rpc() {
    let stack = stack().await;
    let (session, name) = bought(&stack, "jane@example.com").await;
    let key = live(&stack, &session);
    let hand = json!({"state": "Revoked", "reason": "charged back by phone", "by": "jane"});
    realm(&stack).edit(&name, &json!({"spec": {"override": hand}})).await;
    let grant = stack.until_grant(&session, "READY", "Overridden").await;
    assert_eq!(live(&stack, &session), Vec::<String>::new());
    let told = &grant["override"];
    assert_eq!((&told["state"], &told["person"]), (&"REVOKED".into(), &"jane".into()));
    assert_eq!(told["reason"], "charged back by phone");
    stack.json(&["grants", "clear-override", &name]).await;
    stack.until_grant(&session, "READY", "Issued").await;
    assert_eq!(live(&stack, &session), key, "the same key works again");
    let object = realm(&stack).grants().get(&name).await.expect("a grant");
    assert!(object.spec.hand.is_none(), "what was taken back over RPC is gone from the object");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hand_by_rpc_is_an_override_and_is_taken_back_by_kubectl() {
    let stack = stack().await;
    let (session, name) = bought(&stack, "jane@example.com").await;
    let key = live(&stack, &session);
    stack.json(&["grants", "revoke", &name, "--reason", "resold"]).await;
    stack.until_grant(&session, "READY", "Overridden").await;
    let object = realm(&stack).grants().get(&name).await.expect("a grant");
    let hand = serde_json::to_value(object.spec.hand).expect("an override");
    assert_eq!((&hand["state"], &hand["reason"]), (&"Revoked".into(), &"resold".into()));
    realm(&stack).edit(&name, &json!({"spec": {"override": null}})).await;
    let grant = stack.until_grant(&session, "READY", "Issued").await;
    assert!(grant["override"].is_null(), "{grant}");
    assert_eq!(live(&stack, &session), key);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_override_of_a_grant_by_kubectl_is_never_wiped() {
    let stack = stack().await;
    let realm = realm(&stack);
    let hand = json!({"state": "Revoked", "reason": "leaked", "by": "ann"});
    realm.declare("plain", &manual("plain")).await;
    stack.until_grant("default/plain", "READY", "Issued").await;
    realm.edit("plain", &json!({"spec": {"override": hand}})).await;
    let mut spec = manual("ruled");
    spec["override"] = hand.clone();
    realm.declare("ruled", &spec).await;
    for name in ["plain", "ruled"] {
        let told = stack.until_grant(&format!("default/{name}"), "READY", "Overridden").await;
        assert_eq!(told["override"]["person"], "ann", "{told}");
        // One more word of it, so that the server has looked at it again since.
        realm.edit(name, &json!({"spec": {"override": {"reason": "leaked for sure"}}})).await;
        realm
            .until_grant(name, "to be seen", |grant| {
                let seen = grant.status.as_ref().and_then(|status| status.observed_generation);
                seen == grant.metadata.generation
            })
            .await;
        let object = realm.grants().get(name).await.expect("a grant");
        let written = serde_json::to_value(object.spec.hand).expect("an override");
        assert_eq!((&written["state"], &written["by"]), (&hand["state"], &hand["by"]));
        assert_eq!(realm.live(name), Vec::<String>::new());
    }
    // A person takes it back on either side.
    realm.edit("plain", &json!({"spec": {"override": null}})).await;
    stack
        .json(&["grants", "clear-override", &object(&stack.grant("default/ruled").await.expect("a grant"))])
        .await;
    for name in ["plain", "ruled"] {
        stack.until_grant(&format!("default/{name}"), "READY", "Issued").await;
        assert!(realm.grants().get(name).await.expect("a grant").spec.hand.is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_override_that_ends_between_two_milliseconds_is_taken_in_once() {
    let stack = stack().await;
    let (session, name) = bought(&stack, "jane@example.com").await;
    let hand = json!({"expiresAt": "2099-01-01T00:00:00.123456+00:00"});
    realm(&stack).edit(&name, &json!({"spec": {"override": hand}})).await;
    let overridden = async || stack.grant(&session).await.filter(|grant| !grant["override"].is_null());
    until("the override", overridden).await;
    let taken_in = || stack.logs().matches("an override in the cluster was taken in").count();
    // A round of work that begins after it was taken in.
    stack.json(&["grants", "resend", &name]).await;
    stack.mail.as_ref().expect("mail").until_mails(2).await;
    assert_eq!(taken_in(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_bought_is_set_back_and_an_event_says_so() {
    let stack = stack().await;
    let (_, name) = bought(&stack, "jane@example.com").await;
    let before = realm(&stack).grants().get(&name).await.expect("a grant").spec;
    let mut changed = serde_json::to_value(&before.licenses).expect("licenses");
    changed[0]["expiresAt"] = json!("2040-01-01T00:00:00Z");
    realm(&stack).edit(&name, &json!({"spec": {"licenses": changed}})).await;
    realm(&stack).until_grant(&name, "to be as it was bought", |grant| grant.spec == before).await;
    until("an event", async || {
        realm(&stack).events(&name).await.contains(&"FieldReclaimed".to_owned()).then_some(())
    })
    .await;
    realm(&stack).until_settled(&name).await;
    let ends = stack.authforge.licenses()[0].expires_at.expect("an end");
    assert!(
        ends < "2030-01-01T00:00:00Z".parse().expect("a time"),
        "the license has the end that was bought"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_added_to_what_was_bought_is_taken_away() {
    let stack = stack().await;
    let forever = stack.buy(order().metadata("license_duration", "lifetime")).await;
    let name = super::mailed(&stack, &forever.session).await;
    let before = realm(&stack).grants().get(&name).await.expect("a grant").spec;
    let mut changed = serde_json::to_value(&before.licenses).expect("licenses");
    changed[0]["expiresAt"] = json!("2027-01-01T00:00:00Z");
    realm(&stack).edit(&name, &json!({"spec": {"licenses": changed}})).await;
    realm(&stack).until_grant(&name, "to be as it was bought", |grant| grant.spec == before).await;
    realm(&stack).until_settled(&name).await;
    until("an event", async || {
        realm(&stack).events(&name).await.contains(&"FieldReclaimed".to_owned()).then_some(())
    })
    .await;
    assert_eq!(stack.keys(&forever.session).await, live(&stack, &forever.session));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_replaced_by_kubectl_is_the_one_that_is_told_and_mailed() {
    let stack = stack().await;
    let (session, name) = bought(&stack, "jane@example.com").await;
    let old = live(&stack, &session);
    let grant = realm(&stack).grants().get(&name).await.expect("a grant");
    let mut licenses = serde_json::to_value(&grant.spec.licenses).expect("licenses");
    licenses[0]["generation"] = json!(2);
    realm(&stack).edit(&name, &json!({"spec": {"licenses": licenses}})).await;
    let mails = stack.mail.as_ref().expect("mail").until_mails(2).await;
    let mail = stack.mail.as_ref().expect("mail").mail(mails[1]["ID"].as_str().expect("an id")).await;
    let new = live(&stack, &session);
    assert!(new.len() == 1 && new != old, "the old key is revoked, the new one lives");
    assert!(mail["Text"].as_str().expect("a text").contains(&new[0]));
    assert_eq!(stack.keys(&session).await, new);
    let told = stack.json(&["grants", "key", &name]).await;
    assert_eq!(told[0]["license_key"], new[0].as_str());
    // A later decision does not bring the first generation back.
    let event = stack.json(&["events", "list", "--limit", "1"]).await;
    let event = event[0]["name"].as_str().expect("a name").to_owned();
    assert_eq!(stack.tool(&["events", "replay", &event]).await.0, 0);
    stack.settled().await;
    assert_eq!(stack.keys(&session).await, new);
    stack.assert_promise();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_by_kubectl_is_listed_and_mailed_only_if_it_says_so() {
    let stack = stack().await;
    let with = |reference: &str, delivery: &str| {
        let mut spec = manual(reference);
        spec["customer"] = json!({"email": format!("{reference}@example.com")});
        spec["delivery"] = json!(delivery);
        spec
    };
    realm(&stack).declare("quiet", &with("quiet", "None")).await;
    realm(&stack).declare("loud", &with("loud", "Mail")).await;
    let listed =
        async |reference: &str| stack.until_grant(&format!("default/{reference}"), "READY", "Issued").await;
    let (quiet, loud) = (listed("quiet").await, listed("loud").await);
    let told = |grant: &LicenseGrant| {
        grant
            .metadata
            .annotations
            .as_ref()
            .is_some_and(|notes| notes.contains_key("grantsmith.dev/delivered"))
    };
    realm(&stack).until_grant("loud", "to be known as delivered, should the record be lost", told).await;
    assert_eq!(quiet["delivery"], Value::Null);
    let mails = stack.mail.as_ref().expect("mail").until_mails(1).await;
    assert_eq!(mails[0]["To"][0]["Address"], "loud@example.com");
    let key = realm(&stack).keys("quiet").await.remove("main").expect("a key");
    let name = object(&quiet);
    let shown = stack.json(&["grants", "key", &name]).await;
    assert_eq!(shown[0]["license_key"], key.as_str(), "the key comes from the grant's own Secret");
    let refused = stack.tool(&["grants", "replace", &name]).await;
    assert!(refused.0 == 1 && refused.2.contains("LicenseGrant 'quiet'"), "{}", refused.2);
    let bought = bought(&stack, "other@example.com").await;
    assert_eq!(stack.mail.as_ref().expect("mail").mails().await.len(), 2, "one for {bought:?}");
    assert_eq!(loud["licenses"][0]["app_id"], APP);
    realm(&stack).delete("loud").await;
    stack.until_grant("default/loud", "ENDED", "Canceled").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_was_deleted_before_its_mail_went_out_is_mailed_once_it_is_applied_again() {
    let stack = stack().await;
    let mail = stack.mail.as_ref().expect("mail");
    mail.refuse(451).await;
    let mut spec = manual("again");
    spec["customer"] = json!({"email": "again@example.com"});
    spec["delivery"] = json!("Mail");
    realm(&stack).declare("again", &spec).await;
    until("the mail to be put off", async || {
        let grant = stack.grant("default/again").await?;
        (grant["delivery"]["reason"] == "MailRefused").then_some(())
    })
    .await;
    let keys = realm(&stack).keys("again").await;
    realm(&stack).delete("again").await;
    stack.until_grant("default/again", "ENDED", "Canceled").await;
    mail.refuse(0).await;
    realm(&stack).declare("again", &spec).await;
    let mails = mail.until_mails(1).await;
    assert_eq!(mails[0]["To"][0]["Address"], "again@example.com");
    assert_eq!((keys.len(), realm(&stack).keys("again").await), (1, keys), "no key was made anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purchase_is_named_by_its_hash_and_nothing_tells_its_buyer() {
    let stack = stack().await;
    let (session, name) = bought(&stack, "very.secret@example.com").await;
    let found = realm(&stack).grants().get(&name).await.expect("a grant");
    assert_eq!(found.spec.purchase.id.as_deref(), Some(session.as_str()));
    assert!(found.spec.purchase.paid_at.is_some());
    assert!(!name.contains(&session[3..]));
    let text = serde_json::to_string(&found).expect("JSON");
    assert!(!text.contains("very.secret"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_in_their_secrets_and_not_in_the_record() {
    let mut stack = stack().await;
    let mut secrets = Vec::new();
    for buyer in ["a@example.com", "b@example.com"] {
        let (session, name) = bought(&stack, buyer).await;
        let keys = stack.keys(&session).await;
        assert_eq!(keys, live(&stack, &session));
        let place = format!("/registry/secrets/{}/{name}-license", realm(&stack).namespace);
        secrets.push((place, keys[0].clone()));
    }
    let metrics = stack.metrics().await;
    assert_eq!(stack.stop_back().await, Some(0));
    let logs = stack.logs();
    let stored = realm(&stack).cluster.stored().await;
    let has = |bytes: &[u8], key: &str| memmem::find(bytes, key.as_bytes()).is_some();
    for (place, key) in &secrets {
        for entry in std::fs::read_dir(stack.folder.path()).expect("a folder") {
            let path = entry.expect("an entry").path();
            let bytes = std::fs::read(&path).unwrap_or_default();
            assert!(!has(&bytes, key), "a key is in {}", path.display());
        }
        assert!(!has(logs.as_bytes(), key) && !has(metrics.as_bytes(), key));
        let places = stored.iter().filter(|(_, value)| has(value, key)).map(|(place, _)| place);
        assert_eq!(places.collect::<Vec<_>>(), [place]);
    }
}
