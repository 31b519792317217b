//! What was sold: the terms of a license, read from a purchase's metadata as in AuthForge's Stripe guide.

mod rules;

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

pub use self::rules::{
    FailureAction, Follow, LONGEST_GRACE, OnCancel, OnDispute, OnPaymentFailure, OnPlanChange, OnRefund,
    RefundAction, Rules,
};
use crate::grant::Expiry;
use crate::license::{AppId, Slots};
use crate::purchase::Price;
use crate::reason::Reason;

/// What a purchase sells, by price: resolved once, before the first create, and stored.
///
/// What the catalog says later is for later purchases.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// The terms of each price that sells licenses. One without a price holds for every line.
    pub lines: Vec<LineTerms>,
    /// The other prices that were there: they sell no license, while one that comes later may take the place of one that does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<String>,
}

/// The terms of the lines of one price.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineTerms {
    /// `price_…`; none holds for every line.
    pub price: Option<String>,
    /// What a unit of it is.
    pub terms: LicenseTerms,
}

impl Terms {
    /// The same terms for every line, as metadata gives them.
    pub fn for_all(terms: LicenseTerms) -> Self {
        Self { lines: vec![LineTerms { price: None, terms }], others: Vec::new() }
    }

    /// The terms that licenses of an app were sold by; the first where there are none.
    pub fn of_app(&self, app_id: &AppId) -> Option<&LicenseTerms> {
        let own = self.lines.iter().find(|line| line.terms.app_id == *app_id);
        own.or(self.lines.first()).map(|line| &line.terms)
    }

    /// The terms of a line of this price; none if the line sells no license.
    pub fn of(&self, price: Option<&str>) -> Option<&LicenseTerms> {
        let named = |line: &&LineTerms| line.price.is_some() && line.price.as_deref() == price;
        let general = |line: &&LineTerms| line.price.is_none();
        self.lines.iter().find(named).or_else(|| self.lines.iter().find(general)).map(|line| &line.terms)
    }
}

/// What one unit is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LicenseTerms {
    /// The app of the license.
    pub app_id: AppId,
    /// How long it lasts.
    pub duration: Duration,
    /// On how many devices.
    pub slots: Slots,
    /// What becomes of it when Stripe's facts change.
    #[serde(default)]
    pub rules: Rules,
}

/// How long a license lasts, counted from the payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Duration {
    /// This many times 24 hours.
    Days(u32),
    /// For ever.
    Lifetime,
    /// As long as the subscription that it is part of.
    Subscription,
}

impl Duration {
    /// The most days that are taken for meant: a hundred years.
    pub const MOST_DAYS: u32 = 36_500;

    /// Whether the expiry of such a license is a term of sale, or follows its subscription.
    pub fn expiry(self) -> Expiry {
        if self == Self::Subscription { Expiry::Followed } else { Expiry::Sold }
    }

    /// When a license that was paid at `paid_at` ends; none for a subscription too, whose end nobody knows yet.
    pub fn end(self, paid_at: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Days(days) => paid_at
                .checked_add(SignedDuration::from_hours(i64::from(days) * 24))
                .ok()
                .or(Some(Timestamp::MAX)),
            Self::Lifetime | Self::Subscription => None,
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
/// 1 to 16, or `unlimited`, which the guide does not know; absent is 1, AuthForge's own default.
pub const MAX_HWID_SLOTS: &str = "max_hwid_slots";

const LIFETIME: &str = "lifetime";
const UNLIMITED: &str = "unlimited";

/// Writes terms as metadata that [`from_metadata`] reads, for a session that is to carry them.
///
/// Metadata cannot tell the rules; [`resolve`] takes those from the catalog.
pub fn to_metadata(terms: &LicenseTerms) -> Vec<(&'static str, String)> {
    let duration = match terms.duration {
        Duration::Days(days) => Some(days.to_string()),
        Duration::Lifetime => Some(LIFETIME.to_owned()),
        Duration::Subscription => None,
    };
    let slots = match terms.slots {
        Slots::Limited(count) => count.to_string(),
        Slots::Unlimited => UNLIMITED.to_owned(),
    };
    let app = Some((APP_ID, terms.app_id.to_string()));
    let duration = duration.map(|duration| (LICENSE_DURATION, duration));
    [app, duration, Some((MAX_HWID_SLOTS, slots))].into_iter().flatten().collect()
}

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
            bad(format!(
                "metadata '{MAX_HWID_SLOTS}' must be a number from 1 to {} or '{UNLIMITED}'",
                Slots::MOST
            ))
        })?,
    };
    Ok(Some(LicenseTerms { app_id, duration, slots, rules: Rules::default() }))
}

/// Where the terms of a purchase may come from.
pub struct Sources<'a> {
    /// The session's metadata, which outranks everything and holds for every line.
    pub session: Option<&'a BTreeMap<String, String>>,
    /// The subscription's metadata, where the purchase is one.
    pub subscription: Option<&'a BTreeMap<String, String>>,
    /// The prices of the lines, where they are known.
    pub prices: &'a [&'a Price],
    /// The seller's catalog.
    pub catalog: &'a dyn Fn(&Price) -> Option<LicenseTerms>,
    /// The app of subscriptions that name none (`--authforge-app`).
    pub default_app: Option<&'a AppId>,
}

/// Resolves what a purchase sells: session metadata, then the subscription's, then the catalog, then the default app.
///
/// What metadata sells with a subscription lasts as long as the subscription, as in the guide. Metadata cannot tell the rules:
/// those of a price's plan hold where the catalog has one.
pub fn resolve(sources: &Sources<'_>) -> Result<Terms, Problem> {
    let recurring = sources.subscription.is_some();
    for metadata in [sources.session, sources.subscription].into_iter().flatten() {
        if let Some(mut terms) = from_metadata(metadata)? {
            if recurring {
                terms.duration = Duration::Subscription;
            }
            return Ok(ruled(terms, sources));
        }
    }
    let (mut lines, mut others): (Vec<LineTerms>, Vec<String>) = Default::default();
    for price in sources.prices {
        if lines.iter().any(|line| line.price.as_deref() == Some(price.id.as_str())) {
            continue;
        }
        match (sources.catalog)(price) {
            Some(terms) if terms.duration == Duration::Subscription && !recurring => {
                return Err(Problem {
                    reason: Reason::TermsConflict,
                    fix: format!(
                        "the catalog's plan for '{}' lasts as long as a subscription, and the price was sold once; give the \
                         plan a duration and replay the event",
                        price.id
                    ),
                });
            }
            // A setup fee of the same product, beside the subscription that the plan is for.
            Some(terms) if terms.duration == Duration::Subscription && !price.recurring => {
                others.push(price.id.clone());
            }
            Some(terms) => lines.push(LineTerms { price: Some(price.id.clone()), terms }),
            None => others.push(price.id.clone()),
        }
    }
    if !lines.is_empty() {
        return Ok(Terms { lines, others });
    }
    match sources.default_app {
        Some(app) if recurring => Ok(Terms::for_all(LicenseTerms {
            app_id: app.clone(),
            duration: Duration::Subscription,
            slots: Slots::Limited(1),
            rules: Rules::default(),
        })),
        _ => Err(Problem {
            reason: Reason::NotOurs,
            fix: format!(
                "neither the purchase's metadata nor the catalog names a license; if it sells one, set '{APP_ID}' in its \
                 metadata, or add its price to the catalog"
            ),
        }),
    }
}

/// The same terms for every line, under the rules of each price's plan.
fn ruled(terms: LicenseTerms, sources: &Sources<'_>) -> Terms {
    let recurring = sources.subscription.is_some();
    let mut lines: Vec<LineTerms> = Vec::new();
    // What is sold once beside a subscription does not last as long as that.
    for price in sources.prices.iter().filter(|price| price.recurring == recurring) {
        if lines.iter().all(|line| line.price.as_deref() != Some(price.id.as_str()))
            && let Some(LicenseTerms { rules, .. }) = (sources.catalog)(price)
        {
            lines.push(LineTerms {
                price: Some(price.id.clone()),
                terms: LicenseTerms { rules, ..terms.clone() },
            });
        }
    }
    lines.push(LineTerms { price: None, terms });
    Terms { lines, others: Vec::new() }
}

impl std::fmt::Debug for Sources<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sources").field("prices", &self.prices).finish_non_exhaustive()
    }
}

/// Reads `365`, `365d` or `lifetime`.
fn parse_duration(text: &str) -> Option<Duration> {
    if text.eq_ignore_ascii_case(LIFETIME) {
        return Some(Duration::Lifetime);
    }
    let days: u32 = digits(text.strip_suffix('d').unwrap_or(text))?;
    (1..=Duration::MOST_DAYS).contains(&days).then_some(Duration::Days(days))
}

fn parse_slots(text: &str) -> Option<Slots> {
    if text.eq_ignore_ascii_case(UNLIMITED) {
        return Some(Slots::Unlimited);
    }
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
            Ok(AppId::parse("app-1").map(|app_id| LicenseTerms {
                app_id,
                duration,
                slots,
                rules: Rules::default(),
            }))
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
    fn terms_come_back_from_the_metadata_that_they_were_written_to() {
        for (duration, back) in [
            (Duration::Days(30), Duration::Days(30)),
            (Duration::Lifetime, Duration::Lifetime),
            (Duration::Subscription, Duration::Lifetime),
        ] {
            for slots in [Slots::Limited(1), Slots::Limited(16), Slots::Unlimited] {
                let app_id = AppId::parse("app-1").expect("an app");
                let terms = LicenseTerms { app_id, duration, slots, rules: Rules::default() };
                let metadata = to_metadata(&terms).into_iter().map(|(key, value)| (key.to_owned(), value));
                let read = from_metadata(&metadata.collect());
                assert_eq!(read, Ok(Some(LicenseTerms { duration: back, ..terms })));
            }
        }
    }

    #[test]
    fn metadata_outranks_the_catalog_but_for_the_rules_that_it_cannot_tell() {
        let app_id = |id| AppId::parse(id).expect("an app");
        let rules = Rules { buffer: 86_400, ..Rules::default() };
        let plan = LicenseTerms {
            app_id: app_id("app-2"),
            duration: Duration::Subscription,
            slots: Slots::Limited(5),
            rules: rules.clone(),
        };
        let price = |id: &str| Price { id: id.to_owned(), lookup_key: None, product: None, recurring: true };
        let metadata = [(APP_ID.to_owned(), "app-1".to_owned())].into();
        let terms = resolve(&Sources {
            session: Some(&metadata),
            subscription: Some(&BTreeMap::new()),
            prices: &[&price("price_1"), &price("price_2")],
            catalog: &|price| (price.id == "price_1").then(|| plan.clone()),
            default_app: None,
        })
        .expect("terms");
        let of =
            |price| terms.of(Some(price)).map(|terms| (terms.app_id.as_str(), terms.slots, &terms.rules));
        assert_eq!(of("price_1"), Some(("app-1", Slots::Limited(1), &rules)));
        assert_eq!(of("price_2"), Some(("app-1", Slots::Limited(1), &Rules::default())));
    }

    #[test]
    fn a_setup_fee_beside_a_subscription_sells_no_license() {
        let plan = LicenseTerms {
            app_id: AppId::parse("app-1").expect("an app"),
            duration: Duration::Subscription,
            slots: Slots::Limited(1),
            rules: Rules::default(),
        };
        let price =
            |id: &str, recurring| Price { id: id.to_owned(), lookup_key: None, product: None, recurring };
        let terms = resolve(&Sources {
            session: None,
            subscription: Some(&BTreeMap::new()),
            prices: &[
                &price("price_setup", false),
                &price("price_month", true),
                &price("price_storage", true),
            ],
            catalog: &|price| (price.id != "price_storage").then(|| plan.clone()),
            default_app: None,
        })
        .expect("terms");
        assert_eq!(terms.of(Some("price_month")), Some(&plan));
        assert_eq!(terms.of(Some("price_setup")), None, "it would outlive the subscription");
        assert_eq!(terms.others, ["price_setup", "price_storage"]);
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
