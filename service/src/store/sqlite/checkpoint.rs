//! Moves committed pages from the write-ahead log to the database file, off the way of those who wait for a commit.
//!
//! Three steps, so that the log stays bounded under constant load without holding up a commit for long:
//! 1. A thread of its own copies pages (`PASSIVE`) whenever the log has grown by [`STEP`], or once a second, and syncs the
//!    file: SQLite does so only after a pass that has met no commit, and would leave it to step 2. That disturbs neither the
//!    writer nor readers, but under constant load it never copies the very last pages, and only a log that is copied whole
//!    can start over.
//! 2. So when the log is past [`SOFT`] and such a pass has just ended, the writer itself copies the few pages left
//!    ([`REST`]), between two batches. The next commit finds a log that is copied whole, and writes at its beginning again.
//! 3. A reader that holds an old page prevents both. Past [`HARD`] the writer waits a moment for readers (`RESTART`). Ours
//!    are short. A backup is not: while passes come no further, nobody waits, the log grows until it is over, and nothing is
//!    lost.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::wal::CheckpointMode;

use super::failure::Failure;
use super::schema;
use crate::store::Error;

/// Pages by which the log grows between two passes: 16 MiB. A page that was written often meanwhile is copied once.
const STEP: i32 = 4 * 1024;
/// Pages from which the writer copies the last ones: 64 MiB. All events that wait then wait for the file too, so seldom.
const SOFT: i32 = 16 * 1024;
/// Pages that the writer copies without thinking twice: 512 KiB. If a pass has left more, another one goes first.
const REST: i32 = 128;
/// Pages from which the writer waits for readers: 256 MiB.
const HARD: i32 = 64 * 1024;
/// Bytes of the log's file that are kept when it starts over.
pub(super) const LOG_BYTES_KEPT: i64 = 96 * 1024 * 1024;
/// When the log is copied however little it has grown.
const AT_LEAST_EVERY: Duration = Duration::from_secs(1);
/// How long the writer waits for readers.
const FOR_READERS: Duration = Duration::from_millis(250);

/// What the writer and the thread tell each other.
#[derive(Debug, Default)]
struct Log {
    /// Pages in the log, as of the last commit.
    pages: AtomicI32,
    /// Those of them that are in the file too, as of the last pass.
    copied: AtomicI32,
    /// That pass has come further than the one before, and the writer has not acted on it yet.
    passed: AtomicBool,
}

/// The writer's side. Dropping it ends the thread.
#[derive(Debug)]
pub(super) struct Checkpoints {
    log: Arc<Log>,
    /// Pages in the log when the thread was last woken.
    woken_at: i32,
    wake: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpoints {
    /// Starts the thread; `file` is the one at `path`, to sync it by.
    pub(super) fn start(path: PathBuf, file: Arc<File>) -> Result<Self, Error> {
        let log = Arc::new(Log::default());
        let (wake, woken) = sync_channel(1);
        let seen = Arc::clone(&log);
        let thread = std::thread::Builder::new()
            .name("store-checkpoint".to_owned())
            .spawn(move || serve(&path, &file, &seen, &woken))
            .map_err(|error| Error::Unavailable(format!("no thread for checkpoints: {error}")))?;
        Ok(Self { log, woken_at: 0, wake: Some(wake), thread: Some(thread) })
    }

    /// Counts the pages of the log at each commit of the writer's connection.
    pub(super) fn watch(&self, connection: &mut Connection) -> Result<(), Failure> {
        let log = Arc::clone(&self.log);
        let count = move |_: &mut rusqlite::hooks::Wal, pages| {
            log.pages.store(pages, Ordering::Relaxed);
            Ok(())
        };
        Ok(connection.wal_hook(Some(count))?)
    }

    /// Called by the writer between two batches.
    pub(super) fn after_commit(&mut self, connection: &Connection) {
        let pages = self.log.pages.load(Ordering::Relaxed);
        if pages < self.woken_at {
            // It has started over.
            self.woken_at = 0;
        }
        if pages - self.woken_at >= STEP {
            self.wake(pages);
        }
        if pages >= SOFT && self.log.passed.swap(false, Ordering::Acquire) {
            // A long pass leaves much, the next one less. Past twice the size the wait for that is over.
            if pages - self.log.copied.load(Ordering::Relaxed) <= REST || pages >= 2 * SOFT {
                finish(connection, pages);
            } else {
                self.wake(pages);
            }
        }
    }

    fn wake(&mut self, pages: i32) {
        self.woken_at = pages;
        if let Some(wake) = &self.wake {
            // Full means that it is awake, or about to be.
            let _ = wake.try_send(());
        }
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        self.wake = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Copies the last pages in the writer's thread: nothing is committed meanwhile, so the log can come to be copied whole.
fn finish(connection: &Connection, pages: i32) {
    let done = if pages < HARD {
        connection.wal_checkpoint_v2(Some(c"main"), CheckpointMode::PASSIVE)
    } else {
        let _ = connection.busy_timeout(FOR_READERS);
        let done = connection.wal_checkpoint_v2(Some(c"main"), CheckpointMode::RESTART);
        let _ = connection.busy_timeout(schema::PATIENCE);
        done
    };
    if let Err(error) = done {
        tracing::debug!(error = %Error::from(Failure::from(error)), pages, "the log could not start over yet");
    }
}

fn serve(path: &Path, file: &File, log: &Log, woken: &Receiver<()>) {
    let mut connection = None;
    loop {
        match woken.recv_timeout(AT_LEAST_EVERY) {
            Err(RecvTimeoutError::Timeout)
                if log.pages.load(Ordering::Relaxed) == log.copied.load(Ordering::Relaxed) =>
            {
                continue;
            }
            Ok(()) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        match pass(path, &mut connection) {
            Ok(copied) => {
                let pages = log.pages.load(Ordering::Relaxed);
                let further = copied != log.copied.swap(copied, Ordering::Relaxed);
                if further
                    && copied != pages
                    && let Err(error) = file.sync_data()
                {
                    // SQLite syncs it too, and only then writes over the log.
                    tracing::warn!(%error, "the file could not be synced");
                }
                if further || copied == pages {
                    log.passed.store(true, Ordering::Release);
                }
            }
            Err(failure) => {
                // Nothing is lost: the pages stay in the log until a later pass. A new connection, in case this one is bad.
                tracing::debug!(error = %failure.error, "a checkpoint failed");
                connection = None;
            }
        }
    }
}

/// Copies what can be; how much of the log is in the file then.
fn pass(path: &Path, connection: &mut Option<Connection>) -> Result<i32, Failure> {
    let connection = match connection {
        Some(connection) => connection,
        None => connection.insert(schema::checkpointer(path)?),
    };
    let (_, copied) = connection.wal_checkpoint_v2(Some(c"main"), CheckpointMode::PASSIVE)?;
    Ok(copied)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A writer that makes commits of about forty pages, and whoever copies them.
    struct Load {
        connection: Connection,
        checkpoints: Checkpoints,
        path: PathBuf,
        _folder: tempfile::TempDir,
    }

    impl Load {
        fn start() -> Self {
            let folder = tempfile::tempdir().expect("folder");
            let (path, file, mut connection) = schema::fresh(&folder);
            let checkpoints = Checkpoints::start(path.clone(), file).expect("starts");
            checkpoints.watch(&mut connection).expect("watches");
            Self { connection, checkpoints, path, _folder: folder }
        }

        /// One commit; how many pages the log has after it.
        fn commit(&mut self) -> i32 {
            let sql = "INSERT INTO bodies (encoding, body) VALUES ('plain', zeroblob(160000))";
            self.connection.execute(sql, []).expect("commits");
            self.checkpoints.after_commit(&self.connection);
            self.checkpoints.log.pages.load(Ordering::Relaxed)
        }

        /// Commits until the log has started over; how many pages it had before that.
        fn start_over(&mut self) -> i32 {
            let mut before = 0;
            loop {
                let pages = self.commit();
                if pages < before {
                    return before;
                }
                before = pages;
                assert!(before < 2 * HARD, "the log only grows");
            }
        }
    }

    #[test]
    fn under_load_without_a_pause_the_log_starts_over() {
        let mut load = Load::start();
        assert!((SOFT..=HARD).contains(&load.start_over()));
    }

    #[test]
    fn a_log_that_a_backup_holds_starts_over_once_that_is_over() {
        let mut load = Load::start();
        let backup = schema::reader(&load.path).expect("opens");
        let count = "SELECT count(*) FROM bodies";
        let counted = |db: &Connection| db.query_row(count, [], |row| row.get::<_, i64>(0)).expect("counts");
        load.commit();
        backup.execute_batch("BEGIN").expect("begins");
        assert_eq!(counted(&backup), 1);
        while load.commit() < HARD + STEP {}
        assert_eq!(counted(&backup), 1, "what it reads is as of its begin");
        backup.execute_batch("COMMIT").expect("ends");
        load.start_over();
        assert_eq!(counted(&load.connection), counted(&backup));
    }
}
