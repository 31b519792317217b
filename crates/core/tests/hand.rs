//! What a person decides: it outranks the rules both ways, replaces keys that leaked, and unbinds devices.

#![expect(clippy::expect_used, reason = "a test stops where the world is not as it set it up")]

use std::collections::BTreeMap;
use std::time::Duration;

use grantsmith_core::grant::{Cause, DesiredState, GrantId, Hand, LicenseName};
use grantsmith_core::label::Label;
use grantsmith_core::license::{LicenseKey, LicenseStatus};
use grantsmith_core::plan::{Observed, Policy, Revocation, Step, plan};
use grantsmith_core::port::{Class, Clock, Kept, KeptState, Record, Reset, ResetId, ResetOutcome};
use grantsmith_core::testing::{Fault, ManualClock, World, grant};
use grantsmith_core::{Grant, Reason};
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

fn paid() -> Grant {
    let at = Timestamp::from_second(1_795_000_000).expect("time");
    grant("cs_test_hand").paid(at).build().expect("grant")
}

fn under(grant: &Grant, hand: &Hand) -> Grant {
    Grant {
        licenses: grant.licenses.iter().cloned().map(|license| hand.apply(license)).collect(),
        ..grant.clone()
    }
}

fn replaced(generation: u32) -> Hand {
    Hand { generations: [(LicenseName::main(), generation)].into(), ..Hand::default() }
}

fn live(world: &World) -> Vec<LicenseKey> {
    world.api.truth(|truth| {
        let active = truth.licenses.iter().filter(|license| license.status == LicenseStatus::Active);
        active.map(|license| license.key.clone()).collect()
    })
}

#[test]
fn a_deleted_key_keeps_its_replacement_from_nobody_and_a_rule_goes_on_asking() {
    let world = World::new();
    world.settle(&paid()).expect("comes to rest");
    world.api.refuse_changes([Class::Gone]);
    let report = world.settle(&under(&paid(), &replaced(2))).expect("comes to rest");
    assert_eq!(report.licenses[0].1, Reason::Issued);

    let world = World::new();
    world.settle(&paid()).expect("comes to rest");
    world.api.refuse_changes([Class::Gone, Class::Gone]);
    let refunded = grant("cs_test_hand").state(DesiredState::Revoked).build().expect("grant");
    let first = world.round(&world.process(), &refunded).expect("runs");
    assert!(first.failure.is_some_and(|failure| failure.class() == Class::Gone));
    world.settle(&refunded).expect("comes to rest");
    assert_eq!(live(&world), [], "the API key is the right account's again");
}

#[test]
fn a_hand_brings_back_once_what_somebody_else_had_revoked() {
    let world = World::new();
    let reinstate = Hand { state: Some(DesiredState::Active), ..Hand::default() };
    let wanted = under(&grant("sub_hand").build().expect("grant"), &reinstate);
    let label = Label::new(&wanted.purchase, &LicenseName::main(), 1);
    let key = world.api.made_elsewhere(&label, &wanted.licenses[0].app_id, SignedDuration::from_hours(1));
    world.api.revoked_elsewhere(&key);
    world.clock.advance(Duration::from_secs(3_600));
    world.settle(&wanted).expect("comes to rest");
    assert_eq!(live(&world), [key]);
    assert_eq!(world.api.truth(|truth| truth.reinstatements.len()), 1);
}

#[test]
fn a_hand_outranks_a_rule_both_ways_until_it_is_taken_back() {
    let world = World::new();
    let revoke = Hand { state: Some(DesiredState::Revoked), ..Hand::default() };
    let reinstate = Hand { state: Some(DesiredState::Active), ..Hand::default() };
    let mut refunded = paid();
    world.settle(&refunded).expect("comes to rest");
    world.settle(&under(&refunded, &revoke)).expect("comes to rest");
    assert_eq!(live(&world), []);
    world.settle(&refunded).expect("comes to rest");
    assert_eq!(live(&world).len(), 1, "taken back, the rule counts");
    for license in &mut refunded.licenses {
        (license.state, license.reason) = (DesiredState::Revoked, Reason::Refunded);
    }
    let report = world.settle(&under(&refunded, &reinstate)).expect("comes to rest");
    assert_eq!((live(&world).len(), &report.licenses[0].1), (1, &Reason::Overridden));
    let report = world.settle(&refunded).expect("comes to rest");
    assert_eq!((live(&world).len(), &report.licenses[0].1), (0, &Reason::Refunded));
    assert_eq!(world.api.truth(|truth| truth.creates), 1, "one key all along");
}

#[test]
fn a_release_lets_one_grant_past_the_budget() {
    let mut world = World::new();
    world.policy.revocation_budget = 0;
    let mut refunded = paid();
    world.settle(&refunded).expect("comes to rest");
    for license in &mut refunded.licenses {
        (license.state, license.reason) = (DesiredState::Revoked, Reason::Refunded);
    }
    let report = world.round(&world.process(), &refunded).expect("runs");
    assert_eq!((live(&world).len(), &report.licenses[0].1), (1, &Reason::RevocationHeld));
    let released = under(&refunded, &Hand { released: true, ..Hand::default() });
    let report = world.settle(&released).expect("comes to rest");
    assert_eq!((live(&world).len(), &report.licenses[0].1), (0, &Reason::Refunded), "it is still the refund");
    let restored = under(&paid(), &Hand { released: true, ..Hand::default() });
    assert_eq!(restored.licenses[0].cause, Cause::Rule, "a release revokes nothing by itself");
}

#[test]
fn a_replacement_is_there_before_the_old_key_goes() {
    let world = World::new();
    let wanted = paid();
    world.settle(&wanted).expect("comes to rest");
    let old = live(&world);
    world.api.script([Some(Fault::LostBefore)]);
    let replaced = under(&wanted, &replaced(2));
    let report = world.round(&world.process(), &replaced).expect("runs");
    assert_eq!((live(&world), &report.licenses[0].1), (old.clone(), &Reason::OutcomeUnknown));
    world.settle(&replaced).expect("comes to rest");
    let new = live(&world);
    assert_eq!(new.len(), 1);
    assert_ne!(new, old);
    let record = world.log.record(&GrantId::of(&wanted.purchase));
    let state = record.kept(&LicenseName::main(), 1).expect("kept").state;
    assert!(
        matches!(state, KeptState::Revoked { cause: Cause::Hand, .. }),
        "by hand, so no budget is spent: {state:?}"
    );
    let label = world.api.truth(|truth| truth.licenses.last().and_then(|license| license.label.clone()));
    assert_eq!(label.as_deref(), Some("Stripe session cs_test_hand ~2"));
}

#[test]
fn a_replacement_ends_when_the_old_one_would_have() {
    let world = World::new();
    let mut wanted = paid();
    let label = grantsmith_core::Label::new(&wanted.purchase, &LicenseName::main(), 1);
    world.clock.advance(Duration::from_secs(3_600));
    let guides =
        world.api.made_elsewhere(&label, &wanted.licenses[0].app_id, jiff::SignedDuration::from_mins(50));
    wanted.licenses[0].expires_at = Timestamp::from_second(1_900_000_000).ok();
    world.settle(&wanted).expect("comes to rest");
    world.settle(&under(&wanted, &replaced(2))).expect("comes to rest");
    let new = world.api.truth(|truth| truth.licenses.last().cloned()).expect("made");
    assert_ne!(new.key, guides);
    assert_eq!(new.expires_at, None, "as the buyer was told of the adopted one, not as the terms compute");
}

#[test]
fn what_is_revoked_while_it_is_replaced_leaves_no_key() {
    let world = World::new();
    let wanted = paid();
    world.settle(&wanted).expect("comes to rest");
    let hand = Hand { state: Some(DesiredState::Revoked), ..replaced(2) };
    world.settle(&under(&wanted, &hand)).expect("comes to rest");
    assert_eq!((live(&world).len(), world.api.truth(|truth| truth.creates)), (0, 1));
    world.settle(&under(&wanted, &replaced(2))).expect("comes to rest");
    assert_eq!(
        (live(&world).len(), world.api.truth(|truth| truth.creates)),
        (1, 2),
        "and the new one when taken back"
    );
}

#[test]
fn a_crash_anywhere_in_a_replacement_leaves_the_new_key_alone() {
    for fault in [None, Some(Fault::LostAfter), Some(Fault::Duplicated), Some(Fault::LostBefore)] {
        let mut point = 0;
        loop {
            let world = World::new();
            let wanted = paid();
            world.settle(&wanted).expect("comes to rest");
            let old = live(&world);
            world.api.script([fault]);
            let replaced = under(&wanted, &replaced(2));
            world.crash.arm(Some(point));
            let process = world.process();
            let stopped = world.round(&process, &replaced).is_none();
            let record = world.log.record(&GrantId::of(&wanted.purchase));
            if record.kept(&LicenseName::main(), 2).is_none() {
                assert_eq!(
                    live(&world).iter().filter(|key| old.contains(key)).count(),
                    1,
                    "the buyer has a key"
                );
            }
            world.crash.arm(None);
            world.settle(&replaced).expect("comes to rest");
            let record = world.log.record(&GrantId::of(&wanted.purchase));
            let new = record.kept(&LicenseName::main(), 2).expect("kept").key.clone();
            assert_eq!(live(&world), [new], "{fault:?} at {point}");
            if !stopped {
                break;
            }
            point += 1;
        }
        assert!(point > 8, "the crash has been everywhere");
    }
}

fn ask(world: &World, grant: &Grant, id: &str) -> ResetId {
    let id = ResetId(id.to_owned());
    let reset = Reset { id: id.clone(), license: LicenseName::main() };
    world.log.edit(&GrantId::of(&grant.purchase), |record| record.resets.push(reset));
    id
}

#[test]
fn devices_are_unbound_once_for_each_wish() {
    let world = World::new();
    let wanted = paid();
    world.settle(&wanted).expect("comes to rest");
    let first = ask(&world, &wanted, "r1");
    world.api.refuse_resets([Class::Unauthorized]);
    world.settle(&wanted).expect("comes to rest");
    assert_eq!(world.log.reset_outcome(&first), Some(ResetOutcome::Done), "after the API key was mended");
    let unclear = ask(&world, &wanted, "r2");
    world.api.refuse_resets([Class::OutcomeUnknown]);
    world.settle(&wanted).expect("comes to rest");
    assert_eq!(world.log.reset_outcome(&unclear), Some(ResetOutcome::Unclear));
    let refused = ask(&world, &wanted, "r3");
    world.api.refuse_resets([Class::Rejected]);
    assert_eq!(world.settle(&wanted).expect("comes to rest").failure, None);
    assert_eq!(world.log.reset_outcome(&refused), Some(ResetOutcome::Refused));
    assert_eq!(world.api.truth(|truth| truth.resets.clone()), live(&world), "one call had an effect");
    let revoked = Hand { state: Some(DesiredState::Revoked), ..Hand::default() };
    world.settle(&under(&wanted, &revoked)).expect("comes to rest");
    let late = ask(&world, &wanted, "r4");
    world.settle(&under(&wanted, &revoked)).expect("comes to rest");
    assert_eq!(world.log.reset_outcome(&late), Some(ResetOutcome::Dropped));
}

#[test]
fn a_crash_never_unbinds_devices_twice() {
    let mut point = 0;
    loop {
        let world = World::new();
        let wanted = paid();
        world.settle(&wanted).expect("comes to rest");
        let wish = ask(&world, &wanted, "r1");
        world.crash.arm(Some(point));
        let stopped = world.round(&world.process(), &wanted).is_none();
        world.crash.arm(None);
        world.settle(&wanted).expect("comes to rest");
        let count = world.api.truth(|truth| truth.resets.len());
        match world.log.reset_outcome(&wish) {
            Some(ResetOutcome::Done) => assert_eq!(count, 1, "at {point}"),
            Some(ResetOutcome::Sent) => assert!(count <= 1, "at {point}"),
            other => panic!("{other:?} at {point}"),
        }
        if !stopped {
            break;
        }
        point += 1;
    }
}

fn fault() -> impl Strategy<Value = Option<Fault>> {
    prop::option::of(prop_oneof![
        Just(Fault::LostBefore),
        Just(Fault::LostAfter),
        Just(Fault::Duplicated),
        Just(Fault::FailedAfterCommit),
        Just(Fault::TooMany),
        (0u64..45).prop_map(|secs| Fault::Delayed(Duration::from_secs(secs))),
    ])
}

fn kept_state() -> impl Strategy<Value = KeptState> {
    let at = Timestamp::from_second(1_794_999_000).expect("time");
    prop_oneof![
        Just(KeptState::Live),
        Just(KeptState::Revoking { at, cause: Cause::Rule }),
        Just(KeptState::Revoked { at, cause: Cause::Hand }),
        Just(KeptState::Reinstating),
        Just(KeptState::RevokedElsewhere),
    ]
}

fn kept(wanted: &Grant, generation: u32, state: KeptState) -> Kept {
    Kept {
        name: LicenseName::main(),
        generation,
        key: LicenseKey::new(format!("KEY-{generation}")),
        app_id: wanted.licenses[0].app_id.clone(),
        slots: None,
        created_at: Timestamp::from_second(1_794_990_000).expect("time"),
        expires_at: None,
        attempt: None,
        state,
        duplicated: false,
        refused: None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn the_laws_hold_for_replaced_keys(
        old in kept_state(),
        new in prop::option::of(kept_state()),
        wanted in prop_oneof![Just(DesiredState::Active), Just(DesiredState::Revoked)],
        spent in prop_oneof![Just(0u32), Just(100)],
    ) {
        let mut grant = under(&paid(), &replaced(2));
        grant.licenses[0].state = wanted;
        let kept = |generation, state| kept(&grant, generation, state);
        let licenses = [Some(kept(1, old)), new.map(|state| kept(2, state))].into_iter().flatten().collect();
        let record = Record { version: 1, licenses, recent_revocations: spent, ..Record::default() };
        let clock = ManualClock::default();
        let (listings, first_seen) = (BTreeMap::new(), BTreeMap::new());
        let observed = Observed { record: &record, listings: &listings, first_seen: &first_seen, brought: &BTreeMap::new() };
        let plan = plan(&grant, &observed, &Policy::default(), clock.now());
        let revoked = |generation: u32| {
            let key = LicenseKey::new(format!("KEY-{generation}"));
            plan.steps.iter().any(|step| matches!(step, Step::Revoke(found, _) if *found == key))
        };
        // Law 1: nobody but a hand asked for the replacement, and the old key stays until the new one is there.
        if wanted == DesiredState::Active {
            prop_assert_eq!(revoked(1), new.is_some() && old.may_be_live());
            prop_assert!(!revoked(2));
        }
        // Law 2: what was replaced never comes back.
        let brings_back = |step: &Step| matches!(step, Step::Reinstate(key) if key.expose() == "KEY-1");
        prop_assert!(!plan.steps.iter().any(brings_back));
        // Law 4: a new key is made only where none of its generation is kept.
        let creates = plan.steps.iter().any(|step| matches!(step, Step::Create(_, 2, _)));
        prop_assert!(!creates || new.is_none());
        // Law 5: a replaced key is no revocation by rule, so a spent budget does not keep it alive.
        let by_rule = |step: &Step| matches!(step, Step::Revoke(key, Revocation::Declared(Cause::Rule)) if key.expose() == "KEY-1");
        let begun = matches!(old, KeptState::Revoking { cause: Cause::Rule, .. });
        prop_assert!(begun || !plan.steps.iter().any(by_rule));
        // Two keys that work are never told to be in order.
        if new.is_some() && old.may_be_live() {
            prop_assert_ne!(plan.licenses[0].1, Reason::Issued);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn replacements_and_hands_in_any_order_end_with_the_newest_key_alone(
        faults in prop::collection::vec(fault(), 0..6),
        lag in 0u64..45,
        acts in prop::collection::vec(0u8..4, 1..6),
    ) {
        let world = World::new();
        world.api.lag(Duration::from_secs(lag));
        world.api.script(faults);
        let wanted = paid();
        let id = GrantId::of(&wanted.purchase);
        let mut hand = Hand::default();
        let mut generation = 1;
        for act in acts {
            match act {
                0 => hand.state = Some(DesiredState::Revoked),
                1 => hand.state = Some(DesiredState::Active),
                2 => hand.state = None,
                // A key that is not there yet cannot have leaked.
                _ if world.log.record(&id).kept(&LicenseName::main(), generation).is_some() => generation += 1,
                _ => {}
            }
            hand.generations.insert(LicenseName::main(), generation);
            let now = under(&wanted, &hand);
            prop_assert!(world.settle(&now).is_some(), "comes to rest");
            let record = world.log.record(&id);
            let newest = record.kept(&LicenseName::main(), generation).map(|kept| kept.key.clone());
            let wanted_live = hand.state != Some(DesiredState::Revoked);
            let expected: Vec<_> = newest.into_iter().filter(|_| wanted_live).collect();
            prop_assert_eq!(expected.len(), usize::from(wanted_live));
            prop_assert_eq!(live(&world), expected);
        }
    }
}
