//! What SQLite's errors mean for the caller and for the connection. No text here carries a value from a row.

use rusqlite::ffi::ErrorCode;

use crate::store::Error;

/// What an error means for the writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Somebody else holds the file.
    Locked,
    /// There is no room.
    Full,
    /// The connection may be unusable: open a new one.
    Broken,
    /// The work itself failed, and would fail again.
    Work,
}

/// An error on its way out of a piece of work.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) kind: Kind,
    pub(super) error: Error,
}

impl Failure {
    /// Something is on record that this program cannot have written, or asks for what is not there.
    pub(super) fn damaged(what: impl Into<String>) -> Self {
        Self { kind: Kind::Work, error: Error::Damaged(what.into()) }
    }

    /// Somebody else holds the file.
    pub(super) fn locked() -> Self {
        Self::unavailable(Kind::Locked, "another program holds a lock on the database file")
    }

    fn unavailable(kind: Kind, why: &str) -> Self {
        Self { kind, error: Error::Unavailable(why.to_owned()) }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { kind: Kind::Work, error }
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        let rusqlite::Error::SqliteFailure(code, _) = &error else { return Self::damaged(of_a_row(&error)) };
        let number = code.extended_code;
        match code.code {
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed => {
                Self::locked()
            }
            ErrorCode::DiskFull => Self::unavailable(Kind::Full, "the disk is full"),
            ErrorCode::SystemIoFailure
            | ErrorCode::CannotOpen
            | ErrorCode::ReadOnly
            | ErrorCode::OutOfMemory
            | ErrorCode::PermissionDenied
            | ErrorCode::OperationAborted
            | ErrorCode::OperationInterrupted
            | ErrorCode::NoLargeFileSupport => Self::unavailable(
                Kind::Broken,
                &format!(
                    "the database file cannot be read or written ({code}, SQLite code {number})",
                    code = rusqlite::ffi::code_to_str(number)
                ),
            ),
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => Self {
                kind: Kind::Broken,
                error: Error::Damaged(rusqlite::ffi::code_to_str(number).to_lowercase()),
            },
            // The message would name the constraint, and perhaps one day a value.
            _ => Self::damaged(format!("SQLite refused a statement (code {number})")),
        }
    }
}

fn of_a_row(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::FromSqlConversionFailure(column, ..)
        | rusqlite::Error::IntegralValueOutOfRange(column, _) => {
            format!("column {column} of a row is unreadable")
        }
        rusqlite::Error::InvalidColumnType(_, name, kind) => format!("column '{name}' of a row is a {kind}"),
        rusqlite::Error::InvalidColumnName(name) => format!("a row has no column '{name}'"),
        rusqlite::Error::QueryReturnedNoRows => "a row is missing".to_owned(),
        _ => "a statement does not fit the schema".to_owned(),
    }
}
