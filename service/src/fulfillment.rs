//! What the server does for its callers, however they reach it: gRPC, or the webhook in the same process.

mod import;
pub mod portal;

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use grantsmith_authforge::Client as AuthForge;
use grantsmith_core::license::Slots;
use grantsmith_core::port::{Clock, KeptState};
use grantsmith_core::purchase::{Email, PurchaseId, StripeId};
use grantsmith_core::{AppId, DesiredState, GrantId, LicenseKey, Reason};
use jiff::{SignedDuration, Timestamp};
use metrics::counter;
use tokio::sync::Notify;

pub use import::{ImportError, Imported, SoldKey};

use crate::checkout::Till;
use crate::decide::Offer;
use crate::hand;
use crate::ingest::{self, Answer, Outcome, Rules};
use crate::issuer::Issuer;
use crate::store::{
    Ask, Decide, DeliveryState, Event, EventState, Forgotten, GrantLicense, GrantRow, GrantState, Object,
    ObjectKind, Recorded, Store, Taken,
};
use crate::stripe::Mode;
use crate::stripe::client::{Client as Stripe, Error as StripeError};
use crate::stripe::event;
use crate::window::Window;

/// How many sessions that nobody has told of are asked for a second: whoever makes ids up must not use up the pace at
/// which Stripe lets us look at purchases.
const STRANGERS: NonZeroU32 = NonZeroU32::new(5).expect("not zero");

/// The server's use cases.
pub struct Fulfillment {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    rules: Rules,
    stripe: Option<Stripe>,
    authforge: Option<AuthForge>,
    issuer: Arc<dyn Issuer>,
    page_for: Duration,
    mail_enabled: bool,
    installation: String,
    offer: Offer,
    till: Till,
    wake: Arc<Notify>,
    strangers: DefaultDirectRateLimiter,
    clients: Window<IpAddr>,
}

/// The parts of [`Fulfillment`].
pub struct Parts {
    /// The record.
    pub store: Arc<dyn Store>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// How events are taken.
    pub rules: Rules,
    /// Stripe's API, where there is a key for it.
    pub stripe: Option<Stripe>,
    /// AuthForge, where imported keys are looked up; none where the operator alone reaches it.
    pub authforge: Option<AuthForge>,
    /// Who has the keys.
    pub issuer: Arc<dyn Issuer>,
    /// How long after its payment a success page shows the key.
    pub page_for: Duration,
    /// Whether mail is sent.
    pub mail_enabled: bool,
    /// What this installation is called in labels of grants that people make.
    pub installation: String,
    /// What it sells where a purchase does not say.
    pub offer: Offer,
    /// Where Checkout sessions are made.
    pub till: Till,
    /// Wakes the worker.
    pub wake: Arc<Notify>,
}

/// Why an event was not recorded.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// It is none.
    #[error("not a Stripe event")]
    NotAnEvent(#[from] event::Error),
    /// It could not be written.
    #[error("the event could not be written")]
    Store(#[from] crate::store::Error),
}

/// What a success page shows.
#[derive(Debug, Clone)]
pub enum Page {
    /// Nothing to show.
    NotFound,
    /// The keys are being made.
    Pending,
    /// The payment is on its way.
    PaymentPending,
    /// The keys.
    Ready {
        /// The licenses.
        licenses: Vec<PageLicense>,
        /// The buyer's address, masked, if keys go there: not if none is known, if the mail was refused for good, or if all are
        /// keys that somebody else's code made and handed over.
        masked_email: Option<String>,
    },
    /// It came to nothing, or is over.
    Ended,
}

/// A license as its buyer sees it.
#[derive(Debug, Clone)]
pub struct PageLicense {
    /// Its name within the purchase.
    pub name: String,
    /// The key.
    pub key: LicenseKey,
    /// Its app.
    pub app_id: AppId,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
    /// On how many devices.
    pub slots: Slots,
}

impl Fulfillment {
    /// The use cases over their parts.
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts {
            store,
            clock,
            rules,
            stripe,
            authforge,
            issuer,
            page_for,
            mail_enabled,
            installation,
            offer,
            till,
            wake,
        } = parts;
        let strangers = RateLimiter::direct(Quota::per_second(STRANGERS));
        let clients = Window::new(portal::REQUESTS, portal::REQUESTS_IN);
        Arc::new(Self {
            store,
            clock,
            rules,
            stripe,
            authforge,
            issuer,
            page_for,
            mail_enabled,
            installation,
            offer,
            till,
            wake,
            strangers,
            clients,
        })
    }

    /// Forgets clients that have not come lately, so that memory stays bounded.
    pub fn tidy(&self) {
        self.clients.tidy(tokio::time::Instant::now());
    }

    /// The record, for reading.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Where Checkout sessions are made.
    pub fn till(&self) -> &Till {
        &self.till
    }

    /// Whether mail is sent.
    pub fn mail_enabled(&self) -> bool {
        self.mail_enabled
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        self.clock.now().wall
    }

    /// Records an event whose signature was verified, and says what it is to us. Durable when it returns.
    pub async fn record(&self, body: Bytes, verified: Mode) -> Result<(String, Answer), RecordError> {
        let (row, answer) = ingest::read(&body, verified, self.rules, self.now())?;
        let id = row.id.clone();
        let pending = row.state == EventState::Pending;
        let answer = match self.store.record_event(row).await? {
            Recorded::New => answer,
            Recorded::Duplicate(_, reason) => Answer { outcome: Outcome::Duplicate, reason, fix: None },
        };
        let reason = answer.reason.map_or("", Reason::as_str);
        counter!("grantsmith_events_total", "outcome" => answer.outcome.as_str(), "reason" => reason)
            .increment(1);
        tracing::debug!(event.id = %id, outcome = answer.outcome.as_str(), reason, "recorded");
        if pending && answer.outcome != Outcome::Duplicate {
            self.wake.notify_one();
        }
        Ok((id, answer))
    }

    /// Takes a recorded event as if it had just come.
    pub async fn replay(&self, id: &str) -> Result<Option<Event>, RecordError> {
        let Some(event) = self.store.event(id).await? else { return Ok(None) };
        if event.reason == Some(Reason::OtherMode) {
            // Which secret verified it is not on record, and only that could make it ours.
            return Ok(Some(event));
        }
        let verdict = match event.body.clone() {
            Some(body) => {
                let (row, _) =
                    ingest::read(&body, Mode::from_livemode(event.livemode), self.rules, self.now())?;
                (row.signal, row.state, row.reason)
            }
            // Its body is gone, but its object can still be asked for. Where it cannot, the event would wait for ever.
            None => match object_of(&event).filter(|_| self.stripe.is_some()) {
                Some(object) => (Some(object), EventState::Pending, None),
                None => return Ok(Some(event)),
            },
        };
        let (signal, state, reason) = verdict;
        self.store.replay_event(id, signal.as_ref(), state, reason, self.now()).await?;
        self.wake.notify_one();
        Ok(self.store.event(id).await?)
    }

    /// What the success page of one session shows. With a Stripe key, an unknown session is asked for and recorded.
    pub async fn page(&self, session: &str) -> Result<Page, crate::store::Error> {
        let Some(purchase) = self.purchase_of(session).await? else { return Ok(Page::NotFound) };
        match self.store.grant(&GrantId::of(&purchase)).await? {
            Some(row) => {
                let row = self.unlock(row).await?;
                Ok(match page_of(&row) {
                    Page::Ready { .. } if self.is_over(&row) => Page::NotFound,
                    page => page,
                })
            }
            None => self.unknown(session).await,
        }
    }

    /// A grant with its keys. One that cannot be had now reads as one that is not there yet.
    pub async fn unlock(&self, row: GrantRow) -> Result<GrantRow, crate::store::Error> {
        Ok(self.issuer.unlock(row).await?.row)
    }

    /// Whether an operator reaches AuthForge, and not this process.
    pub fn is_in_cluster(&self) -> bool {
        self.authforge.is_none()
    }

    /// The purchase of a session; none if it is no session's id.
    async fn purchase_of(&self, session: &str) -> Result<Option<PurchaseId>, crate::store::Error> {
        let Ok(purchase @ PurchaseId::Session(_)) = PurchaseId::parse(session) else { return Ok(None) };
        let linked = match StripeId::parse(session) {
            // A session that sold a subscription belongs to the subscription's grant.
            Ok(id) => self.store.linked(&id).await?,
            Err(_) => None,
        };
        Ok(Some(linked.unwrap_or(purchase)))
    }

    /// Whether the time is over in which a success page shows keys.
    fn is_over(&self, row: &GrantRow) -> bool {
        let paid_at = row.paid_at.unwrap_or(row.created);
        let over = SignedDuration::try_from(self.page_for).unwrap_or(SignedDuration::MAX);
        self.now().duration_since(paid_at.max(row.created)) > over
    }

    /// A session that is not on record: the buyer may be faster than Stripe's event.
    async fn unknown(&self, session: &str) -> Result<Page, crate::store::Error> {
        let Ok(id) = StripeId::parse(session) else { return Ok(Page::NotFound) };
        let ours = match self.rules.mode {
            Mode::Live => session.starts_with("cs_live_"),
            Mode::Test => session.starts_with("cs_test_"),
        };
        let Some(stripe) = self.stripe.as_ref().filter(|_| ours) else { return Ok(Page::NotFound) };
        if self.strangers.check().is_err() {
            // A page that finds nothing looks again by itself, so a buyer among strangers comes to their turn.
            return Ok(Page::NotFound);
        }
        match stripe.session(&id).await {
            Ok(_) => {
                let object = Object { kind: ObjectKind::Session, id };
                self.store.mark_dirty(&object, self.now()).await?;
                self.wake.notify_one();
                Ok(Page::Pending)
            }
            Err(StripeError::Gone { .. }) => Ok(Page::NotFound),
            // Whatever else keeps Stripe from telling, a key that it refuses included: the buyer may have paid.
            Err(_) => Ok(Page::Pending),
        }
    }

    /// What this installation is called.
    pub fn installation(&self) -> &str {
        &self.installation
    }

    /// Whether this installation fulfils Stripe's live mode.
    pub fn livemode(&self) -> bool {
        self.rules.mode == Mode::Live
    }

    /// Takes what a person asks of a grant. Durable when it returns; the work at AuthForge follows.
    pub async fn take(&self, ask: Ask) -> Result<Taken, crate::store::Error> {
        let at = ask.at;
        let grant = ask.grant.clone();
        let decide: Decide = {
            let offer = self.offer.clone();
            Arc::new(move |purchase, record, ticket| hand::decide(purchase, record, &offer, ticket, at))
        };
        let taken = self.store.take(ask, decide).await?;
        if taken == Taken::Done {
            tracing::info!(grant.id = %grant, "decided by hand");
            self.wake.notify_one();
        }
        Ok(taken)
    }

    /// Erases a buyer.
    pub async fn forget(&self, address: &Email, person: &str) -> Result<Forgotten, crate::store::Error> {
        let forgotten = self.store.forget(address, person, self.now()).await?;
        tracing::info!(purchases = forgotten.purchases, events = forgotten.events, "a buyer was forgotten");
        Ok(forgotten)
    }

    /// Asks for another sending of a grant's keys; gives its number.
    pub async fn resend(&self, id: &GrantId) -> Result<u32, crate::store::Error> {
        let number = self.store.resend(id, "hand: resend", self.now()).await?;
        self.wake.notify_one();
        Ok(number)
    }
}

/// What there is to show of a purchase.
fn page_of(row: &GrantRow) -> Page {
    match (row.state, row.reason) {
        (GrantState::NotOurs, _) => Page::NotFound,
        (GrantState::Ended, _) => Page::Ended,
        (GrantState::Pending, _) => Page::PaymentPending,
        (GrantState::Parked, _) if row.licenses.is_empty() => Page::Pending,
        (GrantState::Ready | GrantState::Issuing | GrantState::Parked, _) => licenses_of(row),
    }
}

fn licenses_of(row: &GrantRow) -> Page {
    let live = |license: &GrantLicense| {
        let kept = license.kept.as_ref()?;
        (kept.state == KeptState::Live).then(|| PageLicense {
            name: kept.name.to_string(),
            key: kept.key.clone(),
            app_id: kept.app_id.clone(),
            expires_at: kept.expires_at,
            slots: kept.slots.unwrap_or(license.desired.slots),
        })
    };
    let licenses: Vec<PageLicense> = row.licenses.iter().filter_map(live).collect();
    let missing =
        |license: &GrantLicense| license.kept.is_none() && license.desired.state == DesiredState::Active;
    let over = |license: &GrantLicense| license.kept.is_none() && license.reason == Reason::Expired;
    if row.licenses.iter().all(over) {
        Page::Ended
    } else if row.licenses.iter().any(missing) {
        Page::Pending
    } else if licenses.is_empty() {
        Page::Ended
    } else {
        let ours = |license: &GrantLicense| license.kept.as_ref().is_some_and(|kept| kept.attempt.is_some());
        let parked = row.delivery.as_ref().is_some_and(|mail| mail.state == DeliveryState::Parked);
        let email = row.email.as_ref().filter(|_| !parked && row.licenses.iter().any(ours));
        Page::Ready { licenses, masked_email: email.map(Email::masked) }
    }
}

fn object_of(event: &Event) -> Option<Object> {
    let id = StripeId::parse(event.object_id.as_deref()?).ok()?;
    let kind = match id.prefix() {
        "cs" => ObjectKind::Session,
        "sub" => ObjectKind::Subscription,
        "in" => ObjectKind::Invoice,
        "pi" => ObjectKind::PaymentIntent,
        "ch" | "py" => ObjectKind::Charge,
        _ => return None,
    };
    Some(Object { kind, id })
}

impl std::fmt::Debug for Fulfillment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fulfillment").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").finish_non_exhaustive()
    }
}
