//! What was sold: the terms of a license, read from a purchase's metadata as in AuthForge's Stripe guide.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::license::{AppId, Slots};
use crate::reason::Reason;

/// The terms of every license of a purchase, fixed before the first create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LicenseTerms {
    /// The app of the license.
    pub app_id: AppId,
    /// How long it lasts.
    pub duration: Duration,
    /// On how many devices.
    pub slots: Slots,
}

/// How long a license lasts, counted from the payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Duration {
    /// This many times 24 hours.
    Days(u32),
    /// For ever.
    Lifetime,
}

impl Duration {
    /// The most days that are taken for meant: a hundred years.
    pub const MOST_DAYS: u32 = 36_500;

    /// When a license that was paid at `paid_at` ends.
    pub fn end(self, paid_at: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Days(days) => paid_at
                .checked_add(SignedDuration::from_hours(i64::from(days) * 24))
                .ok()
                .or(Some(Timestamp::MAX)),
            Self::Lifetime => None,
        }
    }
}

/// Why a purchase has no terms: the reason to park it under, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{fix}")]
pub struct Problem {
    /// `BadMetadata`, `NotOurs` and the like.
    pub reason: Reason,
    /// What is wrong and how to mend it, in a sentence for the seller.
    pub fix: String,
}

/// The guide's metadata keys (AuthForge, guides/stripe).
pub const APP_ID: &str = "authforge_app_id";
/// Days; absent is lifetime.
pub const LICENSE_DURATION: &str = "license_duration";
/// 1 to 16; absent is 1, AuthForge's own default.
pub const MAX_HWID_SLOTS: &str = "max_hwid_slots";

/// Reads the guide's metadata: `Ok(None)` where it names no license at all.
pub fn from_metadata(metadata: &BTreeMap<String, String>) -> Result<Option<LicenseTerms>, Problem> {
    let get = |key: &str| metadata.get(key).map(|value| value.trim());
    let Some(app) = get(APP_ID) else {
        let orphan = [LICENSE_DURATION, MAX_HWID_SLOTS].into_iter().find(|key| metadata.contains_key(*key));
        return match orphan {
            Some(key) => {
                Err(bad(format!("metadata has '{key}' but no '{APP_ID}'; add it and replay the event")))
            }
            None => Ok(None),
        };
    };
    let app_id = AppId::parse(app).ok_or_else(|| {
        bad(format!("metadata '{APP_ID}' is not an app id; set it to the UUID of your AuthForge app"))
    })?;
    let duration = match get(LICENSE_DURATION) {
        None => Duration::Lifetime,
        Some(text) => parse_duration(text).ok_or_else(|| {
            bad(format!(
                "metadata '{LICENSE_DURATION}' must be a number of days from 1 to {} or 'lifetime'",
                Duration::MOST_DAYS
            ))
        })?,
    };
    let slots = match get(MAX_HWID_SLOTS) {
        None => Slots::Limited(1),
        Some(text) => parse_slots(text).ok_or_else(|| {
            bad(format!("metadata '{MAX_HWID_SLOTS}' must be a number from 1 to {}", Slots::MOST))
        })?,
    };
    Ok(Some(LicenseTerms { app_id, duration, slots }))
}

/// Reads `365`, `365d` or `lifetime`.
fn parse_duration(text: &str) -> Option<Duration> {
    if text.eq_ignore_ascii_case("lifetime") {
        return Some(Duration::Lifetime);
    }
    let days: u32 = digits(text.strip_suffix('d').unwrap_or(text))?;
    (1..=Duration::MOST_DAYS).contains(&days).then_some(Duration::Days(days))
}

fn parse_slots(text: &str) -> Option<Slots> {
    let slots = digits(text)?;
    (1..=u32::from(Slots::MOST))
        .contains(&slots)
        .then(|| u8::try_from(slots).ok())
        .flatten()
        .map(Slots::Limited)
}

/// `str::parse` would take `+5`.
fn digits(text: &str) -> Option<u32> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn bad(fix: String) -> Problem {
    Problem { reason: Reason::BadMetadata, fix }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Option<LicenseTerms>, Problem> {
        from_metadata(&pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn the_guides_metadata_is_read_with_its_defaults() {
        let terms = |duration, slots| {
            Ok(AppId::parse("app-1").map(|app_id| LicenseTerms { app_id, duration, slots }))
        };
        assert_eq!(read(&[(APP_ID, "app-1")]), terms(Duration::Lifetime, Slots::Limited(1)));
        assert_eq!(
            read(&[(APP_ID, " app-1 "), (LICENSE_DURATION, "365"), (MAX_HWID_SLOTS, "16")]),
            terms(Duration::Days(365), Slots::Limited(16))
        );
        assert_eq!(
            read(&[(APP_ID, "app-1"), (LICENSE_DURATION, "30d")]),
            terms(Duration::Days(30), Slots::Limited(1))
        );
        assert_eq!(
            read(&[(APP_ID, "app-1"), (LICENSE_DURATION, "Lifetime")]),
            terms(Duration::Lifetime, Slots::Limited(1))
        );
    }

    #[test]
    fn metadata_without_our_keys_is_not_ours() {
        assert_eq!(read(&[("order", "17")]), Ok(None));
    }

    #[test]
    fn unreadable_metadata_says_which_key_to_mend() {
        let cases: &[(&[(&str, &str)], &str)] = &[
            (&[(APP_ID, "")], APP_ID),
            (&[(APP_ID, "not an app")], APP_ID),
            (&[(LICENSE_DURATION, "30")], APP_ID),
            (&[(APP_ID, "a"), (LICENSE_DURATION, "soon")], LICENSE_DURATION),
            (&[(APP_ID, "a"), (LICENSE_DURATION, "")], LICENSE_DURATION),
            (&[(APP_ID, "a"), (LICENSE_DURATION, "0")], LICENSE_DURATION),
            (&[(APP_ID, "a"), (LICENSE_DURATION, "-5")], LICENSE_DURATION),
            (&[(APP_ID, "a"), (LICENSE_DURATION, "+5")], LICENSE_DURATION),
            (&[(APP_ID, "a"), (LICENSE_DURATION, "1.5")], LICENSE_DURATION),
            (&[(APP_ID, "a"), (LICENSE_DURATION, "99999999999")], LICENSE_DURATION),
            (&[(APP_ID, "a"), (MAX_HWID_SLOTS, "0")], MAX_HWID_SLOTS),
            (&[(APP_ID, "a"), (MAX_HWID_SLOTS, "17")], MAX_HWID_SLOTS),
            (&[(APP_ID, "a"), (MAX_HWID_SLOTS, "two")], MAX_HWID_SLOTS),
        ];
        for (pairs, key) in cases {
            let problem = read(pairs).expect_err("unreadable");
            assert_eq!(problem.reason, Reason::BadMetadata);
            assert!(problem.fix.contains(key), "{}", problem.fix);
        }
    }
}
