//! What buyers ask of the portal.

use grantsmith_core::GrantId;
use grantsmith_core::purchase::Email;
use jiff::Timestamp;

/// Whether something that may be had so many times an hour was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limited {
    /// It was.
    Taken,
    /// Not now, and nothing was written.
    TooMany {
        /// When the next one will be taken.
        free_at: Timestamp,
    },
}

/// Somebody's wish for a link to the portal, to be answered by mail.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Its name.
    pub number: i64,
    /// The address as a purchase has it; none if no purchase does, and then there is nobody to answer.
    ///
    /// A mail goes here and not to what was typed: two addresses can be one in lower case and belong to two people.
    pub email: Option<Email>,
    /// Tries so far.
    pub tries: u32,
}

/// What a token opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opens {
    /// The portal: it was mailed.
    Portal,
    /// One action: it stands on the opened page.
    Action,
}

/// A token as the record knows it: its SHA-256.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenHash(pub [u8; 32]);

/// Another sending that the buyer asks for.
#[derive(Debug, Clone)]
pub struct BuyerResend {
    /// The grant.
    pub grant: GrantId,
    /// The address to send to from now on, if it is another one.
    pub email: Option<Email>,
    /// How many sendings but the first there may be in any hour.
    pub most: u32,
    /// For the journal.
    pub cause: &'static str,
    /// The time.
    pub at: Timestamp,
}
