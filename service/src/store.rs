//! The record: events, snapshots, decisions, attempts, keys, deliveries.
//!
//! [`Store`] is the contract that every engine passes (`tests/store_contract.rs`). [`open`] chooses the engine by URL.
//!
//! # What a caller may rely on
//! - A write that returned `Ok` survives the loss of power that follows it. Writes that wait together share one commit.
//! - One method is one transaction: after a crash all of it is there, or nothing.
//! - [`Error::Unavailable`] means that nothing was written and the same call may go better later: disk full, file locked.
//! - Everything is found again by time and id alone. There are no queues in memory: what is due is a row with a time.

mod hand;
mod sqlite;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use grantsmith_core::grant::{Declared, Dunning, Hand, LicenseName};
use grantsmith_core::license::LicenseKey;
use grantsmith_core::port::{AttemptLog, Clock, Kept};
use grantsmith_core::purchase::{Email, InvoiceFact, PurchaseId, StripeId};
use grantsmith_core::terms::Terms;
use grantsmith_core::{AppId, Desired, GrantId, Reason};
use jiff::Timestamp;

use grantsmith_authforge::LabelCache;
use grantsmith_core::manual::Promised;

pub use hand::{Act, Ask, Decide, HandRow, Import, Promise, Redecided, Refusal, Request, Taken};

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

/// What a Stripe object is, as far as dirty marks and snapshots tell kinds apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ObjectKind {
    /// `checkout.session`
    Session,
    /// `subscription`
    Subscription,
    /// `invoice`
    Invoice,
    /// `payment_intent`
    PaymentIntent,
    /// `charge`
    Charge,
    /// Anything else.
    Other,
}

/// A Stripe object.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Object {
    /// Its kind.
    pub kind: ObjectKind,
    /// Its id.
    pub id: StripeId,
}

/// What was made of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventState {
    /// Recorded; its object is, or will be, looked at.
    Pending,
    /// Its object was looked at after it, and decided.
    Handled,
    /// Its purchase waits for a person.
    Parked,
    /// It changes nothing.
    Ignored,
}

/// An event to record.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// `evt_…`
    pub id: String,
    /// Such as `checkout.session.completed`.
    pub kind: String,
    /// Stripe's `created`.
    pub created: Timestamp,
    /// When it reached us.
    pub received: Timestamp,
    /// Stripe's mode.
    pub livemode: bool,
    /// The version that shaped it.
    pub api_version: Option<String>,
    /// The id of what it tells of, whatever that is.
    pub object_id: Option<String>,
    /// The object to look at because of it. A session, subscription or invoice is marked dirty; anything else marks the
    /// purchase that it is linked to, or waits as an orphan until a link comes.
    pub signal: Option<Object>,
    /// [`EventState::Pending`] or [`EventState::Ignored`].
    pub state: EventState,
    /// Why it is ignored.
    pub reason: Option<Reason>,
    /// The raw bytes.
    pub body: Bytes,
}

/// What recording an event found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recorded {
    /// It is new, and kept.
    New,
    /// It was kept before; what was made of it then.
    Duplicate(EventState, Option<Reason>),
}

/// An event on record.
#[derive(Debug, Clone)]
pub struct Event {
    /// `evt_…`
    pub id: String,
    /// Such as `checkout.session.completed`.
    pub kind: String,
    /// Stripe's `created`.
    pub created: Timestamp,
    /// When it first reached us.
    pub received: Timestamp,
    /// Stripe's mode.
    pub livemode: bool,
    /// The version that shaped it.
    pub api_version: Option<String>,
    /// The id of what it tells of.
    pub object_id: Option<String>,
    /// What was made of it.
    pub state: EventState,
    /// Why.
    pub reason: Option<Reason>,
    /// What the seller can do about it.
    pub detail: Option<String>,
    /// The purchase that it belongs to, once known.
    pub purchase: Option<PurchaseId>,
    /// The raw bytes; gone once their time is over, and left out of lists.
    pub body: Option<Bytes>,
}

/// A dirty object whose time has come.
#[derive(Debug, Clone)]
pub struct Dirty {
    /// Which.
    pub object: Object,
    /// Failed looks in a row.
    pub tries: u32,
}

/// A place in the order of looks: drawn before the look, so that a slow answer never replaces a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// How a snapshot came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Read from Stripe's API.
    Fetched,
    /// Told by an event: its id, type and `created`.
    Told {
        /// `evt_…`
        event: String,
        /// Its type.
        kind: String,
        /// Its `created`.
        at: Timestamp,
    },
}

/// A Stripe object as last seen.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Which.
    pub object: Object,
    /// How it came.
    pub source: Source,
    /// The object's JSON.
    pub body: Bytes,
}

/// All that is on record about a purchase when it is decided.
#[derive(Debug, Clone, Default)]
pub struct PurchaseRecord {
    /// The session's snapshot.
    pub session: Option<Snapshot>,
    /// The subscription's snapshot.
    pub subscription: Option<Snapshot>,
    /// What is known of its invoices.
    pub invoices: Vec<InvoiceFact>,
    /// The licenses declared so far, in the order of their units.
    pub declared: Vec<Declared>,
    /// The terms fixed at the first decision.
    pub terms: Option<Terms>,
    /// What an imported license shows of the terms, until they are fixed.
    pub imported: Option<Terms>,
    /// The payment's time, stored at the first decision.
    pub paid_at: Option<Timestamp>,
    /// Why its grant stands where it does.
    pub reason: Option<Reason>,
    /// A person's decision.
    pub hand: Hand,
    /// What a person promised, where no purchase at Stripe stands behind it.
    pub promised: Vec<Promised>,
    /// Events about its objects that no decision has taken in yet, oldest first, with bodies; and those of the second that
    /// the subscription's snapshot was told in, which no clock puts in order.
    pub events: Vec<Event>,
}

/// Where a grant stands, as stored and filtered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrantState {
    /// Money may still come.
    Pending,
    /// Entitled; not every license is as declared.
    Issuing,
    /// Every license is as declared.
    Ready,
    /// It came to nothing, or is over.
    Ended,
    /// It waits for a person.
    Parked,
    /// Not ours.
    NotOurs,
}

/// The outcome of a decision, written in one transaction with what led to it.
#[derive(Debug, Clone)]
pub struct Decision {
    /// The purchase.
    pub purchase: PurchaseId,
    /// Stripe's mode.
    pub livemode: bool,
    /// The look that it is based on.
    pub ticket: Ticket,
    /// The object that was looked at.
    pub looked_at: Object,
    /// The snapshot that it is based on: of the purchase's own object.
    pub snapshot: Snapshot,
    /// Snapshots of other objects that belong to it, such as a subscription's session.
    pub others: Vec<Snapshot>,
    /// What is known of its invoices; the ledger only grows.
    pub invoices: Vec<InvoiceFact>,
    /// A payment is failing: the buyer is warned now, after a week, and two days before the end.
    pub dunning: Option<Dunning>,
    /// Ids of Stripe objects that belong to the purchase.
    pub links: Vec<StripeId>,
    /// The customer, `cus_…`, who may have other purchases.
    pub customer: Option<StripeId>,
    /// Where the grant stands: [`GrantState::Issuing`] when licenses are declared; the store keeps `Ready` if nothing that
    /// is declared has changed.
    pub state: GrantState,
    /// Why.
    pub reason: Reason,
    /// What the seller can do about it.
    pub detail: Option<String>,
    /// Fixed now, unless fixed before.
    pub terms: Option<Terms>,
    /// The prices and products that these terms show to sell licenses.
    pub sells: Vec<String>,
    /// Fixed now, unless fixed before.
    pub paid_at: Option<Timestamp>,
    /// The buyer's address.
    pub email: Option<Email>,
    /// The licenses that should exist.
    pub licenses: Vec<Desired>,
    /// When to look at the object again without being told.
    pub look_again: Option<Timestamp>,
    /// What becomes of the events about its objects.
    pub event_state: EventState,
    /// Who or what caused the decision, for the journal: `event evt_…`, `look`, `replay`.
    pub cause: String,
    /// The time of the decision.
    pub at: Timestamp,
}

/// An object that turned out to belong to the purchase of another one.
#[derive(Debug, Clone)]
pub struct Attachment {
    /// The object.
    pub object: Object,
    /// What it looks like; none if that does not matter.
    pub snapshot: Option<Snapshot>,
    /// The purchase.
    pub purchase: PurchaseId,
    /// The look that found it.
    pub ticket: Ticket,
    /// The time.
    pub at: Timestamp,
}

/// One license of a grant, declared and kept.
#[derive(Debug, Clone)]
pub struct GrantLicense {
    /// What is declared.
    pub desired: Desired,
    /// Where it stands.
    pub reason: Reason,
    /// The license, once kept, and once the one that it replaces is gone.
    pub kept: Option<Kept>,
}

/// A grant on record.
#[derive(Debug, Clone)]
pub struct GrantRow {
    /// Its id.
    pub id: GrantId,
    /// Its purchase.
    pub purchase: PurchaseId,
    /// Stripe's mode.
    pub livemode: bool,
    /// Where it stands.
    pub state: GrantState,
    /// Why.
    pub reason: Reason,
    /// What the seller can do about it.
    pub detail: Option<String>,
    /// When it was paid.
    pub paid_at: Option<Timestamp>,
    /// The buyer's address.
    pub email: Option<Email>,
    /// A person's note.
    pub note: Option<String>,
    /// What people decided.
    pub hand: Option<HandRow>,
    /// Its licenses, in the order of their units.
    pub licenses: Vec<GrantLicense>,
    /// The newest delivery, if any was begun.
    pub delivery: Option<Delivery>,
    /// Failed rounds of work in a row.
    pub tries: u32,
    /// Grows with every decision that changes something: what [`Store::progress`] is fenced by.
    pub decided: u64,
    /// When it was first decided.
    pub created: Timestamp,
    /// When it last changed.
    pub updated: Timestamp,
}

/// What a round of work on a grant came to.
#[derive(Debug, Clone)]
pub struct Progress {
    /// The grant.
    pub id: GrantId,
    /// Where it stands now.
    pub state: GrantState,
    /// Why.
    pub reason: Reason,
    /// What the seller can do about it.
    pub detail: Option<String>,
    /// Where each license stands.
    pub licenses: Vec<(LicenseName, Reason)>,
    /// When to come back; none when nothing is left to do.
    pub due: Option<Timestamp>,
    /// Failed rounds in a row.
    pub tries: u32,
    /// Begin a delivery if a license that was made by us is in none yet: all that should be live are.
    pub deliver: bool,
    /// The time.
    pub at: Timestamp,
}

/// Whether a mail went out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryState {
    /// To be sent.
    Due,
    /// Taken by the mail server.
    Sent,
    /// Waits for a person.
    Parked,
    /// Not sent, because the license was gone by then.
    Dropped,
}

/// What a mail is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryKind {
    /// It brings keys.
    Keys,
    /// It brings keys once more, because somebody asked for it.
    KeysAgain,
    /// It warns that a payment has failed.
    PaymentFailed,
}

/// One mail about a grant.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The grant.
    pub grant: GrantId,
    /// What it is for.
    pub kind: DeliveryKind,
    /// 1 for the first; a retry keeps it, a resend has the next. The Message-ID derives from it.
    pub number: u32,
    /// When the license ends that a warning is about.
    pub until: Option<Timestamp>,
    /// Whether it went out.
    pub state: DeliveryState,
    /// Why not.
    pub reason: Option<Reason>,
    /// What the mail server said, without addresses.
    pub detail: Option<String>,
    /// Tries so far.
    pub tries: u32,
    /// When it was asked for.
    pub created: Timestamp,
    /// When its state last changed.
    pub updated: Timestamp,
}

/// What became of one try to send.
#[derive(Debug, Clone)]
pub struct Attempted {
    /// Whether it went out.
    pub state: DeliveryState,
    /// Why not.
    pub reason: Option<Reason>,
    /// What the mail server said, without addresses.
    pub detail: Option<String>,
    /// When to try again, while due.
    pub due: Option<Timestamp>,
    /// The time.
    pub at: Timestamp,
}

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

/// One line of a grant's history.
#[derive(Debug, Clone)]
pub struct JournalEntry {
    /// When.
    pub at: Timestamp,
    /// By what: an event, a rule, a hand.
    pub cause: String,
    /// What, in words without secrets.
    pub text: String,
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

/// Which grants to list. All conditions hold together.
#[derive(Debug, Clone, Default)]
pub struct GrantFilter {
    /// In this state.
    pub state: Option<GrantState>,
    /// Of this purchase.
    pub purchase: Option<String>,
    /// With this address, whatever its case.
    pub email: Option<String>,
    /// With a license for this app.
    pub app_id: Option<AppId>,
    /// First decided at or after.
    pub created_from: Option<Timestamp>,
    /// First decided before.
    pub created_before: Option<Timestamp>,
}

/// Which events to list. All conditions hold together.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    /// In this state.
    pub state: Option<EventState>,
    /// For this reason.
    pub reason: Option<Reason>,
    /// Of this type.
    pub kind: Option<String>,
    /// Of this purchase.
    pub purchase: Option<String>,
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
    /// Mails waiting to be sent.
    pub deliveries_due: u64,
    /// Mails waiting for a person.
    pub deliveries_parked: u64,
    /// Attempts whose outcome is unknown.
    pub open_attempts: u64,
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

    /// The dirty objects whose time has come: sessions first, and of each kind the longest waiting first.
    async fn dirty(&self, now: Timestamp, limit: u32) -> Result<Vec<Dirty>, Error>;

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
    /// Orphans that the links join mark the purchase's session dirty.
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

    /// The earliest time at which something is due: a dirty object, a grant or a delivery.
    async fn next_due(&self) -> Result<Option<Timestamp>, Error>;

    /// Grants whose time has come, newest purchase first: who has just paid waits at the till.
    async fn due_grants(&self, now: Timestamp, limit: u32) -> Result<Vec<GrantId>, Error>;

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

    /// Deliveries whose time has come.
    async fn due_deliveries(&self, now: Timestamp, limit: u32) -> Result<Vec<Delivery>, Error>;

    /// Writes what became of a try to send.
    async fn attempted(&self, grant: &GrantId, number: u32, attempted: Attempted) -> Result<(), Error>;

    /// Asks for another sending, and gives its number. One that waits for a person gives way to it.
    async fn resend(&self, grant: &GrantId, cause: &str, at: Timestamp) -> Result<u32, Error>;

    /// Keeps a wish for a link to the portal, whether the address is known or not. Takes at most `most` in any hour from one
    /// address.
    async fn wish_for_link(&self, email: &Email, most: u32, at: Timestamp) -> Result<Limited, Error>;

    /// Wishes whose time has come.
    async fn due_wishes(&self, now: Timestamp, limit: u32) -> Result<Vec<Wish>, Error>;

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

    /// When this record was first started on: `now`, if that is now.
    async fn first_start(&self, now: Timestamp) -> Result<Timestamp, Error>;

    /// Makes all grants due that were held back while it was only observed; says how many.
    async fn resume(&self, now: Timestamp) -> Result<u64, Error>;

    /// Whether something can be written now: what `/readyz` asks.
    async fn check(&self) -> Result<(), Error>;
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
