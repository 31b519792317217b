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
    permits: Arc<Semaphore>,
}

impl Readers {
    pub(super) fn new(path: PathBuf) -> Arc<Self> {
        Arc::new(Self { path, idle: Mutex::default(), permits: Arc::new(Semaphore::new(CONNECTIONS)) })
    }

    /// Runs `work` on one of the connections, away from the runtime's threads.
    pub(super) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Error> {
        let stopped = || Error::Unavailable("the readers have stopped".to_owned());
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| stopped())?;
        let pool = Arc::clone(self);
        let run = move || {
            // The read goes on if the caller does not wait for it, and so long nobody else has its place.
            let _permit = permit;
            pool.run(work)
        };
        let done = tokio::task::spawn_blocking(run).await;
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn a_read_whose_caller_has_gone_keeps_its_place_until_it_ends() {
        let folder = tempfile::tempdir().expect("folder");
        let (path, _, _) = schema::fresh(&folder);
        let readers = Readers::new(path);
        let mut ends = Vec::new();
        for _ in 0..CONNECTIONS {
            let (end, ended) = channel::<()>();
            let (tell, begun) = oneshot::channel();
            let pool = Arc::clone(&readers);
            let caller = tokio::spawn(async move {
                let read = move |_: &Connection| {
                    let _ = tell.send(());
                    Ok(ended.recv().is_err())
                };
                pool.read(read).await
            });
            begun.await.expect("begins");
            caller.abort();
            assert!(caller.await.is_err_and(|error| error.is_cancelled()));
            ends.push(end);
        }
        assert_eq!(readers.permits.available_permits(), 0);
        drop(ends);
        for _ in 0..2 * CONNECTIONS {
            readers.read(|_| Ok(())).await.expect("reads");
        }
        assert!(readers.idle.lock().expect("not poisoned").len() <= CONNECTIONS);
    }
}
