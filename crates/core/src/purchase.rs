//! What Stripe has told us: which purchase, and the snapshots of its objects.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;

use crate::manual::ManualId;

/// What makes one purchase one purchase, and so the idempotency key of everything.
///
/// Never an event id (one purchase has several) and never customer and product (a second purchase is a second purchase).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PurchaseId {
    /// A Checkout session in payment mode, `cs_…`.
    Session(StripeId),
    /// A subscription, however it was bought, `sub_…`.
    Subscription(StripeId),
    /// No purchase at Stripe: a person's grant, `<installation>/<reference>`.
    Manual(ManualId),
}

impl PurchaseId {
    /// Reads a purchase from the Stripe id that names it, or from a person's `<installation>/<reference>`.
    pub fn parse(id: &str) -> Result<Self, InvalidId> {
        if id.contains('/') {
            return ManualId::parse(id).map(Self::Manual).map_err(|_| InvalidId);
        }
        let id = StripeId::parse(id)?;
        match id.prefix() {
            "cs" => Ok(Self::Session(id)),
            "sub" => Ok(Self::Subscription(id)),
            _ => Err(InvalidId),
        }
    }

    /// The Stripe id that names the purchase, or `<installation>/<reference>`.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Session(id) | Self::Subscription(id) => id.as_str(),
            Self::Manual(id) => id.as_str(),
        }
    }
}

impl PurchaseId {
    /// The id of the Stripe object that names the purchase; none for a person's grant.
    pub fn stripe_id(&self) -> Option<&StripeId> {
        match self {
            Self::Session(id) | Self::Subscription(id) => Some(id),
            Self::Manual(_) => None,
        }
    }
}

impl fmt::Display for PurchaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The id of a Stripe object, such as `cs_test_a1b2`: a prefix, `_`, and letters, digits and `_`, 96 characters at most.
///
/// The bound leaves room for the words of a label, which AuthForge cuts at 128 characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StripeId(String);

/// A text that is no Stripe id of the expected kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a Stripe id: expected a prefix such as 'cs_' and up to 96 letters, digits and underscores")]
pub struct InvalidId;

impl StripeId {
    /// The longest id accepted.
    pub const LONGEST: usize = 96;

    /// Reads an id.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        let (prefix, rest) = text.split_once('_').ok_or(InvalidId)?;
        if !plain || prefix.is_empty() || rest.is_empty() || text.len() > Self::LONGEST {
            return Err(InvalidId);
        }
        Ok(Self(text.to_owned()))
    }

    /// The id as Stripe writes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands before the first `_`, which tells the kind of object.
    pub fn prefix(&self) -> &str {
        self.0.split_once('_').map_or("", |(prefix, _)| prefix)
    }
}

impl fmt::Display for StripeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A buyer's address. Its `Debug` shows nothing, and it has no `Display`, because an address must reach no log.
#[derive(Clone, PartialEq, Eq)]
pub struct Email(String);

impl Email {
    /// Takes an address as Stripe or a person gave it, trimmed; `None` when nothing is left.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty()).then(|| Self(text.to_owned()))
    }

    /// The address itself.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The address as a page may show it to somebody who may not be its owner: `j•••@e•••.com`.
    pub fn masked(&self) -> String {
        fn head(text: &str) -> String {
            text.chars().take(1).chain("•••".chars()).collect()
        }
        match self.0.rsplit_once('@') {
            Some((local, domain)) => {
                let top = domain.rsplit_once('.').map_or(String::new(), |(_, top)| format!(".{top}"));
                format!("{}@{}{top}", head(local), head(domain))
            }
            None => head(&self.0),
        }
    }
}

impl fmt::Debug for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Email(..)")
    }
}

/// A Checkout session as last seen (Stripe, Checkout sessions).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionSnapshot {
    /// `cs_…`
    pub id: StripeId,
    /// What the session sells.
    pub mode: SessionMode,
    /// The subscription that came of it.
    pub subscription: Option<StripeId>,
    /// Whether the buyer has gone through it.
    pub status: SessionStatus,
    /// Whether money has come.
    pub payment_status: PaymentStatus,
    /// When the session was made.
    pub created: Timestamp,
    /// Stripe's live mode, as opposed to test mode.
    pub livemode: bool,
    /// The seller's metadata.
    pub metadata: BTreeMap<String, String>,
    /// The buyer's address, by the order of Stripe's fields: `customer_details.email`, then `customer_email`.
    pub email: Option<Email>,
    /// The payment behind it.
    pub payment: Payment,
    /// What was bought; `None` where it was not told: events carry no line items.
    pub line_items: Option<Vec<LineItem>>,
    /// An event said that a delayed payment failed. Only events tell; the session itself stays `unpaid`.
    pub async_payment_failed: bool,
}

impl SessionSnapshot {
    /// How final the snapshot is: 2 when money came, 1 when it never will, else 0.
    ///
    /// A session only ever moves up, so of two that events told, the higher is the newer whatever their times say.
    pub fn finality(&self) -> u8 {
        let complete = self.status == SessionStatus::Complete;
        match self.payment_status {
            PaymentStatus::Paid | PaymentStatus::NoPaymentRequired if complete => 2,
            _ if self.async_payment_failed || self.status == SessionStatus::Expired => 1,
            _ => 0,
        }
    }
}

/// A session as an event told it, for installations that have no Stripe API key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToldSession {
    /// What the event's body showed.
    pub session: SessionSnapshot,
    /// The event's `created`, in whole seconds.
    pub event_at: Timestamp,
    /// The event's id, which breaks the last tie the same way in every order.
    pub event_id: String,
}

impl ToldSession {
    /// Which of two tellings of one session to believe, whichever came first: the greater.
    ///
    /// The order is total, so any order and any repetition of the events ends the same. Within one second the telling that
    /// does not end the purchase wins.
    pub fn precedence(&self, other: &Self) -> Ordering {
        let rank = |told: &Self| (told.session.finality(), told.event_at);
        rank(self).cmp(&rank(other)).then_with(|| self.event_id.cmp(&other.event_id))
    }
}

/// `session.mode`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionMode {
    /// One-time prices.
    Payment,
    /// At least one recurring price.
    Subscription,
    /// No purchase at all.
    Setup,
    /// A value newer than this program.
    Other,
}

/// `session.status`. Complete does not mean paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionStatus {
    /// The buyer is still at it.
    Open,
    /// The buyer has finished.
    Complete,
    /// Nobody bought.
    Expired,
    /// A value newer than this program.
    Other,
}

/// `session.payment_status`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PaymentStatus {
    /// Funds are available.
    Paid,
    /// Not yet: a delayed payment method.
    Unpaid,
    /// Nothing is due: a full discount, or payment in the future.
    NoPaymentRequired,
    /// A value newer than this program, which entitles to nothing.
    Other,
}

/// The PaymentIntent behind a session, as far as it was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payment {
    /// The session has none, as with a full discount.
    None,
    /// Only its id was told, as in events.
    Untold(StripeId),
    /// It was read.
    Told {
        /// `pi_…`
        id: StripeId,
        /// Its state.
        status: PaymentIntentStatus,
        /// When the money came: the latest charge's `created`.
        paid_at: Option<Timestamp>,
    },
}

/// `payment_intent.status`, as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PaymentIntentStatus {
    /// The money is captured.
    Succeeded,
    /// Authorized, not captured: no money yet.
    RequiresCapture,
    /// The payment method is at work.
    Processing,
    /// A payment was tried and failed, or none was tried.
    RequiresPaymentMethod,
    /// Given up.
    Canceled,
    /// Another state, or a value newer than this program: no money.
    Other,
}

/// A price, by all that a catalog may name it by (Stripe, prices/object).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Price {
    /// `price_…`
    pub id: String,
    /// The seller's own name for it, which may move to another price later.
    pub lookup_key: Option<String>,
    /// `prod_…`
    pub product: Option<String>,
    /// Whether it is charged again and again.
    pub recurring: bool,
}

/// One line of what was bought (Stripe, session line items, subscription items).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineItem {
    /// The price.
    pub price: Option<Price>,
    /// As the buyer left it, after adjustable quantities.
    pub quantity: u64,
    /// `price.transform_quantity`: several make one unit.
    pub transform: Option<Transform>,
}

/// `price.transform_quantity`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transform {
    /// How many make one unit.
    pub divide_by: u64,
    /// Round a rest up; otherwise down.
    pub round_up: bool,
}

impl LineItem {
    /// How many units the line sells, as Stripe charges for them.
    pub fn units(&self) -> u64 {
        match self.transform {
            Some(Transform { divide_by, round_up }) if divide_by > 0 => {
                if round_up {
                    self.quantity.div_ceil(divide_by)
                } else {
                    self.quantity / divide_by
                }
            }
            _ => self.quantity,
        }
    }
}

mod subscription;

pub use subscription::{
    Cancellation, InvoiceFact, InvoiceStatus, SubscriptionItem, SubscriptionSnapshot, SubscriptionStatus,
    ToldSubscription,
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purchases_are_named_by_their_stripe_object() {
        assert!(matches!(PurchaseId::parse("cs_test_a1"), Ok(PurchaseId::Session(_))));
        assert!(matches!(PurchaseId::parse("sub_1"), Ok(PurchaseId::Subscription(_))));
        for bad in ["", "cs_", "_x", "cs_a b", "cs_a\n", "pi_1", "évt_1", &format!("cs_{}", "a".repeat(94))]
        {
            assert_eq!(PurchaseId::parse(bad), Err(InvalidId), "{bad:?}");
        }
    }

    #[test]
    fn packages_are_counted_as_stripe_charges_for_them() {
        let line = |quantity, divide_by, round_up| LineItem {
            price: None,
            quantity,
            transform: Some(Transform { divide_by, round_up }),
        };
        assert_eq!(line(25, 10, true).units(), 3);
        assert_eq!(line(25, 10, false).units(), 2);
        assert_eq!(line(25, 0, false).units(), 25);
    }

    #[test]
    fn masked_addresses_tell_no_more_than_their_owner_needs() {
        let masked = |text| Email::new(text).map(|email| email.masked());
        assert_eq!(masked(" jane@mail.example.com ").as_deref(), Some("j•••@m•••.com"));
        assert_eq!(masked("odd").as_deref(), Some("o•••"));
        assert_eq!(masked("  "), None);
        assert_eq!(format!("{:?}", Email::new("jane@example.com")), "Some(Email(..))");
    }
}
