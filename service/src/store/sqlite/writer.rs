//! The one writer: takes all that waits, runs it in one transaction, commits, and only then answers.
//!
//! A commit costs a disk sync however much is in it. While one runs, the next batch gathers by itself, so there is no timer
//! and no added wait when the machine is calm.

use std::path::PathBuf;
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
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread on a connection to `path`.
    pub(super) fn start(path: PathBuf, connection: Connection) -> Result<Self, Error> {
        let checkpoints = Checkpoints::start(path.clone())?;
        let (jobs, inbox) = mpsc::channel(QUEUE);
        let mut desk = Desk { path, connection: None, checkpoints };
        desk.take(connection)?;
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || desk.serve(inbox))
            .map_err(|error| Error::Unavailable(format!("no thread for the writer: {error}")))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
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
}

impl Desk {
    fn serve(mut self, mut inbox: mpsc::Receiver<Box<dyn Job>>) {
        let mut batch = Vec::with_capacity(BATCH);
        while inbox.blocking_recv_many(&mut batch, BATCH) > 0 {
            self.commit(&mut batch);
            if let Some(connection) = &self.connection {
                self.checkpoints.after_commit(connection);
            }
        }
    }

    /// Commits all jobs at once; if that fails, each by itself, so that an offender fails alone.
    fn commit(&mut self, batch: &mut Vec<Box<dyn Job>>) {
        let mut verdict = self.transact(batch);
        let alone = batch.len() == 1;
        for mut job in batch.drain(..) {
            match &verdict {
                // Each would wait for the lock again, or meet the same broken file.
                Err(Failure { kind: Kind::Locked | Kind::Broken, error }) => job.answer(Err(error.clone())),
                Err(failure) if alone => job.answer(Err(failure.error.clone())),
                Err(_) => {
                    let own = self.transact(std::slice::from_mut(&mut job));
                    job.answer(own.clone().map_err(Error::from));
                    if own.as_ref().is_err_and(|own| matches!(own.kind, Kind::Locked | Kind::Broken)) {
                        verdict = own;
                    }
                }
                Ok(()) => job.answer(Ok(())),
            }
        }
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
        tracing::warn!(error = %failure.error, jobs = jobs.len(), "a transaction failed");
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
