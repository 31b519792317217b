//! The inbox.

use grantsmith_core::Reason;
use jiff::Timestamp;
use rusqlite::types::Value;
use rusqlite::{Connection, Row, params, params_from_iter};

use super::failure::Failure;
use super::objects;
use super::packed::Packed;
use super::rows::{self, Columns, Word, millis, number, purchase};
use crate::store::{Cursor, Event, EventFilter, EventState, NewEvent, Object, Recorded};

/// Places per millisecond: see `events.place`.
const PLACES: i64 = 1_000_000;

/// Bodies forgotten in one transaction, so that events do not wait behind a day's worth of them.
const BODIES_AT_ONCE: u32 = 500;

/// An event's columns. A session or subscription that was not decided yet is its own purchase.
const COLUMNS: &str = "
    e.place, e.id, e.kind, e.created, e.received, e.livemode, e.api_version, e.object_id, e.state, e.reason, e.detail,
    coalesce(o.purchase, CASE WHEN o.kind IN ('session', 'subscription') THEN o.id END) AS purchase";

/// The first place of a time. Times that no clock shows are brought to the nearest one that fits.
fn first_place(received: Timestamp) -> i64 {
    millis(received).clamp(0, i64::MAX / PLACES - 1) * PLACES
}

/// Keeps an event. The one write that Stripe waits for: five statements, of which three go to the end of their trees.
pub(super) fn record(connection: &Connection, event: &NewEvent, body: &Packed) -> Result<Recorded, Failure> {
    if let Some((state, reason)) = verdict(connection, &event.id)? {
        return Ok(Recorded::Duplicate(state, reason));
    }
    let (mut object, mut mark) = (None, 0);
    if let Some(signal) = &event.signal {
        mark = objects::draw(connection)?;
        object = Some(objects::signal(connection, signal, mark, event.received)?);
    }
    let from = first_place(event.received);
    let sql = "INSERT INTO events (
             place, id, kind, created, received, livemode, api_version, object_id, object, mark, state, reason
         ) VALUES (
             max(?1, 1 + coalesce((SELECT max(place) FROM events WHERE place < ?2), 0)),
             ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13
         )";
    let row = params![
        from,
        from + PLACES,
        event.id,
        event.kind,
        millis(event.created),
        millis(event.received),
        event.livemode,
        event.api_version,
        event.object_id,
        object,
        number(mark),
        event.state.word(),
        event.reason.map(Word::word),
    ];
    rows::run(connection, sql, row)?;
    let place = connection.last_insert_rowid();
    rows::run(
        connection,
        "INSERT INTO bodies (place, encoding, body) VALUES (?1, ?2, ?3)",
        params![place, body.encoding, &body.bytes[..]],
    )?;
    Ok(Recorded::New)
}

/// What was made of an event, if it is on record.
fn verdict(connection: &Connection, id: &str) -> Result<Option<(EventState, Option<Reason>)>, Failure> {
    rows::first(connection, "SELECT state, reason FROM events WHERE id = ?1", [id], |row| {
        Ok((row.word("state")?, row.maybe_word("reason")?))
    })
}

fn event(row: &Row<'_>) -> Result<Event, Failure> {
    Ok(Event {
        id: row.value("id")?,
        kind: row.value("kind")?,
        created: row.time("created")?,
        received: row.time("received")?,
        livemode: row.value("livemode")?,
        api_version: row.value("api_version")?,
        object_id: row.value("object_id")?,
        state: row.word("state")?,
        reason: row.maybe_word("reason")?,
        detail: row.value("detail")?,
        purchase: row.maybe_parsed("purchase", purchase)?,
        body: None,
    })
}

fn event_with_body(row: &Row<'_>) -> Result<Event, Failure> {
    Ok(Event { body: Packed::read(row)?, ..event(row)? })
}

/// Reads an event, with its body.
pub(super) fn get(connection: &Connection, id: &str) -> Result<Option<Event>, Failure> {
    let sql = format!(
        "SELECT {COLUMNS}, b.encoding, b.body
         FROM events e LEFT JOIN objects o ON o.object = e.object LEFT JOIN bodies b ON b.place = e.place
         WHERE e.id = ?1"
    );
    rows::first(connection, &sql, [id], event_with_body)
}

/// Events of a purchase's objects that wait for a decision, oldest first, with bodies; and those handled that are not older
/// than `told`.
pub(super) fn waiting(
    connection: &Connection,
    purchase: &str,
    told: Option<Timestamp>,
) -> Result<Vec<Event>, Failure> {
    let sql = format!(
        "SELECT {COLUMNS}, b.encoding, b.body
         FROM events e LEFT JOIN objects o ON o.object = e.object LEFT JOIN bodies b ON b.place = e.place
         WHERE e.object IN ({of_purchase})
             AND (e.state = 'pending' OR (e.state = 'handled' AND e.created >= :told))
         ORDER BY e.place",
        of_purchase = objects::OBJECTS_OF_PURCHASE,
    );
    let told = told.map(millis);
    let named = rusqlite::named_params! { ":purchase": purchase, ":object": None::<i64>, ":told": told };
    rows::all(connection, &sql, named, event_with_body)
}

/// Lists events, newest received first.
pub(super) fn list(
    connection: &Connection,
    filter: &EventFilter,
    after: Option<&Cursor>,
    limit: u32,
) -> Result<Vec<Event>, Failure> {
    let mut conditions = vec!["TRUE".to_owned()];
    let mut values: Vec<Value> = Vec::new();
    if let Some(state) = filter.state {
        // Spelled out, as a partial index is only used where the word is known beforehand.
        conditions.push(format!("e.state = '{}'", state.word()));
    }
    if let Some(reason) = filter.reason {
        conditions.push("e.reason = ?".to_owned());
        values.push(reason.word().to_owned().into());
    }
    if let Some(kind) = &filter.kind {
        conditions.push("e.kind = ?".to_owned());
        values.push(kind.clone().into());
    }
    if let Some(purchase) = &filter.purchase {
        conditions.push(
            concat!(
                "e.object IN (
                     SELECT object FROM objects WHERE purchase = ?
                     UNION ALL SELECT object FROM objects WHERE ",
                objects::named!("?"),
                " AND purchase IS NULL
                 )"
            )
            .to_owned(),
        );
        values.extend(std::iter::repeat_n(Value::from(purchase.clone()), 3));
    }
    if let Some(cursor) = after {
        conditions.push("e.place < coalesce((SELECT place FROM events WHERE id = ?), ?)".to_owned());
        values.extend([cursor.id.clone().into(), first_place(cursor.at).into()]);
    }
    values.push(limit.into());
    let sql = format!(
        "SELECT {COLUMNS} FROM events e LEFT JOIN objects o ON o.object = e.object
         WHERE {} ORDER BY e.place DESC LIMIT ?",
        conditions.join(" AND ")
    );
    rows::all(connection, &sql, params_from_iter(values), event)
}

/// A new verdict about an event.
pub(super) struct Replay<'a> {
    pub(super) id: &'a str,
    pub(super) signal: Option<&'a Object>,
    pub(super) state: EventState,
    pub(super) reason: Option<Reason>,
    pub(super) at: Timestamp,
}

/// Takes an event as if it had just come. False if there is none.
pub(super) fn replay(connection: &Connection, replay: &Replay<'_>) -> Result<bool, Failure> {
    let place: Option<i64> = rows::one(connection, "SELECT place FROM events WHERE id = ?1", [replay.id])?;
    let Some(place) = place else { return Ok(false) };
    let (mut object, mut mark) = (None, 0);
    if let Some(signal) = replay.signal {
        mark = objects::draw(connection)?;
        object = Some(objects::signal(connection, signal, mark, replay.at)?);
    }
    rows::run(
        connection,
        "UPDATE events SET object = ?2, mark = ?3, state = ?4, reason = ?5, detail = NULL WHERE place = ?1",
        params![place, object, number(mark), replay.state.word(), replay.reason.map(Word::word)],
    )?;
    Ok(true)
}

/// Forgets some bodies, oldest first; zero when none is left.
///
/// What is gone is gone from the beginning of the table, so each call starts where the last one ended.
pub(super) fn drop_bodies(connection: &Connection, before: Timestamp) -> Result<usize, Failure> {
    // A payment that no purchase has claimed by now was made elsewhere on the account.
    rows::run(
        connection,
        "UPDATE events SET state = 'ignored', reason = ?2
         WHERE state = 'pending' AND place < ?1 AND EXISTS (
             SELECT 1 FROM objects o WHERE o.object = events.object AND o.purchase IS NULL AND o.kind <> 'session'
         )",
        params![first_place(before), Reason::NotOurs.word()],
    )?;
    rows::run(
        connection,
        "DELETE FROM bodies WHERE place IN (
             SELECT b.place FROM bodies b JOIN events e ON e.place = b.place
             WHERE b.place < ?1 AND e.state IN ('handled', 'ignored')
             ORDER BY b.place LIMIT ?2
         )",
        params![first_place(before), BODIES_AT_ONCE],
    )
}
