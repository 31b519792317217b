//! The record in one SQLite file.
//!
//! - [`writer`]: the one thread that writes. All that waits shares one transaction and one disk sync.
//! - [`checkpoint`]: moves committed pages into the file, off the way of those who wait for a commit.
//! - [`readers`]: a few connections that read the record as of one commit.
//! - [`file`] and [`schema`]: the file claimed, made, opened and brought up to date.
//! - [`events`], [`objects`], [`purchases`], [`grants`], [`hands`], [`declared`], [`attempts`], [`deliveries`], [`portal`],
//!   [`labels`]: the statements.
//! - [`backup`]: a copy beside the running server.
//! - [`forget`]: a buyer erased, from the pages too.
//! - [`rows`], [`packed`] and [`failure`]: values to columns and back; bodies compressed; SQLite's errors to what callers
//!   may do next.

mod attempts;
pub(super) mod backup;
mod checkpoint;
mod cluster;
mod declared;
mod deliveries;
mod events;
mod failure;
mod file;
mod forget;
mod grants;
mod hands;
mod imports;
mod labels;
mod objects;
mod packed;
mod portal;
mod purchases;
mod readers;
mod rows;
mod schema;
mod sold;
mod writer;

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use grantsmith_authforge::{CacheError, LabelCache};
use grantsmith_core::license::{Fingerprint, LicenseKey};
use grantsmith_core::port::{
    Attempt, AttemptId, AttemptLog, Change, Clock, Kept, LogError, Outcome, Record, ResetId, ResetOutcome,
};
use grantsmith_core::purchase::{PurchaseId, StripeId};
use grantsmith_core::{AppId, Email, GrantId, Reason};
use jiff::Timestamp;

use self::file::Claim;
use self::packed::Packed;
use self::readers::Readers;
use self::writer::Writer;
use super::{
    Ask, Attachment, Attempted, BuyerResend, Counts, Cursor, Decide, Decision, Declaration, Due, Error,
    Event, EventFilter, EventState, FirstStart, Forgotten, GrantFilter, GrantRow, JournalEntry, Limited,
    Most, NewEvent, Object, Opens, Progress, PurchaseRecord, Recorded, Store, Taken, Ticket, TokenHash,
};

/// The record in one SQLite file.
///
/// Dropping it finishes what was handed in, and gives the file free. The fields go in their order: the claim last.
pub(super) struct Sqlite {
    writer: Writer,
    readers: Arc<Readers>,
    clock: Arc<dyn Clock>,
    claim: Claim,
}

impl fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sqlite").field("path", &self.claim.path).finish_non_exhaustive()
    }
}

/// Whether the file is there. Fails if it cannot be written, is not ours, or its folder is missing.
pub(super) fn inspect(path: &Path) -> Result<bool, Error> {
    if !file::usable(path)? {
        return Ok(false);
    }
    let version = schema::reader(path).and_then(|connection| schema::version(&connection, path));
    version.map(|_| true).map_err(|failure| schema::opening(failure, path))
}

impl Sqlite {
    /// Opens the file, made if need be, and brings its schema up to date.
    pub(super) async fn open(path: PathBuf, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        let opening = tokio::task::spawn_blocking(move || Self::open_blocking(&path, clock));
        opening.await.map_err(|_| Error::Unavailable("the opening was given up".to_owned()))?
    }

    fn open_blocking(path: &Path, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        let claim = file::claim(path)?;
        let connection = schema::writer(&claim.path).map_err(|failure| schema::opening(failure, path))?;
        schema::spill_beside(&connection, &claim.path);
        let writer = Writer::start(claim.path.clone(), Arc::clone(&claim.file), connection)?;
        let readers = Readers::new(claim.path.clone());
        Ok(Self { writer, readers, clock, claim })
    }

    fn now(&self) -> Timestamp {
        self.clock.now().wall
    }
}

#[async_trait]
impl Store for Sqlite {
    async fn record_event(&self, event: NewEvent) -> Result<Recorded, Error> {
        let body = Packed::new(&event.body);
        self.writer.write(move |db| events::record(db, &event, &body)).await
    }

    async fn event(&self, id: &str) -> Result<Option<Event>, Error> {
        let id = id.to_owned();
        self.readers.read(move |db| events::get(db, &id)).await
    }

    async fn events(
        &self,
        filter: &EventFilter,
        after: Option<&Cursor>,
        limit: u32,
    ) -> Result<Vec<Event>, Error> {
        let (filter, after) = (filter.clone(), after.cloned());
        self.readers.read(move |db| events::list(db, &filter, after.as_ref(), limit)).await
    }

    async fn replay_event(
        &self,
        id: &str,
        signal: Option<&Object>,
        state: EventState,
        reason: Option<Reason>,
        at: Timestamp,
    ) -> Result<bool, Error> {
        let (id, signal) = (id.to_owned(), signal.cloned());
        self.writer
            .write(move |db| {
                events::replay(db, &events::Replay { id: &id, signal: signal.as_ref(), state, reason, at })
            })
            .await
    }

    async fn drop_bodies(&self, before: Timestamp) -> Result<u64, Error> {
        let mut dropped = 0_u64;
        loop {
            let some = self.writer.write(move |db| events::drop_bodies(db, before)).await?;
            if some == 0 {
                return Ok(dropped);
            }
            dropped = dropped.saturating_add(u64::try_from(some).unwrap_or(u64::MAX));
        }
    }

    async fn mark_dirty(&self, object: &Object, due: Timestamp) -> Result<(), Error> {
        let object = object.clone();
        self.writer.write(move |db| objects::mark_dirty(db, &object, due)).await
    }

    async fn ticket(&self) -> Result<Ticket, Error> {
        self.writer.write(|db| objects::draw(db).map(Ticket)).await
    }

    async fn look_failed(
        &self,
        object: &Object,
        ticket: Ticket,
        due: Timestamp,
        reason: Reason,
        _at: Timestamp,
    ) -> Result<(), Error> {
        let object = object.clone();
        self.writer.write(move |db| objects::look_failed(db, &object, ticket, due, reason)).await
    }

    async fn look_ended(
        &self,
        object: &Object,
        ticket: Ticket,
        state: EventState,
        reason: Reason,
        detail: &str,
        at: Timestamp,
    ) -> Result<(), Error> {
        let (object, detail) = (object.clone(), detail.to_owned());
        self.writer
            .write(move |db| {
                let ended = objects::Ended { object: &object, ticket, state, reason, detail: &detail, at };
                objects::look_ended(db, &ended)
            })
            .await
    }

    async fn purchase(&self, purchase: &PurchaseId) -> Result<PurchaseRecord, Error> {
        let purchase = purchase.clone();
        self.readers.read(move |db| purchases::get(db, &purchase)).await
    }

    async fn linked(&self, id: &StripeId) -> Result<Option<PurchaseId>, Error> {
        let id = id.clone();
        self.readers.read(move |db| objects::linked(db, &id)).await
    }

    async fn decide(&self, decision: Decision) -> Result<bool, Error> {
        let body = Packed::new(&decision.snapshot.body);
        let others: Vec<Packed> = decision.others.iter().map(|other| Packed::new(&other.body)).collect();
        self.writer.write(move |db| purchases::decide(db, &decision, &body, &others)).await
    }

    async fn sold(&self, ids: &[String]) -> Result<bool, Error> {
        let ids = ids.to_vec();
        self.readers.read(move |db| sold::any(db, &ids)).await
    }

    async fn attach(&self, attachment: Attachment) -> Result<(), Error> {
        let body = attachment.snapshot.as_ref().map(|snapshot| Packed::new(&snapshot.body));
        self.writer.write(move |db| purchases::attach(db, &attachment, body.as_ref())).await
    }

    async fn take(&self, ask: Ask, decide: Decide) -> Result<Taken, Error> {
        self.writer.write(move |db| hands::take(db, &ask, &decide)).await
    }

    async fn forget(&self, address: &Email, person: &str, at: Timestamp) -> Result<Forgotten, Error> {
        let buyer = Arc::new(forget::Buyer::new(address));
        let searched = Arc::clone(&buyer);
        let found = self.readers.read(move |db| forget::search(db, &searched)).await?;
        let cause = format!("hand {person}");
        let forgotten = self.writer.write(move |db| forget::forget(db, &buyer, &found, &cause, at)).await?;
        let path = self.claim.path.clone();
        let purge = tokio::task::spawn_blocking(move || forget::purge(&path));
        purge.await.map_err(|_| Error::Unavailable("the rewriting was given up".to_owned()))??;
        Ok(forgotten)
    }

    async fn due(&self, now: Timestamp, most: Most) -> Result<Due, Error> {
        let due = move |db: &rusqlite::Connection| {
            Ok(Due {
                objects: objects::dirty(db, now, most.objects)?,
                grants: grants::due(db, now, most.grants)?,
                deliveries: deliveries::due(db, now, most.deliveries)?,
                wishes: portal::due(db, now, most.wishes)?,
                earliest: grants::earliest(db)?,
            })
        };
        self.readers.read(due).await
    }

    async fn grant(&self, id: &GrantId) -> Result<Option<GrantRow>, Error> {
        let id = id.clone();
        self.readers.read(move |db| grants::get(db, &id)).await
    }

    async fn grants(
        &self,
        filter: &GrantFilter,
        after: Option<&Cursor>,
        limit: u32,
    ) -> Result<Vec<GrantRow>, Error> {
        let (filter, after) = (filter.clone(), after.cloned());
        self.readers.read(move |db| grants::list(db, &filter, after.as_ref(), limit)).await
    }

    async fn find_grants(&self, text: &str, limit: u32) -> Result<Vec<GrantRow>, Error> {
        let text = text.to_owned();
        self.readers.read(move |db| grants::find(db, &text, limit)).await
    }

    async fn take_in(&self, declaration: Declaration) -> Result<(), Error> {
        self.writer.write(move |db| cluster::take_in(db, &declaration)).await
    }

    async fn agree(&self, grant: &GrantId, agreed: String) -> Result<(), Error> {
        let grant = grant.clone();
        self.writer.write(move |db| cluster::agree(db, &grant, &agreed)).await
    }

    async fn let_go(&self, grant: &GrantId, object: &str, at: Timestamp) -> Result<(), Error> {
        let (grant, object) = (grant.clone(), object.to_owned());
        self.writer.write(move |db| cluster::let_go(db, &grant, &object, at)).await
    }

    async fn progress(&self, progress: Progress, decided: u64) -> Result<(), Error> {
        self.writer.write(move |db| grants::progress(db, &progress, decided)).await
    }

    async fn attempted(&self, grant: &GrantId, number: u32, attempted: Attempted) -> Result<(), Error> {
        let grant = grant.clone();
        self.writer.write(move |db| deliveries::attempted(db, &grant, number, &attempted)).await
    }

    async fn resend(&self, grant: &GrantId, cause: &str, at: Timestamp) -> Result<u32, Error> {
        let (grant, cause) = (grant.clone(), cause.to_owned());
        self.writer.write(move |db| deliveries::resend(db, &grant, &cause, at)).await
    }

    async fn wish_for_link(&self, email: &Email, most: u32, at: Timestamp) -> Result<Limited, Error> {
        let email = email.clone();
        self.writer.write(move |db| portal::wish(db, &email, most, at)).await
    }

    async fn wish_tried(&self, number: i64, again: Option<Timestamp>) -> Result<(), Error> {
        self.writer.write(move |db| portal::tried(db, number, again)).await
    }

    async fn issue_token(
        &self,
        token: TokenHash,
        opens: Opens,
        email: &Email,
        until: Timestamp,
    ) -> Result<(), Error> {
        let email = email.clone();
        self.writer.write(move |db| portal::issue(db, &token, opens, &email, until)).await
    }

    async fn spend_token(
        &self,
        token: TokenHash,
        opens: Opens,
        now: Timestamp,
    ) -> Result<Option<Email>, Error> {
        self.writer.write(move |db| portal::spend(db, &token, opens, now)).await
    }

    async fn resend_for_buyer(&self, resend: BuyerResend) -> Result<Limited, Error> {
        self.writer.write(move |db| portal::resend(db, &resend)).await
    }

    async fn tidy_portal(&self, now: Timestamp) -> Result<(), Error> {
        self.writer.write(move |db| portal::tidy(db, now)).await
    }

    async fn journal(&self, grant: &GrantId) -> Result<Vec<JournalEntry>, Error> {
        let grant = grant.clone();
        self.readers.read(move |db| grants::journal(db, &grant)).await
    }

    async fn grant_of_key(&self, key: &LicenseKey) -> Result<Option<GrantId>, Error> {
        let fingerprint = key.fingerprint();
        self.readers.read(move |db| grants::of_key(db, &fingerprint)).await
    }

    async fn counts(&self) -> Result<Counts, Error> {
        let now = self.now();
        self.readers.read(move |db| grants::counts(db, now)).await
    }

    async fn first_start(&self, now: Timestamp, livemode: bool) -> Result<FirstStart, Error> {
        self.writer.write(move |db| grants::first_start(db, now, livemode)).await
    }

    async fn resume(&self, now: Timestamp) -> Result<u64, Error> {
        self.writer.write(move |db| grants::resume(db, now)).await
    }

    async fn clock_set_back(&self, now: Timestamp) -> Result<u64, Error> {
        self.writer.write(move |db| grants::clock_set_back(db, now)).await
    }

    async fn check(&self) -> Result<(), Error> {
        // A number more or less does not matter, and only a commit shows that one is possible.
        self.ticket().await.map(|_| ())
    }

    fn crowd(&self) -> usize {
        self.writer.crowd()
    }
}

#[async_trait]
impl AttemptLog for Sqlite {
    async fn load(&self, grant: &GrantId) -> Result<Record, LogError> {
        let grant = grant.clone();
        let now = self.now();
        Ok(self
            .readers
            .read(move |db| attempts::load(db, &grant, now))
            .await
            .map_err(|error| log_error(&error))?)
    }

    async fn open(&self, grant: &GrantId, version: u64, attempt: &Attempt) -> Result<(), LogError> {
        let (grant, attempt) = (grant.clone(), attempt.clone());
        let opened = self.writer.write(move |db| attempts::open(db, &grant, version, &attempt)).await;
        if opened.map_err(|error| log_error(&error))? { Ok(()) } else { Err(LogError::Conflict) }
    }

    async fn keep(&self, grant: &GrantId, license: &Kept) -> Result<(), LogError> {
        let (grant, license, at) = (grant.clone(), license.clone(), self.now());
        self.writer
            .write(move |db| attempts::keep(db, &grant, &license, at))
            .await
            .map_err(|error| log_error(&error))
    }

    async fn settle(&self, grant: &GrantId, attempt: &AttemptId, outcome: &Outcome) -> Result<(), LogError> {
        let (grant, attempt, outcome, at) = (grant.clone(), attempt.clone(), outcome.clone(), self.now());
        let settle = move |db: &_| attempts::settle(db, &grant, &attempt, &outcome, at);
        self.writer.write(settle).await.map_err(|error| log_error(&error))
    }

    async fn note(
        &self,
        grant: &GrantId,
        fingerprint: &Fingerprint,
        change: &Change,
    ) -> Result<(), LogError> {
        let (grant, fingerprint, change, at) =
            (grant.clone(), fingerprint.clone(), change.clone(), self.now());
        let note = move |db: &_| attempts::change(db, &grant, &fingerprint, &change, at);
        self.writer.write(note).await.map_err(|error| log_error(&error))
    }

    async fn spend(
        &self,
        grant: &GrantId,
        fingerprint: &Fingerprint,
        at: Timestamp,
        budget: u32,
    ) -> Result<(), LogError> {
        let (grant, fingerprint) = (grant.clone(), fingerprint.clone());
        let write = move |db: &_| attempts::spend(db, &grant, &fingerprint, at, budget);
        let spent = self.writer.write(write).await;
        if spent.map_err(|error| log_error(&error))? { Ok(()) } else { Err(LogError::Conflict) }
    }

    async fn reset(&self, grant: &GrantId, reset: &ResetId, outcome: ResetOutcome) -> Result<(), LogError> {
        let (grant, reset, at) = (grant.clone(), reset.clone(), self.now());
        let write = move |db: &_| attempts::reset(db, &grant, &reset, outcome, at);
        self.writer.write(write).await.map_err(|error| log_error(&error))
    }

    async fn watched(&self, grant: &GrantId, attempt: &AttemptId, at: Timestamp) -> Result<(), LogError> {
        let (grant, attempt) = (grant.clone(), attempt.clone());
        self.writer
            .write(move |db| attempts::watched(db, &grant, &attempt, at))
            .await
            .map_err(|error| log_error(&error))
    }
}

fn log_error(error: &Error) -> LogError {
    LogError::Unavailable(error.to_string())
}

#[async_trait]
impl LabelCache for Sqlite {
    async fn labels(&self, app: &AppId) -> Result<HashMap<Fingerprint, Option<String>>, CacheError> {
        let app = app.clone();
        let labels = self.readers.read(move |db| labels::all(db, &app)).await;
        labels.map_err(|error| CacheError(error.to_string()))
    }

    async fn remember(
        &self,
        app: &AppId,
        labels: &[(Fingerprint, Option<String>)],
    ) -> Result<(), CacheError> {
        let (app, labels) = (app.clone(), labels.to_vec());
        let remembered = self.writer.write(move |db| labels::remember(db, &app, &labels)).await;
        remembered.map_err(|error| CacheError(error.to_string()))
    }
}
