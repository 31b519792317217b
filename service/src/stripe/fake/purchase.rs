//! What somebody buys in the fake world.

use std::collections::BTreeMap;

use grantsmith_core::purchase::{LineItem, Transform};

/// What a session sells (`session.mode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One-time prices.
    Payment,
    /// A subscription.
    Subscription,
    /// Nothing: a card is kept for later.
    Setup,
}

/// How the money comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PaymentPlan {
    /// At once.
    Paid,
    /// Days later, or never: [`super::Turn::Succeed`] or [`super::Turn::Fail`] decide.
    Delayed,
    /// Authorized only: [`super::Turn::Capture`] or [`super::Turn::Cancel`] decide.
    ManualCapture {
        /// The session says `paid` although the money is not captured, as some report; otherwise `unpaid`.
        says_paid: bool,
    },
    /// Nothing is due, as with a full discount.
    Free,
}

/// One line of a purchase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// `price_…`
    pub price: String,
    /// How many.
    pub quantity: u64,
    /// `price.transform_quantity`
    pub transform: Option<Transform>,
}

/// What somebody buys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purchase {
    /// What the session sells.
    pub kind: Kind,
    /// How the money comes.
    pub payment: PaymentPlan,
    /// The buyer's address.
    pub email: Option<String>,
    /// The seller's metadata.
    pub metadata: BTreeMap<String, String>,
    /// What is bought.
    pub lines: Vec<Line>,
}

impl Purchase {
    /// One piece of a price, paid at once by `buyer@example.com`.
    pub fn of(price: &str) -> Self {
        Self {
            kind: Kind::Payment,
            payment: PaymentPlan::Paid,
            email: Some("buyer@example.com".to_owned()),
            metadata: BTreeMap::new(),
            lines: vec![Line { price: price.to_owned(), quantity: 1, transform: None }],
        }
    }

    /// With a pair of metadata more.
    #[must_use]
    pub fn metadata(mut self, key: &str, value: &str) -> Self {
        self.metadata.insert(key.to_owned(), value.to_owned());
        self
    }

    /// By another buyer.
    #[must_use]
    pub fn by(mut self, email: &str) -> Self {
        self.email = Some(email.to_owned());
        self
    }

    /// Without an address.
    #[must_use]
    pub fn nameless(mut self) -> Self {
        self.email = None;
        self
    }

    /// That many of the last line.
    #[must_use]
    pub fn times(mut self, quantity: u64) -> Self {
        if let Some(line) = self.lines.last_mut() {
            line.quantity = quantity;
        }
        self
    }

    /// With the last line sold in packages.
    #[must_use]
    pub fn packed(mut self, divide_by: u64, round_up: bool) -> Self {
        if let Some(line) = self.lines.last_mut() {
            line.transform = Some(Transform { divide_by, round_up });
        }
        self
    }

    /// With a line more.
    #[must_use]
    pub fn and(mut self, price: &str) -> Self {
        self.lines.push(Line { price: price.to_owned(), quantity: 1, transform: None });
        self
    }

    /// Paid in another way.
    #[must_use]
    pub fn paying(mut self, payment: PaymentPlan) -> Self {
        self.payment = payment;
        self
    }

    /// As a session of another kind.
    #[must_use]
    pub fn kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// How many units it sells, once paid.
    pub fn units(&self) -> u64 {
        let units = |line: &Line| {
            LineItem { price: None, quantity: line.quantity, transform: line.transform }.units()
        };
        self.lines.iter().map(units).sum()
    }
}
