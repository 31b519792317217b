//! A buyer erased: from the rows, and from what rows leave behind in the file.

use std::collections::BTreeSet;
use std::path::Path;

use grantsmith_core::purchase::PurchaseId;
use grantsmith_core::{Email, GrantId};
use jiff::Timestamp;
use rusqlite::{Connection, named_params, params};
use serde_json::Value;

use super::failure::Failure;
use super::objects::{self, OBJECTS_OF_PURCHASE};
use super::packed::Packed;
use super::rows::{self, Columns, millis, number};
use super::{grants, schema};
use crate::store::{Error, Forgotten};
use crate::stripe::shape;

/// Whom to forget.
#[derive(Debug)]
pub(super) struct Buyer(String);

impl Buyer {
    pub(super) fn new(address: &Email) -> Self {
        Self(address.expose().to_lowercase())
    }

    /// Whether a text holds the address, and not just one that ends or begins like it.
    fn is_in(&self, text: &str) -> bool {
        let text = text.to_lowercase();
        let local = |c: char| c.is_alphanumeric() || "!#$%&'*+-/=?^_`{|}~.".contains(c);
        text.match_indices(&self.0).any(|(at, found)| {
            let before = text.get(..at).and_then(|before| before.chars().next_back());
            let mut after = text.get(at + found.len()..).unwrap_or_default().chars();
            let longer = match after.next() {
                Some('.') => after.next().is_some_and(char::is_alphanumeric),
                next => next.is_some_and(|c| c.is_alphanumeric() || c == '-'),
            };
            !longer && !before.is_some_and(local)
        })
    }

    fn is_in_body(&self, body: &[u8]) -> bool {
        self.is_in(&String::from_utf8_lossy(body))
    }
}

/// Where a buyer was found, apart from the address of grants.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// `events.place` of the bodies.
    places: Vec<i64>,
    /// `objects.object` of the snapshots.
    objects: Vec<i64>,
    /// The purchases of both.
    purchases: BTreeSet<String>,
}

/// Reads every body and snapshot. Away from the writer, as it takes a while.
pub(super) fn search(connection: &Connection, buyer: &Buyer) -> Result<Found, Failure> {
    let mut found = Found::default();
    for (sql, bodies) in [
        (
            "SELECT b.place AS number, b.encoding, b.body, coalesce(o.purchase, o.id) AS purchase
             FROM bodies b JOIN events e ON e.place = b.place LEFT JOIN objects o ON o.object = e.object",
            true,
        ),
        (
            "SELECT s.object AS number, s.encoding, s.body, coalesce(o.purchase, o.id) AS purchase
             FROM snapshots s JOIN objects o ON o.object = s.object",
            false,
        ),
    ] {
        let mut statement = connection.prepare(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            if !Packed::read(row)?.is_some_and(|body| buyer.is_in_body(&body)) {
                continue;
            }
            if bodies { &mut found.places } else { &mut found.objects }.push(row.value("number")?);
            found.purchases.extend(row.value::<Option<String>>("purchase")?);
        }
    }
    Ok(found)
}

/// Erases the buyer from all rows.
pub(super) fn forget(
    connection: &Connection,
    buyer: &Buyer,
    found: &Found,
    cause: &str,
    at: Timestamp,
) -> Result<Forgotten, Failure> {
    let sql = "SELECT purchase FROM grants WHERE email_folded = ?1";
    let own: Vec<String> = rows::all(connection, sql, [&buyer.0], |row| row.value("purchase"))?;
    let mut purchases = 0;
    let mut events = 0;
    for id in found.purchases.iter().cloned().chain(own).collect::<BTreeSet<_>>() {
        let Some(purchase) = rows::purchase(&id) else { continue };
        let grant = GrantId::of(&purchase);
        // Looks that began before this know the buyer: they are turned away, and come again.
        let drawn = objects::draw(connection)?;
        let sql = "UPDATE grants SET email = iif(email_folded = ?4, NULL, email),
                 email_folded = nullif(email_folded, ?4), email_by_hand = 1, forgotten = 1, handed = ?2, updated = ?3
             WHERE id = ?1 AND (email_folded IS NULL OR email_folded = ?4 OR email_by_hand)";
        let erased = params![grant.as_str(), number(drawn), millis(at), buyer.0];
        if rows::run(connection, sql, erased)? == 0 {
            // It only mentions the buyer: somebody else bought, or nobody did.
            continue;
        }
        purchases += 1;
        let sql = "UPDATE deliveries SET state = 'dropped', due = NULL, updated = ?2
             WHERE grant_id = ?1 AND state IN ('due', 'parked')
                 AND (SELECT email FROM grants WHERE id = ?1) IS NULL";
        rows::run(connection, sql, params![grant.as_str(), millis(at)])?;
        events += drop_bodies(connection, &purchase)?;
        cut_snapshots(connection, &purchase, &|text| buyer.is_in(text))?;
        grants::note(connection, &grant, at, cause, "the buyer was forgotten")?;
    }
    let mut waiting = 0;
    for place in &found.places {
        let sql = "DELETE FROM bodies WHERE place = ?1
             AND (SELECT state FROM events WHERE place = ?1) <> 'pending'";
        events += rows::run(connection, sql, [place])?;
        waiting += rows::count(connection, "SELECT count(*) FROM bodies WHERE place = ?1", [place])?;
    }
    for object in &found.objects {
        cut_snapshot(connection, *object, &|text| buyer.is_in(text))?;
    }
    notes(connection, buyer)?;
    for sql in [
        "DELETE FROM portal_wishes WHERE email_folded = ?1",
        "DELETE FROM portal_tokens WHERE email_folded = ?1",
    ] {
        rows::run(connection, sql, [&buyer.0])?;
    }
    Ok(Forgotten { purchases, events: u64::try_from(events).unwrap_or(u64::MAX), waiting })
}

/// Whether the buyer of a purchase was forgotten.
fn forgotten(connection: &Connection, purchase: &PurchaseId) -> Result<bool, Failure> {
    let sql = "SELECT forgotten FROM grants WHERE id = ?1";
    Ok(rows::one(connection, sql, [GrantId::of(purchase).as_str()])? == Some(true))
}

/// What may be kept of an object that Stripe tells of a buyer who was forgotten; none for all others, of whom all is.
pub(super) fn rest(
    connection: &Connection,
    purchase: &PurchaseId,
    body: &[u8],
) -> Result<Option<Packed>, Failure> {
    if forgotten(connection, purchase)? { cut(body, &|text| text.contains('@')).map(Some) } else { Ok(None) }
}

/// Drops the bodies of a purchase's events that something was made of, if its buyer was forgotten; says how many.
pub(super) fn drop_bodies(connection: &Connection, purchase: &PurchaseId) -> Result<usize, Failure> {
    if !forgotten(connection, purchase)? {
        return Ok(0);
    }
    let sql = format!(
        "DELETE FROM bodies WHERE place IN (
             SELECT place FROM events WHERE object IN ({OBJECTS_OF_PURCHASE}) AND state <> 'pending'
         )"
    );
    rows::run(connection, &sql, named_params! { ":purchase": purchase.as_str(), ":object": None::<i64> })
}

/// Cuts the snapshots of a purchase's objects.
fn cut_snapshots(
    connection: &Connection,
    purchase: &PurchaseId,
    personal: &dyn Fn(&str) -> bool,
) -> Result<(), Failure> {
    let sql = format!("SELECT object FROM snapshots WHERE object IN ({OBJECTS_OF_PURCHASE})");
    let named = named_params! { ":purchase": purchase.as_str(), ":object": None::<i64> };
    let objects: Vec<i64> = rows::all(connection, &sql, named, |row| row.value("object"))?;
    objects.into_iter().try_for_each(|object| cut_snapshot(connection, object, personal))
}

fn cut_snapshot(
    connection: &Connection,
    object: i64,
    personal: &dyn Fn(&str) -> bool,
) -> Result<(), Failure> {
    let sql = "SELECT encoding, body FROM snapshots WHERE object = ?1";
    let Some(Some(body)) = rows::first(connection, sql, [object], Packed::read)? else { return Ok(()) };
    let rest = cut(&body, personal)?;
    let sql = "UPDATE snapshots SET encoding = ?2, body = ?3 WHERE object = ?1";
    rows::run(connection, sql, params![object, rest.encoding, &rest.bytes[..]])?;
    Ok(())
}

/// Cuts an object to what decisions need.
fn cut(body: &[u8], personal: &dyn Fn(&str) -> bool) -> Result<Packed, Failure> {
    let unreadable = |_| Failure::damaged("an object of Stripe is unreadable");
    let mut object: Value = serde_json::from_slice(body).map_err(unreadable)?;
    shape::cut(&mut object, personal);
    Ok(Packed::new(&serde_json::to_vec(&object).map_err(unreadable)?.into()))
}

/// Empties what people have written, and the words about events and grants, where they hold the address.
fn notes(connection: &Connection, buyer: &Buyer) -> Result<(), Failure> {
    for (read, write) in [
        (
            "SELECT id, note AS text FROM grants WHERE instr(note, '@')",
            "UPDATE grants SET note = NULL WHERE id = ?1",
        ),
        (
            "SELECT grant_id AS id, reason AS text FROM hands WHERE instr(reason, '@')",
            "UPDATE hands SET reason = '' WHERE grant_id = ?1",
        ),
        (
            "SELECT CAST(line AS TEXT) AS id, text FROM journal WHERE instr(text, '@')",
            "UPDATE journal SET text = 'words that named the buyer, erased' WHERE line = CAST(?1 AS INTEGER)",
        ),
        (
            "SELECT id, detail AS text FROM grants WHERE instr(detail, '@')",
            "UPDATE grants SET detail = NULL WHERE id = ?1",
        ),
        (
            "SELECT id, detail AS text FROM events WHERE instr(detail, '@')",
            "UPDATE events SET detail = NULL WHERE id = ?1",
        ),
    ] {
        let texts: Vec<(String, String)> =
            rows::all(connection, read, [], |row| Ok((row.value("id")?, row.value("text")?)))?;
        for (id, _) in texts.iter().filter(|(_, text)| buyer.is_in(text)) {
            rows::run(connection, write, [id])?;
        }
    }
    Ok(())
}

/// Rewrites the file and empties its log: freed places hold what was erased.
///
/// `secure_delete` was rejected: it leaves the copies that SQLite makes when it moves rows between pages.
pub(super) fn purge(path: &Path) -> Result<(), Error> {
    let purged = schema::checkpointer(path).and_then(|connection| {
        connection.execute_batch("VACUUM")?;
        let sql = "PRAGMA wal_checkpoint(TRUNCATE)";
        let busy: bool = connection.query_row(sql, [], |row| row.get(0))?;
        if busy { Err(Failure::locked()) } else { Ok(()) }
    });
    purged.map_err(|failure| match failure.error {
        Error::Unavailable(why) => Error::Unavailable(format!(
            "the rows are erased, but the file was not rewritten: {why}; see that there is twice its size free in '{}', and \
             repeat the call",
            path.parent().unwrap_or(path).display()
        )),
        error => error,
    })
}

#[cfg(test)]
mod tests {
    use grantsmith_core::Email;

    use super::Buyer;

    #[test]
    fn an_address_is_found_as_itself_alone() {
        let buyer = Buyer::new(&Email::new("Ann@Shop.Example").expect("an address"));
        for text in [
            "ann@shop.example",
            r#"{"email":"ANN@shop.example"}"#,
            "Mail ann@shop.example.",
            "<ann@shop.example>",
        ] {
            assert!(buyer.is_in(text), "{text}");
        }
        for text in
            ["joann@shop.example", "x+ann@shop.example", "ann@shop.example.org", "ann@shop.examples", "ann"]
        {
            assert!(!buyer.is_in(text), "{text}");
        }
    }
}
