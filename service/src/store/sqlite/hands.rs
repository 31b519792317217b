//! What people decide about grants.

use std::collections::BTreeMap;

use grantsmith_core::grant::{DesiredState, Hand};
use grantsmith_core::manual::Promised;
use grantsmith_core::port::{self, Kept, KeptState};
use grantsmith_core::purchase::PurchaseId;
use grantsmith_core::{Email, GrantId, LicenseName, Reason};
use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, named_params, params};

use super::failure::Failure;
use super::purchases::By;
use super::rows::{self, Columns, Word, millis, number, slots_number};
use super::{cluster, declared, deliveries, grants, imports, objects, purchases};
use crate::store::{
    Act, Ask, Decide, Delivery, DeliveryState, GrantLicense, HandRow, Promise, Refusal, Request, Taken,
    Ticket,
};

/// How long a request's id is kept.
const REQUESTS_KEPT: SignedDuration = SignedDuration::from_hours(30 * 24);

/// A person's decision about a grant.
pub(super) fn get(connection: &Connection, grant: &GrantId) -> Result<Hand, Failure> {
    let row = row(connection, grant)?;
    let generations = rows::all(
        connection,
        "SELECT name, generation FROM generations WHERE grant_id = ?1",
        [grant.as_str()],
        |row| Ok((row.license_name("name")?, row.value("generation")?)),
    )?;
    let sold = sold(connection, grant)?;
    let hand = row.map(|row| (row.state, row.expires_at, row.released));
    let (state, expires_at, released) = hand.unwrap_or_default();
    Ok(Hand { state, expires_at, released, sold, generations })
}

/// What adopted licenses had been sold with, once a person has set the expiry.
fn sold(
    connection: &Connection,
    grant: &GrantId,
) -> Result<Option<BTreeMap<LicenseName, Option<Timestamp>>>, Failure> {
    let sql = "SELECT expiry_by_hand FROM grants WHERE id = ?1";
    if rows::one(connection, sql, [grant.as_str()])? != Some(true) {
        return Ok(None);
    }
    let sql = "SELECT name, first_expires_at FROM licenses WHERE grant_id = ?1 AND attempt IS NULL
        ORDER BY generation DESC";
    let adopted = rows::all(connection, sql, [grant.as_str()], |row| {
        Ok((row.license_name("name")?, row.maybe_time("first_expires_at")?))
    })?;
    Ok(Some(adopted))
}

/// Forgets a release that has served: all is there and live, and a later revocation is another one.
pub(super) fn forget_release(connection: &Connection, grant: &GrantId) -> Result<(), Failure> {
    rows::run(
        connection,
        "UPDATE hands SET released = 0 WHERE grant_id = ?1 AND released
             AND NOT EXISTS (
                 SELECT 1 FROM declared d WHERE d.grant_id = ?1 AND (d.state <> 'active' OR NOT EXISTS (
                     SELECT 1 FROM licenses l WHERE l.grant_id = ?1 AND l.name = d.name
                 ))
             )",
        [grant.as_str()],
    )?;
    Ok(())
}

/// A person's decision, as lists show it.
pub(super) fn row(connection: &Connection, grant: &GrantId) -> Result<Option<HandRow>, Failure> {
    let sql = "SELECT * FROM hands WHERE grant_id = ?1 AND (state IS NOT NULL OR sets_expiry OR released)";
    rows::first(connection, sql, [grant.as_str()], |row| {
        let sets_expiry: bool = row.value("sets_expiry")?;
        let expires_at = row.maybe_time("expires_at")?;
        Ok(HandRow {
            state: row.maybe_word("state")?,
            expires_at: sets_expiry.then_some(expires_at),
            released: row.value("released")?,
            reason: row.value("reason")?,
            person: row.value("person")?,
            at: row.time("at")?,
        })
    })
}

/// What a person promised.
pub(super) fn promised(connection: &Connection, grant: &GrantId) -> Result<Vec<Promised>, Failure> {
    rows::all(
        connection,
        "SELECT app_id, slots, expires_at FROM promised WHERE grant_id = ?1 ORDER BY ordinal",
        [grant.as_str()],
        |row| {
            let (app_id, slots) = (row.app_id("app_id")?, row.slots("slots")?);
            Ok(Promised { app_id, slots, expires_at: row.maybe_time("expires_at")? })
        },
    )
}

/// Whether a person has decided since a ticket was drawn.
pub(super) fn since(connection: &Connection, grant: &GrantId, ticket: Ticket) -> Result<bool, Failure> {
    let sql = "SELECT handed FROM grants WHERE id = ?1";
    Ok(rows::count(connection, sql, [grant.as_str()])? > ticket.0)
}

/// Takes what a person asks for.
pub(super) fn take(connection: &Connection, ask: &Ask, decide: &Decide) -> Result<Taken, Failure> {
    if let Some(request) = &ask.request {
        match known(connection, request)? {
            Some(true) => return Ok(Taken::Repeated),
            Some(false) => return Ok(Taken::Refused(Refusal::RequestReused)),
            None => {}
        }
    }
    if let Act::Import(import) = &ask.act {
        match grants::of_key(connection, &import.license.fingerprint())? {
            Some(owner) if owner == ask.grant => return Ok(Taken::Repeated),
            Some(_) => return Ok(Taken::Refused(Refusal::KeyTaken)),
            None => {}
        }
    }
    let purchase = match purchase(connection, ask)? {
        Ok(purchase) => purchase,
        Err(refusal) => return Ok(Taken::Refused(refusal)),
    };
    let words = match act(connection, ask)? {
        Ok(words) => words,
        Err(refusal) => return Ok(Taken::Refused(refusal)),
    };
    if let Some(request) = &ask.request {
        remember(connection, request, ask.at)?;
    }
    let cause = format!("hand {}", ask.person);
    redecide(connection, ask, &purchase, &cause, decide)?;
    for text in words {
        grants::note(connection, &ask.grant, ask.at, &cause, &text)?;
    }
    Ok(Taken::Done)
}

/// Whether a request is known: as the same, or as something else.
fn known(connection: &Connection, request: &Request) -> Result<Option<bool>, Failure> {
    let sql = "SELECT digest FROM requests WHERE id = ?1";
    let digest: Option<String> = rows::one(connection, sql, [&request.id])?;
    Ok(digest.map(|digest| digest == request.digest))
}

fn remember(connection: &Connection, request: &Request, at: Timestamp) -> Result<(), Failure> {
    let old = at.checked_sub(REQUESTS_KEPT).unwrap_or(Timestamp::MIN);
    rows::run(connection, "DELETE FROM requests WHERE at < ?1", [millis(old)])?;
    let sql = "INSERT INTO requests (id, digest, at) VALUES (?1, ?2, ?3)";
    rows::run(connection, sql, params![request.id, request.digest, millis(at)])?;
    Ok(())
}

/// The purchase of the grant that is asked about.
fn purchase(connection: &Connection, ask: &Ask) -> Result<Result<PurchaseId, Refusal>, Failure> {
    let sql = "SELECT purchase FROM grants WHERE id = ?1";
    let found =
        rows::first(connection, sql, [ask.grant.as_str()], |row| row.parsed("purchase", rows::purchase))?;
    Ok(match (found, &ask.act) {
        (Some(_), Act::Promise(_)) => Err(Refusal::Exists),
        (None, Act::Promise(promise)) => Ok(promise.purchase.clone()),
        (None, Act::Import(import)) => Ok(import.purchase.clone()),
        (Some(purchase), _) => Ok(purchase),
        (None, _) => Err(Refusal::NoGrant),
    })
}

/// Writes what a person decided; gives it in words. Refuses before anything is written.
fn act(connection: &Connection, ask: &Ask) -> Result<Result<Vec<String>, Refusal>, Failure> {
    let licenses = declared::licenses(connection, &ask.grant)?;
    match &ask.act {
        Act::Promise(promise) => Ok(Ok(make(connection, ask, promise)?)),
        Act::Import(import) => Ok(Ok(vec![imports::take_in(connection, ask, import)?])),
        Act::Update { email, note, expires_at } => {
            let mut words = Vec::new();
            if let Some(email) = email {
                words.extend(readdress(connection, ask, email)?);
            }
            if let Some(note) = note {
                let sql = "UPDATE grants SET note = ?2, updated = ?3 WHERE id = ?1";
                let note = Some(note).filter(|note| !note.is_empty());
                rows::run(connection, sql, params![ask.grant.as_str(), note, millis(ask.at)])?;
                words.push("the note was changed".to_owned());
            }
            if let Some(expires_at) = expires_at {
                let before = row(connection, &ask.grant)?;
                set(connection, ask, before, |hand| hand.expires_at = Some(*expires_at))?;
                let sql = "UPDATE grants SET expiry_by_hand = 1 WHERE id = ?1";
                rows::run(connection, sql, [ask.grant.as_str()])?;
                words.push(expires_at.map_or_else(
                    || "every license is to last for ever".to_owned(),
                    |at| format!("every license is to end at {at}"),
                ));
            }
            Ok(Ok(words))
        }
        Act::Override { state, .. } if *state == DesiredState::Active && licenses.is_empty() => {
            Ok(Err(Refusal::NothingDeclared))
        }
        Act::Override { state, reason } => {
            let before = row(connection, &ask.grant)?;
            set(connection, ask, before, |hand| {
                hand.state = Some(*state);
                hand.reason.clone_from(reason);
            })?;
            if *state == DesiredState::Active {
                bring_back(connection, &ask.grant)?;
            }
            let state = state.word();
            // Whole, or an address in it could not be found again when its buyer is to be forgotten.
            let why =
                if reason.is_empty() { String::new() } else { format!(": {}", reason.replace('\n', " ")) };
            Ok(Ok(vec![format!("every license is to be {state}, whatever the purchase says{why}")]))
        }
        Act::Overrule { state, expires_at, released, reason } => {
            set(connection, ask, None, |hand| {
                (hand.state, hand.expires_at, hand.released) = (*state, *expires_at, *released);
                hand.reason.clone_from(reason);
            })?;
            if expires_at.is_some() {
                let sql = "UPDATE grants SET expiry_by_hand = 1 WHERE id = ?1";
                rows::run(connection, sql, [ask.grant.as_str()])?;
            }
            if *state == Some(DesiredState::Active) {
                bring_back(connection, &ask.grant)?;
            }
            Ok(Ok(vec!["the override in the cluster was taken in".to_owned()]))
        }
        Act::Clear => {
            rows::run(connection, "DELETE FROM hands WHERE grant_id = ?1", [ask.grant.as_str()])?;
            Ok(Ok(vec!["what people decided is taken back: the purchase counts again".to_owned()]))
        }
        Act::Release => {
            let held = [Reason::RevocationHeld, Reason::BeforeStart];
            if !licenses.iter().any(|license| held.contains(&license.reason)) {
                return Ok(Err(Refusal::NothingHeld));
            }
            let before = row(connection, &ask.grant)?;
            set(connection, ask, before, |hand| hand.released = true)?;
            Ok(Ok(vec!["what was held may go on".to_owned()]))
        }
        Act::Replace(name) => Ok(match keyed(&licenses, name.as_ref()) {
            Ok(license) => Ok(vec![replace(connection, ask, license)?]),
            Err(refusal) => Err(refusal),
        }),
        Act::ResetDevices(name) => Ok(match keyed(&licenses, name.as_ref()) {
            Ok(license) => Ok(vec![reset(connection, ask, license)?]),
            Err(refusal) => Err(refusal),
        }),
    }
}

/// Makes the grant that a person promises. Where it stands is decided after this.
fn make(connection: &Connection, ask: &Ask, promise: &Promise) -> Result<Vec<String>, Failure> {
    rows::run(
        connection,
        "INSERT INTO grants (id, purchase, livemode, state, reason, paid_at, email, email_folded, email_by_hand, note,
             decided, created, updated)
         VALUES (:id, :purchase, :livemode, 'issuing', 'Issuing', :at, :email, :folded, 1, :note, 0, :at, :at)",
        named_params! {
            ":id": ask.grant.as_str(),
            ":purchase": promise.purchase.as_str(),
            ":livemode": promise.livemode,
            ":email": promise.email.as_ref().map(Email::expose),
            ":folded": promise.email.as_ref().map(|email| email.expose().to_lowercase()),
            ":note": Some(&promise.note).filter(|note| !note.is_empty()),
            ":at": millis(ask.at),
        },
    )?;
    for (ordinal, license) in (1_u32..).zip(&promise.licenses) {
        let sql =
            "INSERT INTO promised (grant_id, ordinal, app_id, slots, expires_at) VALUES (?1, ?2, ?3, ?4, ?5)";
        let (app, slots) = (license.app_id.as_str(), slots_number(license.slots));
        let expires_at = license.expires_at.map(millis);
        rows::run(connection, sql, params![ask.grant.as_str(), ordinal, app, slots, expires_at])?;
    }
    Ok(vec!["made by hand".to_owned()])
}

/// Changes the address. A sending that waited for a better one goes out, and one that was put off goes there in its time.
fn readdress(connection: &Connection, ask: &Ask, email: &Email) -> Result<Vec<String>, Failure> {
    let (id, at) = (ask.grant.as_str(), millis(ask.at));
    rows::run(
        connection,
        "UPDATE grants SET email = ?2, email_folded = ?3, email_by_hand = 1, updated = ?4 WHERE id = ?1",
        params![id, email.expose(), email.expose().to_lowercase(), at],
    )?;
    let cause = format!("hand {}", ask.person);
    deliveries::unpark(connection, &ask.grant, &cause, ask.at)?;
    let refused = |delivery: Delivery| {
        (delivery.state, delivery.reason) == (DeliveryState::Parked, Some(Reason::MailRefused))
    };
    if deliveries::newest(connection, &ask.grant)?.is_some_and(refused) {
        deliveries::resend(connection, &ask.grant, &cause, ask.at)?;
    }
    Ok(vec!["the buyer's address was changed".to_owned()])
}

/// Writes the hand as `change` leaves it.
fn set(
    connection: &Connection,
    ask: &Ask,
    before: Option<HandRow>,
    change: impl FnOnce(&mut HandRow),
) -> Result<(), Failure> {
    let mut hand = before.unwrap_or_else(|| HandRow {
        state: None,
        expires_at: None,
        released: false,
        reason: String::new(),
        person: String::new(),
        at: ask.at,
    });
    change(&mut hand);
    rows::run(
        connection,
        "INSERT OR REPLACE INTO hands (grant_id, state, sets_expiry, expires_at, released, reason, person, at)
         VALUES (:id, :state, :sets_expiry, :expires_at, :released, :reason, :person, :at)",
        named_params! {
            ":id": ask.grant.as_str(),
            ":state": hand.state.map(Word::word),
            ":sets_expiry": hand.expires_at.is_some(),
            ":expires_at": hand.expires_at.flatten().map(millis),
            ":released": hand.released,
            ":reason": hand.reason,
            ":person": ask.person,
            ":at": millis(ask.at),
        },
    )?;
    Ok(())
}

/// Has the keys re-activated at AuthForge even where we hold them for live: somebody may have revoked them there. What AuthForge
/// refused before is tried again.
fn bring_back(connection: &Connection, grant: &GrantId) -> Result<(), Failure> {
    rows::run(
        connection,
        "UPDATE licenses SET state = 'reinstating', revoked_at = NULL, revoked_cause = NULL,
             refused = CASE refused WHEN 'reinstate' THEN NULL ELSE refused END
         WHERE grant_id = ?1 AND (name, generation) IN (SELECT name, generation FROM declared WHERE grant_id = ?1)",
        [grant.as_str()],
    )?;
    rows::run(connection, "UPDATE grants SET version = version + 1 WHERE id = ?1", [grant.as_str()])?;
    Ok(())
}

/// The license that is meant, which must have a live key.
fn keyed<'a>(licenses: &'a [GrantLicense], name: Option<&LicenseName>) -> Result<&'a GrantLicense, Refusal> {
    let license = match (name, licenses) {
        (Some(name), _) => {
            licenses.iter().find(|license| license.desired.name == *name).ok_or(Refusal::NoLicense)?
        }
        (None, [license]) => license,
        (None, []) => return Err(Refusal::NothingDeclared),
        (None, _) => return Err(Refusal::WhichLicense),
    };
    // One that AuthForge will not bring back has nothing but a replacement to hope for.
    let usable =
        |kept: &Kept| kept.state == KeptState::Live || kept.refused == Some(port::Refusal::Reinstate);
    if license.kept.as_ref().is_some_and(usable) { Ok(license) } else { Err(Refusal::KeyPending) }
}

fn replace(connection: &Connection, ask: &Ask, license: &GrantLicense) -> Result<String, Failure> {
    let (name, generation) = (&license.desired.name, license.desired.generation.saturating_add(1));
    rows::run(
        connection,
        "INSERT OR REPLACE INTO generations (grant_id, name, generation) VALUES (?1, ?2, ?3)",
        params![ask.grant.as_str(), name.as_str(), generation],
    )?;
    Ok(format!("license {name}: its key is to be replaced (generation {generation})"))
}

fn reset(connection: &Connection, ask: &Ask, license: &GrantLicense) -> Result<String, Failure> {
    let name = &license.desired.name;
    rows::run(
        connection,
        "INSERT INTO resets (reset, grant_id, name, asked, state) VALUES (?1, ?2, ?3, ?4, 'asked')",
        params![number(objects::draw(connection)?), ask.grant.as_str(), name.as_str(), millis(ask.at)],
    )?;
    rows::run(connection, "UPDATE grants SET version = version + 1 WHERE id = ?1", [ask.grant.as_str()])?;
    Ok(format!("license {name}: its devices are to be unbound"))
}

/// Decides the purchase anew, and has the grant worked on: a round that began before this has not seen it.
fn redecide(
    connection: &Connection,
    ask: &Ask,
    purchase: &PurchaseId,
    cause: &str,
    decide: &Decide,
) -> Result<(), Failure> {
    let ticket = objects::draw(connection)?;
    let handed = "UPDATE grants SET handed = ?2 WHERE id = ?1";
    rows::run(connection, handed, params![ask.grant.as_str(), number(ticket)])?;
    // What people declare in the cluster is theirs to change, and only what outranks it is written there.
    let ours = !cluster::is_peoples(connection, &ask.grant)?;
    let record = purchases::get(connection, purchase)?;
    if let Some(redecided) = ours.then(|| decide(purchase, &record, Ticket(ticket))).flatten() {
        let livemode = matches!(&ask.act, Act::Promise(promise) if promise.livemode);
        let by = By { purchase, livemode, email: None, customer: None, cause, at: ask.at };
        purchases::write_grant(connection, &by, &redecided)?;
    }
    rows::run(
        connection,
        "UPDATE grants SET due = ?2, decided = ?3, tries = 0
         WHERE id = ?1 AND EXISTS (SELECT 1 FROM declared WHERE grant_id = ?1)",
        params![ask.grant.as_str(), millis(ask.at), number(ticket)],
    )?;
    Ok(())
}
