//! Grants where nobody looks after them: an operator that may see all namespaces tells those that it does not serve.
//!
//! The right to do so is what switches it on: with the rights of one namespace nothing is asked and nothing told. Another
//! operator may serve that namespace, so a grant is told only as long as nobody has worked on it, and what it is told leaves
//! it to be worked on.

use std::collections::BTreeSet;
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use grantsmith_core::Reason;
use grantsmith_core::port::Clock;
use grantsmith_crd::LicenseGrant;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::api::{Api, PostParams};
use kube::core::{DeserializeGuard, ObjectMeta};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Client, Resource as _, ResourceExt as _};

use crate::attempts::{by_us, told};
use crate::lease::Lease;
use crate::status::{self, Standing};
use crate::validate::Held;
use crate::watch::{PAGE, Pauses};

/// Whether we may look is asked again after this, where the API server did not say.
const AGAIN: Duration = Duration::from_secs(30);

/// Tells grants that nobody looks after them.
pub struct Elsewhere {
    /// The cluster, for calls that are answered soon.
    pub client: Client,
    /// The cluster, for watches.
    pub watching: Client,
    /// The namespaces that are served.
    pub served: BTreeSet<String>,
    /// Who tells it.
    pub lease: Arc<Lease>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl fmt::Debug for Elsewhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Elsewhere").field("served", &self.served).finish_non_exhaustive()
    }
}

impl Elsewhere {
    /// Goes on for ever, if it may look at all.
    pub async fn run(self) {
        loop {
            match self.may_look().await {
                Ok(true) => break,
                Ok(false) => return,
                Err(error) => {
                    tracing::debug!(error = told(&error), "whether all namespaces may be seen is not known");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
        tracing::info!("grants in namespaces that are not served are told so");
        loop {
            self.lease.wait().await;
            self.look().await;
        }
    }

    async fn may_look(&self) -> Result<bool, kube::Error> {
        let reviews: Api<SelfSubjectAccessReview> = Api::all(self.client.clone());
        for (verb, subresource) in [("list", None), ("watch", None), ("update", Some("status"))] {
            let wish = ResourceAttributes {
                group: Some(LicenseGrant::group(&()).into_owned()),
                resource: Some(LicenseGrant::plural(&()).into_owned()),
                subresource: subresource.map(str::to_owned),
                verb: Some(verb.to_owned()),
                ..ResourceAttributes::default()
            };
            let spec = SelfSubjectAccessReviewSpec {
                resource_attributes: Some(wish),
                ..SelfSubjectAccessReviewSpec::default()
            };
            let review = SelfSubjectAccessReview { metadata: ObjectMeta::default(), spec, status: None };
            let answer = reviews.create(&PostParams::default(), &review).await?;
            if !answer.status.is_some_and(|status| status.allowed) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Looks as long as the lease is held.
    async fn look(&self) {
        let api: Api<DeserializeGuard<LicenseGrant>> = Api::all(self.watching.clone());
        let served: Vec<String> =
            self.served.iter().map(|name| format!("metadata.namespace!={name}")).collect();
        let config = Config::default().page_size(PAGE).fields(&served.join(","));
        let mut stream = pin!(watcher(api, config).backoff(Pauses::default()));
        while let Some(event) = stream.next().await {
            if !self.lease.is_held() {
                return;
            }
            // The definition may come later, and what cannot be read cannot be told.
            if let Ok(
                Event::InitApply(DeserializeGuard(Ok(grant))) | Event::Apply(DeserializeGuard(Ok(grant))),
            ) = event
            {
                self.tell(grant).await;
            }
        }
    }

    async fn tell(&self, mut grant: LicenseGrant) {
        let (Some(namespace), Some(message)) = (grant.namespace(), untold(&grant)) else { return };
        status::write(&mut grant, &Standing::held(Held::new(Reason::Rejected, message)), self.clock.now());
        if let Some(status) = &mut grant.status {
            // Whoever comes to serve the namespace finds it as one that was never looked at.
            status.observed_generation = None;
        }
        let api: Api<LicenseGrant> = Api::namespaced(self.client.clone(), &namespace);
        match api.replace_status(&grant.name_any(), &by_us(), &grant).await {
            Ok(_) => {
                let grant = format!("{namespace}/{}", grant.name_any());
                tracing::info!(grant, "a grant was told that its namespace is not served");
            }
            // Somebody has changed it meanwhile, and the watch tells how.
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_not_found() => {}
            Err(error) => {
                tracing::warn!(error = told(&error), "a grant was not told that its namespace is not served");
            }
        }
    }
}

/// What a grant is to be told; none if somebody has worked on it, or it was told.
fn untold(grant: &LicenseGrant) -> Option<String> {
    if grant.metadata.deletion_timestamp.is_some() || status::is_tried(grant) {
        return None;
    }
    let status = grant.status.as_ref();
    if status.is_some_and(|status| status.observed_generation.is_some() || !status.conditions.is_empty()) {
        return None;
    }
    let namespace = grant.metadata.namespace.as_deref().unwrap_or_default();
    Some(format!(
        "no operator looks after namespace {namespace}; move the grant to one that is served, or name the namespace and its \
         apps in the operator's --allow"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn grant(status: &Value) -> LicenseGrant {
        serde_json::from_value(json!({
            "apiVersion": "grantsmith.dev/v1alpha1",
            "kind": "LicenseGrant",
            "metadata": {"name": "g", "namespace": "elsewhere", "generation": 1},
            "spec": {"purchase": {"provider": "stripe", "id": "cs_1"}, "licenses": [{"name": "main", "appId": "a"}]},
            "status": status,
        }))
        .expect("a grant")
    }

    #[test]
    fn only_a_grant_that_nobody_has_worked_on_is_told() {
        assert!(untold(&grant(&json!({}))).is_some_and(|text| text.contains("namespace elsewhere")));
        assert_eq!(untold(&grant(&json!({"observedGeneration": 1}))), None, "it is somebody's");
        let attempt = json!({"attempts": [{
            "id": "a", "license": "main", "generation": 1, "openedAt": "2026-01-01T00:00:00Z", "outcome": "Open",
        }]});
        assert_eq!(untold(&grant(&attempt)), None, "somebody is at it");
    }
}
