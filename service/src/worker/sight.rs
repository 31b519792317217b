//! What a purchase looks like now: fetched from Stripe's API, or believed from events where there is no key for it.

use std::collections::BTreeMap;

use bytes::Bytes;
use grantsmith_core::Reason;
use grantsmith_core::purchase::{
    InvoiceFact, InvoiceStatus, Payment, PurchaseId, SessionSnapshot, StripeId, SubscriptionSnapshot,
    SubscriptionStatus, ToldSession, ToldSubscription,
};
use grantsmith_core::terms::{Follow, Terms};
use jiff::Timestamp;
use serde_json::Value;
use serde_json::value::RawValue;

use super::Worker;
use super::look::Halt;
use crate::decide::{Seen, View, fetched, merged};
use crate::store::{Event, Object, ObjectKind, PurchaseRecord, Snapshot, Source};
use crate::stripe::client::{Client as Stripe, Error as StripeError};
use crate::stripe::event::{SessionEvent, Signal, signal_of};
use crate::stripe::shape;

/// A session as it was seen.
pub(super) struct Session {
    pub(super) seen: Seen<SessionSnapshot>,
    pub(super) paying_event_at: Option<Timestamp>,
}

impl Worker {
    /// Sees a Checkout session.
    pub(super) async fn see_session(&self, id: &StripeId, record: &PurchaseRecord) -> Result<Session, Halt> {
        let newest = told_session(id, record);
        let paying = newest.as_ref().filter(|telling| telling.told.session.finality() == 2);
        let paying_event_at = paying.map(|telling| telling.told.event_at);
        let seen = match &self.stripe {
            Some(stripe) => fetched_session(stripe, id).await?,
            None => believed_session(newest)?,
        };
        Ok(Session { seen, paying_event_at })
    }

    /// Sees a subscription, with its session and its invoices.
    pub(super) async fn see_subscription(
        &self,
        id: &StripeId,
        record: &PurchaseRecord,
    ) -> Result<View, Halt> {
        match &self.stripe {
            Some(stripe) => self.fetched_subscription(stripe, id, record).await,
            None => believed_subscription(record),
        }
    }

    async fn fetched_subscription(
        &self,
        stripe: &Stripe,
        id: &StripeId,
        record: &PurchaseRecord,
    ) -> Result<View, Halt> {
        let object = answer(stripe.subscription(id).await)?;
        let subscription = read(&object, shape::subscription)?;
        let stored = View::stored(record);
        let session = match stored.session {
            Some(session) => Some(session),
            // Its metadata outranks everything, so it is looked up once, before the terms are fixed.
            None if record.terms.is_none() => {
                match answer(stripe.sessions_of_subscription(id).await)?.first() {
                    Some(session) => Some(fetched_session(stripe, session).await?),
                    None => None,
                }
            }
            None => None,
        };
        let mut invoices = failures_told(record);
        invoices.extend(self.fetched_invoices(stripe, &subscription, &object, record).await?);
        let now = self.now();
        known_past_due(&subscription, record, &mut invoices, now);
        let links = links(&object, None);
        let snapshot = fetched(ObjectKind::Subscription, id.clone(), &object);
        let subscription = Some(Seen { object: subscription, snapshot, links, inside: Vec::new() });
        Ok(View { session, subscription, invoices, paying_event_at: None })
    }

    /// The newest invoice, those that were failing when last seen, and where the terms ask for it those that were paid.
    async fn fetched_invoices(
        &self,
        stripe: &Stripe,
        subscription: &SubscriptionSnapshot,
        object: &Value,
        record: &PurchaseRecord,
    ) -> Result<Vec<InvoiceFact>, Halt> {
        // While a bank still moves the money Stripe has tried as well, and calls the subscription active.
        let tried_at = (subscription.status == SubscriptionStatus::PastDue).then(|| self.now());
        let mut facts = Vec::new();
        if object["latest_invoice"].is_object() {
            facts.push(read(&object["latest_invoice"], |invoice| shape::invoice(invoice, tried_at))?);
        }
        let latest = object["latest_invoice"]["id"].as_str();
        let failing = record.invoices.iter().filter(|fact| fact.failing_since().is_some());
        for fact in failing.filter(|fact| Some(fact.id.as_str()) != latest) {
            let Ok(id) = StripeId::parse(&fact.id) else { continue };
            let invoice = answer(stripe.invoice(&id).await)?;
            facts.push(read(&invoice, |invoice| shape::invoice(invoice, tried_at))?);
        }
        if record.terms.as_ref().is_none_or(follows_payments) {
            for invoice in answer(stripe.paid_invoices(&subscription.id).await)? {
                facts.push(read(&invoice, |invoice| shape::invoice(invoice, None))?);
            }
        }
        Ok(facts)
    }
}

fn follows_payments(terms: &Terms) -> bool {
    terms.lines.iter().any(|line| line.terms.rules.follow == Follow::PaidThrough)
}

/// What Stripe answered, or why the look ends.
pub(super) fn answer<T>(answer: Result<T, StripeError>) -> Result<T, Halt> {
    answer.map_err(|error| match &error {
        StripeError::Gone { .. } => {
            let fix =
                "Stripe has no such object; check that the API key is of the account that sends the events";
            Halt::Over(Reason::ObjectGone, fix.to_owned())
        }
        StripeError::RateLimited { retry_after, .. } => Halt::Later(error.reason(), Some(*retry_after)),
        _ => {
            tracing::warn!(%error, "Stripe's API");
            Halt::Later(error.reason(), None)
        }
    })
}

fn read<T>(object: &Value, read: impl Fn(&Value) -> Result<T, shape::Error>) -> Result<T, Halt> {
    let unreadable =
        |error| Halt::Over(Reason::BadMetadata, format!("what Stripe answered cannot be read: {error}"));
    read(object).map_err(unreadable)
}

async fn fetched_session(stripe: &Stripe, id: &StripeId) -> Result<Seen<SessionSnapshot>, Halt> {
    let object = answer(stripe.session(id).await)?;
    let session = read(&object, shape::session)?;
    let links = links(&object, Some(&session));
    let snapshot = fetched(ObjectKind::Session, id.clone(), &object);
    Ok(Seen { object: session, snapshot, links, inside: inside(&object) })
}

/// The payment and its charge, where the session brought them whole.
fn inside(session: &Value) -> Vec<StripeId> {
    let intent = &session["payment_intent"];
    [intent, &intent["latest_charge"]]
        .into_iter()
        .filter_map(|object| StripeId::parse(object["id"].as_str()?).ok())
        .collect()
}

/// The other objects that an object names.
fn links(object: &Value, session: Option<&SessionSnapshot>) -> Vec<StripeId> {
    let told = shape::links(object).into_iter().map(|(_, id)| id);
    let payment = match session.map(|session| &session.payment) {
        None | Some(Payment::None) => None,
        Some(Payment::Untold(id) | Payment::Told { id, .. }) => Some(id.clone()),
    };
    told.chain(payment).collect()
}

/// What an event tells of its session.
struct Telling {
    told: ToldSession,
    /// The session's own JSON, and the same read.
    snapshot: Snapshot,
    object: Value,
}

/// The latest that events have told of a session, the stored telling included.
fn told_session(id: &StripeId, record: &PurchaseRecord) -> Option<Telling> {
    let stored = record.session.clone().and_then(telling);
    let fresh = record
        .events
        .iter()
        .filter_map(|event| telling(believed(ObjectKind::Session, id, event, body_of(event)?)));
    stored.into_iter().chain(fresh).max_by(|one, other| one.told.precedence(&other.told))
}

fn telling(snapshot: Snapshot) -> Option<Telling> {
    let Source::Told { event, kind, at } = &snapshot.source else { return None };
    let Signal::Session(signal) = signal_of(kind) else { return None };
    let object: Value = serde_json::from_slice(&snapshot.body).ok()?;
    let mut session = shape::session(&object).ok()?;
    session.async_payment_failed = signal == SessionEvent::AsyncPaymentFailed;
    let told = ToldSession { session, event_at: *at, event_id: event.clone() };
    Some(Telling { told, snapshot, object })
}

/// What the record alone has of a purchase, read as the look did that brought it.
pub(crate) fn recorded(purchase: &PurchaseId, record: &PurchaseRecord) -> View {
    let told = |snapshot: Option<&Snapshot>| {
        snapshot.is_some_and(|snapshot| matches!(snapshot.source, Source::Told { .. }))
    };
    // Events that no look has taken in are left to it.
    let settled = PurchaseRecord { events: Vec::new(), ..record.clone() };
    let believed = match purchase {
        PurchaseId::Session(id) if told(record.session.as_ref()) => {
            let seen = believed_session(told_session(id, &settled)).ok();
            seen.map(|seen| View { session: Some(seen), ..View::default() })
        }
        PurchaseId::Subscription(_) if told(record.subscription.as_ref()) => {
            believed_subscription(&settled).ok()
        }
        PurchaseId::Session(_) | PurchaseId::Subscription(_) | PurchaseId::Manual(_) => None,
    };
    believed.unwrap_or_else(|| View::stored(record))
}

/// The JSON of the object inside an event, as it stands there.
fn body_of(event: &Event) -> Option<Bytes> {
    let body = event.body.as_ref()?;
    let object = field(field(body, "data")?.get().as_bytes(), "object")?;
    Some(body.slice_ref(object.get().as_bytes()))
}

/// The value of a field, as it stands there.
fn field<'a>(json: &'a [u8], name: &str) -> Option<&'a RawValue> {
    let fields: BTreeMap<String, &'a RawValue> = serde_json::from_slice(json).ok()?;
    fields.get(name).copied()
}

fn nothing_told() -> Halt {
    let fix = "no event tells enough of this purchase; give this installation a Stripe API key and replay the event";
    Halt::Over(Reason::NeedsStripeKey, fix.to_owned())
}

/// The session as events have told it.
fn believed_session(newest: Option<Telling>) -> Result<Seen<SessionSnapshot>, Halt> {
    let Telling { told, snapshot, object } = newest.ok_or_else(nothing_told)?;
    let links = links(&object, Some(&told.session));
    Ok(Seen { object: told.session, snapshot, links, inside: Vec::new() })
}

fn believed(kind: ObjectKind, id: &StripeId, event: &Event, body: Bytes) -> Snapshot {
    let source = Source::Told { event: event.id.clone(), kind: event.kind.clone(), at: event.created };
    Snapshot { object: Object { kind, id: id.clone() }, source, body }
}

/// The subscription as events have told it: one unit, as in the guide.
fn believed_subscription(record: &PurchaseRecord) -> Result<View, Halt> {
    let stored = record.subscription.iter().filter_map(|snapshot| match &snapshot.source {
        Source::Told { event, at, .. } => {
            let object = serde_json::from_slice(&snapshot.body).ok()?;
            Some((told_subscription(&object, None, event, *at)?, snapshot.clone()))
        }
        Source::Fetched => None,
    });
    let fresh = record.events.iter().filter_map(|event| {
        let body: Value = serde_json::from_slice(event.body.as_ref()?).ok()?;
        (signal_of(&event.kind) == Signal::Subscription).then_some(())?;
        let data = body.get("data")?;
        let was = data["previous_attributes"]["status"].as_str().map(shape::subscription_status);
        let told = told_subscription(data.get("object")?, was, &event.id, event.created)?;
        let id = told.subscription.id.clone();
        Some((told, believed(ObjectKind::Subscription, &id, event, body_of(event)?)))
    });
    let all: Vec<(ToldSubscription, Snapshot)> = stored.chain(fresh).collect();
    let newest = ToldSubscription::newest(all.iter().map(|(told, _)| told.clone())).ok_or(Halt::Untold)?;
    let same = |(told, _): &&(ToldSubscription, Snapshot)| told.event_id == newest.event_id;
    // The event itself knows what came before; the stored copy of it does not.
    let snapshot = all.iter().rev().find(same).map(|(_, snapshot)| snapshot.clone()).ok_or(Halt::Untold)?;
    let mut invoices = invoices_told(record);
    known_past_due(&newest.subscription, record, &mut invoices, newest.event_at);
    let links =
        serde_json::from_slice(&snapshot.body).map_or_else(|_| Vec::new(), |object| links(&object, None));
    let session = View::stored(record).session;
    let object = one_unit(newest.subscription);
    let subscription = Some(Seen { object, snapshot, links, inside: Vec::new() });
    Ok(View { session, subscription, invoices, paying_event_at: None })
}

fn told_subscription(
    object: &Value,
    was: Option<SubscriptionStatus>,
    event: &str,
    at: Timestamp,
) -> Option<ToldSubscription> {
    let subscription = shape::subscription(object).ok()?;
    Some(ToldSubscription { subscription, was, event_at: at, event_id: event.to_owned() })
}

fn one_unit(mut subscription: SubscriptionSnapshot) -> SubscriptionSnapshot {
    subscription.items.truncate(1);
    for item in &mut subscription.items {
        item.line.quantity = 1;
        item.line.transform = None;
    }
    subscription
}

/// What events tell of invoices.
fn invoices_told(record: &PurchaseRecord) -> Vec<InvoiceFact> {
    let told = record.events.iter().filter_map(|event| {
        (signal_of(&event.kind) == Signal::Invoice).then_some(())?;
        let object: Value = serde_json::from_slice(&body_of(event)?).ok()?;
        let mut fact = shape::invoice(&object, None).ok()?;
        fact.failed_since = failure(event);
        Some(fact)
    });
    told.collect()
}

/// When payments failed, as events tell: the object itself does not.
fn failures_told(record: &PurchaseRecord) -> Vec<InvoiceFact> {
    let told = record.events.iter().filter_map(|event| {
        let failed_since = Some(failure(event)?);
        let id = event.object_id.clone()?;
        Some(InvoiceFact { id, status: InvoiceStatus::Other, failed_since, pays_through: None })
    });
    told.collect()
}

fn failure(event: &Event) -> Option<Timestamp> {
    (event.kind == "invoice.payment_failed").then_some(event.created)
}

/// A subscription that is past due has an invoice that fails, even if no event has told of it.
fn known_past_due(
    subscription: &SubscriptionSnapshot,
    record: &PurchaseRecord,
    invoices: &mut Vec<InvoiceFact>,
    at: Timestamp,
) {
    let Some(latest) = &subscription.latest_invoice else { return };
    let known =
        InvoiceFact::failing(&merged(&record.invoices, invoices), Some(latest.as_str())).next().is_some();
    if subscription.status == SubscriptionStatus::PastDue && !known {
        let (status, failed_since) = (InvoiceStatus::Open, Some(at));
        invoices.push(InvoiceFact { id: latest.to_string(), status, failed_since, pays_through: None });
    }
}
