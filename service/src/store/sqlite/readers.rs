//! A few connections that only read. Each read sees the record as of one commit, and holds up no writer.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::failure::{Failure, Kind};
use super::schema;
use crate::store::Error;

/// Reads at a time. More would only compete for the same processors, and each holds memory.
const CONNECTIONS: usize = 4;

/// The pool.
#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    permits: Semaphore,
}

impl Readers {
    pub(super) fn new(path: PathBuf) -> Arc<Self> {
        Arc::new(Self { path, idle: Mutex::default(), permits: Semaphore::new(CONNECTIONS) })
    }

    /// Runs `work` on one of the connections, away from the runtime's threads.
    pub(super) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Error> {
        let stopped = || Error::Unavailable("the readers have stopped".to_owned());
        let _permit = self.permits.acquire().await.map_err(|_| stopped())?;
        let pool = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || pool.run(work)).await;
        Ok(done.map_err(|_| stopped())??)
    }

    fn run<T>(&self, work: impl FnOnce(&Connection) -> Result<T, Failure>) -> Result<T, Failure> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => schema::reader(&self.path)?,
        };
        let done = snapshot(&connection, work);
        let usable = connection.is_autocommit()
            && !matches!(&done, Err(failure) if matches!(failure.kind, Kind::Broken | Kind::Locked));
        if usable {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        }
        done
    }
}

fn snapshot<T>(
    connection: &Connection,
    work: impl FnOnce(&Connection) -> Result<T, Failure>,
) -> Result<T, Failure> {
    connection.prepare_cached("BEGIN")?.execute([])?;
    let done = work(connection);
    let ended = connection.prepare_cached("ROLLBACK").and_then(|mut end| end.execute([]));
    let value = done?;
    ended?;
    Ok(value)
}
