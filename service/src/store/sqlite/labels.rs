//! Labels of licenses, remembered for listings that do not tell them.

use std::collections::HashMap;

use grantsmith_core::AppId;
use grantsmith_core::license::Fingerprint;
use rusqlite::{Connection, params};

use super::failure::Failure;
use super::rows::{self, Columns};

/// All labels known for an app.
pub(super) fn all(
    connection: &Connection,
    app: &AppId,
) -> Result<HashMap<Fingerprint, Option<String>>, Failure> {
    rows::all(connection, "SELECT fingerprint, label FROM labels WHERE app_id = ?1", [app.as_str()], |row| {
        let fingerprint = Fingerprint::from_hex(row.value::<String>("fingerprint")?);
        Ok((fingerprint, row.value("label")?))
    })
}

/// Remembers labels of an app's licenses.
pub(super) fn remember(
    connection: &Connection,
    app: &AppId,
    labels: &[(Fingerprint, Option<String>)],
) -> Result<(), Failure> {
    for (fingerprint, label) in labels {
        rows::run(connection, "INSERT INTO labels (app_id, fingerprint, label) VALUES (?1, ?2, ?3)
         ON CONFLICT (app_id, fingerprint) DO UPDATE SET label = excluded.label WHERE label IS NOT excluded.label", params![app.as_str(), fingerprint.as_str(), label])?;
    }
    Ok(())
}
