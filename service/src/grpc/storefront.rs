//! `StorefrontService`: what the buyer's pages may ask.

use grantsmith_core::license::Slots;
use grantsmith_proto::v1 as pb;
use pb::get_purchase_page_response::Status as Stand;
use tonic::{Request, Response, Status};

use super::tokens::Role;
use super::{Services, convert, status};
use crate::fulfillment::{Page, PageLicense};

#[tonic::async_trait]
impl pb::storefront_service_server::StorefrontService for Services {
    async fn get_purchase_page(
        &self,
        request: Request<pb::GetPurchasePageRequest>,
    ) -> Result<Response<pb::GetPurchasePageResponse>, Status> {
        self.allow(&request, Role::Storefront)?;
        let session = request.into_inner().session_id;
        let page = self.fulfillment.page(&session).await.map_err(|error| status::store(&error))?;
        let stand =
            |status: Stand| pb::GetPurchasePageResponse { status: status.into(), ..Default::default() };
        let mut response = match page {
            Page::NotFound => return Err(status::not_found("purchase", &session)),
            Page::Pending => stand(Stand::Pending),
            Page::PaymentPending => stand(Stand::PaymentPending),
            Page::Ended => stand(Stand::Ended),
            Page::Ready { licenses, masked_email } => pb::GetPurchasePageResponse {
                licenses: licenses.into_iter().map(license).collect(),
                masked_email: masked_email.unwrap_or_default(),
                ..stand(Stand::Ready)
            },
        };
        response.mail_enabled = self.fulfillment.mail_enabled();
        Ok(Response::new(response))
    }
}

fn license(license: PageLicense) -> pb::PageLicense {
    pb::PageLicense {
        name: license.name,
        license_key: license.key.expose().to_owned(),
        app_id: license.app_id.to_string(),
        expire_time: license.expires_at.map(convert::time),
        max_hwid_slots: match license.slots {
            Slots::Limited(count) => count.into(),
            Slots::Unlimited => 0,
        },
    }
}
