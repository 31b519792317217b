//! `LicenseGrant`: the Kubernetes shape of a grant. Its field texts are what `kubectl explain licensegrant` prints.
//!
//! The spec belongs to whoever made the grant, the override in it to people, the status to the operator. [`convert`]
//! is the way to core's words and back. Limits on strings and lists are not matters of taste: the API server refuses rules
//! whose cost it cannot bound.

pub mod convert;
mod spec;
mod status;

use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use kube::CustomResourceExt as _;

pub use spec::{
    Customer, DeclaredLicense, DeletionPolicy, Delivery, FoundExpiry, LicenseGrant, LicenseGrantSpec,
    Override, Provider, Purchase, PurchaseKind, State, StateReason,
};
pub use status::{
    AttemptOutcome, AttemptStatus, Cause, DevicesReset, KeptState, LicenseGrantStatus, LicenseStatus, Refusal,
};

/// The condition that says whether a grant is as declared.
pub const READY: &str = "Ready";
/// The condition that says whether the operator is at work on a grant.
pub const RECONCILING: &str = "Reconciling";
/// The condition that says whether a grant waits for a person.
pub const STALLED: &str = "Stalled";

/// The finalizer of grants whose keys are revoked before they go.
pub const FINALIZER: &str = "grantsmith.dev/revoke";

/// The custom resource definition, as it is applied to a cluster.
pub fn definition() -> CustomResourceDefinition {
    let mut definition = LicenseGrant::crd();
    let versions = definition.spec.versions.iter_mut();
    let schemas = versions.filter_map(|version| version.schema.as_mut()?.open_api_v3_schema.as_mut());
    schemas.for_each(tidy);
    definition
}

/// A field that may be left out is not one that may be null: the API server takes a null for left out, and rules need
/// not tell the two apart. And lines end where the reader's window does, not where the source's do.
fn tidy(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    if let Some(text) = &mut schema.description {
        *text = text.replace('\n', " ");
    }
    if let Some(words) = &mut schema.enum_ {
        words.retain(|word| !word.0.is_null());
    }
    if let Some(fields) = &mut schema.properties {
        fields.values_mut().for_each(tidy);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        tidy(items);
    }
}

/// What a Secret's name has behind its grant's.
const SECRET: &str = "-license";

/// What the Secret of a grant of this name is called, if the grant does not say.
pub fn secret_of(name: &str) -> String {
    format!("{name}{SECRET}")
}

/// Whose a Secret of this name is, if its grant does not call it so.
pub fn grant_of(secret: &str) -> Option<&str> {
    secret.strip_suffix(SECRET)
}

impl LicenseGrant {
    /// The name of the Secret that holds the grant's keys.
    pub fn secret_name(&self) -> String {
        let own = || secret_of(self.metadata.name.as_deref().unwrap_or_default());
        self.spec.secret_name.clone().unwrap_or_else(own)
    }

    /// Whether devices are unbound for a wish of that time. One from before this object was made may have been acted on elsewhere,
    /// and by now the buyer may have bound a device anew.
    pub fn takes_devices_reset(&self, at: Timestamp) -> bool {
        self.metadata.creation_timestamp.as_ref().is_some_and(|made| at > made.0)
    }
}
