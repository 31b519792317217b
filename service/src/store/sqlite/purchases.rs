//! What is on record about a purchase, and the decision about it.

use grantsmith_core::grant::Cause;
use grantsmith_core::purchase::{InvoiceFact, PurchaseId, StripeId};
use grantsmith_core::terms::Terms;
use grantsmith_core::{Desired, DesiredState, GrantId, Reason};
use jiff::Timestamp;
use rusqlite::{Connection, Row, named_params, params};

use super::failure::Failure;
use super::objects::{self, Verdict};
use super::packed::Packed;
use super::rows::{self, Columns, Word, millis, number};
use super::{declared, deliveries, events, forget, grants, hands, sold};
use crate::store::{
    Attachment, Decision, EventState, GrantState, Object, ObjectKind, PurchaseRecord, Redecided, Snapshot,
    Source, Ticket,
};

/// Reads what is on record about a purchase.
pub(super) fn get(connection: &Connection, purchase: &PurchaseId) -> Result<PurchaseRecord, Failure> {
    let grant = GrantId::of(purchase);
    let sql = "SELECT paid_at, reason FROM grants WHERE id = ?1";
    let before = rows::first(connection, sql, [grant.as_str()], |row| {
        Ok((row.maybe_time("paid_at")?, row.word::<Reason>("reason")?))
    })?;
    let subscription = snapshot(connection, purchase, ObjectKind::Subscription)?;
    let told = subscription.as_ref().and_then(|snapshot| match &snapshot.source {
        Source::Told { at, .. } => Some(*at),
        Source::Fetched => None,
    });
    Ok(PurchaseRecord {
        session: snapshot(connection, purchase, ObjectKind::Session)?,
        subscription,
        invoices: invoices(connection, purchase)?,
        declared: declared::names(connection, &grant)?,
        terms: terms(connection, &grant, false)?,
        imported: terms(connection, &grant, true)?,
        paid_at: before.and_then(|(paid_at, _)| paid_at),
        reason: before.map(|(_, reason)| reason),
        hand: hands::get(connection, &grant)?,
        promised: hands::promised(connection, &grant)?,
        events: events::waiting(connection, purchase.as_str(), told)?,
    })
}

/// What is known of a purchase's invoices.
fn invoices(connection: &Connection, purchase: &PurchaseId) -> Result<Vec<InvoiceFact>, Failure> {
    let sql = "SELECT body FROM ledgers WHERE kind = 'invoice' AND purchase = ?1 ORDER BY id";
    rows::all(connection, sql, [purchase.as_str()], invoice)
}

fn invoice(row: &Row<'_>) -> Result<InvoiceFact, Failure> {
    let body: Vec<u8> = row.value("body")?;
    serde_json::from_slice(&body).map_err(|_| Failure::damaged("an invoice of the ledger is unreadable"))
}

/// Adds to the ledger what is new about an invoice.
fn enter(connection: &Connection, decision: &Decision, fact: &InvoiceFact) -> Result<(), Failure> {
    let sql = "SELECT body FROM ledgers WHERE kind = 'invoice' AND id = ?1";
    let known = rows::first(connection, sql, [fact.id.as_str()], invoice)?;
    let merged = known.clone().map_or_else(|| fact.clone(), |known| known.merged(fact));
    if known.as_ref() == Some(&merged) {
        return Ok(());
    }
    let json = serde_json::to_vec(&merged).map_err(|_| Failure::damaged("an invoice cannot be written"))?;
    rows::run(
        connection,
        "INSERT INTO ledgers (kind, id, purchase, ticket, encoding, body)
         VALUES ('invoice', ?1, ?2, ?3, 'plain', ?4)
         ON CONFLICT (kind, id) DO UPDATE SET ticket = excluded.ticket, body = excluded.body",
        params![fact.id, decision.purchase.as_str(), number(decision.ticket.0), json],
    )?;
    Ok(())
}

/// The newest snapshot of a purchase's object of a kind.
fn snapshot(
    connection: &Connection,
    purchase: &PurchaseId,
    kind: ObjectKind,
) -> Result<Option<Snapshot>, Failure> {
    let sql = format!(
        "SELECT o.id, o.kind, s.source, s.told_event, s.told_kind, s.told_at, s.encoding, s.body
         FROM snapshots s JOIN objects o ON o.object = s.object
         WHERE s.object IN ({of_purchase}) AND o.kind = '{kind}'
         ORDER BY s.ticket DESC LIMIT 1",
        of_purchase = objects::OBJECTS_OF_PURCHASE,
        kind = kind.word(),
    );
    let named = named_params! { ":purchase": purchase.as_str(), ":object": None::<i64> };
    rows::first(connection, &sql, named, |row| {
        let id = row.parsed("id", |id| grantsmith_core::purchase::StripeId::parse(id).ok())?;
        let source = match row.value::<String>("source")?.as_str() {
            "fetched" => Source::Fetched,
            "told" => Source::Told {
                event: row.value("told_event")?,
                kind: row.value("told_kind")?,
                at: row.time("told_at")?,
            },
            _ => return Err(Failure::damaged("column 'source' of a row is unreadable")),
        };
        let body = Packed::read(row)?.unwrap_or_default();
        Ok(Snapshot { object: Object { kind: row.word("kind")?, id }, source, body })
    })
}

fn terms(connection: &Connection, grant: &GrantId, imported: bool) -> Result<Option<Terms>, Failure> {
    let sql = "SELECT terms FROM terms WHERE grant_id = ?1 AND imported = ?2";
    rows::first(connection, sql, params![grant.as_str(), imported], |row| {
        row.parsed("terms", |json| serde_json::from_str(json).ok())
    })
}

/// Writes a decision. False, and nothing written, if a later look is on record.
pub(super) fn decide(
    connection: &Connection,
    decision: &Decision,
    body: &Packed,
    others: &[Packed],
) -> Result<bool, Failure> {
    if hands::since(connection, &GrantId::of(&decision.purchase), decision.ticket)? {
        return Ok(false);
    }
    let (object, _) = objects::find_or_make(connection, &decision.snapshot.object)?;
    if !replace_snapshot(connection, &decision.purchase, object, &decision.snapshot, decision.ticket, body)? {
        return Ok(false);
    }
    for (other, body) in decision.others.iter().zip(others) {
        let (object, _) = objects::find_or_make(connection, &other.object)?;
        replace_snapshot(connection, &decision.purchase, object, other, decision.ticket, body)?;
    }
    for fact in &decision.invoices {
        enter(connection, decision, fact)?;
    }
    // The links first: of the events that they join, those that this look has not taken in are put after it.
    link(connection, decision, object)?;
    let shown = match decision.event_state {
        EventState::Parked | EventState::Ignored => (Some(decision.reason), decision.detail.as_deref()),
        EventState::Pending | EventState::Handled => (None, None),
    };
    let verdict = Verdict { state: decision.event_state, reason: shown.0, detail: shown.1 };
    objects::judge(connection, decision.purchase.as_str(), object, decision.ticket, &verdict)?;
    objects::clean(connection, object, decision.ticket, decision.look_again)?;
    if decision.looked_at != decision.snapshot.object {
        let (looked_at, _) = objects::find_or_make(connection, &decision.looked_at)?;
        objects::clean(connection, looked_at, decision.ticket, None)?;
    }
    let by = By {
        purchase: &decision.purchase,
        livemode: decision.livemode,
        email: decision.email.as_ref(),
        customer: decision.customer.as_ref(),
        cause: &decision.cause,
        at: decision.at,
    };
    write_grant(connection, &by, &decision.clone().into())?;
    sold::remember(connection, &decision.sells)?;
    deliveries::warn(connection, &GrantId::of(&decision.purchase), decision.dunning.as_ref(), decision.at)?;
    forget::drop_bodies(connection, &decision.purchase)?;
    Ok(true)
}

/// Joins an object to the purchase of another.
pub(super) fn attach(
    connection: &Connection,
    attachment: &Attachment,
    body: Option<&Packed>,
) -> Result<(), Failure> {
    let (object, _) = objects::find_or_make(connection, &attachment.object)?;
    if let (Some(snapshot), Some(body)) = (&attachment.snapshot, body) {
        replace_snapshot(connection, &attachment.purchase, object, snapshot, attachment.ticket, body)?;
    }
    let drawn = objects::draw(connection)?;
    objects::link(connection, &attachment.object.id, &attachment.purchase, drawn, None)?;
    objects::clean(connection, object, attachment.ticket, None)?;
    if let Ok(own) = StripeId::parse(attachment.purchase.as_str()) {
        objects::mark(connection, &rows::object_named(own), drawn, attachment.at)?;
    }
    forget::drop_bodies(connection, &attachment.purchase).map(|_| ())
}

fn replace_snapshot(
    connection: &Connection,
    purchase: &PurchaseId,
    object: i64,
    snapshot: &Snapshot,
    ticket: Ticket,
    body: &Packed,
) -> Result<bool, Failure> {
    let (source, event, kind, at) = match &snapshot.source {
        Source::Fetched => ("fetched", None, None, None),
        Source::Told { event, kind, at } => ("told", Some(event), Some(kind), Some(millis(*at))),
    };
    let rest = forget::rest(connection, purchase, &snapshot.body)?;
    let body = rest.as_ref().unwrap_or(body);
    let replaced = rows::run(
        connection,
        "INSERT INTO snapshots (object, ticket, source, told_event, told_kind, told_at, encoding, body)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
         ON CONFLICT (object) DO UPDATE SET
             ticket = excluded.ticket,
             source = excluded.source,
             told_event = excluded.told_event,
             told_kind = excluded.told_kind,
             told_at = excluded.told_at,
             encoding = excluded.encoding,
             body = excluded.body
         WHERE ticket <= excluded.ticket",
        params![object, number(ticket.0), source, event, kind, at, body.encoding, &body.bytes[..],],
    )?;
    Ok(replaced > 0)
}

/// Joins objects to the purchase. Orphans that this finds a home for mark the object dirty once more, unless the look has
/// taken in all that was told of them.
fn link(connection: &Connection, decision: &Decision, object: i64) -> Result<(), Failure> {
    let own = &decision.snapshot.object.id;
    objects::join(connection, object, &decision.purchase)?;
    let mut drawn = None;
    let mut joined = false;
    for id in decision.links.iter().filter(|id| *id != own) {
        let number = match drawn {
            Some(number) => number,
            None => *drawn.insert(objects::draw(connection)?),
        };
        let seen = decision.seen.contains(id).then_some(decision.ticket);
        joined |= objects::link(connection, id, &decision.purchase, number, seen)?;
    }
    match drawn {
        Some(number) if joined => {
            objects::mark(connection, &decision.snapshot.object, number, decision.at).map(|_| ())
        }
        _ => Ok(()),
    }
}

/// What of a grant a decision can change.
struct Before {
    state: GrantState,
    reason: Reason,
    detail: Option<String>,
    paid_at: Option<Timestamp>,
    email: Option<String>,
    email_by_hand: bool,
}

fn before(connection: &Connection, id: &GrantId) -> Result<Option<Before>, Failure> {
    rows::first(
        connection,
        "SELECT state, reason, detail, paid_at, email, email_by_hand FROM grants WHERE id = ?1",
        [id.as_str()],
        |row| {
            Ok(Before {
                state: row.word("state")?,
                reason: row.word("reason")?,
                detail: row.value("detail")?,
                paid_at: row.maybe_time("paid_at")?,
                email: row.value("email")?,
                email_by_hand: row.value("email_by_hand")?,
            })
        },
    )
}

/// By what a grant is decided.
pub(super) struct By<'a> {
    pub(super) purchase: &'a PurchaseId,
    pub(super) livemode: bool,
    /// The address that Stripe tells.
    pub(super) email: Option<&'a grantsmith_core::Email>,
    pub(super) customer: Option<&'a StripeId>,
    pub(super) cause: &'a str,
    pub(super) at: Timestamp,
}

/// Writes where a grant stands, made if need be.
pub(super) fn write_grant(connection: &Connection, by: &By<'_>, decision: &Redecided) -> Result<(), Failure> {
    let id = GrantId::of(by.purchase);
    let before = before(connection, &id)?;
    if before.is_none() {
        insert_grant(connection, by, decision, &id)?;
    }
    if let Some(terms) = &decision.terms {
        fix_terms(connection, &id, terms, false, by.at)?;
    }
    // Whoever declared it in the cluster before: it is decided here from now on.
    rows::run(
        connection,
        "UPDATE grants SET object = NULL WHERE id = ?1 AND object IS NOT NULL",
        [id.as_str()],
    )?;
    let redeclared = declared::declare(connection, &id, &decision.licenses)?;
    hands::forget_release(connection, &id)?;
    let paid = decision.paid_at.filter(|_| before.as_ref().is_none_or(|before| before.paid_at.is_none()));
    let told = by.email.filter(|_| before.as_ref().is_none_or(|before| !before.email_by_hand));
    let email = told.map(grantsmith_core::Email::expose);
    let readdressed =
        email.is_some() && before.as_ref().is_none_or(|before| before.email.as_deref() != email);
    if paid.is_some() || readdressed {
        rows::run(
            connection,
            "UPDATE grants SET paid_at = coalesce(paid_at, ?2), email = coalesce(?3, email),
                     email_folded = coalesce(?4, email_folded), updated = ?5 WHERE id = ?1",
            params![id.as_str(), paid.map(millis), email, email.map(str::to_lowercase), millis(by.at)],
        )?;
    }
    if readdressed && before.is_some() {
        grants::note(connection, &id, by.at, by.cause, "the buyer's address has changed")?;
        deliveries::unpark(connection, &id, by.cause, by.at)?;
    }
    if let Some(customer) = by.customer {
        let sql = "UPDATE grants SET customer = ?2 WHERE id = ?1 AND customer IS NOT ?2";
        rows::run(connection, sql, [id.as_str(), customer.as_str()])?;
    }
    let work = decision.state == GrantState::Issuing;
    let moved = before.as_ref().is_none_or(|before| match before.state {
        GrantState::Issuing | GrantState::Ready if work => redeclared,
        state => {
            redeclared
                || state != decision.state
                || before.reason != decision.reason
                || before.detail != decision.detail
        }
    });
    if moved { move_grant(connection, by, decision, &id) } else { Ok(()) }
}

fn insert_grant(
    connection: &Connection,
    by: &By<'_>,
    decision: &Redecided,
    id: &GrantId,
) -> Result<(), Failure> {
    rows::run(
        connection,
        "INSERT INTO grants (id, purchase, livemode, state, reason, decided, created, updated)
             VALUES (?1, ?2, ?3, ?4, ?5, 0, ?6, ?6)",
        params![
            id.as_str(),
            by.purchase.as_str(),
            by.livemode,
            decision.state.word(),
            decision.reason.word(),
            millis(by.at),
        ],
    )?;
    Ok(())
}

/// Writes where the grant stands now, and that there is work if there is.
fn move_grant(
    connection: &Connection,
    by: &By<'_>,
    decision: &Redecided,
    id: &GrantId,
) -> Result<(), Failure> {
    rows::run(
        connection, // A grant that is over but still has licenses to see to keeps its time.
        "UPDATE grants SET
             state = :state, reason = :reason, detail = :detail, decided = :decided, tries = 0, updated = :at,
             due = CASE
                 WHEN :work THEN :at
                 WHEN EXISTS (SELECT 1 FROM declared WHERE grant_id = :id) THEN due
             END
         WHERE id = :id",
        named_params! {
            ":id": id.as_str(),
            ":state": decision.state.word(),
            ":reason": decision.reason.word(),
            ":detail": decision.detail,
            ":decided": number(objects::draw(connection)?),
            ":at": millis(by.at),
            ":work": decision.state == GrantState::Issuing,
        },
    )?;
    grants::note(connection, id, by.at, by.cause, &in_words(decision))
}

fn in_words(decision: &Redecided) -> String {
    let reason = decision.reason;
    let state = match decision.state {
        GrantState::Issuing | GrantState::Ready => return declared_in_words(&decision.licenses),
        GrantState::Pending => "waits for money",
        GrantState::Ended => "ended",
        GrantState::Parked => "waits for a person",
        GrantState::NotOurs => "is not ours",
    };
    format!("{state}: {reason}")
}

fn declared_in_words(licenses: &[Desired]) -> String {
    let plural = if licenses.len() == 1 { "" } else { "s" };
    let states = [DesiredState::Active, DesiredState::Suspended, DesiredState::Revoked];
    let parts = states.into_iter().filter_map(|state| {
        let count = licenses.iter().filter(|license| license.state == state).count();
        let first = licenses.iter().find(|license| license.state == state)?;
        let number = if count == licenses.len() { String::new() } else { format!("{count} ") };
        let by = if first.cause == Cause::Hand { " by hand" } else { "" };
        let why = if first.reason == Reason::Issued { String::new() } else { format!(" ({})", first.reason) };
        Some(format!(", {number}{}{by}{why}", state.word()))
    });
    format!("declared {} license{plural}{}", licenses.len(), parts.collect::<String>())
}

/// Fixes what was sold, unless that is fixed. What an `imported` license shows gives way to what the purchase says.
pub(super) fn fix_terms(
    connection: &Connection,
    id: &GrantId,
    terms: &Terms,
    imported: bool,
    at: Timestamp,
) -> Result<(), Failure> {
    let json = serde_json::to_string(terms).map_err(|_| Failure::damaged("terms cannot be written"))?;
    rows::run(
        connection,
        "INSERT INTO terms (grant_id, terms, fixed, imported) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (grant_id) DO UPDATE SET terms = excluded.terms, fixed = excluded.fixed, imported = 0
         WHERE imported AND NOT excluded.imported",
        params![id.as_str(), json, millis(at), imported],
    )?;
    Ok(())
}
