//! The five laws, convergence and order independence, as properties.

#![expect(clippy::expect_used, reason = "a test stops where the world is not as it set it up")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use grantsmith_core::entitle::Facts;
use grantsmith_core::grant::{Cause, DesiredState, Expiry, Hand, LicenseName};
use grantsmith_core::license::{AppId, License, LicenseKey, LicenseStatus};
use grantsmith_core::plan::{Observed, Plan, Policy, Revocation, Step, plan};
use grantsmith_core::port::{Attempt, AttemptId, Kept, KeptState, Listing, Moment, Now, Outcome, Record};
use grantsmith_core::purchase::{
    Email, Payment, PaymentStatus, SessionMode, SessionSnapshot, SessionStatus, StripeId, ToldSession,
};
use grantsmith_core::terms::{Duration as Lasts, LicenseTerms, Rules, Terms};
use grantsmith_core::testing::{Fault, World, grant};
use grantsmith_core::{Grant, GrantId, Label, PurchaseId, Reason, Slots, entitle};

const NOW: i64 = 1_795_000_000;
const MOMENT: Moment = Moment(Duration::from_secs(100_000));

fn at(seconds_ago: i64) -> Timestamp {
    Timestamp::from_second(NOW - seconds_ago).expect("time")
}

fn earlier(ago: u64) -> Moment {
    Moment(MOMENT.since(Moment(Duration::from_secs(ago))))
}

fn app() -> AppId {
    AppId::parse("app-1").expect("app")
}

/// One unit with anything at all on record and listed.
#[derive(Debug, Clone)]
struct Case {
    grant: Grant,
    record: Record,
    listing: Option<Listing>,
    rows: Vec<License>,
    first_seen: BTreeMap<AttemptId, Moment>,
}

impl Case {
    fn plan(&self) -> Plan {
        self.plan_with(self.listing.clone())
    }

    fn plan_with(&self, listing: Option<Listing>) -> Plan {
        let listings = listing.into_iter().map(|listing| (app(), Arc::new(listing))).collect();
        let observed = Observed {
            record: &self.record,
            listings: &listings,
            first_seen: &self.first_seen,
            brought: &BTreeMap::new(),
        };
        let now = Now { wall: at(0), moment: MOMENT };
        plan(&self.grant, &observed, &Policy::default(), now)
    }

    fn kept(&self) -> Option<&Kept> {
        self.record.licenses.first()
    }

    fn fresh(&self) -> bool {
        self.grant.paid_at.is_some_and(|paid| paid > at(15 * 60))
    }

    fn open(&self) -> bool {
        self.record.attempts.iter().any(|attempt| attempt.outcome == Outcome::Open)
    }

    /// Written anew for the test: whether one of the attempts can have made a license at that time.
    fn made_by_us(&self, created: Timestamp) -> bool {
        self.record.attempts.iter().any(|attempt| {
            let end = match attempt.outcome {
                Outcome::NotSent | Outcome::Refused => return false,
                Outcome::Answered { at } => at.as_second(),
                _ => attempt.opened_at.as_second() + 90,
            };
            let offset = attempt.clock_offset.as_secs();
            let range = attempt.opened_at.as_second() + offset - 3..=end + offset + 3;
            range.contains(&created.as_second())
        })
    }
}

fn state() -> impl Strategy<Value = KeptState> {
    let cause = prop_oneof![Just(Cause::Rule), Just(Cause::Hand)];
    (0..5, cause).prop_map(|(n, cause)| match n {
        0 => KeptState::Live,
        1 => KeptState::Revoking { at: at(60), cause },
        2 => KeptState::Revoked { at: at(60), cause },
        3 => KeptState::Reinstating,
        _ => KeptState::RevokedElsewhere,
    })
}

fn attempt(n: usize) -> impl Strategy<Value = Attempt> {
    (0i64..100_000, -300i64..300, 0..6, option::of(0i64..90_000)).prop_map(
        move |(age, offset, outcome, watched)| Attempt {
            id: AttemptId(format!("a{n}")),
            name: LicenseName::main(),
            generation: 1,
            opened_at: at(age),
            clock_offset: SignedDuration::from_secs(offset),
            outcome: match outcome {
                0 => Outcome::Open,
                1 => Outcome::Answered { at: at(age - age.min(8)) },
                2 => Outcome::Found,
                3 => Outcome::Absent,
                4 => Outcome::NotSent,
                _ => Outcome::Refused,
            },
            watched_at: watched.map(at),
        },
    )
}

fn row(n: usize) -> impl Strategy<Value = License> {
    (0i64..100_000, any::<bool>(), option::weighted(0.8, any::<bool>())).prop_map(
        move |(age, active, ours)| License {
            key: LicenseKey::new(format!("KEY-{n}")),
            app_id: app(),
            status: if active { LicenseStatus::Active } else { LicenseStatus::Revoked },
            expires_at: None,
            slots: None,
            created_at: at(age),
            label: ours
                .map(|ours| if ours { "Stripe session cs_test_law" } else { "somebody else's" }.to_owned()),
        },
    )
}

prop_compose! {
    fn case()(
        wanted in prop_oneof![Just(DesiredState::Active), Just(DesiredState::Suspended), Just(DesiredState::Revoked)],
        by_hand in any::<bool>(),
        paid in option::of(0i64..3_000),
        end in option::of(-100_000i64..100_000),
        attempts in (option::of(attempt(0)), option::of(attempt(1))),
        rows in (option::of(row(0)), option::of(row(1)), option::of(row(2))),
        kept in option::of((0usize..4, state())),
        listed in option::of((any::<bool>(), 0u64..300)),
        seen in vec(0u64..400, 2),
        spent in prop_oneof![Just(0u32), Just(99), Just(100), Just(500)],
        proof in option::of((any::<bool>(), 0u64..300)),
        named in prop_oneof![3 => Just(None), 1 => (0usize..4).prop_map(Some)],
    ) -> Case {
        let mut grant = grant("cs_test_law").state(wanted).build().expect("grant");
        grant.paid_at = paid.map(at);
        grant.licenses[0].expires_at = end.map(at);
        grant.licenses[0].cause = if by_hand { Cause::Hand } else { Cause::Rule };
        grant.licenses[0].adopt = named.map(|n| LicenseKey::new(format!("KEY-{n}")).fingerprint());
        grant.licenses[0].expiry = if by_hand { Expiry::Followed } else { Expiry::Sold };
        let rows: Vec<License> = [rows.0, rows.1, rows.2].into_iter().flatten().collect();
        let attempts: Vec<Attempt> = [attempts.0, attempts.1].into_iter().flatten().collect();
        let licenses = kept.into_iter().map(|(n, state)| Kept {
            name: LicenseName::main(), generation: 1, key: LicenseKey::new(format!("KEY-{n}")), app_id: app(), slots: None,
            created_at: at(10), expires_at: None, attempt: None, state, duplicated: false, refused: None,
        }).collect();
        let listing = listed.map(|(complete, ago)| {
            Listing::new(earlier(ago), complete, rows.clone())
        });
        let first_seen = attempts.iter().zip(seen)
            .map(|(attempt, ago)| (attempt.id.clone(), earlier(ago))).collect();
        let proof_from = proof.map(|(past, by)| {
            if past { earlier(by) } else { earlier(0).plus(Duration::from_secs(by)) }
        });
        let record =
            Record { version: 1, licenses, attempts, recent_revocations: spent, proof_from, ..Record::default() };
        let rows = if listing.is_some() { rows } else { Vec::new() };
        Case { grant, record, listing, rows, first_seen }
    }
}

fn creates(plan: &Plan) -> bool {
    plan.steps.iter().any(|step| matches!(step, Step::Create(..)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn law_1_only_facts_hands_and_our_own_surplus_revoke(case in case()) {
        for step in case.plan().steps {
            match step {
                Step::Revoke(key, Revocation::Declared(_)) => {
                    prop_assert_eq!(case.kept().map(|kept| &kept.key), Some(&key));
                    prop_assert_ne!(case.grant.licenses[0].state, DesiredState::Active);
                }
                Step::Revoke(key, Revocation::Surplus) => {
                    prop_assert_ne!(case.kept().map(|kept| &kept.key), Some(&key), "the kept license is no surplus");
                    let row = case.rows.iter().find(|row| row.key == key).expect("listed");
                    prop_assert_eq!(row.label.as_deref(), Some("Stripe session cs_test_law"));
                    prop_assert!(case.made_by_us(row.created_at));
                }
                _ => {}
            }
        }
    }

    #[test]
    fn law_2_only_what_we_revoked_comes_back(case in case()) {
        if case.plan().steps.iter().any(|step| matches!(step, Step::Reinstate(_))) {
            let elsewhere = case.kept().map(|kept| kept.state) == Some(KeptState::RevokedElsewhere);
            prop_assert!(!elsewhere || case.grant.licenses[0].cause == Cause::Hand);
            prop_assert_ne!(case.kept().map(|kept| kept.state), Some(KeptState::Live));
        }
    }

    #[test]
    fn law_3_an_incomplete_listing_proves_nothing(case in case()) {
        let incomplete = Listing::new(MOMENT, false, case.rows.clone());
        let plan = case.plan_with(Some(incomplete));
        let gave_up = plan.steps.iter().any(|step| matches!(step, Step::Settle(_, Outcome::Absent) | Step::Watched(..)));
        prop_assert!(!gave_up);
        prop_assert!(!creates(&plan) || (case.fresh() && !case.open()));
    }

    #[test]
    fn law_3_a_shrunken_view_takes_nothing_away(case in case()) {
        let empty = case.plan_with(Some(Listing::new(MOMENT, true, [])));
        let none = case.plan_with(None);
        let declared = |plan: &Plan| plan.steps.iter().filter(|step| matches!(
            step, Step::Revoke(..) | Step::Reinstate(_) | Step::Extend(..)
        )).cloned().collect::<Vec<_>>();
        prop_assert_eq!(declared(&empty), declared(&none));
    }

    #[test]
    fn law_4_no_create_without_proof_unless_fresh(case in case()) {
        if creates(&case.plan()) {
            let label = Label::new(&case.grant.purchase, &LicenseName::main(), 1);
            prop_assert!(case.kept().is_none() && !case.open());
            let listed = case.listing.as_ref().is_some_and(|listing| !listing.labeled(&label).is_empty());
            prop_assert!(!listed);
            let from = case.record.proof_from.filter(|_| case.record.attempts.is_empty()).unwrap_or_default();
            let proof = |listing: &Listing| listing.is_complete() && listing.begun_at() >= from;
            prop_assert!(case.fresh() || case.listing.as_ref().is_some_and(proof));
        }
    }

    #[test]
    fn a_license_that_was_named_is_found_or_nothing_is(case in case()) {
        let Some(named) = case.grant.licenses[0].adopt.clone().filter(|_| case.kept().is_none()) else { return Ok(()) };
        let there = case.rows.iter().any(|row| row.key.fingerprint() == named);
        let plan = case.plan();
        prop_assert!(!creates(&plan));
        let adopted: Vec<_> = plan.steps.iter().filter_map(|step| match step {
            Step::Adopt(kept) => Some(kept.key.fingerprint()),
            _ => None,
        }).collect();
        prop_assert_eq!(adopted, if there { vec![named] } else { Vec::new() });
    }

    #[test]
    fn law_4_an_open_attempt_is_given_up_only_after_the_quarantine(case in case()) {
        for step in case.plan().steps {
            if let Step::Settle(id, Outcome::Absent) = step {
                let listing = case.listing.as_ref().expect("a listing");
                prop_assert!(listing.is_complete());
                prop_assert!(listing.begun_at().since(case.first_seen[&id]) >= Duration::from_secs(90));
            }
        }
    }

    #[test]
    fn law_5_rules_stay_within_the_budget(case in case()) {
        let under_way = case.kept().is_some_and(|kept| matches!(kept.state, KeptState::Revoking { .. }));
        let by_rule = case.plan().steps.iter()
            .filter(|step| matches!(step, Step::Revoke(_, Revocation::Declared(Cause::Rule)))).count();
        if by_rule > 0 && !under_way {
            prop_assert!(case.record.recent_revocations < 100);
        }
    }

    #[test]
    fn any_order_and_repetition_of_events_ends_the_same(
        events in vec((0u8..5, 0i64..3), 1..6),
        order in vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let told: Vec<ToldSession> = events.iter().enumerate().map(|(n, (kind, second))| told(n, *kind, *second)).collect();
        let straight = told.iter().cloned().max_by(ToldSession::precedence).expect("one");
        let shuffled = order.iter().map(|index| index.get(&told).clone()).chain(told.iter().rev().cloned());
        let shuffled = shuffled.max_by(ToldSession::precedence).expect("one");
        prop_assert_eq!(decide(&straight), decide(&shuffled));
        // Money that came is never lost sight of.
        if events.iter().any(|(kind, _)| *kind == 1) {
            prop_assert_eq!(decide(&straight).licenses.len(), 1);
        }
    }
}

/// A session as one of five events tells it.
fn told(n: usize, kind: u8, second: i64) -> ToldSession {
    let (status, payment_status, failed) = match kind {
        0 => (SessionStatus::Complete, PaymentStatus::Unpaid, false),
        1 => (SessionStatus::Complete, PaymentStatus::Paid, false),
        2 => (SessionStatus::Complete, PaymentStatus::Unpaid, true),
        3 => (SessionStatus::Expired, PaymentStatus::Unpaid, false),
        _ => (SessionStatus::Open, PaymentStatus::Unpaid, false),
    };
    let session = SessionSnapshot {
        id: StripeId::parse("cs_test_order").expect("id"),
        mode: SessionMode::Payment,
        subscription: None,
        status,
        payment_status,
        created: at(1_000),
        livemode: false,
        metadata: BTreeMap::new(),
        email: Email::new("buyer@example.com"),
        payment: Payment::Untold(StripeId::parse("pi_1").expect("id")),
        line_items: None,
        async_payment_failed: failed,
    };
    ToldSession { session, event_at: at(900 - second), event_id: format!("evt_{n}") }
}

fn decide(told: &ToldSession) -> Grant {
    let purchase = PurchaseId::parse("cs_test_order").expect("purchase");
    let terms = LicenseTerms {
        app_id: app(),
        duration: Lasts::Days(30),
        slots: Slots::Limited(1),
        rules: Rules::default(),
    };
    let facts =
        Facts { session: Some(&told.session), paying_event_at: Some(told.event_at), ..Facts::of(&purchase) };
    entitle(&facts, &Ok(Terms::for_all(terms)), &Hand::default(), at(0))
}

fn fault() -> impl Strategy<Value = Option<Fault>> {
    option::of(prop_oneof![
        Just(Fault::LostBefore),
        Just(Fault::LostAfter),
        Just(Fault::Duplicated),
        (0u64..45).prop_map(|secs| Fault::Delayed(Duration::from_secs(secs))),
        Just(Fault::FailedAfterCommit),
        Just(Fault::TooMany),
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn execution_reaches_what_was_declared_and_then_does_nothing(
        faults in vec(fault(), 0..5),
        lag in 0u64..45,
        broken_lists in 0usize..4,
        ahead in -300i64..300,
        units in 1u32..4,
        age in 0u64..5_000,
        foreign in any::<bool>(),
        states in vec(prop_oneof![
            Just(DesiredState::Active), Just(DesiredState::Suspended), Just(DesiredState::Revoked)
        ], 0..4),
    ) {
        let world = World::new();
        world.api.ahead(SignedDuration::from_secs(ahead), true);
        let mut wanted = grant("cs_test_world").units(units).paid(Timestamp::from_second(NOW).expect("time")).build().expect("grant");
        world.clock.advance(Duration::from_secs(age));
        // Only a purchase that is looked for first may have somebody else's license.
        let guides = (foreign && age > 900).then(|| {
            let label = Label::new(&wanted.purchase, &LicenseName::main(), 1);
            world.api.made_elsewhere(&label, &app(), SignedDuration::from_secs(800))
        });
        world.api.lag(Duration::from_secs(lag));
        world.api.script(faults);
        world.api.break_lists(vec![0; broken_lists]);
        for state in [vec![DesiredState::Active], states].concat() {
            for license in &mut wanted.licenses {
                license.state = state;
                license.reason = if state == DesiredState::Active { Reason::Issued } else { Reason::Disputed };
            }
            prop_assert!(world.settle(&wanted).is_some(), "comes to rest");
            let kept = world.log.keys(&GrantId::of(&wanted.purchase));
            prop_assert_eq!(kept.len(), wanted.licenses.len());
            if let Some(key) = &guides {
                prop_assert!(kept.contains(key), "the guide's license is adopted");
            }
            let status = if state == DesiredState::Active { LicenseStatus::Active } else { LicenseStatus::Revoked };
            world.api.truth(|truth| {
                for license in &truth.licenses {
                    let expected = if kept.contains(&license.key) { status } else { LicenseStatus::Revoked };
                    prop_assert_eq!(license.status, expected);
                }
                Ok(())
            })?;
            let before = world.api.truth(|truth| (truth.creates, truth.lists, truth.licenses.clone()));
            let report = world.round(&world.process(), &wanted).expect("runs");
            prop_assert_eq!(report.failure, None);
            let after = world.api.truth(|truth| (truth.creates, truth.lists, truth.licenses.clone()));
            prop_assert_eq!(before, after, "a second plan is empty");
        }
    }

    #[test]
    fn the_named_license_is_adopted_whatever_is_labeled(
        faults in vec(fault(), 0..3),
        age in 0u64..5_000,
        tried in any::<bool>(),
        labeled in any::<bool>(),
        there in any::<bool>(),
        others in any::<bool>(),
    ) {
        let world = World::new();
        let mut wanted = grant("cs_test_world").paid(at(0)).build().expect("grant");
        if tried {
            // An attempt of before, whose answer was lost and whose license is not listed yet.
            world.api.lag(Duration::from_secs(60));
            world.api.script([Some(Fault::LostAfter)]);
            world.round(&world.process(), &wanted);
        }
        world.api.script(faults);
        world.clock.advance(Duration::from_secs(age));
        // What was sold to somebody else is nobody's to take.
        let other = PurchaseId::parse(if others { "cs_test_other" } else { "default/order-17" }).expect("an id");
        let other = Label::new(&other, &LicenseName::main(), 1);
        if labeled {
            let own = Label::new(&wanted.purchase, &LicenseName::main(), 1);
            world.api.made_elsewhere(&own, &app(), SignedDuration::from_secs(80_000));
        }
        let made = if there {
            world.api.made_elsewhere(&other, &app(), SignedDuration::from_secs(80_000))
        } else {
            LicenseKey::new("NOBO-DYHA-SMAD-EITX")
        };
        wanted.licenses[0].adopt = Some(made.fingerprint());
        let before = world.api.truth(|truth| truth.creates);
        let report = world.settle(&wanted);
        prop_assert_eq!(world.api.truth(|truth| truth.creates), before, "no other is made");
        let kept = world.log.keys(&GrantId::of(&wanted.purchase));
        if there && !others {
            prop_assert_eq!(kept.into_iter().collect::<Vec<_>>(), vec![made.clone()]);
            wanted.licenses[0].state = DesiredState::Revoked;
            wanted.licenses[0].reason = Reason::Refunded;
            // With another license under its label it waits for a person for ever.
            prop_assert_eq!(world.settle(&wanted).is_some(), !labeled);
            world.api.truth(|truth| {
                let live = truth.licenses.iter().filter(|license| license.status == LicenseStatus::Active);
                let ours = live.filter(|license| !(labeled && license.key != made)).count();
                prop_assert_eq!(ours, 0, "what was refunded is over, and so is what the attempt made");
                Ok(())
            })?;
        } else {
            prop_assert!(kept.is_empty());
            let told = report.map(|report| report.licenses[0].1);
            prop_assert!(matches!(told, None | Some(Reason::KeyNotFound)), "{told:?}");
        }
    }

    #[test]
    fn a_license_revoked_elsewhere_stays_revoked_until_a_hand_wants_it(age in 1_000u64..5_000) {
        let world = World::new();
        let mut wanted = grant("cs_test_world").paid(at(0)).build().expect("grant");
        world.clock.advance(Duration::from_secs(age));
        let label = Label::new(&wanted.purchase, &LicenseName::main(), 1);
        let key = world.api.made_elsewhere(&label, &app(), SignedDuration::from_secs(800));
        world.api.revoked_elsewhere(&key);
        let report = world.settle(&wanted).expect("comes to rest");
        prop_assert_eq!(&report.licenses[0].1, &Reason::RevokedElsewhere);
        prop_assert_eq!(world.api.truth(|truth| truth.licenses.len()), 1, "and no other is made");
        wanted.licenses[0].cause = Cause::Hand;
        world.settle(&wanted).expect("comes to rest");
        prop_assert_eq!(world.api.truth(|truth| truth.licenses[0].status), LicenseStatus::Active);
    }
}
