//! The seller's catalog: which price, lookup key or product sells which license, and what may be bought.
//!
//! [`file`] is how it is written, with the place of each mistake; what is here can have none.

mod file;
mod words;

use std::path::{Path, PathBuf};

use grantsmith_core::purchase::Price;
use grantsmith_core::terms::{Duration, LicenseTerms};
use jiff::Timestamp;

pub use file::schema;

/// Plans that contradict each other nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalog {
    plans: Vec<Plan>,
    default: Option<String>,
}

/// What one entry of the catalog sells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Its name. Entries of one name follow each other in time.
    pub name: String,
    /// What it is sold by at Stripe.
    pub key: Key,
    /// What a unit of it is.
    pub terms: LicenseTerms,
    /// Since when it is sold so; none is since ever.
    pub from: Option<Timestamp>,
    /// How it is bought through `create-checkout`.
    pub checkout: Checkout,
}

/// What a plan is sold by at Stripe. The exact price outranks a name for it, and that the product.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// `price_…`
    Price(String),
    /// `price.lookup_key`
    LookupKey(String),
    /// `prod_…`: any price of the product.
    Product(String),
}

impl Key {
    fn names(&self, price: &Price) -> bool {
        match self {
            Self::Price(id) => price.id == *id,
            Self::LookupKey(key) => price.lookup_key.as_ref() == Some(key),
            Self::Product(id) => price.product.as_ref() == Some(id),
        }
    }

    const fn rank(&self) -> u8 {
        match self {
            Self::Price(_) => 0,
            Self::LookupKey(_) => 1,
            Self::Product(_) => 2,
        }
    }

    /// How the catalog calls it.
    const fn field(&self) -> &'static str {
        match self {
            Self::Price(_) => "price",
            Self::LookupKey(_) => "lookup_key",
            Self::Product(_) => "product",
        }
    }

    fn text(&self) -> &str {
        let (Self::Price(text) | Self::LookupKey(text) | Self::Product(text)) = self;
        text
    }
}

/// What of a Checkout session a plan decides (Stripe, Checkout sessions, create).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checkout {
    /// `automatic_tax.enabled`
    pub automatic_tax: bool,
    /// `allow_promotion_codes`
    pub allow_promotion_codes: bool,
    /// `tax_id_collection.enabled`
    pub tax_id_collection: bool,
    /// `locale`
    pub locale: Option<String>,
}

/// Why there is no such plan to buy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoPlan {
    /// None was named, and none is the default.
    #[error("name a plan: {0}")]
    Unnamed(String),
    /// None is called so, at this time.
    #[error("no plan is called that; there are: {0}")]
    Unknown(String),
}

/// Why a catalog cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read the catalog '{}'", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It says something that it cannot mean.
    #[error("{}:{mistake}", path.display())]
    Wrong {
        /// Which file.
        path: PathBuf,
        /// What, and where.
        mistake: Mistake,
    },
}

/// A mistake in a catalog.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{line}:{column}: {what}")]
pub struct Mistake {
    /// Counted from 1.
    pub line: u64,
    /// Counted from 1.
    pub column: u64,
    /// What is wrong, and where it helps what to write instead.
    pub what: String,
}

impl Catalog {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| Error::Unreadable { path: path.to_owned(), source })?;
        Self::parse(&text).map_err(|mistake| Error::Wrong { path: path.to_owned(), mistake })
    }

    /// Reads a text.
    pub fn parse(text: &str) -> Result<Self, Mistake> {
        file::parse(text)
    }

    /// What a price sold at a time: by its id, else its lookup key, else its product.
    pub fn terms(&self, price: &Price, at: Timestamp) -> Option<&LicenseTerms> {
        let naming = self.plans.iter().filter(|plan| plan.key.names(price));
        let first = naming.clone().filter(|plan| plan.is_sold(at)).map(|plan| plan.key.rank()).min()?;
        newest(naming.filter(|plan| plan.key.rank() == first), at).map(|plan| &plan.terms)
    }

    /// The plan of a name at a time, or the default one.
    pub fn plan(&self, name: Option<&str>, at: Timestamp) -> Result<&Plan, NoPlan> {
        let named = name.or(self.default.as_deref());
        let Some(named) = named else { return Err(NoPlan::Unnamed(self.names(at))) };
        let plans = self.plans.iter().filter(|plan| plan.name == named);
        newest(plans, at).ok_or_else(|| NoPlan::Unknown(self.names(at)))
    }

    /// All entries, in the order of the file.
    pub fn plans(&self) -> &[Plan] {
        &self.plans
    }

    fn names(&self, at: Timestamp) -> String {
        let mut names: Vec<&str> =
            self.plans.iter().filter(|plan| plan.is_sold(at)).map(|plan| plan.name.as_str()).collect();
        names.dedup();
        names.join(", ")
    }
}

impl Plan {
    /// Whether it is bought again and again.
    pub fn recurs(&self) -> bool {
        self.terms.duration == Duration::Subscription
    }

    fn is_sold(&self, at: Timestamp) -> bool {
        self.from.is_none_or(|from| from <= at)
    }
}

fn newest<'p>(plans: impl Iterator<Item = &'p Plan>, at: Timestamp) -> Option<&'p Plan> {
    plans.filter(|plan| plan.is_sold(at)).max_by_key(|plan| plan.from)
}

#[cfg(test)]
mod tests;
