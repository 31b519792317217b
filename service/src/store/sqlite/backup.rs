//! A copy of the record while a server works on it.
//!
//! It neither waits for the claim on the file nor holds up the writer: it reads as of one commit. Until it is over the log
//! cannot start over, so it grows by what is written meanwhile.

use std::fs::File;
use std::path::Path;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};
use tempfile::{Builder, NamedTempFile};

use super::failure::Failure;
use super::schema;
use crate::store::{Error, TableRows};

/// Pages between two tellings of the progress: 4 MiB.
const STEP: i32 = 1024;

/// Copies the record at `from` to the new file `to`, and reads the copy back.
///
/// The file gets its name last: what is called so is whole.
pub(in crate::store) fn run(
    from: &Path,
    to: &Path,
    progress: &mut dyn FnMut(u8),
) -> Result<Vec<TableRows>, Error> {
    let folder = match to.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    if !from.is_file() {
        let from = from.display();
        return Err(Error::BadUrl(format!("there is no record at '{from}'; name it with --database-url")));
    }
    if to.symlink_metadata().is_ok() {
        return Err(taken(to));
    }
    if !folder.is_dir() {
        let (to, folder) = (to.display(), folder.display());
        return Err(Error::Unavailable(format!(
            "'{to}' cannot be written: there is no folder '{folder}'; make it first"
        )));
    }
    // For its owner alone, and gone again if this comes to nothing.
    let part = Builder::new().prefix(".grantsmith-backup-").tempfile_in(folder);
    let part = part.map_err(|error| unwritable(to, &error))?;
    let rows = copy(from, part.path(), progress).map_err(|failure| schema::opening(failure, from))?;
    keep(part, folder, to)?;
    Ok(rows)
}

fn copy(from: &Path, to: &Path, progress: &mut dyn FnMut(u8)) -> Result<Vec<TableRows>, Failure> {
    let source = schema::reader(from)?;
    schema::version(&source, from)?;
    // One commit for the pages and for the numbers; without it each commit of the server would begin the copy anew.
    source.execute_batch("BEGIN")?;
    let rows = count(&source)?;
    let mut copy = Connection::open_with_flags(to, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let backup = Backup::new(&source, &mut copy)?;
    while backup.step(STEP)? != StepResult::Done {
        let pages = backup.progress();
        let left = i64::from(pages.remaining) * 100 / i64::from(pages.pagecount.max(1));
        progress(u8::try_from(100 - left).unwrap_or(0));
    }
    drop(backup);
    copy.close().map_err(|(_, error)| error)?;
    if verified(to)? == rows { Ok(rows) } else { Err(Failure::damaged("the copy has not the same rows")) }
}

/// Reads a copy back from its file, and counts its rows.
fn verified(path: &Path) -> Result<Vec<TableRows>, Failure> {
    let copy = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    // One file without companions, which can be carried away by itself. A server turns it back.
    copy.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(()))?;
    let verdict: String = copy.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if verdict != "ok" {
        return Err(Failure::damaged("the copy does not pass SQLite's integrity check"));
    }
    count(&copy)
}

fn count(connection: &Connection) -> Result<Vec<TableRows>, Failure> {
    let mut names =
        connection.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")?;
    let names = names.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
    let rows = names.into_iter().map(|table| {
        let sql = format!("SELECT count(*) FROM \"{table}\"");
        let rows = connection.query_row(&sql, [], |row| row.get(0))?;
        Ok(TableRows { table, rows })
    });
    rows.collect()
}

/// Puts a copy under its name, on disk before it is there.
fn keep(part: NamedTempFile, folder: &Path, to: &Path) -> Result<(), Error> {
    part.as_file().sync_all().map_err(|error| unwritable(to, &error))?;
    part.persist_noclobber(to).map_err(|error| match error.error.kind() {
        std::io::ErrorKind::AlreadyExists => taken(to),
        _ => unwritable(to, &error.error),
    })?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| unwritable(to, &error))
}

fn taken(to: &Path) -> Error {
    Error::BadUrl(format!("'{}' is there already, and is not overwritten; name a new file", to.display()))
}

fn unwritable(to: &Path, error: &std::io::Error) -> Error {
    Error::Unavailable(format!("'{}' cannot be written: {}", to.display(), error.kind()))
}
