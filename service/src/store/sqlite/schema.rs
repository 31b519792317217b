//! Connections, and the schema brought up to date.

use std::path::Path;
use std::sync::Once;
use std::time::Duration;
#[cfg(test)]
use std::{fs::File, path::PathBuf, sync::Arc};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::failure::{Failure, Kind};
use crate::store::Error;

/// Migrations by number, the first being 1. Never edited once released.
const MIGRATIONS: [&str; KNOWN as usize] = [include_str!("../../../migrations/sqlite/0001_record.sql")];

/// The newest schema that this program knows.
const KNOWN: u32 = 1;

/// Tells our files from other programs': `GrSm`.
const APPLICATION: i32 = 0x4772_536d;

/// How long to wait for somebody else's lock. Stripe's patience, and the 15 s that we promise, are longer.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Statements that a connection keeps prepared: more than there are.
const STATEMENTS: usize = 128;

/// Pages held in memory by the writer: 4 MiB. What is not in it is read from the system's cache, which costs less than SQLite's
/// walk over its whole cache after each commit that has split a page.
const WRITER_CACHE_KIB: i32 = -4 * 1024;

/// Opens the writer's connection, and brings the schema up to date.
pub(super) fn writer(path: &Path) -> Result<Connection, Failure> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = open(path, flags)?;
    // First of all, so that nothing of somebody else's is changed.
    let found = version(&connection, path)?;
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        return Err(Error::Unavailable(format!("the journal mode stays '{mode}'; it must be 'wal'")).into());
    }
    // FULL, as NORMAL would lose answered events with the power. Checkpoints are the checkpointer's: in the writer they
    // would hold up whoever waits for the commit after which they happen.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "cache_size", WRITER_CACHE_KIB)?;
    // The log starts over in place: overwriting costs no file system journal, growing does. After a burst it shrinks.
    connection.pragma_update(None, "journal_size_limit", super::checkpoint::LOG_BYTES_KEPT)?;
    if found < KNOWN {
        migrate(&connection, found)?;
    }
    Ok(connection)
}

/// Has SQLite put beside the file what does not fit into memory. `VACUUM` writes a copy of the whole record there, and the
/// system's folder for such things may be small, or memory itself.
///
/// Once: SQLite has one such folder for all connections of a process, and any of them may be reading which.
pub(super) fn spill_beside(connection: &Connection, path: &Path) {
    static SET: Once = Once::new();
    SET.call_once(|| {
        let folder = path.parent().and_then(Path::to_str);
        let set = folder
            .is_some_and(|folder| connection.pragma_update(None, "temp_store_directory", folder).is_ok());
        if !set {
            tracing::warn!("SQLite writes what does not fit into memory to the system's temporary folder");
        }
    });
}

/// Opens a connection for the checkpointer.
pub(super) fn checkpointer(path: &Path) -> Result<Connection, Failure> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = open(path, flags)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    Ok(connection)
}

/// Opens a connection that only reads.
pub(super) fn reader(path: &Path) -> Result<Connection, Failure> {
    open(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)
}

fn open(path: &Path, flags: OpenFlags) -> Result<Connection, Failure> {
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(PATIENCE)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    // Without this SQLite looks at each value that is bound, in case it makes a partial index usable, and compiles the
    // statement anew for it: every time.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    Ok(connection)
}

/// Brings the schema up to date, all of it or nothing.
fn migrate(connection: &Connection, found: u32) -> Result<(), Failure> {
    connection.execute_batch("BEGIN EXCLUSIVE")?;
    let done = apply(connection, found);
    if done.is_err() {
        // The first error is the one to tell.
        let _ = connection.execute_batch("ROLLBACK");
    }
    done
}

fn apply(connection: &Connection, found: u32) -> Result<(), Failure> {
    for (number, migration) in (1..).zip(MIGRATIONS) {
        if number > found {
            connection.execute_batch(migration)?;
        }
    }
    connection.pragma_update(None, "application_id", APPLICATION)?;
    connection.pragma_update(None, "user_version", KNOWN)?;
    Ok(connection.execute_batch("COMMIT")?)
}

/// The schema's version: 0 of a new file.
pub(super) fn version(connection: &Connection, path: &Path) -> Result<u32, Failure> {
    let found: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let application: i32 = connection.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    let tables: u32 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if application != APPLICATION && (tables > 0 || found > 0) {
        return Err(not_ours(path));
    }
    if found > KNOWN {
        return Err(Error::TooNew { found, known: KNOWN }.into());
    }
    Ok(found)
}

fn not_ours(path: &Path) -> Failure {
    let path = path.display();
    Error::BadUrl(format!("'{path}' is a database of another program; name another path in --database-url"))
        .into()
}

/// What a failure to open means to whoever wrote the URL.
pub(super) fn opening(failure: Failure, path: &Path) -> Error {
    let name = path.display();
    match failure.error {
        Error::Damaged(_) if failure.kind == Kind::Broken => Error::BadUrl(format!(
            "'{name}' is not a SQLite database, or is damaged; name another path in --database-url, or restore a backup"
        )),
        Error::Unavailable(why) => Error::Unavailable(format!("'{name}': {why}")),
        error => error,
    }
}

/// An empty record in a folder: its path, its file and the writer's connection.
#[cfg(test)]
pub(super) fn fresh(folder: &tempfile::TempDir) -> (PathBuf, Arc<File>, Connection) {
    let path = folder.path().join("grantsmith.db");
    let file = File::create(&path).expect("makes the file");
    let connection = writer(&path).expect("opens");
    (path, file.into(), connection)
}

#[cfg(test)]
mod tests {
    use rusqlite::StatementStatus;

    use super::*;

    #[test]
    fn a_statement_is_compiled_once_whatever_is_bound_to_it() {
        let folder = tempfile::tempdir().expect("folder");
        let (_, _, connection) = fresh(&folder);
        let sql = "SELECT number FROM deliveries WHERE state = ?1";
        let mut statement = connection.prepare(sql).expect("compiles");
        for state in ["parked", "due", "sent"] {
            assert!(statement.query([state]).expect("runs").next().expect("ends").is_none());
        }
        assert_eq!(statement.get_status(StatementStatus::RePrepare), 0);
    }
}
