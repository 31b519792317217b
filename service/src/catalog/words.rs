//! The single values of a catalog, each checked as it is read, so that a mistake is told with its own place.

use std::time::Duration as StdDuration;

use grantsmith_core::AppId;
use grantsmith_core::license::Slots;
use grantsmith_core::terms::{
    Duration, FailureAction, Follow, OnCancel, OnDispute, OnPlanChange, RefundAction,
};
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// `create-checkout` is asked for it by name.
#[derive(Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(inline, with = "String", extend("pattern" = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"))]
pub(super) struct Name(pub(super) String);

#[derive(Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(inline, with = "String", extend("pattern" = r"^[!-~]{1,255}$"))]
pub(super) struct Word(pub(super) String);

#[derive(Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(inline, with = "String", extend("pattern" = r"^[A-Za-z0-9_-]{1,64}$"))]
pub(super) struct App(pub(super) AppId);

#[derive(Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(inline, with = "String", extend("pattern" = r"^([1-9][0-9]{0,4}d|lifetime|subscription)$"))]
pub(super) struct Lasts(pub(super) Duration);

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(inline, with = "u8", extend("minimum" = 1, "maximum" = 16))]
pub(super) struct SlotCount(pub(super) u8);

#[derive(Default, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(inline, with = "String")]
pub(super) struct Span(pub(super) u32);

#[derive(Default, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(inline, with = "String")]
pub(super) struct Grace(pub(super) Option<u32>);

#[derive(Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(inline, with = "String")]
pub(super) struct Since(pub(super) Timestamp);

#[derive(Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(inline, with = "String", extend("pattern" = r"^(auto|[a-z]{2,3}(-[A-Za-z0-9]{2,4})?)$"))]
pub(super) struct Locale(pub(super) String);

impl TryFrom<String> for Name {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let begins = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        let fits = begins && text.len() <= 64 && text.bytes().all(plain);
        if fits { Ok(Self(text)) } else { Err("a name has up to 64 letters, digits, '.', '_' and '-'") }
    }
}

impl TryFrom<String> for Word {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let fits = (1..=255).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        if fits { Ok(Self(text)) } else { Err("write the id or key as Stripe shows it, without spaces") }
    }
}

impl TryFrom<String> for App {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        AppId::parse(&text).map(Self).ok_or("an app id is a UUID, as AuthForge's dashboard shows it")
    }
}

impl TryFrom<String> for Lasts {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let days = || {
            let digits =
                text.strip_suffix('d').filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))?;
            let days = digits.parse().ok()?;
            (1..=Duration::MOST_DAYS).contains(&days).then_some(Duration::Days(days))
        };
        let duration = match text.as_str() {
            "lifetime" => Some(Duration::Lifetime),
            "subscription" => Some(Duration::Subscription),
            _ => days(),
        };
        duration.map(Self).ok_or_else(|| {
            format!("a duration is days from 1d to {}d, lifetime, or subscription", Duration::MOST_DAYS)
        })
    }
}

impl TryFrom<String> for SlotCount {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let count = text.parse().ok().filter(|count| (1..=Slots::MOST).contains(count));
        count.map(Self).ok_or_else(|| {
            format!("slots are from 1 to {}; for any number write unlimited_hwid_slots: true", Slots::MOST)
        })
    }
}

fn seconds(text: &str) -> Option<u32> {
    let time: StdDuration = humantime::parse_duration(text).ok()?;
    u32::try_from(time.as_secs()).ok()
}

impl TryFrom<String> for Span {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        seconds(&text).map(Self).ok_or("a time is written 24h, 3d or 30m")
    }
}

impl TryFrom<String> for Grace {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match text.as_str() {
            "until_stripe_gives_up" => Ok(Self(None)),
            text => seconds(text)
                .map(|grace| Self(Some(grace)))
                .ok_or("write until_stripe_gives_up, or a time such as 72h"),
        }
    }
}

impl TryFrom<String> for Since {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let day = |date: Date| Some(date.to_zoned(TimeZone::UTC).ok()?.timestamp());
        let since = text.parse().ok().or_else(|| day(text.parse().ok()?));
        since.map(Self).ok_or("write a day such as 2026-01-01, or a time such as 2026-01-01T12:00:00Z")
    }
}

impl TryFrom<String> for Locale {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let (language, region) = text.split_once('-').map_or((text.as_str(), None), |(a, b)| (a, Some(b)));
        let language = (2..=3).contains(&language.len()) && language.bytes().all(|b| b.is_ascii_lowercase());
        let plain =
            |part: &str| (2..=4).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_alphanumeric());
        let fits = text == "auto" || (language && region.is_none_or(plain));
        if fits { Ok(Self(text)) } else { Err("a locale is auto, or one of Stripe's such as de or pt-BR") }
    }
}

/// A schema of the words that a value may be, as they are really read.
fn words<T: Serialize>(all: &[T]) -> Schema {
    json_schema!({ "type": "string", "enum": all })
}

pub(super) fn follow(_: &mut SchemaGenerator) -> Schema {
    words(&[Follow::Period, Follow::PaidThrough])
}

pub(super) fn failure_action(_: &mut SchemaGenerator) -> Schema {
    words(&[FailureAction::Ignore, FailureAction::Warn, FailureAction::Revoke])
}

pub(super) fn refund_action(_: &mut SchemaGenerator) -> Schema {
    words(&[RefundAction::Revoke, RefundAction::Ignore])
}

pub(super) fn on_dispute(_: &mut SchemaGenerator) -> Schema {
    words(&[OnDispute::Suspend, OnDispute::Revoke, OnDispute::Ignore])
}

pub(super) fn on_cancel(_: &mut SchemaGenerator) -> Schema {
    words(&[OnCancel::Immediately, OnCancel::AtPeriodEnd])
}

pub(super) fn on_plan_change(_: &mut SchemaGenerator) -> Schema {
    words(&[OnPlanChange::Replace, OnPlanChange::Keep])
}
