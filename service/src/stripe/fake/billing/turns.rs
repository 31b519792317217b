//! The life of a subscription, one turn at a time, and what Stripe tells of it in which order (Stripe, billing webhooks).

use serde_json::Value;

use super::super::object::billing::{self, Expand};
use super::super::subscription::{Status, SubscriptionTurn as Turn};
use super::{
    Books, Cause, Change, DAY, Invoice, InvoiceLine, InvoiceStatus, Pause, Period, Subscription,
    regular_lines,
};

const UPDATED: &str = "customer.subscription.updated";

impl Books {
    /// Lets a subscription take a turn; `fresh` is the id of the invoice that it may need.
    pub(in super::super) fn turn(&mut self, id: &str, turn: Turn, at: i64, fresh: String) -> Vec<Change> {
        let Some(index) = self.subscriptions.iter().position(|subscription| subscription.id == id) else {
            return Vec::new();
        };
        let mut story = Story { books: self, index, at, fresh, told: Vec::new() };
        story.take(turn);
        story.told
    }
}

struct Story<'b> {
    books: &'b mut Books,
    index: usize,
    at: i64,
    fresh: String,
    told: Vec<Change>,
}

impl Story<'_> {
    fn take(&mut self, turn: Turn) {
        use Status::{Active, Canceled, Incomplete, PastDue, Paused, Trialing, Unpaid};
        let status = self.now().status;
        match (status, turn) {
            (Incomplete, Turn::PayFirst) | (Active | PastDue | Unpaid, Turn::PayLate) => self.pay_due(),
            (Incomplete, Turn::Expire) | (_, Turn::VoidInvoice) => self.write_off(InvoiceStatus::Void),
            (Active, Turn::Renew) | (Trialing, Turn::EndTrial) if self.goes_on() => {
                self.begin_period();
                self.pay_due();
            }
            (Active | Trialing, Turn::BeginPeriod) if self.goes_on() => self.begin_period(),
            (Active | Trialing, Turn::RenewUnpaid) if self.goes_on() => {
                self.begin_period();
                self.fail();
            }
            (Incomplete | Active | PastDue, Turn::FailAgain) => self.fail(),
            (PastDue, Turn::GiveUp { cancel: false }) => self.stop_trying(),
            (PastDue, Turn::GiveUp { cancel: true }) => self.end("payment_failed"),
            (_, Turn::CancelForPayment) if !status.is_final() => self.end("payment_failed"),
            (_, Turn::Cancel) if !status.is_final() => self.end("cancellation_requested"),
            (Active | Trialing | PastDue, Turn::ScheduleCancel { classic }) => self.schedule(classic),
            (_, Turn::Unschedule) if !status.is_final() => self.unschedule(),
            (Active, Turn::Pause) => self.pause("pause_requested"),
            (Trialing, Turn::Pause) => self.pause("trial_end_without_payment_method"),
            (Paused, Turn::Resume) => self.resume(),
            (Active | Trialing | PastDue, Turn::SetQuantity(quantity)) => self.set_quantity(quantity),
            (_, Turn::PayProration) => self.pay_newest(|invoice| invoice.cause == Cause::Update),
            (Canceled, Turn::PayAfterEnd) => self.pay_newest(|_| true),
            (_, Turn::MarkUncollectible) if status != Incomplete => {
                self.write_off(InvoiceStatus::Uncollectible);
            }
            _ => {}
        }
    }

    fn now(&self) -> &Subscription {
        &self.books.subscriptions[self.index]
    }

    fn subscription(&mut self) -> &mut Subscription {
        &mut self.books.subscriptions[self.index]
    }

    fn picture(&self) -> Value {
        self.books.picture(self.now(), Expand::default())
    }

    /// Changes the subscription, with or without its invoices, and tells both sides of the change.
    fn change(&mut self, event_type: &'static str, change: impl FnOnce(&mut Self)) {
        let before = self.picture();
        change(self);
        let object = self.picture();
        self.told.push(Change { event_type, object, before: Some(before) });
    }

    fn set_status(&mut self, status: Status) {
        if self.now().status != status {
            self.change(UPDATED, |story| story.subscription().status = status);
        }
    }

    fn tell_invoice(&mut self, event_type: &'static str, invoice: usize) {
        let object = billing::invoice(&self.books.invoices[invoice], self.books.livemode);
        self.told.push(Change { event_type, object, before: None });
    }

    fn newest(&self, wanted: impl Fn(&Invoice) -> bool) -> Option<usize> {
        let id = &self.now().id;
        self.books.invoices.iter().rposition(|invoice| invoice.subscription == *id && wanted(invoice))
    }

    /// The invoice for a period that Stripe still wants paid.
    fn due(&self) -> Option<usize> {
        self.newest(|invoice| {
            invoice.cause != Cause::Update
                && matches!(invoice.status, InvoiceStatus::Draft | InvoiceStatus::Open)
        })
    }

    /// Whether another period follows the current one.
    fn goes_on(&self) -> bool {
        let now = self.now();
        self.due().is_none() && now.cancel_at.is_none_or(|end| end > now.period.end)
    }

    fn bill(&mut self, cause: Cause, lines: Vec<InvoiceLine>) {
        let id = std::mem::take(&mut self.fresh);
        let invoice = self.books.invoice_for(self.now(), id, cause, lines, self.at);
        self.books.invoices.push(invoice);
    }

    /// The period moves on at once; its money comes later, if at all.
    fn begin_period(&mut self) {
        self.change(UPDATED, |story| {
            let at = story.at;
            let subscription = story.subscription();
            let boundary = match subscription.trial_end {
                Some(end) if subscription.status == Status::Trialing => {
                    subscription.trial_end = Some(end.min(at));
                    end.min(at)
                }
                _ => subscription.period.end,
            };
            subscription.status = Status::Active;
            subscription.period = Period::from(boundary);
            let lines = regular_lines(subscription, subscription.period);
            story.bill(Cause::Cycle, lines);
        });
    }

    fn pay(&mut self, invoice: usize) {
        let at = self.at;
        let paid = &mut self.books.invoices[invoice];
        paid.pay(at);
        let units = paid.units;
        let subscription = self.subscription();
        subscription.units_paid = subscription.units_paid.max(units.min(subscription.units()));
        self.tell_invoice("invoice.paid", invoice);
    }

    /// Pays what is due, or what was given up.
    fn pay_due(&mut self) {
        let given_up = |invoice: &Invoice| {
            invoice.cause != Cause::Update && invoice.status == InvoiceStatus::Uncollectible
        };
        if let Some(invoice) = self.due().or_else(|| self.newest(given_up)) {
            self.pay(invoice);
            self.set_status(Status::Active);
        }
    }

    fn pay_newest(&mut self, wanted: impl Fn(&Invoice) -> bool) {
        let settled = |invoice: &Invoice| matches!(invoice.status, InvoiceStatus::Paid | InvoiceStatus::Void);
        if let Some(invoice) = self.newest(|invoice| !settled(invoice) && wanted(invoice)) {
            self.pay(invoice);
        }
    }

    fn fail(&mut self) {
        let Some(due) = self.due() else { return };
        let at = self.at;
        let invoice = &mut self.books.invoices[due];
        invoice.status = InvoiceStatus::Open;
        invoice.finalized_at.get_or_insert(at);
        invoice.attempts += 1;
        invoice.next_attempt = Some(at + 3 * DAY);
        self.tell_invoice("invoice.payment_failed", due);
        if self.now().status == Status::Active {
            self.set_status(Status::PastDue);
        }
    }

    fn stop_trying(&mut self) {
        if let Some(due) = self.due() {
            self.books.invoices[due].next_attempt = None;
        }
        self.set_status(Status::Unpaid);
    }

    /// Takes back the newest open invoice. Then nothing is due, which revives what was only late and ends what never began.
    fn write_off(&mut self, status: InvoiceStatus) {
        let Some(index) = self.newest(|invoice| invoice.status == InvoiceStatus::Open) else { return };
        let at = self.at;
        let invoice = &mut self.books.invoices[index];
        invoice.status = status;
        invoice.next_attempt = None;
        if status == InvoiceStatus::Void {
            invoice.voided_at = Some(at);
            self.tell_invoice("invoice.voided", index);
        } else {
            invoice.uncollectible_at = Some(at);
            self.tell_invoice("invoice.marked_uncollectible", index);
        }
        match self.now().status {
            Status::Incomplete => self.change(UPDATED, |story| {
                story.subscription().status = Status::IncompleteExpired;
                story.subscription().ended_at = Some(at);
            }),
            Status::PastDue | Status::Unpaid if self.due().is_none() => self.set_status(Status::Active),
            _ => {}
        }
    }

    /// Stripe's last word on a subscription tells no previous one.
    fn end(&mut self, reason: &'static str) {
        let at = self.at;
        let subscription = self.subscription();
        subscription.status = Status::Canceled;
        subscription.pause = None;
        subscription.cancel_reason = Some(reason);
        subscription.canceled_at.get_or_insert(at);
        subscription.ended_at = Some(at);
        let object = self.picture();
        self.told.push(Change { event_type: "customer.subscription.deleted", object, before: None });
    }

    fn schedule(&mut self, classic: bool) {
        if self.now().cancel_at.is_some() {
            return;
        }
        self.change(UPDATED, |story| {
            let at = story.at;
            let subscription = story.subscription();
            subscription.cancel_at = Some(subscription.period.end);
            subscription.cancel_at_period_end = classic;
            subscription.canceled_at = Some(at);
            subscription.cancel_reason = Some("cancellation_requested");
        });
    }

    fn unschedule(&mut self) {
        if self.now().cancel_at.is_none() {
            return;
        }
        self.change(UPDATED, |story| {
            let subscription = story.subscription();
            subscription.cancel_at = None;
            subscription.cancel_at_period_end = false;
            subscription.canceled_at = None;
            subscription.cancel_reason = None;
        });
    }

    fn pause(&mut self, why: &'static str) {
        self.change("customer.subscription.paused", |story| {
            let since = story.at;
            let subscription = story.subscription();
            subscription.status = Status::Paused;
            subscription.pause = Some(Pause { why, since });
        });
    }

    /// A period that ended meanwhile is followed by one from now on, and Stripe resumes only when that is paid.
    fn resume(&mut self) {
        let next = (self.at >= self.now().period.end).then(|| Period::from(self.at));
        if let Some(period) = next {
            let lines = regular_lines(self.now(), period);
            self.bill(Cause::Cycle, lines);
            if let Some(invoice) = self.due() {
                self.pay(invoice);
            }
        }
        self.change("customer.subscription.resumed", |story| {
            let subscription = story.subscription();
            subscription.status = Status::Active;
            subscription.pause = None;
            subscription.period = next.unwrap_or(subscription.period);
        });
    }

    /// Items change before they are paid. More are billed at once, new against old; fewer bring no
    /// invoice of their own.
    fn set_quantity(&mut self, quantity: u64) {
        let Some(item) = self.now().items.first().cloned() else { return };
        if quantity == item.line.quantity || quantity == 0 {
            return;
        }
        self.change(UPDATED, |story| {
            let at = story.at;
            let subscription = story.subscription();
            if let Some(item) = subscription.items.first_mut() {
                item.line.quantity = quantity;
            }
            let units = subscription.units();
            let trial = subscription.status == Status::Trialing;
            if trial || quantity < item.line.quantity {
                subscription.units_paid = if trial { units } else { units.min(subscription.units_paid) };
                return;
            }
            let period = Period { start: at, end: subscription.period.end };
            let mut raised = item.line.clone();
            raised.quantity = quantity;
            let line = |line, sign| InvoiceLine {
                item: Some(item.id.clone()),
                amount: sign * billing::amount(&line),
                line,
                period,
                proration: true,
            };
            let lines = vec![line(item.line.clone(), -1), line(raised, 1)];
            story.bill(Cause::Update, lines);
            if let Some(invoice) = story.books.invoices.last_mut() {
                invoice.status = InvoiceStatus::Open;
                invoice.finalized_at = Some(at);
            }
        });
    }
}
