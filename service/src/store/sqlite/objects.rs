//! Stripe's objects: the order of marks and tickets, the marks themselves, and the links to purchases.
//!
//! Marks and tickets are drawn from one sequence. A mark that is smaller than a ticket was made before that look began, so
//! the look has taken it in; a greater one asks for another look.

use grantsmith_core::Reason;
use grantsmith_core::purchase::{PurchaseId, StripeId};
use jiff::Timestamp;
use rusqlite::{Connection, named_params, params};

use super::failure::Failure;
use super::grants;
use super::rows::{self, Columns, Word, millis, number, object_named, purchase};
use crate::store::{Dirty, EventState, Object, ObjectKind, Ticket};

/// Where an object's id is the parameter's: as its index is asked, which knows the last letters only.
macro_rules! named {
    ($parameter:literal) => {
        concat!("substr(id, -8) = substr(", $parameter, ", -8) AND id = ", $parameter)
    };
}
pub(super) use named;

/// The objects of a purchase `:purchase`, and `:object` besides.
pub(super) const OBJECTS_OF_PURCHASE: &str = concat!(
    "SELECT object FROM objects WHERE purchase = :purchase
     UNION ALL SELECT object FROM objects WHERE ",
    named!(":purchase"),
    " UNION ALL SELECT :object"
);

/// Draws the next number of the sequence.
///
/// Two statements, as everywhere on the way of an event: SQLite builds a table of its own for each `RETURNING`, which costs
/// more than all the rest of the write.
pub(super) fn draw(connection: &Connection) -> Result<u64, Failure> {
    rows::run(connection, "UPDATE sequence SET value = value + 1", [])?;
    rows::count(connection, "SELECT value FROM sequence", [])
}

/// An object's number and purchase.
fn find(connection: &Connection, id: &StripeId) -> Result<Option<(i64, Option<PurchaseId>)>, Failure> {
    let sql = concat!("SELECT object, purchase FROM objects WHERE ", named!("?1"));
    rows::first(connection, sql, [id.as_str()], |row| {
        Ok((row.value("object")?, row.maybe_parsed("purchase", purchase)?))
    })
}

/// Finds or makes an object, and gives its number and purchase.
pub(super) fn find_or_make(
    connection: &Connection,
    object: &Object,
) -> Result<(i64, Option<PurchaseId>), Failure> {
    if let Some(found) = find(connection, &object.id)? {
        return Ok(found);
    }
    let sql = "INSERT INTO objects (id, kind) VALUES (?1, ?2)";
    rows::run(connection, sql, params![object.id.as_str(), object.kind.word()])?;
    Ok((connection.last_insert_rowid(), None))
}

/// Marks an object, made if need be, and gives its number. An earlier time on record stays.
pub(super) fn mark(
    connection: &Connection,
    object: &Object,
    mark: u64,
    due: Timestamp,
) -> Result<i64, Failure> {
    let (mark, due) = (number(mark), millis(due));
    if let Some((found, _)) = find(connection, &object.id)? {
        let sql = "UPDATE objects SET mark = ?2, due = min(coalesce(due, ?3), ?3) WHERE object = ?1";
        rows::run(connection, sql, params![found, mark, due])?;
        return Ok(found);
    }
    let sql = "INSERT INTO objects (id, kind, mark, due) VALUES (?1, ?2, ?3, ?4)";
    rows::run(connection, sql, params![object.id.as_str(), object.kind.word(), mark, due])?;
    Ok(connection.last_insert_rowid())
}

/// Marks what a signal is about: what can be looked at by itself, or the purchase that anything else is linked to. Gives the
/// number of the signal's own object.
pub(super) fn signal(
    connection: &Connection,
    signal: &Object,
    drawn: u64,
    due: Timestamp,
) -> Result<i64, Failure> {
    let (object, linked) = match signal.kind {
        ObjectKind::Session | ObjectKind::Subscription | ObjectKind::Invoice => {
            return mark(connection, signal, drawn, due);
        }
        ObjectKind::PaymentIntent | ObjectKind::Charge | ObjectKind::Other => {
            find_or_make(connection, signal)?
        }
    };
    if let Some(id) = linked.as_ref().and_then(PurchaseId::stripe_id) {
        mark(connection, &object_named(id.clone()), drawn, due)?;
    }
    Ok(object)
}

/// Marks an object with a number of its own.
pub(super) fn mark_dirty(connection: &Connection, object: &Object, due: Timestamp) -> Result<(), Failure> {
    let drawn = draw(connection)?;
    mark(connection, object, drawn, due).map(|_| ())
}

/// Takes a mark away that `ticket` has taken in. What stays is a newer mark, or the time of the next look.
pub(super) fn clean(
    connection: &Connection,
    object: i64,
    ticket: Ticket,
    look_again: Option<Timestamp>,
) -> Result<(), Failure> {
    rows::run(
        connection,
        "UPDATE objects SET
             tries = 0,
             mark = CASE WHEN mark > :ticket THEN mark WHEN :again IS NULL THEN NULL ELSE :ticket END,
             due = CASE WHEN mark > :ticket THEN min(due, coalesce(:again, due)) ELSE :again END
         WHERE object = :object",
        named_params! {
            ":ticket": number(ticket.0),
            ":again": look_again.map(millis),
            ":object": object,
        },
    )?;
    Ok(())
}

/// Whose turn comes first, in this order. The words are those of the partial indexes.
pub(super) const TURNS: [&str; 3] = [
    "purchase IS NULL AND kind IN ('session', 'subscription')",
    "purchase IS NOT NULL AND kind = 'session'",
    "NOT (kind = 'session' OR purchase IS NULL AND kind = 'subscription')",
];

/// The dirty objects whose time has come: first what nobody has looked at yet, as its buyer waits at the till, then sessions
/// again, then the rest.
pub(super) fn dirty(connection: &Connection, now: Timestamp, limit: u32) -> Result<Vec<Dirty>, Failure> {
    let mut dirty = Vec::new();
    for turn in TURNS {
        let left = limit.saturating_sub(u32::try_from(dirty.len()).unwrap_or(limit));
        if left > 0 {
            dirty.extend(due_of(connection, turn, now, left)?);
        }
    }
    Ok(dirty)
}

/// How many objects wait for a look, now or later.
pub(super) fn count_dirty(connection: &Connection) -> Result<u64, Failure> {
    let of = |turn| format!("(SELECT count(*) FROM objects WHERE due IS NOT NULL AND {turn})");
    rows::count(connection, &format!("SELECT {}", TURNS.map(of).join(" + ")), [])
}

fn due_of(connection: &Connection, which: &str, now: Timestamp, limit: u32) -> Result<Vec<Dirty>, Failure> {
    let sql = format!(
        "SELECT id, kind, tries FROM objects WHERE due <= ?1 AND due IS NOT NULL AND {which} ORDER BY due LIMIT ?2"
    );
    rows::all(connection, &sql, params![millis(now), limit], |row| {
        let id = row.parsed("id", |id| StripeId::parse(id).ok())?;
        Ok(Dirty { object: Object { kind: row.word("kind")?, id }, tries: row.value("tries")? })
    })
}

/// Puts off a look that failed, and shows why at the events that wait for it.
pub(super) fn look_failed(
    connection: &Connection,
    object: &Object,
    ticket: Ticket,
    due: Timestamp,
    reason: Reason,
) -> Result<(), Failure> {
    let Some((waiting, _)) = find(connection, &object.id)? else { return Ok(()) };
    let put_off = "UPDATE objects SET
             tries = tries + 1,
             due = CASE WHEN mark > ?2 THEN due ELSE ?3 END
         WHERE object = ?1 AND due IS NOT NULL";
    if rows::run(connection, put_off, params![waiting, number(ticket.0), millis(due)])? == 0 {
        return Ok(());
    }
    rows::run(
        connection,
        "UPDATE events SET reason = ?3
             WHERE object = ?1 AND state = 'pending' AND mark < ?2 AND reason IS NOT ?3",
        params![waiting, number(ticket.0), reason.word()],
    )?;
    Ok(())
}

/// How a look came to nothing.
pub(super) struct Ended<'a> {
    pub(super) object: &'a Object,
    pub(super) ticket: Ticket,
    pub(super) state: EventState,
    pub(super) reason: Reason,
    pub(super) detail: &'a str,
    pub(super) at: Timestamp,
}

/// Ends a look that can come to nothing.
pub(super) fn look_ended(connection: &Connection, ended: &Ended<'_>) -> Result<(), Failure> {
    let (object, linked) = find_or_make(connection, ended.object)?;
    clean(connection, object, ended.ticket, None)?;
    let owner = linked.as_ref().map_or(ended.object.id.as_str(), PurchaseId::as_str);
    let verdict = Verdict { state: ended.state, reason: Some(ended.reason), detail: Some(ended.detail) };
    let judged = judge(connection, owner, object, ended.ticket, &verdict)?;
    if judged > 0
        && let Some(purchase) = purchase(owner)
    {
        let text = format!("a look at Stripe came to nothing: {}", ended.reason);
        grants::note_of_purchase(connection, &purchase, ended.at, "look", &text)?;
    }
    Ok(())
}

/// What becomes of events.
pub(super) struct Verdict<'a> {
    pub(super) state: EventState,
    pub(super) reason: Option<Reason>,
    pub(super) detail: Option<&'a str>,
}

/// Gives the waiting events of a purchase's objects, as far as `ticket` has taken them in, a verdict; says how many.
pub(super) fn judge(
    connection: &Connection,
    purchase: &str,
    object: i64,
    ticket: Ticket,
    verdict: &Verdict<'_>,
) -> Result<usize, Failure> {
    let sql = format!(
        "UPDATE events SET state = :state, reason = :reason, detail = :detail
         WHERE object IN ({OBJECTS_OF_PURCHASE}) AND state IN ('pending', 'parked') AND mark < :ticket"
    );
    rows::run(
        connection,
        &sql,
        named_params! {
            ":state": verdict.state.word(),
            ":reason": verdict.reason.map(Word::word),
            ":detail": verdict.detail,
            ":purchase": purchase,
            ":object": object,
            ":ticket": number(ticket.0),
        },
    )
}

/// The purchase that an object is linked to.
pub(super) fn linked(connection: &Connection, id: &StripeId) -> Result<Option<PurchaseId>, Failure> {
    Ok(find(connection, id)?.and_then(|(_, purchase)| purchase))
}

/// Writes down whose an object is; false if that stands there already.
pub(super) fn join(connection: &Connection, object: i64, purchase: &PurchaseId) -> Result<bool, Failure> {
    let sql = "UPDATE objects SET purchase = ?2 WHERE object = ?1 AND purchase IS NOT ?2";
    Ok(rows::run(connection, sql, params![object, purchase.as_str()])? > 0)
}

/// Links an object to a purchase. True if that joins events that wait for a look: they are put after every look that has
/// begun, as none has taken them in, except those from before the look that has `seen` the object as it stands.
pub(super) fn link(
    connection: &Connection,
    id: &StripeId,
    purchase: &PurchaseId,
    drawn: u64,
    seen: Option<Ticket>,
) -> Result<bool, Failure> {
    let (joined, _) = find_or_make(connection, &object_named(id.clone()))?;
    if !join(connection, joined, purchase)? {
        return Ok(false);
    }
    let waiting = rows::run(
        connection,
        "UPDATE events SET mark = ?2 WHERE object = ?1 AND state = 'pending' AND mark > ?3",
        params![joined, number(drawn), number(seen.map_or(0, |ticket| ticket.0))],
    )?;
    Ok(waiting > 0)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::store::sqlite::schema;

    fn session(number: usize) -> Object {
        let id = StripeId::parse(&format!("cs_test_{number:08}")).expect("is an id");
        Object { kind: ObjectKind::Session, id }
    }

    /// A record in which objects wait for a look, and their events with them.
    fn crowded(objects: usize) -> (tempfile::TempDir, Connection) {
        let folder = tempfile::tempdir().expect("folder");
        let (_, _, mut connection) = schema::fresh(&folder);
        let transaction = connection.transaction().expect("begins");
        for number in 0..objects {
            mark_dirty(&transaction, &session(number), Timestamp::UNIX_EPOCH).expect("marks");
            let sql = "INSERT INTO events (place, id, kind, created, received, livemode, object, mark, state)
                 VALUES (?1, 'evt_' || ?1, 'checkout.session.completed', 0, 0, 0, ?1, ?1, 'pending')";
            rows::run(&transaction, sql, [number + 1]).expect("inserts");
        }
        transaction.commit().expect("commits");
        (folder, connection)
    }

    /// Steps that SQLite takes for some work.
    fn steps(connection: &mut Connection, work: impl FnOnce(&Connection)) -> usize {
        let steps = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&steps);
        let step = move || {
            count.fetch_add(1, Ordering::Relaxed);
            false
        };
        connection.progress_handler(1, Some(step)).expect("is counted");
        work(connection);
        steps.load(Ordering::Relaxed)
    }

    fn mark_again(connection: &Connection) {
        mark_dirty(connection, &session(7), Timestamp::UNIX_EPOCH).expect("marks");
    }

    fn fail(connection: &Connection) {
        let (ticket, reason) = (Ticket(1_000_000), Reason::StripeUnavailable);
        look_failed(connection, &session(7), ticket, Timestamp::UNIX_EPOCH, reason).expect("is put off");
    }

    fn end(connection: &Connection) {
        look_ended(
            connection,
            &Ended {
                object: &session(7),
                ticket: Ticket(1_000_000),
                state: EventState::Ignored,
                reason: Reason::NotOurs,
                detail: "",
                at: Timestamp::UNIX_EPOCH,
            },
        )
        .expect("ends");
    }

    fn join_another(connection: &Connection) {
        let purchase = purchase("cs_test_00000008").expect("names a purchase");
        let drawn = draw(connection).expect("draws");
        link(connection, &session(7).id, &purchase, drawn, None).expect("links");
        linked(connection, &session(7).id).expect("is found");
    }

    #[test]
    fn what_is_known_of_one_object_is_found_without_a_walk_over_all() {
        let (_few, mut few) = crowded(100);
        let (_many, mut many) = crowded(1_000);
        for work in [mark_again, join_another, fail, end] {
            let (of_few, of_many) = (steps(&mut few, work), steps(&mut many, work));
            assert!(of_many < of_few + 50, "{of_few} steps among 100 objects, {of_many} among 1000");
        }
    }

    #[test]
    fn what_waits_is_counted_without_a_walk_over_what_does_not() {
        let [few, many] = [100, 1_000].map(|objects| {
            let (_folder, mut connection) = crowded(objects);
            let rest = "UPDATE objects SET mark = NULL, due = NULL WHERE object > 2";
            rows::run(&connection, rest, []).expect("rests");
            steps(&mut connection, |db| assert_eq!(count_dirty(db).expect("counts"), 2))
        });
        assert!(many < few + 50, "{few} steps beside 100 objects, {many} beside 1000");
    }
}
