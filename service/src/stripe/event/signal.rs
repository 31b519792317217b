//! What an event's type asks us to look at (Stripe, events/types).

/// What an event asks us to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Signal {
    /// The Checkout session it names.
    Session(SessionEvent),
    /// The subscription it names.
    Subscription,
    /// The subscription that the invoice it names is for.
    Invoice,
    /// The Checkout session behind the payment or charge it names.
    Payment(PaymentEvent),
    /// It concerns purchases, but in a way that is for a later version: kept, so that it can be replayed.
    NotYetHandled,
    /// Nothing of ours.
    Unknown,
}

/// The events of a Checkout session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SessionEvent {
    /// The buyer finished; the money may still be on its way.
    Completed,
    /// The money of a delayed payment method came.
    AsyncPaymentSucceeded,
    /// The money of a delayed payment method will not come.
    AsyncPaymentFailed,
    /// Nobody bought.
    Expired,
}

/// The events of payments and charges that may change what is known of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PaymentEvent {
    /// The money is captured.
    IntentSucceeded,
    /// The payment was given up, as when an authorization is not captured.
    IntentCanceled,
    /// An attempt failed.
    IntentPaymentFailed,
    /// A charge went through; with manual capture, no money yet.
    ChargeSucceeded,
    /// An authorized charge was captured.
    ChargeCaptured,
}

/// Sorts a type, given without the `v1.` of thin events.
pub fn signal_of(event_type: &str) -> Signal {
    match event_type {
        "checkout.session.completed" => Signal::Session(SessionEvent::Completed),
        "checkout.session.async_payment_succeeded" => Signal::Session(SessionEvent::AsyncPaymentSucceeded),
        "checkout.session.async_payment_failed" => Signal::Session(SessionEvent::AsyncPaymentFailed),
        "checkout.session.expired" => Signal::Session(SessionEvent::Expired),
        "payment_intent.succeeded" => Signal::Payment(PaymentEvent::IntentSucceeded),
        "payment_intent.canceled" => Signal::Payment(PaymentEvent::IntentCanceled),
        "payment_intent.payment_failed" => Signal::Payment(PaymentEvent::IntentPaymentFailed),
        "charge.succeeded" => Signal::Payment(PaymentEvent::ChargeSucceeded),
        "charge.captured" => Signal::Payment(PaymentEvent::ChargeCaptured),
        other if DRAFTS.contains(&other) => Signal::Unknown,
        other if other.starts_with("customer.subscription.") => Signal::Subscription,
        other if other.starts_with("invoice.") => Signal::Invoice,
        other if is_for_later(other) => Signal::NotYetHandled,
        _ => Signal::Unknown,
    }
}

/// Whole families, because Stripe adds members to them every month, and each may take back or prolong a license.
fn is_for_later(event_type: &str) -> bool {
    const FAMILIES: [&str; 3] = ["invoice_payment.", "refund.", "charge.dispute."];
    const SINGLE: [&str; 6] = [
        "charge.refunded",
        "charge.refund.updated",
        "customer.updated",
        "customer.deleted",
        "entitlements.active_entitlement_summary.updated",
        "radar.early_fraud_warning.created",
    ];
    SINGLE.contains(&event_type) || FAMILIES.iter().any(|family| event_type.starts_with(family))
}

/// Drafts and forecasts: nothing is sold or paid by them.
const DRAFTS: [&str; 4] = ["invoice.created", "invoice.updated", "invoice.upcoming", "invoice.deleted"];
