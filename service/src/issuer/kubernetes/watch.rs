//! What happens to grants in the cluster, and what has to be done about it.

use std::collections::HashSet;
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use grantsmith_core::GrantId;
use grantsmith_crd::LicenseGrant;
use kube::api::Api;
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Config, Event, watcher};
use kube::{Client, ResourceExt as _};

use super::{Cluster, resource, told};
use crate::store::{Cursor, Error, GrantFilter};
use crate::worker::Touched;

/// Objects in one answer of a listing.
const PAGE: u32 = 100;
/// Grants of the record that are compared at a time.
const ROWS: u32 = 500;
/// After the record failed.
const BREATHER: Duration = Duration::from_secs(1);

/// Follows the grants of a namespace.
pub struct Watch {
    /// Issues there.
    pub cluster: Arc<Cluster>,
    /// A client whose watches may be silent.
    pub client: Client,
    /// Where grants are.
    pub namespace: String,
    /// Which of them have work.
    pub touched: Touched,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

/// Pauses between tries, short: buyers wait.
#[derive(Debug, Default)]
struct Pauses(u32);

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.0 = self.0.saturating_add(1);
        Some(Duration::from_millis(250).saturating_mul(1 << self.0.min(4)))
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.0 = 0;
    }
}

impl Watch {
    /// Goes on for ever.
    pub async fn run(self) {
        let api: Api<DeserializeGuard<LicenseGrant>> = Api::namespaced(self.client.clone(), &self.namespace);
        loop {
            // Where a watch cannot even begin, it is not known what was missed.
            self.follow(api.clone()).await;
        }
    }

    async fn follow(&self, api: Api<DeserializeGuard<LicenseGrant>>) {
        let mut stream = pin!(watcher(api, Config::default().page_size(PAGE)).backoff(Pauses::default()));
        let mut listed = HashSet::new();
        while let Some(event) = stream.next().await {
            match event {
                Ok(Event::Init) => listed = HashSet::new(),
                Ok(Event::InitApply(DeserializeGuard(Ok(grant)))) => {
                    listed.extend(self.apply(&grant).await);
                }
                Ok(Event::InitDone) => self.missing(&std::mem::take(&mut listed)).await,
                Ok(Event::Apply(DeserializeGuard(Ok(grant)))) => {
                    self.apply(&grant).await;
                }
                Ok(Event::Delete(DeserializeGuard(Ok(grant)))) => {
                    if let Some(purchase) = resource::purchase(&grant, &self.cluster.installation) {
                        self.touched.touch(GrantId::of(&purchase));
                    }
                }
                // One that this version cannot read is the operator's to complain of.
                Ok(
                    Event::InitApply(DeserializeGuard(Err(_)))
                    | Event::Apply(DeserializeGuard(Err(_)))
                    | Event::Delete(DeserializeGuard(Err(_))),
                ) => {}
                Err(error) => {
                    trouble(&error);
                    if let watcher::Error::WatchStartFailed(kube::Error::Api(status)) = &error
                        && status.code == 404
                    {
                        return;
                    }
                }
            }
        }
    }

    /// Takes in what is new about a grant; gives its id.
    async fn apply(&self, grant: &LicenseGrant) -> Option<GrantId> {
        let purchase = resource::purchase(grant, &self.cluster.installation)?;
        let id = GrantId::of(&purchase);
        loop {
            match self.consider(&id, grant).await {
                Ok(()) => return Some(id),
                Err(error) => {
                    tracing::warn!(%error, "what happened in the cluster waits for the record");
                    tokio::time::sleep(BREATHER).await;
                }
            }
        }
    }

    async fn consider(&self, id: &GrantId, grant: &LicenseGrant) -> Result<(), Error> {
        let cluster = &self.cluster;
        match cluster.store.grant(id).await? {
            Some(row) if row.object.is_none() => {
                // Another one of a purchase that is declared here: the operator says so of it.
                if resource::is_ours(grant, id) && !cluster.is_settled(id, grant).await? {
                    self.touched.touch(id.clone());
                }
            }
            Some(row) if row.object.as_ref().is_some_and(|object| object.name != grant.name_any()) => {}
            row => {
                let declaration =
                    resource::declaration(grant, row.as_ref(), &cluster.installation, cluster.now());
                let Some(declaration) = declaration else { return Ok(()) };
                let told = row.as_ref().is_some_and(|row| {
                    resource::is_told(row, &declaration.progress)
                        && row.licenses.len() == declaration.licenses.len()
                        && (row.forgotten || row.email == declaration.email)
                });
                if !told {
                    cluster.store.take_in(declaration).await?;
                    self.touched.wake();
                }
                let Some(row) = cluster.store.grant(id).await? else { return Ok(()) };
                if !matches!(resource::compare(&row, grant), resource::Verdict::Same) {
                    self.touched.touch(id.clone());
                }
            }
        }
        Ok(())
    }

    /// What is on record and not in the cluster is declared there, or was taken out by people.
    async fn missing(&self, listed: &HashSet<GrantId>) {
        let mut after: Option<Cursor> = None;
        loop {
            let rows = self.cluster.store.grants(&GrantFilter::default(), after.as_ref(), ROWS).await;
            let rows = match rows {
                Ok(rows) => rows,
                Err(error) => {
                    tracing::warn!(%error, "what is missing in the cluster waits for the record");
                    tokio::time::sleep(BREATHER).await;
                    continue;
                }
            };
            let Some(last) = rows.last() else { return };
            after = Some(Cursor { at: last.created, id: last.id.to_string() });
            let absent = rows.into_iter().filter(|row| !row.licenses.is_empty() && !listed.contains(&row.id));
            for row in absent.filter(|row| row.reason != grantsmith_core::Reason::BeforeStart) {
                self.touched.touch(row.id);
            }
        }
    }
}

fn trouble(error: &watcher::Error) {
    match error {
        watcher::Error::InitialListFailed(cause)
        | watcher::Error::WatchStartFailed(cause)
        | watcher::Error::WatchFailed(cause) => {
            tracing::warn!(error = told(cause), "the watch of grants broke; it is begun anew");
        }
        watcher::Error::WatchError(_) | watcher::Error::NoResourceVersion => {
            tracing::info!("the watch of grants ended; it is begun anew");
        }
    }
}
