//! `StorefrontService`: what the buyer's pages may ask.

use std::net::IpAddr;

use grantsmith_core::Reason;
use grantsmith_core::license::Slots;
use grantsmith_proto::v1 as pb;
use pb::get_purchase_page_response::Status as Stand;
use pb::resend_portal_key_response::Outcome;
use tonic::{Code, Request, Response, Status};

use super::grant::grant_id;
use super::status::CallReason;
use super::tokens::Role;
use super::{Services, convert, status};
use crate::checkout::{self, Wish};
use crate::fulfillment::portal::{Error, Order, Portal, Resent, Token};
use crate::fulfillment::{Page, PageLicense};

#[tonic::async_trait]
impl pb::storefront_service_server::StorefrontService for Services {
    async fn create_checkout_session(
        &self,
        request: Request<pb::CreateCheckoutSessionRequest>,
    ) -> Result<Response<pb::CreateCheckoutSessionResponse>, Status> {
        self.allow(&request, Role::Storefront).await?;
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
        self.allow(&request, Role::Storefront).await?;
        let session = request.into_inner().session_id;
        let page = self.fulfillment.page(&session).await.map_err(|error| status::store(&error))?;
        let unknown = "no purchase has that session id";
        let unknown = || status::plain(Code::NotFound, CallReason::NotFound, unknown);
        let mut response = shown(page).ok_or_else(unknown)?;
        response.mail_enabled = self.fulfillment.mail_enabled();
        Ok(Response::new(response))
    }

    async fn correct_purchase_email(
        &self,
        request: Request<pb::CorrectPurchaseEmailRequest>,
    ) -> Result<Response<pb::CorrectPurchaseEmailResponse>, Status> {
        self.allow(&request, Role::Storefront).await?;
        let pb::CorrectPurchaseEmailRequest { session_id, email, client_address } = request.into_inner();
        let client = client(&client_address)?;
        self.fulfillment.correct_email(&session_id, &email, client).await.map_err(|error| refused(&error))?;
        Ok(Response::new(pb::CorrectPurchaseEmailResponse {}))
    }

    async fn request_portal_link(
        &self,
        request: Request<pb::RequestPortalLinkRequest>,
    ) -> Result<Response<pb::RequestPortalLinkResponse>, Status> {
        self.allow(&request, Role::Storefront).await?;
        let pb::RequestPortalLinkRequest { email, client_address } = request.into_inner();
        let client = client(&client_address)?;
        self.fulfillment.request_portal_link(&email, client).await.map_err(|error| refused(&error))?;
        Ok(Response::new(pb::RequestPortalLinkResponse {}))
    }

    async fn open_portal(
        &self,
        request: Request<pb::OpenPortalRequest>,
    ) -> Result<Response<pb::Portal>, Status> {
        self.allow(&request, Role::Storefront).await?;
        let pb::OpenPortalRequest { token, client_address } = request.into_inner();
        let (token, client) = (Token::new(token), client(&client_address)?);
        let opened = self.fulfillment.open_portal(&token, client).await.map_err(|error| refused(&error))?;
        Ok(Response::new(portal(opened)))
    }

    async fn resend_portal_key(
        &self,
        request: Request<pb::ResendPortalKeyRequest>,
    ) -> Result<Response<pb::ResendPortalKeyResponse>, Status> {
        self.allow(&request, Role::Storefront).await?;
        let pb::ResendPortalKeyRequest { action_token, license_grant, client_address } = request.into_inner();
        let (action, client) = (Token::new(action_token), client(&client_address)?);
        let grant = grant_id(&license_grant)?;
        let (resent, shown) = self
            .fulfillment
            .resend_portal_key(&action, &grant, client)
            .await
            .map_err(|error| refused(&error))?;
        let outcome = match resent {
            Resent::Sent => Outcome::Sent,
            Resent::TooOften => Outcome::TooOften,
            Resent::NotNow => Outcome::NotNow,
        };
        let portal = Some(portal(shown));
        Ok(Response::new(pb::ResendPortalKeyResponse { outcome: outcome.into(), portal }))
    }
}

fn client(address: &str) -> Result<IpAddr, Status> {
    let text = "client_address is the IP address of the buyer's client, such as 192.0.2.7";
    address.parse().map_err(|_| status::plain(Code::InvalidArgument, CallReason::BadArgument, text))
}

fn refused(error: &Error) -> Status {
    let text = error.to_string();
    match error {
        Error::TooMany { wait } => status::too_many(text, *wait),
        Error::BadAddress => status::plain(Code::InvalidArgument, CallReason::BadAddress, text),
        Error::NoMailer => status::because(Code::FailedPrecondition, Reason::NoMailer, text),
        Error::Gone => status::plain(Code::NotFound, CallReason::NotFound, text),
        Error::Unavailable(_) => status::store(error),
    }
}

/// What a page shows; none where there is nothing to show.
fn shown(page: Page) -> Option<pb::GetPurchasePageResponse> {
    let stand = |status: Stand| pb::GetPurchasePageResponse { status: status.into(), ..Default::default() };
    match page {
        Page::NotFound => None,
        Page::Pending => Some(stand(Stand::Pending)),
        Page::PaymentPending => Some(stand(Stand::PaymentPending)),
        Page::Ended => Some(stand(Stand::Ended)),
        Page::Ready { licenses, masked_email } => Some(pb::GetPurchasePageResponse {
            licenses: licenses.into_iter().map(license).collect(),
            masked_email: masked_email.unwrap_or_default(),
            ..stand(Stand::Ready)
        }),
    }
}

fn portal(portal: Portal) -> pb::Portal {
    pb::Portal {
        email: portal.email.expose().to_owned(),
        purchases: portal.orders.into_iter().map(order).collect(),
        action_token: portal.action.expose().to_owned(),
        more: portal.more,
    }
}

fn order(order: Order) -> pb::PortalPurchase {
    let shown = shown(order.page).unwrap_or_default();
    pb::PortalPurchase {
        license_grant: convert::grant_name(&order.grant),
        purchase: order.purchase,
        purchase_time: Some(convert::time(order.at)),
        status: shown.status,
        licenses: shown.licenses,
        can_resend: order.can_resend,
    }
}

fn no_checkout(error: &checkout::Error) -> Status {
    let text = error.to_string();
    match error {
        checkout::Error::NoCatalog => status::plain(Code::NotFound, CallReason::NotFound, text),
        checkout::Error::EventsOnly => {
            status::because(Code::FailedPrecondition, Reason::NeedsStripeKey, text)
        }
        checkout::Error::Wrong(_) => status::plain(Code::InvalidArgument, CallReason::BadArgument, text),
        checkout::Error::KeyReused => status::plain(Code::AlreadyExists, CallReason::RequestIdReused, text),
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
