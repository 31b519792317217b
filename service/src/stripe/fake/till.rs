//! `POST /v1/checkout/sessions` as Stripe takes it: what is not of its parameters, or does not fit, is refused.

use std::collections::BTreeMap;

use super::purchase::{Kind, Line, Purchase};
use super::world::World;

/// A form's fields, in their order.
pub(super) type Form = Vec<(String, String)>;

/// What Stripe finds wrong: its `code`, if it has one, and its `param`.
pub(super) struct Refused {
    pub(super) code: Option<&'static str>,
    pub(super) param: String,
}

/// The parameters besides metadata, of which there are many more at Stripe: those of the session and its lines.
const KNOWN: [&str; 10] = [
    "mode",
    "success_url",
    "cancel_url",
    "customer_email",
    "locale",
    "allow_promotion_codes",
    "automatic_tax[enabled]",
    "tax_id_collection[enabled]",
    "line_items[0][price]",
    "line_items[0][quantity]",
];

const LONGEST_METADATA: usize = 500;

/// Reads what is to be sold.
pub(super) fn read(form: &Form, world: &World) -> Result<Purchase, Refused> {
    let refused = |code, param: &str| Refused { code, param: param.to_owned() };
    let within = |outer: &str| -> BTreeMap<String, String> {
        let inner =
            |name: &str| Some(name.strip_prefix(outer)?.strip_prefix('[')?.strip_suffix(']')?.to_owned());
        form.iter().filter_map(|(name, value)| Some((inner(name)?, value.clone()))).collect()
    };
    let metadata = within("metadata");
    let (of_subscription, of_intent) =
        (within("subscription_data[metadata]"), within("payment_intent_data[metadata]"));
    for (name, value) in form {
        let meta = ["metadata[", "subscription_data[metadata][", "payment_intent_data[metadata]["]
            .iter()
            .any(|prefix| name.starts_with(prefix));
        if !meta && !KNOWN.contains(&name.as_str()) {
            return Err(refused(Some("parameter_unknown"), name));
        }
        if meta && value.len() > LONGEST_METADATA {
            return Err(refused(None, name));
        }
    }
    let get = |name: &str| form.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    let needed = |name: &str| get(name).ok_or_else(|| refused(Some("parameter_missing"), name));
    for name in ["success_url", "cancel_url"] {
        if !needed(name)?.starts_with("http") {
            return Err(refused(Some("url_invalid"), name));
        }
    }
    for name in ["allow_promotion_codes", "automatic_tax[enabled]", "tax_id_collection[enabled]"] {
        if get(name).is_some_and(|value| value != "true" && value != "false") {
            return Err(refused(None, name));
        }
    }
    let price = needed("line_items[0][price]")?;
    let stocked =
        world.stocked(price).ok_or_else(|| refused(Some("resource_missing"), "line_items[0][price]"))?;
    let quantity = needed("line_items[0][quantity]")?.parse().ok().filter(|quantity| *quantity > 0);
    let quantity =
        quantity.ok_or_else(|| refused(Some("parameter_invalid_integer"), "line_items[0][quantity]"))?;
    let kind = match needed("mode")? {
        "payment" if !of_subscription.is_empty() => return Err(refused(None, "subscription_data")),
        "subscription" if !of_intent.is_empty() => return Err(refused(None, "payment_intent_data")),
        "payment" if !stocked.recurring => Kind::Payment,
        "subscription" if stocked.recurring => Kind::Subscription,
        _ => return Err(refused(None, "mode")),
    };
    let mut purchase = Purchase::of(price).kind(kind);
    purchase.lines = vec![Line { quantity, ..stocked.line }];
    purchase.email = get("customer_email").map(str::to_owned);
    purchase.metadata = metadata;
    purchase.subscription_metadata = of_subscription;
    Ok(purchase)
}
