//! Which prices and products have sold licenses, so that money for one of them is never taken for somebody else's.

use rusqlite::Connection;

use super::failure::Failure;
use super::rows;

/// Whether one of these has.
pub(super) fn any(connection: &Connection, ids: &[String]) -> Result<bool, Failure> {
    for id in ids {
        let found = rows::first(connection, "SELECT 1 FROM sold WHERE id = ?1", [id], |_| Ok(()))?;
        if found.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Remembers that they have.
pub(super) fn remember(connection: &Connection, ids: &[String]) -> Result<(), Failure> {
    for id in ids {
        rows::run(connection, "INSERT INTO sold (id) VALUES (?1) ON CONFLICT (id) DO NOTHING", [id])?;
    }
    Ok(())
}
