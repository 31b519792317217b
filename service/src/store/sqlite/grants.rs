//! Grants: reading, listing, what is due, what rounds of work came to, and the journal.

use grantsmith_core::license::{Fingerprint, LicenseKey};
use grantsmith_core::purchase::PurchaseId;
use grantsmith_core::{Email, GrantId};
use jiff::{SignedDuration, Timestamp};
use rusqlite::types::Value;
use rusqlite::{Connection, Row, named_params, params, params_from_iter};

use super::failure::Failure;
use super::rows::{self, Columns, Word, millis, number, purchase};
use super::{cluster, declared, deliveries, hands, objects};
use crate::store::{
    Counts, Cursor, FirstStart, GrantFilter, GrantRow, GrantState, JournalEntry, Progress, Resource,
};

const COLUMNS: &str =
    "g.id, g.purchase, g.livemode, g.state, g.reason, g.detail, g.paid_at, g.email, g.forgotten, g.note,
    g.tries, g.decided, g.object, g.secret, g.agreed, g.created, g.updated";

/// Whether there is such a grant.
pub(super) fn exists(connection: &Connection, id: &GrantId) -> Result<bool, Failure> {
    let found: Option<i64> = rows::one(connection, "SELECT 1 FROM grants WHERE id = ?1", [id.as_str()])?;
    Ok(found.is_some())
}

/// Reads a grant.
pub(super) fn get(connection: &Connection, id: &GrantId) -> Result<Option<GrantRow>, Failure> {
    let sql = format!("SELECT {COLUMNS} FROM grants g WHERE g.id = ?1");
    rows::first(connection, &sql, [id.as_str()], |row| grant(connection, row))
}

fn grant(connection: &Connection, row: &Row<'_>) -> Result<GrantRow, Failure> {
    let id = row.grant_id("id")?;
    Ok(GrantRow {
        purchase: row.parsed("purchase", purchase)?,
        livemode: row.value("livemode")?,
        state: row.word("state")?,
        reason: row.word("reason")?,
        detail: row.value("detail")?,
        paid_at: row.maybe_time("paid_at")?,
        email: row.maybe_parsed("email", |text| Some(Email::new(text)))?.flatten(),
        forgotten: row.value("forgotten")?,
        note: row.value("note")?,
        hand: hands::row(connection, &id)?,
        agreed: row.value("agreed")?,
        object: resource(row)?,
        licenses: declared::licenses(connection, &id)?,
        delivery: deliveries::newest(connection, &id)?,
        tries: row.value("tries")?,
        decided: row.count("decided")?,
        created: row.time("created")?,
        updated: row.time("updated")?,
        id,
    })
}

fn resource(row: &Row<'_>) -> Result<Option<Resource>, Failure> {
    let (name, secret): (Option<String>, Option<String>) = (row.value("object")?, row.value("secret")?);
    Ok(name.map(|name| Resource { secret: secret.unwrap_or_default(), name }))
}

/// Lists grants, newest first.
pub(super) fn list(
    connection: &Connection,
    filter: &GrantFilter,
    after: Option<&Cursor>,
    limit: u32,
) -> Result<Vec<GrantRow>, Failure> {
    let mut conditions = vec!["TRUE"];
    let mut values: Vec<Value> = Vec::new();
    let mut and = |condition, value: Value| {
        conditions.push(condition);
        values.push(value);
    };
    if let Some(state) = filter.state {
        and("g.state = ?", state.word().to_owned().into());
    }
    if let Some(purchase) = &filter.purchase {
        and("g.purchase = ?", purchase.clone().into());
    }
    if let Some(email) = &filter.email {
        and("g.email_folded = ?", email.trim().to_lowercase().into());
    }
    if let Some(app) = &filter.app_id {
        and(
            "EXISTS (SELECT 1 FROM declared d WHERE d.grant_id = g.id AND d.app_id = ?)",
            app.as_str().to_owned().into(),
        );
    }
    if let Some(from) = filter.created_from {
        and("g.created >= ?", millis(from).into());
    }
    if let Some(before) = filter.created_before {
        and("g.created < ?", millis(before).into());
    }
    if let Some(cursor) = after {
        conditions.push("(g.created, g.id) < (?, ?)");
        values.extend([millis(cursor.at).into(), cursor.id.clone().into()]);
    }
    values.push(limit.into());
    let sql = format!(
        "SELECT {COLUMNS} FROM grants g WHERE {} ORDER BY g.created DESC, g.id DESC LIMIT ?",
        conditions.join(" AND ")
    );
    rows::all(connection, &sql, params_from_iter(values), |row| grant(connection, row))
}

/// Grants that a text names.
pub(super) fn find(connection: &Connection, text: &str, limit: u32) -> Result<Vec<GrantRow>, Failure> {
    let text = text.trim();
    let sql = format!(
        "SELECT {COLUMNS} FROM grants g WHERE g.id IN (
             SELECT id FROM grants WHERE id = :text
             UNION ALL SELECT id FROM grants WHERE purchase = :text
             UNION ALL SELECT id FROM grants WHERE purchase = (SELECT purchase FROM objects WHERE {named})
             UNION ALL SELECT id FROM grants WHERE purchase = (
                 SELECT purchase FROM ledgers WHERE kind = 'invoice' AND id = :text
             )
             UNION ALL SELECT id FROM grants WHERE customer = :text
             UNION ALL SELECT id FROM grants WHERE email_folded = :folded
             UNION ALL SELECT grant_id FROM licenses WHERE fingerprint IN (:folded, :fingerprint, :typed)
             UNION ALL SELECT grant_id FROM declared WHERE adopt IN (:folded, :fingerprint, :typed)
         ) ORDER BY g.created DESC, g.id DESC LIMIT :limit",
        named = objects::named!(":text"),
    );
    let fingerprint = LicenseKey::new(text).fingerprint();
    let typed = LicenseKey::typed(text).fingerprint();
    let named = named_params! {
        ":text": text,
        ":folded": text.to_lowercase(),
        ":fingerprint": fingerprint.as_str(),
        ":typed": typed.as_str(),
        ":limit": limit,
    };
    rows::all(connection, &sql, named, |row| grant(connection, row))
}

/// The grant that keeps a key.
pub(super) fn of_key(connection: &Connection, key: &Fingerprint) -> Result<Option<GrantId>, Failure> {
    let sql = "SELECT grant_id FROM licenses WHERE fingerprint = ?1
               UNION ALL SELECT grant_id FROM declared WHERE adopt = ?1 LIMIT 1";
    rows::first(connection, sql, [key.as_str()], |row| row.grant_id("grant_id"))
}

/// Grants whose time has come, newest payment first.
pub(super) fn due(connection: &Connection, now: Timestamp, limit: u32) -> Result<Vec<GrantId>, Failure> {
    rows::all(
        connection,
        "SELECT id FROM grants WHERE due <= ?1 ORDER BY paid_at DESC, id LIMIT ?2",
        params![millis(now), limit],
        |row| row.grant_id("id"),
    )
}

/// The earliest time at which anything is due.
pub(super) fn earliest(connection: &Connection) -> Result<Option<Timestamp>, Failure> {
    // One query each: SQLite answers a lone `min` from the first entry of an index.
    let [first, again, others] = objects::TURNS;
    let sql = format!(
        "SELECT min(due) AS due FROM (
             SELECT (SELECT min(due) FROM objects WHERE due IS NOT NULL AND {first}) AS due
             UNION ALL SELECT (SELECT min(due) FROM objects WHERE due IS NOT NULL AND {again})
             UNION ALL SELECT (SELECT min(due) FROM objects WHERE due IS NOT NULL AND {others})
             UNION ALL SELECT (SELECT min(due) FROM grants WHERE due IS NOT NULL)
             UNION ALL SELECT (SELECT min(due) FROM deliveries WHERE due IS NOT NULL)
             UNION ALL SELECT (SELECT min(due) FROM portal_wishes WHERE due IS NOT NULL)
         )"
    );
    let due = rows::first(connection, &sql, [], |row| row.maybe_time("due"))?;
    Ok(due.flatten())
}

/// Writes what a round of work came to, unless the grant was decided anew since.
pub(super) fn progress(connection: &Connection, progress: &Progress, decided: u64) -> Result<(), Failure> {
    let id = &progress.id;
    let sql = "SELECT state, reason, detail FROM grants WHERE id = ?1 AND decided = ?2";
    let before = rows::first(connection, sql, params![id.as_str(), number(decided)], |row| {
        Ok((row.word("state")?, row.word("reason")?, row.value::<Option<String>>("detail")?))
    })?;
    // Decided anew, or never: the round was about something that is over.
    let Some((state, reason, detail)) = before else { return Ok(()) };
    if let Some(sighting) = &progress.sighting {
        cluster::sight(connection, id, sighting, progress.at)?;
    }
    let shown = (state, reason) != (progress.state, progress.reason);
    let moved = shown || detail != progress.detail;
    let mut stood = false;
    for (name, standing) in &progress.licenses {
        stood |= rows::run(
            connection,
            "UPDATE declared SET standing = ?3 WHERE grant_id = ?1 AND name = ?2 AND standing IS NOT ?3",
            params![id.as_str(), name.as_str(), standing.word()],
        )? > 0;
    }
    rows::run(
        connection,
        "UPDATE grants SET
             state = :state, reason = :reason, detail = :detail, due = :due, tries = :tries,
             updated = CASE WHEN :moved THEN :at ELSE updated END
         WHERE id = :id",
        named_params! {
            ":id": id.as_str(),
            ":state": progress.state.word(),
            ":reason": progress.reason.word(),
            ":detail": progress.detail,
            ":due": progress.due.map(millis),
            ":tries": progress.tries,
            ":moved": moved || stood,
            ":at": millis(progress.at),
        },
    )?;
    if shown {
        let text = format!("{}: {}", in_words(progress.state), progress.reason);
        note(connection, id, progress.at, "work", &text)?;
    }
    if progress.deliver { deliveries::begin(connection, id, progress.at) } else { Ok(()) }
}

fn in_words(state: GrantState) -> &'static str {
    match state {
        GrantState::Pending => "waits for money",
        GrantState::Issuing => "not every license is as declared",
        GrantState::Ready => "every license is as declared",
        GrantState::Ended => "ended",
        GrantState::Parked => "waits for a person",
        GrantState::NotOurs => "is not ours",
    }
}

/// Adds a line to a grant's history.
pub(super) fn note(
    connection: &Connection,
    id: &GrantId,
    at: Timestamp,
    cause: &str,
    text: &str,
) -> Result<(), Failure> {
    rows::run(
        connection,
        "INSERT INTO journal (grant_id, at, cause, text) VALUES (?1, ?2, ?3, ?4)",
        params![id.as_str(), millis(at), cause, text],
    )?;
    Ok(())
}

/// Adds a line to the history of a purchase's grant, if there is one.
pub(super) fn note_of_purchase(
    connection: &Connection,
    purchase: &PurchaseId,
    at: Timestamp,
    cause: &str,
    text: &str,
) -> Result<(), Failure> {
    let id = GrantId::of(purchase);
    if exists(connection, &id)? { note(connection, &id, at, cause, text) } else { Ok(()) }
}

/// A grant's history, oldest first.
pub(super) fn journal(connection: &Connection, id: &GrantId) -> Result<Vec<JournalEntry>, Failure> {
    let sql = "SELECT at, cause, text FROM journal WHERE grant_id = ?1 ORDER BY line";
    rows::all(connection, sql, [id.as_str()], |row| {
        Ok(JournalEntry { at: row.time("at")?, cause: row.value("cause")?, text: row.value("text")? })
    })
}

/// Numbers for metrics.
pub(super) fn counts(connection: &Connection, now: Timestamp) -> Result<Counts, Failure> {
    let count = |sql| rows::count(connection, sql, []);
    let sql = "SELECT state, reason, count(*) AS many FROM grants GROUP BY state, reason";
    let grants = rows::all(connection, sql, [], |row| {
        Ok((row.word("state")?, row.word("reason")?, row.count("many")?))
    })?;
    Ok(Counts {
        dirty: objects::count_dirty(connection)?,
        grants,
        deliveries_due: deliveries::count_due(connection, now)?,
        deliveries_parked: count("SELECT count(*) FROM deliveries WHERE state = 'parked'")?,
        open_attempts: count("SELECT count(*) FROM attempts WHERE outcome = 'open'")?,
    })
}

/// When this record was first started on.
pub(super) fn first_start(
    connection: &Connection,
    now: Timestamp,
    livemode: bool,
) -> Result<FirstStart, Failure> {
    rows::run(
        connection,
        "INSERT INTO installation (one, first_start, livemode) VALUES (1, ?1, ?2) ON CONFLICT (one) DO NOTHING",
        params![millis(now), livemode],
    )?;
    let first = rows::first(connection, "SELECT first_start, livemode FROM installation", [], |row| {
        Ok(FirstStart { at: row.time("first_start")?, livemode: row.value("livemode")? })
    })?;
    Ok(first.unwrap_or(FirstStart { at: now, livemode }))
}

/// Makes all grants due that were held back.
pub(super) fn resume(connection: &Connection, now: Timestamp) -> Result<u64, Failure> {
    let sql = "UPDATE grants SET due = ?1, tries = 0 WHERE state = 'issuing' AND reason = 'Paused'";
    Ok(u64::try_from(rows::run(connection, sql, [millis(now)])?).unwrap_or(u64::MAX))
}

/// The longest that anything is put off for when it failed.
const LONGEST_PAUSE: SignedDuration = SignedDuration::from_hours(1);

/// Makes due what was put off to a time that no pause reaches. What is planned for later stays.
pub(super) fn clock_set_back(connection: &Connection, now: Timestamp) -> Result<u64, Failure> {
    let latest = now.checked_add(LONGEST_PAUSE).unwrap_or(Timestamp::MAX);
    let objects = objects::TURNS.map(|turn| {
        let told = "SELECT object FROM events WHERE state = 'pending'";
        ("objects", format!("{turn} AND (tries > 0 OR object IN ({told}))"))
    });
    let others = [
        ("grants", "(tries > 0 OR state = 'issuing')".to_owned()),
        ("deliveries", "(reason IS NOT NULL OR kind <> 'payment_failed')".to_owned()),
        ("portal_wishes", "TRUE".to_owned()),
    ];
    let mut made_due = 0;
    for (table, which) in objects.into_iter().chain(others) {
        let sql = format!("UPDATE {table} SET due = ?1 WHERE due > ?2 AND due IS NOT NULL AND {which}");
        made_due += rows::run(connection, &sql, params![millis(now), millis(latest)])?;
    }
    Ok(u64::try_from(made_due).unwrap_or(u64::MAX))
}
