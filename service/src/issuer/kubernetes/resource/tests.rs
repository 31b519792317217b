use super::*;

const AT: Timestamp = Timestamp::UNIX_EPOCH;

/// A bought grant, what people decided about it, and what was agreed upon.
fn row(hand: Option<HandRow>, agreed: Option<String>) -> GrantRow {
    let purchase = PurchaseId::parse("cs_test_1").expect("a purchase");
    GrantRow {
        id: GrantId::of(&purchase),
        purchase,
        livemode: false,
        state: GrantState::Issuing,
        reason: Reason::Issuing,
        detail: None,
        paid_at: None,
        email: None,
        forgotten: false,
        note: None,
        hand,
        agreed,
        object: None,
        licenses: Vec::new(),
        delivery: None,
        tries: 0,
        decided: 0,
        created: AT,
        updated: AT,
    }
}

/// Everything is to be live, and where `lasting` for ever.
fn active(lasting: bool) -> HandRow {
    HandRow {
        state: Some(DesiredState::Active),
        expires_at: lasting.then_some(None),
        released: false,
        reason: String::new(),
        person: "jane".to_owned(),
        at: AT,
    }
}

/// The object as the API server has it.
fn found(hand: &Value) -> LicenseGrant {
    let purchase = json!({"provider": "stripe", "reference": "cs_test_1"});
    serde_json::from_value(json!({
        "apiVersion": "grantsmith.dev/v1alpha1", "kind": "LicenseGrant",
        "metadata": {"name": "lg-1", "uid": "one"},
        "spec": {"purchase": purchase, "licenses": [{"name": "main", "appId": "app-1"}], "override": hand},
    }))
    .expect("a grant")
}

fn is_taken_in(row: &GrantRow, found: &LicenseGrant) -> bool {
    matches!(compare(row, found), Verdict::TakeIn(_))
}

#[test]
fn our_own_writing_that_nobody_noted_is_not_taken_for_a_persons() {
    let bare = found(&Value::Null);
    let agreed = agreed(&bare);
    // Brought back; and before that was noted in the cluster's favour, it was to last for ever.
    let reinstated = row(Some(active(false)), agreed.clone());
    assert!(matches!(compare(&reinstated, &bare), Verdict::Write));
    let written = found(&json!({"state": "Active", "by": "jane"}));
    let lasting = |agreed| row(Some(active(true)), agreed);
    assert!(matches!(compare(&lasting(intent(&reinstated, &bare)), &written), Verdict::Write));
    // Taken back meanwhile.
    assert!(matches!(compare(&row(None, intent(&reinstated, &bare)), &written), Verdict::Write));
    // Two that nobody noted: whichever is there is ours.
    let both = intent(&lasting(intent(&reinstated, &bare)), &written);
    for ours in [json!({"state": "Active"}), json!({"state": "Active", "neverExpires": true}), Value::Null] {
        assert!(!is_taken_in(&row(None, both.clone()), &found(&ours)), "{ours}");
    }
}

#[test]
fn what_we_never_set_out_to_write_is_a_persons() {
    let bare = found(&Value::Null);
    let reinstated = row(Some(active(false)), agreed(&bare));
    let revoked = found(&json!({"state": "Revoked"}));
    assert!(is_taken_in(&reinstated, &revoked));
    assert!(is_taken_in(&row(Some(active(false)), intent(&reinstated, &bare)), &revoked));
    // Once both agree, what was written before is a person's too.
    let agreed = agreed(&found(&json!({"state": "Active", "neverExpires": true})));
    assert!(is_taken_in(&row(Some(active(true)), agreed.clone()), &found(&json!({"state": "Active"}))));
    assert!(is_taken_in(&row(Some(active(true)), agreed), &bare), "it was taken away");
    // A record that knows of no agreement takes over what the cluster has.
    assert!(is_taken_in(&row(None, None), &revoked));
}

/// The license of [`found`], with a wish to unbind its devices.
fn wishing(asked: Timestamp, outcome: ResetOutcome) -> GrantRow {
    let desired = grantsmith_core::Desired {
        name: LicenseName::main(),
        generation: 1,
        app_id: grantsmith_core::AppId::parse("app-1").expect("an app"),
        slots: grantsmith_core::Slots::Limited(1),
        state: DesiredState::Active,
        expires_at: None,
        expiry: grantsmith_core::grant::Expiry::Followed,
        reason: Reason::Issued,
        cause: grantsmith_core::grant::Cause::Rule,
        imported: false,
        withdrawn: false,
        adopt: None,
    };
    let license = GrantLicense {
        reason: desired.reason,
        desired,
        kept: None,
        shown: None,
        delivered: false,
        reset: Some(DevicesReset { at: asked, outcome }),
    };
    GrantRow { licenses: vec![license], ..row(None, None) }
}

#[test]
fn a_wish_that_nobody_acted_on_is_written_and_else_what_a_person_wrote_stays() {
    let at = |second| Timestamp::from_second(second).expect("a time");
    for (outcome, there, wanted) in [
        (ResetOutcome::Asked, None, 200),
        (ResetOutcome::Asked, Some(150), 200),
        // Far ahead by mistake: it would hold the wish up.
        (ResetOutcome::Asked, Some(9_000), 200),
        (ResetOutcome::Sent, Some(300), 300),
        (ResetOutcome::Done, Some(300), 300),
        // Made anew: there it is passed over.
        (ResetOutcome::Done, None, 200),
    ] {
        let mut object = found(&Value::Null);
        object.spec.licenses[0].devices_reset_at = there.map(at);
        let declared = licenses(&wishing(at(200), outcome), Some(&object));
        assert_eq!(declared[0].devices_reset_at, Some(at(wanted)), "{outcome:?}, {there:?}");
    }
}

#[test]
fn what_the_object_is_too_young_for_is_told_as_dropped() {
    let at = |second| Timestamp::from_second(second).expect("a time");
    let mut object = found(&Value::Null);
    object.metadata.creation_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(100)));
    let license: LicenseStatus = serde_json::from_value(json!({
        "name": "main", "generation": 1, "state": "Live", "key": "****", "fingerprint": "f", "appId": "app-1",
        "createdAt": at(50),
    }))
    .expect("a license");
    for (wish, acted_on, wanted) in [
        (90, None, Some((90, ResetOutcome::Dropped))),
        (100, None, Some((100, ResetOutcome::Dropped))),
        (101, None, None),
        (101, Some(101), Some((101, ResetOutcome::Done))),
        (300, Some(101), Some((101, ResetOutcome::Done))),
    ] {
        object.spec.licenses[0].devices_reset_at = Some(at(wish));
        let mut license = license.clone();
        if let Some(second) = acted_on {
            license.reset_devices(at(second), ResetOutcome::Done);
        }
        let told = devices_reset(&object, &license).map(|reset| (reset.at, reset.outcome));
        assert_eq!(told, wanted.map(|(second, outcome)| (at(second), outcome)), "{wish}, {acted_on:?}");
    }
}

#[test]
fn what_is_held_back_for_a_person_is_told_and_keeps_no_mail_back() {
    let mut object = found(&Value::Null);
    object.spec.delivery = Delivery::Mail;
    object.status = serde_json::from_value(json!({
        "conditions": [
            {"type": READY, "status": "True", "reason": "Issued", "message": "", "lastTransitionTime": AT},
        ],
        "licenses": [{
            "name": "main", "generation": 1, "state": "Live", "key": "****", "fingerprint": "f", "appId": "app-1",
            "attempt": "a1", "createdAt": AT,
        }],
    }))
    .expect("a status");
    let mut raised = wishing(AT, ResetOutcome::Done);
    raised.licenses[0].desired.reason = Reason::TooManyUnits;
    let progress = progress(&raised, &object, AT);
    assert_eq!((progress.state, progress.reason), (GrantState::Parked, Reason::TooManyUnits));
    assert!(progress.deliver, "the keys that are there are mailed");
}
