//! What the webhook and the pages ask of the server, in the same process or over gRPC.

mod portal;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use grantsmith_core::license::Slots;
use grantsmith_core::{AppId, GrantId, LicenseKey, PurchaseId, Reason};
use grantsmith_proto::v1 as pb;
use pb::get_purchase_page_response::Status;
use pb::storefront_service_client::StorefrontServiceClient;
use tonic::Code;
use tonic::transport::Channel;
use tonic_types::StatusExt;

use crate::checkout::{self, Wish};
use crate::fulfillment::portal::{Error as Refused, Portal, Resent, Token};
use crate::fulfillment::{Fulfillment, Page, PageLicense, RecordError};
use crate::grpc::convert::{grant_name, timestamp};
use crate::grpc::tokens::{Role, TokenFile};
use crate::ingest::{Answer, Outcome};
use crate::stripe::Mode;

/// How long the webhook goes on trying to reach its server before it asks Stripe to come again.
pub const RETRY_FOR: Duration = Duration::from_secs(8);

/// Why the server did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The body is not a Stripe event.
    #[error("{0}")]
    NotAnEvent(String),
    /// Not now; the same again may go better.
    #[error("{0}")]
    Unavailable(String),
}

/// The server, as the webhook and the pages see it. Neither an AuthForge key nor a way to ask for keys in general.
#[async_trait]
pub trait Backend: Send + Sync {
    /// Records a verified event, durably.
    async fn record(&self, body: Bytes, verified: Mode) -> Result<Answer, Error>;

    /// What one session's success page shows, and whether mail is sent.
    async fn page(&self, session: &str) -> Result<(Page, bool), Error>;

    /// Makes a Checkout session; gives the address of its payment page.
    async fn checkout(&self, wish: Wish) -> Result<String, checkout::Error>;

    /// Sends the keys of one session to another address, on behalf of a client.
    async fn correct_email(&self, session: &str, email: &str, client: IpAddr) -> Result<(), Refused>;

    /// Has a link to the portal mailed, if the address is known.
    async fn request_portal_link(&self, email: &str, client: IpAddr) -> Result<(), Refused>;

    /// Spends a link, and tells what it opens.
    async fn open_portal(&self, link: &Token, client: IpAddr) -> Result<Portal, Refused>;

    /// Spends an opened portal's action on another mail.
    async fn resend_portal_key(
        &self,
        action: &Token,
        grant: &GrantId,
        client: IpAddr,
    ) -> Result<(Resent, Portal), Refused>;

    /// Whether the server can be asked now.
    async fn ready(&self) -> bool;
}

/// The server in the same process.
#[async_trait]
impl Backend for Fulfillment {
    async fn record(&self, body: Bytes, verified: Mode) -> Result<Answer, Error> {
        match Fulfillment::record(self, body, verified).await {
            Ok((_, answer)) => Ok(answer),
            Err(RecordError::NotAnEvent(error)) => Err(Error::NotAnEvent(error.to_string())),
            Err(RecordError::Store(error)) => Err(Error::Unavailable(error.to_string())),
        }
    }

    async fn page(&self, session: &str) -> Result<(Page, bool), Error> {
        let page =
            Fulfillment::page(self, session).await.map_err(|error| Error::Unavailable(error.to_string()))?;
        Ok((page, self.mail_enabled()))
    }

    async fn checkout(&self, wish: Wish) -> Result<String, checkout::Error> {
        self.till().open(&wish).await
    }

    async fn correct_email(&self, session: &str, email: &str, client: IpAddr) -> Result<(), Refused> {
        Fulfillment::correct_email(self, session, email, client).await
    }

    async fn request_portal_link(&self, email: &str, client: IpAddr) -> Result<(), Refused> {
        Fulfillment::request_portal_link(self, email, client).await
    }

    async fn open_portal(&self, link: &Token, client: IpAddr) -> Result<Portal, Refused> {
        Fulfillment::open_portal(self, link, client).await
    }

    async fn resend_portal_key(
        &self,
        action: &Token,
        grant: &GrantId,
        client: IpAddr,
    ) -> Result<(Resent, Portal), Refused> {
        Fulfillment::resend_portal_key(self, action, grant, client).await
    }

    async fn ready(&self) -> bool {
        self.store().check().await.is_ok()
    }
}

/// The server behind gRPC.
#[derive(Debug, Clone)]
pub struct Remote {
    channel: Arc<ArcSwap<Channel>>,
    tokens: Arc<ArcSwap<TokenFile>>,
}

impl Remote {
    /// A client that connects when first asked.
    pub fn new(channel: Arc<ArcSwap<Channel>>, tokens: Arc<ArcSwap<TokenFile>>) -> Self {
        Self { channel, tokens }
    }

    fn channel(&self) -> Channel {
        Channel::clone(&self.channel.load())
    }

    /// A client of the storefront, and a request with its token and deadline.
    fn storefront<T>(
        &self,
        message: T,
    ) -> Result<(StorefrontServiceClient<Channel>, tonic::Request<T>), Error> {
        let mut request = self.request(Role::Storefront, message)?;
        request.set_timeout(RETRY_FOR);
        Ok((StorefrontServiceClient::new(self.channel()), request))
    }

    fn request<T>(&self, role: Role, message: T) -> Result<tonic::Request<T>, Error> {
        self.tokens.load().authorize(role, message).map_err(|error| Error::Unavailable(error.to_string()))
    }
}

#[async_trait]
impl Backend for Remote {
    async fn record(&self, body: Bytes, verified: Mode) -> Result<Answer, Error> {
        let deadline = tokio::time::Instant::now() + RETRY_FOR;
        let mut pause = Duration::from_millis(50);
        loop {
            let message =
                pb::RecordEventRequest { payload: body.to_vec(), verified_mode: mode(verified).into() };
            let mut request = self.request(Role::Ingest, message)?;
            request.set_timeout(RETRY_FOR);
            let mut client = client(self.channel());
            match tokio::time::timeout_at(deadline, client.record_event(request)).await {
                Ok(Ok(response)) => return Ok(answer(response.into_inner())),
                Ok(Err(status)) if status.code() == Code::InvalidArgument => {
                    return Err(Error::NotAnEvent(status.message().to_owned()));
                }
                Ok(Err(status)) if passes(&status) && tokio::time::Instant::now() + pause < deadline => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(1));
                }
                Ok(Err(status)) => return Err(unavailable(&status)),
                Err(_) => return Err(Error::Unavailable("the server did not answer in time".to_owned())),
            }
        }
    }

    async fn page(&self, session: &str) -> Result<(Page, bool), Error> {
        // What names no purchase whatever the record holds is not worth a call.
        if !matches!(PurchaseId::parse(session), Ok(PurchaseId::Session(_))) {
            return Ok((Page::NotFound, false));
        }
        let message = pb::GetPurchasePageRequest { session_id: session.to_owned() };
        let (mut storefront, request) = self.storefront(message)?;
        match storefront.get_purchase_page(request).await {
            Ok(response) => Ok(page(response.into_inner())),
            Err(status) if status.code() == Code::NotFound => Ok((Page::NotFound, false)),
            Err(status) => Err(unavailable(&status)),
        }
    }

    async fn checkout(&self, wish: Wish) -> Result<String, checkout::Error> {
        let message = pb::CreateCheckoutSessionRequest {
            plan: wish.plan.unwrap_or_default(),
            quantity: Some(wish.quantity),
            email: wish.email.unwrap_or_default(),
            request_id: wish.request_id.unwrap_or_default(),
        };
        let request = self.request(Role::Storefront, message);
        let mut request = request.map_err(|_| checkout::Error::Unavailable)?;
        request.set_timeout(checkout::WITHIN + Duration::from_secs(2));
        let mut client = pb::storefront_service_client::StorefrontServiceClient::new(self.channel());
        match client.create_checkout_session(request).await {
            Ok(response) => Ok(response.into_inner().url),
            Err(status) => Err(no_checkout(&status)),
        }
    }

    async fn correct_email(&self, session: &str, email: &str, client: IpAddr) -> Result<(), Refused> {
        let message = pb::CorrectPurchaseEmailRequest {
            session_id: session.to_owned(),
            email: email.to_owned(),
            client_address: client.to_string(),
        };
        let (mut storefront, request) = self.storefront(message)?;
        storefront.correct_purchase_email(request).await.map_err(|status| portal::refused(&status))?;
        Ok(())
    }

    async fn request_portal_link(&self, email: &str, client: IpAddr) -> Result<(), Refused> {
        let message =
            pb::RequestPortalLinkRequest { email: email.to_owned(), client_address: client.to_string() };
        let (mut storefront, request) = self.storefront(message)?;
        storefront.request_portal_link(request).await.map_err(|status| portal::refused(&status))?;
        Ok(())
    }

    async fn open_portal(&self, link: &Token, client: IpAddr) -> Result<Portal, Refused> {
        let message =
            pb::OpenPortalRequest { token: link.expose().to_owned(), client_address: client.to_string() };
        let (mut storefront, request) = self.storefront(message)?;
        let opened = storefront.open_portal(request).await.map_err(|status| portal::refused(&status))?;
        portal::portal(opened.into_inner())
    }

    async fn resend_portal_key(
        &self,
        action: &Token,
        grant: &GrantId,
        client: IpAddr,
    ) -> Result<(Resent, Portal), Refused> {
        let message = pb::ResendPortalKeyRequest {
            action_token: action.expose().to_owned(),
            license_grant: grant_name(grant),
            client_address: client.to_string(),
        };
        let (mut storefront, request) = self.storefront(message)?;
        let answer = storefront.resend_portal_key(request).await;
        portal::resent(answer.map_err(|status| portal::refused(&status))?.into_inner())
    }

    async fn ready(&self) -> bool {
        let mut client = tonic_health::pb::health_client::HealthClient::new(self.channel());
        let mut request = tonic::Request::new(tonic_health::pb::HealthCheckRequest::default());
        request.set_timeout(Duration::from_secs(2));
        client.check(request).await.is_ok_and(|response| {
            response.into_inner().status() == tonic_health::pb::health_check_response::ServingStatus::Serving
        })
    }
}

/// A body of 1 MiB and its frame must pass.
fn client(channel: Channel) -> pb::event_service_client::EventServiceClient<Channel> {
    pb::event_service_client::EventServiceClient::new(channel).max_encoding_message_size(4 << 20)
}

/// Whether the same again may go better: the server says so, or it said nothing because the connection broke, which tonic
/// calls `Unknown` or `Cancelled`. Whatever was recorded before that makes the repetition a duplicate.
fn passes(status: &tonic::Status) -> bool {
    status.code() == Code::Unavailable || std::error::Error::source(status).is_some()
}

fn unavailable(status: &tonic::Status) -> Error {
    let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
    tracing::warn!(code = ?status.code(), reason, message = status.message(), "the server");
    Error::Unavailable(format!("the server answered {:?}", status.code()))
}

/// What the server said in gRPC's words (`grpc::storefront`).
fn no_checkout(status: &tonic::Status) -> checkout::Error {
    let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
    match status.code() {
        Code::NotFound => checkout::Error::NoCatalog,
        Code::FailedPrecondition if reason == Reason::NeedsStripeKey.as_upper_snake() => {
            checkout::Error::EventsOnly
        }
        Code::FailedPrecondition => checkout::Error::Refused,
        Code::InvalidArgument => checkout::Error::Wrong(status.message().to_owned()),
        Code::AlreadyExists => checkout::Error::KeyReused,
        Code::ResourceExhausted => checkout::Error::Busy,
        _ => {
            unavailable(status);
            checkout::Error::Unavailable
        }
    }
}

const fn mode(mode: Mode) -> pb::Mode {
    match mode {
        Mode::Live => pb::Mode::Live,
        Mode::Test => pb::Mode::Test,
    }
}

fn answer(response: pb::RecordEventResponse) -> Answer {
    use pb::record_event_response::Outcome as Told;
    let outcome = match response.outcome() {
        Told::Duplicate => Outcome::Duplicate,
        Told::Ignored => Outcome::Ignored,
        Told::Recorded | Told::Unspecified => Outcome::Recorded,
    };
    let reason = response.reason.parse::<Reason>().ok();
    Answer { outcome, reason, fix: Some(response.fix).filter(|fix| !fix.is_empty()) }
}

fn page(response: pb::GetPurchasePageResponse) -> (Page, bool) {
    let (status, mail) = (response.status(), response.mail_enabled);
    (shown(status, response.licenses, response.masked_email), mail)
}

fn shown(status: Status, licenses: Vec<pb::PageLicense>, masked_email: String) -> Page {
    match status {
        Status::Ready => Page::Ready {
            licenses: licenses.into_iter().filter_map(license).collect(),
            masked_email: Some(masked_email).filter(|email| !email.is_empty()),
        },
        Status::Pending | Status::Unspecified => Page::Pending,
        Status::PaymentPending => Page::PaymentPending,
        Status::Ended => Page::Ended,
    }
}

fn license(license: pb::PageLicense) -> Option<PageLicense> {
    let slots = u8::try_from(license.max_hwid_slots).ok().filter(|slots| *slots > 0);
    Some(PageLicense {
        name: license.name,
        key: LicenseKey::new(license.license_key),
        app_id: AppId::parse(&license.app_id)?,
        expires_at: license.expire_time.and_then(timestamp),
        slots: slots.map_or(Slots::Unlimited, Slots::Limited),
    })
}
