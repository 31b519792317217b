//! Mails to buyers.

use grantsmith_core::grant::Dunning;
use grantsmith_core::{GrantId, Reason};
use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, Row, named_params, params};

use super::failure::Failure;
use super::grants;
use super::rows::{self, Columns, Word, millis};
use crate::store::{Attempted, Delivery, DeliveryState};

const COLUMNS: &str = "grant_id, kind, number, until, state, reason, detail, tries, created, updated";

fn delivery(row: &Row<'_>) -> Result<Delivery, Failure> {
    Ok(Delivery {
        grant: row.grant_id("grant_id")?,
        kind: row.word("kind")?,
        until: row.maybe_time("until")?,
        number: row.value("number")?,
        state: row.word("state")?,
        reason: row.maybe_word("reason")?,
        detail: row.value("detail")?,
        tries: row.value("tries")?,
        created: row.time("created")?,
        updated: row.time("updated")?,
    })
}

/// A grant's newest sending of keys.
pub(super) fn newest(connection: &Connection, grant: &GrantId) -> Result<Option<Delivery>, Failure> {
    let sql = format!(
        "SELECT {COLUMNS} FROM deliveries WHERE grant_id = ?1 AND kind != 'payment_failed' ORDER BY number DESC LIMIT 1"
    );
    rows::first(connection, &sql, [grant.as_str()], delivery)
}

/// Sendings whose time has come, longest waiting first.
pub(super) fn due(connection: &Connection, now: Timestamp, limit: u32) -> Result<Vec<Delivery>, Failure> {
    let sql =
        format!("SELECT {COLUMNS} FROM deliveries WHERE due <= ?1 ORDER BY due, grant_id, number LIMIT ?2");
    rows::all(connection, &sql, params![millis(now), limit], delivery)
}

/// Begins a sending, if a live license that was made by us is in none yet: a key that the guide's own code made was handed over by
/// that code. Else the one goes on that was called off.
pub(super) fn begin(connection: &Connection, grant: &GrantId, at: Timestamp) -> Result<(), Failure> {
    let begun = rows::run(
        connection,
        "INSERT INTO deliveries (grant_id, number, state, due, created, updated)
             SELECT ?1, 1 + coalesce((SELECT max(number) FROM deliveries WHERE grant_id = ?1), 0), 'due', ?2, ?2, ?2
             WHERE EXISTS (
                 SELECT 1 FROM licenses
                 WHERE grant_id = ?1 AND sending IS NULL AND attempt IS NOT NULL AND state = 'live'
             )",
        params![grant.as_str(), millis(at)],
    )?;
    let number = if begun == 0 { call_on(connection, grant, at)? } else { Some(bring(connection, grant)?) };
    let Some(number) = number else { return Ok(()) };
    grants::note(connection, grant, at, "work", &format!("sending {number} is due"))
}

/// Due at `?2`, as if it had been asked for then.
const AFRESH: &str =
    "state = 'due', reason = NULL, detail = NULL, tries = 0, due = ?2, created = ?2, updated = ?2";

/// Has go out what was called off, if nothing was sent since. Gives its number.
fn call_on(connection: &Connection, grant: &GrantId, at: Timestamp) -> Result<Option<u32>, Failure> {
    let sql = format!(
        "UPDATE deliveries SET {AFRESH}
         WHERE grant_id = ?1 AND state = 'dropped' AND reason = ?3
             AND number = (SELECT max(number) FROM deliveries WHERE grant_id = ?1 AND kind != 'payment_failed')
             AND NOT (SELECT forgotten FROM grants WHERE id = ?1)
         RETURNING number"
    );
    rows::one(connection, &sql, params![grant.as_str(), millis(at), Reason::Canceled.word()])
}

/// Writes down which sending brings the live licenses: the newest. Gives its number.
fn bring(connection: &Connection, grant: &GrantId) -> Result<u32, Failure> {
    let newest = "SELECT coalesce(max(number), 1) FROM deliveries WHERE grant_id = ?1";
    let number: u32 = rows::one(connection, newest, [grant.as_str()])?.unwrap_or(1);
    let sql = "UPDATE licenses SET sending = ?2 WHERE grant_id = ?1 AND state = 'live'";
    rows::run(connection, sql, params![grant.as_str(), number])?;
    Ok(number)
}

/// Days after the first failure on which a buyer is warned; and before the end, once more.
const WARN_AFTER: [SignedDuration; 2] = [SignedDuration::ZERO, SignedDuration::from_hours(7 * 24)];
const WARN_BEFORE_END: SignedDuration = SignedDuration::from_hours(2 * 24);

/// Plans the warnings about a payment that fails, each once; takes those back that are about anything else.
pub(super) fn warn(
    connection: &Connection,
    grant: &GrantId,
    dunning: Option<&Dunning>,
    at: Timestamp,
) -> Result<(), Failure> {
    let invoice = dunning.map(|dunning| dunning.invoice.as_str());
    rows::run(
        connection,
        "UPDATE deliveries SET state = 'dropped', due = NULL, updated = ?3
         WHERE grant_id = ?1 AND kind = 'payment_failed' AND state IN ('due', 'parked')
             AND (?2 IS NULL OR about NOT LIKE ?2 || '/%')",
        params![grant.as_str(), invoice, millis(at)],
    )?;
    let Some(dunning) = dunning else { return Ok(()) };
    let sql = "UPDATE deliveries SET until = ?2
         WHERE grant_id = ?1 AND kind = 'payment_failed' AND state IN ('due', 'parked') AND until IS NOT ?2";
    rows::run(connection, sql, params![grant.as_str(), millis(dunning.ends_at)])?;
    let after = WARN_AFTER.into_iter().map(|after| dunning.since.checked_add(after));
    let before = dunning.ends_at.checked_sub(WARN_BEFORE_END);
    let mut times: Vec<Timestamp> = after.chain([before]).flatten().collect();
    // A short grace leaves no room for all.
    times.retain(|time| *time >= dunning.since && (*time == dunning.since || *time < dunning.ends_at));
    for (number, time) in times.into_iter().enumerate() {
        let about = format!("{}/{number}", dunning.invoice);
        rows::run(
            connection,
            "INSERT INTO deliveries (grant_id, number, kind, about, until, state, due, created, updated)
                 SELECT ?1, 1 + coalesce((SELECT max(number) FROM deliveries WHERE grant_id = ?1), 0),
                     'payment_failed', ?2, ?5, 'due', max(?3, ?4), max(?3, ?4), ?4
                 WHERE NOT EXISTS (SELECT 1 FROM deliveries WHERE grant_id = ?1 AND about = ?2)",
            params![grant.as_str(), about, millis(time), millis(at), millis(dunning.ends_at)],
        )?;
    }
    Ok(())
}

/// How many sendings wait for the mail server: not those that are planned for later.
pub(super) fn count_due(connection: &Connection, now: Timestamp) -> Result<u64, Failure> {
    let sql = "SELECT count(*) FROM deliveries WHERE due IS NOT NULL AND (due <= ?1 OR reason IS NOT NULL)";
    rows::count(connection, sql, [millis(now)])
}

/// Asks for another sending, in place of those that did not go out yet: every letter brings all live keys.
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
        "UPDATE deliveries SET state = 'dropped', due = NULL, updated = ?2
         WHERE grant_id = ?1 AND state IN ('due', 'parked') AND kind != 'payment_failed'",
        params![grant.as_str(), millis(at)],
    )?;
    let sql = "INSERT INTO deliveries (grant_id, number, kind, state, due, created, updated)
        SELECT ?1, 1 + coalesce(max(number), 0), 'keys_again', 'due', ?2, ?2, ?2 FROM deliveries WHERE grant_id = ?1
        RETURNING number";
    let number: u32 = rows::one(connection, sql, params![grant.as_str(), millis(at)])?.unwrap_or(1);
    bring(connection, grant)?;
    grants::note(connection, grant, at, cause, &format!("sending {number} is due"))?;
    unpark(connection, grant, cause, at)?;
    Ok(number)
}

/// Has go out, if there is an address now, what waited for one, and warnings: of these no resend makes another. Only the newest
/// of keys and of warnings does, which tells all that the ones before it would.
pub(super) fn unpark(
    connection: &Connection,
    grant: &GrantId,
    cause: &str,
    at: Timestamp,
) -> Result<(), Failure> {
    let waited = "grant_id = ?1 AND state = 'parked' AND (reason = 'NoAddress' OR kind = 'payment_failed')
             AND (SELECT email FROM grants WHERE id = ?1) IS NOT NULL";
    let sql = format!(
        "UPDATE deliveries SET state = 'dropped', updated = ?2
         WHERE {waited} AND EXISTS (
             SELECT 1 FROM deliveries newer
             WHERE newer.grant_id = ?1 AND newer.number > deliveries.number AND newer.state <> 'dropped'
                 AND (newer.kind = 'payment_failed') = (deliveries.kind = 'payment_failed')
                 -- A warning whose day has not come tells nobody yet.
                 AND newer.created <= ?2
         )"
    );
    rows::run(connection, &sql, params![grant.as_str(), millis(at)])?;
    let sql = format!("UPDATE deliveries SET {AFRESH} WHERE {waited} RETURNING number");
    let sendings: Vec<u32> =
        rows::all(connection, &sql, params![grant.as_str(), millis(at)], |row| row.value("number"))?;
    sendings.into_iter().try_for_each(|number| {
        grants::note(connection, grant, at, cause, &format!("sending {number} is due"))
    })
}

/// Takes back all that was not sent. Should the grant come back, its keys are mailed then: the reason tells of it, as a key that is
/// found again does not tell that it was made by us.
pub(super) fn call_off(connection: &Connection, grant: &GrantId, at: Timestamp) -> Result<(), Failure> {
    let sql = "UPDATE deliveries SET state = 'dropped', reason = ?3, detail = NULL, due = NULL, updated = ?2
         WHERE grant_id = ?1 AND state IN ('due', 'parked')";
    rows::run(connection, sql, params![grant.as_str(), millis(at), Reason::Canceled.word()]).map(|_| ())
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
    if before.0 == DeliveryState::Dropped && attempted.state != DeliveryState::Sent {
        // Taken back while it was tried.
        return Ok(());
    }
    let due = attempted.due.filter(|_| attempted.state == DeliveryState::Due);
    rows::run(
        connection,
        "UPDATE deliveries SET
             state = :state, reason = :reason, detail = :detail, due = :due, tries = tries + :tried,
             updated = CASE WHEN state = :state THEN updated ELSE :at END
         WHERE grant_id = :grant AND number = :number",
        named_params! {
            ":grant": grant.as_str(),
            ":number": number,
            ":state": attempted.state.word(),
            ":reason": attempted.reason.map(Word::word),
            ":detail": attempted.detail,
            ":tried": attempted.reason != Some(Reason::KeyPending),
            // One that is to be sent is never without a time, or nothing would come back to it.
            ":due": match attempted.state {
                DeliveryState::Due => Some(millis(due.unwrap_or(attempted.at))),
                DeliveryState::Sent | DeliveryState::Parked | DeliveryState::Dropped => None,
            },
            ":at": millis(attempted.at),
        },
    )?;
    if attempted.state == DeliveryState::Dropped {
        // What comes back later is sent then.
        let sql = "UPDATE licenses SET sending = NULL WHERE grant_id = ?1 AND sending = ?2";
        rows::run(connection, sql, params![grant.as_str(), number])?;
    }
    if before == (attempted.state, attempted.reason) {
        return Ok(());
    }
    grants::note(connection, grant, attempted.at, "mail", &in_words(number, attempted))?;
    // The address may have come while this was tried.
    if attempted.reason == Some(Reason::NoAddress) {
        unpark(connection, grant, "mail", attempted.at)?;
    }
    Ok(())
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
