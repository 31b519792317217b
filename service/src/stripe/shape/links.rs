//! Which other objects an object names, so that events about them find their way to the purchase.

use std::collections::BTreeSet;

use grantsmith_core::purchase::StripeId;
use serde_json::Value;

/// The kind of object at the other end of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LinkKind {
    /// `pi_…`
    PaymentIntent,
    /// `ch_…` or `py_…`
    Charge,
    /// `sub_…`
    Subscription,
    /// `in_…`
    Invoice,
    /// `cus_…`. A customer has many purchases: it finds addresses, never the purchase.
    Customer,
}

impl LinkKind {
    /// Stripe's word for it, the `object` of such an object.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PaymentIntent => "payment_intent",
            Self::Charge => "charge",
            Self::Subscription => "subscription",
            Self::Invoice => "invoice",
            Self::Customer => "customer",
        }
    }
}

/// The objects that a session, PaymentIntent or charge names, at any API version, each once and without itself.
///
/// Never fails: what it cannot read is no link, and a link that is missing is found later from the other side.
pub fn links(object: &Value) -> Vec<(LinkKind, StripeId)> {
    let mut found = BTreeSet::new();
    collect(object, &mut found);
    // The PaymentIntent of a session is an object with links of its own: its charges are the session's.
    collect(&object["payment_intent"], &mut found);
    let own = object["id"].as_str();
    found.into_iter().filter(|(_, id)| Some(id.as_str()) != own).collect()
}

fn collect(object: &Value, found: &mut BTreeSet<(LinkKind, StripeId)>) {
    const FIELDS: [(&str, LinkKind); 6] = [
        ("payment_intent", LinkKind::PaymentIntent),
        ("subscription", LinkKind::Subscription),
        ("invoice", LinkKind::Invoice),
        ("customer", LinkKind::Customer),
        ("latest_charge", LinkKind::Charge),
        ("charge", LinkKind::Charge),
    ];
    for (field, kind) in FIELDS {
        found.extend(id_of(&object[field]).map(|id| (kind, id)));
    }
    let charges = object["charges"]["data"].as_array().map_or(&[][..], Vec::as_slice);
    found.extend(charges.iter().filter_map(id_of).map(|id| (LinkKind::Charge, id)));
}

fn id_of(value: &Value) -> Option<StripeId> {
    StripeId::parse(value.as_str().or_else(|| value["id"].as_str())?).ok()
}
