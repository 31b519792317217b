//! Builders for what the record keeps.

use bytes::Bytes;
use grantsmith_core::grant::{Cause, Expiry, LicenseName};
use grantsmith_core::port::{Attempt, AttemptId, Kept, KeptState, Outcome};
use grantsmith_core::purchase::{Email, PurchaseId, StripeId};
use grantsmith_core::terms::{Duration, LicenseTerms, Rules, Terms};
use grantsmith_core::{AppId, Desired, DesiredState, GrantId, LicenseKey, Reason, Slots};
use grantsmith_service::store::{
    Decision, Due, EventState, GrantState, Most, NewEvent, Object, ObjectKind, Progress, Snapshot, Source,
    Store, Ticket,
};
use jiff::{SignedDuration, Timestamp};

/// The time of every test, later by milliseconds.
pub(crate) fn at(millis: i64) -> Timestamp {
    let start = Timestamp::from_second(1_795_000_000).expect("time");
    start + SignedDuration::from_millis(millis)
}

pub(crate) fn stripe(id: &str) -> StripeId {
    StripeId::parse(id).expect("Stripe id")
}

pub(crate) fn purchase(id: &str) -> PurchaseId {
    PurchaseId::parse(id).expect("purchase")
}

pub(crate) fn grant_id(id: &str) -> GrantId {
    GrantId::of(&purchase(id))
}

pub(crate) fn app(id: &str) -> AppId {
    AppId::parse(id).expect("app")
}

pub(crate) fn session(id: &str) -> Object {
    Object { kind: ObjectKind::Session, id: stripe(id) }
}

pub(crate) fn payment(id: &str) -> Object {
    Object { kind: ObjectKind::PaymentIntent, id: stripe(id) }
}

/// A pending event that tells of an object.
pub(crate) fn event(id: &str, received: i64, signal: &Object) -> NewEvent {
    NewEvent {
        id: id.to_owned(),
        kind: "checkout.session.completed".to_owned(),
        created: at(received - 1_000),
        received: at(received),
        livemode: false,
        api_version: Some("2025-03-31.basil".to_owned()),
        object_id: Some(signal.id.to_string()),
        signal: Some(signal.clone()),
        state: EventState::Pending,
        reason: None,
        body: Bytes::from(format!("{{\"id\":\"{id}\"}}")),
    }
}

/// An event that changes nothing.
pub(crate) fn ignored(id: &str, received: i64) -> NewEvent {
    NewEvent {
        kind: "customer.created".to_owned(),
        object_id: Some("cus_1".to_owned()),
        signal: None,
        state: EventState::Ignored,
        reason: Some(Reason::UnknownType),
        ..event(id, received, &session("cs_unused"))
    }
}

/// A license that should exist.
pub(crate) fn desired(ordinal: u32) -> Desired {
    Desired {
        name: LicenseName::of_unit(ordinal),
        generation: 1,
        app_id: app("app-1"),
        slots: Slots::Limited(2),
        state: DesiredState::Active,
        expires_at: Some(at(86_400_000)),
        expiry: Expiry::Sold,
        reason: Reason::Issued,
        cause: Cause::Rule,
        imported: false,
        withdrawn: false,
        adopt: None,
    }
}

pub(crate) fn terms() -> Terms {
    lasting(Duration::Days(30))
}

pub(crate) fn lasting(duration: Duration) -> Terms {
    let (app_id, slots, rules) = (app("app-1"), Slots::Limited(2), Rules::default());
    Terms::for_all(LicenseTerms { app_id, duration, slots, rules })
}

/// The decision that a session is paid, with so many licenses.
pub(crate) fn decision(id: &str, ticket: Ticket, units: u32, at_millis: i64) -> Decision {
    Decision {
        purchase: purchase(id),
        livemode: false,
        ticket,
        looked_at: session(id),
        others: Vec::new(),
        invoices: Vec::new(),
        dunning: None,
        snapshot: Snapshot {
            object: session(id),
            source: Source::Fetched,
            body: Bytes::from(format!("{{\"id\":\"{id}\",\"ticket\":{}}}", ticket.0)),
        },
        links: Vec::new(),
        seen: Vec::new(),
        customer: None,
        state: GrantState::Issuing,
        reason: Reason::Issuing,
        detail: None,
        terms: Some(terms()),
        sells: Vec::new(),
        paid_at: Some(at(0)),
        email: Email::new("Jane@Example.com"),
        licenses: (1..=units).map(desired).collect(),
        look_again: None,
        event_state: EventState::Handled,
        cause: "event evt_1".to_owned(),
        at: at(at_millis),
    }
}

/// The same purchase with nothing to be issued.
pub(crate) fn parked(decision: Decision) -> Decision {
    Decision {
        state: GrantState::Parked,
        reason: Reason::BadMetadata,
        detail: Some("mend it".to_owned()),
        licenses: Vec::new(),
        event_state: EventState::Parked,
        terms: None,
        paid_at: None,
        ..decision
    }
}

/// Decides that a session is paid, on a fresh look.
pub(crate) async fn decide(store: &dyn Store, id: &str, units: u32, at_millis: i64) {
    let ticket = store.ticket().await.expect("ticket");
    assert!(store.decide(decision(id, ticket, units, at_millis)).await.expect("decides"));
}

pub(crate) fn attempt(id: &str, ordinal: u32, opened: i64) -> Attempt {
    Attempt {
        id: AttemptId(id.to_owned()),
        name: LicenseName::of_unit(ordinal),
        generation: 1,
        opened_at: at(opened),
        clock_offset: SignedDuration::from_millis(-1_500),
        outcome: Outcome::Open,
        watched_at: None,
    }
}

pub(crate) fn kept(key: &str, ordinal: u32) -> Kept {
    Kept {
        name: LicenseName::of_unit(ordinal),
        generation: 1,
        key: LicenseKey::new(key),
        app_id: app("app-1"),
        slots: Some(Slots::Limited(2)),
        created_at: at(50),
        expires_at: Some(at(86_400_000)),
        attempt: None,
        state: KeptState::Live,
        duplicated: false,
        refused: None,
    }
}

/// Keeps a license that we made for each unit.
pub(crate) async fn issue(store: &dyn Store, id: &str, units: u32) {
    for n in 1..=units {
        let license =
            Kept { attempt: Some(AttemptId(format!("{id}-{n}"))), ..kept(&format!("KEY-{id}-{n}"), n) };
        store.keep(&grant_id(id), &license).await.expect("keeps");
    }
}

/// A round of work that found everything as declared.
pub(crate) fn ready(id: &str, units: u32, at_millis: i64) -> Progress {
    Progress {
        id: grant_id(id),
        state: GrantState::Ready,
        reason: Reason::Issued,
        detail: None,
        licenses: (1..=units).map(|n| (LicenseName::of_unit(n), Reason::Issued)).collect(),
        due: None,
        tries: 0,
        deliver: true,
        sighting: None,
        at: at(at_millis),
    }
}

/// Writes what a round came to, on the grant as it stands.
pub(crate) async fn progress(store: &dyn Store, progress: Progress) {
    let row = store.grant(&progress.id).await.expect("reads").expect("a grant");
    store.progress(progress, row.decided).await.expect("writes");
}

/// What is due at a time, at most `most` of each kind.
pub(crate) async fn due_at(store: &dyn Store, now: Timestamp, most: u32) -> Due {
    let most = Most { objects: most, grants: most, deliveries: most, wishes: most };
    store.due(now, most).await.expect("reads")
}
