//! Listings: one serves all that wait for it, and each tells whether it is complete.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use grantsmith_core::license::Fingerprint;
use grantsmith_core::port::{ApiError, Class, Listing, Moment, Priority};
use grantsmith_core::{AppId, License};
use jiff::Timestamp;
use tokio::sync::watch;

use crate::client::Api;
use crate::error::{Call, Error};
use crate::label_cache::CacheError;
use crate::scheduler::Ticket;
use crate::transport::{Failure, Request};
use crate::wire::{Known, Page, Row};

/// The most that AuthForge gives at once.
const PAGE: &str = "200";
/// No app is that large; a server whose cursors never end is broken.
const MOST_PAGES: usize = 100_000;
/// How many licenses are read at a time for their labels; the pace is the scheduler's.
const LOOKS_AT_A_TIME: usize = 16;
/// After that many, labels are written down: a process that dies midway has not asked for nothing.
const LOOKS_A_BATCH: usize = 200;
/// How long a complete listing serves those that would have been content with it had they come in time.
const LINGER: Duration = Duration::from_secs(30);

/// How far a listing has come.
#[derive(Debug, Clone)]
enum Progress {
    /// It waits for its turn.
    Queued,
    /// Its first page was asked for then.
    Begun(Moment),
    Finished(Result<Arc<Listing>, ApiError>),
}

/// A listing that runs, or has just ended.
#[derive(Debug)]
struct Run {
    progress: watch::Sender<Progress>,
    /// The highest class of those that wait for it.
    priority: watch::Sender<Priority>,
}

/// Tells those that wait when a listing's task goes without a result, as with its runtime.
struct End<'a>(&'a Run);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.progress.send_if_modified(|progress| {
            let cut = !matches!(progress, Progress::Finished(_));
            if cut {
                let detail = "the listing was given up".to_owned();
                *progress =
                    Progress::Finished(Err(ApiError { class: Class::Transient, retry_after: None, detail }));
            }
            cut
        });
    }
}

/// All listings of a client.
#[derive(Debug)]
pub(crate) struct Listings {
    api: Arc<Api>,
    runs: Mutex<HashMap<AppId, Arc<Run>>>,
    /// When licenses were made whose rows do not say.
    created: Mutex<HashMap<Fingerprint, Timestamp>>,
}

impl Listings {
    pub(crate) fn new(api: Arc<Api>) -> Self {
        Self { api, runs: Mutex::default(), created: Mutex::default() }
    }

    /// A listing begun at `not_before` or later.
    pub(crate) async fn list(
        self: &Arc<Self>,
        app: &AppId,
        not_before: Moment,
        priority: Priority,
    ) -> Result<Arc<Listing>, ApiError> {
        loop {
            let early = not_before.since(self.api.clock.now().moment);
            if !early.is_zero() {
                tokio::time::sleep(early.min(Duration::from_secs(1))).await;
                continue;
            }
            let (run, serves) = self.join(app, not_before, priority);
            let mut progress = run.progress.subscribe();
            let finished = progress.wait_for(|progress| matches!(progress, Progress::Finished(_))).await;
            let result = finished.map(|progress| progress.clone());
            match result {
                Ok(Progress::Finished(Ok(listing))) if listing.begun_at() >= not_before => {
                    return Ok(listing);
                }
                Ok(Progress::Finished(Err(error))) if serves => return Err(error),
                // It began too early for us, or its task was killed with its runtime: the next one.
                _ => self.retire(app, &run),
            }
        }
    }

    /// The app's listing, and whether it serves somebody who wants it begun at `not_before` or later. Starts one if need be.
    fn join(self: &Arc<Self>, app: &AppId, not_before: Moment, priority: Priority) -> (Arc<Run>, bool) {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(run) = runs.get(app) {
            let serves = match &*run.progress.borrow() {
                Progress::Queued => Some(true),
                Progress::Begun(at) => Some(*at >= not_before),
                Progress::Finished(Ok(listing))
                    if listing.is_complete() && listing.begun_at() >= not_before =>
                {
                    Some(true)
                }
                Progress::Finished(_) => None,
            };
            if let Some(serves) = serves {
                run.priority.send_if_modified(|current| {
                    let raised = priority < *current;
                    *current = priority.min(*current);
                    raised
                });
                return (Arc::clone(run), serves);
            }
        }
        let run = Arc::new(Run {
            progress: watch::Sender::new(Progress::Queued),
            priority: watch::Sender::new(priority),
        });
        runs.insert(app.clone(), Arc::clone(&run));
        // A task of its own: whoever asked first may go away, and the others still wait.
        tokio::spawn(Arc::clone(self).serve(app.clone(), Arc::clone(&run)));
        (run, true)
    }

    /// Takes a run out, if it is still the app's.
    fn retire(&self, app: &AppId, run: &Arc<Run>) {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        if runs.get(app).is_some_and(|current| Arc::ptr_eq(current, run)) {
            runs.remove(app);
        }
    }

    async fn serve(self: Arc<Self>, app: AppId, run: Arc<Run>) {
        let end = End(&run);
        let result = self.fetch(&app, &run).await.map(Arc::new);
        let lingers = result.as_ref().is_ok_and(|listing| listing.is_complete());
        run.progress.send_replace(Progress::Finished(result));
        drop(end);
        if !lingers {
            return self.retire(&app, &run);
        }
        // One that a newer listing has taken the place of lingers for nobody, and need not stay in memory.
        let current = Arc::downgrade(&run);
        drop(run);
        tokio::time::sleep(LINGER).await;
        if let Some(run) = current.upgrade() {
            self.retire(&app, &run);
        }
    }

    /// Reads all pages, then the labels that these left out.
    async fn fetch(&self, app: &AppId, run: &Run) -> Result<Listing, ApiError> {
        let mut rows = Vec::new();
        let mut cursor: Option<String> = None;
        let mut seen = HashSet::new();
        let mut begun_at = Moment::default();
        let mut complete = true;
        for number in 0.. {
            let ticket = match self.turn(run).await {
                Ok(ticket) => ticket,
                Err(error) if number == 0 => return Err(error),
                Err(_) => return Ok(self.finish(app, begun_at, false, rows, run).await),
            };
            if number == 0 {
                begun_at = self.api.clock.now().moment;
                run.progress.send_replace(Progress::Begun(begun_at));
            }
            let page = match self.page(ticket, app, cursor.as_deref()).await {
                Ok(page) => page,
                Err(failure) if number == 0 => return Err(failure.into()),
                Err(failure) => {
                    tracing::warn!(error = %failure.error, pages = number, "a listing stopped early");
                    complete = false;
                    break;
                }
            };
            complete &= page.whole;
            rows.extend(page.rows);
            let Some(next) = page.cursor else { break };
            if number + 1 >= MOST_PAGES || !seen.insert(next.clone()) {
                tracing::warn!(pages = number + 1, "a listing does not end");
                complete = false;
                break;
            }
            cursor = Some(next);
        }
        Ok(self.finish(app, begun_at, complete, rows, run).await)
    }

    /// Waits for the right to send, and queues anew when somebody of a higher class has come to wait for this listing.
    async fn turn(&self, run: &Run) -> Result<Ticket, ApiError> {
        let mut priority = run.priority.subscribe();
        loop {
            let class = *priority.borrow_and_update();
            tokio::select! {
                biased;
                ticket = self.api.scheduler.acquire(class, false) => return ticket,
                Ok(()) = priority.changed() => {}
            }
        }
    }

    async fn page(&self, ticket: Ticket, app: &AppId, cursor: Option<&str>) -> Result<Page, Failure> {
        let mut query = vec![("appId", app.as_str()), ("limit", PAGE)];
        query.extend(cursor.map(|cursor| ("cursor", cursor)));
        let request = Request { query, ..Request::default() };
        let answer = self.api.transport.call(ticket, Call::List, request).await?;
        Page::read(&answer.body).ok_or_else(|| {
            let error = Error::Unreadable { status: answer.status, why: "it is no page of licenses" };
            Failure { call: Call::List, error }
        })
    }

    /// Makes licenses of rows. A row that stays unclear leaves the listing incomplete, and costs no other row anything.
    async fn finish(
        &self,
        app: &AppId,
        begun_at: Moment,
        complete: bool,
        rows: Vec<Row>,
        run: &Run,
    ) -> Listing {
        let (licenses, all) = match self.complement(app, rows, run).await {
            Ok(done) => done,
            Err(error) => {
                tracing::warn!(%error, "a listing has no labels");
                (Vec::new(), false)
            }
        };
        Listing::new(begun_at, complete && all, licenses)
    }

    /// Adds what the rows leave out: from the cache, and from AuthForge, once.
    async fn complement(
        &self,
        app: &AppId,
        rows: Vec<Row>,
        run: &Run,
    ) -> Result<(Vec<License>, bool), CacheError> {
        let mut all = true;
        let mut licenses = Vec::with_capacity(rows.len());
        let lacks_labels = rows.iter().any(|row| row.label.is_none());
        let labels = if lacks_labels { self.known_labels(app).await? } else { HashMap::new() };
        let mut unclear = Vec::new();
        for row in rows {
            if row.is_foreign(app) || row.status.is_none() {
                all = false;
                continue;
            }
            let known = match (&row.label, &row.created_at) {
                (Some(_), Some(_)) => Known::default(),
                _ => self.known(&row, &labels),
            };
            let clear = (row.label.is_some() || known.label.is_some())
                && (row.created_at.is_some() || known.created_at.is_some());
            if clear {
                licenses.extend(row.into_license(app, known));
            } else {
                unclear.push(row);
            }
        }
        let mut unclear = unclear.into_iter();
        loop {
            let looks: Vec<_> = unclear.by_ref().take(LOOKS_A_BATCH).map(|row| self.look(row, run)).collect();
            if looks.is_empty() {
                return Ok((licenses, all));
            }
            let looked: Vec<_> =
                futures_util::stream::iter(looks).buffer_unordered(LOOKS_AT_A_TIME).collect().await;
            let mut learned = Vec::new();
            for (row, known) in looked {
                let fingerprint = row.key.fingerprint();
                let license = known.and_then(|known| {
                    learned.extend(known.label.clone().map(|label| (fingerprint, label)));
                    row.into_license(app, known)
                });
                all &= license.is_some();
                licenses.extend(license);
            }
            self.api.labels.remember(app, &learned).await?;
        }
    }

    /// What is in the cache, and what this process has made since.
    async fn known_labels(&self, app: &AppId) -> Result<HashMap<Fingerprint, Option<String>>, CacheError> {
        let fresh = self.api.fresh.take(app);
        if !fresh.is_empty() {
            self.api.labels.remember(app, &fresh).await?;
        }
        self.api.labels.labels(app).await
    }

    fn known(&self, row: &Row, labels: &HashMap<Fingerprint, Option<String>>) -> Known {
        let fingerprint = row.key.fingerprint();
        let created = self.created.lock().unwrap_or_else(PoisonError::into_inner);
        Known { label: labels.get(&fingerprint).cloned(), created_at: created.get(&fingerprint).copied() }
    }

    /// Reads one license for what its row leaves out; none if that fails.
    async fn look(&self, row: Row, run: &Run) -> (Row, Option<Known>) {
        let priority = *run.priority.borrow();
        let full = match self.api.get(&row.key, priority).await {
            Ok(full) => full,
            Err(trouble) => {
                let ApiError { class, .. } = ApiError::from(trouble);
                tracing::debug!(?class, "a label could not be read");
                return (row, None);
            }
        };
        if let (None, Some(at)) = (row.created_at, full.created_at) {
            self.created.lock().unwrap_or_else(PoisonError::into_inner).insert(row.key.fingerprint(), at);
        }
        // The full object of a license that has no label leaves the field out, or writes null.
        let label = row.label.clone().or(full.label).unwrap_or(None);
        (row, Some(Known { label: Some(label), created_at: full.created_at }))
    }
}
