//! Claims about grants: what decisions and rounds of work make of them, and how they are found.

use grantsmith_core::grant::LicenseName;
use grantsmith_core::purchase::Email;
use grantsmith_core::terms::Duration;
use grantsmith_core::{DesiredState, LicenseKey, Reason};
use grantsmith_service::store::{
    Cursor, Decision, GrantFilter, GrantRow, GrantState, Progress, Sighting, Source, Store,
};

use crate::Harness;
use crate::build::{
    app, at, attempt, decide, decision, desired, due_at, grant_id, issue, kept, lasting, parked, progress,
    purchase, ready, session, stripe, terms,
};

async fn grant(store: &dyn Store, id: &str) -> GrantRow {
    store.grant(&grant_id(id)).await.expect("reads").expect("is there")
}

async fn lines(store: &dyn Store, id: &str) -> Vec<String> {
    let entries = store.journal(&grant_id(id)).await.expect("reads");
    entries.into_iter().map(|entry| entry.text).collect()
}

async fn list(store: &dyn Store, filter: &GrantFilter) -> Vec<String> {
    let rows = store.grants(filter, None, 1_000).await.expect("lists");
    rows.into_iter().map(|row| row.purchase.to_string()).collect()
}

/// Decides anew about a purchase, with changes.
async fn decide_with(store: &dyn Store, id: &str, at_millis: i64, change: impl FnOnce(&mut Decision)) {
    let ticket = store.ticket().await.expect("ticket");
    let mut decided = decision(id, ticket, 1, at_millis);
    change(&mut decided);
    assert!(store.decide(decided).await.expect("decides"));
}

pub(crate) async fn a_decision_makes_the_grant<H: Harness>(harness: H) {
    let store = harness.open().await;
    assert!(store.grant(&grant_id("cs_1")).await.expect("reads").is_none());
    decide(&*store, "cs_1", 12, 10).await;
    let row = grant(&*store, "cs_1").await;
    assert_eq!((row.id, row.purchase, row.livemode), (grant_id("cs_1"), purchase("cs_1"), false));
    assert_eq!((row.state, row.reason, row.detail), (GrantState::Issuing, Reason::Issuing, None));
    assert_eq!((row.paid_at, row.email), (Some(at(0)), Email::new("Jane@Example.com")));
    assert_eq!((row.created, row.updated, row.tries), (at(10), at(10), 0));
    assert!(row.delivery.is_none());
    let declared: Vec<_> = row.licenses.into_iter().map(|license| license.desired).collect();
    assert_eq!(declared, (1..=12).map(desired).collect::<Vec<_>>(), "in the order of units, as declared");
    assert_eq!(due_at(&*store, at(10), 10).await.grants, [grant_id("cs_1")]);
    let journal = store.journal(&grant_id("cs_1")).await.expect("reads");
    assert_eq!(journal.iter().map(|line| line.cause.as_str()).collect::<Vec<_>>(), ["event evt_1"]);
    assert_eq!(lines(&*store, "cs_1").await, ["declared 12 licenses, active"]);
}

pub(crate) async fn what_has_sold_a_license_is_remembered<H: Harness>(harness: H) {
    let store = harness.open().await;
    let sold = async |ids: &[&str]| {
        let ids: Vec<String> = ids.iter().map(|id| (*id).to_owned()).collect();
        store.sold(&ids).await.expect("reads")
    };
    assert!(!sold(&["price_1", "prod_1"]).await);
    for id in ["cs_1", "cs_2"] {
        let sells = vec!["price_1".to_owned(), "prod_1".to_owned()];
        decide_with(&*store, id, 1, |decided| decided.sells = sells).await;
    }
    assert!(sold(&["price_1"]).await && sold(&["price_2", "prod_1"]).await, "any of them is enough");
    assert!(!sold(&["price_2", "prod_2"]).await && !sold(&[]).await);
}

pub(crate) async fn terms_and_payment_are_fixed_once<H: Harness>(harness: H) {
    let store = harness.open().await;
    decide_with(&*store, "cs_1", 1, |decided| {
        (decided.terms, decided.paid_at) = (None, None);
        decided.state = GrantState::Pending;
        decided.licenses.clear();
    })
    .await;
    let record = store.purchase(&purchase("cs_1")).await.expect("reads");
    assert_eq!((record.terms, record.paid_at), (None, None));
    decide(&*store, "cs_1", 1, 2).await;
    let dearer = lasting(Duration::Lifetime);
    decide_with(&*store, "cs_1", 3, |decided| {
        decided.terms = Some(dearer);
        decided.paid_at = Some(at(777));
    })
    .await;
    let record = store.purchase(&purchase("cs_1")).await.expect("reads");
    assert_eq!((record.terms, record.paid_at), (Some(terms()), Some(at(0))), "the first that knew");
    assert_eq!(grant(&*store, "cs_1").await.paid_at, Some(at(0)));
}

pub(crate) async fn the_same_decision_again_changes_nothing<H: Harness>(harness: H) {
    let store = harness.open().await;
    decide(&*store, "cs_1", 2, 1).await;
    progress(&*store, ready("cs_1", 2, 5)).await;
    let before = (grant(&*store, "cs_1").await, lines(&*store, "cs_1").await);
    decide(&*store, "cs_1", 2, 9).await;
    let after = (grant(&*store, "cs_1").await, lines(&*store, "cs_1").await);
    assert_eq!(after.0.state, GrantState::Ready);
    assert_eq!(format!("{before:?}"), format!("{after:?}"));
    assert!(due_at(&*store, at(1_000), 10).await.grants.is_empty());
    // Nor does it hasten a grant whose work has failed and waits.
    decide(&*store, "cs_2", 1, 1).await;
    let held = Progress {
        state: GrantState::Issuing,
        reason: Reason::AuthForgeUnavailable,
        due: Some(at(500)),
        tries: 3,
        deliver: false,
        ..ready("cs_2", 1, 2)
    };
    progress(&*store, held).await;
    decide(&*store, "cs_2", 1, 9).await;
    let row = grant(&*store, "cs_2").await;
    assert_eq!((row.reason, row.tries), (Reason::AuthForgeUnavailable, 3));
    assert!(due_at(&*store, at(499), 10).await.grants.is_empty());
    assert_eq!(due_at(&*store, at(500), 10).await.grants.len(), 1);
}

pub(crate) async fn a_changed_declaration_brings_work<H: Harness>(harness: H) {
    let store = harness.open().await;
    decide(&*store, "cs_1", 2, 1).await;
    progress(&*store, ready("cs_1", 2, 5)).await;
    decide_with(&*store, "cs_1", 9, |decided| {
        let revoked = |n| grantsmith_core::Desired {
            state: DesiredState::Revoked,
            reason: Reason::Refunded,
            ..desired(n)
        };
        decided.licenses = vec![desired(1), revoked(2)];
    })
    .await;
    let row = grant(&*store, "cs_1").await;
    assert_eq!((row.state, row.reason, row.updated), (GrantState::Issuing, Reason::Issuing, at(9)));
    assert_eq!(row.licenses.last().map(|license| license.desired.state), Some(DesiredState::Revoked));
    assert_eq!(due_at(&*store, at(9), 10).await.grants.len(), 1);
    let text = "declared 2 licenses, 1 active, 1 revoked (Refunded)";
    assert_eq!(lines(&*store, "cs_1").await.last().map(String::as_str), Some(text));
    // Another address is no work.
    progress(&*store, ready("cs_1", 2, 10)).await;
    decide_with(&*store, "cs_1", 11, |decided| {
        decided.licenses = row.licenses.iter().map(|license| license.desired.clone()).collect();
        decided.email = Email::new("joe@example.com");
    })
    .await;
    let row = grant(&*store, "cs_1").await;
    assert_eq!((row.state, row.email), (GrantState::Ready, Email::new("joe@example.com")));
    assert_eq!(
        lines(&*store, "cs_1").await.last().map(String::as_str),
        Some("the buyer's address has changed")
    );
}

pub(crate) async fn a_round_that_a_decision_has_overtaken_writes_nothing<H: Harness>(harness: H) {
    let store = harness.open().await;
    decide(&*store, "cs_1", 1, 1).await;
    let read = grant(&*store, "cs_1").await.decided;
    // In the same millisecond, as clocks allow.
    decide(&*store, "cs_1", 2, 1).await;
    store.progress(ready("cs_1", 1, 1), read).await.expect("writes");
    let row = grant(&*store, "cs_1").await;
    assert_eq!(row.state, GrantState::Issuing);
    assert!(row.decided > read);
    assert!(row.delivery.is_none());
    assert_eq!(due_at(&*store, at(1), 10).await.grants.len(), 1, "the new work is not forgotten");
    store.progress(ready("cs_1", 2, 2), row.decided).await.expect("writes");
    let row = grant(&*store, "cs_1").await;
    assert_eq!(row.state, GrantState::Ready);
    assert!(row.licenses.iter().all(|license| license.reason == Reason::Issued));
    assert_eq!(lines(&*store, "cs_1").await.len(), 3);
}

pub(crate) async fn what_is_about_to_be_written_outlasts_whatever_overtakes_it<H: Harness>(harness: H) {
    let store = harness.open().await;
    decide(&*store, "cs_1", 1, 1).await;
    let read = grant(&*store, "cs_1").await.decided;
    store.agree(&grant_id("cs_1"), "first".to_owned()).await.expect("writes");
    decide(&*store, "cs_1", 2, 1).await;
    let seen = |agreed: &str| Some(Sighting { licenses: Vec::new(), agreed: Some(agreed.to_owned()) });
    let overtaken = Progress { sighting: seen("late"), ..ready("cs_1", 1, 1) };
    store.progress(overtaken, read).await.expect("writes");
    let after = harness.crash().await;
    let store = after.open().await;
    let row = grant(&*store, "cs_1").await;
    assert_eq!(row.agreed.as_deref(), Some("first"));
    let progress = Progress { sighting: seen("both"), ..ready("cs_1", 2, 2) };
    store.progress(progress, row.decided).await.expect("writes");
    assert_eq!(grant(&*store, "cs_1").await.agreed.as_deref(), Some("both"));
}

pub(crate) async fn a_shrunken_declaration_loses_no_license<H: Harness>(harness: H) {
    let store = harness.open().await;
    decide(&*store, "cs_1", 3, 1).await;
    let id = grant_id("cs_1");
    store.keep(&id, &kept("AAAA-BBBB-CCCC-DDD1", 1)).await.expect("keeps");
    let version = store.load(&id).await.expect("loads").version;
    store.open(&id, version, &attempt("attempt-2", 2, 2)).await.expect("opens");
    decide_with(&*store, "cs_1", 5, |decided| *decided = parked(decided.clone())).await;
    let row = grant(&*store, "cs_1").await;
    assert_eq!(row.state, GrantState::Parked);
    let names: Vec<_> = row.licenses.iter().map(|license| license.desired.name.clone()).collect();
    // The third had neither key nor attempt.
    assert_eq!(names, [LicenseName::main(), LicenseName::of_unit(2)]);
    assert_eq!(row.licenses.first().map(|license| &license.desired), Some(&desired(1)), "as it was");
    assert!(row.licenses.first().is_some_and(|license| license.kept.is_some()));
    assert_eq!(due_at(&*store, at(5), 10).await.grants.len(), 1, "the attempt is seen to its end");
}

pub(crate) async fn a_grant_that_is_over_has_no_work<H: Harness>(harness: H) {
    let store = harness.open().await;
    for (n, state, reason) in [
        (1, GrantState::Pending, Reason::PaymentPending),
        (2, GrantState::Ended, Reason::Canceled),
        (3, GrantState::Parked, Reason::TooManyUnits),
        (4, GrantState::NotOurs, Reason::NotOurs),
    ] {
        let id = format!("cs_{n}");
        decide_with(&*store, &id, 1, |decided| {
            (decided.state, decided.reason) = (state, reason);
            decided.licenses.clear();
        })
        .await;
        let row = grant(&*store, &id).await;
        assert_eq!((row.state, row.reason), (state, reason));
    }
    assert_eq!(due_at(&*store, at(0), 1).await.earliest, None);
    // Money comes after all.
    decide(&*store, "cs_1", 1, 2).await;
    assert_eq!(grant(&*store, "cs_1").await.state, GrantState::Issuing);
    assert_eq!(due_at(&*store, at(0), 1).await.earliest, Some(at(2)));
}

pub(crate) async fn who_paid_last_is_served_first<H: Harness>(harness: H) {
    let store = harness.open().await;
    for (id, paid_at) in [("cs_b", Some(20)), ("cs_c", Some(30)), ("cs_x", None), ("cs_a", Some(10))] {
        decide_with(&*store, id, 50, |decided| decided.paid_at = paid_at.map(at)).await;
    }
    let order = ["cs_c", "cs_b", "cs_a", "cs_x"].map(grant_id);
    assert_eq!(due_at(&*store, at(50), 10).await.grants, order);
    assert_eq!(due_at(&*store, at(50), 2).await.grants, order.get(..2).expect("two"));
    assert!(due_at(&*store, at(49), 10).await.grants.is_empty());
}

pub(crate) async fn conditions_on_grants_hold_together<H: Harness>(harness: H) {
    let store = harness.open().await;
    decide(&*store, "cs_1", 1, 10).await;
    decide(&*store, "cs_2", 1, 20).await;
    progress(&*store, ready("cs_2", 1, 21)).await;
    decide_with(&*store, "cs_3", 30, |decided| {
        decided.email = Email::new("joe@example.com");
        decided.licenses.iter_mut().for_each(|license| license.app_id = app("app-2"));
    })
    .await;
    let all = GrantFilter::default;
    let email = |email: &str| GrantFilter { email: Some(email.to_owned()), ..all() };
    for (filter, ids) in [
        (all(), vec!["cs_3", "cs_2", "cs_1"]),
        (GrantFilter { state: Some(GrantState::Ready), ..all() }, vec!["cs_2"]),
        (GrantFilter { purchase: Some("cs_1".to_owned()), ..all() }, vec!["cs_1"]),
        (email("JANE@example.COM"), vec!["cs_2", "cs_1"]),
        (GrantFilter { app_id: Some(app("app-2")), ..all() }, vec!["cs_3"]),
        (GrantFilter { created_from: Some(at(20)), ..all() }, vec!["cs_3", "cs_2"]),
        (GrantFilter { created_before: Some(at(20)), ..all() }, vec!["cs_1"]),
        (GrantFilter { state: Some(GrantState::Issuing), ..email("jane@example.com") }, vec!["cs_1"]),
        (GrantFilter { app_id: Some(app("app-2")), ..email("jane@example.com") }, vec![]),
    ] {
        assert_eq!(list(&*store, &filter).await, ids, "{filter:?}");
    }
}

pub(crate) async fn a_page_of_grants_follows_the_last<H: Harness>(harness: H) {
    let store = harness.open().await;
    for n in 0..20 {
        decide(&*store, &format!("cs_{n}"), 1, n / 4).await;
    }
    let whole = list(&*store, &GrantFilter::default()).await;
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let page = store.grants(&GrantFilter::default(), after.as_ref(), 3).await.expect("lists");
        let Some(last) = page.last() else { break };
        after = Some(Cursor { at: last.created, id: last.id.to_string() });
        seen.extend(page.into_iter().map(|row| row.purchase.to_string()));
        decide(&*store, &format!("cs_late{}", seen.len()), 1, 1_000).await;
    }
    assert_eq!(seen, whole);
    assert_eq!(seen.len(), 20);
}

pub(crate) async fn a_grant_is_found_by_all_its_names<H: Harness>(harness: H) {
    let store = harness.open().await;
    decide_with(&*store, "cs_1", 1, |decided| decided.links = vec![stripe("pi_1"), stripe("ch_1")]).await;
    decide_with(&*store, "cs_2", 2, |decided| decided.email = None).await;
    let key = LicenseKey::new("AAAA-BBBB-CCCC-DDD1");
    store.keep(&grant_id("cs_1"), &kept(key.expose(), 1)).await.expect("keeps");
    let fingerprint = key.fingerprint().to_string();
    let id = grant_id("cs_1").to_string();
    for text in [
        "cs_1",
        "pi_1",
        "ch_1",
        "jane@EXAMPLE.com",
        " AAAA-BBBB-CCCC-DDD1 ",
        fingerprint.as_str(),
        id.as_str(),
    ] {
        let found = store.find_grants(text, 10).await.expect("finds");
        assert_eq!(found.iter().map(|row| row.purchase.to_string()).collect::<Vec<_>>(), ["cs_1"], "{text}");
    }
    for text in ["", "cs_9", "AAAA", "jane"] {
        assert!(store.find_grants(text, 10).await.expect("finds").is_empty(), "{text}");
    }
    assert_eq!(store.grant_of_key(&key).await.expect("reads"), Some(grant_id("cs_1")));
    assert_eq!(store.grant_of_key(&LicenseKey::new("other")).await.expect("reads"), None);
}

pub(crate) async fn counts_tell_what_waits<H: Harness>(harness: H) {
    let store = harness.open().await;
    store.mark_dirty(&session("cs_9"), at(0)).await.expect("marks");
    for n in 1..=3 {
        decide(&*store, &format!("cs_{n}"), 1, n).await;
    }
    issue(&*store, "cs_3", 1).await;
    progress(&*store, ready("cs_3", 1, 5)).await;
    store.open(&grant_id("cs_1"), 0, &attempt("attempt-1", 1, 5)).await.expect("opens");
    harness.clock().advance(std::time::Duration::from_millis(5));
    let counts = store.counts().await.expect("counts");
    assert_eq!((counts.dirty, counts.open_attempts), (1, 1));
    assert_eq!((counts.deliveries_due, counts.deliveries_parked), (1, 0));
    let mut grants = counts.grants;
    grants.sort_by_key(|(_, reason, _)| *reason);
    let expected = [(GrantState::Ready, Reason::Issued, 1), (GrantState::Issuing, Reason::Issuing, 2)];
    assert_eq!(grants, expected);
    assert!(matches!(
        store.purchase(&purchase("cs_1")).await.expect("reads").session.map(|session| session.source),
        Some(Source::Fetched)
    ));
}
