//! Between values and columns: words for enums, milliseconds for times.

use grantsmith_core::grant::{Cause, Expiry, LicenseName};
use grantsmith_core::port::ResetOutcome;
use grantsmith_core::purchase::{PurchaseId, StripeId};
use grantsmith_core::{AppId, DesiredState, GrantId, Reason, Slots};
use jiff::Timestamp;
use rusqlite::types::FromSql;
use rusqlite::{Connection, Params, Row};

use super::failure::Failure;
use crate::store::{DeliveryKind, DeliveryState, EventState, GrantState, Object, ObjectKind, Opens};

/// An enum that is stored as words.
pub(super) trait Word: Copy + 'static {
    /// The word of a value.
    fn word(self) -> &'static str;
    /// The value of a word.
    fn read(word: &str) -> Option<Self>;
}

/// Declares each word once, so that writing and reading can never disagree.
macro_rules! words {
    ($($type:ident { $($variant:ident $word:literal,)* })*) => { $(
        impl Word for $type {
            fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            fn read(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)* _ => None }
            }
        }
    )* };
}

words! {
    ObjectKind {
        Session "session", Subscription "subscription", Invoice "invoice", PaymentIntent "payment_intent",
        Charge "charge", Other "other",
    }
    EventState { Pending "pending", Handled "handled", Parked "parked", Ignored "ignored", }
    GrantState {
        Pending "pending", Issuing "issuing", Ready "ready", Ended "ended", Parked "parked", NotOurs "not_ours",
    }
    DeliveryKind { Keys "keys", KeysAgain "keys_again", PaymentFailed "payment_failed", }
    Opens { Portal "link", Action "action", }
    DeliveryState { Due "due", Sent "sent", Parked "parked", Dropped "dropped", }
    DesiredState { Active "active", Suspended "suspended", Revoked "revoked", }
    Expiry { Sold "sold", Followed "followed", }
    Cause { Rule "rule", Hand "hand", }
    ResetOutcome {
        Asked "asked", Sent "sent", Done "done", Unclear "unclear", Refused "refused", Dropped "dropped",
    }
}

impl Word for Reason {
    fn word(self) -> &'static str {
        self.as_str()
    }

    fn read(word: &str) -> Option<Self> {
        word.parse().ok()
    }
}

/// A time as it is stored.
pub(super) fn millis(at: Timestamp) -> i64 {
    at.as_millisecond()
}

/// Device slots as they are stored.
pub(super) fn slots_number(slots: Slots) -> u8 {
    match slots {
        Slots::Limited(count) => count,
        Slots::Unlimited => 0,
    }
}

/// A number of the sequence as it is stored. It counts from 1 and cannot get out of range.
pub(super) fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// What kind of object an id names, by its prefix.
pub(super) fn object_named(id: StripeId) -> Object {
    let kind = match id.prefix() {
        "cs" => ObjectKind::Session,
        "sub" => ObjectKind::Subscription,
        "in" => ObjectKind::Invoice,
        "pi" => ObjectKind::PaymentIntent,
        "ch" | "py" => ObjectKind::Charge,
        _ => ObjectKind::Other,
    };
    Object { kind, id }
}

/// Reads typed values from a row, by the names of its columns.
pub(super) trait Columns {
    fn value<T: FromSql>(&self, column: &str) -> Result<T, Failure>;

    fn count(&self, column: &str) -> Result<u64, Failure> {
        Ok(self.value::<i64>(column)?.unsigned_abs())
    }

    fn word<T: Word>(&self, column: &str) -> Result<T, Failure> {
        self.maybe_word(column)?.ok_or_else(|| unreadable(column))
    }

    fn maybe_word<T: Word>(&self, column: &str) -> Result<Option<T>, Failure> {
        let word: Option<String> = self.value(column)?;
        word.map(|word| T::read(&word).ok_or_else(|| unreadable(column))).transpose()
    }

    fn time(&self, column: &str) -> Result<Timestamp, Failure> {
        self.maybe_time(column)?.ok_or_else(|| unreadable(column))
    }

    fn maybe_time(&self, column: &str) -> Result<Option<Timestamp>, Failure> {
        let millis: Option<i64> = self.value(column)?;
        millis.map(|millis| Timestamp::from_millisecond(millis).map_err(|_| unreadable(column))).transpose()
    }

    fn parsed<T>(&self, column: &str, parse: impl Fn(&str) -> Option<T>) -> Result<T, Failure> {
        self.maybe_parsed(column, parse)?.ok_or_else(|| unreadable(column))
    }

    fn maybe_parsed<T>(&self, column: &str, parse: impl Fn(&str) -> Option<T>) -> Result<Option<T>, Failure> {
        let text: Option<String> = self.value(column)?;
        text.map(|text| parse(&text).ok_or_else(|| unreadable(column))).transpose()
    }

    fn grant_id(&self, column: &str) -> Result<GrantId, Failure> {
        self.parsed(column, GrantId::parse)
    }

    fn license_name(&self, column: &str) -> Result<LicenseName, Failure> {
        self.parsed(column, LicenseName::parse)
    }

    fn app_id(&self, column: &str) -> Result<AppId, Failure> {
        self.parsed(column, AppId::parse)
    }

    fn maybe_slots(&self, column: &str) -> Result<Option<Slots>, Failure> {
        let count: Option<u8> = self.value(column)?;
        Ok(count.map(|count| if count == 0 { Slots::Unlimited } else { Slots::Limited(count) }))
    }

    fn slots(&self, column: &str) -> Result<Slots, Failure> {
        self.maybe_slots(column)?.ok_or_else(|| unreadable(column))
    }
}

impl Columns for Row<'_> {
    fn value<T: FromSql>(&self, column: &str) -> Result<T, Failure> {
        Ok(self.get(column)?)
    }
}

pub(super) fn unreadable(column: &str) -> Failure {
    Failure::damaged(format!("column '{column}' of a row is unreadable"))
}

/// Reads the first row that a statement gives, if any.
pub(super) fn first<T>(
    connection: &Connection,
    sql: &str,
    values: impl Params,
    read: impl FnMut(&Row<'_>) -> Result<T, Failure>,
) -> Result<Option<T>, Failure> {
    connection.prepare_cached(sql)?.query_and_then(values, read)?.next().transpose()
}

/// Reads all rows that a statement gives.
pub(super) fn all<T, C: FromIterator<T>>(
    connection: &Connection,
    sql: &str,
    values: impl Params,
    read: impl FnMut(&Row<'_>) -> Result<T, Failure>,
) -> Result<C, Failure> {
    connection.prepare_cached(sql)?.query_and_then(values, read)?.collect()
}

/// Reads the first column of the first row that a statement gives, if any.
pub(super) fn one<T: FromSql>(
    connection: &Connection,
    sql: &str,
    values: impl Params,
) -> Result<Option<T>, Failure> {
    first(connection, sql, values, |row| Ok(row.get(0)?))
}

/// Reads a number that is never negative; zero where there is no row.
pub(super) fn count(connection: &Connection, sql: &str, values: impl Params) -> Result<u64, Failure> {
    Ok(one::<i64>(connection, sql, values)?.unwrap_or_default().unsigned_abs())
}

/// Runs a statement, and says how many rows it has written.
pub(super) fn run(connection: &Connection, sql: &str, values: impl Params) -> Result<usize, Failure> {
    Ok(connection.prepare_cached(sql)?.execute(values)?)
}

/// Reads a purchase's id.
pub(super) fn purchase(text: &str) -> Option<PurchaseId> {
    PurchaseId::parse(text).ok()
}
