//! What the operator says, and what it remembers.

#![expect(clippy::doc_markdown, reason = "these texts are printed by kubectl explain as they stand")]
#![expect(unreachable_pub, reason = "the derive repeats each type inside a function")]

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where the grant stands. Written by the operator alone; it never holds a whole key.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LicenseGrantStatus {
    /// The generation of the spec that the conditions speak of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Ready: as declared, also when that is revoked or expired. Reconciling: the operator is at it. Stalled: somebody must
    /// act. The reasons are headings of deploy/README.md.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,

    /// What was bought, in short.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purchase: Option<String>,

    /// How many of the declared licenses have a key, such as 2/3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued: Option<String>,

    /// When the first of the licenses ends, or never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,

    /// The Secret that holds the keys, once there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_name: Option<String>,

    /// The licenses that exist.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned(), "generation".to_owned()]))]
    pub licenses: Vec<LicenseStatus>,

    /// The requests that were sent to make them, each written down before it was sent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["id".to_owned()]))]
    pub attempts: Vec<AttemptStatus>,

    /// When the operator comes back to the grant if nothing changes before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Time>")]
    pub next_retry: Option<Timestamp>,

    /// How many tries in a row have failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tries: Option<i32>,
}

/// A license that exists.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LicenseStatus {
    /// Its name within the grant.
    pub name: String,
    /// Which key of that name it is; more than 1 for a replacement.
    pub generation: i32,
    /// Live, Revoking (about to be), Revoked, Reinstating (about to be live), or RevokedElsewhere: by somebody else.
    pub state: KeptState,
    /// Its key, masked.
    pub key: String,
    /// A name for the key that does not tell it: the beginning of its SHA-256.
    pub fingerprint: String,
    /// Its AuthForge app.
    pub app_id: String,
    /// How many devices it may be bound to, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_hwid_slots: Option<i32>,
    /// Whether it may be bound to any number of devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unlimited_hwid_slots: Option<bool>,
    /// When AuthForge made it.
    #[schemars(with = "Time")]
    pub created_at: Timestamp,
    /// When it ends; never, if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Time>")]
    pub expires_at: Option<Timestamp>,
    /// The attempt that made it; none for a license that was found at AuthForge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<String>,
    /// When its revocation was decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Time>")]
    pub revoked_at: Option<Timestamp>,
    /// Who decided: Rule (the declared state) or Hand (an override, a deletion or a replacement).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// Another live license carries the same label, and the operator did not make it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duplicated: Option<bool>,
    /// What AuthForge refused for good: Reinstate or Shorten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refusal>,
    /// The expiry that AuthForge refused to set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Time>")]
    pub refused_expiry: Option<Timestamp>,
    /// What the last audit found to be different at AuthForge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<String>,
    /// The devicesResetAt that was acted on last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Time>")]
    pub devices_reset_at: Option<Timestamp>,
    /// What came of it: Sent or Unclear (nobody can tell, so it is not sent again), Done, Refused, or Dropped as the license was
    /// not live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices_reset: Option<DevicesReset>,
}

/// What came of a wish to unbind devices.
#[derive(JsonSchema, Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DevicesReset {
    /// The request was about to be sent, or was.
    Sent,
    /// The devices are unbound.
    Done,
    /// The answer was lost.
    Unclear,
    /// AuthForge refused.
    Refused,
    /// The license was not live.
    Dropped,
}

/// What was done to a license.
#[derive(JsonSchema, Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeptState {
    /// It works.
    Live,
    /// About to be revoked.
    Revoking,
    /// Revoked by the operator.
    Revoked,
    /// About to be brought back.
    Reinstating,
    /// Revoked at AuthForge by somebody else.
    RevokedElsewhere,
}

/// Who decided.
#[derive(JsonSchema, Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// What is declared.
    Rule,
    /// A person.
    Hand,
}

/// What AuthForge refused for good.
#[derive(JsonSchema, Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// To bring the license back.
    Reinstate,
    /// To bring its expiry forward.
    Shorten,
}

/// One request to make a license.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttemptStatus {
    /// Its own name.
    pub id: String,
    /// The license it was for.
    pub license: String,
    /// Which key of that license.
    pub generation: i32,
    /// When it was written down.
    #[schemars(with = "Time")]
    pub opened_at: Timestamp,
    /// How far AuthForge's clock was ahead, in milliseconds.
    #[serde(default)]
    pub clock_offset_ms: i64,
    /// Open (nobody knows yet), Answered, Found (the answer was lost, the license was there), Absent (it was not), NotSent or
    /// Refused.
    pub outcome: AttemptOutcome,
    /// When the answer came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Time>")]
    pub answered_at: Option<Timestamp>,
    /// When AuthForge was last searched for what it may have made besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Time>")]
    pub watched_at: Option<Timestamp>,
}

/// What became of an attempt.
#[derive(JsonSchema, Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AttemptOutcome {
    /// Nobody knows yet.
    Open,
    /// AuthForge answered with the license.
    Answered,
    /// The answer was lost, the license was there.
    Found,
    /// The answer was lost, the license was not there.
    Absent,
    /// It was not sent.
    NotSent,
    /// AuthForge refused it.
    Refused,
}
