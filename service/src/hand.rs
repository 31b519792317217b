//! Where a purchase stands once a person has decided: from what is on record alone, so also while Stripe is away.

use grantsmith_core::Reason;
use grantsmith_core::purchase::PurchaseId;
use grantsmith_core::{entitle, manual};
use jiff::Timestamp;

use crate::decide::{self, Occasion, Offer};
use crate::store::{GrantState, PurchaseRecord, Redecided, Ticket};
use crate::worker::recorded;

/// Decides a purchase from its record. None where the record does not hold enough: then the next look decides.
pub(crate) fn decide(
    purchase: &PurchaseId,
    record: &PurchaseRecord,
    offer: &Offer,
    ticket: Ticket,
    now: Timestamp,
) -> Option<Redecided> {
    let Some(looked_at) = decide::own_object(purchase) else {
        return Some(promised(purchase, record, now));
    };
    let sold_before = record.reason == Some(Reason::NoTerms);
    let occasion = Occasion { looked_at, ticket, cause: None, sold_before, now };
    let decision = decide::decide(purchase, record, &recorded(purchase, record), offer, occasion);
    decision.map(Redecided::from).or_else(|| imported(record))
}

/// A purchase of which nothing is known but the keys that were imported for it.
fn imported(record: &PurchaseRecord) -> Option<Redecided> {
    let licenses = entitle::imported(&record.declared, &record.hand);
    (!licenses.is_empty()).then_some(Redecided {
        state: GrantState::Issuing,
        reason: Reason::Issuing,
        detail: None,
        terms: None,
        paid_at: None,
        licenses,
    })
}

fn promised(purchase: &PurchaseId, record: &PurchaseRecord, now: Timestamp) -> Redecided {
    let made_at = record.paid_at.unwrap_or(now);
    let grant = manual::granted(purchase, made_at, &record.promised, &record.hand);
    Redecided {
        state: GrantState::Issuing,
        reason: Reason::Issuing,
        detail: None,
        terms: None,
        paid_at: grant.paid_at,
        licenses: grant.licenses,
    }
}
