//! The portal: who can read an address's mail sees what was bought with it. And the keys sent elsewhere, from the success
//! page.
//!
//! Asking for a link only writes a wish down, so that the answer and its time are the same whether the address is known or
//! not; the worker answers by mail. A token is random, stored hashed, good for a while and for one use. There are no
//! cookies: what a page may do stands in the page, so no other site's form can do it.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use grantsmith_core::GrantId;
use grantsmith_core::purchase::Email;
use jiff::{SignedDuration, Timestamp};
use metrics::counter;
use rand::RngExt;
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::{Fulfillment, Page, page_of};
use crate::store::{self, BuyerResend, GrantFilter, GrantRow, Limited, Opens, TokenHash};
use crate::window::household;

/// How long a mailed link, and an action of an opened page, is good.
pub const TOKEN_FOR: SignedDuration = SignedDuration::from_mins(15);

/// Requests of one client, and the time in which they are counted.
pub(super) const REQUESTS: usize = 10;
pub(super) const REQUESTS_IN: Duration = Duration::from_secs(60);
/// Links to one address in any hour.
const LINKS: u32 = 3;
/// Sendings of one purchase's keys in any hour, besides the first.
const SENDINGS: u32 = 3;
/// Purchases that one page lists.
const MOST: u32 = 100;

/// A secret that opens something once: 256 random bits.
#[derive(Clone)]
pub struct Token(Zeroizing<String>);

impl Token {
    /// A new one.
    pub fn random() -> Self {
        Self(Zeroizing::new(BASE64URL_NOPAD.encode(&rand::rng().random::<[u8; 32]>())))
    }

    /// One that somebody has brought.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The secret itself.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What the record knows of it.
    pub fn hash(&self) -> TokenHash {
        TokenHash(Sha256::digest(self.0.as_bytes()).into())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Why a buyer's wish was not fulfilled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It was wished for too often.
    #[error("this was asked for too often; it can be had again in {} s", wait.as_secs())]
    TooMany {
        /// How long to wait.
        wait: Duration,
    },
    /// No mail can be sent to what was given.
    #[error("this is not an address that mail can be sent to")]
    BadAddress,
    /// No mail is sent at all.
    #[error("no mail server is configured; start the server with --smtp-url")]
    NoMailer,
    /// What was brought opens nothing: it was used, is too old, or never was.
    #[error("this opens nothing: it was used before, is too old, or never was")]
    Gone,
    /// Not now; the same again may go better.
    #[error("{0}")]
    Unavailable(String),
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// What an address has bought, as shown to whoever reads its mail.
#[derive(Debug, Clone)]
pub struct Portal {
    /// The address, in lower case.
    pub email: Email,
    /// The purchases, newest first.
    pub orders: Vec<Order>,
    /// Whether there are older ones.
    pub more: bool,
    /// What the page's next action spends.
    pub action: Token,
}

/// A purchase in the portal.
#[derive(Debug, Clone)]
pub struct Order {
    /// Its grant.
    pub grant: GrantId,
    /// Its id at Stripe.
    pub purchase: String,
    /// When it was paid, or first heard of.
    pub at: Timestamp,
    /// What there is to show.
    pub page: Page,
    /// Whether its keys can be sent again.
    pub can_resend: bool,
}

/// What became of the wish for another mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resent {
    /// It is about to be sent.
    Sent,
    /// It was sent several times lately.
    TooOften,
    /// Not every key is there, or none is valid any more.
    NotNow,
}

impl Fulfillment {
    /// Has a link mailed to an address, if anything was bought with it: which the answer does not tell.
    pub async fn request_portal_link(&self, email: &str, client: IpAddr) -> Result<(), Error> {
        let done = self.wish_for_link(email, client).await;
        count("link", done.as_ref().err());
        done
    }

    async fn wish_for_link(&self, email: &str, client: IpAddr) -> Result<(), Error> {
        self.admit(client)?;
        let email = self.mailable(email)?;
        let taken = self.store.wish_for_link(&email, LINKS, self.now()).await?;
        self.taken(taken)?;
        self.wake.notify_one();
        Ok(())
    }

    /// Spends a mailed link and shows what its address has bought.
    pub async fn open_portal(&self, link: &Token, client: IpAddr) -> Result<Portal, Error> {
        let opened = self.open(link, client).await;
        count("open", opened.as_ref().err());
        opened
    }

    async fn open(&self, link: &Token, client: IpAddr) -> Result<Portal, Error> {
        self.admit(client)?;
        let email = self.store.spend_token(link.hash(), Opens::Portal, self.now()).await?;
        self.portal(email.ok_or(Error::Gone)?).await
    }

    /// Sends one purchase's keys again from the opened portal, and shows it once more.
    pub async fn resend_portal_key(
        &self,
        action: &Token,
        grant: &GrantId,
        client: IpAddr,
    ) -> Result<(Resent, Portal), Error> {
        let resent = self.act(action, grant, client).await;
        count("resend", resent.as_ref().err());
        resent
    }

    async fn act(&self, action: &Token, grant: &GrantId, client: IpAddr) -> Result<(Resent, Portal), Error> {
        self.admit(client)?;
        let email = self.store.spend_token(action.hash(), Opens::Action, self.now()).await?;
        let email = email.ok_or(Error::Gone)?;
        let theirs = |row: &GrantRow| {
            row.email.as_ref().is_some_and(|of| of.expose().to_lowercase() == email.expose())
                && self.can_resend(row)
        };
        let row = match self.store.grant(grant).await? {
            Some(row) => Some(self.unlock(row).await?),
            None => None,
        };
        let resent = match row.filter(theirs) {
            None => Resent::NotNow,
            Some(row) => match self.resend_for_buyer(row.id, None).await? {
                Limited::Taken => Resent::Sent,
                Limited::TooMany { .. } => Resent::TooOften,
            },
        };
        Ok((resent, self.portal(email).await?))
    }

    /// Sends the keys of a session to another address, which its purchase has from now on.
    ///
    /// Only while the success page shows them: whoever can do this has seen the keys.
    pub async fn correct_email(&self, session: &str, email: &str, client: IpAddr) -> Result<(), Error> {
        let done = self.readdress(session, email, client).await;
        count("readdress", done.as_ref().err());
        done
    }

    async fn readdress(&self, session: &str, email: &str, client: IpAddr) -> Result<(), Error> {
        self.admit(client)?;
        let email = self.mailable(email)?;
        let purchase = self.purchase_of(session).await?.ok_or(Error::Gone)?;
        let row = match self.store.grant(&GrantId::of(&purchase)).await? {
            Some(row) => Some(self.unlock(row).await?),
            None => None,
        };
        let row = row.filter(|row| !self.is_over(row) && self.can_resend(row)).ok_or(Error::Gone)?;
        let taken = self.resend_for_buyer(row.id, Some(email)).await?;
        self.taken(taken)
    }

    async fn resend_for_buyer(&self, grant: GrantId, email: Option<Email>) -> Result<Limited, Error> {
        let cause = if email.is_some() { "buyer: another address" } else { "buyer: resend" };
        let resend = BuyerResend { grant, email, most: SENDINGS, cause, at: self.now() };
        let taken = self.store.resend_for_buyer(resend).await?;
        self.wake.notify_one();
        Ok(taken)
    }

    async fn portal(&self, email: Email) -> Result<Portal, Error> {
        let filter = GrantFilter { email: Some(email.expose().to_owned()), ..GrantFilter::default() };
        let mut rows = self.store.grants(&filter, None, MOST + 1).await?;
        let more = rows.len() > MOST as usize;
        rows.truncate(MOST as usize);
        let mut orders: Vec<Order> = Vec::new();
        for row in rows {
            orders.extend(self.order(&self.unlock(row).await?));
        }
        orders.sort_by_key(|order| std::cmp::Reverse(order.at));
        let action = Token::random();
        let until = self.now() + TOKEN_FOR;
        self.store.issue_token(action.hash(), Opens::Action, &email, until).await?;
        Ok(Portal { email, orders, more, action })
    }

    fn order(&self, row: &GrantRow) -> Option<Order> {
        let page = match page_of(row) {
            Page::NotFound => return None,
            page @ (Page::Pending | Page::PaymentPending | Page::Ready { .. } | Page::Ended) => page,
        };
        Some(Order {
            grant: row.id.clone(),
            purchase: row.purchase.as_str().to_owned(),
            at: row.paid_at.unwrap_or(row.created),
            page,
            can_resend: self.can_resend(row),
        })
    }

    /// Whether every key is there and live: a letter has all of them or is not sent.
    fn can_resend(&self, row: &GrantRow) -> bool {
        let whole = match page_of(row) {
            Page::Ready { licenses, .. } => licenses.len() == row.licenses.len(),
            Page::NotFound | Page::Pending | Page::PaymentPending | Page::Ended => false,
        };
        whole && self.mail_enabled
    }

    fn admit(&self, client: IpAddr) -> Result<(), Error> {
        let admitted = self.clients.visit(household(client), Instant::now());
        admitted.map_err(|wait| Error::TooMany { wait })
    }

    fn taken(&self, limited: Limited) -> Result<(), Error> {
        match limited {
            Limited::Taken => Ok(()),
            Limited::TooMany { free_at } => {
                let wait = free_at.duration_since(self.now()).max(SignedDuration::ZERO);
                Err(Error::TooMany { wait: wait.unsigned_abs() })
            }
        }
    }

    /// An address that mail can be sent to, if mail is sent at all.
    fn mailable(&self, text: &str) -> Result<Email, Error> {
        if !self.mail_enabled {
            return Err(Error::NoMailer);
        }
        let sound = |email: &Email| email.expose().parse::<lettre::Address>().is_ok();
        Email::new(text).filter(sound).ok_or(Error::BadAddress)
    }
}

fn count(call: &'static str, error: Option<&Error>) {
    let outcome = match error {
        None => "done",
        Some(Error::TooMany { .. }) => "too_many",
        Some(Error::BadAddress) => "bad_address",
        Some(Error::NoMailer) => "no_mailer",
        Some(Error::Gone) => "gone",
        Some(Error::Unavailable(_)) => "unavailable",
    };
    counter!("grantsmith_portal_requests_total", "call" => call, "outcome" => outcome).increment(1);
    tracing::debug!(call, outcome, "portal");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_long_random_and_never_shown_by_accident() {
        let (one, other) = (Token::random(), Token::random());
        assert_eq!(one.expose().len(), 43, "256 bits");
        assert_ne!(one.hash(), other.hash());
        assert_eq!(format!("{one:?}"), "Token(..)");
        assert_eq!(Token::new(one.expose()).hash(), one.hash());
    }
}
