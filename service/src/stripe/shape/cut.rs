//! A Stripe object without its buyer: what decisions read of it, and no more.

use serde_json::Value;

/// The keys that this module's neighbours read, whatever object they are in; but for those that tell of the buyer.
const READ: &[&str] = &[
    "attempt_count",
    "cancel_at",
    "cancel_at_period_end",
    "cancellation_details",
    "charge",
    "charges",
    "created",
    "current_period_end",
    "current_period_start",
    "customer",
    "data",
    "divide_by",
    "end",
    "has_more",
    "id",
    "invoice",
    "items",
    "latest_charge",
    "latest_invoice",
    "line_items",
    "lines",
    "livemode",
    "lookup_key",
    "metadata",
    "mode",
    "object",
    "paid",
    "parent",
    "payment",
    "payment_intent",
    "payment_status",
    "payments",
    "period",
    "price",
    "product",
    "proration",
    "quantity",
    "reason",
    "recurring",
    "round",
    "status",
    "subscription",
    "subscription_details",
    "subscription_item_details",
    "transform_quantity",
    "trial_end",
    "type",
];

/// Cuts an object to what decisions read. What `personal` says of texts goes too, also where a seller keeps them.
pub(crate) fn cut(object: &mut Value, personal: &dyn Fn(&str) -> bool) {
    match object {
        Value::Object(fields) => {
            fields.retain(|key, value| match value {
                _ if !READ.contains(&key.as_str()) => false,
                Value::Object(own) if key == "metadata" => {
                    own.retain(|_, value| !value.as_str().is_some_and(personal));
                    true
                }
                Value::String(text) => !personal(text),
                _ => true,
            });
            let deeper = fields.iter_mut().filter(|(key, _)| *key != "metadata");
            deeper.for_each(|(_, value)| cut(value, personal));
        }
        Value::Array(all) => all.iter_mut().for_each(|value| cut(value, personal)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::cut;
    use crate::stripe::fake::{Purchase, Rendering, World};
    use crate::stripe::{Mode, shape};

    #[test]
    fn what_is_cut_away_changes_no_decision_and_holds_the_buyer() {
        let world = World::new(Mode::Test, 7);
        let purchase = Purchase::of("price_pro")
            .metadata("authforge_app_id", "app")
            .metadata("contact", "Jane@Example.com")
            .by("jane@example.com");
        let at = "2026-01-02T03:04:05Z".parse().expect("a time");
        let personal = |text: &str| text.to_lowercase().contains("jane@example.com");
        let mut seen = 0;
        for event in world.buy(purchase, at).events {
            for rendering in [Rendering::PreBasil, Rendering::Endive] {
                let event: Value = serde_json::from_slice(&event.body(rendering)).expect("JSON");
                let whole = &event["data"]["object"];
                let Ok(mut expected) = shape::session(whole) else { continue };
                let mut rest = whole.clone();
                cut(&mut rest, &personal);
                expected.email = None;
                expected.metadata.remove("contact");
                assert_eq!(shape::session(&rest).expect("a session"), expected);
                assert_eq!(shape::links(&rest), shape::links(whole));
                assert!(!personal(&rest.to_string()), "{rest}");
                seen += 1;
            }
        }
        assert!(seen > 0);
    }
}
