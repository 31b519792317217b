//! Keys that were sold without this program.

use grantsmith_core::grant::{Cause, Expiry};
use grantsmith_core::label::Label;
use grantsmith_core::port::{Kept, KeptState};
use grantsmith_core::purchase::StripeId;
use grantsmith_core::{
    AppId, Desired, DesiredState, Email, GrantId, License, LicenseName, LicenseStatus, Reason, Slots,
};
use rusqlite::{Connection, named_params, params};

use super::failure::Failure;
use super::rows::{self, Columns, millis};
use super::{attempts, declared, objects, purchases};
use crate::store::{Ask, Import, SoldLicense};

/// Keeps the key of an import, and gives that in words. Where the grant stands is decided after this.
pub(super) fn take_in(connection: &Connection, ask: &Ask, import: &Import) -> Result<String, Failure> {
    make(connection, ask, import)?;
    purchases::fix_terms(connection, &ask.grant, &import.terms, true, ask.at)?;
    let license = &import.license;
    let place = place(connection, &ask.grant, import)?;
    let name = place.name.clone();
    // What is declared in a cluster cannot change, not even in its spelling.
    let same = |declared: &AppId| declared.is_same(license.app_id());
    let desired = Desired {
        name: place.name,
        generation: place.generation,
        app_id: place.app_id.filter(same).unwrap_or_else(|| license.app_id().clone()),
        slots: license.slots().unwrap_or(Slots::Limited(1)),
        state: DesiredState::Active,
        expires_at: None,
        expiry: Expiry::Sold,
        reason: Reason::Issued,
        cause: Cause::Rule,
        imported: true,
        withdrawn: false,
        adopt: None,
    };
    declared::declare_one(connection, &ask.grant, place.ordinal, &desired)?;
    match license {
        SoldLicense::Found(license) => {
            attempts::keep(connection, &ask.grant, &kept(desired, license), ask.at)?;
        }
        SoldLicense::Sought { key, .. } => declared::adopt(connection, &ask.grant, &name, key)?,
    }
    if let (true, Ok(id)) = (import.look, StripeId::parse(import.purchase.as_str())) {
        objects::mark_dirty(connection, &rows::object_named(id), ask.at)?;
    }
    Ok(format!("license {name}: its key was imported"))
}

fn kept(desired: Desired, license: &License) -> Kept {
    Kept {
        name: desired.name,
        generation: desired.generation,
        key: license.key.clone(),
        app_id: license.app_id.clone(),
        slots: license.slots,
        created_at: license.created_at,
        expires_at: license.expires_at,
        attempt: None,
        state: match license.status {
            LicenseStatus::Active => KeptState::Live,
            LicenseStatus::Revoked => KeptState::RevokedElsewhere,
        },
        duplicated: false,
        refused: None,
    }
}

/// Makes the grant if there is none. An address that is known already stays.
fn make(connection: &Connection, ask: &Ask, import: &Import) -> Result<(), Failure> {
    rows::run(
        connection,
        "INSERT INTO grants (id, purchase, livemode, state, reason, email, email_folded, decided, created, updated)
         VALUES (:id, :purchase, :livemode, 'issuing', 'Issuing', :email, :folded, 0, :at, :at)
         ON CONFLICT (id) DO UPDATE SET email = excluded.email, email_folded = excluded.email_folded
         WHERE email IS NULL AND excluded.email IS NOT NULL",
        named_params! {
            ":id": ask.grant.as_str(),
            ":purchase": import.purchase.as_str(),
            ":livemode": import.livemode,
            ":email": import.email.as_ref().map(Email::expose),
            ":folded": import.email.as_ref().map(|email| email.expose().to_lowercase()),
            ":at": millis(ask.at),
        },
    )?;
    Ok(())
}

/// Which license of its grant a key becomes.
struct Place {
    name: LicenseName,
    generation: u32,
    ordinal: u32,
    app_id: Option<AppId>,
}

/// A declared license that has no key and no attempt which may bring one: the one that the key's label names, else the first of
/// its app, else the first; one for which another key was named and not found comes last. Failing that, the next.
fn place(connection: &Connection, grant: &GrantId, import: &Import) -> Result<Place, Failure> {
    let label = match &import.license {
        SoldLicense::Found(license) => license.label.as_deref().and_then(Label::read),
        SoldLicense::Sought { .. } => None,
    };
    // A replacement is a new license, whatever was named.
    let sought = matches!(import.license, SoldLicense::Sought { .. });
    let named = label.filter(|(purchase, ..)| *purchase == import.purchase).map(|(_, name, _)| name);
    let named = named.as_ref().map(LicenseName::as_str);
    let free = rows::first(
        connection,
        "SELECT name, generation, ordinal, app_id FROM declared d
         WHERE grant_id = ?1 AND (adopt IS NULL OR standing = 'KeyNotFound') AND (NOT ?4 OR generation = 1)
             AND NOT EXISTS (SELECT 1 FROM licenses WHERE grant_id = ?1 AND name = d.name)
             AND NOT EXISTS (
                 SELECT 1 FROM attempts
                 WHERE grant_id = ?1 AND name = d.name AND outcome IN ('open', 'answered', 'found')
             )
         ORDER BY adopt IS NOT NULL, name IS NOT ?2, app_id <> ?3 COLLATE NOCASE, ordinal LIMIT 1",
        params![grant.as_str(), named, import.license.app_id().as_str(), sought],
        |row| {
            let (generation, ordinal) = (row.value("generation")?, row.value("ordinal")?);
            Ok(Place {
                name: row.license_name("name")?,
                generation,
                ordinal,
                app_id: Some(row.app_id("app_id")?),
            })
        },
    )?;
    if let Some(free) = free {
        return Ok(free);
    }
    let known: Vec<LicenseName> = rows::all(
        connection,
        "SELECT name FROM declared WHERE grant_id = ?1
         UNION SELECT name FROM licenses WHERE grant_id = ?1 UNION SELECT name FROM attempts WHERE grant_id = ?1",
        [grant.as_str()],
        |row| row.license_name("name"),
    )?;
    let last = known.iter().filter_map(LicenseName::ordinal).max().unwrap_or(0);
    let ordinal = last.saturating_add(1);
    let own = named.and_then(LicenseName::parse).filter(|named| !known.contains(named));
    Ok(Place {
        name: own.unwrap_or_else(|| LicenseName::of_unit(ordinal)),
        generation: 1,
        ordinal,
        app_id: None,
    })
}
