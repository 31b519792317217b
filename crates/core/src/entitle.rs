//! From what Stripe says and people decide to which licenses should exist.

use jiff::{SignedDuration, Timestamp};

use crate::grant::{Cause, Desired, DesiredState, Expiry, Grant, Hand, LicenseName, Standing};
use crate::purchase::{
    Payment, PaymentIntentStatus, PaymentStatus, PurchaseId, SessionMode, SessionSnapshot, SessionStatus,
};
use crate::reason::Reason;
use crate::terms::{LicenseTerms, Problem};

/// The most licenses of one purchase; more wait for a person.
pub const MOST_UNITS: u64 = 100;

/// How often a purchase whose money has not come is looked at again without being told.
const LOOK_AGAIN: SignedDuration = SignedDuration::from_hours(6);
/// When that ends: the slowest payment methods take two weeks.
const STOP_LOOKING: SignedDuration = SignedDuration::from_hours(30 * 24);

/// All that is known about a purchase when it is decided.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    /// Which purchase.
    pub purchase: &'a PurchaseId,
    /// Its Checkout session as last seen; none while nobody has told.
    pub session: Option<&'a SessionSnapshot>,
    /// When it was paid, as stored at the first decision.
    pub paid_at: Option<Timestamp>,
    /// The `created` of the event that told of the payment, where an event did.
    pub paying_event_at: Option<Timestamp>,
}

/// Decides which licenses should exist. Total, and the same for the same arguments.
///
/// `terms` are the stored ones once there are any: what was sold does not change when the catalog does.
pub fn entitle(
    facts: &Facts<'_>,
    terms: &Result<LicenseTerms, Problem>,
    hand: &Hand,
    now: Timestamp,
) -> Grant {
    let mut grant = Grant {
        purchase: facts.purchase.clone(),
        paid_at: facts.paid_at,
        standing: Standing::Pending(Reason::PaymentPending),
        licenses: Vec::new(),
        look_again: None,
    };
    let Some(session) = facts.session else {
        return grant;
    };
    let terms = match terms_of(session, terms) {
        Ok(terms) => terms,
        Err(standing) => {
            grant.standing = standing;
            return grant;
        }
    };
    match money(session) {
        Money::Came => {}
        Money::Awaited => {
            let told = matches!(session.payment, Payment::Told { .. });
            let fresh = now.duration_since(session.created) < STOP_LOOKING;
            grant.look_again = (told && fresh).then(|| now.checked_add(LOOK_AGAIN).ok()).flatten();
            return grant;
        }
        Money::Never(reason) => {
            grant.standing = Standing::Ended(reason);
            return grant;
        }
    }
    let paid_at = facts.paid_at.unwrap_or_else(|| paid_at(session, facts.paying_event_at));
    grant.paid_at = Some(paid_at);
    match units(session) {
        Ok(units) => {
            let template = Desired {
                name: LicenseName::main(),
                generation: 1,
                app_id: terms.app_id.clone(),
                slots: terms.slots,
                state: DesiredState::Active,
                expires_at: terms.duration.end(paid_at),
                expiry: Expiry::Sold,
                reason: Reason::Issued,
                cause: Cause::Rule,
            };
            grant.standing = Standing::Entitled;
            grant.licenses = (1..=units)
                .map(|n| overridden(Desired { name: LicenseName::of_unit(n), ..template.clone() }, hand))
                .collect();
        }
        Err(standing) => grant.standing = standing,
    }
    grant
}

/// The payment's time: the charge's, else the paying event's, else the session's own.
fn paid_at(session: &SessionSnapshot, paying_event_at: Option<Timestamp>) -> Timestamp {
    match session.payment {
        Payment::Told { paid_at: Some(at), .. } => at,
        _ => paying_event_at.unwrap_or(session.created),
    }
}

fn terms_of<'a>(
    session: &SessionSnapshot,
    terms: &'a Result<LicenseTerms, Problem>,
) -> Result<&'a LicenseTerms, Standing> {
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
    terms.as_ref().map_err(|problem| match problem.reason {
        Reason::NotOurs => Standing::NotOurs(problem.fix.clone()),
        reason => Standing::Parked(reason, problem.fix.clone()),
    })
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

/// How many licenses were bought. Where nobody told the lines (events do not), one: the guide's own rule.
fn units(session: &SessionSnapshot) -> Result<u32, Standing> {
    let Some(lines) = &session.line_items else { return Ok(1) };
    let units = lines.iter().fold(0u64, |sum, line| sum.saturating_add(line.units()));
    match u32::try_from(units) {
        Ok(0) => Err(Standing::NotOurs("the session's lines add up to no unit".to_owned())),
        Ok(few) if units <= MOST_UNITS => Ok(few),
        _ => {
            let fix =
                format!("{units} units in one purchase; at most {MOST_UNITS} are issued without a person");
            Err(Standing::Parked(Reason::TooManyUnits, fix))
        }
    }
}

fn overridden(mut desired: Desired, hand: &Hand) -> Desired {
    if let Some(state) = hand.state {
        desired.state = state;
        desired.cause = Cause::Hand;
        desired.reason = Reason::Overridden;
    }
    if let Some(expires_at) = hand.expires_at {
        desired.expires_at = expires_at;
        desired.expiry = Expiry::Followed;
        desired.reason = Reason::Overridden;
    }
    desired
}
