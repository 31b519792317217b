//! The record: events, snapshots, decisions, attempts, keys, deliveries.
//!
//! [`Store`] is the contract that every engine passes (`tests/store_contract.rs`). [`open`] chooses the engine by URL.
//!
//! # What a caller may rely on
//! - A write that returned `Ok` survives the loss of power that follows it. Writes that wait together share one commit.
//! - One method is one transaction: after a crash all of it is there, or nothing.
//! - [`Error::Unavailable`] means that nothing was written and the same call may go better later: disk full, file locked.
//! - Everything is found again by time and id alone. There are no queues in memory: what is due is a row with a time.

mod delivery;
mod event;
mod grant;
mod hand;
mod portal;
mod sqlite;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use grantsmith_authforge::LabelCache;
use grantsmith_core::license::LicenseKey;
use grantsmith_core::port::{AttemptLog, Clock};
use grantsmith_core::purchase::{Email, PurchaseId, StripeId};
use grantsmith_core::{GrantId, Reason};
use jiff::Timestamp;

pub use delivery::{Attempted, Delivery, DeliveryKind, DeliveryState};
pub use event::{
    Dirty, Event, EventFilter, EventState, NewEvent, Object, ObjectKind, Recorded, Snapshot, Source, Ticket,
};
pub use grant::{
    Attachment, Decision, Declaration, DevicesReset, GrantFilter, GrantLicense, GrantRow, GrantState,
    JournalEntry, Progress, PurchaseRecord, Resource, Seen, Shown, Sighting,
};
pub use hand::{Act, Ask, Decide, HandRow, Import, Promise, Redecided, Refusal, Request, SoldLicense, Taken};
pub use portal::{BuyerResend, Limited, Opens, TokenHash, Wish};

/// The first start on a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FirstStart {
    /// When.
    pub at: Timestamp,
    /// In live mode.
    pub livemode: bool,
}

/// Why the record could not be read or written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Not now: nothing was written.
    #[error("the record cannot be had now: {0}")]
    Unavailable(String),
    /// Another process has the record open.
    #[error(
        "'{0}' is in use by another process; stop it, or give this one a record of its own with --database-url"
    )]
    InUse(PathBuf),
    /// The URL names no engine.
    #[error("{0}")]
    BadUrl(String),
    /// The record was written by a later version.
    #[error(
        "the record is of schema {found}, this program knows {known}; start the version that wrote it, or a later one"
    )]
    TooNew {
        /// What was found.
        found: u32,
        /// The newest that this program knows.
        known: u32,
    },
    /// Something is there that this program cannot have written.
    #[error("the record is damaged: {0}")]
    Damaged(String),
}

/// What a buyer was erased from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forgotten {
    /// Purchases.
    pub purchases: u64,
    /// Events whose bodies are gone.
    pub events: u64,
    /// Events that hold the address still, because nothing was made of them yet.
    pub waiting: u64,
}

/// The place after the last row of a page: newest first, so the next page is older.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// The last row's time.
    pub at: Timestamp,
    /// The last row's id.
    pub id: String,
}

/// Numbers for metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Objects waiting to be looked at.
    pub dirty: u64,
    /// Grants by state, and by reason where it is not the state's usual one.
    pub grants: Vec<(GrantState, Reason, u64)>,
    /// Mails waiting to be sent, without those planned for later.
    pub deliveries_due: u64,
    /// Mails waiting for a person.
    pub deliveries_parked: u64,
    /// Attempts whose outcome is unknown.
    pub open_attempts: u64,
}

/// How many of each kind of what is due are asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Most {
    /// Dirty objects.
    pub objects: u32,
    /// Grants.
    pub grants: u32,
    /// Mails.
    pub deliveries: u32,
    /// Wishes for a link.
    pub wishes: u32,
}

/// What is due, as of one commit.
#[derive(Debug, Clone, Default)]
pub struct Due {
    /// Dirty objects: sessions and subscriptions that belong to no purchase yet, then other sessions, then the rest, and of
    /// each the longest waiting first.
    pub objects: Vec<Dirty>,
    /// Grants, newest purchase first: who has just paid waits at the till.
    pub grants: Vec<GrantId>,
    /// Mails, the longest waiting first.
    pub deliveries: Vec<Delivery>,
    /// Wishes for a link, the longest waiting first.
    pub wishes: Vec<Wish>,
    /// The earliest time at which anything is due, also what is told here.
    pub earliest: Option<Timestamp>,
}

/// The record. See the [module](self) for what holds of every method.
#[async_trait]
pub trait Store: AttemptLog + LabelCache + std::fmt::Debug {
    /// Keeps an event, and marks what it signals as dirty. An id that is on record already changes nothing.
    async fn record_event(&self, event: NewEvent) -> Result<Recorded, Error>;

    /// Reads an event, with its body.
    async fn event(&self, id: &str) -> Result<Option<Event>, Error>;

    /// Lists events, newest received first, without bodies.
    async fn events(
        &self,
        filter: &EventFilter,
        after: Option<&Cursor>,
        limit: u32,
    ) -> Result<Vec<Event>, Error>;

    /// Takes an event as if it had just come: new verdict, object dirty. False if there is no such event.
    async fn replay_event(
        &self,
        id: &str,
        signal: Option<&Object>,
        state: EventState,
        reason: Option<Reason>,
        at: Timestamp,
    ) -> Result<bool, Error>;

    /// Forgets the bodies of events received before `before` that wait for nothing; says how many.
    ///
    /// An event about a payment that no purchase has claimed by then is let go as [`Reason::NotOurs`] first.
    async fn drop_bodies(&self, before: Timestamp) -> Result<u64, Error>;

    /// Marks an object dirty, to be looked at from `due` on. An earlier time on record stays.
    async fn mark_dirty(&self, object: &Object, due: Timestamp) -> Result<(), Error>;

    /// What is due: at most `most` of each kind.
    async fn due(&self, now: Timestamp, most: Most) -> Result<Due, Error>;

    /// Draws a ticket: greater than any before it, also after a restart.
    async fn ticket(&self) -> Result<Ticket, Error>;

    /// Puts off a look that failed. A mark made after `ticket` keeps its own time.
    async fn look_failed(
        &self,
        object: &Object,
        ticket: Ticket,
        due: Timestamp,
        reason: Reason,
        at: Timestamp,
    ) -> Result<(), Error>;

    /// Ends a look that can come to nothing: the object is gone, or needs what this installation lacks. Its events get
    /// the state and reason; a mark made after `ticket` stays.
    async fn look_ended(
        &self,
        object: &Object,
        ticket: Ticket,
        state: EventState,
        reason: Reason,
        detail: &str,
        at: Timestamp,
    ) -> Result<(), Error>;

    /// Reads what is on record about a purchase.
    async fn purchase(&self, purchase: &PurchaseId) -> Result<PurchaseRecord, Error>;

    /// The purchase that a Stripe object is linked to.
    async fn linked(&self, id: &StripeId) -> Result<Option<PurchaseId>, Error>;

    /// Writes a decision, with snapshot, links, terms, declared licenses, events, journal, and the dirty mark taken away
    /// unless it is newer than the ticket. False, and nothing written, if a later ticket's snapshot is there already.
    ///
    /// Orphans that the links join mark the purchase's session dirty, unless the look has taken in what was told of them.
    async fn decide(&self, decision: Decision) -> Result<bool, Error>;

    /// Whether one of these prices and products has sold a license.
    async fn sold(&self, ids: &[String]) -> Result<bool, Error>;

    /// Joins an object to a purchase that it is not the name of, with its snapshot, takes its dirty mark away unless it is
    /// newer than the ticket, and marks the purchase's own object. Its events wait for that one's look.
    async fn attach(&self, attachment: Attachment) -> Result<(), Error>;

    /// Takes what a person asks for, and decides the purchase anew by `decide`, all in one transaction. A look that began
    /// before it writes nothing and comes again, so that it takes in what the person decided.
    async fn take(&self, ask: Ask, decide: Decide) -> Result<Taken, Error>;

    /// Erases a buyer: the address in grants, notes and whatever Stripe has told, and the bodies of all events of their
    /// purchases. Keys, licenses and histories stay. What later looks and events tell of the buyer again is cut away by the
    /// decision that takes it in.
    ///
    /// Rewrites the record so that nothing is left in freed places either; writes wait for that. If it fails there, all is
    /// forgotten, and the same call rewrites once more.
    async fn forget(&self, address: &Email, person: &str, at: Timestamp) -> Result<Forgotten, Error>;

    /// Reads a grant.
    async fn grant(&self, id: &GrantId) -> Result<Option<GrantRow>, Error>;

    /// Lists grants, newest first.
    async fn grants(
        &self,
        filter: &GrantFilter,
        after: Option<&Cursor>,
        limit: u32,
    ) -> Result<Vec<GrantRow>, Error>;

    /// Grants that a text names: a purchase, a linked Stripe id, a customer, an address, a whole key, a fingerprint.
    async fn find_grants(&self, text: &str, limit: u32) -> Result<Vec<GrantRow>, Error>;

    /// Writes what a round of work came to, on a grant that was read when its `decided` was this.
    ///
    /// One that was decided anew since is left as it is, and is due: the round was about something that is over.
    async fn progress(&self, progress: Progress, decided: u64) -> Result<(), Error>;

    /// Takes in a grant that people declare in the cluster, as it is there now, but for the address of a buyer who was
    /// forgotten. One that this program decides itself is left alone.
    async fn take_in(&self, declaration: Declaration) -> Result<(), Error>;

    /// Keeps what the cluster and this record agree upon about a grant's override, and what this program is about to write
    /// there: whoever is asked later who wrote it must know, also after a crash.
    async fn agree(&self, grant: &GrantId, agreed: String) -> Result<(), Error>;

    /// Ends a grant that people have taken out of the cluster, where the object of this name was it.
    async fn let_go(&self, grant: &GrantId, object: &str, at: Timestamp) -> Result<(), Error>;

    /// Writes what became of a try to send.
    async fn attempted(&self, grant: &GrantId, number: u32, attempted: Attempted) -> Result<(), Error>;

    /// Asks for another sending, and gives its number. One that waits for a person gives way to it; a warning is tried again.
    async fn resend(&self, grant: &GrantId, cause: &str, at: Timestamp) -> Result<u32, Error>;

    /// Keeps a wish for a link to the portal, whether the address is known or not. Takes at most `most` in any hour from one
    /// address.
    async fn wish_for_link(&self, email: &Email, most: u32, at: Timestamp) -> Result<Limited, Error>;

    /// Puts a wish off, or ends it.
    async fn wish_tried(&self, number: i64, again: Option<Timestamp>) -> Result<(), Error>;

    /// Keeps a token for an address until it is spent or over.
    async fn issue_token(
        &self,
        token: TokenHash,
        opens: Opens,
        email: &Email,
        until: Timestamp,
    ) -> Result<(), Error>;

    /// Spends a token: tells, once and before its end, for which address it was issued, in lower case.
    async fn spend_token(
        &self,
        token: TokenHash,
        opens: Opens,
        now: Timestamp,
    ) -> Result<Option<Email>, Error>;

    /// Asks for another sending in the buyer's name. With another address, what was to be sent to the old one is dropped,
    /// and Stripe's address does not come back.
    async fn resend_for_buyer(&self, resend: BuyerResend) -> Result<Limited, Error>;

    /// Forgets the portal's wishes and tokens that are over.
    async fn tidy_portal(&self, now: Timestamp) -> Result<(), Error>;

    /// A grant's history, oldest first.
    async fn journal(&self, grant: &GrantId) -> Result<Vec<JournalEntry>, Error>;

    /// The grant that keeps a key.
    async fn grant_of_key(&self, key: &LicenseKey) -> Result<Option<GrantId>, Error>;

    /// Numbers for metrics.
    async fn counts(&self) -> Result<Counts, Error>;

    /// When and in which mode this record was first started on: these, if that is now.
    async fn first_start(&self, now: Timestamp, livemode: bool) -> Result<FirstStart, Error>;

    /// Makes all grants due that were held back while it was only observed; says how many.
    async fn resume(&self, now: Timestamp) -> Result<u64, Error>;

    /// Makes due what a wall clock that ran ahead has put off: whatever failed, or was told and not looked at yet, and would
    /// wait for longer than anything is put off; says how much.
    async fn clock_set_back(&self, now: Timestamp) -> Result<u64, Error>;

    /// Whether something can be written now: what `/readyz` asks.
    async fn check(&self) -> Result<(), Error>;

    /// How many writes shared the last commit: a hint of how many callers wait for each other, for those whose work can wait.
    fn crowd(&self) -> usize;
}

/// Opens the record that a URL names, and brings its schema up to date.
pub async fn open(url: &str, clock: Arc<dyn Clock>) -> Result<Arc<dyn Store>, Error> {
    Ok(Arc::new(sqlite::Sqlite::open(file_of(url)?, clock).await?))
}

/// The rows of one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableRows {
    /// The table.
    pub table: String,
    /// How many.
    pub rows: u64,
}

/// Copies the record to a new file for its owner alone, also while a server works on it, and reads the copy back.
///
/// All is in it that was committed before the call. `progress` is told percents now and then. Fails without leaving a file
/// if there is one of that name already, or the copy cannot be written or is not whole.
pub fn backup(url: &str, to: &Path, progress: &mut dyn FnMut(u8)) -> Result<Vec<TableRows>, Error> {
    sqlite::backup::run(&file_of(url)?, to, progress)
}

/// Whether the record is there. Fails if it cannot be used; another process may have it open.
pub fn inspect(url: &str) -> Result<bool, Error> {
    sqlite::inspect(&file_of(url)?)
}

fn file_of(url: &str) -> Result<PathBuf, Error> {
    let wrong = |text: &str| Err(Error::BadUrl(text.to_owned()));
    match url.strip_prefix("sqlite://") {
        Some("") => wrong("--database-url has no path; write sqlite://PATH"),
        Some(path) => Ok(PathBuf::from(path)),
        None if url.starts_with("postgres://") || url.starts_with("postgresql://") => {
            wrong("PostgreSQL is not there yet; use sqlite://PATH")
        }
        None => wrong("--database-url must be sqlite://PATH"),
    }
}
