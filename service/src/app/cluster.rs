//! The cluster that this process is in, or that KUBECONFIG names.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use grantsmith_core::port::Clock;
use jiff::Timestamp;

use super::Tasks;
use crate::config::{Back, Wrong};
use crate::decide::Offer;
use crate::issuer::kubernetes::{self, Watch};
use crate::issuer::{Cluster, Issuer};
use crate::store::Store;
use crate::worker::Touched;

/// A request to the cluster that takes longer is given up.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// How to reach the cluster that this process is in, or that KUBECONFIG names.
pub(super) async fn config(otherwise: &str) -> Result<kube::Config, Wrong> {
    kube::Config::infer().await.map_err(|error| {
        Wrong(format!("no cluster: {error}; run in one, give a kubeconfig in KUBECONFIG, or {otherwise}"))
    })
}

/// A client whose requests end in time.
pub(super) fn client(mut config: kube::Config) -> anyhow::Result<kube::Client> {
    config.read_timeout = Some(ANSWERS_WITHIN);
    kube::Client::try_from(config).context("a client for the cluster")
}

/// Issues through the cluster that this process is in, or that KUBECONFIG names, and follows what happens there.
pub(super) async fn issuer(
    settings: &Back,
    namespace: Option<String>,
    fulfil_since: Option<Timestamp>,
    (store, clock, offer, touched): (Arc<dyn Store>, Arc<dyn Clock>, Offer, Touched),
    tasks: &Tasks,
) -> anyhow::Result<Arc<dyn Issuer>> {
    let mut config = config("choose --issuer direct").await?;
    let namespace = namespace.unwrap_or_else(|| config.default_namespace.clone());
    config.read_timeout = None;
    let watching = kube::Client::try_from(config.clone()).context("a client for the cluster")?;
    let client = client(config)?;
    let cluster = Cluster::new(kubernetes::Parts {
        client,
        namespace: namespace.clone(),
        store,
        clock,
        installation: settings.installation.clone(),
        offer,
        fulfil_since,
        instance: std::env::var("HOSTNAME").unwrap_or_else(|_| "server".to_owned()),
    });
    let watch = Watch { cluster: cluster.clone(), client: watching, namespace, touched };
    let stop = tasks.stop();
    tasks.spawn(async move {
        stop.run_until_cancelled(Box::pin(watch.run())).await;
    });
    Ok(cluster)
}
