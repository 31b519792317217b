//! The licenses that a grant declares.

use std::cmp::Ordering;

use grantsmith_core::grant::Declared;
use grantsmith_core::license::Fingerprint;
use grantsmith_core::port::Kept;
use grantsmith_core::{Desired, GrantId, LicenseName};
use rusqlite::{Connection, Row, named_params, params};

use super::attempts;
use super::failure::Failure;
use super::rows::{self, Columns, Word, millis, slots_number};
use crate::store::GrantLicense;

/// The licenses of a grant, in the order of their units.
pub(super) fn licenses(connection: &Connection, id: &GrantId) -> Result<Vec<GrantLicense>, Failure> {
    let kept = attempts::seen(connection, id)?;
    let resets = attempts::newest_resets(connection, id)?;
    rows::all(
        connection,
        "SELECT * FROM declared WHERE grant_id = ?1 ORDER BY ordinal, name",
        [id.as_str()],
        |row| {
            let desired = desired(row)?;
            let generation =
                |kept: &Kept| (kept.name == desired.name).then(|| kept.generation.cmp(&desired.generation));
            // Not told while the one that it replaces may work: its buyer would have two.
            let replaces = kept.iter().any(|row| {
                generation(&row.kept).is_some_and(Ordering::is_lt) && row.kept.state.may_be_live()
            });
            let own = kept.iter().find(|row| generation(&row.kept).is_some_and(Ordering::is_eq) && !replaces);
            let (kept, shown) = own.map(|row| (row.kept.clone(), row.shown.clone())).unzip();
            let delivered = own.is_some_and(|row| row.delivered);
            let reset = resets.get(&desired.name).copied();
            Ok(GrantLicense { reason: row.word("standing")?, kept, shown, delivered, reset, desired })
        },
    )
}

/// The names that were given so far, in the order of their units.
pub(super) fn names(connection: &Connection, id: &GrantId) -> Result<Vec<Declared>, Failure> {
    let sql = "SELECT name, app_id, slots, imported, expiry, withdrawn FROM declared WHERE grant_id = ?1
         ORDER BY ordinal, name";
    rows::all(connection, sql, [id.as_str()], |row| {
        Ok(Declared {
            name: row.license_name("name")?,
            app_id: row.app_id("app_id")?,
            slots: row.slots("slots")?,
            imported: row.value("imported")?,
            expiry: row.word("expiry")?,
            withdrawn: row.value("withdrawn")?,
        })
    })
}

fn desired(row: &Row<'_>) -> Result<Desired, Failure> {
    Ok(Desired {
        name: row.license_name("name")?,
        generation: row.value("generation")?,
        app_id: row.app_id("app_id")?,
        slots: row.slots("slots")?,
        state: row.word("state")?,
        expires_at: row.maybe_time("expires_at")?,
        expiry: row.word("expiry")?,
        reason: row.word("reason")?,
        cause: row.word("cause")?,
        imported: row.value("imported")?,
        withdrawn: row.value("withdrawn")?,
        adopt: row.value::<Option<String>>("adopt")?.map(Fingerprint::from_hex),
    })
}

/// Brings the declared licenses up to date; says whether anything has changed.
pub(super) fn declare(connection: &Connection, id: &GrantId, licenses: &[Desired]) -> Result<bool, Failure> {
    let mut changed = false;
    for (ordinal, license) in (1_u32..).zip(licenses) {
        changed |= declare_one(connection, id, ordinal, license)?;
    }
    let names: Vec<&str> = licenses.iter().map(|license| license.name.as_str()).collect();
    let sql = "SELECT name FROM declared WHERE grant_id = ?1";
    let known: Vec<String> = rows::all(connection, sql, [id.as_str()], |row| row.value("name"))?;
    for name in known.iter().filter(|name| !names.contains(&name.as_str())) {
        changed |= withdraw(connection, id, name)?;
    }
    Ok(changed)
}

/// Takes a name back that is declared no longer. One with a key, with an attempt that may yet bring one, or with a key that is
/// looked for stays as it is: a view that has shrunk is no reason to lose sight of a license.
fn withdraw(connection: &Connection, id: &GrantId, name: &str) -> Result<bool, Failure> {
    Ok(rows::run(
        connection,
        "DELETE FROM declared
         WHERE grant_id = ?1 AND name = ?2 AND adopt IS NULL
             AND NOT EXISTS (SELECT 1 FROM licenses WHERE grant_id = ?1 AND name = ?2)
             AND NOT EXISTS (SELECT 1 FROM attempts WHERE grant_id = ?1 AND name = ?2)",
        params![id.as_str(), name],
    )? > 0)
}

/// Declares which key a license is to have.
pub(super) fn adopt(
    connection: &Connection,
    id: &GrantId,
    license: &LicenseName,
    key: &Fingerprint,
) -> Result<(), Failure> {
    let sql = "UPDATE declared SET adopt = ?3, standing = 'Issuing' WHERE grant_id = ?1 AND name = ?2";
    rows::run(connection, sql, [id.as_str(), license.as_str(), key.as_str()]).map(|_| ())
}

/// Declares one license, whatever is declared besides; which key it is to have stays.
pub(super) fn declare_one(
    connection: &Connection,
    id: &GrantId,
    ordinal: u32,
    license: &Desired,
) -> Result<bool, Failure> {
    let changed = rows::run(connection, "INSERT INTO declared (
             grant_id, name, ordinal, generation, app_id, slots, state, expires_at, expiry, reason, cause, standing,
             imported, withdrawn
         ) VALUES (
             :grant, :name, :ordinal, :generation, :app, :slots, :state, :expires_at, :expiry, :reason, :cause, 'Issuing',
             :imported, :withdrawn
         ) ON CONFLICT (grant_id, name) DO UPDATE SET
             ordinal = excluded.ordinal,
             generation = excluded.generation,
             app_id = excluded.app_id,
             slots = excluded.slots,
             state = excluded.state,
             expires_at = excluded.expires_at,
             expiry = excluded.expiry,
             reason = excluded.reason,
             cause = excluded.cause,
             imported = excluded.imported,
             withdrawn = excluded.withdrawn
         WHERE (
             generation, app_id, slots, state, expires_at, expiry, reason, cause, imported, withdrawn
         ) IS NOT (
             excluded.generation, excluded.app_id, excluded.slots, excluded.state, excluded.expires_at,
             excluded.expiry, excluded.reason, excluded.cause, excluded.imported, excluded.withdrawn
         )", named_params! {
        ":grant": id.as_str(),
        ":name": license.name.as_str(),
        ":ordinal": ordinal,
        ":generation": license.generation,
        ":app": license.app_id.as_str(),
        ":slots": slots_number(license.slots),
        ":state": license.state.word(),
        ":expires_at": license.expires_at.map(millis),
        ":expiry": license.expiry.word(),
        ":reason": license.reason.word(),
        ":cause": license.cause.word(),
        ":imported": license.imported,
        ":withdrawn": license.withdrawn,
    })?;
    Ok(changed > 0)
}
