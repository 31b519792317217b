//! What is seen of grants in a cluster: what it takes to find them, to list them and to mail their keys once.

use grantsmith_core::GrantId;
use grantsmith_core::port::Refusal;
use grantsmith_core::purchase::Email;
use jiff::Timestamp;
use rusqlite::{Connection, named_params, params};

use super::attempts::{self, state_columns, state_in_words};
use super::failure::Failure;
use super::rows::{self, Word, millis, number, slots_number};
use super::{declared, deliveries, grants, objects};
use crate::store::{Declaration, GrantState, Seen, Sighting};

/// Whether people declare a grant in the cluster, and not this program.
pub(super) fn is_peoples(connection: &Connection, grant: &GrantId) -> Result<bool, Failure> {
    let sql = "SELECT 1 FROM grants WHERE id = ?1 AND object IS NOT NULL";
    Ok(rows::one::<i64>(connection, sql, [grant.as_str()])?.is_some())
}

/// Writes down what was seen.
pub(super) fn sight(
    connection: &Connection,
    grant: &GrantId,
    sighting: &Sighting,
    at: Timestamp,
) -> Result<(), Failure> {
    for seen in &sighting.licenses {
        license(connection, grant, seen, at)?;
        catch_up(connection, grant, seen)?;
        if let Some(told) = seen.reset {
            attempts::reset_elsewhere(connection, grant, &seen.kept.name, told, at)?;
        }
    }
    if let Some(agreed) = &sighting.agreed {
        agree(connection, grant, agreed)?;
    }
    Ok(())
}

/// Keeps what both sides agree upon about an override.
pub(super) fn agree(connection: &Connection, grant: &GrantId, agreed: &str) -> Result<(), Failure> {
    let sql = "UPDATE grants SET agreed = ?2 WHERE id = ?1 AND agreed IS NOT ?2";
    rows::run(connection, sql, [grant.as_str(), agreed]).map(|_| ())
}

/// A key that people had replaced in the cluster is replaced on record too, and stays so at later decisions.
fn catch_up(connection: &Connection, grant: &GrantId, seen: &Seen) -> Result<(), Failure> {
    let newer = params![grant.as_str(), seen.kept.name.as_str(), seen.kept.generation];
    let sql = "UPDATE declared SET generation = ?3 WHERE grant_id = ?1 AND name = ?2 AND generation < ?3";
    if rows::run(connection, sql, newer)? > 0 {
        let sql = "INSERT OR REPLACE INTO generations (grant_id, name, generation) VALUES (?1, ?2, ?3)";
        rows::run(connection, sql, newer)?;
    }
    Ok(())
}

fn license(connection: &Connection, grant: &GrantId, seen: &Seen, at: Timestamp) -> Result<(), Failure> {
    let (kept, fingerprint) = (&seen.kept, &seen.shown.fingerprint);
    let (state, revoked_at, revoked_cause) = state_columns(kept.state);
    let (refused, refused_end) = match kept.refused {
        None => (None, None),
        Some(Refusal::Reinstate) => (Some("reinstate"), None),
        Some(Refusal::Shorten(to)) => (Some("shorten"), Some(millis(to))),
    };
    let sql = "SELECT state FROM licenses WHERE fingerprint = ?1";
    let before: Option<String> = rows::one(connection, sql, [fingerprint.as_str()])?;
    rows::run(
        connection,
        "INSERT INTO licenses (
             fingerprint, key, masked, grant_id, name, generation, app_id, slots, created_at, expires_at,
             first_expires_at, attempt, state, revoked_at, revoked_cause, duplicated, refused, refused_end, sending
         ) VALUES (
             :fingerprint, '', :masked, :grant, :name, :generation, :app, :slots, :created_at, :expires_at,
             :expires_at, :attempt, :state, :revoked_at, :revoked_cause, :duplicated, :refused, :refused_end, :sending
         ) ON CONFLICT (fingerprint) DO UPDATE SET
             key = '', masked = excluded.masked, slots = excluded.slots, expires_at = excluded.expires_at,
             attempt = excluded.attempt, state = excluded.state, revoked_at = excluded.revoked_at,
             revoked_cause = excluded.revoked_cause, duplicated = excluded.duplicated, refused = excluded.refused,
             refused_end = excluded.refused_end, sending = coalesce(sending, excluded.sending)
         WHERE grant_id = excluded.grant_id",
        named_params! {
            ":fingerprint": fingerprint.as_str(),
            ":masked": seen.shown.masked,
            ":grant": grant.as_str(),
            ":name": kept.name.as_str(),
            ":generation": kept.generation,
            ":app": kept.app_id.as_str(),
            ":slots": kept.slots.map(slots_number),
            ":created_at": millis(kept.created_at),
            ":expires_at": kept.expires_at.map(millis),
            ":attempt": kept.attempt.as_ref().map(|attempt| attempt.0.as_str()),
            ":state": state,
            ":revoked_at": revoked_at,
            ":revoked_cause": revoked_cause,
            ":duplicated": kept.duplicated,
            ":refused": refused,
            ":refused_end": refused_end,
            ":sending": seen.delivered.then_some(0),
        },
    )?;
    let what = match before.as_deref() {
        None if kept.attempt.is_some() => "was made",
        None => "was found at AuthForge",
        Some(before) if before == state => return Ok(()),
        Some(_) => state_in_words(kept.state).1,
    };
    let text = format!("license {} {what} (fingerprint {fingerprint})", kept.name);
    grants::note(connection, grant, at, "cluster", &text)
}

/// Takes in a grant that people declare.
pub(super) fn take_in(connection: &Connection, declaration: &Declaration) -> Result<(), Failure> {
    let id = GrantId::of(&declaration.purchase);
    if grants::exists(connection, &id)? && !is_peoples(connection, &id)? {
        return Ok(());
    }
    let Declaration { purchase, object, email, progress, .. } = declaration;
    rows::run(
        connection,
        "INSERT INTO grants (
             id, purchase, livemode, state, reason, paid_at, email, email_folded, email_by_hand, decided, object, secret,
             created, updated
         ) VALUES (
             :id, :purchase, :livemode, 'issuing', 'Issuing', :paid_at, :email, :folded, 1, :decided, :object, :secret,
             :created, :at
         ) ON CONFLICT (id) DO UPDATE SET
             email = iif(forgotten, email, excluded.email),
             email_folded = iif(forgotten, email_folded, excluded.email_folded),
             object = excluded.object, secret = excluded.secret",
        named_params! {
            ":id": id.as_str(),
            ":purchase": purchase.as_str(),
            ":livemode": declaration.livemode,
            ":paid_at": declaration.paid_at.map(millis),
            ":email": email.as_ref().map(Email::expose),
            ":folded": email.as_ref().map(|email| email.expose().to_lowercase()),
            ":decided": number(objects::draw(connection)?),
            ":object": object.name,
            ":secret": object.secret,
            ":created": millis(declaration.created),
            ":at": millis(progress.at),
        },
    )?;
    deliveries::unpark(connection, &id, "cluster", progress.at)?;
    declared::declare(connection, &id, &declaration.licenses)?;
    let decided = rows::count(connection, "SELECT decided FROM grants WHERE id = ?1", [id.as_str()])?;
    grants::progress(connection, progress, decided)
}

/// Ends a grant that people have taken out of the cluster.
pub(super) fn let_go(
    connection: &Connection,
    id: &GrantId,
    object: &str,
    at: Timestamp,
) -> Result<(), Failure> {
    let gone = rows::run(
        connection,
        "UPDATE grants SET state = ?3, reason = 'Canceled', detail = 'its LicenseGrant was deleted', due = NULL, updated = ?4
         WHERE id = ?1 AND object = ?2 AND state <> ?3",
        params![id.as_str(), object, GrantState::Ended.word(), millis(at)],
    )?;
    if gone == 0 {
        return Ok(());
    }
    deliveries::call_off(connection, id, at)?;
    grants::note(connection, id, at, "cluster", "its LicenseGrant was deleted")
}
