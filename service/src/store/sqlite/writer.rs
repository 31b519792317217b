//! The one writer: takes all that waits, runs it in one transaction, commits, and only then answers.
//!
//! A commit costs a disk sync however much is in it. While one runs, the next batch gathers by itself, so there is no timer
//! and no added wait when the machine is calm.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::checkpoint::Checkpoints;
use super::failure::{Failure, Kind};
use super::schema;
use crate::store::Error;

/// Jobs of one transaction at most: bounds how long the first of them waits, and how much is run again if one fails.
const BATCH: usize = 1024;

/// Jobs that wait at most; callers beyond wait in turn, which is how the web server feels that the disk is slow.
const QUEUE: usize = 4096;

/// A job without its types.
trait Job: Send {
    /// Does the work. Called again, in another transaction, if the first one came to nothing.
    fn run(&mut self, connection: &Connection) -> Result<(), Failure>;

    /// Tells the caller.
    fn answer(self: Box<Self>, verdict: Result<(), Error>);
}

struct Task<T, W> {
    work: W,
    result: Option<T>,
    caller: oneshot::Sender<Result<T, Error>>,
}

impl<T: Send, W: FnMut(&Connection) -> Result<T, Failure> + Send> Job for Task<T, W> {
    fn run(&mut self, connection: &Connection) -> Result<(), Failure> {
        self.result = Some((self.work)(connection)?);
        Ok(())
    }

    fn answer(self: Box<Self>, verdict: Result<(), Error>) {
        let Self { result, caller, .. } = *self;
        // A caller that has gone away has still been served.
        let _ = caller.send(verdict.and_then(|()| result.ok_or_else(stopped)));
    }
}

/// The way to the writer's thread. Dropping it lets the thread finish what waits, and waits for that.
#[derive(Debug)]
pub(super) struct Writer {
    jobs: Option<mpsc::Sender<Box<dyn Job>>>,
    crowd: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread on a connection to `path`; `file` is that file.
    pub(super) fn start(path: PathBuf, file: Arc<File>, connection: Connection) -> Result<Self, Error> {
        let checkpoints = Checkpoints::start(path.clone(), file)?;
        let (jobs, inbox) = mpsc::channel(QUEUE);
        let crowd = Arc::new(AtomicUsize::new(0));
        let mut desk = Desk { path, connection: None, checkpoints, crowd: Arc::clone(&crowd) };
        desk.take(connection)?;
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || desk.serve(inbox))
            .map_err(|error| Error::Unavailable(format!("no thread for the writer: {error}")))?;
        Ok(Self { jobs: Some(jobs), crowd, thread: Some(thread) })
    }

    /// How many jobs were in the last transaction.
    pub(super) fn crowd(&self) -> usize {
        self.crowd.load(Ordering::Relaxed)
    }

    /// Runs `work` in a transaction, and returns once that is on disk.
    ///
    /// The work goes on if the caller does not wait for it. It may run more than once, and only the last run counts.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        work: impl FnMut(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Error> {
        let (caller, answer) = oneshot::channel();
        let task = Box::new(Task { work, result: None, caller });
        let jobs = self.jobs.as_ref().ok_or_else(stopped)?;
        jobs.send(task).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // The file may be opened anew as soon as the store is gone, so the thread goes first.
            let _ = thread.join();
        }
    }
}

fn stopped() -> Error {
    Error::Unavailable("the writer has stopped".to_owned())
}

/// The thread's side.
struct Desk {
    path: PathBuf,
    connection: Option<Connection>,
    checkpoints: Checkpoints,
    crowd: Arc<AtomicUsize>,
}

impl Desk {
    fn serve(mut self, mut inbox: mpsc::Receiver<Box<dyn Job>>) {
        let mut batch = Vec::with_capacity(BATCH);
        while inbox.blocking_recv_many(&mut batch, BATCH) > 0 {
            self.crowd.store(batch.len(), Ordering::Relaxed);
            if !self.commit(&mut batch) {
                turn_away(&mut inbox);
            }
            if let Some(connection) = &self.connection {
                self.checkpoints.after_commit(connection);
            }
        }
        // Whoever copies the file of a stopped program by hand may not think of the log beside it.
        let emptied = self.connection.as_ref().map(|db| db.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)"));
        if let Some(Err(error)) = emptied {
            tracing::warn!(error = %Error::from(Failure::from(error)), "the log stays beside the file; copy both");
        }
    }

    /// Commits all jobs at once; if that fails, each by itself, so that an offender fails alone. False if somebody else holds
    /// the file: then nothing more is tried, as each would wait for the lock again.
    fn commit(&mut self, batch: &mut Vec<Box<dyn Job>>) -> bool {
        let mut verdict = self.transact(batch);
        if let Err(failure) = &verdict {
            tracing::warn!(error = %failure.error, jobs = batch.len(), "a transaction failed");
        }
        let alone = batch.len() == 1;
        for mut job in batch.drain(..) {
            match &verdict {
                Ok(()) => job.answer(Ok(())),
                Err(failure) if alone || failure.kind == Kind::Locked => {
                    job.answer(Err(failure.error.clone()));
                }
                Err(_) => {
                    let own = self.transact(std::slice::from_mut(&mut job));
                    job.answer(own.clone().map_err(Error::from));
                    if own.as_ref().is_err_and(|own| own.kind == Kind::Locked) {
                        verdict = own;
                    }
                }
            }
        }
        !verdict.is_err_and(|failure| failure.kind == Kind::Locked)
    }

    fn transact(&mut self, jobs: &mut [Box<dyn Job>]) -> Result<(), Failure> {
        let done = self.connect().and_then(|connection| transact(connection, jobs));
        let failure = match done {
            Ok(()) => return Ok(()),
            Err(failure) => failure,
        };
        let rolled_back = self.connection.as_ref().is_some_and(roll_back);
        if failure.kind == Kind::Broken || !rolled_back {
            self.connection = None;
        }
        Err(failure)
    }

    fn connect(&mut self) -> Result<&Connection, Failure> {
        if self.connection.is_none() {
            let connection = schema::writer(&self.path)?;
            self.take(connection)?;
        }
        self.connection.as_ref().ok_or_else(|| stopped().into())
    }

    fn take(&mut self, mut connection: Connection) -> Result<(), Failure> {
        self.checkpoints.watch(&mut connection)?;
        self.connection = Some(connection);
        Ok(())
    }
}

/// Refuses those who came while the lock was waited for: they would wait for it once more, and so on behind each other.
fn turn_away(inbox: &mut mpsc::Receiver<Box<dyn Job>>) {
    while let Ok(job) = inbox.try_recv() {
        job.answer(Err(Failure::locked().error));
    }
}

fn transact(connection: &Connection, jobs: &mut [Box<dyn Job>]) -> Result<(), Failure> {
    // IMMEDIATE: whoever holds the lock is met here, before any work, and never in the middle of it.
    connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
    for job in jobs {
        job.run(connection)?;
    }
    connection.prepare_cached("COMMIT")?.execute([])?;
    Ok(())
}

/// Leaves no transaction open; false if that fails. Some errors have rolled back by themselves.
fn roll_back(connection: &Connection) -> bool {
    connection.is_autocommit() || connection.execute_batch("ROLLBACK").is_ok()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    async fn count(writer: &Writer) -> i64 {
        let count = |db: &Connection| Ok(db.query_row("SELECT count(*) FROM labels", [], |row| row.get(0))?);
        writer.write(count).await.expect("reads")
    }

    fn insert(db: &Connection, fingerprint: &str, label: &str) -> Result<(), Failure> {
        let sql = "INSERT INTO labels (app_id, fingerprint, label) VALUES ('app', ?1, ?2)";
        db.execute(sql, [fingerprint, label])?;
        Ok(())
    }

    fn start(folder: &tempfile::TempDir) -> Arc<Writer> {
        let (path, file, connection) = schema::fresh(folder);
        Arc::new(Writer::start(path, file, connection).expect("starts"))
    }

    type Work = fn(&Connection) -> Result<(), Failure>;

    /// Hands jobs in while the writer is busy, so that they share a transaction.
    async fn together(writer: &Arc<Writer>, jobs: Vec<Work>) -> Vec<bool> {
        let (release, wait) = channel::<()>();
        let (tell, busy_now) = oneshot::channel();
        let busy = {
            let (writer, mut tell) = (Arc::clone(writer), Some(tell));
            let work = move |_: &Connection| {
                let _ = tell.take().map(|tell| tell.send(()));
                Ok(wait.recv().is_err())
            };
            tokio::spawn(async move { writer.write(work).await })
        };
        busy_now.await.expect("is busy");
        let mut answers = Vec::new();
        for job in jobs {
            let (caller, answer) = oneshot::channel();
            let task = Box::new(Task { work: job, result: None, caller });
            writer.jobs.as_ref().expect("is open").send(task).await.map_err(|_| ()).expect("hands in");
            answers.push(answer);
        }
        drop(release);
        busy.await.expect("ends").expect("commits");
        let mut verdicts = Vec::new();
        for answer in answers {
            verdicts.push(answer.await.expect("answers").is_ok());
        }
        verdicts
    }

    #[tokio::test]
    async fn an_offender_fails_alone() {
        let folder = tempfile::tempdir().expect("folder");
        let writer = start(&folder);
        let verdicts = together(
            &writer,
            vec![
                |db| insert(db, "a", "x"),
                |_| Err(Failure::damaged("says the test")),
                |db| insert(db, "b", "x"),
                // Half of it can be done, and none of it may stay.
                |db| insert(db, "c", "x").and_then(|()| insert(db, "a", "again")),
                |db| insert(db, "d", "x"),
            ],
        );
        assert_eq!(verdicts.await, [true, false, true, false, true]);
        assert_eq!(writer.crowd(), 5);
        assert_eq!(count(&writer).await, 3);
    }

    #[tokio::test]
    async fn a_broken_connection_is_replaced() {
        let folder = tempfile::tempdir().expect("folder");
        let writer = start(&folder);
        let broken = |_: &Connection| {
            let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR_WRITE);
            Err::<(), _>(rusqlite::Error::SqliteFailure(code, Some("with a secret".to_owned())).into())
        };
        let error = writer.write(broken).await.expect_err("fails");
        assert!(matches!(&error, Error::Unavailable(why) if !why.contains("secret")), "{error}");
        writer.write(|db| insert(db, "a", "x")).await.expect("works again");
        assert_eq!(count(&writer).await, 1);
    }

    #[tokio::test]
    async fn a_full_disk_refuses_and_loses_nothing_that_was_answered() {
        let folder = tempfile::tempdir().expect("folder");
        let writer = start(&folder);
        let limit = |pages: i64| {
            let writer = Arc::clone(&writer);
            let limit = move |db: &Connection| {
                let sql = format!("PRAGMA max_page_count = {pages}");
                Ok(db.query_row(&sql, [], |row| row.get::<_, i64>(0))?)
            };
            async move { writer.write(limit).await.expect("limits") }
        };
        // As small as it may be: what it has now.
        let pages = limit(1).await;
        limit(pages + 8).await;
        let large = "x".repeat(3_000);
        let mut kept = 0;
        let error = loop {
            let (fingerprint, large) = (format!("f{kept}"), large.clone());
            match writer.write(move |db| insert(db, &fingerprint, &large)).await {
                Ok(()) => kept += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(&error, Error::Unavailable(why) if why.contains("full")), "{error}");
        assert!(kept > 0);
        assert_eq!(count(&writer).await, kept);
        limit(1 << 20).await;
        writer.write(move |db| insert(db, "more", &large)).await.expect("works again");
        assert_eq!(count(&writer).await, kept + 1);
    }
}
