//! Everything about AuthForge that its reference leaves open, as settings of the fake.

use serde::{Deserialize, Serialize};

/// In which order licenses are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ListOrder {
    /// Oldest first.
    Oldest,
    /// Newest first.
    Newest,
    /// By a hash, which the fake's seed decides.
    Arbitrary,
}

/// What a `PUT` answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PutAnswer {
    /// The whole license.
    Full,
    /// Its key and what was changed.
    Partial,
    /// `{}`
    Empty,
}

/// A token bucket for each API key, as strict as can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimit {
    /// Requests a second.
    pub per_second: u32,
    /// Requests at once.
    pub burst: u32,
}

/// How the fake behaves. The default is the documented behaviour, and the likelier one where there is none.
#[expect(clippy::struct_excessive_bools, reason = "these are switches")]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Switches {
    /// Whether rows of a list tell the label.
    pub list_labels: bool,
    /// Whether rows of a list tell the slots.
    pub list_slots: bool,
    /// Whether rows of a list tell the bound devices.
    pub list_hwids: bool,
    /// Whether rows of a list tell when they were created.
    pub list_created_at: bool,
    /// In which order.
    pub list_order: ListOrder,
    /// How long a new license stays out of lists, and a revoked or activated one in them as it was.
    pub list_lag_ms: u64,
    /// The limit; none for no limit.
    pub rate_limit: Option<RateLimit>,
    /// The seconds in `Retry-After` of a 429; none leaves the header out.
    pub retry_after: Option<u64>,
    /// Whether a 429 has the documented body, or the one of a gateway.
    pub documented_429: bool,
    /// Whether creates are answered 402.
    pub no_credits: bool,
    /// Whether everything is answered 401.
    pub unauthorized: bool,
    /// The one API key that is accepted; none accepts all.
    pub accepted_key: Option<String>,
    /// The apps of this account; none for any.
    pub apps: Option<Vec<String>>,
    /// The status for another app: 403 or 404.
    pub foreign_app_status: u16,
    /// Whether all calls are answered 503 without JSON.
    pub down: bool,
    /// Whether revoking what is revoked, or activating what is active, is refused.
    pub repeat_refused: bool,
    /// Whether an earlier expiry is refused.
    pub shorten_refused: bool,
    /// Whether the expiry of a revoked license can be changed.
    pub extend_revoked_refused: bool,
    /// Whether re-activation is refused.
    pub activate_refused: bool,
    /// What re-activation is called.
    pub activate_action: String,
    /// Whether a single license comes as `{"license": …}`.
    pub get_wrapped: bool,
    /// What a change answers.
    pub put_answer: PutAnswer,
    /// The most slots of a license: 16 or 10.
    pub slots_ceiling: u64,
    /// Whether unknown fields of a body are refused, or ignored.
    pub unknown_fields_refused: bool,
    /// Whether `unlimitedHwidSlots` is a known field.
    pub unlimited_supported: bool,
    /// Whether a create answers with the label.
    pub create_label: bool,
    /// Whether answers have a `Date`.
    pub date_header: bool,
    /// How far the fake's clock is ahead.
    pub clock_skew_ms: i64,
    /// How long every answer takes.
    pub latency_ms: u64,
}

impl Default for Switches {
    fn default() -> Self {
        Self {
            list_labels: true,
            list_slots: true,
            list_hwids: false,
            list_created_at: true,
            list_order: ListOrder::Newest,
            list_lag_ms: 0,
            rate_limit: None,
            retry_after: None,
            documented_429: true,
            no_credits: false,
            unauthorized: false,
            accepted_key: None,
            apps: None,
            foreign_app_status: 403,
            down: false,
            repeat_refused: false,
            shorten_refused: false,
            extend_revoked_refused: false,
            activate_refused: false,
            activate_action: "activate".to_owned(),
            get_wrapped: false,
            put_answer: PutAnswer::Full,
            slots_ceiling: 16,
            unknown_fields_refused: false,
            unlimited_supported: true,
            create_label: false,
            date_header: true,
            clock_skew_ms: 0,
            latency_ms: 0,
        }
    }
}

impl RateLimit {
    /// What AuthForge documents.
    pub const DOCUMENTED: Self = Self { per_second: 50, burst: 100 };
}
