//! Claims about grants that people declare in a cluster.

use grantsmith_core::Reason;
use grantsmith_core::port::{AttemptId, Kept};
use grantsmith_core::purchase::Email;
use grantsmith_service::store::{
    Attempted, Declaration, DeliveryState, GrantRow, GrantState, Progress, Resource, Seen, Shown, Sighting,
    Store,
};

use crate::Harness;
use crate::build::{at, desired, due_at, grant_id, kept, purchase, ready};

const REFERENCE: &str = "default/press-17";
const OBJECT: &str = "reviewer-jane";

/// What people declare: one license, whose key is there and not mailed yet.
fn declaration(at_millis: i64) -> Declaration {
    let kept = Kept { attempt: Some(AttemptId("a1".to_owned())), ..kept("KEY-1", 1) };
    let shown = Shown { masked: kept.key.masked(), fingerprint: kept.key.fingerprint() };
    let seen = Seen { kept, shown, delivered: false, reset: None };
    Declaration {
        purchase: purchase(REFERENCE),
        object: Resource { name: OBJECT.to_owned(), secret: "reviewer-jane-license".to_owned() },
        livemode: true,
        paid_at: Some(at(0)),
        email: Email::new("jane@example.com"),
        created: at(0),
        licenses: vec![desired(1)],
        progress: Progress {
            sighting: Some(Sighting { licenses: vec![seen], agreed: None }),
            ..ready(REFERENCE, 1, at_millis)
        },
    }
}

async fn row(store: &dyn Store) -> GrantRow {
    store.grant(&grant_id(REFERENCE)).await.expect("reads").expect("is there")
}

/// The same declared again after it was deleted: its key is found by its label, and no attempt is told.
fn declared_again(at_millis: i64) -> Declaration {
    let mut declaration = declaration(at_millis);
    for seen in declaration.progress.sighting.iter_mut().flat_map(|sighting| &mut sighting.licenses) {
        seen.kept.attempt = None;
    }
    declaration
}

/// The sendings that are due, and how often each was tried.
async fn due(store: &dyn Store, now: i64) -> Vec<(u32, u32)> {
    let due = due_at(store, at(now), 10).await.deliveries;
    due.into_iter().map(|mail| (mail.number, mail.tries)).collect()
}

pub(crate) async fn a_grant_that_people_deleted_is_mailed_no_more<H: Harness>(harness: H) {
    let store = harness.open().await;
    store.take_in(declaration(5)).await.expect("takes in");
    assert_eq!(due(&*store, 5).await, [(1, 0)]);
    let tried = |state| Attempted {
        state,
        reason: Some(Reason::MailRefused),
        detail: None,
        due: Some(at(100)),
        at: at(5),
    };
    store.attempted(&grant_id(REFERENCE), 1, tried(DeliveryState::Due)).await.expect("writes");
    store.let_go(&grant_id(REFERENCE), OBJECT, at(6)).await.expect("lets go");
    let gone = row(&*store).await;
    assert_eq!(
        (gone.state, gone.delivery.map(|mail| mail.state)),
        (GrantState::Ended, Some(DeliveryState::Dropped))
    );
    assert!(due(&*store, 1_000).await.is_empty());

    store.take_in(declared_again(7)).await.expect("takes in");
    assert_eq!(due(&*store, 7).await, [(1, 0)], "nobody has the key yet");
    let mail = row(&*store).await.delivery.expect("a mail");
    assert_eq!((mail.reason, mail.created), (None, at(7)));
    store.attempted(&grant_id(REFERENCE), 1, tried(DeliveryState::Parked)).await.expect("writes");
    store.let_go(&grant_id(REFERENCE), OBJECT, at(9)).await.expect("lets go");
    assert_eq!(store.counts().await.expect("counts").deliveries_parked, 0, "nothing is left for a person");
}

pub(crate) async fn a_grant_that_people_declare_again_is_mailed_what_was_not_sent<H: Harness>(harness: H) {
    let store = harness.open().await;
    let let_go =
        async |millis| store.let_go(&grant_id(REFERENCE), OBJECT, at(millis)).await.expect("lets go");
    store.take_in(declaration(5)).await.expect("takes in");
    let_go(6).await;
    let Declaration { progress, .. } = declared_again(7);
    let fresh = Progress {
        state: GrantState::Issuing,
        reason: Reason::Issuing,
        deliver: false,
        sighting: Some(Sighting { licenses: Vec::new(), agreed: None }),
        ..progress
    };
    store.take_in(Declaration { progress: fresh, ..declared_again(7) }).await.expect("takes in");
    assert!(due(&*store, 7).await.is_empty(), "its key has to be found again first");
    store.take_in(declared_again(8)).await.expect("takes in");
    store.take_in(declared_again(9)).await.expect("takes in");
    assert_eq!(due(&*store, 9).await, [(1, 0)]);
    let sent = Attempted { state: DeliveryState::Sent, reason: None, detail: None, due: None, at: at(10) };
    store.attempted(&grant_id(REFERENCE), 1, sent).await.expect("writes");
    let_go(11).await;
    store.take_in(declared_again(12)).await.expect("takes in");
    assert!(due(&*store, 1_000).await.is_empty(), "once is enough");
}

pub(crate) async fn what_is_taken_back_while_it_is_tried_stays_so<H: Harness>(harness: H) {
    let store = harness.open().await;
    store.take_in(declaration(5)).await.expect("takes in");
    store.let_go(&grant_id(REFERENCE), OBJECT, at(6)).await.expect("lets go");
    let tried = |state| Attempted { state, reason: None, detail: None, due: Some(at(8)), at: at(7) };
    store.attempted(&grant_id(REFERENCE), 1, tried(DeliveryState::Due)).await.expect("writes");
    assert!(due_at(&*store, at(1_000), 10).await.deliveries.is_empty());
    store.attempted(&grant_id(REFERENCE), 1, tried(DeliveryState::Sent)).await.expect("writes");
    assert_eq!(row(&*store).await.delivery.map(|mail| mail.state), Some(DeliveryState::Sent));
}

pub(crate) async fn a_forgotten_address_does_not_come_back_from_the_cluster<H: Harness>(harness: H) {
    let store = harness.open().await;
    let jane = Email::new("jane@example.com").expect("an address");
    store.take_in(declaration(5)).await.expect("takes in");
    store.let_go(&grant_id(REFERENCE), OBJECT, at(6)).await.expect("lets go");
    assert_eq!(store.forget(&jane, "ops", at(6)).await.expect("forgets").purchases, 1);
    store.take_in(declared_again(7)).await.expect("takes in");
    let forgotten = row(&*store).await;
    assert_eq!((forgotten.email, forgotten.forgotten), (None, true));
    assert!(store.find_grants("jane@example.com", 1).await.expect("finds").is_empty());
    assert!(due_at(&*store, at(1_000), 10).await.deliveries.is_empty());
}
