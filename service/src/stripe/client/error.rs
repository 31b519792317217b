//! What a failed request means for what is done next.

use std::fmt;
use std::time::Duration;

use grantsmith_core::Reason;
use http::StatusCode;
use serde_json::Value;

use super::retry;

/// Why Stripe did not tell. It never carries the key, nor anything of a body but Stripe's own error code.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Stripe has no such object: it is of the other mode, of another account, or was removed.
    #[error("Stripe has no such object ({answer}); check that its mode and account are those of the API key")]
    Gone {
        /// What came back.
        answer: Answer,
    },
    /// Stripe does not accept the key, or the key lacks a permission.
    #[error("Stripe does not accept the API key ({answer}); check the key and its permissions")]
    Unauthorized {
        /// What came back.
        answer: Answer,
    },
    /// Slower, please.
    #[error("Stripe asks for a slower pace ({answer})")]
    RateLimited {
        /// How long to leave Stripe alone.
        retry_after: Duration,
        /// What came back.
        answer: Answer,
    },
    /// Stripe refuses the request as it stands.
    #[error("Stripe refuses the request ({answer})")]
    Rejected {
        /// What came back.
        answer: Answer,
    },
    /// Stripe, or something between, failed.
    #[error("Stripe failed to answer ({answer})")]
    Unavailable {
        /// What came back.
        answer: Answer,
    },
    /// No whole answer came.
    #[error("Stripe cannot be reached")]
    Lost {
        /// Why not.
        source: reqwest::Error,
    },
    /// An answer came that is none of Stripe's documented ones.
    #[error("Stripe answered with {what}; look for a proxy in between")]
    Odd {
        /// What it was.
        what: &'static str,
    },
}

impl Error {
    pub(super) fn odd(what: &'static str) -> Self {
        Self::Odd { what }
    }

    /// Whether the same request may go better later, without anybody's doing.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::RateLimited { .. } | Self::Unavailable { .. } | Self::Lost { .. } | Self::Odd { .. } => {
                true
            }
            Self::Gone { .. } | Self::Unauthorized { .. } | Self::Rejected { .. } => false,
        }
    }

    /// Whether the idempotency key belongs to another request, or to one that is still under way.
    pub fn is_key_reused(&self) -> bool {
        match self {
            Self::Rejected { answer } | Self::Unavailable { answer } => answer.idempotency,
            Self::Gone { .. }
            | Self::Unauthorized { .. }
            | Self::RateLimited { .. }
            | Self::Lost { .. }
            | Self::Odd { .. } => false,
        }
    }

    /// The reason to wait or park under.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Gone { .. } => Reason::ObjectGone,
            Self::Unauthorized { .. }
            | Self::RateLimited { .. }
            | Self::Rejected { .. }
            | Self::Unavailable { .. }
            | Self::Lost { .. }
            | Self::Odd { .. } => Reason::StripeUnavailable,
        }
    }
}

/// What is kept of an answer for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: StatusCode,
    /// Stripe's word for the error, such as `resource_missing`.
    pub code: Option<String>,
    /// `Request-Id`, by which Stripe's support finds the request.
    pub request_id: Option<String>,
    /// Stripe's `idempotency_error`.
    idempotency: bool,
    should_retry: Option<bool>,
    retry_after: Option<Duration>,
}

impl Answer {
    pub(super) fn of(response: &reqwest::Response) -> Self {
        let header = |name: &str| response.headers().get(name)?.to_str().ok();
        Self {
            status: response.status(),
            code: None,
            idempotency: false,
            request_id: header("request-id").and_then(word),
            should_retry: header("stripe-should-retry").and_then(|text| text.parse().ok()),
            retry_after: header("retry-after").and_then(|text| text.parse().ok()).map(Duration::from_secs),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status.as_u16())?;
        for part in [&self.code, &self.request_id].into_iter().flatten() {
            write!(f, ", {part}")?;
        }
        Ok(())
    }
}

/// A short plain word, or nothing: what is printed must not be of the sender's choosing.
fn word(text: &str) -> Option<String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    ((1..=64).contains(&text.len()) && text.bytes().all(plain)).then(|| text.to_owned())
}

/// A failed request, and whether to repeat it at once.
pub(super) struct Failure {
    pub(super) error: Error,
    pub(super) repeat: bool,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::of(error)
    }
}

impl Failure {
    pub(super) fn of(error: Error) -> Self {
        Self { error, repeat: false }
    }

    /// The connection failed. The address is left out: it names the purchase, and the log has it already.
    pub(super) fn lost(source: reqwest::Error) -> Self {
        Self { error: Error::Lost { source: source.without_url() }, repeat: true }
    }

    pub(super) fn refused(mut answer: Answer, body: Option<&Value>) -> Self {
        /// Stripe names no pause; its limits are per second.
        const PAUSE: Duration = Duration::from_secs(1);
        /// A longer one would hold up purchases on the word of whoever stands between.
        const LONGEST_PAUSE: Duration = Duration::from_secs(60);
        answer.idempotency = body.is_some_and(|body| body["error"]["type"] == "idempotency_error");
        answer.code = body.and_then(|body| body["error"]["code"].as_str()).and_then(word);
        let repeat = retry::repeats(answer.status.as_u16(), answer.should_retry);
        let throttled = answer.code.as_deref() == Some("rate_limit");
        let error = match answer.status.as_u16() {
            404 if answer.code.as_deref() == Some("resource_missing") => Error::Gone { answer },
            401 | 403 => Error::Unauthorized { answer },
            status if status == 429 || (status == 400 && throttled) => {
                let retry_after = answer.retry_after.unwrap_or(PAUSE).min(LONGEST_PAUSE);
                Error::RateLimited { retry_after, answer }
            }
            // Stripe never redirects: that is somebody in between, who may go away again.
            ..=399 | 409 | 500.. => Error::Unavailable { answer },
            _ => Error::Rejected { answer },
        };
        Self { error, repeat }
    }
}
