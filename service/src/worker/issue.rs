//! Rounds of work on grants: whoever issues does them, and what they come to is written down.

use grantsmith_core::GrantId;
use metrics::histogram;
use tracing::Instrument;

use super::Worker;
use crate::store::{GrantRow, GrantState};

impl Worker {
    /// The first round of work after a decision, unless that changed nothing.
    pub(super) async fn begin(&self, id: &GrantId) {
        self.work_on(id, |row| row.state == GrantState::Issuing).await;
    }

    /// One round of work on one grant.
    pub(super) async fn work(&self, id: &GrantId) {
        self.work_on(id, |_| true).await;
    }

    async fn work_on(&self, id: &GrantId, wanted: fn(&GrantRow) -> bool) {
        let span = tracing::info_span!("issue", grant.id = %id);
        if let Err(error) = self.round(id, wanted).instrument(span).await {
            tracing::warn!(grant.id = %id, %error, "the record failed in a round of work");
            tokio::time::sleep(super::BREATHER).await;
            // What was told of it is on no record.
            self.touched.touch(id.clone());
        }
    }

    async fn round(&self, id: &GrantId, wanted: fn(&GrantRow) -> bool) -> Result<(), crate::store::Error> {
        let Some(row) = self.store.grant(id).await?.filter(wanted) else { return Ok(()) };
        if self.observe {
            let progress = self.issuer.rehearse(&row).await;
            return self.store.progress(progress, row.decided).await;
        }
        let Some(progress) = self.issuer.work(&row).await? else { return Ok(()) };
        if progress.state == GrantState::Ready && row.state != GrantState::Ready {
            tracing::info!(reason = %progress.reason, licenses = progress.licenses.len(), "ready");
            let since = self.now().duration_since(row.paid_at.unwrap_or(row.created).max(row.created));
            histogram!("grantsmith_issue_seconds").record(since.as_secs_f64().max(0.0));
        }
        self.store.progress(progress, row.decided).await
    }
}
