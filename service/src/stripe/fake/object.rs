//! The fake's objects, as large and as shaped as real ones (Stripe, API reference).

mod age;
pub(super) mod billing;

use serde_json::{Value, json};

use super::purchase::{Kind, Line};
use super::world::{Record, Stage};

pub(super) use age::{OLD_VERSION, age};

/// So many elements of a list come inside another object; for the rest one has to ask.
const INLINE: usize = 10;

/// What a session shows whole rather than by id (`expand[]`).
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Expand {
    pub(super) intent: bool,
    pub(super) charge: bool,
    pub(super) lines: bool,
}

impl Expand {
    /// Reads one `expand[]`, which includes what is on the way to it.
    pub(super) fn add(&mut self, path: &str) {
        match path {
            "payment_intent" => self.intent = true,
            "payment_intent.latest_charge" => (self.intent, self.charge) = (true, true),
            "line_items" => self.lines = true,
            _ => {}
        }
    }
}

/// Where an object is fetched.
pub(super) fn url(kind: &str, id: &str) -> String {
    let collection = match kind {
        "checkout.session" => "checkout/sessions".to_owned(),
        other => format!("{other}s"),
    };
    format!("/v1/{collection}/{id}")
}

fn amount(record: &Record) -> u64 {
    let in_trial = |line: &&Line| record.purchase.trial_days.is_some() && record.purchase.recurs(line);
    let due = record.purchase.lines.iter().filter(|line| !in_trial(line));
    if record.stage == Stage::Free { 0 } else { due.map(line_amount).sum() }
}

/// What one of anything costs.
const UNIT_AMOUNT: u64 = 4_900;

fn line_amount(line: &Line) -> u64 {
    line.quantity.saturating_mul(UNIT_AMOUNT)
}

/// A list as it comes inside another object.
fn inline(mut all: Vec<Value>, url: &str) -> Value {
    let has_more = all.len() > INLINE;
    all.truncate(INLINE);
    json!({"object": "list", "data": all, "has_more": has_more, "url": url})
}

/// A Checkout session at the pinned version.
pub(super) fn session(record: &Record, expand: Expand) -> Value {
    let paid_or_not = |says_paid| if says_paid { "paid" } else { "unpaid" };
    let (status, payment_status) = match record.stage {
        Stage::Open => ("open", "unpaid"),
        Stage::Expired => ("expired", "unpaid"),
        Stage::Pending | Stage::Failed => ("complete", "unpaid"),
        Stage::Authorized { says_paid } | Stage::Canceled { says_paid } => {
            ("complete", paid_or_not(says_paid))
        }
        Stage::Paid => ("complete", "paid"),
        Stage::Free => ("complete", "no_payment_required"),
    };
    let mode = match record.purchase.kind {
        Kind::Payment => "payment",
        Kind::Subscription => "subscription",
        Kind::Setup => "setup",
    };
    let mut session = empty_session(record);
    session["mode"] = json!(mode);
    session["status"] = json!(status);
    session["payment_status"] = json!(payment_status);
    session["metadata"] = json!(record.purchase.metadata);
    if record.stage == Stage::Open {
        session["url"] = json!(format!("https://checkout.stripe.com/c/pay/{}", record.session));
        session["customer_email"] = json!(record.purchase.email);
    }
    if record.has_intent() {
        session["payment_intent"] = if expand.intent { intent(record, expand) } else { json!(record.intent) };
    }
    if record.has_subscription() {
        session["subscription"] = json!(record.subscription);
        session["invoice"] = json!(record.invoice);
        session["customer"] = json!(record.customer);
    }
    if expand.lines {
        let url = format!("{}/line_items", url("checkout.session", &record.session));
        session["line_items"] = inline(lines(record), &url);
    }
    session
}

/// The two hundred lines of a session that say nothing about this purchase, because real ones have them too.
fn empty_session(record: &Record) -> Value {
    let begun = record.begun_at.as_second();
    let amount = amount(record);
    let mut session = json!({
        "id": record.session, "object": "checkout.session",
        "adaptive_pricing": {"enabled": true}, "after_expiration": null, "allow_promotion_codes": true,
        "allowed_payment_method_types": null, "amount_subtotal": amount, "amount_total": amount,
        "automatic_tax": {"enabled": true, "liability": {"type": "self"}, "provider": "stripe", "status": "complete"},
        "billing_address_collection": "auto", "branding_settings": null, "cancel_url": "https://shop.example.com/",
        "client_reference_id": null, "client_secret": null, "created": begun, "currency": "eur",
        "collected_information": {"business_name": null, "individual_name": null, "shipping_details": null},
        "consent": {"promotions": null, "terms_of_service": "accepted"},
        "consent_collection": {
            "payment_method_reuse_agreement": null, "promotions": "none", "terms_of_service": "required"
        },
        "currency_conversion": null, "custom_fields": [],
        "custom_text": {
            "after_submit": null, "shipping_address": null, "terms_of_service_acceptance": null,
            "submit": {"message": "Your license key is shown on the next page and mailed to you."}
        },
        "customer": null, "customer_account": null, "customer_creation": "if_required", "customer_email": null,
        "customer_details": {
            "address": {
                "city": "Musterstadt", "country": "DE", "line1": "Beispielweg 1", "line2": null,
                "postal_code": "00000", "state": null
            },
            "business_name": null, "email": record.purchase.email, "individual_name": null,
            "name": "Erika Musterfrau", "phone": null, "tax_exempt": "none", "tax_ids": []
        },
        "discounts": [], "excluded_payment_method_types": [], "expires_at": begun + 86_400, "invoice": null
    });
    let rest = json!({
        "invoice_creation": {"enabled": false, "invoice_data": {
            "account_tax_ids": null, "custom_fields": null, "description": null, "footer": null, "issuer": null,
            "metadata": {}, "rendering_options": null
        }},
        "livemode": record.mode.livemode(), "locale": "auto", "managed_payments": {"enabled": false},
        "metadata": {}, "mode": null, "name_collection": null, "optional_items": [], "origin_context": null,
        "payment_intent": null, "payment_link": null, "payment_method_collection": "if_required",
        "payment_method_configuration_details": {"id": "pmc_1FakeFakeFakeFakeFakeFake", "parent": null},
        "payment_method_options": {"card": {"request_three_d_secure": "automatic"}}, "payment_status": null,
        "permissions": null, "phone_number_collection": {"enabled": false},
        "presentment_details": {"presentment_amount": amount, "presentment_currency": "eur"},
        "recovered_from": null, "redirect_on_completion": "always", "return_url": null,
        "saved_payment_method_options": null, "setup_intent": null, "shipping_address_collection": null,
        "shipping_cost": null, "shipping_options": [], "status": null, "submit_type": null, "subscription": null,
        "success_url": "https://licenses.example.com/success?session_id={CHECKOUT_SESSION_ID}",
        "tax_id_collection": {"enabled": true, "required": "never"},
        "total_details": {"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0},
        "ui_mode": "hosted_page", "url": null, "wallet_options": {"link": {"display": "auto"}}
    });
    if let (Value::Object(session), Value::Object(rest)) = (&mut session, rest) {
        session.extend(rest);
    }
    session
}

/// A PaymentIntent at the pinned version.
pub(super) fn intent(record: &Record, expand: Expand) -> Value {
    let (status, received) = match record.stage {
        Stage::Paid => ("succeeded", amount(record)),
        Stage::Pending => ("processing", 0),
        Stage::Authorized { .. } => ("requires_capture", 0),
        Stage::Canceled { .. } => ("canceled", 0),
        Stage::Failed | Stage::Free | Stage::Open | Stage::Expired => ("requires_payment_method", 0),
    };
    json!({
        "id": record.intent, "object": "payment_intent", "amount": amount(record), "amount_received": received,
        "amount_details": {"tip": {}}, "application": null, "canceled_at": null, "cancellation_reason": null,
        "capture_method": "automatic_async", "client_secret": null, "confirmation_method": "automatic",
        "created": record.begun_at.as_second(), "currency": "eur", "customer": null, "customer_account": null,
        "description": null, "last_payment_error": null,
        "latest_charge": if expand.charge { charge(record) } else { json!(record.charge) },
        "livemode": record.mode.livemode(), "metadata": {}, "next_action": null, "on_behalf_of": null,
        "payment_method": "pm_1FakeFakeFakeFakeFakeFake", "payment_method_types": ["card"], "processing": null,
        "receipt_email": null, "review": null, "setup_future_usage": null, "shipping": null, "status": status,
        "statement_descriptor": null, "transfer_data": null, "transfer_group": null
    })
}

/// A charge at the pinned version.
pub(super) fn charge(record: &Record) -> Value {
    let (status, captured) = match record.stage {
        Stage::Paid => ("succeeded", true),
        Stage::Authorized { .. } | Stage::Canceled { .. } => ("succeeded", false),
        Stage::Pending => ("pending", false),
        Stage::Failed | Stage::Free | Stage::Open | Stage::Expired => ("failed", false),
    };
    json!({
        "id": record.charge, "object": "charge", "amount": amount(record),
        "amount_captured": if captured { amount(record) } else { 0 }, "amount_refunded": 0, "application": null,
        "billing_details": {
            "address": {
                "city": null, "country": "DE", "line1": null, "line2": null, "postal_code": null, "state": null
            },
            "email": record.purchase.email, "name": "Erika Musterfrau", "phone": null, "tax_id": null
        },
        "calculated_statement_descriptor": "EXAMPLE SHOP", "captured": captured,
        "created": record.begun_at.as_second(), "currency": "eur", "customer": null, "description": null,
        "disputed": false, "failure_code": null, "failure_message": null, "fraud_details": {},
        "livemode": record.mode.livemode(), "metadata": {}, "on_behalf_of": null,
        "outcome": {"network_status": "approved_by_network", "reason": null, "risk_level": "normal", "type": "authorized"},
        "paid": status == "succeeded", "payment_intent": record.intent,
        "payment_method": "pm_1FakeFakeFakeFakeFakeFake",
        "payment_method_details": {"card": {
            "brand": "visa", "country": "US", "exp_month": 12, "exp_year": 2034, "funding": "credit", "last4": "4242"
        }, "type": "card"},
        "receipt_email": null, "receipt_number": null, "refunded": false, "review": null, "shipping": null,
        "statement_descriptor": null, "status": status, "transfer_data": null, "transfer_group": null
    })
}

/// All line items of a session.
pub(super) fn lines(record: &Record) -> Vec<Value> {
    record.purchase.lines.iter().enumerate().map(|(index, line)| line_item(record, index, line)).collect()
}

fn line_item(record: &Record, index: usize, line: &Line) -> Value {
    // Ids of lines are unique at Stripe, so they carry a piece of their session's.
    let tail = record.intent.get(4..18).unwrap_or_default();
    json!({
        "id": format!("li_1{tail}{index:05}"), "object": "item", "adjustable_quantity": null,
        "amount_discount": 0, "amount_subtotal": line_amount(line), "amount_tax": 0,
        "amount_total": line_amount(line), "currency": "eur", "description": "License", "metadata": {},
        "price": price(line, record.purchase.recurs(line), record.mode.livemode()), "quantity": line.quantity
    })
}

/// A price at the pinned version.
pub(super) fn price(line: &Line, recurs: bool, livemode: bool) -> Value {
    let transform = line.transform.map(|transform| {
        json!({"divide_by": transform.divide_by, "round": if transform.round_up { "up" } else { "down" }})
    });
    let recurring = recurs
        .then(|| json!({"interval": "month", "interval_count": 1, "meter": null, "usage_type": "licensed"}));
    json!({
        "id": line.price, "object": "price", "active": true, "billing_scheme": "per_unit", "currency": "eur",
        "created": 1_700_000_000, "livemode": livemode, "lookup_key": line.lookup_key, "metadata": {},
        "nickname": null, "product": product(line), "recurring": recurring, "tax_behavior": "exclusive",
        "tiers_mode": null, "transform_quantity": transform, "type": if recurs { "recurring" } else { "one_time" },
        "unit_amount": UNIT_AMOUNT, "unit_amount_decimal": UNIT_AMOUNT.to_string()
    })
}

pub(super) fn product(line: &Line) -> &str {
    line.product.as_deref().unwrap_or("prod_FakeFakeFakeFa")
}
