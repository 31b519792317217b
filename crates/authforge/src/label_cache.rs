//! Which label a key carries, remembered: AuthForge's list may not tell, and one GET for each license costs once.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use grantsmith_core::AppId;
use grantsmith_core::license::Fingerprint;

/// The cache could not be read or written. It costs calls, never correctness.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("could not use the label cache: {0}")]
pub struct CacheError(pub String);

/// Remembers labels by the fingerprint of the key; `None` is a license known to have none.
///
/// # Guarantees asked of an implementation
/// - What `labels` returns was given to `remember` for that app. It may forget.
///
/// # Assumptions
/// - A license's label never changes: AuthForge documents no call that would.
#[async_trait]
pub trait LabelCache: Send + Sync {
    /// All labels known for an app.
    async fn labels(&self, app: &AppId) -> Result<HashMap<Fingerprint, Option<String>>, CacheError>;

    /// Remembers labels of an app's licenses.
    async fn remember(&self, app: &AppId, labels: &[(Fingerprint, Option<String>)])
    -> Result<(), CacheError>;
}

type Labels = HashMap<Fingerprint, Option<String>>;

/// A cache that lives as long as the process.
#[derive(Debug, Default)]
pub struct MemoryLabels(Mutex<HashMap<AppId, Labels>>);

#[async_trait]
impl LabelCache for MemoryLabels {
    async fn labels(&self, app: &AppId) -> Result<Labels, CacheError> {
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).get(app).cloned().unwrap_or_default())
    }

    async fn remember(
        &self,
        app: &AppId,
        labels: &[(Fingerprint, Option<String>)],
    ) -> Result<(), CacheError> {
        let mut apps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        apps.entry(app.clone()).or_default().extend(labels.iter().cloned());
        Ok(())
    }
}

/// Labels of licenses that we have just made, on their way to the cache.
///
/// Writing each to the cache at once would put a disk write between a create and the keeping of its key, which is the one
/// moment where a crash costs a listing. A listing that needs labels takes them from here; lost ones cost a GET each.
#[derive(Debug, Default)]
pub(crate) struct Fresh(Mutex<VecDeque<(AppId, Fingerprint, Option<String>)>>);

impl Fresh {
    /// Bounds the memory of a process whose listings have labels and that never asks for these.
    const MOST: usize = 20_000;

    pub(crate) fn add(&self, app: &AppId, fingerprint: Fingerprint, label: Option<String>) {
        let mut fresh = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if fresh.len() >= Self::MOST {
            fresh.pop_front();
        }
        fresh.push_back((app.clone(), fingerprint, label));
    }

    pub(crate) fn take(&self, app: &AppId) -> Vec<(Fingerprint, Option<String>)> {
        let mut fresh = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (taken, kept) =
            std::mem::take(&mut *fresh).into_iter().partition::<Vec<_>, _>(|(of, ..)| of == app);
        *fresh = kept.into();
        taken.into_iter().map(|(_, fingerprint, label)| (fingerprint, label)).collect()
    }
}
