//! A dirty object becomes a snapshot, and the snapshot a decision.

use std::time::Duration;

use grantsmith_core::port::Class;
use grantsmith_core::purchase::{SessionMode, SessionStatus};
use grantsmith_core::{GrantId, PurchaseId, Reason, retry};
use metrics::counter;
use tracing::Instrument;

use super::Worker;
use super::sight::Session;
use crate::decide::{self, Occasion};
use crate::store::{Attachment, Dirty, EventState, GrantState, Object, ObjectKind, PurchaseRecord, Ticket};
use crate::stripe::shape;

/// What a look came to, for the metrics, and the grant that there is work on.
type Decided = (&'static str, Option<GrantId>);

/// Why a look came to no decision.
pub(super) enum Halt {
    /// Again later.
    Later(Reason, Option<Duration>),
    /// Never: a person must do something.
    Over(Reason, String),
    /// Not before another event tells more; none is known to be missing.
    Untold,
    /// The record failed; the dirty mark is still there.
    Record(crate::store::Error),
}

impl From<crate::store::Error> for Halt {
    fn from(error: crate::store::Error) -> Self {
        Self::Record(error)
    }
}

impl Worker {
    /// Looks at one dirty object, and decides its purchase. Gives the grant that there is work on now.
    pub(super) async fn look(&self, dirty: Dirty) -> Option<GrantId> {
        let span = tracing::info_span!("look", object.id = %dirty.object.id);
        self.look_at(dirty).instrument(span).await
    }

    async fn look_at(&self, dirty: Dirty) -> Option<GrantId> {
        let ticket = match self.store.ticket().await {
            Ok(ticket) => ticket,
            Err(error) => {
                tracing::warn!(%error, "no ticket for a look");
                return None;
            }
        };
        let (outcome, work) = match self.decide(&dirty.object, ticket).await {
            Ok(decided) => decided,
            Err(halt) => (self.halted(&dirty, ticket, halt).await, None),
        };
        counter!("grantsmith_looks_total", "outcome" => outcome).increment(1);
        work
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
            Halt::Untold => {
                let (state, reason) = (EventState::Pending, Reason::PaymentPending);
                let detail = "waits for an event that tells more of the purchase";
                self.store.look_ended(object, ticket, state, reason, detail, self.now()).await
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
            Halt::Untold => "untold",
            Halt::Record(_) => "record",
        }
    }

    async fn decide(&self, object: &Object, ticket: Ticket) -> Result<Decided, Halt> {
        match object.kind {
            ObjectKind::Session => self.decide_session(object, ticket).await,
            ObjectKind::Subscription => {
                let purchase = PurchaseId::parse(object.id.as_str()).map_err(|_| unknown())?;
                self.decide_subscription(&purchase, object, ticket).await
            }
            ObjectKind::Invoice => self.decide_invoice(object, ticket).await,
            ObjectKind::PaymentIntent | ObjectKind::Charge | ObjectKind::Other => {
                let purchase = self.store.linked(&object.id).await?.ok_or_else(unknown)?;
                let own = decide::own_object(&purchase).ok_or_else(unknown)?;
                let attachment =
                    Attachment { object: object.clone(), snapshot: None, purchase, ticket, at: self.now() };
                self.store.attach(attachment).await?;
                tracing::debug!(object.id = %own.id, "the purchase is looked at instead");
                Ok(("joined", None))
            }
        }
    }

    async fn decide_session(&self, object: &Object, ticket: Ticket) -> Result<Decided, Halt> {
        let purchase = PurchaseId::parse(object.id.as_str()).map_err(|_| unknown())?;
        let record = self.store.purchase(&purchase).await?;
        let Session { seen, paying_event_at } = self.see_session(&object.id, &record).await?;
        let left = seen.object.subscription.is_none() && seen.object.status == SessionStatus::Expired;
        if seen.object.mode == SessionMode::Subscription && !left {
            // The subscription names the purchase, however it was bought.
            let Some(subscription) = seen.object.subscription.clone() else { return Err(Halt::Untold) };
            let attachment = Attachment {
                object: object.clone(),
                snapshot: Some(seen.snapshot),
                purchase: PurchaseId::Subscription(subscription),
                ticket,
                at: self.now(),
            };
            self.store.attach(attachment).await?;
            return Ok(("joined", None));
        }
        let view = decide::View { session: Some(seen), paying_event_at, ..decide::View::default() };
        self.settle(&purchase, &record, view, object, ticket).await
    }

    async fn decide_subscription(
        &self,
        purchase: &PurchaseId,
        object: &Object,
        ticket: Ticket,
    ) -> Result<Decided, Halt> {
        let record = self.store.purchase(purchase).await?;
        let view = self.see_subscription(&object.id, &record).await?;
        self.settle(purchase, &record, view, object, ticket).await
    }

    /// An invoice leads to its subscription.
    async fn decide_invoice(&self, object: &Object, ticket: Ticket) -> Result<Decided, Halt> {
        let purchase = match (self.store.linked(&object.id).await?, &self.stripe) {
            (Some(purchase), _) => purchase,
            (None, Some(stripe)) => {
                let invoice = super::sight::answer(stripe.invoice(&object.id).await)?;
                let subscription = shape::subscription_of_invoice(&invoice).ok_or_else(sold_by_invoice)?;
                PurchaseId::Subscription(subscription)
            }
            (None, None) => return Err(Halt::Untold),
        };
        let attachment =
            Attachment { object: object.clone(), snapshot: None, purchase, ticket, at: self.now() };
        self.store.attach(attachment).await?;
        Ok(("joined", None))
    }

    async fn settle(
        &self,
        purchase: &PurchaseId,
        record: &PurchaseRecord,
        view: decide::View,
        object: &Object,
        ticket: Ticket,
    ) -> Result<Decided, Halt> {
        let unexplained = if record.terms.is_none() { view.unexplained(&self.offer) } else { Vec::new() };
        let sold_before = !unexplained.is_empty() && self.store.sold(&unexplained).await?;
        let occasion =
            Occasion { looked_at: object.clone(), ticket, cause: None, sold_before, now: self.now() };
        let decision = decide::decide(purchase, record, &view, &self.offer, occasion).ok_or(Halt::Untold)?;
        let reason = decision.reason;
        let work = (decision.state == GrantState::Issuing).then(|| GrantId::of(purchase));
        if !self.store.decide(decision).await? {
            return Ok(("stale", None));
        }
        tracing::info!(purchase.id = %purchase, %reason, "decided");
        Ok((reason.as_str(), work))
    }
}

fn unknown() -> Halt {
    Halt::Over(Reason::NotOurs, "the object belongs to no purchase that is known".to_owned())
}

fn sold_by_invoice() -> Halt {
    let fix = "an invoice without a subscription; kept, and handled by a version that sells by invoice";
    Halt::Over(Reason::NotYetHandled, fix.to_owned())
}
