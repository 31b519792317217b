//! `POST /webhooks/stripe`: verify the raw bytes, have them recorded, answer. Nothing else happens before the answer.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use metrics::{counter, histogram};
use serde_json::json;
use tracing::Instrument;

use super::{LARGEST_BODY, Web};
use crate::backend;
use crate::ingest::Answer;
use crate::stripe::signature;

/// A body that has not arrived whole by then is cut off.
const BODY_WITHIN: Duration = Duration::from_secs(30);
/// How long Stripe is asked to wait; it keeps its own schedule, proxies and people read it.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("10");

/// Why a delivery was not recorded.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the body is larger than {LARGEST_BODY} bytes")]
    TooLarge,
    #[error("the body did not arrive within {} seconds", BODY_WITHIN.as_secs())]
    TooSlow,
    #[error("the body broke off")]
    BrokenOff,
    /// One body for every kind of bad signature: the difference helps only whoever forges them.
    #[error(
        "the signature does not match; check that the endpoint's signing secret is this installation's and that nothing in between changes the body"
    )]
    Signature(#[source] signature::Error),
    #[error("{0}")]
    NotAnEvent(String),
    #[error("the event could not be recorded; send it again")]
    Unavailable(#[source] backend::Error),
}

impl Error {
    const fn status(&self) -> StatusCode {
        match self {
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::BrokenOff | Self::Signature(_) | Self::NotAnEvent(_) => StatusCode::BAD_REQUEST,
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        match &self {
            Self::Signature(cause) => tracing::warn!(%cause, "refused: the signature"),
            Self::Unavailable(cause) => tracing::warn!(%cause, "not recorded"),
            Self::TooLarge | Self::TooSlow | Self::BrokenOff | Self::NotAnEvent(_) => {
                tracing::warn!(error = %self, "refused");
            }
        }
        let mut response = (self.status(), axum::Json(json!({ "error": self.to_string() }))).into_response();
        if matches!(self, Self::Unavailable(_)) {
            response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        response
    }
}

/// Takes one delivery.
pub(super) async fn receive(State(web): State<Web>, request: Request) -> Response {
    let begun = tokio::time::Instant::now();
    let response = match take(&web, request).instrument(tracing::debug_span!("hook")).await {
        Ok(answer) => spell(answer),
        Err(error) => error.into_response(),
    };
    let status = response.status().as_u16().to_string();
    counter!("grantsmith_hook_requests_total", "status" => status).increment(1);
    histogram!("grantsmith_hook_seconds").record(begun.elapsed().as_secs_f64());
    response
}

async fn take(web: &Web, request: Request) -> Result<Answer, Error> {
    let (parts, body) = request.into_parts();
    let body = tokio::time::timeout(BODY_WITHIN, read(body)).await.map_err(|_| Error::TooSlow)??;
    let now = web.clock.now().wall;
    let mode = {
        let mut headers = parts.headers.get_all("stripe-signature").iter();
        // Two headers would be two signatures to choose from.
        let (header, second) = (headers.next(), headers.next());
        let header = header.filter(|_| second.is_none()).map(HeaderValue::as_bytes).unwrap_or_default();
        let secrets = web.secrets.load();
        signature::verify(header, &body, secrets.as_slice(), web.tolerance, now)
            .map_err(Error::Signature)?
            .mode
    };
    web.backend.record(body, mode).await.map_err(|error| match error {
        backend::Error::NotAnEvent(text) => Error::NotAnEvent(text),
        error @ backend::Error::Unavailable(_) => Error::Unavailable(error),
    })
}

async fn read(mut body: Body) -> Result<Bytes, Error> {
    match Limited::new(&mut body, LARGEST_BODY).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.downcast_ref::<LengthLimitError>().is_some() => {
            pour_away(body).await;
            Err(Error::TooLarge)
        }
        Err(_) => Err(Error::BrokenOff),
    }
}

/// So much of a body that is too large is read and let go.
const POURED_AWAY: usize = 16 * LARGEST_BODY;

/// Reads on for a while: whoever is still sending would meet a closed connection, and never read the answer.
async fn pour_away(body: Body) {
    let mut rest = Limited::new(body, POURED_AWAY);
    while let Some(Ok(_)) = rest.frame().await {}
}

/// The answer that the seller reads in Stripe's delivery log.
fn spell(answer: Answer) -> Response {
    let mut body = serde_json::Map::new();
    body.insert("outcome".to_owned(), answer.outcome.as_str().into());
    if let Some(reason) = answer.reason {
        body.insert("reason".to_owned(), reason.as_str().into());
    }
    if let Some(fix) = answer.fix {
        body.insert("fix".to_owned(), fix.into());
    }
    axum::Json(serde_json::Value::Object(body)).into_response()
}
