//! Whether a grant may be worked on, and what it declares: pure.

use std::collections::{BTreeMap, BTreeSet};

use grantsmith_core::grant::{Cause, DesiredState};
use grantsmith_core::port::Priority;
use grantsmith_core::{AppId, Grant, Reason};
use grantsmith_crd::{KeptState, LicenseGrant, State};

use crate::status::kept;

/// Why a grant is left alone, and what somebody can do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The reason to show.
    pub reason: Reason,
    /// A sentence for whoever reads the grant.
    pub message: String,
}

impl Held {
    /// A grant that waits for a person.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// Who may use what.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// What this installation is called.
    pub installation: String,
    /// The apps that each namespace with a rule may use; one without may use all.
    pub allowed: BTreeMap<String, BTreeSet<AppId>>,
}

/// What a grant declares, or why it is left alone.
///
/// A grant that is on its way out declares that all its licenses are revoked: only those whose keys are to be revoked first
/// are still there to be asked.
pub fn validate(grant: &LicenseGrant, rules: &Rules) -> Result<Grant, Held> {
    if grant.spec.paused {
        return Err(Held::new(Reason::Paused, "left as it is until spec.paused is taken back"));
    }
    let mut declared = grant.spec.grant(&rules.installation).map_err(|error| {
        Held::new(Reason::Rejected, format!("{error}; the operator can do nothing with it"))
    })?;
    if grant.metadata.deletion_timestamp.is_some() {
        for license in &mut declared.licenses {
            license.state = DesiredState::Revoked;
            license.cause = Cause::Hand;
            license.reason = Reason::Canceled;
        }
        return Ok(declared);
    }
    changed(grant, &declared)?;
    allowed(grant, &declared, rules)?;
    Ok(declared)
}

/// The API server refuses these changes; they come about where a definition without its rules was in force.
fn changed(grant: &LicenseGrant, declared: &Grant) -> Result<(), Held> {
    for license in kept(grant) {
        let entry = declared.licenses.iter().find(|desired| desired.name.as_str() == license.name);
        let Some(entry) = entry else {
            let name = &license.name;
            let message = format!(
                "license '{name}' exists and its entry was removed from spec.licenses; put it back, with state: Revoked if \
                 it is not wanted any more"
            );
            return Err(Held::new(Reason::ChangeNotSupported, message));
        };
        if entry.app_id.as_str() != license.app_id {
            let message = format!(
                "license '{}' is of app {} and cannot move to {}; put the old appId back, and add an entry for the new one",
                license.name, license.app_id, entry.app_id
            );
            return Err(Held::new(Reason::ChangeNotSupported, message));
        }
    }
    Ok(())
}

fn allowed(grant: &LicenseGrant, declared: &Grant, rules: &Rules) -> Result<(), Held> {
    let namespace = grant.metadata.namespace.as_deref().unwrap_or_default();
    let Some(apps) = rules.allowed.get(namespace) else { return Ok(()) };
    match declared.licenses.iter().find(|license| !apps.contains(&license.app_id)) {
        None => Ok(()),
        Some(license) => {
            let message = format!(
                "namespace {namespace} may not use app {}; the operator's --allow says which it may",
                license.app_id
            );
            Err(Held::new(Reason::Rejected, message))
        }
    }
}

/// Who waits for a grant.
pub fn priority(grant: &LicenseGrant) -> Priority {
    let hand = grant.spec.hand.as_ref().and_then(|hand| hand.state);
    let leaving = grant.metadata.deletion_timestamp.is_some();
    let mut priority = Priority::Renewal;
    for license in &grant.spec.licenses {
        let wanted = hand.unwrap_or(license.state) == State::Active && !leaving;
        let there = kept(grant).find(|kept| kept.is_of(license));
        match there.map(|kept| kept.state) {
            None if wanted => return Priority::Buyer,
            Some(KeptState::Live | KeptState::Revoking | KeptState::Reinstating) if !wanted => {
                priority = Priority::Refund;
            }
            _ => {}
        }
    }
    priority
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn grant(spec: &Value, status: &Value) -> LicenseGrant {
        serde_json::from_value(json!({
            "apiVersion": "grantsmith.dev/v1alpha1",
            "kind": "LicenseGrant",
            "metadata": {"name": "g", "namespace": "licenses"},
            "spec": spec,
            "status": status,
        }))
        .expect("a grant")
    }

    fn spec(extra: &Value) -> Value {
        let mut spec = json!({
            "purchase": {"provider": "stripe", "id": "cs_1"},
            "licenses": [{"name": "main", "appId": "app-1"}],
        });
        spec.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
        spec
    }

    fn kept(app: &str, state: &str) -> Value {
        json!({"licenses": [{
            "name": "main", "generation": 1, "state": state, "key": "****", "fingerprint": "00", "appId": app,
            "createdAt": "2026-11-24T00:00:00Z",
        }]})
    }

    fn reason(grant: &LicenseGrant, rules: &Rules) -> Option<Reason> {
        validate(grant, rules).err().map(|held| held.reason)
    }

    fn rules() -> Rules {
        Rules { installation: "default".to_owned(), allowed: BTreeMap::new() }
    }

    #[test]
    fn a_paused_grant_is_left_alone() {
        let grant = grant(&spec(&json!({"paused": true})), &json!({}));
        assert_eq!(reason(&grant, &rules()), Some(Reason::Paused));
    }

    #[test]
    fn a_license_cannot_move_to_another_app_or_vanish() {
        assert_eq!(reason(&grant(&spec(&json!({})), &kept("app-1", "Live")), &rules()), None);
        let moved = grant(&spec(&json!({})), &kept("app-2", "Live"));
        assert_eq!(reason(&moved, &rules()), Some(Reason::ChangeNotSupported));
        let other = json!({"licenses": [{"name": "2", "appId": "app-1"}]});
        let vanished = grant(&spec(&other), &kept("app-1", "Live"));
        assert_eq!(reason(&vanished, &rules()), Some(Reason::ChangeNotSupported));
    }

    #[test]
    fn a_namespace_with_a_rule_uses_its_apps_only() {
        let app = |id| AppId::parse(id).expect("an app");
        let mut rules = rules();
        let grant = grant(&spec(&json!({})), &json!({}));
        rules.allowed.insert("licenses".to_owned(), BTreeSet::from([app("app-2")]));
        assert_eq!(reason(&grant, &rules), Some(Reason::Rejected));
        rules.allowed.insert("licenses".to_owned(), BTreeSet::from([app("app-1")]));
        assert_eq!(reason(&grant, &rules), None);
    }

    #[test]
    fn who_waits_for_a_key_goes_before_who_loses_one() {
        let revoked = json!({"licenses": [{"name": "main", "appId": "app-1", "state": "Revoked"}]});
        assert_eq!(priority(&grant(&spec(&json!({})), &json!({}))), Priority::Buyer);
        assert_eq!(priority(&grant(&spec(&json!({})), &kept("app-1", "Live"))), Priority::Renewal);
        assert_eq!(priority(&grant(&spec(&revoked), &kept("app-1", "Live"))), Priority::Refund);
        assert_eq!(priority(&grant(&spec(&revoked), &kept("app-1", "Revoked"))), Priority::Renewal);
        let hand = spec(&json!({"override": {"state": "Revoked"}}));
        assert_eq!(priority(&grant(&hand, &kept("app-1", "Live"))), Priority::Refund);
    }
}
