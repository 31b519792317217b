//! Subscriptions, their invoices and their customers, as they really stand. Times are Stripe's whole seconds.

mod turns;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use super::object::billing::{self, Expand};
use super::purchase::{Line, PaymentPlan, Purchase};
use super::subscription::{Start, Status, SubscriptionTruth};

const DAY: i64 = 86_400;

/// A month.
const PERIOD: i64 = 30 * DAY;

#[derive(Debug, Clone, Copy)]
pub(super) struct Period {
    pub(super) start: i64,
    pub(super) end: i64,
}

impl Period {
    fn from(start: i64) -> Self {
        Self { start, end: start + PERIOD }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) id: String,
    pub(super) line: Line,
}

/// Why a subscription rests, and since when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pause {
    pub(super) why: &'static str,
    pub(super) since: i64,
}

#[derive(Debug, Clone)]
pub(super) struct Subscription {
    pub(super) id: String,
    pub(super) session: Option<String>,
    pub(super) customer: String,
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) items: Vec<Item>,
    pub(super) status: Status,
    pub(super) begun_at: i64,
    pub(super) period: Period,
    pub(super) trial_end: Option<i64>,
    pub(super) cancel_at: Option<i64>,
    pub(super) cancel_at_period_end: bool,
    pub(super) canceled_at: Option<i64>,
    pub(super) cancel_reason: Option<&'static str>,
    pub(super) ended_at: Option<i64>,
    pub(super) pause: Option<Pause>,
    units_paid: u64,
}

impl Subscription {
    fn units(&self) -> u64 {
        self.items.iter().map(|item| item.line.units()).sum()
    }
}

/// Why an invoice was made (`billing_reason`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    Create,
    Cycle,
    Update,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InvoiceStatus {
    Draft,
    Open,
    Paid,
    Void,
    Uncollectible,
}

impl InvoiceStatus {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Open => "open",
            Self::Paid => "paid",
            Self::Void => "void",
            Self::Uncollectible => "uncollectible",
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct InvoiceLine {
    /// The item that it pays for; none for what is sold once.
    pub(super) item: Option<String>,
    pub(super) line: Line,
    pub(super) amount: i64,
    pub(super) period: Period,
    pub(super) proration: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Invoice {
    pub(super) id: String,
    pub(super) subscription: String,
    pub(super) customer: String,
    pub(super) email: Option<String>,
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) cause: Cause,
    pub(super) status: InvoiceStatus,
    pub(super) attempts: u64,
    pub(super) next_attempt: Option<i64>,
    pub(super) lines: Vec<InvoiceLine>,
    pub(super) created: i64,
    pub(super) finalized_at: Option<i64>,
    pub(super) paid_at: Option<i64>,
    pub(super) voided_at: Option<i64>,
    pub(super) uncollectible_at: Option<i64>,
    units: u64,
}

impl Invoice {
    pub(super) fn total(&self) -> i64 {
        self.lines.iter().map(|line| line.amount).sum()
    }

    fn pay(&mut self, at: i64) {
        self.attempts += u64::from(self.total() > 0);
        self.next_attempt = None;
        self.status = InvoiceStatus::Paid;
        self.finalized_at.get_or_insert(at);
        self.paid_at = Some(at);
    }

    /// Until when it pays for the subscription, once paid.
    fn pays_through(&self) -> Option<i64> {
        let regular = self.lines.iter().filter(|line| line.item.is_some() && !line.proration);
        regular.map(|line| line.period.end).max()
    }
}

#[derive(Debug, Clone)]
pub(super) struct Customer {
    pub(super) id: String,
    pub(super) email: Option<String>,
    pub(super) deleted: bool,
    pub(super) created: i64,
}

/// The ids of what begins with a subscription.
#[derive(Debug, Clone)]
pub(super) struct Ids {
    pub(super) subscription: String,
    pub(super) invoice: String,
    pub(super) customer: String,
}

/// Something that Stripe sends an event for.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) event_type: &'static str,
    pub(super) object: Value,
    pub(super) before: Option<Value>,
}

/// All that is billed, oldest first.
#[derive(Debug)]
pub(super) struct Books {
    pub(super) livemode: bool,
    subscriptions: Vec<Subscription>,
    invoices: Vec<Invoice>,
    customers: Vec<Customer>,
}

impl Books {
    pub(super) fn new(livemode: bool) -> Self {
        Self { livemode, subscriptions: Vec::new(), invoices: Vec::new(), customers: Vec::new() }
    }

    /// Opens the account of a new customer with a new subscription and its first invoice.
    pub(super) fn open(&mut self, ids: Ids, session: Option<&str>, bought: &Purchase, start: Start, at: i64) {
        let trial_end = match start {
            Start::Trialing { days } => Some(at + i64::from(days) * DAY),
            Start::Active | Start::Incomplete => None,
        };
        let tail = ids.customer.get(4..).unwrap_or_default();
        let recurring = bought.lines.iter().filter(|line| !line.one_time).enumerate();
        let items =
            recurring.map(|(index, line)| Item { id: format!("si_{tail}{index}"), line: line.clone() });
        let subscription = Subscription {
            id: ids.subscription,
            session: session.map(str::to_owned),
            customer: ids.customer.clone(),
            metadata: bought.subscription_metadata.clone(),
            items: items.collect(),
            status: match start {
                Start::Active => Status::Active,
                Start::Incomplete => Status::Incomplete,
                Start::Trialing { .. } => Status::Trialing,
            },
            begun_at: at,
            period: trial_end.map_or(Period::from(at), |end| Period { start: at, end }),
            trial_end,
            cancel_at: None,
            cancel_at_period_end: false,
            canceled_at: None,
            cancel_reason: None,
            ended_at: None,
            pause: None,
            units_paid: 0,
        };
        let email = bought.email.clone();
        self.customers.push(Customer { id: ids.customer, email, deleted: false, created: at });
        let mut lines = regular_lines(&subscription, subscription.period);
        let once = bought.lines.iter().filter(|line| line.one_time).map(|line| InvoiceLine {
            item: None,
            line: line.clone(),
            amount: billing::amount(line),
            period: Period { start: at, end: at },
            proration: false,
        });
        lines.extend(once);
        if bought.payment == PaymentPlan::Free {
            for line in &mut lines {
                line.amount = 0;
            }
        }
        let mut invoice = self.invoice_for(&subscription, ids.invoice, Cause::Create, lines, at);
        if start == Start::Incomplete {
            invoice.status = InvoiceStatus::Open;
            invoice.finalized_at = Some(at);
        } else {
            invoice.pay(at);
        }
        let units_paid = if start == Start::Incomplete { 0 } else { invoice.units };
        self.subscriptions.push(Subscription { units_paid, ..subscription });
        self.invoices.push(invoice);
    }

    fn invoice_for(
        &self,
        subscription: &Subscription,
        id: String,
        cause: Cause,
        lines: Vec<InvoiceLine>,
        at: i64,
    ) -> Invoice {
        Invoice {
            id,
            subscription: subscription.id.clone(),
            customer: subscription.customer.clone(),
            email: self.customer(&subscription.customer).and_then(|customer| customer.email.clone()),
            metadata: subscription.metadata.clone(),
            cause,
            status: InvoiceStatus::Draft,
            attempts: 0,
            next_attempt: None,
            lines,
            created: at,
            finalized_at: None,
            paid_at: None,
            voided_at: None,
            uncollectible_at: None,
            units: subscription.units(),
        }
    }

    /// What Stripe tells of a subscription that was just opened.
    pub(super) fn first_changes(&self, ids: &Ids, start: Start) -> Vec<Change> {
        let told =
            |event_type, object: Option<Value>| Some(Change { event_type, object: object?, before: None });
        let subscription = self.show_subscription(&ids.subscription, Expand::default());
        let paid = self.show_invoice(&ids.invoice).filter(|_| start != Start::Incomplete);
        let changes = [told("customer.subscription.created", subscription), told("invoice.paid", paid)];
        changes.into_iter().flatten().collect()
    }

    /// A customer changes; nothing is told of one who is unknown or deleted.
    pub(super) fn change_customer(
        &mut self,
        id: &str,
        event_type: &'static str,
        change: impl FnOnce(&mut Customer),
    ) -> Vec<Change> {
        let livemode = self.livemode;
        let Some(customer) = self.customers.iter_mut().find(|of| of.id == id && !of.deleted) else {
            return Vec::new();
        };
        let before = billing::customer(customer, livemode);
        change(customer);
        let change = if customer.deleted {
            Change { event_type, object: before, before: None }
        } else {
            Change { event_type, object: billing::customer(customer, livemode), before: Some(before) }
        };
        vec![change]
    }

    fn customer(&self, id: &str) -> Option<&Customer> {
        self.customers.iter().find(|customer| customer.id == id)
    }

    fn latest_invoice(&self, subscription: &str) -> Option<&Invoice> {
        self.invoices.iter().rev().find(|invoice| invoice.subscription == subscription)
    }

    pub(super) fn show_customer(&self, id: &str) -> Option<Value> {
        self.customer(id).map(|customer| billing::customer(customer, self.livemode))
    }

    pub(super) fn show_subscription(&self, id: &str, expand: Expand) -> Option<Value> {
        let subscription = self.subscriptions.iter().find(|subscription| subscription.id == id)?;
        Some(self.picture(subscription, expand))
    }

    fn picture(&self, subscription: &Subscription, expand: Expand) -> Value {
        let mut object = billing::subscription(subscription, self.livemode);
        if let Some(invoice) = self.latest_invoice(&subscription.id) {
            object["latest_invoice"] = if expand.latest_invoice {
                billing::invoice(invoice, self.livemode)
            } else {
                Value::from(invoice.id.as_str())
            };
        }
        if expand.customer {
            object["customer"] = self.show_customer(&subscription.customer).unwrap_or_default();
        }
        object
    }

    /// All items of a subscription.
    pub(super) fn show_items(&self, id: &str) -> Vec<Value> {
        let subscription = self.subscriptions.iter().find(|subscription| subscription.id == id);
        subscription.map(|subscription| billing::items(subscription, self.livemode)).unwrap_or_default()
    }

    pub(super) fn show_invoice(&self, id: &str) -> Option<Value> {
        let invoice = self.invoices.iter().find(|invoice| invoice.id == id)?;
        Some(billing::invoice(invoice, self.livemode))
    }

    /// All lines of an invoice.
    pub(super) fn show_invoice_lines(&self, id: &str) -> Option<Vec<Value>> {
        let invoice = self.invoices.iter().find(|invoice| invoice.id == id)?;
        Some(billing::invoice_lines(invoice, self.livemode))
    }

    /// The invoices of a subscription, or all; in a status, or any. Newest first.
    pub(super) fn show_invoices(&self, subscription: Option<&str>, status: Option<&str>) -> Vec<Value> {
        let wanted = |invoice: &&Invoice| {
            subscription.is_none_or(|id| invoice.subscription == id)
                && status.is_none_or(|status| invoice.status.as_str() == status)
        };
        let invoices = self.invoices.iter().rev().filter(wanted);
        invoices.map(|invoice| billing::invoice(invoice, self.livemode)).collect()
    }

    /// What is true of all subscriptions, oldest first.
    pub(super) fn truths(&self) -> Vec<SubscriptionTruth> {
        let truth = |subscription: &Subscription| {
            let theirs = self.invoices.iter().filter(|invoice| invoice.subscription == subscription.id);
            let paid = theirs.filter(|invoice| invoice.status == InvoiceStatus::Paid);
            SubscriptionTruth {
                subscription: subscription.id.clone(),
                session: subscription.session.clone(),
                customer: subscription.customer.clone(),
                status: subscription.status,
                period_end: time(subscription.period.end),
                paid_through: paid.filter_map(Invoice::pays_through).max().map(time),
                units: subscription.units(),
                units_paid: subscription.units_paid,
            }
        };
        self.subscriptions.iter().map(truth).collect()
    }
}

/// One line for each item; a trial costs nothing.
fn regular_lines(subscription: &Subscription, period: Period) -> Vec<InvoiceLine> {
    let free = subscription.trial_end.is_some_and(|end| period.start < end);
    let line = |item: &Item| InvoiceLine {
        item: Some(item.id.clone()),
        line: item.line.clone(),
        amount: if free { 0 } else { billing::amount(&item.line) },
        period,
        proration: false,
    };
    subscription.items.iter().map(line).collect()
}

fn time(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX)
}
