//! Claims about the executor's log, and the label cache.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::future::join_all;
use grantsmith_core::grant::Cause;
use grantsmith_core::license::Fingerprint;
use grantsmith_core::port::{AttemptId, Change, Clock, Kept, KeptState, LogError, Outcome};
use grantsmith_core::{LicenseKey, Slots};
use grantsmith_service::store::Store;
use jiff::SignedDuration;

use crate::Harness;
use crate::build::{app, at, attempt, decide, grant_id, kept};

async fn version(store: &dyn Store, id: &str) -> u64 {
    store.load(&grant_id(id)).await.expect("loads").version
}

pub(crate) async fn an_attempt_is_opened_by_one_writer_only<H: Harness>(harness: H) {
    let store = harness.open().await;
    decide(&*store, "cs_1", 1, 1).await;
    let id = grant_id("cs_1");
    let read = version(&*store, "cs_1").await;
    let both = [attempt("attempt-a", 1, 2), attempt("attempt-b", 1, 2)];
    let [a, b] = &both;
    let (a, b) = tokio::join!(store.open(&id, read, a), store.open(&id, read, b));
    assert_eq!([a, b].into_iter().flatten().count(), 1, "one of two at once");
    assert_eq!(store.open(&id, read, &attempt("attempt-c", 1, 3)).await, Err(LogError::Conflict));
    assert_eq!(store.load(&id).await.expect("loads").attempts.len(), 1);
    // Any write moves the version on.
    let read = version(&*store, "cs_1").await;
    store.keep(&id, &kept("AAAA-BBBB-CCCC-DDD1", 1)).await.expect("keeps");
    assert_eq!(store.open(&id, read, &attempt("attempt-d", 1, 4)).await, Err(LogError::Conflict));
    let read = version(&*store, "cs_1").await;
    store.open(&id, read, &attempt("attempt-e", 1, 5)).await.expect("opens");
}

pub(crate) async fn records_come_back_as_written<H: Harness>(harness: H) {
    let store = harness.open().await;
    decide(&*store, "cs_1", 1, 1).await;
    let id = grant_id("cs_1");
    let outcomes = [
        Outcome::Open,
        Outcome::Answered { at: at(77) },
        Outcome::Found,
        Outcome::Absent,
        Outcome::NotSent,
        Outcome::Refused,
    ];
    let mut expected = Vec::new();
    for (n, outcome) in (0..).zip(&outcomes) {
        let mut opened = attempt(&format!("attempt-{n}"), 1, n);
        store.open(&id, version(&*store, "cs_1").await, &opened).await.expect("opens");
        store.settle(&id, &opened.id, outcome).await.expect("settles");
        store.watched(&id, &opened.id, at(1_000 + n)).await.expect("writes");
        (opened.outcome, opened.watched_at) = (outcome.clone(), Some(at(1_000 + n)));
        expected.push(opened);
    }
    let states = [
        KeptState::Live,
        KeptState::Revoking { at: at(5), cause: Cause::Rule },
        KeptState::Revoked { at: at(6), cause: Cause::Hand },
        KeptState::Reinstating,
        KeptState::RevokedElsewhere,
    ];
    let slots = [None, Some(Slots::Unlimited), Some(Slots::Limited(16)), Some(Slots::Limited(1)), None];
    let mut licenses = Vec::new();
    for (n, (state, slots)) in (0..).zip(states.into_iter().zip(slots)) {
        let license = Kept {
            slots,
            attempt: (n % 2 == 0).then(|| AttemptId(format!("attempt-{n}"))),
            expires_at: (n % 2 == 1).then(|| at(9_000)),
            ..kept(&format!("AAAA-BBBB-CCCC-DDD{n}"), 1)
        };
        store.keep(&id, &license).await.expect("keeps");
        let fingerprint = license.key.fingerprint();
        for change in [Change::State(state), Change::Expiry(Some(at(8_000 + n))), Change::Duplicated(n == 3)]
        {
            store.note(&id, &fingerprint, &change).await.expect("writes");
        }
        licenses.push(Kept { state, expires_at: Some(at(8_000 + n)), duplicated: n == 3, ..license });
    }
    drop(store);
    let store = harness.open().await;
    let record = store.load(&id).await.expect("loads");
    assert_eq!(record.attempts, expected);
    assert_eq!(record.licenses, licenses);
}

pub(crate) async fn keeping_a_key_twice_changes_nothing<H: Harness>(harness: H) {
    let store = harness.open().await;
    decide(&*store, "cs_1", 1, 1).await;
    let id = grant_id("cs_1");
    let license = kept("AAAA-BBBB-CCCC-DDD1", 1);
    store.keep(&id, &license).await.expect("keeps");
    let change = Change::State(KeptState::Revoked { at: at(3), cause: Cause::Rule });
    store.note(&id, &license.key.fingerprint(), &change).await.expect("writes");
    let before = store.load(&id).await.expect("loads");
    let lines = store.journal(&id).await.expect("reads").len();
    store.keep(&id, &license).await.expect("keeps");
    assert_eq!(store.load(&id).await.expect("loads"), before, "the revocation is not undone");
    assert_eq!(store.journal(&id).await.expect("reads").len(), lines);
}

pub(crate) async fn a_key_has_one_grant<H: Harness>(harness: H) {
    let store = harness.open().await;
    decide(&*store, "cs_1", 1, 1).await;
    decide(&*store, "cs_2", 1, 1).await;
    let license = kept("AAAA-BBBB-CCCC-DDD1", 1);
    store.keep(&grant_id("cs_1"), &license).await.expect("keeps");
    let refused = store.keep(&grant_id("cs_2"), &license).await;
    assert!(matches!(&refused, Err(LogError::Unavailable(why)) if !why.contains("DDD1")), "{refused:?}");
    assert!(store.load(&grant_id("cs_2")).await.expect("loads").licenses.is_empty());
    assert_eq!(store.grant_of_key(&license.key).await.expect("reads"), Some(grant_id("cs_1")));
}

pub(crate) async fn revocations_by_rule_are_counted_over_all_grants<H: Harness>(harness: H) {
    let store = harness.open().await;
    let now = harness.clock().now().wall;
    let ago = |mins| now - SignedDuration::from_mins(mins);
    let states = [
        KeptState::Revoked { at: ago(5), cause: Cause::Rule },
        KeptState::Revoking { at: ago(10), cause: Cause::Rule },
        KeptState::Revoked { at: ago(59), cause: Cause::Rule },
        KeptState::Revoked { at: ago(60), cause: Cause::Rule },
        KeptState::Revoked { at: ago(5), cause: Cause::Hand },
        KeptState::RevokedElsewhere,
        KeptState::Live,
    ];
    for (n, state) in states.into_iter().enumerate() {
        let id = format!("cs_{n}");
        decide(&*store, &id, 1, 1).await;
        let license = kept(&format!("AAAA-BBBB-CCCC-DDD{n}"), 1);
        store.keep(&grant_id(&id), &license).await.expect("keeps");
        let change = Change::State(state);
        store.note(&grant_id(&id), &license.key.fingerprint(), &change).await.expect("writes");
    }
    let recent = || async { store.load(&grant_id("cs_6")).await.expect("loads").recent_revocations };
    assert_eq!(recent().await, 3);
    harness.clock().advance(Duration::from_secs(55 * 60));
    assert_eq!(recent().await, 0, "an hour later they are nobody's business");
}

pub(crate) async fn who_spend_the_budget_at_once_never_overspend<H: Harness>(harness: H) {
    let store = harness.open().await;
    let (now, budget) = (harness.clock().now().wall, 3);
    for n in 0..8 {
        decide(&*store, &format!("cs_{n}"), 1, 1).await;
        let license = kept(&format!("AAAA-BBBB-CCCC-DDD{n}"), 1);
        store.keep(&grant_id(&format!("cs_{n}")), &license).await.expect("keeps");
    }
    let try_one = async |n: usize| {
        let license = kept(&format!("AAAA-BBBB-CCCC-DDD{n}"), 1).key.fingerprint();
        store.spend(&grant_id(&format!("cs_{n}")), &license, now, budget).await
    };
    let spent = join_all((0..8).map(try_one)).await;
    let refused = spent.iter().filter(|spent| **spent == Err(LogError::Conflict)).count();
    assert_eq!(refused, 5, "{spent:?}");
    let mut revoking = 0;
    for (n, spent) in spent.iter().enumerate() {
        let record = store.load(&grant_id(&format!("cs_{n}"))).await.expect("loads");
        assert_eq!(record.recent_revocations, budget);
        let state = record.licenses[0].state;
        assert_eq!(state == KeptState::Revoking { at: now, cause: Cause::Rule }, spent.is_ok(), "{state:?}");
        revoking += u32::from(spent.is_ok());
    }
    assert_eq!(revoking, budget);
    harness.clock().advance(Duration::from_secs(3_600));
    let license = kept("AAAA-BBBB-CCCC-DDD0", 1).key.fingerprint();
    let later = harness.clock().now().wall;
    store.spend(&grant_id("cs_0"), &license, later, budget).await.expect("an hour later there is a new one");
}

pub(crate) async fn attempts_need_a_grant<H: Harness>(harness: H) {
    let store = harness.open().await;
    let id = grant_id("cs_unknown");
    assert_eq!(store.load(&id).await.expect("loads").version, 0);
    // Not a conflict: planning again would not help.
    let opened = store.open(&id, 0, &attempt("attempt-1", 1, 1)).await;
    assert!(matches!(opened, Err(LogError::Unavailable(_))), "{opened:?}");
    let refused = store.keep(&id, &kept("AAAA-BBBB-CCCC-DDD1", 1)).await;
    assert!(matches!(refused, Err(LogError::Unavailable(_))), "{refused:?}");
}

pub(crate) async fn labels_are_remembered_by_app<H: Harness>(harness: H) {
    let store = harness.open().await;
    let fingerprint = |key: &str| LicenseKey::new(key).fingerprint();
    let labels: Vec<(Fingerprint, Option<String>)> =
        vec![(fingerprint("a"), Some("Stripe session cs_1".to_owned())), (fingerprint("b"), None)];
    store.remember(&app("app-1"), &labels).await.expect("remembers");
    store.remember(&app("app-1"), &labels).await.expect("remembers");
    store.remember(&app("app-2"), &[(fingerprint("a"), None)]).await.expect("remembers");
    drop(store);
    let store = harness.open().await;
    let known = store.labels(&app("app-1")).await.expect("reads");
    assert_eq!(known, labels.into_iter().collect::<HashMap<_, _>>());
    assert_eq!(store.labels(&app("app-2")).await.expect("reads").len(), 1);
    assert!(store.labels(&app("app-3")).await.expect("reads").is_empty());
}
