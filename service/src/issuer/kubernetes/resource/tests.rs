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
