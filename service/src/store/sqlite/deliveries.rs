//! Sendings of keys.

use grantsmith_core::{GrantId, Reason};
use jiff::Timestamp;
use rusqlite::{Connection, Row, named_params, params};

use super::failure::Failure;
use super::grants;
use super::rows::{self, Columns, Word, millis};
use crate::store::{Attempted, Delivery, DeliveryState};

const COLUMNS: &str = "grant_id, number, state, reason, detail, tries, created, updated";

fn delivery(row: &Row<'_>) -> Result<Delivery, Failure> {
    Ok(Delivery {
        grant: row.grant_id("grant_id")?,
        number: row.value("number")?,
        state: row.word("state")?,
        reason: row.maybe_word("reason")?,
        detail: row.value("detail")?,
        tries: row.value("tries")?,
        created: row.time("created")?,
        updated: row.time("updated")?,
    })
}

/// A grant's newest sending.
pub(super) fn newest(connection: &Connection, grant: &GrantId) -> Result<Option<Delivery>, Failure> {
    let sql = format!("SELECT {COLUMNS} FROM deliveries WHERE grant_id = ?1 ORDER BY number DESC LIMIT 1");
    rows::first(connection, &sql, [grant.as_str()], delivery)
}

/// Sendings whose time has come, longest waiting first.
pub(super) fn due(connection: &Connection, now: Timestamp, limit: u32) -> Result<Vec<Delivery>, Failure> {
    let sql =
        format!("SELECT {COLUMNS} FROM deliveries WHERE due <= ?1 ORDER BY due, grant_id, number LIMIT ?2");
    rows::all(connection, &sql, params![millis(now), limit], delivery)
}

/// Begins the first sending, unless one was begun before.
pub(super) fn begin(connection: &Connection, grant: &GrantId, at: Timestamp) -> Result<(), Failure> {
    let begun = rows::run(
        connection,
        "INSERT INTO deliveries (grant_id, number, state, due, created, updated)
             SELECT ?1, 1, 'due', ?2, ?2, ?2
             WHERE NOT EXISTS (SELECT 1 FROM deliveries WHERE grant_id = ?1)",
        params![grant.as_str(), millis(at)],
    )?;
    if begun == 0 {
        return Ok(());
    }
    grants::note(connection, grant, at, "work", "sending 1 is due")
}

/// Asks for another sending.
pub(super) fn resend(
    connection: &Connection,
    grant: &GrantId,
    cause: &str,
    at: Timestamp,
) -> Result<u32, Failure> {
    if !grants::exists(connection, grant)? {
        return Err(Failure::damaged(format!("there is no grant '{grant}' to send the keys of")));
    }
    rows::run(
        connection,
        "UPDATE deliveries SET state = 'dropped', updated = ?2 WHERE grant_id = ?1 AND state = 'parked'",
        params![grant.as_str(), millis(at)],
    )?;
    let sql = "INSERT INTO deliveries (grant_id, number, state, due, created, updated)
        SELECT ?1, 1 + coalesce(max(number), 0), 'due', ?2, ?2, ?2 FROM deliveries WHERE grant_id = ?1
        RETURNING number";
    let number: u32 = rows::one(connection, sql, params![grant.as_str(), millis(at)])?.unwrap_or(1);
    grants::note(connection, grant, at, cause, &format!("sending {number} is due"))?;
    Ok(number)
}

/// Writes what became of a try to send.
pub(super) fn attempted(
    connection: &Connection,
    grant: &GrantId,
    number: u32,
    attempted: &Attempted,
) -> Result<(), Failure> {
    let sql = "SELECT state, reason FROM deliveries WHERE grant_id = ?1 AND number = ?2";
    let before = rows::first(connection, sql, params![grant.as_str(), number], |row| {
        Ok((row.word::<DeliveryState>("state")?, row.maybe_word::<Reason>("reason")?))
    })?;
    let Some(before) = before else {
        return Err(Failure::damaged(format!("grant '{grant}' has no sending {number}")));
    };
    let due = attempted.due.filter(|_| attempted.state == DeliveryState::Due);
    rows::run(
        connection,
        "UPDATE deliveries SET
             state = :state, reason = :reason, detail = :detail, due = :due, tries = tries + 1,
             updated = CASE WHEN state = :state THEN updated ELSE :at END
         WHERE grant_id = :grant AND number = :number",
        named_params! {
            ":grant": grant.as_str(),
            ":number": number,
            ":state": attempted.state.word(),
            ":reason": attempted.reason.map(Word::word),
            ":detail": attempted.detail,
            // One that is to be sent is never without a time, or nothing would come back to it.
            ":due": match attempted.state {
                DeliveryState::Due => Some(millis(due.unwrap_or(attempted.at))),
                DeliveryState::Sent | DeliveryState::Parked | DeliveryState::Dropped => None,
            },
            ":at": millis(attempted.at),
        },
    )?;
    if before == (attempted.state, attempted.reason) {
        return Ok(());
    }
    grants::note(connection, grant, attempted.at, "mail", &in_words(number, attempted))
}

fn in_words(number: u32, attempted: &Attempted) -> String {
    let state = match attempted.state {
        DeliveryState::Due => "is to be tried again",
        DeliveryState::Sent => "was taken by the mail server",
        DeliveryState::Parked => "waits for a person",
        DeliveryState::Dropped => "was dropped",
    };
    match attempted.reason {
        Some(reason) => format!("sending {number} {state}: {reason}"),
        None => format!("sending {number} {state}"),
    }
}
