//! The executor's log: attempts, and the licenses whose keys are kept.

use std::collections::HashMap;

use grantsmith_core::GrantId;
use grantsmith_core::grant::{Cause, LicenseName};
use grantsmith_core::license::{Fingerprint, LicenseKey};
use grantsmith_core::port::{
    Attempt, AttemptId, Change, Kept, KeptState, Outcome, Record, Refusal, Reset, ResetId, ResetOutcome,
};
use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, Row, named_params, params};

use super::failure::Failure;
use super::grants;
use super::rows::{self, Columns, Word, millis, number, slots_number};
use crate::store::{DevicesReset, Seen, Shown};

/// The cause of journal lines that the executor brings.
const WORK: &str = "work";

/// Reads the record of a grant. One that was never decided has an empty record.
pub(super) fn load(connection: &Connection, grant: &GrantId, now: Timestamp) -> Result<Record, Failure> {
    let version = rows::count(connection, "SELECT version FROM grants WHERE id = ?1", [grant.as_str()])?;
    Ok(Record {
        proof_from: None,
        version,
        licenses: kept(connection, grant)?,
        attempts: attempts(connection, grant)?,
        resets: resets(connection, grant)?,
        recent_revocations: recent_revocations(connection, now)?,
    })
}

/// The revocations by rule in the hour before `now`, over all grants.
fn recent_revocations(connection: &Connection, now: Timestamp) -> Result<u32, Failure> {
    let hour_ago = now.checked_sub(SignedDuration::from_hours(1)).unwrap_or(now);
    let sql = "SELECT count(*) FROM licenses WHERE revoked_cause = 'rule' AND revoked_at > ?1";
    Ok(rows::one(connection, sql, [millis(hour_ago)])?.unwrap_or_default())
}

/// The kept licenses of a grant, in the order of keeping.
fn kept(connection: &Connection, grant: &GrantId) -> Result<Vec<Kept>, Failure> {
    Ok(seen(connection, grant)?.into_iter().map(|seen| seen.kept).collect())
}

/// The same, and how they are spoken of.
pub(super) fn seen(connection: &Connection, grant: &GrantId) -> Result<Vec<Seen>, Failure> {
    rows::all(
        connection,
        "SELECT l.*, l.sending = 0 OR EXISTS (
             SELECT 1 FROM deliveries d
             WHERE d.grant_id = l.grant_id AND d.number <= l.sending AND d.state = 'sent' AND d.kind <> 'payment_failed'
         ) AS delivered
         FROM licenses l WHERE l.grant_id = ?1 ORDER BY l.license",
        [grant.as_str()],
        |row| {
            let key = LicenseKey::new(row.value::<String>("key")?);
            let masked = row.value::<Option<String>>("masked")?;
            Ok(Seen {
                shown: Shown {
                    masked: masked.unwrap_or_else(|| key.masked()),
                    fingerprint: Fingerprint::from_hex(row.value::<String>("fingerprint")?),
                },
                delivered: row.value::<Option<bool>>("delivered")?.unwrap_or(false),
                reset: None,
                kept: Kept {
                    name: row.license_name("name")?,
                    generation: row.value("generation")?,
                    key,
                    app_id: row.app_id("app_id")?,
                    slots: row.maybe_slots("slots")?,
                    created_at: row.time("created_at")?,
                    expires_at: row.maybe_time("expires_at")?,
                    attempt: row.value::<Option<String>>("attempt")?.map(AttemptId),
                    state: kept_state(row)?,
                    duplicated: row.value("duplicated")?,
                    refused: refusal(row)?,
                },
            })
        },
    )
}

fn refusal(row: &Row<'_>) -> Result<Option<Refusal>, Failure> {
    match row.value::<Option<String>>("refused")?.as_deref() {
        None => Ok(None),
        Some("reinstate") => Ok(Some(Refusal::Reinstate)),
        Some("shorten") => Ok(Some(Refusal::Shorten(row.time("refused_end")?))),
        Some(_) => Err(Failure::damaged("column 'refused' of a row is unreadable")),
    }
}

fn kept_state(row: &Row<'_>) -> Result<KeptState, Failure> {
    let decided = || Ok::<_, Failure>((row.time("revoked_at")?, row.word::<Cause>("revoked_cause")?));
    match row.value::<String>("state")?.as_str() {
        "live" => Ok(KeptState::Live),
        "revoking" => decided().map(|(at, cause)| KeptState::Revoking { at, cause }),
        "revoked" => decided().map(|(at, cause)| KeptState::Revoked { at, cause }),
        "reinstating" => Ok(KeptState::Reinstating),
        "revoked_elsewhere" => Ok(KeptState::RevokedElsewhere),
        _ => Err(Failure::damaged("column 'state' of a row is unreadable")),
    }
}

/// A state as three columns: `state`, `revoked_at`, `revoked_cause`.
pub(super) fn state_columns(state: KeptState) -> (&'static str, Option<i64>, Option<&'static str>) {
    match state {
        KeptState::Live => ("live", None, None),
        KeptState::Revoking { at, cause } => ("revoking", Some(millis(at)), Some(cause.word())),
        KeptState::Revoked { at, cause } => ("revoked", Some(millis(at)), Some(cause.word())),
        KeptState::Reinstating => ("reinstating", None, None),
        KeptState::RevokedElsewhere => ("revoked_elsewhere", None, None),
    }
}

fn attempts(connection: &Connection, grant: &GrantId) -> Result<Vec<Attempt>, Failure> {
    rows::all(
        connection,
        "SELECT * FROM attempts WHERE grant_id = ?1 ORDER BY number",
        [grant.as_str()],
        |row| {
            let outcome = match row.value::<String>("outcome")?.as_str() {
                "open" => Outcome::Open,
                "answered" => Outcome::Answered { at: row.time("answered_at")? },
                "found" => Outcome::Found,
                "absent" => Outcome::Absent,
                "not_sent" => Outcome::NotSent,
                "refused" => Outcome::Refused,
                _ => return Err(Failure::damaged("column 'outcome' of a row is unreadable")),
            };
            Ok(Attempt {
                id: AttemptId(row.value("id")?),
                name: row.license_name("name")?,
                generation: row.value("generation")?,
                opened_at: row.time("opened_at")?,
                clock_offset: SignedDuration::from_millis(row.value("clock_offset")?),
                outcome,
                watched_at: row.maybe_time("watched_at")?,
            })
        },
    )
}

/// An outcome as two columns: `outcome`, `answered_at`.
fn outcome_columns(outcome: &Outcome) -> (&'static str, Option<i64>) {
    match outcome {
        Outcome::Open => ("open", None),
        Outcome::Answered { at } => ("answered", Some(millis(*at))),
        Outcome::Found => ("found", None),
        Outcome::Absent => ("absent", None),
        Outcome::NotSent => ("not_sent", None),
        Outcome::Refused => ("refused", None),
    }
}

fn no_grant(grant: &GrantId) -> Failure {
    Failure::damaged(format!("there is no grant '{grant}'"))
}

/// Moves a grant's version on.
fn bump(connection: &Connection, grant: &GrantId) -> Result<(), Failure> {
    let sql = "UPDATE grants SET version = version + 1 WHERE id = ?1";
    if rows::run(connection, sql, [grant.as_str()])? > 0 { Ok(()) } else { Err(no_grant(grant)) }
}

/// Writes an attempt down. False, and nothing written, unless the grant is still at `version`.
pub(super) fn open(
    connection: &Connection,
    grant: &GrantId,
    version: u64,
    attempt: &Attempt,
) -> Result<bool, Failure> {
    let moved = rows::run(
        connection,
        "UPDATE grants SET version = version + 1 WHERE id = ?1 AND version = ?2",
        params![grant.as_str(), number(version)],
    )?;
    if moved == 0 {
        // Without a grant, planning again would not help.
        return if grants::exists(connection, grant)? { Ok(false) } else { Err(no_grant(grant)) };
    }
    let (outcome, answered_at) = outcome_columns(&attempt.outcome);
    rows::run(connection, "INSERT INTO attempts (
             grant_id, number, id, name, generation, opened_at, clock_offset, outcome, answered_at, watched_at
         ) VALUES (
             :grant, :number, :id, :name, :generation, :opened_at, :clock_offset, :outcome, :answered_at, :watched_at
         )", named_params! {
        ":grant": grant.as_str(),
        ":number": number(version.saturating_add(1)),
        ":id": attempt.id.0,
        ":name": attempt.name.as_str(),
        ":generation": attempt.generation,
        ":opened_at": millis(attempt.opened_at),
        ":clock_offset": i64::try_from(attempt.clock_offset.as_millis()).unwrap_or_default(),
        ":outcome": outcome,
        ":answered_at": answered_at,
        ":watched_at": attempt.watched_at.map(millis),
    })?;
    let text = format!("license {}: a create is about to be sent (attempt {})", attempt.name, attempt.id);
    grants::note(connection, grant, attempt.opened_at, WORK, &text)?;
    Ok(true)
}

/// Keeps a license's key. One that is kept already changes nothing.
pub(super) fn keep(
    connection: &Connection,
    grant: &GrantId,
    license: &Kept,
    at: Timestamp,
) -> Result<(), Failure> {
    let fingerprint = license.key.fingerprint();
    match grants::of_key(connection, &fingerprint)? {
        Some(owner) if owner == *grant => return Ok(()),
        Some(owner) => {
            return Err(Failure::damaged(format!(
                "license {fingerprint} is kept by grant '{owner}' already"
            )));
        }
        None => {}
    }
    bump(connection, grant)?;
    let (state, revoked_at, revoked_cause) = state_columns(license.state);
    rows::run(connection, "INSERT INTO licenses (
             fingerprint, key, grant_id, name, generation, app_id, slots, created_at, expires_at, first_expires_at,
             attempt, state, revoked_at, revoked_cause
         ) VALUES (
             :fingerprint, :key, :grant, :name, :generation, :app, :slots, :created_at, :expires_at, :expires_at,
             :attempt, :state, :revoked_at, :revoked_cause
         )", named_params! {
        ":fingerprint": fingerprint.as_str(),
        ":key": license.key.expose(),
        ":grant": grant.as_str(),
        ":name": license.name.as_str(),
        ":generation": license.generation,
        ":app": license.app_id.as_str(),
        ":slots": license.slots.map(slots_number),
        ":created_at": millis(license.created_at),
        ":expires_at": license.expires_at.map(millis),
        ":attempt": license.attempt.as_ref().map(|attempt| attempt.0.as_str()),
        ":state": state,
        ":revoked_at": revoked_at,
        ":revoked_cause": revoked_cause,
    })?;
    let how = if license.attempt.is_some() { "kept" } else { "found at AuthForge and kept" };
    let text = format!("license {} {how} (fingerprint {fingerprint})", license.name);
    grants::note(connection, grant, at, WORK, &text)
}

/// Writes down what became of an attempt.
pub(super) fn settle(
    connection: &Connection,
    grant: &GrantId,
    attempt: &AttemptId,
    outcome: &Outcome,
    at: Timestamp,
) -> Result<(), Failure> {
    let (word, answered_at) = outcome_columns(outcome);
    let sql = "UPDATE attempts SET outcome = ?3, answered_at = ?4
         WHERE grant_id = ?1 AND id = ?2 AND (outcome, answered_at) IS NOT (?3, ?4)
         RETURNING name";
    let settled = params![grant.as_str(), attempt.0, word, answered_at];
    let name: Option<String> = rows::one(connection, sql, settled)?;
    let Some(name) = name else { return Ok(()) };
    bump(connection, grant)?;
    let what = match outcome {
        Outcome::Open => "is open again",
        Outcome::Answered { .. } => "was answered",
        Outcome::Found => "had made the license, though its answer was lost",
        Outcome::Absent => "had made no license that can be found",
        Outcome::NotSent => "was not sent",
        Outcome::Refused => "was refused",
    };
    grants::note(connection, grant, at, WORK, &format!("license {name}: attempt {attempt} {what}"))
}

/// Writes down that a rule is about to revoke a license. False, and nothing written, if the budget is spent.
pub(super) fn spend(
    connection: &Connection,
    grant: &GrantId,
    fingerprint: &Fingerprint,
    at: Timestamp,
    budget: u32,
) -> Result<bool, Failure> {
    if recent_revocations(connection, at)? >= budget {
        return Ok(false);
    }
    let state = Change::State(KeptState::Revoking { at, cause: Cause::Rule });
    change(connection, grant, fingerprint, &state, at)?;
    Ok(true)
}

/// Writes down a change to a kept license.
pub(super) fn change(
    connection: &Connection,
    grant: &GrantId,
    fingerprint: &Fingerprint,
    change: &Change,
    at: Timestamp,
) -> Result<(), Failure> {
    let (name, cause, what) = match change {
        Change::State(state) => {
            let (word, revoked_at, revoked_cause) = state_columns(*state);
            // What lives again was not refused to live.
            let sql = "UPDATE licenses SET state = ?3, revoked_at = ?4, revoked_cause = ?5,
                     refused = CASE WHEN ?3 = 'live' AND refused = 'reinstate' THEN NULL ELSE refused END
                 WHERE grant_id = ?1 AND fingerprint = ?2 AND (state, revoked_at, revoked_cause) IS NOT (?3, ?4, ?5)
                 RETURNING name";
            let new = params![grant.as_str(), fingerprint.as_str(), word, revoked_at, revoked_cause];
            let name: Option<String> = rows::one(connection, sql, new)?;
            let (cause, what) = state_in_words(*state);
            (name, cause, what.to_owned())
        }
        Change::Expiry(expires_at) => {
            let sql = "UPDATE licenses SET expires_at = ?3, refused_end = NULL,
                     refused = CASE WHEN refused = 'shorten' THEN NULL ELSE refused END
                 WHERE grant_id = ?1 AND fingerprint = ?2 AND expires_at IS NOT ?3
                 RETURNING name";
            let new = params![grant.as_str(), fingerprint.as_str(), expires_at.map(millis)];
            let name: Option<String> = rows::one(connection, sql, new)?;
            (name, WORK, expires_at.map_or("never ends now".to_owned(), |at| format!("ends at {at} now")))
        }
        Change::Duplicated(duplicated) => {
            let sql = "UPDATE licenses SET duplicated = ?3
                 WHERE grant_id = ?1 AND fingerprint = ?2 AND duplicated IS NOT ?3
                 RETURNING name";
            let new = params![grant.as_str(), fingerprint.as_str(), duplicated];
            let name: Option<String> = rows::one(connection, sql, new)?;
            let what =
                if *duplicated { "has a live double that we did not make" } else { "has no double any more" };
            (name, WORK, what.to_owned())
        }
        Change::Refused(refused) => {
            let (word, end, what) = match refused {
                None => (None, None, "may be changed again".to_owned()),
                Some(Refusal::Reinstate) => {
                    (Some("reinstate"), None, "cannot be brought back: AuthForge refuses".to_owned())
                }
                Some(Refusal::Shorten(to)) => {
                    let what = format!("cannot be made to end at {to}: AuthForge refuses");
                    (Some("shorten"), Some(millis(*to)), what)
                }
            };
            let sql = "UPDATE licenses SET refused = ?3, refused_end = ?4
                 WHERE grant_id = ?1 AND fingerprint = ?2 AND (refused, refused_end) IS NOT (?3, ?4)
                 RETURNING name";
            let new = params![grant.as_str(), fingerprint.as_str(), word, end];
            let name: Option<String> = rows::one(connection, sql, new)?;
            (name, WORK, what)
        }
    };
    let Some(name) = name else { return Ok(()) };
    bump(connection, grant)?;
    grants::note(connection, grant, at, cause, &format!("license {name} {what} (fingerprint {fingerprint})"))
}

pub(super) fn state_in_words(state: KeptState) -> (&'static str, &'static str) {
    match state {
        KeptState::Live => (WORK, "is live again"),
        KeptState::Revoking { cause, .. } => (cause.word(), "is about to be revoked"),
        KeptState::Revoked { cause, .. } => (cause.word(), "is revoked"),
        KeptState::Reinstating => (WORK, "is about to be brought back"),
        KeptState::RevokedElsewhere => (WORK, "was revoked at AuthForge by somebody else"),
    }
}

fn resets(connection: &Connection, grant: &GrantId) -> Result<Vec<Reset>, Failure> {
    rows::all(
        connection,
        "SELECT reset, name FROM resets WHERE grant_id = ?1 AND state = 'asked' ORDER BY reset",
        [grant.as_str()],
        |row| {
            let id = ResetId(row.value::<i64>("reset")?.to_string());
            Ok(Reset { id, license: row.license_name("name")? })
        },
    )
}

/// The newest wish to unbind devices, of each license that has one.
pub(super) fn newest_resets(
    connection: &Connection,
    grant: &GrantId,
) -> Result<HashMap<LicenseName, DevicesReset>, Failure> {
    let sql = "SELECT name, asked, state FROM resets WHERE grant_id = ?1 ORDER BY asked, reset";
    rows::all(connection, sql, [grant.as_str()], |row| {
        Ok((row.license_name("name")?, DevicesReset { at: row.time("asked")?, outcome: row.word("state")? }))
    })
}

/// Writes down what a cluster tells of a wish to unbind devices. Earlier ones that are open were taken in by it.
pub(super) fn reset_elsewhere(
    connection: &Connection,
    grant: &GrantId,
    license: &LicenseName,
    told: DevicesReset,
    at: Timestamp,
) -> Result<(), Failure> {
    let sql = "SELECT reset FROM resets
         WHERE grant_id = ?1 AND name = ?2 AND asked <= ?3 AND state IN ('asked', 'sent') ORDER BY reset";
    let of_wish = params![grant.as_str(), license.as_str(), millis(told.at)];
    let open: Vec<i64> = rows::all(connection, sql, of_wish, |row| row.value("reset"))?;
    for number in open {
        reset(connection, grant, &ResetId(number.to_string()), told.outcome, at)?;
    }
    Ok(())
}

/// Writes down what became of a wish to unbind devices.
pub(super) fn reset(
    connection: &Connection,
    grant: &GrantId,
    reset: &ResetId,
    outcome: ResetOutcome,
    at: Timestamp,
) -> Result<(), Failure> {
    let sql =
        "UPDATE resets SET state = ?3 WHERE grant_id = ?1 AND reset = ?2 AND state <> ?3 RETURNING name";
    let id: i64 = reset.0.parse().map_err(|_| Failure::damaged("a wish to unbind devices has no number"))?;
    let name: Option<String> = rows::one(connection, sql, params![grant.as_str(), id, outcome.word()])?;
    let Some(name) = name else { return Ok(()) };
    bump(connection, grant)?;
    let what = match outcome {
        ResetOutcome::Asked => "its devices are not unbound yet, and it is tried again",
        ResetOutcome::Sent => "its devices are about to be unbound",
        ResetOutcome::Done => "its devices were unbound",
        ResetOutcome::Unclear => {
            "nobody can tell whether its devices were unbound; ask again if they were not"
        }
        ResetOutcome::Refused => "AuthForge refused to unbind its devices",
        ResetOutcome::Dropped => {
            "its devices were not unbound: it was not live, or its LicenseGrant was made anew"
        }
    };
    grants::note(connection, grant, at, WORK, &format!("license {name}: {what}"))
}

/// Writes down that a listing was searched for what an attempt may have made besides.
pub(super) fn watched(
    connection: &Connection,
    grant: &GrantId,
    attempt: &AttemptId,
    at: Timestamp,
) -> Result<(), Failure> {
    let written = rows::run(
        connection,
        "UPDATE attempts SET watched_at = ?3 WHERE grant_id = ?1 AND id = ?2",
        params![grant.as_str(), attempt.0, millis(at)],
    )?;
    if written == 0 { Ok(()) } else { bump(connection, grant) }
}
