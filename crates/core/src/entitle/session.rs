//! One-time purchases: a Checkout session in payment mode.

use jiff::{SignedDuration, Timestamp};

use crate::grant::{Cause, Declared, Desired, DesiredState, Expiry, Grant, Standing};
use crate::purchase::{
    LineItem, Payment, PaymentIntentStatus, PaymentStatus, SessionMode, SessionSnapshot, SessionStatus,
};
use crate::reason::Reason;
use crate::terms::{Problem, Terms};

use super::units::{self, Sold};
use super::{Facts, standing_of};

/// How often a purchase whose money has not come is looked at again without being told.
const LOOK_AGAIN: SignedDuration = SignedDuration::from_hours(6);
/// When that ends: the slowest payment methods take two weeks.
const STOP_LOOKING: SignedDuration = SignedDuration::from_hours(30 * 24);

pub(super) fn decide(
    grant: &mut Grant,
    facts: &Facts<'_>,
    session: &SessionSnapshot,
    terms: &Result<Terms, Problem>,
    now: Timestamp,
) {
    if (session.mode, session.status) == (SessionMode::Subscription, SessionStatus::Expired) {
        // No subscription came of it that could be a purchase.
        grant.standing = Standing::Ended(Reason::Canceled);
        return;
    }
    let terms = match terms_of(session, terms) {
        Ok(terms) => terms,
        Err(standing) => {
            grant.standing = standing;
            return;
        }
    };
    match money(session) {
        Money::Came => {}
        Money::Awaited => {
            let told = matches!(session.payment, Payment::Told { .. });
            let fresh = now.duration_since(session.created) < STOP_LOOKING;
            grant.look_again = (told && fresh).then(|| now.checked_add(LOOK_AGAIN).ok()).flatten();
            return;
        }
        Money::Never(reason) => {
            grant.standing = Standing::Ended(reason);
            return;
        }
    }
    let paid_at = facts.paid_at.unwrap_or_else(|| paid_at(session, facts.paying_event_at));
    grant.paid_at = Some(paid_at);
    match units::named(&sold(session, terms), facts.declared, true) {
        Ok(named) => {
            grant.standing = Standing::Entitled;
            let units = named.units.iter();
            // What is left over stays declared as it was: a finished session sells what it sold.
            grant.licenses =
                units.map(|unit| unit.own(desired(unit.name.clone(), &unit.sold, paid_at))).collect();
            grant.licenses.extend(named.extra.into_iter().map(imported));
        }
        Err(standing) => grant.standing = standing,
    }
}

/// A unit that was sold once.
pub(super) fn desired<L>(name: crate::grant::LicenseName, sold: &Sold<'_, L>, paid_at: Timestamp) -> Desired {
    Desired {
        name,
        generation: 1,
        app_id: sold.terms.app_id.clone(),
        slots: sold.terms.slots,
        state: DesiredState::Active,
        expires_at: sold.terms.duration.end(paid_at),
        expiry: Expiry::Sold,
        reason: Reason::Issued,
        cause: Cause::Rule,
        imported: false,
        withdrawn: false,
        adopt: None,
    }
}

/// An imported license that no unit is known for. Its expiry is its own.
pub(super) fn imported(declared: &Declared) -> Desired {
    Desired {
        name: declared.name.clone(),
        generation: 1,
        app_id: declared.app_id.clone(),
        slots: declared.slots,
        state: DesiredState::Active,
        expires_at: None,
        expiry: Expiry::Sold,
        reason: Reason::Issued,
        cause: Cause::Rule,
        imported: true,
        withdrawn: false,
        adopt: None,
    }
}

/// The lines that sell licenses. Where nobody told the lines (events do not), one unit: the guide's own rule.
fn sold<'a>(session: &'a SessionSnapshot, terms: &'a Terms) -> Vec<Sold<'a, ()>> {
    match &session.line_items {
        Some(lines) => units::sold(lines.iter().map(|line: &LineItem| (line, ())), terms),
        None => terms.of(None).map(|terms| Sold { terms, units: 1, line: () }).into_iter().collect(),
    }
}

/// The payment's time: the charge's, else the paying event's, else the session's own.
fn paid_at(session: &SessionSnapshot, paying_event_at: Option<Timestamp>) -> Timestamp {
    match session.payment {
        Payment::Told { paid_at: Some(at), .. } => at,
        _ => paying_event_at.unwrap_or(session.created),
    }
}

fn terms_of<'a>(session: &SessionSnapshot, terms: &'a Result<Terms, Problem>) -> Result<&'a Terms, Standing> {
    match session.mode {
        SessionMode::Payment => {}
        SessionMode::Setup => {
            return Err(Standing::NotOurs("a session in setup mode sells nothing".to_owned()));
        }
        SessionMode::Subscription | SessionMode::Other => {
            let fix = "kept, and handled by a version that knows this kind of purchase".to_owned();
            return Err(Standing::Parked(Reason::NotYetHandled, fix));
        }
    }
    terms.as_ref().map_err(standing_of)
}

enum Money {
    Came,
    Awaited,
    Never(Reason),
}

/// Whether money has come. An allow-list: a value newer than this program entitles to nothing.
fn money(session: &SessionSnapshot) -> Money {
    match session.status {
        SessionStatus::Complete => {}
        SessionStatus::Expired => return Money::Never(Reason::Canceled),
        SessionStatus::Open | SessionStatus::Other => return Money::Awaited,
    }
    let intent = match &session.payment {
        Payment::Told { status, .. } => Some(*status),
        Payment::None | Payment::Untold(_) => None,
    };
    match (session.payment_status, intent) {
        (PaymentStatus::NoPaymentRequired, _)
        | (PaymentStatus::Paid, None | Some(PaymentIntentStatus::Succeeded)) => Money::Came,
        (_, Some(PaymentIntentStatus::Canceled)) => Money::Never(Reason::Canceled),
        (PaymentStatus::Unpaid, Some(PaymentIntentStatus::RequiresPaymentMethod)) => {
            Money::Never(Reason::PaymentFailed)
        }
        (PaymentStatus::Unpaid, None) if session.async_payment_failed => Money::Never(Reason::PaymentFailed),
        (PaymentStatus::Paid | PaymentStatus::Unpaid | PaymentStatus::Other, _) => Money::Awaited,
    }
}
