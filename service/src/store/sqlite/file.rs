//! The file: made for its owner alone, and held by one process.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::store::Error;

/// Keys stand in the file in the clear. SQLite gives `-wal` and `-shm` the mode of the file itself.
const MODE: u32 = 0o600;

/// The claim on a database file, for as long as the store lives.
#[derive(Debug)]
pub(super) struct Claim {
    /// The file, by the one path that every process finds it under.
    pub(super) path: PathBuf,
    /// The file itself. Open until all connections are closed: SQLite's locks on it go when any descriptor of it is closed.
    pub(super) file: Arc<File>,
    /// Held, never read: the kernel takes the lock away with the process, however that ends.
    _lock: File,
}

/// Claims the database file, and makes it if it is not there.
pub(super) fn claim(path: &Path) -> Result<Claim, Error> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let folder = parent.canonicalize().map_err(|error| no_folder(path, parent, &error))?;
    let Some(name) = path.file_name() else { return Err(not_a_file(path)) };
    let path_there = folder.join(name);
    // Through a link as well, so that two names of one file meet at one lock.
    let real = path_there.canonicalize().unwrap_or(path_there);
    if real.is_dir() {
        return Err(not_a_file(path));
    }
    let lock = lock(&real, path)?;
    let file = make(&real, path)?.into();
    Ok(Claim { path: real, file, _lock: lock })
}

/// Whether the file is there, and can be written; makes nothing.
pub(super) fn usable(path: &Path) -> Result<bool, Error> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    parent.canonicalize().map_err(|error| no_folder(path, parent, &error))?;
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(unusable(path, &error)),
    }
}

/// A lock file of its own: a lock on the database file would be lost when SQLite closes any descriptor of it.
fn lock(real: &Path, told: &Path) -> Result<File, Error> {
    let mut name = real.as_os_str().to_owned();
    name.push(".lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(MODE)
        .open(&name)
        .map_err(|error| unusable(told, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::InUse(told.to_owned())),
        Err(TryLockError::Error(error)) => Err(unusable(told, &error)),
    }
}

fn make(real: &Path, told: &Path) -> Result<File, Error> {
    let unusable = |error: io::Error| unusable(told, &error);
    match OpenOptions::new().create_new(true).read(true).write(true).mode(MODE).open(real) {
        Ok(file) => {
            // The mode above is cut by the umask, this one is not.
            file.set_permissions(PermissionsExt::from_mode(MODE)).map_err(unusable)?;
            // Or a loss of power takes the name of a file whose content was synced.
            let folder = real.parent().map_or_else(|| File::open("."), File::open);
            folder.and_then(|folder| folder.sync_all()).map_err(unusable)?;
            Ok(file)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let file = OpenOptions::new().read(true).write(true).open(real).map_err(unusable)?;
            if file.metadata().map_err(unusable)?.permissions().mode() & 0o077 != 0 {
                tracing::warn!(path = %told.display(), "others may read the database file, and it holds license keys");
            }
            Ok(file)
        }
        Err(error) => Err(unusable(error)),
    }
}

fn no_folder(path: &Path, folder: &Path, error: &io::Error) -> Error {
    let (path, folder) = (path.display(), folder.display());
    Error::BadUrl(match error.kind() {
        ErrorKind::NotFound => {
            format!("the folder '{folder}' of --database-url does not exist; make it, or name another path")
        }
        _ => format!("the folder '{folder}' of '{path}' cannot be used: {}", why(error)),
    })
}

fn not_a_file(path: &Path) -> Error {
    Error::BadUrl(format!(
        "'{}' is a folder; --database-url must name a file, such as sqlite://{}",
        path.display(),
        path.join("grantsmith.db").display()
    ))
}

fn unusable(path: &Path, error: &io::Error) -> Error {
    let path = path.display();
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            Error::Unavailable(format!("no room to make '{path}'"))
        }
        _ => Error::BadUrl(format!(
            "'{path}' cannot be opened for writing: {}; give this user the right to, or name another path",
            why(error)
        )),
    }
}

/// The cause without Rust's `(os error 13)`.
fn why(error: &io::Error) -> String {
    let text = error.to_string();
    text.split_once(" (os error").map_or(text.clone(), |(why, _)| why.to_lowercase())
}
