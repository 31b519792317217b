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
    /// Sold once, even with a subscription: it is in the session and the first invoice, and no item of the subscription.
    pub one_time: bool,
    /// `price.lookup_key`
    pub lookup_key: Option<String>,
    /// `prod_…`; one for all unless told.
    pub product: Option<String>,
}

impl Line {
    /// One piece of a price.
    pub fn of(price: &str) -> Self {
        let price = price.to_owned();
        Self { price, quantity: 1, transform: None, one_time: false, lookup_key: None, product: None }
    }

    pub(super) fn units(&self) -> u64 {
        LineItem { price: None, quantity: self.quantity, transform: self.transform }.units()
    }
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
    /// The seller's metadata, on the session.
    pub metadata: BTreeMap<String, String>,
    /// The seller's metadata on the subscription. Stripe copies none from the session.
    pub subscription_metadata: BTreeMap<String, String>,
    /// A subscription begins with so many free days.
    pub trial_days: Option<u32>,
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
            subscription_metadata: BTreeMap::new(),
            trial_days: None,
            lines: vec![Line::of(price)],
        }
    }

    /// With a pair of metadata more.
    #[must_use]
    pub fn metadata(mut self, key: &str, value: &str) -> Self {
        self.metadata.insert(key.to_owned(), value.to_owned());
        self
    }

    /// With a pair of metadata more on its subscription.
    #[must_use]
    pub fn subscription_metadata(mut self, key: &str, value: &str) -> Self {
        self.subscription_metadata.insert(key.to_owned(), value.to_owned());
        self
    }

    /// A subscription whose first days are free.
    #[must_use]
    pub fn trial(mut self, days: u32) -> Self {
        self.trial_days = Some(days);
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
    pub fn times(self, quantity: u64) -> Self {
        self.last(|line| line.quantity = quantity)
    }

    /// With the last line sold in packages.
    #[must_use]
    pub fn packed(self, divide_by: u64, round_up: bool) -> Self {
        self.last(|line| line.transform = Some(Transform { divide_by, round_up }))
    }

    /// With the last line sold once, beside a subscription.
    #[must_use]
    pub fn one_time(self) -> Self {
        self.last(|line| line.one_time = true)
    }

    /// With a lookup key at the price of the last line.
    #[must_use]
    pub fn lookup_key(self, key: &str) -> Self {
        self.last(|line| line.lookup_key = Some(key.to_owned()))
    }

    /// With the last line's price of that product.
    #[must_use]
    pub fn product(self, product: &str) -> Self {
        self.last(|line| line.product = Some(product.to_owned()))
    }

    fn last(mut self, change: impl FnOnce(&mut Line)) -> Self {
        if let Some(line) = self.lines.last_mut() {
            change(line);
        }
        self
    }

    /// With a line more.
    #[must_use]
    pub fn and(mut self, price: &str) -> Self {
        self.lines.push(Line::of(price));
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
        self.lines.iter().map(Line::units).sum()
    }

    pub(super) fn recurs(&self, line: &Line) -> bool {
        self.kind == Kind::Subscription && !line.one_time
    }

    /// Whether money is due at once.
    pub(super) fn is_free(&self) -> bool {
        let in_trial = |line: &Line| self.trial_days.is_some() && self.recurs(line);
        self.payment == PaymentPlan::Free || self.lines.iter().all(in_trial)
    }
}
