use super::*;
use jiff::Timestamp;
use serde_json::json;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

fn spec(value: serde_json::Value) -> LicenseGrantSpec {
    serde_json::from_value(value).expect("a spec")
}

#[test]
fn a_grant_written_by_hand_is_all_that_core_needs() {
    let spec = spec(json!({
        "purchase": {"provider": "manual", "reference": "press-2026-17"},
        "customer": {"email": "jane@example.com"},
        "licenses": [{"name": "main", "appId": "app-1", "maxHwidSlots": 2, "expiresAt": "2027-01-01T00:00:00Z"}],
    }));
    let grant = spec.grant("default").expect("a grant");
    assert_eq!(grant.purchase.as_str(), "default/press-2026-17");
    assert_eq!(grant.paid_at, None);
    let license = &grant.licenses[0];
    assert_eq!((license.name.as_str(), license.generation), ("main", 1));
    assert_eq!((license.slots, license.state), (Slots::Limited(2), DesiredState::Active));
    assert_eq!((license.reason, license.cause), (Reason::Issued, Cause::Rule));
}

#[test]
fn an_override_outranks_what_is_declared() {
    let spec = spec(json!({
        "purchase": {"provider": "stripe", "id": "cs_1"},
        "licenses": [{"name": "main", "appId": "app-1", "state": "Revoked", "expiresAt": "2027-01-01T00:00:00Z"}],
        "override": {"state": "Active", "neverExpires": true},
    }));
    let grant = spec.grant("default").expect("a grant");
    let license = &grant.licenses[0];
    assert_eq!((license.state, license.cause), (DesiredState::Active, Cause::Hand));
    assert_eq!((license.expires_at, license.reason), (None, Reason::Overridden));
}

#[test]
fn what_names_no_purchase_is_told() {
    for (purchase, error) in [
        (json!({"provider": "stripe"}), Error::NoPurchase),
        (json!({"provider": "manual", "id": "cs_1"}), Error::NoPurchase),
        (json!({"provider": "stripe", "id": "cs_1", "reference": "x"}), Error::NoPurchase),
        (json!({"provider": "stripe", "id": "in_1"}), Error::Id(InvalidId)),
        (json!({"provider": "stripe", "id": "default/x"}), Error::Id(InvalidId)),
        (json!({"provider": "manual", "reference": "a b"}), Error::Reference(InvalidManualId::Reference)),
    ] {
        let purchase: Purchase = serde_json::from_value(purchase).expect("a purchase");
        assert_eq!(purchase.purchase_id("default"), Err(error));
    }
}

#[test]
fn what_is_written_down_is_read_back() {
    let key = LicenseKey::new("ABCD-EFGH-JKLM-NPQR");
    let states = [
        port::KeptState::Live,
        port::KeptState::Revoking { at: at(5), cause: Cause::Hand },
        port::KeptState::Revoked { at: at(6), cause: Cause::Rule },
        port::KeptState::Reinstating,
        port::KeptState::RevokedElsewhere,
    ];
    let refusals = [None, Some(port::Refusal::Reinstate), Some(port::Refusal::Shorten(at(7)))];
    for state in states {
        for refused in refusals {
            let kept = Kept {
                name: LicenseName::of_unit(2),
                generation: 3,
                key: key.clone(),
                app_id: AppId::parse("app-1").expect("an app"),
                slots: Some(Slots::Unlimited),
                created_at: at(1),
                expires_at: Some(at(9)),
                attempt: Some(AttemptId("a1".to_owned())),
                state,
                duplicated: true,
                refused,
            };
            let written = serde_json::to_string(&LicenseStatus::of(&kept)).expect("JSON");
            assert!(!written.contains(key.expose()), "a status holds no key");
            let read: LicenseStatus = serde_json::from_str(&written).expect("a status");
            assert_eq!(read.kept(key.clone()), Ok(kept));
        }
    }
    for outcome in [
        Outcome::Open,
        Outcome::Answered { at: at(4) },
        Outcome::Found,
        Outcome::Absent,
        Outcome::NotSent,
        Outcome::Refused,
    ] {
        let attempt = Attempt {
            id: AttemptId("a1".to_owned()),
            name: LicenseName::main(),
            generation: 1,
            opened_at: at(2),
            clock_offset: SignedDuration::from_millis(-1_500),
            outcome,
            watched_at: Some(at(8)),
        };
        let written = serde_json::to_string(&AttemptStatus::of(&attempt)).expect("JSON");
        let read: AttemptStatus = serde_json::from_str(&written).expect("an attempt");
        assert_eq!(read.attempt(), Ok(attempt));
    }
}
