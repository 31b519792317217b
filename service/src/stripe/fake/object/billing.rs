//! Subscriptions, invoices and customers at the pinned version.

use serde_json::{Value, json};

use super::super::billing::{Cause, Customer, Invoice, InvoiceLine, InvoiceStatus, Subscription};
use super::super::purchase::Line;
use super::{UNIT_AMOUNT, inline, line_amount, price, product, url};

/// What a subscription shows whole rather than by id (`expand[]`).
#[derive(Debug, Clone, Copy, Default)]
pub(in super::super) struct Expand {
    pub(in super::super) latest_invoice: bool,
    pub(in super::super) customer: bool,
}

impl Expand {
    /// Reads one `expand[]`.
    pub(in super::super) fn add(&mut self, path: &str) {
        match path {
            "latest_invoice" => self.latest_invoice = true,
            "customer" => self.customer = true,
            _ => {}
        }
    }
}

/// What a line costs in a period.
pub(in super::super) fn amount(line: &Line) -> i64 {
    i64::try_from(line_amount(line)).unwrap_or(i64::MAX)
}

/// A subscription but for its newest invoice, which it does not know itself.
pub(in super::super) fn subscription(of: &Subscription, livemode: bool) -> Value {
    let paused = of.pause.map(|pause| {
        json!({"type": "subscription", "transitioned_at": pause.since, "subscription": {"type": pause.why}})
    });
    let mut subscription = json!({
        "id": of.id, "object": "subscription", "application": null, "application_fee_percent": null,
        "automatic_tax": {"disabled_reason": null, "enabled": true, "liability": {"type": "self"}},
        "billing_cycle_anchor": of.trial_end.unwrap_or(of.begun_at), "billing_cycle_anchor_config": null,
        "billing_mode": {"flexible": {"proration_discounts": "included"}, "type": "flexible"},
        "billing_thresholds": null, "cancel_at": of.cancel_at, "cancel_at_period_end": of.cancel_at_period_end,
        "canceled_at": of.canceled_at,
        "cancellation_details": {"comment": null, "feedback": null, "reason": of.cancel_reason},
        "collection_method": "charge_automatically", "created": of.begun_at, "currency": "eur",
        "customer": of.customer, "customer_account": null, "days_until_due": null,
        "default_payment_method": "pm_1FakeFakeFakeFakeFakeFake", "default_source": null, "default_tax_rates": [],
        "description": null, "discounts": [], "ended_at": of.ended_at
    });
    let list = format!("/v1/subscription_items?subscription={}", of.id);
    let rest = json!({
        "invoice_settings": {"account_tax_ids": null, "issuer": {"type": "self"}},
        "items": inline(items(of, livemode), &list), "latest_invoice": null, "livemode": livemode,
        "metadata": of.metadata, "next_pending_invoice_item_invoice": null, "on_behalf_of": null,
        "pause_collection": null,
        "payment_settings": {
            "payment_method_options": null, "payment_method_types": null,
            "save_default_payment_method": "on_subscription"
        },
        "pending_invoice_item_interval": null, "pending_setup_intent": null, "pending_update": null,
        "schedule": null, "start_date": of.begun_at, "status": of.status.as_str(),
        "status_details": {"paused": paused}, "test_clock": null, "transfer_data": null,
        "trial_end": of.trial_end,
        "trial_settings": {"end_behavior": {"missing_payment_method": "create_invoice"}},
        "trial_start": of.trial_end.map(|_| of.begun_at)
    });
    if let (Value::Object(subscription), Value::Object(rest)) = (&mut subscription, rest) {
        subscription.extend(rest);
    }
    subscription
}

/// All items of a subscription.
pub(in super::super) fn items(of: &Subscription, livemode: bool) -> Vec<Value> {
    let items = of.items.iter().map(|item| {
        json!({
            "id": item.id, "object": "subscription_item", "billing_thresholds": null, "created": of.begun_at,
            "current_period_end": of.period.end, "current_period_start": of.period.start, "discounts": [],
            "metadata": {}, "price": price(&item.line, true, livemode), "quantity": item.line.quantity,
            "subscription": of.id, "tax_rates": []
        })
    });
    items.collect()
}

/// All lines of an invoice.
pub(in super::super) fn invoice_lines(of: &Invoice, livemode: bool) -> Vec<Value> {
    of.lines.iter().enumerate().map(|(at, line)| invoice_line(of, at, line, livemode)).collect()
}

/// An invoice.
pub(in super::super) fn invoice(of: &Invoice, livemode: bool) -> Value {
    let total = of.total();
    let paid = if of.status == InvoiceStatus::Paid { total } else { 0 };
    let first_line = of.lines.first().map(|line| line.period);
    json!({
        "id": of.id, "object": "invoice", "account_country": "DE", "account_name": "Example Shop",
        "amount_due": total, "amount_overpaid": 0, "amount_paid": paid, "amount_remaining": total - paid,
        "attempt_count": of.attempts, "attempted": of.attempts > 0,
        "auto_advance": matches!(of.status, InvoiceStatus::Draft | InvoiceStatus::Open),
        "billing_reason": match of.cause {
            Cause::Create => "subscription_create",
            Cause::Cycle => "subscription_cycle",
            Cause::Update => "subscription_update",
        },
        "collection_method": "charge_automatically", "created": of.created, "currency": "eur",
        "customer": of.customer, "customer_account": null, "customer_email": of.email,
        "customer_name": "Erika Musterfrau", "default_payment_method": null, "description": null, "discounts": [],
        "due_date": null, "effective_at": of.finalized_at,
        "hosted_invoice_url": of.finalized_at.map(|_| format!("https://invoice.stripe.com/i/{}", of.id)),
        "lines": inline(invoice_lines(of, livemode), &format!("{}/lines", url("invoice", &of.id))), "livemode": livemode,
        "metadata": {}, "next_payment_attempt": of.next_attempt, "number": null,
        "parent": {"quote_details": null, "type": "subscription_details", "subscription_details": {
            "metadata": of.metadata, "subscription": of.subscription
        }},
        "period_end": of.created, "period_start": first_line.map_or(of.created, |period| period.start),
        "status": of.status.as_str(),
        "status_transitions": {
            "finalized_at": of.finalized_at, "marked_uncollectible_at": of.uncollectible_at,
            "paid_at": of.paid_at, "voided_at": of.voided_at
        },
        "subtotal": total, "total": total
    })
}

fn invoice_line(of: &Invoice, index: usize, line: &InvoiceLine, livemode: bool) -> Value {
    let tail = of.id.get(4..18).unwrap_or_default();
    let parent = match &line.item {
        Some(item) => json!({
            "invoice_item_details": null, "type": "subscription_item_details",
            "subscription_item_details": {
                "invoice_item": null, "proration": line.proration, "proration_details": {"credited_items": null},
                "subscription": of.subscription, "subscription_item": item
            }
        }),
        None => json!({
            "subscription_item_details": null, "type": "invoice_item_details",
            "invoice_item_details": {
                "invoice_item": format!("ii_1{tail}{index:05}"), "proration": false,
                "proration_details": {"credited_items": null}, "subscription": of.subscription
            }
        }),
    };
    json!({
        "id": format!("il_1{tail}{index:05}"), "object": "line_item", "amount": line.amount, "currency": "eur",
        "description": "License", "discount_amounts": [], "discountable": true, "discounts": [],
        "invoice": of.id, "livemode": livemode,
        "metadata": if line.item.is_some() { json!(of.metadata) } else { json!({}) },
        "parent": parent, "period": {"end": line.period.end, "start": line.period.start},
        "pretax_credit_amounts": [],
        "pricing": {
            "price_details": {"price": line.line.price, "product": product(&line.line)}, "type": "price_details",
            "unit_amount_decimal": UNIT_AMOUNT.to_string()
        },
        "quantity": line.line.quantity, "subscription": of.subscription, "subtotal": line.amount, "taxes": []
    })
}

/// A customer, or what Stripe still says of a deleted one.
pub(in super::super) fn customer(of: &Customer, livemode: bool) -> Value {
    if of.deleted {
        return json!({"id": of.id, "object": "customer", "deleted": true});
    }
    json!({
        "id": of.id, "object": "customer", "address": null, "balance": 0, "created": of.created, "currency": "eur",
        "customer_account": null, "default_source": null, "delinquent": false, "description": null,
        "discount": null, "email": of.email, "invoice_prefix": "FAKE0001",
        "invoice_settings": {
            "custom_fields": null, "default_payment_method": null, "footer": null, "rendering_options": null
        },
        "livemode": livemode, "metadata": {}, "name": "Erika Musterfrau", "next_invoice_sequence": 2, "phone": null,
        "preferred_locales": ["de"], "shipping": null, "tax_exempt": "none", "test_clock": null
    })
}
