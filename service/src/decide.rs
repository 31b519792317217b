//! From what is on record about a purchase, and what a look has seen, to a decision.
//!
//! A look fetches and then decides; a hand decides from what is stored. Both come through here.

use std::sync::Arc;

use bytes::Bytes;
use grantsmith_core::entitle::Facts;
use grantsmith_core::grant::Standing;
use grantsmith_core::purchase::{
    Email, InvoiceFact, Price, PurchaseId, SessionSnapshot, StripeId, SubscriptionSnapshot,
    SubscriptionStatus,
};
use grantsmith_core::terms::{self, Problem, Sources, Terms};
use grantsmith_core::{AppId, Reason, entitle};
use jiff::Timestamp;

use crate::catalog::Catalog;
use crate::store::{
    Decision, EventState, GrantState, Object, ObjectKind, PurchaseRecord, Snapshot, Source, Ticket,
};
use crate::stripe::shape;

/// What this installation sells where a purchase does not say.
#[derive(Debug, Clone, Default)]
pub struct Offer {
    /// The app of subscriptions that name none.
    pub default_app: Option<AppId>,
    /// What prices sell.
    pub catalog: Option<Arc<Catalog>>,
}

/// A Stripe object as it was seen: as the domain reads it, and as it is kept.
#[derive(Debug, Clone)]
pub struct Seen<T> {
    /// What counts of it.
    pub object: T,
    /// The whole.
    pub snapshot: Snapshot,
    /// Other objects that it names.
    pub links: Vec<StripeId>,
    /// Those of them that came inside it, whole.
    pub inside: Vec<StripeId>,
}

/// What was seen of a purchase.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// Its Checkout session.
    pub session: Option<Seen<SessionSnapshot>>,
    /// Its subscription.
    pub subscription: Option<Seen<SubscriptionSnapshot>>,
    /// Its invoices.
    pub invoices: Vec<InvoiceFact>,
    /// When the event that told of the payment happened, where one did.
    pub paying_event_at: Option<Timestamp>,
}

impl View {
    /// What the record itself has, without another look.
    pub fn stored(record: &PurchaseRecord) -> Self {
        Self {
            session: record.session.as_ref().and_then(|snapshot| seen(snapshot, shape::session)),
            subscription: record
                .subscription
                .as_ref()
                .and_then(|snapshot| seen(snapshot, shape::subscription)),
            invoices: record.invoices.clone(),
            paying_event_at: None,
        }
    }

    /// The snapshot of the purchase's own object.
    fn own(&self, purchase: &PurchaseId) -> Option<&Snapshot> {
        match purchase {
            PurchaseId::Session(_) => self.session.as_ref().map(|seen| &seen.snapshot),
            PurchaseId::Subscription(_) => self.subscription.as_ref().map(|seen| &seen.snapshot),
            PurchaseId::Manual(_) => None,
        }
    }

    fn named(&self) -> impl Iterator<Item = &StripeId> {
        let session = self.session.iter().flat_map(|seen| &seen.links);
        session.chain(self.subscription.iter().flat_map(|seen| &seen.links))
    }

    /// The objects by which a later event may name the purchase. Not the customer: it has other purchases.
    fn links(&self) -> Vec<StripeId> {
        self.named().filter(|id| !is_customer(id)).cloned().collect()
    }

    /// What came inside the purchase's own object. Of a subscription nothing counts: its invoices tell more than their state.
    fn inside(&self, purchase: &PurchaseId) -> Vec<StripeId> {
        match purchase {
            PurchaseId::Session(_) => self.session.iter().flat_map(|seen| seen.inside.clone()).collect(),
            PurchaseId::Subscription(_) | PurchaseId::Manual(_) => Vec::new(),
        }
    }

    fn customer(&self) -> Option<StripeId> {
        self.named().find(|id| is_customer(id)).cloned()
    }

    /// The buyer's address: what was typed at the till, else what the customer has.
    fn email(&self) -> Option<Email> {
        let session = self.session.as_ref().and_then(|seen| seen.object.email.clone());
        session.or_else(|| self.subscription.as_ref().and_then(|seen| seen.object.email.clone()))
    }

    fn prices(&self) -> Vec<&Price> {
        let lines = self.session.iter().flat_map(|seen| seen.object.line_items.iter().flatten());
        let items = self.subscription.iter().flat_map(|seen| &seen.object.items);
        let items = items.map(|item| &item.line);
        items.chain(lines).filter_map(|line| line.price.as_ref()).collect()
    }

    /// When it was begun: the offer of then counts.
    fn begun(&self) -> Option<Timestamp> {
        let session = self.session.as_ref().map(|seen| seen.object.created);
        session.or_else(|| self.subscription.as_ref().map(|seen| seen.object.created))
    }

    fn terms(&self, offer: &Offer) -> Result<Terms, Problem> {
        let plan_of = |price: &Price| offer.catalog.as_ref()?.terms(price, self.begun()?).cloned();
        terms::resolve(&Sources {
            session: self.session.as_ref().map(|seen| &seen.object.metadata),
            subscription: self.subscription.as_ref().map(|seen| &seen.object.metadata),
            prices: &self.prices(),
            catalog: &plan_of,
            default_app: offer.default_app.as_ref(),
        })
    }

    /// The prices and products that somebody has paid for without anything saying what they sell.
    pub fn unexplained(&self, offer: &Offer) -> Vec<String> {
        let nothing = |problem: &Problem| problem.reason == Reason::NotOurs;
        if self.paid() && self.terms(offer).as_ref().is_err_and(nothing) {
            names(self.prices())
        } else {
            Vec::new()
        }
    }

    /// The prices and products of it that sell licenses.
    fn sells(&self, terms: &Terms) -> Vec<String> {
        let sells = |price: &&Price| terms.of(Some(&price.id)).is_some();
        names(self.prices().into_iter().filter(sells).collect())
    }

    /// Whether it was paid for and nobody told what: events do not name the prices of a session.
    fn hides_its_prices(&self) -> bool {
        let told = |seen: &Seen<SessionSnapshot>| seen.object.line_items.is_some();
        self.subscription.is_none() && self.paid() && !self.session.as_ref().is_some_and(told)
    }

    /// Whether money came, as far as it matters to whom the purchase belongs.
    fn paid(&self) -> bool {
        use SubscriptionStatus::{Incomplete, IncompleteExpired};
        match (&self.subscription, &self.session) {
            (Some(seen), _) => !matches!(seen.object.status, Incomplete | IncompleteExpired),
            (None, Some(seen)) => seen.object.finality() == 2,
            (None, None) => false,
        }
    }
}

/// The ids of prices and of their products.
fn names(prices: Vec<&Price>) -> Vec<String> {
    prices.into_iter().flat_map(|price| [Some(price.id.clone()), price.product.clone()]).flatten().collect()
}

fn is_customer(id: &StripeId) -> bool {
    id.prefix() == "cus"
}

/// Reads a stored snapshot.
fn seen<T>(
    snapshot: &Snapshot,
    read: impl Fn(&serde_json::Value) -> Result<T, shape::Error>,
) -> Option<Seen<T>> {
    let object = read(&serde_json::from_slice(&snapshot.body).ok()?).ok()?;
    Some(Seen { object, snapshot: snapshot.clone(), links: Vec::new(), inside: Vec::new() })
}

/// Who asks for a decision, and when.
#[derive(Debug, Clone)]
pub struct Occasion {
    /// The object that was looked at.
    pub looked_at: Object,
    /// The place of the look.
    pub ticket: Ticket,
    /// For the journal; else the newest event is named.
    pub cause: Option<String>,
    /// Whether what is [`View::unexplained`] sold licenses before.
    pub sold_before: bool,
    /// The time.
    pub now: Timestamp,
}

/// Decides a purchase; none while its own object was never seen.
pub fn decide(
    purchase: &PurchaseId,
    record: &PurchaseRecord,
    view: &View,
    offer: &Offer,
    occasion: Occasion,
) -> Option<Decision> {
    let Occasion { looked_at, ticket, cause, sold_before, now } = occasion;
    let snapshot = view.own(purchase)?.clone();
    let invoices = merged(&record.invoices, &view.invoices);
    let facts = Facts {
        session: view.session.as_ref().map(|seen| &seen.object),
        subscription: view.subscription.as_ref().map(|seen| &seen.object),
        invoices: &invoices,
        declared: &record.declared,
        paid_at: record.paid_at,
        paying_event_at: view.paying_event_at,
        ..Facts::of(purchase)
    };
    let missing = |problem: Problem| match problem.reason {
        Reason::NotOurs if sold_before => no_terms(),
        Reason::NotOurs if offer.catalog.is_some() && view.hides_its_prices() => needs_stripe_key(),
        _ => problem,
    };
    let terms = record.terms.clone().map_or_else(|| view.terms(offer).map_err(missing), Ok);
    let terms = terms.or_else(|problem| record.imported.clone().ok_or(problem));
    let grant = entitle(&facts, &terms, &record.hand, now);
    let (state, reason, detail) = stand(&grant.standing);
    let entitled = state == GrantState::Issuing;
    let livemode = match (facts.subscription, facts.session) {
        (Some(subscription), _) => subscription.livemode,
        (None, Some(session)) => session.livemode,
        (None, None) => false,
    };
    let newest = record.events.last().map(|event| format!("event {}", event.id));
    let others = [
        view.session.as_ref().map(|seen| seen.snapshot.clone()),
        view.subscription.as_ref().map(|seen| seen.snapshot.clone()),
    ];
    Some(Decision {
        purchase: purchase.clone(),
        livemode,
        ticket,
        links: view.links(),
        seen: view.inside(purchase),
        customer: view.customer(),
        others: others.into_iter().flatten().filter(|other| other.object != snapshot.object).collect(),
        state,
        reason,
        detail,
        sells: terms.as_ref().ok().filter(|_| entitled).map(|terms| view.sells(terms)).unwrap_or_default(),
        terms: terms.ok().filter(|_| entitled),
        paid_at: grant.paid_at,
        email: view.email(),
        licenses: grant.licenses,
        dunning: grant.dunning,
        look_again: grant.look_again,
        event_state: match state {
            GrantState::Parked => EventState::Parked,
            GrantState::NotOurs => EventState::Ignored,
            _ => EventState::Handled,
        },
        cause: cause.or(newest).unwrap_or_else(|| "look".to_owned()),
        at: now,
        looked_at,
        snapshot,
        invoices,
    })
}

fn no_terms() -> Problem {
    let fix = format!(
        "the price or its product has sold licenses before, and nothing says now what it sells; add it to the catalog, or set \
         '{}' in the purchase's metadata, then replay the event",
        terms::APP_ID
    );
    Problem { reason: Reason::NoTerms, fix }
}

fn needs_stripe_key() -> Problem {
    let fix = format!(
        "the session has no '{}', and no event tells its prices, which the catalog may sell; give this installation a Stripe \
         API key and replay the event",
        terms::APP_ID
    );
    Problem { reason: Reason::NeedsStripeKey, fix }
}

/// What is known of invoices, with what was seen of them since.
pub fn merged(known: &[InvoiceFact], seen: &[InvoiceFact]) -> Vec<InvoiceFact> {
    let mut all: Vec<InvoiceFact> = known.to_vec();
    for fact in seen {
        match all.iter_mut().find(|known| known.id == fact.id) {
            Some(known) => *known = known.clone().merged(fact),
            None => all.push(fact.clone()),
        }
    }
    all
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

/// The object that names a purchase; none for a person's grant.
pub fn own_object(purchase: &PurchaseId) -> Option<Object> {
    let (kind, id) = match purchase {
        PurchaseId::Session(id) => (ObjectKind::Session, id),
        PurchaseId::Subscription(id) => (ObjectKind::Subscription, id),
        PurchaseId::Manual(_) => return None,
    };
    Some(Object { kind, id: id.clone() })
}

/// A snapshot of a fetched object.
pub fn fetched(kind: ObjectKind, id: StripeId, object: &serde_json::Value) -> Snapshot {
    let body = serde_json::to_vec(object).map_or_else(|_| Bytes::new(), Bytes::from);
    Snapshot { object: Object { kind, id }, source: Source::Fetched, body }
}
