//! `StorefrontService`: what the buyer's pages may ask.

use grantsmith_core::Reason;
use grantsmith_core::license::Slots;
use grantsmith_proto::v1 as pb;
use pb::get_purchase_page_response::Status as Stand;
use tonic::{Code, Request, Response, Status};

use super::tokens::Role;
use super::{Services, convert, status};
use crate::checkout::{self, Wish};
use crate::fulfillment::{Page, PageLicense};

#[tonic::async_trait]
impl pb::storefront_service_server::StorefrontService for Services {
    async fn create_checkout_session(
        &self,
        request: Request<pb::CreateCheckoutSessionRequest>,
    ) -> Result<Response<pb::CreateCheckoutSessionResponse>, Status> {
        self.allow(&request, Role::Storefront)?;
        let said = |text: String| Some(text).filter(|text| !text.is_empty());
        let pb::CreateCheckoutSessionRequest { plan, quantity, email, request_id } = request.into_inner();
        let (plan, email, request_id) = (said(plan), said(email), said(request_id));
        let wish = Wish { plan, quantity: quantity.unwrap_or(1), email, request_id };
        let url = self.fulfillment.till().open(&wish).await.map_err(|error| no_checkout(&error))?;
        Ok(Response::new(pb::CreateCheckoutSessionResponse { url }))
    }

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

fn no_checkout(error: &checkout::Error) -> Status {
    let text = error.to_string();
    match error {
        checkout::Error::NoCatalog => status::plain(Code::NotFound, "NO_CATALOG", text),
        checkout::Error::EventsOnly => {
            status::because(Code::FailedPrecondition, Reason::NeedsStripeKey, text)
        }
        checkout::Error::Wrong(_) => status::plain(Code::InvalidArgument, "BAD_ORDER", text),
        checkout::Error::KeyReused => status::plain(Code::AlreadyExists, "REQUEST_ID_REUSED", text),
        checkout::Error::Busy => status::because(Code::ResourceExhausted, Reason::RateLimited, text),
        checkout::Error::Refused => status::because(Code::FailedPrecondition, Reason::Rejected, text),
        checkout::Error::Unavailable => status::because(Code::Unavailable, Reason::StripeUnavailable, text),
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
