//! What an object of the pinned version was before the great change of 2025 (Stripe, changelog, basil).

use serde_json::{Map, Value, json};

/// The version before the great change that old endpoints are pinned to.
pub(in super::super) const OLD_VERSION: &str = "2024-06-20";

/// What no object had then.
const NEWER: [&str; 16] = [
    "adaptive_pricing",
    "allowed_payment_method_types",
    "amount_overpaid",
    "billing_mode",
    "branding_settings",
    "collected_information",
    "customer_account",
    "discounts",
    "excluded_payment_method_types",
    "managed_payments",
    "name_collection",
    "optional_items",
    "origin_context",
    "permissions",
    "status_details",
    "wallet_options",
];

/// Turns an object of the pinned version, and what is inside it, into one of [`OLD_VERSION`], as far as the fake's objects
/// differ.
pub(in super::super) fn age(object: &mut Value) {
    match object {
        Value::Array(elements) => elements.iter_mut().for_each(age),
        Value::Object(fields) => age_fields(fields),
        _ => {}
    }
}

fn age_fields(fields: &mut Map<String, Value>) {
    let kind = fields.get("object").and_then(Value::as_str).map(str::to_owned);
    match kind.as_deref() {
        Some("checkout.session") => {
            fields.insert("payment_method_types".to_owned(), json!(["card"]));
            fields.insert("shipping_details".to_owned(), Value::Null);
            fields.insert("ui_mode".to_owned(), json!("hosted"));
        }
        Some("payment_intent" | "charge") => {
            fields.insert("invoice".to_owned(), Value::Null);
        }
        Some("subscription") => age_subscription(fields),
        Some("subscription_item") => {
            fields.remove("current_period_start");
            fields.remove("current_period_end");
        }
        Some("invoice") => age_invoice(fields),
        Some("line_item") => age_line(fields),
        _ => {}
    }
    if kind.is_some() {
        fields.retain(|key, _| !NEWER.contains(&key.as_str()));
    }
    fields.values_mut().for_each(age);
}

/// Items knew no periods; a single item's quantity was the subscription's too.
fn age_subscription(fields: &mut Map<String, Value>) {
    let items = fields.get("items").map(|items| items["data"].clone()).unwrap_or_default();
    for boundary in ["current_period_start", "current_period_end"] {
        fields.insert(boundary.to_owned(), items[0][boundary].clone());
    }
    if items.as_array().is_some_and(|items| items.len() == 1) {
        fields.insert("quantity".to_owned(), items[0]["quantity"].clone());
    }
}

fn age_invoice(fields: &mut Map<String, Value>) {
    let details =
        fields.remove("parent").map(|parent| parent["subscription_details"].clone()).unwrap_or_default();
    let paid = fields.get("status").is_some_and(|status| status == "paid");
    fields.insert("subscription".to_owned(), details["subscription"].clone());
    fields.insert("subscription_details".to_owned(), json!({"metadata": details["metadata"]}));
    fields.insert("paid".to_owned(), json!(paid));
    fields.insert("paid_out_of_band".to_owned(), json!(false));
}

/// Prorations were items of the invoice, not of the subscription.
fn age_line(fields: &mut Map<String, Value>) {
    let parent = fields.remove("parent").unwrap_or_default();
    let pricing = fields.remove("pricing").unwrap_or_default();
    let item = &parent["subscription_item_details"];
    let proration = item["proration"] == true;
    let kind = if item.is_object() && !proration { "subscription" } else { "invoiceitem" };
    let price = &pricing["price_details"];
    fields.insert("type".to_owned(), json!(kind));
    fields.insert("proration".to_owned(), json!(proration));
    fields.insert("subscription_item".to_owned(), item["subscription_item"].clone());
    fields.insert(
        "price".to_owned(),
        json!({"id": price["price"], "object": "price", "product": price["product"]}),
    );
}
