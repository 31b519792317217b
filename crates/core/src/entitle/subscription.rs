//! Purchases that go on: a subscription, however it was bought.

use jiff::{SignedDuration, Timestamp};

use crate::grant::{Cause, Declared, Desired, DesiredState, Dunning, Expiry, Grant, LicenseName, Standing};
use crate::purchase::{
    Cancellation, InvoiceFact, InvoiceStatus, LineItem, PaymentStatus, SessionSnapshot, StripeId,
    SubscriptionItem, SubscriptionSnapshot, SubscriptionStatus,
};
use crate::reason::Reason;
use crate::terms::{FailureAction, Follow, LicenseTerms, LineTerms, OnCancel, Problem, Terms};

use super::units::{self, Sold};
use super::{Facts, MOST_UNITS, session, standing_of};

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
    // Stripe says that it is active while a bank still moves the money.
    if facts.declared.is_empty() && awaits_money(facts) {
        if over(subscription, facts.invoices) {
            grant.standing = Standing::Ended(Reason::PaymentFailed);
        }
        return Vec::new();
    }
    // A subscription that was made long ago and is seen for the first time is looked for before it is created.
    let paid_at = facts.paid_at.unwrap_or(subscription.created);
    grant.paid_at = Some(paid_at);
    let view = View { subscription, invoices: facts.invoices, now };
    let once = once(facts, terms);
    let renewing = renewing(facts, terms);
    let mut renamed = Renamed::of(subscription, terms);
    let mut sold = recurring(subscription, terms);
    if sold.is_empty()
        && let Some(successor) = renamed.successor(facts.declared, &once, &renewing)
    {
        sold.push(successor);
        renamed.units = 0;
    }
    sold.extend(once);
    let named = match units::named(&sold, facts.declared, view.may_grow()) {
        Ok(named) => named,
        Err(standing) => {
            grant.standing = standing;
            return Vec::new();
        }
    };
    grant.standing = Standing::Entitled;
    let (gone_on, left) = renamed.keep(named.left);
    let gone_on = gone_on.into_iter().map(|declared| (declared, renamed.period_end));
    // Whoever handed it over meant it to last as long as the subscription.
    let extra = named.extra.into_iter().map(|declared| (declared, view.period_end()));
    let known: Vec<_> = gone_on
        .chain(extra)
        .filter_map(|(declared, period_end)| {
            let terms = renewing.of_app(&declared.app_id).or_else(|| terms.of_app(&declared.app_id))?;
            Some((declared, terms, period_end))
        })
        .collect();
    let all =
        || named.units.iter().map(|unit| unit.sold.terms).chain(known.iter().map(|(_, terms, _)| *terms));
    grant.dunning = view.dunning(all());
    grant.look_again = view.grace_ends(all()).filter(|ends| *ends > now).min();
    let units = named.units.iter().map(|unit| {
        let (name, sold) = (unit.name.clone(), &unit.sold);
        unit.own(match sold.line {
            Line::Recurring(period_end) => view.desired(name, sold.terms, period_end, paid_at),
            Line::Once => session::desired(name, sold, paid_at),
        })
    });
    let known = known.iter().map(|(declared, terms, period_end)| Desired {
        app_id: declared.app_id.clone(),
        slots: declared.slots,
        imported: declared.imported,
        ..view.desired(declared.name.clone(), terms, *period_end, paid_at)
    });
    grant.licenses = units.chain(known).collect();
    if named.too_many {
        for license in grant.licenses.iter_mut().filter(|license| license.reason == Reason::Issued) {
            license.reason = Reason::TooManyUnits;
        }
    }
    // Absence counts only where all items are known.
    let left = left.into_iter().filter(|_| subscription.items_complete);
    left.map(|left| withdrawn(left, paid_at)).collect()
}

/// Whether the Checkout session was completed and its money has not come: some payment methods take days.
fn awaits_money(facts: &Facts<'_>) -> bool {
    let unpaid = |session: &SessionSnapshot| session.payment_status == PaymentStatus::Unpaid;
    let paid = |invoice: &InvoiceFact| invoice.status == InvoiceStatus::Paid;
    facts.session.is_some_and(unpaid) && !facts.invoices.iter().any(paid)
}

/// Whether money that has not come comes no more.
fn over(subscription: &SubscriptionSnapshot, invoices: &[InvoiceFact]) -> bool {
    let ended = matches!(subscription.status, SubscriptionStatus::Canceled | SubscriptionStatus::Unpaid);
    let given_up =
        |invoice: &InvoiceFact| matches!(invoice.status, InvoiceStatus::Void | InvoiceStatus::Uncollectible);
    ended || newest(subscription, invoices).is_some_and(given_up)
}

/// The newest invoice, if anything is known of it.
fn newest<'a>(subscription: &SubscriptionSnapshot, invoices: &'a [InvoiceFact]) -> Option<&'a InvoiceFact> {
    let newest = subscription.latest_invoice.as_ref()?;
    invoices.iter().find(|invoice| invoice.id == newest.as_str())
}

/// What is known of a line besides its price and quantity.
#[derive(Debug, Clone, Copy)]
enum Line {
    /// It renews; its current period ends then.
    Recurring(Option<Timestamp>),
    /// It was sold once, together with the subscription, and outlives it.
    Once,
}

/// The subscription's items that sell licenses.
fn recurring<'a>(subscription: &'a SubscriptionSnapshot, terms: &'a Terms) -> Vec<Sold<'a, Line>> {
    let line = |item: &SubscriptionItem| Line::Recurring(item.period_end.or(subscription.period_end));
    units::sold(subscription.items.iter().map(|item| (&item.line, line(item))), terms)
}

/// The lines of the subscription's Checkout session that were sold once, besides.
fn once_lines<'a>(facts: &Facts<'a>) -> impl Iterator<Item = &'a LineItem> {
    let lines = facts.session.and_then(|session| session.line_items.as_deref()).unwrap_or_default();
    lines.iter().filter(|line| line.price.as_ref().is_some_and(|price| !price.recurring))
}

/// Whether the terms are of the price of a line.
fn is_of(terms: &LineTerms, line: &LineItem) -> bool {
    line.price.as_ref().is_some_and(|price| terms.price.as_deref() == Some(price.id.as_str()))
}

/// What was sold once.
fn once<'a>(facts: &Facts<'a>, terms: &'a Terms) -> Vec<Sold<'a, Line>> {
    let named = |line: &&LineItem| terms.lines.iter().any(|terms| is_of(terms, line));
    units::sold(once_lines(facts).filter(named).map(|line| (line, Line::Once)), terms)
}

/// The terms of what renews.
fn renewing(facts: &Facts<'_>, terms: &Terms) -> Terms {
    let renews = |terms: &&LineTerms| !once_lines(facts).any(|line| is_of(terms, line));
    Terms { lines: terms.lines.iter().filter(renews).cloned().collect(), others: terms.others.clone() }
}

/// Items whose price was not there when the terms were fixed: each may have taken the place of one that was, and whoever goes on
/// paying goes on having what was sold.
struct Renamed {
    items: usize,
    units: u64,
    period_end: Option<Timestamp>,
}

impl Renamed {
    fn of(subscription: &SubscriptionSnapshot, terms: &Terms) -> Self {
        let new = |item: &&SubscriptionItem| {
            let price = item.line.price.as_ref().map(|price| price.id.as_str());
            terms.of(price).is_none() && !terms.others.iter().any(|other| Some(other.as_str()) == price)
        };
        let renamed = || subscription.items.iter().filter(new);
        let units = renamed().map(|item| item.line.units()).fold(0, u64::saturating_add);
        Self {
            items: renamed().count(),
            // A subscription without items is not known, rather than empty.
            units: if subscription.items.is_empty() { u64::MAX } else { units },
            period_end: renamed().filter_map(|item| item.period_end).max().or(subscription.period_end),
        }
    }

    /// What is sold where nothing else is: as much of the one license as the one item says, be it more than before.
    fn successor<'a>(
        &self,
        declared: &[Declared],
        once: &[Sold<'_, Line>],
        terms: &'a Terms,
    ) -> Option<Sold<'a, Line>> {
        let line = Line::Recurring(self.period_end);
        let sold = |terms, units: u64| Some(Sold { terms, units: units.max(1), line });
        let first_time = declared.is_empty();
        let mut declared: Vec<&Declared> = declared.iter().collect();
        for unit in once.iter().flat_map(|sold| (0..sold.units.min(MOST_UNITS)).map(|_| sold.terms)) {
            let own = |declared: &&Declared| {
                (declared.expiry, &declared.app_id) == (unit.duration.expiry(), &unit.app_id)
            };
            if let Some(place) = declared.iter().position(own) {
                declared.remove(place);
            }
        }
        match declared.split_first() {
            // All that is there sells no license, or none that renews.
            None if !first_time || (self.items == 0 && self.units == 0) => None,
            None => sold(&terms.lines.first()?.terms, if self.items == 0 { 1 } else { self.units }),
            Some((first, others)) if self.items == 1 => {
                let alike = others.iter().all(|other| other.app_id == first.app_id);
                sold(terms.of_app(&first.app_id).filter(|_| alike)?, self.units)
            }
            Some(_) => None,
        }
    }

    /// Of licenses that no item is known to stand behind, oldest first, those that go on all the same, and the rest: as many as
    /// there are units; all if they are of several apps, as nobody can tell which of them is meant.
    fn keep<'a>(&self, left: Vec<&'a Declared>) -> (Vec<&'a Declared>, Vec<&'a Declared>) {
        let (gone, mut left): (Vec<_>, Vec<_>) = left.into_iter().partition(|declared| declared.withdrawn);
        let alike = left.windows(2).all(|pair| pair[0].app_id == pair[1].app_id);
        let units = if alike || self.units == 0 { self.units } else { u64::MAX };
        let mut rest = left.split_off(left.len().min(usize::try_from(units).unwrap_or(usize::MAX)));
        rest.extend(gone);
        (left, rest)
    }
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
        expiry: left.expiry,
        reason: Reason::Canceled,
        cause: Cause::Rule,
        imported: false,
        withdrawn: true,
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
        newest(self.subscription, self.invoices)
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
        let counts = |(invoice, _): &(&InvoiceFact, Timestamp)| match status {
            SubscriptionStatus::PastDue => true,
            SubscriptionStatus::Active | SubscriptionStatus::Trialing => {
                self.subscription.latest_invoice.as_ref().is_some_and(|latest| latest.as_str() == invoice.id)
            }
            _ => false,
        };
        let newest = self.subscription.latest_invoice.as_ref().map(StripeId::as_str);
        let failing = InvoiceFact::failing(self.invoices, newest).filter(counts);
        failing.map(|(invoice, since)| (invoice.id.as_str(), since)).min_by_key(|(id, since)| (*since, *id))
    }

    /// When each of some licenses ends if a failing payment goes on failing.
    fn grace_ends<'t>(
        &self,
        terms: impl Iterator<Item = &'t LicenseTerms>,
    ) -> impl Iterator<Item = Timestamp> {
        let failing = self.failing().map(|(_, since)| since);
        terms.filter_map(move |terms| terms.rules.on_payment_failure.grace_end(failing?))
    }

    /// What the buyer is warned of: the next end.
    fn dunning<'t>(&self, terms: impl Iterator<Item = &'t LicenseTerms>) -> Option<Dunning> {
        let (invoice, since) = self.failing()?;
        let warned = terms.filter(|terms| terms.rules.on_payment_failure.action == FailureAction::Warn);
        let next = self.grace_ends(warned).min_by_key(|ends| (*ends <= self.now, *ends))?;
        Some(Dunning { invoice: invoice.to_owned(), since, ends_at: next })
    }

    fn desired(
        &self,
        name: LicenseName,
        terms: &LicenseTerms,
        period_end: Option<Timestamp>,
        paid_at: Timestamp,
    ) -> Desired {
        let (state, reason) = self.state(terms);
        let follows = terms.duration.expiry() == Expiry::Followed;
        Desired {
            name,
            generation: 1,
            app_id: terms.app_id.clone(),
            slots: terms.slots,
            state,
            expires_at: if follows { self.end(terms, period_end) } else { terms.duration.end(paid_at) },
            expiry: terms.duration.expiry(),
            reason,
            cause: Cause::Rule,
            imported: false,
            withdrawn: false,
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
            // Stripe moves the period on before it is paid for.
            (SubscriptionStatus::Canceled, Follow::Period) if self.owes_its_period() => {
                let paid = InvoiceFact::paid_through(self.invoices).or(self.subscription.period_start);
                paid.into_iter().chain(period_end).min()
            }
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
        let owed = self.latest_invoice().is_some_and(|invoice| invoice.status <= InvoiceStatus::Open);
        let unpaid = if owed { self.subscription.period_start } else { period_end };
        InvoiceFact::paid_through(self.invoices).or(unpaid)
    }

    /// Whether the newest invoice is for a period, and not paid.
    fn owes_its_period(&self) -> bool {
        self.latest_invoice()
            .is_some_and(|invoice| invoice.status != InvoiceStatus::Paid && invoice.pays_through.is_some())
    }
}
