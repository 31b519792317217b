//! The portal: who wishes for a link, what opens it, and what buyers ask for themselves.

use data_encoding::HEXLOWER;
use grantsmith_core::purchase::Email;
use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, params};

use super::failure::Failure;
use super::rows::{self, Columns, Word, millis};
use super::{deliveries, grants};
use crate::store::{BuyerResend, Limited, Opens, TokenHash, Wish};

const HOUR: SignedDuration = SignedDuration::from_hours(1);

/// Keeps a wish for a link.
pub(super) fn wish(
    connection: &Connection,
    email: &Email,
    most: u32,
    at: Timestamp,
) -> Result<Limited, Failure> {
    let email = folded(email);
    // The one that has to be over before the next is taken.
    let sql = "SELECT asked FROM portal_wishes WHERE email_folded = ?1 AND asked > ?2
         ORDER BY asked DESC LIMIT 1 OFFSET ?3";
    if let Some(free_at) = taken_up(connection, sql, &email, most, at)? {
        return Ok(Limited::TooMany { free_at });
    }
    rows::run(
        connection,
        "INSERT INTO portal_wishes (email_folded, asked, due) VALUES (?1, ?2, ?2)",
        params![email, millis(at)],
    )?;
    Ok(Limited::Taken)
}

/// When the next may be had, if as many as may be were had in the last hour.
fn taken_up(
    connection: &Connection,
    sql: &str,
    whose: &str,
    most: u32,
    at: Timestamp,
) -> Result<Option<Timestamp>, Failure> {
    let values = params![whose, millis(at) - millis_of(HOUR), most.saturating_sub(1)];
    let first: Option<i64> = rows::one(connection, sql, values)?;
    Ok(first.and_then(|first| Timestamp::from_millisecond(first + millis_of(HOUR)).ok()))
}

fn millis_of(span: SignedDuration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

/// Wishes whose time has come, longest waiting first, each with the address of the newest purchase that has it.
pub(super) fn due(connection: &Connection, now: Timestamp, limit: u32) -> Result<Vec<Wish>, Failure> {
    let sql = "SELECT w.wish, w.tries, (
             SELECT g.email FROM grants g WHERE g.email_folded = w.email_folded AND g.state <> 'not_ours'
             ORDER BY g.created DESC LIMIT 1
         ) AS email
         FROM portal_wishes w WHERE w.due <= ?1 ORDER BY w.due, w.wish LIMIT ?2";
    rows::all(connection, sql, params![millis(now), limit], |row| {
        Ok(Wish {
            number: row.value("wish")?,
            email: row.maybe_parsed("email", |text| Some(Email::new(text)))?.flatten(),
            tries: row.value("tries")?,
        })
    })
}

/// Puts a wish off, or ends it.
pub(super) fn tried(connection: &Connection, number: i64, again: Option<Timestamp>) -> Result<(), Failure> {
    let sql = "UPDATE portal_wishes SET due = ?2, tries = tries + 1 WHERE wish = ?1";
    rows::run(connection, sql, params![number, again.map(millis)])?;
    Ok(())
}

/// Keeps a token for an address.
pub(super) fn issue(
    connection: &Connection,
    token: &TokenHash,
    opens: Opens,
    email: &Email,
    until: Timestamp,
) -> Result<(), Failure> {
    rows::run(
        connection,
        "INSERT INTO portal_tokens (hash, opens, email_folded, until) VALUES (?1, ?2, ?3, ?4)",
        params![HEXLOWER.encode(&token.0), opens.word(), folded(email), millis(until)],
    )?;
    Ok(())
}

/// Spends a token: for whom it was issued, once and before its end.
pub(super) fn spend(
    connection: &Connection,
    token: &TokenHash,
    opens: Opens,
    now: Timestamp,
) -> Result<Option<Email>, Failure> {
    let sql =
        "DELETE FROM portal_tokens WHERE hash = ?1 AND opens = ?2 AND until > ?3 RETURNING email_folded";
    let email: Option<String> =
        rows::one(connection, sql, params![HEXLOWER.encode(&token.0), opens.word(), millis(now)])?;
    Ok(email.and_then(|email| Email::new(&email)))
}

/// Asks for another sending, to another address from now on if there is one.
pub(super) fn resend(connection: &Connection, resend: &BuyerResend) -> Result<Limited, Failure> {
    let BuyerResend { grant, email, most, cause, at } = resend;
    let sql = "SELECT created FROM deliveries WHERE grant_id = ?1 AND created > ?2 AND kind = 'keys_again'
         ORDER BY created DESC LIMIT 1 OFFSET ?3";
    if let Some(free_at) = taken_up(connection, sql, grant.as_str(), *most, *at)? {
        return Ok(Limited::TooMany { free_at });
    }
    if let Some(email) = email {
        let readdressed = rows::run(
            connection,
            "UPDATE grants SET email = ?2, email_folded = ?3, email_by_hand = 1, updated = ?4
             WHERE id = ?1 AND email IS NOT ?2",
            params![grant.as_str(), email.expose(), folded(email), millis(*at)],
        )?;
        if readdressed > 0 {
            grants::note(connection, grant, *at, cause, "the buyer's address has changed")?;
        }
    }
    deliveries::resend(connection, grant, cause, *at)?;
    Ok(Limited::Taken)
}

/// Forgets what is over.
pub(super) fn tidy(connection: &Connection, now: Timestamp) -> Result<(), Failure> {
    let hour_ago = millis(now) - millis_of(HOUR);
    rows::run(connection, "DELETE FROM portal_wishes WHERE due IS NULL AND asked <= ?1", [hour_ago])?;
    rows::run(connection, "DELETE FROM portal_tokens WHERE until <= ?1", [millis(now)])?;
    Ok(())
}

/// An address as addresses are compared.
fn folded(email: &Email) -> String {
    email.expose().to_lowercase()
}
