//! Claims about what people decide.

use std::sync::Arc;

use grantsmith_core::grant::{Cause, DesiredState, LicenseName};
use grantsmith_core::manual::Promised;
use grantsmith_core::port::{Change, KeptState, ResetOutcome};
use grantsmith_core::purchase::Email;
use grantsmith_core::{GrantId, Reason, Slots};
use grantsmith_service::store::{
    Act, Ask, Attempted, Decide, DeliveryState, DevicesReset, GrantState, Progress, Promise, Redecided,
    Refusal, Request, Seen, Shown, Sighting, Store, Taken,
};
use jiff::Timestamp;

use crate::Harness;
use crate::build::{
    app, at, decide, decision, desired, due_at, event, grant_id, kept, progress, purchase, ready, session,
};

const REFERENCE: &str = "default/press-17";

/// Decides as the rules would that declare one license, under the hand as it is.
fn rules() -> Decide {
    Arc::new(|_, record, _| {
        Some(Redecided {
            state: GrantState::Issuing,
            reason: Reason::Issuing,
            detail: None,
            terms: None,
            paid_at: Some(at(0)),
            licenses: vec![record.hand.apply(desired(1))],
        })
    })
}

fn ask(grant: &GrantId, act: Act, millis: i64) -> Ask {
    Ask { grant: grant.clone(), act, request: None, person: "ops".to_owned(), at: at(millis) }
}

fn request(id: &str, digest: &str) -> Request {
    Request { id: id.to_owned(), digest: digest.to_owned() }
}

fn promise() -> Act {
    Act::Promise(Promise {
        purchase: purchase(REFERENCE),
        livemode: true,
        licenses: vec![Promised { app_id: app("app-1"), slots: Slots::Unlimited, expires_at: None }],
        email: Email::new("Press@Example.com"),
        note: "for the review".to_owned(),
    })
}

fn revoke() -> Act {
    Act::Override { state: DesiredState::Revoked, reason: "leaked".to_owned() }
}

fn reinstate() -> Act {
    Act::Override { state: DesiredState::Active, reason: String::new() }
}

async fn take(store: &dyn Store, ask: Ask) -> Taken {
    store.take(ask, rules()).await.expect("writes")
}

/// A purchase with one license, kept under this key and delivered.
async fn issued(store: &dyn Store, key: &str) -> GrantId {
    decide(store, "cs_1", 1, 1).await;
    let id = grant_id("cs_1");
    let opened = crate::build::attempt("a1", 1, 2);
    let version = store.load(&id).await.expect("reads").version;
    store.open(&id, version, &opened).await.expect("opens");
    let license = grantsmith_core::port::Kept { attempt: Some(opened.id.clone()), ..kept(key, 1) };
    store.keep(&id, &license).await.expect("keeps");
    progress(store, ready("cs_1", 1, 5)).await;
    id
}

pub(crate) async fn a_promise_is_a_grant_of_its_own<H: Harness>(harness: H) {
    let store = harness.open().await;
    let id = grant_id(REFERENCE);
    let seen: Decide = Arc::new(|purchase, record, ticket| {
        assert_eq!(
            (purchase.as_str(), record.promised.len(), record.session.is_none()),
            (REFERENCE, 1, true)
        );
        rules()(purchase, record, ticket)
    });
    let first = Ask { request: Some(request("r1", "d1")), ..ask(&id, promise(), 5) };
    assert_eq!(store.take(first.clone(), seen).await.expect("writes"), Taken::Done);
    drop(store);
    let store = harness.open().await;
    let row = store.grant(&id).await.expect("reads").expect("made");
    assert_eq!((row.purchase, row.livemode, row.paid_at), (purchase(REFERENCE), true, Some(at(5))));
    assert_eq!((row.note.as_deref(), row.state), (Some("for the review"), GrantState::Issuing));
    assert_eq!(due_at(&*store, at(5), 10).await.grants, std::slice::from_ref(&id));
    let found = store.find_grants("press@example.com", 10).await.expect("finds");
    assert_eq!(found.first().map(|row| &row.id), Some(&id));
    assert_eq!(take(&*store, first).await, Taken::Repeated);
    assert_eq!(take(&*store, ask(&id, promise(), 6)).await, Taken::Refused(Refusal::Exists));
}

pub(crate) async fn a_request_counts_once_for_a_month<H: Harness>(harness: H) {
    let store = harness.open().await;
    let id = issued(&*store, "KEY-1").await;
    let asked =
        |digest, at| Ask { request: Some(request("r1", digest)), at, ..ask(&id, Act::ResetDevices(None), 0) };
    let day = |days: i64| at(days * 86_400_000);
    assert_eq!(take(&*store, asked("d1", day(0))).await, Taken::Done);
    assert_eq!(take(&*store, asked("d1", day(1))).await, Taken::Repeated);
    assert_eq!(take(&*store, asked("d2", day(1))).await, Taken::Refused(Refusal::RequestReused));
    assert_eq!(store.load(&id).await.expect("reads").resets.len(), 1);
    let other = Ask { request: Some(request("r2", "d1")), ..asked("d1", day(31)) };
    assert_eq!(take(&*store, other).await, Taken::Done);
    assert_eq!(take(&*store, asked("d2", day(31))).await, Taken::Done, "forgotten by then");
}

pub(crate) async fn a_refused_ask_writes_nothing<H: Harness>(harness: H) {
    let store = harness.open().await;
    let id = issued(&*store, "KEY-1").await;
    let nobody = grant_id("cs_nobody");
    let lines = store.journal(&id).await.expect("reads").len();
    let two = LicenseName::parse("2");
    for (grant, act, refusal) in [
        (&nobody, revoke(), Refusal::NoGrant),
        (&id, Act::Replace(two.clone()), Refusal::NoLicense),
        (&id, Act::ResetDevices(two), Refusal::NoLicense),
        (&id, Act::Release, Refusal::NothingHeld),
    ] {
        let asked = Ask { request: Some(request("r1", "d1")), ..ask(grant, act, 9) };
        assert_eq!(take(&*store, asked).await, Taken::Refused(refusal));
    }
    assert_eq!(store.journal(&id).await.expect("reads").len(), lines);
    let asked = Ask { request: Some(request("r1", "d2")), ..ask(&id, revoke(), 9) };
    assert_eq!(take(&*store, asked).await, Taken::Done, "the request's id was not used up");
}

pub(crate) async fn a_hand_is_never_lost_to_a_look<H: Harness>(harness: H) {
    let store = harness.open().await;
    let id = issued(&*store, "KEY-1").await;
    store.record_event(event("evt_1", 6, &session("cs_1"))).await.expect("records");
    let slow = store.ticket().await.expect("a ticket");
    assert_eq!(take(&*store, ask(&id, revoke(), 7)).await, Taken::Done);
    assert!(
        !store.decide(decision("cs_1", slow, 1, 8)).await.expect("refuses"),
        "it did not know of the hand"
    );
    let row = store.grant(&id).await.expect("reads").expect("is there");
    assert_eq!(row.licenses[0].desired.state, DesiredState::Revoked);
    assert_eq!(
        row.hand.map(|hand| (hand.person, hand.reason)),
        Some(("ops".to_owned(), "leaked".to_owned()))
    );
    // Nor is the look lost to the hand.
    assert_eq!(due_at(&*store, at(8), 10).await.objects.len(), 1);
    assert!(store.purchase(&purchase("cs_1")).await.expect("reads").events.len() == 1, "not taken in yet");
    let later = store.ticket().await.expect("a ticket");
    let hand = store.purchase(&purchase("cs_1")).await.expect("reads").hand;
    let mut decided = decision("cs_1", later, 1, 9);
    decided.licenses = decided.licenses.into_iter().map(|license| hand.apply(license)).collect();
    assert!(store.decide(decided).await.expect("decides"));
    assert!(due_at(&*store, at(9), 10).await.objects.is_empty());
}

pub(crate) async fn a_round_that_a_hand_has_overtaken_writes_nothing<H: Harness>(harness: H) {
    let store = harness.open().await;
    let id = issued(&*store, "KEY-1").await;
    let read = store.grant(&id).await.expect("reads").expect("is there").decided;
    assert_eq!(take(&*store, ask(&id, Act::ResetDevices(None), 7)).await, Taken::Done);
    store.progress(ready("cs_1", 1, 8), read).await.expect("writes");
    assert_eq!(
        due_at(&*store, at(8), 10).await.grants,
        std::slice::from_ref(&id),
        "the wish is still to be seen to"
    );
    let wish = store.load(&id).await.expect("reads").resets.remove(0);
    store.reset(&id, &wish.id, ResetOutcome::Sent).await.expect("writes");
    assert!(store.load(&id).await.expect("reads").resets.is_empty(), "and is never sent twice");
}

pub(crate) async fn what_a_cluster_tells_of_devices_ends_the_wishes_that_it_takes_in<H: Harness>(harness: H) {
    let store = harness.open().await;
    let id = issued(&*store, "KEY-1").await;
    for time in [7, 8, 9] {
        assert_eq!(take(&*store, ask(&id, Act::ResetDevices(None), time)).await, Taken::Done);
    }
    let newest = async || {
        let row = store.grant(&id).await.expect("reads").expect("is there");
        row.licenses[0].reset.map(|reset| (reset.at, reset.outcome))
    };
    let tell = async |time, outcome| {
        let row = store.grant(&id).await.expect("reads").expect("is there");
        let kept = kept("KEY-1", 1);
        let shown = Shown { masked: kept.key.masked(), fingerprint: kept.key.fingerprint() };
        let reset = Some(DevicesReset { at: at(time), outcome });
        let licenses = vec![Seen { kept, shown, delivered: false, reset }];
        let sighting = Some(Sighting { licenses, agreed: None });
        store.progress(Progress { sighting, ..ready("cs_1", 1, 10) }, row.decided).await.expect("writes");
    };
    assert_eq!(newest().await, Some((at(9), ResetOutcome::Asked)));
    tell(8, ResetOutcome::Done).await;
    assert_eq!(newest().await, Some((at(9), ResetOutcome::Asked)), "it was asked for after that");
    assert_eq!(store.load(&id).await.expect("reads").resets.len(), 1);
    tell(9, ResetOutcome::Sent).await;
    tell(9, ResetOutcome::Unclear).await;
    assert_eq!(newest().await, Some((at(9), ResetOutcome::Unclear)));
    let lines = store.journal(&id).await.expect("reads");
    let told = |words: &str| lines.iter().filter(|line| line.text.contains(words)).count();
    assert_eq!((told("main: its devices were unbound"), told("main: nobody can tell")), (2, 1));
}

pub(crate) async fn a_hand_is_taken_back<H: Harness>(harness: H) {
    let store = harness.open().await;
    let id = issued(&*store, "KEY-1").await;
    let fingerprint = kept("KEY-1", 1).key.fingerprint();
    assert_eq!(take(&*store, ask(&id, revoke(), 7)).await, Taken::Done);
    store.note(&id, &fingerprint, &Change::State(KeptState::RevokedElsewhere)).await.expect("notes");
    assert_eq!(take(&*store, ask(&id, reinstate(), 8)).await, Taken::Done);
    let state = |store: Arc<dyn Store>, id: GrantId| async move {
        store.load(&id).await.expect("reads").licenses[0].state
    };
    assert_eq!(
        state(Arc::clone(&store), id.clone()).await,
        KeptState::Reinstating,
        "asked for, whatever we believed"
    );
    assert_eq!(take(&*store, ask(&id, Act::Clear, 9)).await, Taken::Done);
    let row = store.grant(&id).await.expect("reads").expect("is there");
    assert_eq!(row.hand, None);
    let license = &row.licenses[0].desired;
    assert_eq!((license.state, license.cause), (DesiredState::Active, Cause::Rule));
}

pub(crate) async fn an_address_set_by_hand_outlasts_stripes<H: Harness>(harness: H) {
    let store = harness.open().await;
    let id = issued(&*store, "KEY-1").await;
    let update = |email: &str| Act::Update { email: Email::new(email), note: None, expires_at: None };
    assert_eq!(take(&*store, ask(&id, update("joe@example.com"), 7)).await, Taken::Done);
    decide(&*store, "cs_1", 1, 8).await;
    let email = |row: grantsmith_service::store::GrantRow| row.email;
    let row = store.grant(&id).await.expect("reads").expect("is there");
    assert_eq!(email(row), Email::new("joe@example.com"));
    assert!(store.find_grants("jane@example.com", 1).await.expect("finds").is_empty());
}

pub(crate) async fn another_address_gets_one_mail<H: Harness>(harness: H) {
    let store = harness.open().await;
    let id = issued(&*store, "KEY-1").await;
    let refused =
        |state, due| Attempted { state, reason: Some(Reason::MailRefused), detail: None, due, at: at(6) };
    let readdress = async |email: &str, millis| {
        let update = Act::Update { email: Email::new(email), note: None, expires_at: None };
        assert_eq!(take(&*store, ask(&id, update, millis)).await, Taken::Done);
        let due = due_at(&*store, at(1_000), 10).await.deliveries;
        due.into_iter().map(|delivery| delivery.number).collect::<Vec<_>>()
    };
    store.attempted(&id, 1, refused(DeliveryState::Due, Some(at(100)))).await.expect("writes");
    assert_eq!(readdress("joe@example.com", 7).await, [1], "what was put off goes there");
    store.attempted(&id, 1, refused(DeliveryState::Parked, None)).await.expect("writes");
    assert_eq!(readdress("jim@example.com", 8).await, [2], "what was refused is sent anew");
}

pub(crate) async fn a_replacement_is_told_when_the_old_key_is_gone<H: Harness>(harness: H) {
    let store = harness.open().await;
    let id = issued(&*store, "KEY-1").await;
    let sent = |number, at: Timestamp| (number, at);
    assert_eq!(take(&*store, ask(&id, Act::Replace(None), 7)).await, Taken::Done);
    assert_eq!(take(&*store, ask(&id, Act::Replace(None), 8)).await, Taken::Refused(Refusal::KeyPending));
    let new = crate::build::attempt("a2", 1, 9);
    let version = store.load(&id).await.expect("reads").version;
    store
        .open(&id, version, &grantsmith_core::port::Attempt { generation: 2, ..new.clone() })
        .await
        .expect("opens");
    let license = grantsmith_core::port::Kept { generation: 2, attempt: Some(new.id), ..kept("KEY-2", 1) };
    store.keep(&id, &license).await.expect("keeps");
    let shown = async || {
        let row = store.grant(&id).await.expect("reads").expect("is there");
        row.licenses[0].kept.as_ref().map(|kept| kept.key.expose().to_owned())
    };
    assert_eq!(shown().await, None, "two keys would work");
    let revoked = KeptState::Revoked { at: at(10), cause: Cause::Hand };
    let old = kept("KEY-1", 1).key.fingerprint();
    store.note(&id, &old, &Change::State(revoked)).await.expect("notes");
    assert_eq!(shown().await.as_deref(), Some("KEY-2"));
    progress(&*store, Progress { at: at(11), ..ready("cs_1", 1, 11) }).await;
    let row = store.grant(&id).await.expect("reads").expect("is there");
    assert_eq!(row.delivery.map(|delivery| (delivery.number, delivery.created)), Some(sent(2, at(11))));
}

pub(crate) async fn a_release_serves_one_revocation<H: Harness>(harness: H) {
    let store = harness.open().await;
    let id = issued(&*store, "KEY-1").await;
    let mut refunded = decision("cs_1", store.ticket().await.expect("a ticket"), 1, 6);
    for license in &mut refunded.licenses {
        (license.state, license.reason) = (DesiredState::Revoked, Reason::Refunded);
    }
    assert!(store.decide(refunded.clone()).await.expect("decides"));
    let held = Progress {
        state: GrantState::Issuing,
        reason: Reason::RevocationHeld,
        licenses: vec![(LicenseName::main(), Reason::RevocationHeld)],
        deliver: false,
        ..ready("cs_1", 1, 7)
    };
    progress(&*store, held).await;
    let refund: Decide = {
        let licenses = refunded.licenses.clone();
        Arc::new(move |purchase, record, ticket| {
            let licenses = licenses.iter().cloned().map(|license| record.hand.apply(license)).collect();
            rules()(purchase, record, ticket).map(|decided| Redecided { licenses, ..decided })
        })
    };
    assert_eq!(store.take(ask(&id, Act::Release, 8), refund).await.expect("writes"), Taken::Done);
    let row = store.grant(&id).await.expect("reads").expect("is there");
    let license = &row.licenses[0].desired;
    assert_eq!((license.cause, license.reason), (Cause::Hand, Reason::Refunded));
    decide(&*store, "cs_1", 1, 9).await;
    let hand = store.purchase(&purchase("cs_1")).await.expect("reads").hand;
    assert!(!hand.released, "the refund failed, so the next one is another matter");
}
