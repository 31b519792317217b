//! Stops the process before and after every port call, under every fault and every pair of faults, and restarts it.
//!
//! What counts is the truth at AuthForge and the keys that were ever kept, because a kept key may have been delivered:
//! one of them per unit, live, and nothing else of our making alive.

#![expect(clippy::expect_used, clippy::panic, reason = "a test stops where the world is not as it set it up")]

use std::pin::pin;
use std::time::Duration;

use futures_util::FutureExt;
use grantsmith_core::grant::{DesiredState, LicenseName};
use grantsmith_core::label::Label;
use grantsmith_core::license::{License, LicenseStatus};
use grantsmith_core::port::{Class, Clock, Outcome, Priority};
use grantsmith_core::testing::{Fault, World, grant};
use grantsmith_core::{Grant, GrantId, Reason, retry};
use jiff::SignedDuration;

const FAULTS: [Option<Fault>; 7] = [
    None,
    Some(Fault::LostBefore),
    Some(Fault::LostAfter),
    Some(Fault::Duplicated),
    Some(Fault::Delayed(Duration::from_secs(40))),
    Some(Fault::FailedAfterCommit),
    Some(Fault::TooMany),
];

const LAGS: [Duration; 2] = [Duration::ZERO, Duration::from_secs(45)];

fn paid_now(world: &World, units: u32) -> Grant {
    grant("cs_test_crash").units(units).paid(world.clock.now().wall).build().expect("grant")
}

/// The promise, checked against the truth.
fn assert_kept_promise(world: &World, wanted: &Grant, script: &str) {
    let keys = world.log.keys(&GrantId::of(&wanted.purchase));
    let live = world.api.truth(|truth| {
        let live = truth.licenses.iter().filter(|license| license.status == LicenseStatus::Active);
        live.map(|license| license.key.clone()).collect::<Vec<_>>()
    });
    assert_eq!(keys.len(), wanted.licenses.len(), "one key kept a unit: {script}");
    assert_eq!(live.len(), wanted.licenses.len(), "surplus of our own attempts is gone: {script}");
    assert!(keys.iter().all(|key| live.contains(key)), "the kept keys are the live ones: {script}");
}

/// Runs one script with a crash at `point`, and tells how many places there were.
fn play(faults: [Option<Fault>; 2], lag: Duration, units: u32, point: Option<usize>) -> usize {
    let script = format!("{faults:?}, lag {lag:?}, {units} units, stopped at {point:?}");
    let world = World::new();
    world.api.lag(lag);
    world.api.script(faults);
    let wanted = paid_now(&world, units);
    world.crash.arm(point);
    let report = world.settle(&wanted).unwrap_or_else(|| panic!("comes to rest: {script}"));
    assert!(report.licenses.iter().all(|(_, reason)| *reason == Reason::Issued), "{report:?}: {script}");
    assert_kept_promise(&world, &wanted, &script);
    // A stop in between may have one of them asked for again.
    let (revoked, surplus) =
        world.api.truth(|truth| (truth.revocations.len(), truth.licenses.len() - units as usize));
    assert!(revoked <= surplus + usize::from(point.is_some()), "{revoked} calls for {surplus}: {script}");
    world.crash.passed()
}

#[test]
fn every_crash_under_every_pair_of_faults_leaves_one_live_key_a_unit() {
    let scripts: usize = std::thread::scope(|scope| {
        let threads = FAULTS.map(|first| {
            scope.spawn(move || FAULTS.map(|second| crash_everywhere([first, second])).iter().sum::<usize>())
        });
        threads.into_iter().map(|thread| thread.join().expect("kept its promise")).sum()
    });
    assert!(scripts > 4_000, "{scripts} scripts");
}

fn crash_everywhere(faults: [Option<Fault>; 2]) -> usize {
    let mut scripts = 0;
    for lag in LAGS {
        let places = play(faults, lag, 1, None);
        assert!(places > 8, "a purchase passes load, open, create, keep and settle");
        for point in 0..places {
            play(faults, lag, 1, Some(point));
        }
        scripts += places;
    }
    scripts
}

#[test]
fn every_crash_in_a_purchase_of_three_leaves_three_live_keys() {
    for fault in FAULTS {
        let places = play([None, fault], LAGS[1], 3, None);
        for point in 0..places {
            play([None, fault], LAGS[1], 3, Some(point));
        }
    }
}

#[test]
fn crashing_twice_is_no_worse() {
    for fault in FAULTS {
        for first in 0..16 {
            for second in 0..16 {
                let world = World::new();
                world.api.script([fault]);
                let wanted = paid_now(&world, 1);
                for point in [first, second] {
                    world.crash.arm(Some(point));
                    let _ = world.round(&world.process(), &wanted);
                }
                world.crash.arm(None);
                world.settle(&wanted).expect("comes to rest");
                assert_kept_promise(&world, &wanted, &format!("{fault:?}, stopped at {first} and {second}"));
            }
        }
    }
}

#[test]
fn a_half_done_revocation_is_never_taken_for_somebody_elses() {
    // Suspended, stopped anywhere in between, and declared active again before anybody looked.
    for point in 0..24 {
        let world = World::new();
        let mut wanted = paid_now(&world, 1);
        world.settle(&wanted).expect("comes to rest");
        wanted.licenses[0].state = DesiredState::Suspended;
        world.crash.arm(Some(point));
        let _ = world.round(&world.process(), &wanted);
        world.crash.arm(None);
        wanted.licenses[0].state = DesiredState::Active;
        let report = world.settle(&wanted).expect("comes to rest");
        assert_eq!(report.licenses[0].1, Reason::Issued, "stopped at {point}");
        assert_kept_promise(&world, &wanted, &format!("suspended and back, stopped at {point}"));
    }
}

#[test]
fn a_surplus_is_gone_within_minutes_also_if_revoking_it_fails_at_first() {
    for (lag, failures) in LAGS.into_iter().flat_map(|lag| [(lag, 0), (lag, 3)]) {
        let world = World::new();
        world.api.lag(lag);
        world.api.script([Some(Fault::Duplicated)]);
        world.api.refuse_changes(vec![Class::Transient; failures]);
        let wanted = paid_now(&world, 1);
        let paid = world.clock.now().moment;
        let process = world.process();
        let live = |license: &&License| license.status == LicenseStatus::Active;
        loop {
            let report = world.round(&process, &wanted).expect("runs");
            if world.api.truth(|truth| truth.licenses.iter().filter(live).count()) == 1 {
                break;
            }
            let wait = report.failure.as_ref().map(|failure| retry::delay(failure.class(), 1));
            world.clock.advance(report.again.or(wait).expect("goes on while there are two"));
            let minutes = world.clock.now().moment.since(paid).as_secs() / 60;
            assert!(minutes < 15, "{report:?} after {minutes} minutes, lag {lag:?}");
        }
        world.settle(&wanted).expect("comes to rest");
        assert_kept_promise(&world, &wanted, &format!("{failures} failures, lag {lag:?}"));
        let calls = world.api.truth(|truth| truth.revocations.len());
        assert_eq!(calls, 1 + failures, "as many as it takes: lag {lag:?}");
    }
}

#[test]
fn what_was_brought_back_is_not_taken_for_revoked_by_an_older_listing() {
    for lag in LAGS {
        let world = World::new();
        world.api.lag(lag);
        let mut wanted = grant("sub_crash").build().expect("grant");
        world.settle(&wanted).expect("comes to rest");
        wanted.licenses[0].state = DesiredState::Suspended;
        world.settle(&wanted).expect("comes to rest");
        world.clock.advance(Duration::from_secs(3_600));
        // Paid again, and raised to two: one plan brings the first back, and looks before it makes the second.
        let wanted = grant("sub_crash").units(2).build().expect("grant");
        let report = world.settle(&wanted).expect("comes to rest");
        assert!(
            report.licenses.iter().all(|(_, reason)| *reason == Reason::Issued),
            "{report:?}, lag {lag:?}"
        );
        assert_kept_promise(&world, &wanted, &format!("lag {lag:?}"));
        assert_eq!(world.api.truth(|truth| truth.reinstatements.len()), 1, "lag {lag:?}");
    }
}

#[test]
fn what_is_revoked_is_adopted_only_where_nothing_better_can_be_on_a_later_page() {
    let world = World::new();
    let wanted = grant("sub_crash").build().expect("grant");
    let label = Label::new(&wanted.purchase, &LicenseName::main(), 1);
    let app = &wanted.licenses[0].app_id;
    let leaked = world.api.made_elsewhere(&label, app, SignedDuration::from_hours(48));
    let reissued = world.api.made_elsewhere(&label, app, SignedDuration::from_hours(24));
    world.api.revoked_elsewhere(&leaked);
    world.api.break_lists([1]);
    world.settle(&wanted).expect("comes to rest");
    assert_eq!(world.log.keys(&GrantId::of(&wanted.purchase)), [reissued]);
}

#[test]
fn what_is_withdrawn_is_looked_for_until_a_listing_is_whole() {
    let world = World::new();
    let refunded = grant("cs_test_crash").state(DesiredState::Revoked).build().expect("grant");
    let label = Label::new(&refunded.purchase, &LicenseName::main(), 1);
    world.api.made_elsewhere(&label, &refunded.licenses[0].app_id, SignedDuration::from_hours(1));
    world.api.break_lists([0]);
    world.settle(&refunded).expect("comes to rest");
    assert!(world.api.truth(|truth| truth.licenses[0].status == LicenseStatus::Revoked));
}

#[test]
fn two_processes_at_once_make_one_key() {
    // Stop one process at each place, run another to the end, then let nothing of the first come back.
    for point in 0..16 {
        let world = World::new();
        let wanted = paid_now(&world, 1);
        world.crash.arm(Some(point));
        let _ = world.round(&world.process(), &wanted);
        world.crash.arm(None);
        let other = world.process();
        let report = world.round(&other, &wanted).expect("runs");
        let made = world.api.truth(|truth| truth.licenses.len());
        assert!(made <= 1, "{made} keys after {report:?}, stopped at {point}");
        world.settle(&wanted).expect("comes to rest");
        assert_kept_promise(&world, &wanted, &format!("stopped at {point}"));
    }
}

#[test]
fn rounds_side_by_side_stay_within_the_budget() {
    for point in 0.. {
        let mut world = World::new();
        world.policy.revocation_budget = 1;
        let paid = world.clock.now().wall;
        let refunded = ["cs_test_one", "cs_test_two"].map(|id| {
            let grant = grant(id).paid(paid);
            world.settle(&grant.clone().build().expect("grant")).expect("comes to rest");
            grant.state(DesiredState::Revoked).build().expect("grant")
        });
        let processes = [world.process(), world.process()];
        // One stops at each place, the other runs to its end, then the first goes on.
        let mut slow = pin!(processes[0].advance(&refunded[0], Priority::Refund));
        world.crash.arm(Some(point));
        if slow.as_mut().now_or_never().is_some() {
            assert!(point > 5, "there were {point} places to stop");
            break;
        }
        let other = processes[1].advance(&refunded[1], Priority::Refund).now_or_never().expect("runs");
        world.crash.arm(None);
        let first = slow.now_or_never().expect("runs");
        let revoked = world.api.truth(|truth| {
            truth.licenses.iter().filter(|license| license.status == LicenseStatus::Revoked).count()
        });
        let reasons = [first.licenses[0].1, other.licenses[0].1];
        assert_eq!(revoked, 1, "{reasons:?}, stopped at {point}");
        assert!(reasons.contains(&Reason::RevocationHeld), "{reasons:?}, stopped at {point}");
    }
}

#[test]
fn a_stale_record_cannot_open_an_attempt() {
    let world = World::new();
    let wanted = paid_now(&world, 1);
    let id = GrantId::of(&wanted.purchase);
    // Somebody writes between this process's read and its open: at place 2 the read is over and the open not begun.
    world.crash.arm(Some(2));
    assert!(world.round(&world.process(), &wanted).is_none());
    world.log.edit(&id, |_| {});
    world.settle(&wanted).expect("comes to rest");
    assert_kept_promise(&world, &wanted, "a stale record");
}

#[test]
fn a_create_that_slept_past_its_deadline_is_not_sent() {
    // `open` returns after the machine slept for an hour: another process may have looked and created since.
    let world = World::new();
    let wanted = paid_now(&world, 1);
    world.log.sleep_in_open(Duration::from_secs(3_600));
    world.settle(&wanted).expect("comes to rest");
    let attempts = world.log.record(&GrantId::of(&wanted.purchase)).attempts;
    let outcomes: Vec<&Outcome> = attempts.iter().map(|attempt| &attempt.outcome).collect();
    assert!(matches!(outcomes[..], [Outcome::NotSent, Outcome::Answered { .. }]), "{outcomes:?}");
    assert_eq!(world.api.truth(|truth| truth.creates), 1, "the slept-over attempt sent nothing");
    assert_kept_promise(&world, &wanted, "slept");
}

#[test]
fn a_lag_below_the_quarantine_never_makes_a_second_key() {
    // The stated assumption, on its good side: the time of the request and the lag together stay below 90 s.
    for (delay, lag) in [(0, 89), (9, 80), (44, 45), (89, 0)] {
        let world = World::new();
        world.api.lag(Duration::from_secs(lag));
        world.api.script([Some(Fault::Delayed(Duration::from_secs(delay)))]);
        let wanted = paid_now(&world, 1);
        world.settle(&wanted).expect("comes to rest");
        assert_eq!(world.api.truth(|truth| truth.creates), 1, "delay {delay}, lag {lag}");
        assert_eq!(world.api.truth(|truth| truth.licenses.len()), 1, "delay {delay}, lag {lag}");
    }
}

#[test]
fn a_lag_beyond_the_quarantine_costs_a_key_that_the_watch_list_revokes() {
    // The bad side: a second key is made. Its attempt is on record, so the watch list finds and revokes the first.
    for lag in [91, 200, 3_000] {
        let world = World::new();
        world.api.lag(Duration::from_secs(lag));
        world.api.script([Some(Fault::LostAfter)]);
        let wanted = paid_now(&world, 1);
        world.settle(&wanted).expect("comes to rest");
        assert_eq!(world.api.truth(|truth| truth.licenses.len()), 2, "lag {lag}");
        assert_kept_promise(&world, &wanted, &format!("lag {lag}"));
    }
}

#[test]
fn a_request_executed_after_the_quarantine_is_left_for_a_person() {
    // Beyond the assumption in the other way: nobody can prove that this key is ours, so law 1 keeps us from revoking it.
    let world = World::new();
    world.api.script([Some(Fault::Delayed(Duration::from_secs(400)))]);
    let wanted = paid_now(&world, 1);
    let process = world.process();
    let mut seen = Vec::new();
    for _ in 0..50 {
        let report = world.round(&process, &wanted).expect("runs");
        seen.extend(report.licenses.into_iter().map(|(_, reason)| reason));
        match report.again {
            Some(wait) => world.clock.advance(wait),
            None => break,
        }
    }
    assert!(seen.contains(&Reason::DuplicateLicenses), "{seen:?}");
    let id = GrantId::of(&wanted.purchase);
    assert_eq!(world.log.keys(&id).len(), 1, "one key was delivered");
    let again = world.round(&world.process(), &wanted).expect("runs");
    assert_eq!(
        again.licenses[0].1,
        Reason::DuplicateLicenses,
        "a restart does not forget what waits for a person"
    );
    let live = |truth: &grantsmith_core::testing::Truth| {
        truth.licenses.iter().filter(|license| license.status == LicenseStatus::Active).count()
    };
    assert_eq!(world.api.truth(live), 2, "neither is touched");
    // The person revokes the other one at AuthForge; the next look says so.
    let kept = world.log.keys(&id);
    let other = world
        .api
        .truth(|truth| truth.licenses.iter().find(|l| !kept.contains(&l.key)).map(|l| l.key.clone()));
    world.api.revoked_elsewhere(&other.expect("the other one"));
    let resolved = world.round(&world.process(), &wanted).expect("runs");
    assert_eq!(resolved.licenses[0].1, Reason::Issued);
}
