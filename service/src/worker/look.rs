//! A dirty object becomes a snapshot, and the snapshot a decision.

use std::time::Duration;

use bytes::Bytes;
use grantsmith_core::entitle::Facts;
use grantsmith_core::grant::Standing;
use grantsmith_core::port::Class;
use grantsmith_core::purchase::{Payment, SessionSnapshot, StripeId, ToldSession};
use grantsmith_core::{PurchaseId, Reason, entitle, retry};
use metrics::counter;
use tracing::Instrument;

use super::Worker;
use crate::ingest::terms_of;
use crate::store::{
    Decision, Dirty, Event, EventState, GrantState, Object, ObjectKind, PurchaseRecord, Snapshot, Source,
    Ticket,
};
use crate::stripe::client::Error as StripeError;
use crate::stripe::event::{SessionEvent, Signal, signal_of};
use crate::stripe::shape;

/// Why a look came to no decision.
enum Halt {
    /// Again later.
    Later(Reason, Option<Duration>),
    /// Never: a person must do something.
    Over(Reason, String),
    /// The record failed; the dirty mark is still there.
    Record(crate::store::Error),
}

impl From<crate::store::Error> for Halt {
    fn from(error: crate::store::Error) -> Self {
        Self::Record(error)
    }
}

/// What a look saw.
struct Seen {
    session: SessionSnapshot,
    snapshot: Snapshot,
    links: Vec<StripeId>,
}

impl Worker {
    /// Looks at one dirty object, and decides its purchase.
    pub(super) async fn look(&self, dirty: Dirty) {
        let span = tracing::info_span!("look", object.id = %dirty.object.id);
        self.look_at(dirty).instrument(span).await;
    }

    async fn look_at(&self, dirty: Dirty) {
        let ticket = match self.store.ticket().await {
            Ok(ticket) => ticket,
            Err(error) => return tracing::warn!(%error, "no ticket for a look"),
        };
        let outcome = match self.decide(&dirty.object, ticket).await {
            Ok(state) => state,
            Err(halt) => self.halted(&dirty, ticket, halt).await,
        };
        counter!("grantsmith_looks_total", "outcome" => outcome).increment(1);
    }

    async fn halted(&self, dirty: &Dirty, ticket: Ticket, halt: Halt) -> &'static str {
        let object = &dirty.object;
        let written = match &halt {
            Halt::Later(reason, wish) => {
                let wait =
                    wish.unwrap_or_else(|| retry::delay(Class::Transient, dirty.tries.saturating_add(1)));
                tracing::warn!(%reason, wait = ?wait, "looked in vain, will look again");
                self.store.look_failed(object, ticket, self.after(wait), *reason, self.now()).await
            }
            Halt::Over(reason, fix) => {
                tracing::warn!(%reason, fix, "looked for the last time");
                let (state, now) = (EventState::Parked, self.now());
                self.store.look_ended(object, ticket, state, *reason, fix, now).await
            }
            Halt::Record(error) => {
                tracing::warn!(%error, "the record failed in a look");
                tokio::time::sleep(super::BREATHER).await;
                Ok(())
            }
        };
        if let Err(error) = written {
            tracing::warn!(%error, "a look in vain was not written down");
        }
        match halt {
            Halt::Later(reason, _) | Halt::Over(reason, _) => reason.as_str(),
            Halt::Record(_) => "record",
        }
    }

    async fn decide(&self, object: &Object, ticket: Ticket) -> Result<&'static str, Halt> {
        let purchase = self.purchase_of(object).await?;
        let record = self.store.purchase(&purchase).await?;
        let told = told(&record);
        let seen = match &self.stripe {
            Some(stripe) => fetched(stripe.session(session_id(&purchase)).await, &purchase)?,
            None => believed(&record, told.as_ref(), &purchase)?,
        };
        let facts = Facts {
            purchase: &purchase,
            session: Some(&seen.session),
            paid_at: record.paid_at,
            paying_event_at: told
                .as_ref()
                .filter(|told| told.session.finality() == 2)
                .map(|told| told.event_at),
        };
        let terms = record.terms.clone().map_or_else(|| terms_of(&seen.session), Ok);
        let grant = entitle(&facts, &terms, &record.hand, self.now());
        let (state, reason, detail) = stand(&grant.standing);
        let entitled = state == GrantState::Issuing;
        let decision = Decision {
            livemode: seen.session.livemode,
            ticket,
            links: seen.links,
            state,
            reason,
            detail,
            terms: terms.ok().filter(|_| entitled),
            paid_at: grant.paid_at,
            email: seen.session.email.clone(),
            licenses: grant.licenses,
            look_again: grant.look_again.filter(|_| self.stripe.is_some()),
            event_state: match state {
                GrantState::Parked => EventState::Parked,
                GrantState::NotOurs => EventState::Ignored,
                _ => EventState::Handled,
            },
            cause: record
                .events
                .last()
                .map_or_else(|| "look".to_owned(), |event| format!("event {}", event.id)),
            at: self.now(),
            snapshot: seen.snapshot,
            purchase,
        };
        let purchase = decision.purchase.clone();
        if !self.store.decide(decision).await? {
            return Ok("stale");
        }
        tracing::info!(purchase.id = %purchase, %reason, "decided");
        Ok(reason.as_str())
    }

    /// The purchase that an object belongs to.
    async fn purchase_of(&self, object: &Object) -> Result<PurchaseId, Halt> {
        let unknown =
            || Halt::Over(Reason::NotOurs, "the object belongs to no purchase that is known".to_owned());
        match object.kind {
            ObjectKind::Session => PurchaseId::parse(object.id.as_str()).map_err(|_| unknown()),
            ObjectKind::PaymentIntent | ObjectKind::Charge | ObjectKind::Other => {
                self.store.linked(&object.id).await?.ok_or_else(unknown)
            }
        }
    }
}

fn session_id(purchase: &PurchaseId) -> &StripeId {
    match purchase {
        PurchaseId::Session(id) | PurchaseId::Subscription(id) => id,
    }
}

/// The latest that events have told, the stored telling included.
fn told(record: &PurchaseRecord) -> Option<ToldSession> {
    let stored = record.session.as_ref().and_then(|snapshot| match &snapshot.source {
        Source::Told { event, kind, at } => read_told(&snapshot.body, event, kind, *at),
        Source::Fetched => None,
    });
    let fresh = record.events.iter().filter_map(telling).map(|(told, _)| told);
    stored.into_iter().chain(fresh).reduce(ToldSession::newer)
}

/// What an event tells of its session, with the session's own JSON.
fn telling(event: &Event) -> Option<(ToldSession, Bytes)> {
    let body: serde_json::Value = serde_json::from_slice(event.body.as_ref()?).ok()?;
    let object = body.get("data")?.get("object")?;
    let json = Bytes::from(serde_json::to_vec(object).ok()?);
    let told = read_told(&json, &event.id, &event.kind, event.created)?;
    Some((told, json))
}

fn read_told(json: &[u8], event: &str, kind: &str, at: jiff::Timestamp) -> Option<ToldSession> {
    let Signal::Session(signal) = signal_of(kind) else { return None };
    let mut session = shape::session(&serde_json::from_slice(json).ok()?).ok()?;
    session.async_payment_failed = signal == SessionEvent::AsyncPaymentFailed;
    Some(ToldSession { session, event_at: at, event_id: event.to_owned() })
}

/// The session as the API shows it.
fn fetched(answer: Result<serde_json::Value, StripeError>, purchase: &PurchaseId) -> Result<Seen, Halt> {
    let object = answer.map_err(|error| match &error {
        StripeError::Gone { .. } => {
            let fix =
                "Stripe has no such session; check that the API key is of the account that sends the events";
            Halt::Over(Reason::ObjectGone, fix.to_owned())
        }
        StripeError::RateLimited { retry_after, .. } => Halt::Later(error.reason(), Some(*retry_after)),
        _ => {
            tracing::warn!(%error, "Stripe's API");
            Halt::Later(error.reason(), None)
        }
    })?;
    let unreadable = |error: &dyn std::fmt::Display| {
        Halt::Over(Reason::BadMetadata, format!("the session cannot be read: {error}"))
    };
    let session = shape::session(&object).map_err(|error| unreadable(&error))?;
    let links = links(&object, &session);
    let body = Bytes::from(serde_json::to_vec(&object).map_err(|error| unreadable(&error))?);
    Ok(Seen { session, links, snapshot: snapshot(purchase, Source::Fetched, body) })
}

/// The session as events have told it.
fn believed(
    record: &PurchaseRecord,
    told: Option<&ToldSession>,
    purchase: &PurchaseId,
) -> Result<Seen, Halt> {
    let Some(told) = told else {
        let fix = "no event tells enough of this purchase; give this installation a Stripe API key and replay the event";
        return Err(Halt::Over(Reason::NeedsStripeKey, fix.to_owned()));
    };
    let event = record.events.iter().find(|event| event.id == told.event_id);
    let snapshot = match event.and_then(|event| telling(event).map(|(_, json)| (event, json))) {
        Some((event, json)) => {
            let source =
                Source::Told { event: event.id.clone(), kind: event.kind.clone(), at: event.created };
            snapshot(purchase, source, json)
        }
        None => record.session.clone().unwrap_or_else(|| snapshot(purchase, Source::Fetched, Bytes::new())),
    };
    let links = serde_json::from_slice(&snapshot.body)
        .map_or_else(|_| Vec::new(), |object| links(&object, &told.session));
    Ok(Seen { session: told.session.clone(), snapshot, links })
}

fn snapshot(purchase: &PurchaseId, source: Source, body: Bytes) -> Snapshot {
    Snapshot { object: Object { kind: ObjectKind::Session, id: session_id(purchase).clone() }, source, body }
}

/// The objects by which a later event may name the purchase. Not the customer: it has other purchases.
fn links(object: &serde_json::Value, session: &SessionSnapshot) -> Vec<StripeId> {
    let told = shape::links(object)
        .into_iter()
        .filter(|(kind, _)| *kind != shape::LinkKind::Customer)
        .map(|(_, id)| id);
    let payment = match &session.payment {
        Payment::None => None,
        Payment::Untold(id) | Payment::Told { id, .. } => Some(id.clone()),
    };
    told.chain(payment).collect()
}

fn stand(standing: &Standing) -> (GrantState, Reason, Option<String>) {
    match standing {
        Standing::Entitled => (GrantState::Issuing, Reason::Issuing, None),
        Standing::Pending(reason) => (GrantState::Pending, *reason, None),
        Standing::Ended(reason) => (GrantState::Ended, *reason, None),
        Standing::Parked(reason, fix) => (GrantState::Parked, *reason, Some(fix.clone())),
        Standing::NotOurs(fix) => (GrantState::NotOurs, Reason::NotOurs, Some(fix.clone())),
    }
}
