//! From a verified body to a row: what an event is to us, and what its sender is told.

use bytes::Bytes;
use grantsmith_core::entitle::Facts;
use grantsmith_core::grant::{Hand, Standing};
use grantsmith_core::purchase::{PurchaseId, StripeId};
use grantsmith_core::terms::{self, Problem, Sources, Terms};
use grantsmith_core::{Reason, entitle};
use jiff::Timestamp;

use grantsmith_core::purchase::{SessionMode, SessionSnapshot};

use crate::store::{EventState, NewEvent, Object, ObjectKind};
use crate::stripe::event::{Error, Event, PaymentEvent, Rendering, Signal};
use crate::stripe::{Mode, shape};

/// What became of a delivery, for the seller to read in Stripe's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// New, and kept.
    Recorded,
    /// Kept before.
    Duplicate,
    /// Kept, and changes nothing.
    Ignored,
}

impl Outcome {
    /// The word in the answer's body and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Recorded => "recorded",
            Self::Duplicate => "duplicate",
            Self::Ignored => "ignored",
        }
    }
}

/// The answer to a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What became of it.
    pub outcome: Outcome,
    /// Why.
    pub reason: Option<Reason>,
    /// What to do about it.
    pub fix: Option<String>,
}

impl Answer {
    const RECORDED: Self = Self { outcome: Outcome::Recorded, reason: None, fix: None };

    fn ignored(reason: Reason, fix: impl Into<String>) -> Self {
        Self { outcome: Outcome::Ignored, reason: Some(reason), fix: Some(fix.into()) }
    }
}

/// How this installation takes events.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// The mode that it fulfils.
    pub mode: Mode,
    /// Whether it believes events because it cannot ask.
    pub events_only: bool,
    /// Whether there is a catalog, which may know prices that no event tells.
    pub catalog: bool,
}

/// Reads a verified body: the row to keep and the answer to give.
pub fn read(
    body: &Bytes,
    verified: Mode,
    rules: Rules,
    received: Timestamp,
) -> Result<(NewEvent, Answer), Error> {
    let event = Event::parse(body)?;
    let livemode = event.livemode.unwrap_or(verified.livemode());
    let verdict = verdict(&event, livemode, verified, rules, received);
    let row = NewEvent {
        id: event.id.to_string(),
        kind: event.event_type.to_string(),
        created: event.created.unwrap_or(received),
        received,
        livemode,
        api_version: event.api_version.as_deref().map(str::to_owned),
        object_id: event.object_id.as_deref().map(str::to_owned),
        signal: verdict.signal,
        state: verdict.state,
        reason: verdict.answer.reason.filter(|_| verdict.state != EventState::Pending),
        body: body.clone(),
    };
    Ok((row, verdict.answer))
}

/// What an event is to us.
struct Verdict {
    state: EventState,
    signal: Option<Object>,
    answer: Answer,
}

impl Verdict {
    fn ignored(reason: Reason, fix: impl Into<String>) -> Self {
        Self { state: EventState::Ignored, signal: None, answer: Answer::ignored(reason, fix) }
    }
}

fn verdict(event: &Event<'_>, livemode: bool, verified: Mode, rules: Rules, now: Timestamp) -> Verdict {
    if livemode != rules.mode.livemode() {
        let (this, other) = (rules.mode, Mode::from_livemode(livemode));
        let fix = format!(
            "this installation fulfils {this} mode and the event is of {other} mode; give each its own"
        );
        return Verdict::ignored(Reason::OtherMode, fix);
    }
    if livemode != verified.livemode() {
        let fix = format!(
            "the event's mode is not that of the {verified} secret which verified it; check the prefixes of the secrets"
        );
        return Verdict::ignored(Reason::OtherMode, fix);
    }
    if event.account.is_some() {
        return Verdict::ignored(
            Reason::NotOurs,
            "the event is of a connected account; this installation serves one account",
        );
    }
    let kind = match event.signal() {
        Signal::Session(_) => ObjectKind::Session,
        Signal::Subscription => ObjectKind::Subscription,
        Signal::Invoice => ObjectKind::Invoice,
        Signal::Payment(
            PaymentEvent::IntentSucceeded | PaymentEvent::IntentCanceled | PaymentEvent::IntentPaymentFailed,
        ) => ObjectKind::PaymentIntent,
        Signal::Payment(PaymentEvent::ChargeSucceeded | PaymentEvent::ChargeCaptured) => ObjectKind::Charge,
        Signal::NotYetHandled => {
            let fix = "kept, and handled by a version that knows this type when it is replayed";
            return Verdict::ignored(Reason::NotYetHandled, fix);
        }
        Signal::Unknown => {
            let fix = "nothing here depends on this type; it can be left out of the endpoint's events";
            return Verdict::ignored(Reason::UnknownType, fix);
        }
    };
    let Some(id) = event.object_id.as_deref().and_then(|id| StripeId::parse(id).ok()) else {
        return Verdict::ignored(Reason::UnknownType, "the event names no object that can be looked at");
    };
    if rules.events_only && event.rendering == Rendering::Thin {
        let fix =
            "thin events say too little without a Stripe API key; choose snapshot payloads for this endpoint";
        return Verdict { state: EventState::Parked, ..Verdict::ignored(Reason::NeedsStripeKey, fix) };
    }
    let told = matches!(kind, ObjectKind::Session | ObjectKind::Subscription | ObjectKind::Invoice);
    if rules.events_only && !told {
        return Verdict::ignored(
            Reason::UnknownType,
            "without a Stripe API key only Checkout sessions, subscriptions and invoices are looked at",
        );
    }
    let answer = if kind == ObjectKind::Session { advice(event, &id, rules, now) } else { Answer::RECORDED };
    let signal = match kind {
        // What an invoice says is said of its subscription, and the body names that.
        ObjectKind::Invoice => subscription_named(event).unwrap_or(Object { kind, id }),
        _ => Object { kind, id },
    };
    Verdict { state: EventState::Pending, signal: Some(signal), answer }
}

/// The subscription that the invoice inside an event is for.
fn subscription_named(event: &Event<'_>) -> Option<Object> {
    let id = shape::subscription_of_invoice(&event.object().ok()?)?;
    Some(Object { kind: ObjectKind::Subscription, id })
}

/// What the event's own body lets expect. The decision is taken later, from the object; this is for the seller's eyes.
fn advice(event: &Event<'_>, id: &StripeId, rules: Rules, now: Timestamp) -> Answer {
    if event.rendering == Rendering::Thin {
        return Answer::RECORDED;
    }
    let Ok(purchase) = PurchaseId::parse(id.as_str()) else { return Answer::RECORDED };
    let Ok(session) = shape::session_of_event(event) else { return Answer::RECORDED };
    if session.mode == SessionMode::Subscription {
        return Answer::RECORDED;
    }
    let facts = Facts { session: Some(&session), paying_event_at: event.created, ..Facts::of(&purchase) };
    match entitle(&facts, &terms_of(&session), &Hand::default(), now).standing {
        Standing::Parked(Reason::NotYetHandled, fix) => Answer::ignored(Reason::NotYetHandled, fix),
        Standing::Parked(reason, fix) => Answer { reason: Some(reason), fix: Some(fix), ..Answer::RECORDED },
        Standing::NotOurs(_) if rules.catalog && session.mode == SessionMode::Payment => Answer::RECORDED,
        Standing::NotOurs(fix) => Answer::ignored(Reason::NotOurs, fix),
        Standing::Pending(reason) | Standing::Ended(reason) => {
            Answer { reason: Some(reason), ..Answer::RECORDED }
        }
        Standing::Entitled => Answer::RECORDED,
    }
}

/// The terms that a session itself carries.
fn terms_of(session: &SessionSnapshot) -> Result<Terms, Problem> {
    terms::resolve(&Sources {
        session: Some(&session.metadata),
        subscription: None,
        prices: &[],
        catalog: &|_| None,
        default_app: None,
    })
}
