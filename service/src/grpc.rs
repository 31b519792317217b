//! The gRPC services over the server's use cases, with health and reflection on the same port.

pub mod accounts;
pub mod convert;
mod event;
mod filter;
mod grant;
mod hand;
mod import;
mod page_token;
pub mod status;
mod storefront;
pub mod tls;
pub mod tokens;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use grantsmith_proto::v1 as pb;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::Router;
use tonic::{Code, Request, Status};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::fulfillment::Fulfillment;
use accounts::Accounts;
use tls::Certificate;
use tokens::{Role, Tokens};

/// How often health is asked anew.
const HEALTH_EVERY: Duration = Duration::from_secs(1);

/// The services: the use cases, and who may call which.
#[derive(Debug, Clone)]
pub struct Services {
    fulfillment: Arc<Fulfillment>,
    tokens: Arc<ArcSwap<Tokens>>,
    accounts: Option<Arc<Accounts>>,
}

/// Why gRPC could not be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// TLS or the transport.
    #[error("gRPC cannot be served")]
    Transport(#[from] tonic::transport::Error),
    /// Reflection.
    #[error("the descriptors for reflection cannot be read")]
    Reflection(#[from] tonic_reflection::server::Error),
}

impl Services {
    /// The services over the use cases.
    pub fn new(
        fulfillment: Arc<Fulfillment>,
        tokens: Arc<ArcSwap<Tokens>>,
        accounts: Option<Arc<Accounts>>,
    ) -> Self {
        Self { fulfillment, tokens, accounts }
    }

    /// Lets a call pass whose token has the role; gives the name of the token, or of its service account.
    async fn allow<T>(&self, request: &Request<T>, role: Role) -> Result<String, Status> {
        let token = tokens::bearer(request.metadata())?;
        match (self.tokens.load().check(token, role), &self.accounts) {
            (Err(status), Some(accounts))
                if status.code() == Code::Unauthenticated && Accounts::may_know(token) =>
            {
                accounts.check(token, role).await
            }
            (answer, _) => answer,
        }
    }

    /// Serves until stopped.
    pub async fn serve(
        self,
        listener: TcpListener,
        certificate: Option<Certificate>,
        stop: CancellationToken,
    ) -> Result<(), Error> {
        let (router, stopped) = (self.router(&stop)?, stop.clone().cancelled_owned());
        match certificate {
            Some(certificate) => {
                let incoming = tls::incoming(listener, certificate, stop);
                router.serve_with_incoming_shutdown(incoming, stopped).await?;
            }
            None => router.serve_with_incoming_shutdown(TcpListenerStream::new(listener), stopped).await?,
        }
        Ok(())
    }

    /// Says over gRPC health what `/readyz` says: whether an event could be recorded durably now.
    async fn tell_health(self, reporter: HealthReporter) {
        let mut clock = tokio::time::interval(HEALTH_EVERY);
        loop {
            clock.tick().await;
            let status = match self.fulfillment.store().check().await {
                Ok(()) => ServingStatus::Serving,
                Err(_) => ServingStatus::NotServing,
            };
            for service in [
                "",
                pb::event_service_server::SERVICE_NAME,
                pb::license_grant_service_server::SERVICE_NAME,
                pb::storefront_service_server::SERVICE_NAME,
            ] {
                reporter.set_service_status(service, status).await;
            }
        }
    }

    fn router(self, stop: &CancellationToken) -> Result<Router, Error> {
        let (reporter, health_service) = tonic_health::server::health_reporter();
        tokio::spawn(stop.clone().run_until_cancelled_owned(self.clone().tell_health(reporter)));
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(pb::DESCRIPTOR)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()?;
        let mut server = Server::builder().tcp_nodelay(true);
        let events = pb::event_service_server::EventServiceServer::new(self.clone())
            .max_decoding_message_size(4 << 20);
        Ok(server
            .add_service(health_service)
            .add_service(reflection)
            .add_service(events)
            .add_service(pb::license_grant_service_server::LicenseGrantServiceServer::new(self.clone()))
            .add_service(pb::storefront_service_server::StorefrontServiceServer::new(self)))
    }
}
