use super::*;
use grantsmith_core::testing::ManualClock;
use serde_json::{Value, json};

fn index(clock: &ManualClock) -> Index {
    let index = Index::new("default", Arc::new(clock.clone()));
    index.watching("licenses");
    index
}

fn grant(name: &str, version: &str, created: &str, status: &Value) -> LicenseGrant {
    serde_json::from_value(json!({
        "apiVersion": "grantsmith.dev/v1alpha1",
        "kind": "LicenseGrant",
        "metadata": {
            "name": name, "namespace": "licenses", "uid": format!("uid-{name}"), "generation": 1,
            "resourceVersion": version, "creationTimestamp": created,
        },
        "spec": {"purchase": {"provider": "stripe", "id": "cs_1"}, "licenses": [{"name": "main", "appId": "a"}]},
        "status": status,
    }))
    .expect("a grant")
}

fn issued() -> Value {
    json!({"observedGeneration": 1, "licenses": [{
        "name": "main", "generation": 1, "state": "Live", "key": "****", "fingerprint": "0a", "appId": "a",
        "createdAt": "2026-11-24T00:00:00Z",
    }]})
}

const FRESH: Fresh = Fresh { lag: Duration::from_secs(90), young: SignedDuration::from_mins(15) };

const EARLY: &str = "2026-11-24T00:00:00Z";
const LATE: &str = "2026-11-24T00:00:01Z";

fn purchase() -> GrantId {
    GrantId::of(&grantsmith_core::PurchaseId::parse("cs_1").expect("a purchase"))
}

#[test]
fn what_is_behind_does_not_replace_what_is_known() {
    let index = index(&ManualClock::default());
    let settled = grant("a", "7", EARLY, &issued());
    let place = Place::of(&settled);
    index.follow(&settled);
    index.follow(&grant("a", "6", EARLY, &json!({})));
    assert_eq!(index.rest(&place), Some(Rest::Settled));
    index.observe(&grant("a", "6", EARLY, &json!({})));
    assert_eq!(index.rest(&place), Some(Rest::Now), "a restored cluster counts anew");
}

#[test]
fn a_purchase_is_the_oldest_grants_or_that_with_a_record() {
    let of = |grants: &[LicenseGrant]| {
        let index = index(&ManualClock::default());
        for grant in grants {
            index.follow(grant);
        }
        let b = Place::of(&grants[0]).beside("b");
        index.claim(&purchase(), &b).err().map_or("b".into(), |owner| owner.name)
    };
    let (a, b) = (grant("a", "1", EARLY, &json!({})), grant("b", "2", LATE, &json!({})));
    assert_eq!(&*of(&[a.clone(), b]), "a");
    assert_eq!(&*of(&[a, grant("b", "2", LATE, &issued())]), "b");
}

#[test]
fn the_heir_of_a_purchase_is_woken_and_knows_that_there_was_a_license() {
    let clock = ManualClock::default();
    let index = index(&clock);
    let (owner, heir) = (grant("a", "1", EARLY, &issued()), grant("b", "2", LATE, &json!({})));
    clock.advance(Duration::from_secs(600));
    index.follow(&owner);
    index.follow(&heir);
    let heir = Place::of(&heir);
    let paid_at = Some(EARLY.parse().expect("a time"));
    let past = || index.past(&heir, &purchase(), paid_at, FRESH);
    assert_eq!(past(), Past::Unknown, "another grant of it has a license");
    assert_eq!(index.remove(&Place::of(&owner)), std::slice::from_ref(&heir));
    assert_eq!(index.claim(&purchase(), &heir), Ok(()));
    let listed = clock.now().moment.plus(Duration::from_secs(90));
    assert_eq!(past(), Past::KnownFrom(listed), "it is still there, and may not be listed yet");
}

#[test]
fn only_what_was_paid_while_we_watched_is_fresh() {
    let clock = ManualClock::default();
    let index = index(&clock);
    let came = |name: &str| {
        let mut lone = grant(name, "1", LATE, &json!({}));
        lone.spec.purchase.id = Some(format!("cs_{name}"));
        index.follow(&lone);
        Place::of(&lone)
    };
    let purchase = |name: &str| {
        GrantId::of(&grantsmith_core::PurchaseId::parse(&format!("cs_{name}")).expect("a purchase"))
    };
    let past = |name: &str, place: &Place, seconds_before: i64| {
        let created: Timestamp = LATE.parse().expect("a time");
        let paid_at = created - SignedDuration::from_secs(seconds_before);
        index.past(place, &purchase(name), Some(paid_at), FRESH)
    };
    let first = came("first");
    let start = clock.now().moment;
    assert_eq!(past("first", &first, 0), Past::KnownFrom(start), "it was there when we came");
    clock.advance(Duration::from_secs(60));
    assert_eq!(past("first", &first, 0), Past::KnownFrom(start), "and it does not become fresh");
    let second = came("second");
    // The machine's wall clock plays no part.
    clock.skew(SignedDuration::from_hours(5));
    assert_eq!(past("second", &second, 49), Past::None);
    assert_eq!(
        past("second", &second, 51),
        Past::KnownFrom(start),
        "whoever was here before us may have made it"
    );
    assert_eq!(past("second", &second, 3_000), Past::KnownFrom(clock.now().moment), "or somebody elsewhere");
    index.watching("licenses");
    assert_ne!(past("second", &second, 0), Past::None, "a watch that is begun anew has a gap before it");
}

#[test]
fn the_budget_is_that_of_the_last_hour_and_of_what_is_on_record() {
    let clock = ManualClock::default();
    let index = index(&clock);
    let now = clock.now().wall;
    let mut status = issued();
    status["licenses"][0]["revokedAt"] = json!((now - SignedDuration::from_mins(50)).to_string());
    status["licenses"][0]["cause"] = json!("Rule");
    status["licenses"][0]["state"] = json!("Revoked");
    index.follow(&grant("a", "1", EARLY, &status));
    assert_eq!(index.revocations(now), 1);
    let key = |n| Fingerprint::parse(n).expect("a fingerprint");
    assert!(index.spend(key("1"), now, 2));
    assert!(!index.spend(key("2"), now, 2));
    index.refund(key("1"), now);
    assert!(index.spend(key("2"), now, 2));
    assert!(index.spend(key("3"), now + SignedDuration::from_mins(11), 2), "the first has become old");
}

#[test]
fn a_grant_without_its_secret_is_woken() {
    let index = index(&ManualClock::default());
    let bereft = grant("a", "1", EARLY, &issued());
    index.follow(&bereft);
    let (place, secret) = (Place::of(&bereft), Place::of(&bereft).beside("a-license"));
    assert_eq!(index.touch_bereft(), std::slice::from_ref(&place));
    index.begin(&place);
    assert_eq!(index.observe_secret(&secret, "uid-a", "1"), None);
    assert!(index.touch_bereft().is_empty());
    assert_eq!(index.observe_secret(&secret, "uid-a", "2").as_ref(), Some(&place), "somebody has changed it");
    assert_eq!(index.remove_secret(&secret).as_ref(), Some(&place));
    assert_eq!(index.rest(&place), Some(Rest::Now));
}
