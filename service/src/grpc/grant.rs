//! `LicenseGrantService`.

use std::time::Duration;

use grantsmith_core::manual::ManualId;
use grantsmith_core::port::KeptState;
use grantsmith_core::{DesiredState, GrantId, Reason};
use grantsmith_proto::v1 as pb;
use tonic::{Code, Request, Response, Status};

use super::status::CallReason;
use super::tokens::Role;
use super::{Services, convert, filter, page_token, status};
use crate::store::{Cursor, GrantLicense, GrantRow};

/// The most grants that `find` names.
const MOST_FOUND: u32 = 500;

pub(super) fn grant_id(name: &str) -> Result<GrantId, Status> {
    convert::grant_id(name).ok_or_else(|| {
        let text =
            "a grant is named licenseGrants/lg-…, as lists show it; find it by a Stripe id or an address";
        status::plain(Code::InvalidArgument, CallReason::BadArgument, text)
    })
}

/// Whether there is a key to mail: those of all licenses that are to work, and at least one.
fn sendable(row: &GrantRow) -> Result<(), Status> {
    let mut wanted =
        row.licenses.iter().filter(|license| license.desired.state == DesiredState::Active).peekable();
    if !row.licenses.is_empty() && wanted.peek().is_none() {
        let text = format!(
            "no key of the grant works now ({}), so there is none to send; reinstate the grant first, or clear what a person \
             decided about it",
            row.reason
        );
        return Err(status::because(Code::FailedPrecondition, row.reason, text));
    }
    let works =
        |license: &GrantLicense| license.kept.as_ref().is_some_and(|kept| kept.state == KeptState::Live);
    if row.licenses.is_empty() || !wanted.all(works) {
        let text =
            format!("not every key works yet ({}); ask again, or look at the grant to see why", row.reason);
        return Err(status::later(Reason::KeyPending, text, Duration::from_secs(2)));
    }
    Ok(())
}

impl Services {
    pub(super) async fn grant(&self, name: &str) -> Result<GrantRow, Status> {
        let found =
            self.fulfillment.store().grant(&grant_id(name)?).await.map_err(|error| status::store(&error))?;
        found.ok_or_else(|| status::not_found("grant", name))
    }
}

#[tonic::async_trait]
impl pb::license_grant_service_server::LicenseGrantService for Services {
    async fn get_license_grant(
        &self,
        request: Request<pb::GetLicenseGrantRequest>,
    ) -> Result<Response<pb::LicenseGrant>, Status> {
        self.allow(&request, Role::Read).await?;
        let message = request.into_inner();
        let row = self.grant(&message.name).await?;
        let id = row.id.clone();
        let mut grant = convert::grant(row);
        if message.view() == pb::LicenseGrantView::Full {
            let journal = self.fulfillment.store().journal(&id).await;
            let journal = journal.map_err(|error| status::store(&error))?;
            grant.history = journal.into_iter().map(convert::history).collect();
        }
        Ok(Response::new(grant))
    }

    async fn list_license_grants(
        &self,
        request: Request<pb::ListLicenseGrantsRequest>,
    ) -> Result<Response<pb::ListLicenseGrantsResponse>, Status> {
        self.allow(&request, Role::Read).await?;
        let message = request.into_inner();
        let store = self.fulfillment.store();
        if !message.find.is_empty() {
            if !message.filter.is_empty() || !message.page_token.is_empty() {
                let text = "find stands alone; leave out filter and page_token";
                return Err(status::plain(Code::InvalidArgument, CallReason::BadArgument, text));
            }
            let mut found =
                store.find_grants(&message.find, MOST_FOUND).await.map_err(|error| status::store(&error))?;
            // A reference is known to people without the name of the installation.
            if let (true, Ok(id)) =
                (found.is_empty(), ManualId::new(self.fulfillment.installation(), &message.find))
            {
                found = store
                    .find_grants(id.as_str(), MOST_FOUND)
                    .await
                    .map_err(|error| status::store(&error))?;
            }
            let license_grants = found.into_iter().map(convert::grant).collect();
            return Ok(Response::new(pb::ListLicenseGrantsResponse {
                license_grants,
                next_page_token: String::new(),
            }));
        }
        let size = page_token::page_size(message.page_size)?;
        let filter = filter::grants(&message.filter)?;
        let after = page_token::read(&message.page_token, &message.filter)?;
        let found = store.grants(&filter, after.as_ref(), size + 1).await;
        let mut grants = found.map_err(|error| status::store(&error))?;
        let more = grants.len() > size as usize;
        grants.truncate(size as usize);
        let last =
            grants.last().filter(|_| more).map(|row| Cursor { at: row.created, id: row.id.to_string() });
        Ok(Response::new(pb::ListLicenseGrantsResponse {
            license_grants: grants.into_iter().map(convert::grant).collect(),
            next_page_token: last
                .map_or_else(String::new, |cursor| page_token::write(&cursor, &message.filter)),
        }))
    }

    async fn get_license_key(
        &self,
        request: Request<pb::GetLicenseKeyRequest>,
    ) -> Result<Response<pb::GetLicenseKeyResponse>, Status> {
        self.allow(&request, Role::Reveal).await?;
        let row = self.grant(&request.into_inner().name).await?;
        let row = self.fulfillment.unlock(row).await.map_err(|error| status::store(&error))?;
        let reason = row.reason;
        let kept = row.licenses.into_iter().filter_map(|license| license.kept);
        let license_keys: Vec<_> = kept
            .map(|kept| pb::LicenseKey {
                license: kept.name.to_string(),
                license_key: kept.key.expose().to_owned(),
            })
            .collect();
        if license_keys.is_empty() {
            let text = format!("there is no key yet ({reason}); ask again, or look at the grant to see why");
            return Err(status::later(Reason::KeyPending, text, Duration::from_secs(2)));
        }
        tracing::info!(grant.id = %row.id, keys = license_keys.len(), "keys revealed");
        Ok(Response::new(pb::GetLicenseKeyResponse { license_keys }))
    }

    async fn resend_license_key(
        &self,
        request: Request<pb::ResendLicenseKeyRequest>,
    ) -> Result<Response<pb::ResendLicenseKeyResponse>, Status> {
        self.allow(&request, Role::Manage).await?;
        let row = self.grant(&request.into_inner().name).await?;
        if !self.fulfillment.mail_enabled() {
            let text = "no mail server is configured; start the server with --smtp-url";
            return Err(status::because(Code::FailedPrecondition, Reason::NoMailer, text));
        }
        if row.email.is_none() {
            let text = "no address is known for this grant; hand the key over yourself";
            return Err(status::because(Code::FailedPrecondition, Reason::NoAddress, text));
        }
        sendable(&row)?;
        let number = self.fulfillment.resend(&row.id).await.map_err(|error| status::store(&error))?;
        Ok(Response::new(pb::ResendLicenseKeyResponse { number: i32::try_from(number).unwrap_or(i32::MAX) }))
    }

    async fn create_license_grant(
        &self,
        request: Request<pb::CreateLicenseGrantRequest>,
    ) -> Result<Response<pb::LicenseGrant>, Status> {
        let person = self.allow(&request, Role::Manage).await?;
        self.create_by_hand(request.into_inner(), person).await.map(Response::new)
    }

    async fn update_license_grant(
        &self,
        request: Request<pb::UpdateLicenseGrantRequest>,
    ) -> Result<Response<pb::LicenseGrant>, Status> {
        let person = self.allow(&request, Role::Manage).await?;
        self.update_by_hand(request.into_inner(), person).await.map(Response::new)
    }

    async fn revoke_license_grant(
        &self,
        request: Request<pb::RevokeLicenseGrantRequest>,
    ) -> Result<Response<pb::LicenseGrant>, Status> {
        let person = self.allow(&request, Role::Manage).await?;
        self.revoke_by_hand(request.into_inner(), person).await.map(Response::new)
    }

    async fn reinstate_license_grant(
        &self,
        request: Request<pb::ReinstateLicenseGrantRequest>,
    ) -> Result<Response<pb::LicenseGrant>, Status> {
        let person = self.allow(&request, Role::Manage).await?;
        self.reinstate_by_hand(request.into_inner(), person).await.map(Response::new)
    }

    async fn clear_override(
        &self,
        request: Request<pb::ClearOverrideRequest>,
    ) -> Result<Response<pb::LicenseGrant>, Status> {
        let person = self.allow(&request, Role::Manage).await?;
        self.clear_by_hand(request.into_inner(), person).await.map(Response::new)
    }

    async fn release_license_grant(
        &self,
        request: Request<pb::ReleaseLicenseGrantRequest>,
    ) -> Result<Response<pb::LicenseGrant>, Status> {
        let person = self.allow(&request, Role::Manage).await?;
        self.release_by_hand(request.into_inner(), person).await.map(Response::new)
    }

    async fn replace_license_key(
        &self,
        request: Request<pb::ReplaceLicenseKeyRequest>,
    ) -> Result<Response<pb::LicenseGrant>, Status> {
        let person = self.allow(&request, Role::Manage).await?;
        self.replace_by_hand(request.into_inner(), person).await.map(Response::new)
    }

    async fn reset_license_devices(
        &self,
        request: Request<pb::ResetLicenseDevicesRequest>,
    ) -> Result<Response<pb::LicenseGrant>, Status> {
        let person = self.allow(&request, Role::Manage).await?;
        self.reset_by_hand(request.into_inner(), person).await.map(Response::new)
    }

    async fn forget_buyer(
        &self,
        request: Request<pb::ForgetBuyerRequest>,
    ) -> Result<Response<pb::ForgetBuyerResponse>, Status> {
        let person = self.allow(&request, Role::Manage).await?;
        self.forget_by_hand(&request.into_inner().email, person).await.map(Response::new)
    }

    async fn import_license(
        &self,
        request: Request<pb::ImportLicenseRequest>,
    ) -> Result<Response<pb::ImportLicenseResponse>, Status> {
        let person = self.allow(&request, Role::Manage).await?;
        self.import(request.into_inner(), person).await.map(Response::new)
    }
}
