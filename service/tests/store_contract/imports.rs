//! Claims about keys that were sold without this program.

use std::sync::Arc;

use grantsmith_core::purchase::Email;
use grantsmith_core::terms::Duration;
use grantsmith_core::{License, LicenseKey, LicenseName, LicenseStatus, Reason, Slots, entitle};
use grantsmith_service::store::{
    Act, Ask, Decide, GrantState, Import, Progress, Redecided, Refusal, SoldLicense, Store, Taken,
};

use crate::Harness;
use crate::build::{app, at, decide, decision, due_at, grant_id, lasting, progress, purchase, ready, terms};

/// Decides as it is done while nothing is known of a purchase but its imported keys.
fn imported() -> Decide {
    Arc::new(|_, record, _| {
        Some(Redecided {
            state: GrantState::Issuing,
            reason: grantsmith_core::Reason::Issuing,
            detail: None,
            terms: None,
            paid_at: None,
            licenses: entitle::imported(&record.declared, &record.hand),
        })
    })
}

fn key(id: &str, key: &str, email: &str, millis: i64) -> Ask {
    let found = SoldLicense::Found(License {
        key: LicenseKey::new(key),
        app_id: app("app-1"),
        status: LicenseStatus::Active,
        expires_at: None,
        slots: Some(Slots::Limited(5)),
        created_at: at(0),
        label: None,
    });
    ask(id, found, email, millis)
}

/// A key that is to be found by its name.
fn named(id: &str, of_app: &str, key: &str, millis: i64) -> Ask {
    let sought = SoldLicense::Sought { app_id: app(of_app), key: LicenseKey::new(key).fingerprint() };
    ask(id, sought, "", millis)
}

fn ask(id: &str, license: SoldLicense, email: &str, millis: i64) -> Ask {
    let act = Act::Import(Import {
        purchase: purchase(id),
        livemode: true,
        license,
        terms: lasting(Duration::Days(77)),
        email: Email::new(email),
        look: true,
    });
    Ask { grant: grant_id(id), act, request: None, person: "ops".to_owned(), at: at(millis) }
}

async fn take(store: &dyn Store, ask: Ask) -> Taken {
    store.take(ask, imported()).await.expect("writes")
}

pub(crate) async fn an_imported_key_is_kept_once<H: Harness>(harness: H) {
    let store = harness.open().await;
    assert_eq!(take(&*store, key("cs_1", "KEY-1", "A@example.com", 1)).await, Taken::Done);
    assert_eq!(take(&*store, key("cs_1", "KEY-1", "B@example.com", 2)).await, Taken::Repeated);
    let other = take(&*store, key("cs_2", "KEY-1", "A@example.com", 3)).await;
    assert_eq!(other, Taken::Refused(Refusal::KeyTaken));
    assert!(store.grant(&grant_id("cs_2")).await.expect("reads").is_none(), "nothing was written");
    assert_eq!(take(&*store, key("cs_1", "KEY-2", "B@example.com", 4)).await, Taken::Done);

    let row = store.grant(&grant_id("cs_1")).await.expect("reads").expect("is there");
    assert_eq!(row.email, Email::new("A@example.com"), "the first address that is known");
    let kept: Vec<_> = row
        .licenses
        .iter()
        .map(|license| (license.desired.name.as_str(), license.kept.as_ref().expect("kept")))
        .map(|(name, kept)| (name, kept.key.expose(), kept.slots, kept.attempt.is_none()))
        .collect();
    let slots = Some(Slots::Limited(5));
    assert_eq!(kept, [("main", "KEY-1", slots, true), ("2", "KEY-2", slots, true)]);
    let dirty = due_at(&*store, at(5), 10).await.objects;
    let dirty: Vec<_> = dirty.iter().map(|dirty| dirty.object.id.as_str()).collect();
    assert_eq!(dirty, ["cs_1"], "its purchase is to be looked at");
    assert_eq!(due_at(&*store, at(5), 10).await.grants, [grant_id("cs_1")]);
}

pub(crate) async fn a_declared_license_without_a_key_gets_the_imported_one<H: Harness>(harness: H) {
    let store = harness.open().await;
    decide(&*store, "cs_1", 2, 1).await;
    assert_eq!(take(&*store, key("cs_1", "KEY-1", "", 2)).await, Taken::Done);
    let row = store.grant(&grant_id("cs_1")).await.expect("reads").expect("is there");
    let keyed: Vec<_> = row.licenses.iter().filter(|license| license.kept.is_some()).collect();
    assert_eq!(keyed.iter().map(|license| license.desired.name.as_str()).collect::<Vec<_>>(), ["main"]);
}

pub(crate) async fn what_a_purchase_says_outranks_what_its_imported_key_shows<H: Harness>(harness: H) {
    let store = harness.open().await;
    assert_eq!(take(&*store, key("cs_1", "KEY-1", "", 1)).await, Taken::Done);
    let record = store.purchase(&purchase("cs_1")).await.expect("reads");
    assert_eq!((record.terms, record.imported), (None, Some(lasting(Duration::Days(77)))));
    let ticket = store.ticket().await.expect("a ticket");
    assert!(store.decide(decision("cs_1", ticket, 1, 2)).await.expect("decides"));
    assert_eq!(take(&*store, key("cs_1", "KEY-2", "", 3)).await, Taken::Done);
    let record = store.purchase(&purchase("cs_1")).await.expect("reads");
    assert_eq!((record.terms, record.imported), (Some(terms()), None), "fixed, whatever is imported later");
}

pub(crate) async fn a_key_that_is_to_be_found_is_declared_by_its_name<H: Harness>(harness: H) {
    let store = harness.open().await;
    decide(&*store, "cs_1", 2, 1).await;
    assert_eq!(take(&*store, named("cs_1", "app-1", "KEY-1", 2)).await, Taken::Done);
    assert_eq!(take(&*store, named("cs_1", "app-1", "KEY-1", 3)).await, Taken::Repeated);
    let other = take(&*store, named("cs_2", "app-1", "KEY-1", 4)).await;
    assert_eq!(other, Taken::Refused(Refusal::KeyTaken), "though nobody has found it yet");
    let owner = store.grant_of_key(&LicenseKey::new("KEY-1")).await.expect("reads");
    assert_eq!(owner, Some(grant_id("cs_1")));
    for (number, millis) in [(2, 5), (3, 6)] {
        let ask = named("cs_1", "app-1", &format!("KEY-{number}"), millis);
        assert_eq!(take(&*store, ask).await, Taken::Done);
    }
    // A later decision knows of one unit alone.
    decide(&*store, "cs_1", 1, 7).await;

    let row = store.grant(&grant_id("cs_1")).await.expect("reads").expect("is there");
    let declared: Vec<_> = row
        .licenses
        .iter()
        .map(|license| (license.desired.name.as_str(), license.desired.adopt.clone(), license.kept.is_none()))
        .collect();
    let fingerprint = |key: &str| Some(LicenseKey::new(key).fingerprint());
    assert_eq!(
        declared,
        [
            ("main", fingerprint("KEY-1"), true),
            ("2", fingerprint("KEY-2"), true),
            ("3", fingerprint("KEY-3"), true)
        ]
    );
}

pub(crate) async fn a_key_that_was_not_found_gives_way_and_no_other<H: Harness>(harness: H) {
    let store = harness.open().await;
    let named_keys = async || {
        let row = store.grant(&grant_id("cs_1")).await.expect("reads").expect("is there");
        row.licenses.into_iter().map(|license| license.desired.adopt).collect::<Vec<_>>()
    };
    let fingerprint = |key: &str| Some(LicenseKey::new(key).fingerprint());
    decide(&*store, "cs_1", 2, 1).await;
    assert_eq!(take(&*store, named("cs_1", "app-1", "WRONG", 2)).await, Taken::Done);
    let told = |reason| Progress {
        state: GrantState::Parked,
        reason,
        licenses: vec![(LicenseName::main(), reason)],
        deliver: false,
        ..ready("cs_1", 1, 3)
    };
    // The account may lack the app: that says nothing about the key.
    progress(&*store, told(Reason::Rejected)).await;
    assert_eq!(take(&*store, named("cs_1", "app-1", "KEY-2", 4)).await, Taken::Done);
    assert_eq!(named_keys().await, [fingerprint("WRONG"), fingerprint("KEY-2")], "it stays");

    progress(&*store, told(Reason::KeyNotFound)).await;
    for (of_app, key, millis) in [("APP-1", "RIGHT", 5), ("app-1", "KEY-3", 6)] {
        assert_eq!(take(&*store, named("cs_1", of_app, key, millis)).await, Taken::Done);
    }
    assert_eq!(
        named_keys().await,
        [fingerprint("RIGHT"), fingerprint("KEY-2"), fingerprint("KEY-3")],
        "it gives way once"
    );
    let found = store.find_grants("KEY-3", 10).await.expect("reads");
    assert_eq!(found.iter().map(|row| row.id.clone()).collect::<Vec<_>>(), [grant_id("cs_1")]);
    let row = store.grant(&grant_id("cs_1")).await.expect("reads").expect("is there");
    let apps: Vec<_> = row.licenses.iter().map(|license| license.desired.app_id.as_str()).collect();
    assert_eq!(apps, ["app-1"; 3], "as it was declared");
}
