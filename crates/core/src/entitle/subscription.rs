//! Purchases that go on: a subscription, however it was bought.

use jiff::{SignedDuration, Timestamp};

use crate::grant::{Cause, Declared, Desired, DesiredState, Dunning, Expiry, Grant, LicenseName, Standing};
use crate::purchase::{Cancellation, InvoiceFact, InvoiceStatus, SubscriptionSnapshot, SubscriptionStatus};
use crate::reason::Reason;
use crate::terms::{Duration, FailureAction, Follow, LicenseTerms, OnCancel, Problem, Terms};

use super::units::{self, Sold};
use super::{Facts, session, standing_of};

/// Decides all but the units that were taken out of the subscription, which it gives.
pub(super) fn decide(
    grant: &mut Grant,
    facts: &Facts<'_>,
    subscription: &SubscriptionSnapshot,
    terms: &Result<Terms, Problem>,
    now: Timestamp,
) -> Vec<Desired> {
    let terms = match terms {
        Ok(terms) => terms,
        Err(problem) => {
            grant.standing = standing_of(problem);
            return Vec::new();
        }
    };
    match subscription.status {
        SubscriptionStatus::Incomplete => return Vec::new(),
        SubscriptionStatus::IncompleteExpired => {
            grant.standing = Standing::Ended(Reason::PaymentFailed);
            return Vec::new();
        }
        SubscriptionStatus::Other => {
            let fix = "the subscription has a status that is newer than this version; upgrade, then replay the event";
            grant.standing = Standing::Parked(Reason::NotYetHandled, fix.to_owned());
            return Vec::new();
        }
        SubscriptionStatus::Trialing
        | SubscriptionStatus::Active
        | SubscriptionStatus::PastDue
        | SubscriptionStatus::Unpaid
        | SubscriptionStatus::Paused
        | SubscriptionStatus::Canceled => {}
    }
    // A subscription that was made long ago and is seen for the first time is looked for before it is created.
    let paid_at = facts.paid_at.unwrap_or(subscription.created);
    grant.paid_at = Some(paid_at);
    let view = View { subscription, invoices: facts.invoices, now };
    let named = match units::named(&sold(facts, subscription, terms), facts.declared, view.may_grow()) {
        Ok(named) => named,
        Err(standing) => {
            grant.standing = standing;
            return Vec::new();
        }
    };
    grant.standing = Standing::Entitled;
    grant.dunning = view.dunning(named.units.iter().map(|unit| unit.sold.terms));
    grant.look_again = grant.dunning.as_ref().map(|dunning| dunning.ends_at).filter(|ends| *ends > now);
    let licenses = named.units.iter().map(|unit| {
        let (name, sold) = (unit.name.clone(), &unit.sold);
        unit.own(match sold.line {
            Line::Recurring(period_end) => view.desired(name, sold.terms, period_end, paid_at),
            Line::Once => session::desired(name, sold, paid_at),
        })
    });
    grant.licenses = licenses.collect();
    if let Some(line) = terms.lines.first() {
        // Whoever handed it over meant it to last as long as the subscription.
        let extra = |declared: &Declared| Desired {
            app_id: declared.app_id.clone(),
            slots: declared.slots,
            imported: true,
            ..view.desired(declared.name.clone(), &line.terms, view.period_end(), paid_at)
        };
        grant.licenses.extend(named.extra.into_iter().map(extra));
    }
    // Absence counts only where all items are known.
    let left = named.left.into_iter().filter(|_| subscription.items_complete);
    left.map(|left| withdrawn(left, paid_at)).collect()
}

/// What is known of a line besides its price and quantity.
#[derive(Debug, Clone, Copy)]
enum Line {
    /// It renews; its current period ends then.
    Recurring(Option<Timestamp>),
    /// It was sold once, together with the subscription, and outlives it.
    Once,
}

/// The subscription's items, and what its Checkout session sold once besides.
fn sold<'a>(
    facts: &Facts<'a>,
    subscription: &'a SubscriptionSnapshot,
    terms: &'a Terms,
) -> Vec<Sold<'a, Line>> {
    let period_end = |item: Option<Timestamp>| Line::Recurring(item.or(subscription.period_end));
    let items = subscription.items.iter().map(|item| (&item.line, period_end(item.period_end)));
    let mut sold = units::sold(items, terms);
    if sold.is_empty()
        && let Some(first) = terms.lines.first()
    {
        // The price has changed since: whoever goes on paying goes on having what was sold.
        let units = subscription.items.iter().map(|item| item.line.units()).sum::<u64>().max(1);
        sold.push(Sold { terms: &first.terms, units, line: period_end(None) });
    }
    let lines = facts.session.and_then(|session| session.line_items.as_deref()).unwrap_or_default();
    let once = |price: &crate::purchase::Price| {
        !price.recurring && terms.lines.iter().any(|line| line.price.as_deref() == Some(price.id.as_str()))
    };
    let once = lines.iter().filter(|line| line.price.as_ref().is_some_and(once));
    sold.extend(units::sold(once.map(|line| (line, Line::Once)), terms));
    sold
}

/// A unit that is subscribed to no longer.
fn withdrawn(left: &Declared, paid_at: Timestamp) -> Desired {
    Desired {
        name: left.name.clone(),
        generation: 1,
        app_id: left.app_id.clone(),
        slots: left.slots,
        state: DesiredState::Revoked,
        expires_at: Some(paid_at),
        expiry: Expiry::Sold,
        reason: Reason::Canceled,
        cause: Cause::Rule,
        imported: false,
        adopt: None,
    }
}

struct View<'a> {
    subscription: &'a SubscriptionSnapshot,
    invoices: &'a [InvoiceFact],
    now: Timestamp,
}

impl View<'_> {
    fn latest_invoice(&self) -> Option<&InvoiceFact> {
        let latest = self.subscription.latest_invoice.as_ref()?;
        self.invoices.iter().find(|invoice| invoice.id == latest.as_str())
    }

    /// The end of the current period: newer renderings tell it with the items.
    fn period_end(&self) -> Option<Timestamp> {
        let items = self.subscription.items.iter().filter_map(|item| item.period_end).max();
        items.or(self.subscription.period_end)
    }

    /// Items show a raised quantity before it is paid for.
    fn may_grow(&self) -> bool {
        self.latest_invoice().is_none_or(|invoice| invoice.status == InvoiceStatus::Paid)
    }

    /// Since when a payment is failing. An old invoice that stayed open counts only while Stripe says that something is due.
    fn failing(&self) -> Option<(&str, Timestamp)> {
        let status = self.subscription.status;
        let counts = |invoice: &&InvoiceFact| match status {
            SubscriptionStatus::PastDue => true,
            SubscriptionStatus::Active | SubscriptionStatus::Trialing => {
                self.subscription.latest_invoice.as_ref().is_some_and(|latest| latest.as_str() == invoice.id)
            }
            _ => false,
        };
        let failing = self.invoices.iter().filter(counts);
        failing
            .filter_map(|invoice| Some((invoice.id.as_str(), invoice.failing_since()?)))
            .min_by_key(|(id, since)| (*since, *id))
    }

    fn dunning<'t>(&self, terms: impl Iterator<Item = &'t LicenseTerms>) -> Option<Dunning> {
        let (invoice, since) = self.failing()?;
        let ends = terms.filter_map(|terms| {
            let on_failure = terms.rules.on_payment_failure;
            (on_failure.action == FailureAction::Warn).then(|| on_failure.grace_end(since)).flatten()
        });
        ends.min().map(|ends_at| Dunning { invoice: invoice.to_owned(), since, ends_at })
    }

    fn desired(
        &self,
        name: LicenseName,
        terms: &LicenseTerms,
        period_end: Option<Timestamp>,
        paid_at: Timestamp,
    ) -> Desired {
        let (state, reason) = self.state(terms);
        let follows = terms.duration == Duration::Subscription;
        Desired {
            name,
            generation: 1,
            app_id: terms.app_id.clone(),
            slots: terms.slots,
            state,
            expires_at: if follows { self.end(terms, period_end) } else { terms.duration.end(paid_at) },
            expiry: if follows { Expiry::Followed } else { Expiry::Sold },
            reason,
            cause: Cause::Rule,
            imported: false,
            adopt: None,
        }
    }

    fn state(&self, terms: &LicenseTerms) -> (DesiredState, Reason) {
        use SubscriptionStatus as Status;
        let grace = self.failing().and_then(|(_, since)| terms.rules.on_payment_failure.grace_end(since));
        match self.subscription.status {
            Status::Canceled => match terms.rules.on_cancel {
                OnCancel::AtPeriodEnd if self.subscription.cancellation != Some(Cancellation::Unpaid) => {
                    (DesiredState::Active, Reason::Ending)
                }
                OnCancel::Immediately | OnCancel::AtPeriodEnd => (DesiredState::Revoked, Reason::Canceled),
            },
            Status::Unpaid => (DesiredState::Suspended, Reason::PaymentFailed),
            Status::Paused => (DesiredState::Suspended, Reason::Paused),
            _ if grace.is_some_and(|end| end <= self.now) => (DesiredState::Suspended, Reason::PaymentFailed),
            _ if grace.is_some() => (DesiredState::Active, Reason::PaymentFailed),
            _ if self.subscription.cancellation == Some(Cancellation::Scheduled) => {
                (DesiredState::Active, Reason::Ending)
            }
            _ => (DesiredState::Active, Reason::Issued),
        }
    }

    /// When a license that follows the subscription ends: never before the end of a grace that was given.
    fn end(&self, terms: &LicenseTerms, period_end: Option<Timestamp>) -> Option<Timestamp> {
        let rules = &terms.rules;
        let followed = match (self.subscription.status, rules.follow) {
            (SubscriptionStatus::Trialing, _) => self.subscription.trial_end.or(period_end),
            (_, Follow::Period) => period_end,
            (_, Follow::PaidThrough) => self.paid_through(period_end),
        };
        let buffered = followed.map(|end| {
            end.checked_add(SignedDuration::from_secs(i64::from(rules.buffer))).unwrap_or(Timestamp::MAX)
        });
        let grace = self.failing().and_then(|(_, since)| rules.on_payment_failure.grace_end(since));
        buffered.max(grace.filter(|_| rules.on_payment_failure.action == FailureAction::Warn))
    }

    /// The end of the last period that was paid for; while no paid invoice is known, the current period's end if nothing is
    /// owed, else its beginning.
    fn paid_through(&self, period_end: Option<Timestamp>) -> Option<Timestamp> {
        let paid = self.invoices.iter().filter(|invoice| invoice.status == InvoiceStatus::Paid);
        let through = paid.filter_map(|invoice| invoice.pays_through).max();
        let owed = self.latest_invoice().is_some_and(|invoice| invoice.status <= InvoiceStatus::Open);
        through.or(if owed { self.subscription.period_start } else { period_end })
    }
}
