//! From what Stripe says and people decide to which licenses should exist.
//!
//! - [`session`]: one-time purchases. [`subscription`]: those that go on.
//! - [`units`]: which license is which unit, whatever is added or taken away later.

mod session;
mod subscription;
mod units;

use jiff::Timestamp;

use crate::grant::{Declared, Desired, Grant, Hand, Standing};
use crate::purchase::{InvoiceFact, PurchaseId, SessionSnapshot, SubscriptionSnapshot};
use crate::reason::Reason;
use crate::terms::{Problem, Terms};

/// The most licenses of one purchase; more wait for a person.
pub const MOST_UNITS: u64 = 100;

/// All that is known about a purchase when it is decided.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    /// Which purchase.
    pub purchase: &'a PurchaseId,
    /// Its Checkout session as last seen; none while nobody has told, or if there was none.
    pub session: Option<&'a SessionSnapshot>,
    /// Its subscription as last seen.
    pub subscription: Option<&'a SubscriptionSnapshot>,
    /// What is known of its invoices.
    pub invoices: &'a [InvoiceFact],
    /// The licenses that were declared before, in the order of their units.
    pub declared: &'a [Declared],
    /// When it was paid, as stored at the first decision.
    pub paid_at: Option<Timestamp>,
    /// The `created` of the event that told of the payment, where an event did.
    pub paying_event_at: Option<Timestamp>,
}

impl<'a> Facts<'a> {
    /// Facts about a purchase of which nothing is known yet.
    pub fn of(purchase: &'a PurchaseId) -> Self {
        Self {
            purchase,
            session: None,
            subscription: None,
            invoices: &[],
            declared: &[],
            paid_at: None,
            paying_event_at: None,
        }
    }
}

/// Decides which licenses should exist. Total, and the same for the same arguments.
///
/// `terms` are the stored ones once there are any: what was sold does not change when the catalog does.
pub fn entitle(facts: &Facts<'_>, terms: &Result<Terms, Problem>, hand: &Hand, now: Timestamp) -> Grant {
    let mut grant = Grant {
        purchase: facts.purchase.clone(),
        paid_at: facts.paid_at,
        standing: Standing::Pending(Reason::PaymentPending),
        licenses: Vec::new(),
        released: hand.released,
        dunning: None,
        look_again: None,
    };
    let mut withdrawn = Vec::new();
    match (facts.purchase, facts.session, facts.subscription) {
        (PurchaseId::Session(_), Some(session), _) => session::decide(&mut grant, facts, session, terms, now),
        (PurchaseId::Subscription(_), _, Some(subscription)) => {
            withdrawn = subscription::decide(&mut grant, facts, subscription, terms, now);
        }
        (PurchaseId::Session(_) | PurchaseId::Subscription(_) | PurchaseId::Manual(_), ..) => {}
    }
    let paid = grant.licenses.into_iter().map(|desired| hand.apply(desired));
    let withdrawn = withdrawn.into_iter().map(|desired| hand.apply_to_withdrawn(desired));
    grant.licenses = paid.chain(withdrawn).collect();
    grant
}

/// The imported licenses of a purchase of which nothing else is known: they stay as they were handed over, under the hand as
/// it is now.
pub fn imported(declared: &[Declared], hand: &Hand) -> Vec<Desired> {
    let imported = declared.iter().filter(|declared| declared.imported);
    imported.map(|declared| hand.apply(session::imported(declared))).collect()
}

fn standing_of(problem: &Problem) -> Standing {
    match problem.reason {
        Reason::NotOurs => Standing::NotOurs(problem.fix.clone()),
        reason => Standing::Parked(reason, problem.fix.clone()),
    }
}
