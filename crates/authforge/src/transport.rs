//! One request, one answer: nothing is retried, redirected or unpacked beneath.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use grantsmith_core::LicenseKey;
use grantsmith_core::port::{ApiError, Clock, Now};
use http::{HeaderMap, HeaderValue, Method, header};
use jiff::fmt::rfc2822::DateTimeParser;
use jiff::{SignedDuration, Timestamp};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tracing::Instrument as _;
use url::Url;

use crate::error::{Call, Error, known_code};
use crate::key::ApiKey;
use crate::scheduler::{Ticket, Verdict};

/// No answer of the API is near this; what is longer is not read further.
const LONGEST_BODY: usize = 8 << 20;

/// Why no HTTP client could be built.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// A certificate of the CA file cannot be read.
    #[error("could not read the further root certificates")]
    Root(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The CA file holds none.
    #[error("could not find a certificate in the file; it is to hold PEM, -----BEGIN CERTIFICATE-----")]
    NoRoot,
    /// The TLS library refuses its settings.
    #[error("could not set up TLS")]
    Tls(#[source] rustls::Error),
    /// The HTTP library refuses its settings.
    #[error("could not set up HTTP")]
    Http(#[source] reqwest::Error),
}

/// Reads the certificates of a CA file (PEM).
pub fn roots_from_pem(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, HttpError> {
    let roots: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| HttpError::Root(Box::new(error)))?;
    if roots.is_empty() { Err(HttpError::NoRoot) } else { Ok(roots) }
}

/// Builds the HTTP client that [`crate::Client`] is given.
///
/// It trusts the embedded Mozilla roots and `extra_roots`, never the platform's store, which a scratch image lacks. It
/// follows no redirect and repeats nothing: a create that was sent twice would be two licenses.
pub fn http_client(extra_roots: &[CertificateDer<'static>]) -> Result<reqwest::Client, HttpError> {
    let mut roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    for root in extra_roots {
        roots.add(root.clone()).map_err(|error| HttpError::Root(Box::new(error)))?;
    }
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(HttpError::Tls)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .connect_timeout(Duration::from_secs(5))
        // Well before any gateway closes an idle connection: a create that meets the closing is of unknown outcome.
        .pool_idle_timeout(Duration::from_secs(15))
        .user_agent(concat!("grantsmith/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(HttpError::Http)
}

/// What to send.
#[derive(Default)]
pub(crate) struct Request<'a> {
    pub(crate) key: Option<&'a LicenseKey>,
    pub(crate) query: Vec<(&'static str, &'a str)>,
    pub(crate) body: Option<Vec<u8>>,
}

/// A successful answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

/// Sends requests and hears the time from the answers.
pub(crate) struct Transport {
    http: reqwest::Client,
    base: Url,
    timeout: Duration,
    clock: Arc<dyn Clock>,
    /// AuthForge's clock minus ours, in milliseconds.
    offset: AtomicI64,
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl Transport {
    pub(crate) fn new(http: reqwest::Client, base: Url, timeout: Duration, clock: Arc<dyn Clock>) -> Self {
        Self { http, base, timeout, clock, offset: AtomicI64::new(0) }
    }

    pub(crate) fn clock_offset(&self) -> SignedDuration {
        SignedDuration::from_millis(self.offset.load(Ordering::Relaxed))
    }

    /// What time it is at AuthForge, as well as we know.
    pub(crate) fn their_time(&self) -> Timestamp {
        let ours = self.clock.now().wall;
        ours.checked_add(self.clock_offset()).unwrap_or(ours)
    }

    /// Sends one request with a ticket's right, and reports to the scheduler what came back.
    pub(crate) async fn call(
        &self,
        mut ticket: Ticket,
        call: Call,
        request: Request<'_>,
    ) -> Result<Answer, Failure> {
        let url = match self.url(request.key) {
            Ok(url) => url,
            Err(error) => return Err(Failure { call, error }),
        };
        let span =
            tracing::debug_span!("authforge.call", http.route = call.route(), http.method = %method(call));
        async {
            let (sent, key) = ticket.send();
            let result = self.exchange(sent, &key, url, call, request).await;
            let verdict = match &result {
                Ok(_) => Verdict::DONE,
                Err(error) => {
                    let ApiError { class, retry_after, .. } = error.to_api(call);
                    Verdict { class: Some(class), answered: error.was_answered(), retry_after }
                }
            };
            let took = self.clock.now().moment.since(sent.moment);
            tracing::debug!(class = ?verdict.class, took.ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX), "called");
            ticket.report(verdict);
            result.map_err(|error| Failure { call, error })
        }
        .instrument(span)
        .await
    }

    /// `/v1/licenses` below the base, and a key below that, escaped.
    fn url(&self, key: Option<&LicenseKey>) -> Result<Url, Error> {
        let mut url = self.base.clone();
        {
            let mut path = url.path_segments_mut().map_err(|()| Error::Unsendable)?;
            path.pop_if_empty().extend(["v1", "licenses"]);
            if let Some(key) = key {
                // A path drops these instead of escaping them, and the call would go to the collection.
                if matches!(key.expose(), "" | "." | "..") {
                    return Err(Error::Unsendable);
                }
                path.push(key.expose());
            }
        }
        Ok(url)
    }

    async fn exchange(
        &self,
        sent: Now,
        key: &ApiKey,
        url: Url,
        call: Call,
        request: Request<'_>,
    ) -> Result<Answer, Error> {
        let mut bearer = HeaderValue::try_from(format!("Bearer {}", key.expose())).map_err(|_| Error::Key)?;
        bearer.set_sensitive(true);
        let mut builder =
            self.http.request(method(call), url).timeout(self.timeout).header(header::AUTHORIZATION, bearer);
        if !request.query.is_empty() {
            builder = builder.query(&request.query);
        }
        if let Some(body) = request.body {
            builder = builder.header(header::CONTENT_TYPE, "application/json").body(body);
        }
        let response = builder.send().await.map_err(Error::of_transport)?;
        self.hear_time(sent, response.headers());
        let status = response.status().as_u16();
        let retry_after = self.retry_after(response.headers());
        let body = read_body(response, status).await;
        if (200..300).contains(&status) {
            return Ok(Answer { status, body: body? });
        }
        let code = body.ok().and_then(|body| error_code(&body));
        Err(Error::Status { status, code, retry_after })
    }

    /// The answer's date has seconds only, so it is half a second behind on average; and it was written on half the way.
    fn hear_time(&self, sent: Now, headers: &HeaderMap) {
        let Some(theirs) = headers.get(header::DATE).and_then(http_date) else { return };
        let way = self.clock.now().moment.since(sent.moment) / 2;
        let (Ok(way), Ok(theirs)) =
            (SignedDuration::try_from(way), theirs.checked_add(SignedDuration::from_millis(500)))
        else {
            return;
        };
        let offset = theirs.duration_since(sent.wall).saturating_sub(way);
        self.offset.store(i64::try_from(offset.as_millis()).unwrap_or(0), Ordering::Relaxed);
    }

    /// `Retry-After`, in either of its forms.
    fn retry_after(&self, headers: &HeaderMap) -> Option<Duration> {
        let value = headers.get(header::RETRY_AFTER)?;
        if let Some(seconds) = value.to_str().ok().and_then(|text| text.trim().parse().ok()) {
            return Some(Duration::from_secs(seconds));
        }
        // By their clock, as the date is theirs.
        let wait = http_date(value)?.duration_since(self.their_time());
        Some(Duration::try_from(wait).unwrap_or(Duration::ZERO))
    }
}

/// A failed call, before it is told to the port's user.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) call: Call,
    pub(crate) error: Error,
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        failure.error.to_api(failure.call)
    }
}

fn method(call: Call) -> Method {
    match call {
        Call::Create => Method::POST,
        Call::List | Call::Get => Method::GET,
        Call::Put | Call::Reset => Method::PUT,
    }
}

fn http_date(value: &HeaderValue) -> Option<Timestamp> {
    DateTimeParser::new().parse_timestamp(value.to_str().ok()?).ok()
}

async fn read_body(mut response: reqwest::Response, status: u16) -> Result<Vec<u8>, Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(Error::of_transport)? {
        if body.len() + chunk.len() > LONGEST_BODY {
            return Err(Error::Unreadable { status, why: "it is too long" });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn error_code(body: &[u8]) -> Option<&'static str> {
    let value: serde_json::Value = serde_json::from_slice(body).ok()?;
    known_code(value.get("error")?.as_str()?)
}
