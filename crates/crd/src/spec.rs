//! What people and programs declare.

#![expect(clippy::doc_markdown, reason = "these texts are printed by kubectl explain as they stand")]
#![expect(unreachable_pub, reason = "the derive repeats each type inside a function")]

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::status::LicenseGrantStatus;

/// Which licenses should exist for one purchase, and in which state.
#[derive(CustomResource, KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "grantsmith.dev",
    version = "v1alpha1",
    kind = "LicenseGrant",
    plural = "licensegrants",
    shortname = "lg",
    category = "grantsmith",
    namespaced,
    status = "LicenseGrantStatus",
    derive = "PartialEq",
    doc = "A promise of license keys for one purchase. The operator makes the keys at AuthForge and puts them into a Secret that \
           the grant owns. Deleting a grant leaves its keys as they are, unless deletionPolicy says otherwise.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#,
        description = "Whether the licenses are as declared"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#,
        description = "Why; deploy/README.md has a heading for each"
    ),
    printcolumn(
        name = "Purchase",
        type_ = "string",
        json_path = ".status.purchase",
        description = "What was bought"
    ),
    printcolumn(
        name = "Licenses",
        type_ = "string",
        json_path = ".status.issued",
        description = "How many keys are there, of how many"
    ),
    printcolumn(
        name = "Expires",
        type_ = "string",
        json_path = ".status.expires",
        description = "When the first of them ends"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Since the grant was made"
    ),
    validation = Rule::new("has(self.spec.secretName) || size(self.metadata.name) <= 245")
        .message("the grant's name is too long to name a Secret after it; give spec.secretName"),
    validation = Rule::new(
        "!has(oldSelf.status) || !has(oldSelf.status.secretName) || \
         (has(self.spec.secretName) ? self.spec.secretName : self.metadata.name + '-license') == oldSelf.status.secretName"
    )
    .message("secretName cannot change once a key is kept; put the old name back")
)]
#[serde(rename_all = "camelCase")]
pub struct LicenseGrantSpec {
    /// What the licenses are for. It names the grant for ever: keys are found again at AuthForge by it, and two grants of
    /// one purchase never make two keys.
    #[x_kube(
        validation = Rule::new("self == oldSelf")
            .message("a grant's purchase cannot change; make another grant for another purchase")
    )]
    pub purchase: Purchase,

    /// The licenses that should exist, 1 to 100. Entries can be added and their state, reason, expiresAt and generation
    /// changed; to withdraw a license set its state, as an entry cannot be removed.
    #[schemars(length(min = 1, max = 100))]
    #[x_kube(
        merge_strategy = ListMerge::Map(vec!["name".to_owned()]),
        validation = Rule::new("oldSelf.all(old, self.exists(new, new.name == old.name))")
            .message("a license cannot be removed from a grant; keep its entry and set state: Revoked")
    )]
    pub licenses: Vec<DeclaredLicense>,

    /// What a person decided. It outranks all that the entries of licenses say, until it is removed.
    #[serde(default, rename = "override", skip_serializing_if = "Option::is_none")]
    pub hand: Option<Override>,

    /// Whose license it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub customer: Option<Customer>,

    /// Whether the keys are mailed to the customer, by the server if there is one: Mail or None.
    #[serde(default)]
    pub delivery: Delivery,

    /// The Secret that the keys are put into, each under its license's name. Without it, the grant's name and "-license". It
    /// must not belong to anything else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$')")
            .message("a Secret's name is lower-case letters, digits, '-' and '.', with a letter or digit at both ends")
    )]
    pub secret_name: Option<String>,

    /// What becomes of the keys when the grant is deleted. Retain leaves them as they are; Revoke revokes them at AuthForge
    /// before the grant goes, and holds the deletion until that is done.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,

    /// Leaves everything as it is until it is taken back: nothing is made, changed, revoked or looked at.
    #[serde(default)]
    pub paused: bool,
}

/// What the licenses of a grant are for.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(self.provider == 'stripe') == has(self.id)")
        .message("provider: stripe goes with purchase.id (cs_… or sub_…), provider: manual with purchase.reference instead"),
    validation = Rule::new("(self.provider == 'manual') == has(self.reference)")
        .message("provider: manual goes with purchase.reference, provider: stripe with purchase.id instead"),
    validation = Rule::new(
        "!has(self.kind) || (has(self.id) && self.id.startsWith(self.kind == 'session' ? 'cs_' : 'sub_'))"
    )
    .message("kind: session goes with an id that begins with cs_, kind: subscription with sub_; leave kind out if in doubt")
)]
pub struct Purchase {
    /// Who was paid: stripe, or manual for a grant that somebody made without a payment there.
    pub provider: Provider,

    /// What the id names at Stripe: session or subscription. The id tells it too, so this may be left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<PurchaseKind>,

    /// Stripe's id: of the Checkout session (cs_…) for a single payment, of the subscription (sub_…) for one that goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 96))]
    #[x_kube(
        validation = Rule::new("self.matches('^(cs|sub)_[A-Za-z0-9_]+$')")
            .message("an id is a Checkout session's (cs_…) or a subscription's (sub_…), as Stripe writes it")
    )]
    pub id: Option<String>,

    /// A name of your own for a manual grant, such as an order number; it is part of the licenses' label at AuthForge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 72))]
    #[x_kube(
        validation = Rule::new("self.matches('^[A-Za-z0-9._:/-]+$')")
            .message("a reference is 1 to 72 letters, digits and '._:/-', such as an order number; no spaces, no address")
    )]
    pub reference: Option<String>,

    /// When it was paid (RFC 3339). Shortly after it a license is created at once; later, or without it, AuthForge is
    /// searched first for a license that is there already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Time>")]
    pub paid_at: Option<Timestamp>,

    /// Whether it was paid with real money, as Stripe's livemode says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub livemode: Option<bool>,
}

/// Who was paid.
#[derive(JsonSchema, Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// A purchase at Stripe.
    Stripe,
    /// Somebody's decision, without a payment at Stripe.
    Manual,
}

/// What an id names at Stripe.
#[derive(JsonSchema, Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PurchaseKind {
    /// A Checkout session in payment mode.
    Session,
    /// A subscription, however it was bought.
    Subscription,
}

/// One license that should exist.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(
        "!has(self.maxHwidSlots) || !has(self.unlimitedHwidSlots) || !self.unlimitedHwidSlots"
    )
    .message("give maxHwidSlots or unlimitedHwidSlots: true, not both"),
    validation = Rule::new("self.appId == oldSelf.appId")
        .message("a license cannot move to another app; set its state: Revoked and add an entry for the other app"),
    validation = Rule::new(
        "has(self.adopt) || (has(self.maxHwidSlots) == has(oldSelf.maxHwidSlots) && \
         (!has(self.maxHwidSlots) || self.maxHwidSlots == oldSelf.maxHwidSlots) && \
         (has(self.unlimitedHwidSlots) && self.unlimitedHwidSlots) == (has(oldSelf.unlimitedHwidSlots) && oldSelf.unlimitedHwidSlots))"
    )
    .message("a license's slots cannot change; set its state: Revoked and add an entry with the new slots"),
    validation = Rule::new("self.generation >= oldSelf.generation")
        .message("a generation only grows: each is a new key in place of the one before")
)]
pub struct DeclaredLicense {
    /// What it is called within the grant, and the key's name in the Secret. The first is called main, others as you like.
    #[schemars(length(min = 1, max = 10))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?$')")
            .message("a license's name is 1 to 10 lower-case letters, digits and inner '-', such as main")
    )]
    pub name: String,

    /// The AuthForge app it is for: its id, as AuthForge's dashboard shows it.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(
        validation = Rule::new("self.matches('^[A-Za-z0-9_-]+$')")
            .message("an app id is letters, digits, '-' and '_', as AuthForge's dashboard shows it")
    )]
    pub app_id: String,

    /// How many devices it may be bound to, 1 to 16; 1 if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16))]
    pub max_hwid_slots: Option<i32>,

    /// Whether it may be bound to any number of devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unlimited_hwid_slots: Option<bool>,

    /// Active, Suspended (revoked at AuthForge until it is Active again) or Revoked.
    #[serde(default)]
    pub state: State,

    /// Why it is in that state; shown as the grant's reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<StateReason>,

    /// When it ends (RFC 3339), for ever if nothing is said. It can be moved both ways.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Time>")]
    pub expires_at: Option<Timestamp>,

    /// What becomes of the expiry of a license that is found at AuthForge rather than made: Follow brings it to expiresAt, Keep
    /// leaves it as it is there.
    #[serde(default, skip_serializing_if = "FoundExpiry::is_default")]
    pub found_expiry: FoundExpiry,

    /// Whether it was taken out of what was bought: an override that brings the grant back does not bring it back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub withdrawn: bool,

    /// Raise it to replace the key, for instance because it leaked: a new one is made, then the old one revoked.
    #[serde(default = "first")]
    #[schemars(range(min = 1, max = 999))]
    pub generation: i32,

    /// Write the time it is now (RFC 3339) to unbind the devices that the license is bound to: once for each later time. One
    /// ahead is waited for; one before the grant was made is passed over, so that nothing is done again where it is applied anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Time>")]
    pub devices_reset_at: Option<Timestamp>,

    /// Which license it is, where the key was made without this program: the key's fingerprint, which is the first 32 hex digits
    /// of the SHA-256 of its 19 characters. That license is adopted whatever its label, keeps its slots, and none is made instead
    /// unless the generation is raised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(
        validation = Rule::new("self.matches('^[0-9a-f]{32}$')")
            .message("a fingerprint is 32 hex digits: printf %s KEY | sha256sum | cut -c1-32")
    )]
    pub adopt: Option<String>,
}

fn first() -> i32 {
    1
}

/// What becomes of the expiry of a license that is found.
#[derive(JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum FoundExpiry {
    #[default]
    /// It is brought to what is declared.
    Follow,
    /// It stays.
    Keep,
}

impl FoundExpiry {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Whether a license should be live.
#[derive(JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    #[default]
    /// Live.
    Active,
    /// Revoked at AuthForge, until it is active again.
    Suspended,
    /// Revoked at AuthForge.
    Revoked,
}

/// Why a license is in its state.
#[derive(JsonSchema, Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StateReason {
    /// The purchase was canceled.
    Canceled,
    /// The payment is disputed.
    Disputed,
    /// The subscription ends at a known time.
    Ending,
    /// Its time is over.
    Expired,
    /// The payment failed.
    PaymentFailed,
    /// The payment is on its way.
    PaymentPending,
    /// The payment was refunded.
    Refunded,
}

/// What a person decided.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(
        "has(self.state) || has(self.expiresAt) || (has(self.neverExpires) && self.neverExpires) || \
         (has(self.release) && self.release)"
    )
    .message("an override gives state, expiresAt, neverExpires: true or release: true; remove it to go back to what was declared"),
    validation = Rule::new("!has(self.expiresAt) || !has(self.neverExpires) || !self.neverExpires")
        .message("give expiresAt or neverExpires: true, not both")
)]
pub struct Override {
    /// The state of all licenses of the grant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,

    /// When all licenses of the grant end (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Time>")]
    pub expires_at: Option<Timestamp>,

    /// The licenses of the grant end never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub never_expires: Option<bool>,

    /// What is declared may be revoked although the hourly budget is spent (RevocationHeld).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<bool>,

    /// Why, for whoever reads it later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub reason: Option<String>,

    /// Who decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub by: Option<String>,
}

/// Whose license it is.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Customer {
    /// The address that keys are mailed to.
    #[schemars(length(max = 254))]
    #[x_kube(
        validation = Rule::new(r"self.matches('^[^@\\s]+@[^@\\s]+$')")
            .message("an address is written name@domain")
    )]
    pub email: String,
}

/// Whether the keys are mailed.
#[derive(JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Delivery {
    /// They are, by the server.
    Mail,
    #[default]
    /// They are not.
    None,
}

/// What becomes of the keys when the grant is deleted.
#[derive(JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeletionPolicy {
    #[default]
    /// They stay as they are.
    Retain,
    /// They are revoked first.
    Revoke,
}
