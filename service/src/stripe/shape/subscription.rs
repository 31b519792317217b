//! Subscriptions and their invoices, before and after the great change of 2025 (Stripe, changelog, basil).

use grantsmith_core::purchase::{
    Cancellation, Email, InvoiceFact, InvoiceStatus, StripeId, SubscriptionItem, SubscriptionSnapshot,
    SubscriptionStatus,
};
use jiff::Timestamp;
use serde_json::Value;

use super::node::Node;
use super::{Error, metadata, read_line_item};

/// Reads a subscription (Stripe, subscriptions/object).
pub fn subscription(object: &Value) -> Result<SubscriptionSnapshot, Error> {
    let node = Node::root(object)?;
    node.expect_object("subscription")?;
    let list = node.get("items")?;
    let rows = list.as_ref().map_or(Ok(None), |list| list.list("data"))?.unwrap_or_default();
    let items: Vec<SubscriptionItem> = rows.iter().map(read_item).collect::<Result<_, _>>()?;
    let more = list.as_ref().map_or(Ok(None), |list| list.bool("has_more"))?;
    // Before basil the period was the subscription's; since then it is each item's.
    let starts: Vec<Option<Timestamp>> =
        rows.iter().map(|row| row.seconds("current_period_start")).collect::<Result<_, _>>()?;
    let period_start = node.seconds("current_period_start")?.or(starts.into_iter().flatten().max());
    let item_end = items.iter().filter_map(|item| item.period_end).max();
    let customer = node.get("customer")?;
    let email = match &customer {
        Some(customer) if customer.is_expanded() => customer.text("email")?.and_then(Email::new),
        _ => None,
    };
    Ok(SubscriptionSnapshot {
        id: node.own_id()?,
        status: subscription_status(node.text("status")?.unwrap_or_default()),
        created: node.seconds("created")?.ok_or_else(|| node.missing("created"))?,
        livemode: node.bool("livemode")?.ok_or_else(|| node.missing("livemode"))?,
        metadata: metadata(&node)?,
        email,
        customer: customer.map(|customer| customer.id()).transpose()?,
        items_complete: list.is_some() && more != Some(true),
        items,
        period_start,
        period_end: node.seconds("current_period_end")?.or(item_end),
        trial_end: node.seconds("trial_end")?,
        cancellation: cancellation(&node)?,
        latest_invoice: node.get("latest_invoice")?.map(|invoice| invoice.id()).transpose()?,
    })
}

/// Reads `subscription.status`.
pub fn subscription_status(word: &str) -> SubscriptionStatus {
    match word {
        "incomplete" => SubscriptionStatus::Incomplete,
        "incomplete_expired" => SubscriptionStatus::IncompleteExpired,
        "trialing" => SubscriptionStatus::Trialing,
        "active" => SubscriptionStatus::Active,
        "past_due" => SubscriptionStatus::PastDue,
        "unpaid" => SubscriptionStatus::Unpaid,
        "paused" => SubscriptionStatus::Paused,
        "canceled" => SubscriptionStatus::Canceled,
        _ => SubscriptionStatus::Other,
    }
}

fn read_item(node: &Node<'_>) -> Result<SubscriptionItem, Error> {
    Ok(SubscriptionItem { line: read_line_item(node)?, period_end: node.seconds("current_period_end")? })
}

fn cancellation(node: &Node<'_>) -> Result<Option<Cancellation>, Error> {
    let reason = match node.get("cancellation_details")? {
        Some(details) => details.text("reason")?,
        None => None,
    };
    let scheduled = node.bool("cancel_at_period_end")? == Some(true) || node.seconds("cancel_at")?.is_some();
    Ok(match reason {
        Some("payment_failed" | "payment_disputed") => Some(Cancellation::Unpaid),
        _ => scheduled.then_some(Cancellation::Scheduled),
    })
}

/// Reads what counts of an invoice (Stripe, invoices/object). Whether its payment has failed only events tell for sure: from
/// the object, an open one that was tried in vain counts as failing since `tried_at`.
pub fn invoice(object: &Value, tried_at: Option<Timestamp>) -> Result<InvoiceFact, Error> {
    let node = Node::root(object)?;
    node.expect_object("invoice")?;
    let status = match node.text("status")? {
        Some("draft") => InvoiceStatus::Draft,
        Some("open") => InvoiceStatus::Open,
        Some("uncollectible") => InvoiceStatus::Uncollectible,
        Some("void") => InvoiceStatus::Void,
        Some("paid") => InvoiceStatus::Paid,
        _ if node.bool("paid")? == Some(true) => InvoiceStatus::Paid,
        _ => InvoiceStatus::Other,
    };
    let tried = status == InvoiceStatus::Open && node.count("attempt_count")?.unwrap_or_default() > 0;
    Ok(InvoiceFact {
        id: node.own_id()?.to_string(),
        status,
        failed_since: tried_at.filter(|_| tried),
        pays_through: pays_through(&node)?,
    })
}

/// The latest end of a subscription line that is no proration.
fn pays_through(invoice: &Node<'_>) -> Result<Option<Timestamp>, Error> {
    let Some(lines) = invoice.get("lines")? else { return Ok(None) };
    let mut latest = None;
    for line in lines.list("data")?.unwrap_or_default() {
        if is_subscription_line(&line)?
            && let Some(period) = line.get("period")?
        {
            latest = latest.max(period.seconds("end")?);
        }
    }
    Ok(latest)
}

fn is_subscription_line(line: &Node<'_>) -> Result<bool, Error> {
    let details = match line.get("parent")? {
        Some(parent) => parent.get("subscription_item_details")?,
        None => None,
    };
    let new = match &details {
        Some(details) => details.bool("proration")? != Some(true),
        None => false,
    };
    let old = line.text("type")? == Some("subscription") && line.bool("proration")? != Some(true);
    Ok(new || old)
}

/// The subscription that an invoice is for, in both renderings; none for invoices of their own.
pub fn subscription_of_invoice(object: &Value) -> Option<StripeId> {
    let new = &object["parent"]["subscription_details"]["subscription"];
    [new, &object["subscription"]]
        .into_iter()
        .find_map(|value| StripeId::parse(value.as_str().or_else(|| value["id"].as_str())?).ok())
}
