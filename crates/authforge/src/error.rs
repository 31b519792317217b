//! From what came back to what it means.

use std::time::Duration;

use grantsmith_core::port::{ApiError, Class};

/// No `Retry-After` is believed beyond this.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(600);
/// Nor beyond this where the service is not there: what waits goes on within a minute of its return.
const LONGEST_OUTAGE_WAIT: Duration = Duration::from_secs(60);

/// The calls of the API that we make, by what may be said of them: no key stands in a route template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Create,
    List,
    Get,
    Put,
    /// `reset-hwid`: repeating it does harm later, so a lost answer stays unknown.
    Reset,
}

impl Call {
    /// The route template, for traces.
    pub(crate) fn route(self) -> &'static str {
        match self {
            Self::Create | Self::List => "/v1/licenses",
            Self::Get | Self::Put | Self::Reset => "/v1/licenses/:licenseKey",
        }
    }

    fn verb(self) -> &'static str {
        match self {
            Self::Create => "create a license",
            Self::List => "list licenses",
            Self::Get => "read a license",
            Self::Put => "change a license",
            Self::Reset => "reset a license's devices",
        }
    }

    /// What a failure means that may have come after the effect: only a call that is safe to repeat had "none".
    fn in_doubt(self) -> Class {
        match self {
            Self::Create | Self::Reset => Class::OutcomeUnknown,
            Self::List | Self::Get | Self::Put => Class::Transient,
        }
    }
}

/// Why a call failed. Neither URLs nor bodies are kept: license keys stand in both.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("no connection: {0}")]
    Connect(String),
    #[error("the answer did not come: {0}")]
    Lost(String),
    #[error("AuthForge answered {status}{}", code.map(|code| format!(" {code}")).unwrap_or_default())]
    Status { status: u16, code: Option<&'static str>, retry_after: Option<Duration> },
    #[error("AuthForge answered {status} with a body that cannot be used: {why}")]
    Unreadable { status: u16, why: &'static str },
    #[error("the API key holds characters that cannot be sent")]
    Key,
    #[error("it would not be a valid request")]
    Unsendable,
    #[error("AuthForge answered that it is done, with a license that shows it is not")]
    NotDone,
}

impl Error {
    /// Reads a transport error, dropping its URL. Only the innermost cause is quoted: it comes from the socket, from TLS or
    /// from the HTTP parser, and knows nothing of the request.
    pub(crate) fn of_transport(error: reqwest::Error) -> Self {
        let error = error.without_url();
        let cause = if error.is_timeout() {
            "timed out".to_owned()
        } else {
            let mut cause: &dyn std::error::Error = &error;
            while let Some(inner) = cause.source() {
                cause = inner;
            }
            cause.to_string()
        };
        // `is_connect` covers name resolution, refusal and the TLS handshake: before all of these end, nothing was sent.
        if error.is_connect() {
            Self::Connect(cause)
        } else if error.is_builder() {
            Self::Unsendable
        } else {
            Self::Lost(cause)
        }
    }

    /// What it means for what may be done next. Decided on the status, never on the body: a gateway's answers carry others.
    pub(crate) fn class(&self, call: Call) -> Class {
        match self {
            Self::Connect(_) => Class::Transient,
            Self::Lost(_) | Self::Unreadable { .. } => call.in_doubt(),
            Self::Key => Class::Unauthorized,
            Self::Unsendable => Class::Rejected,
            Self::NotDone => Class::Refused,
            Self::Status { status, .. } => match status {
                401 => Class::Unauthorized,
                402 => Class::CreditsExhausted,
                429 => Class::RateLimited,
                // A gateway's words for "I do not know what became of it" stand among the refusals.
                408 | 409 | 425 | 499 => call.in_doubt(),
                300..=499 => Class::Rejected,
                _ => call.in_doubt(),
            },
        }
    }

    /// Whether there is no such license, in the documented words (AuthForge, errors).
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::Status { status: 404, code: Some("not_found"), .. })
    }

    /// Whether the service itself refused the request as it stands, which a look at the license may yet explain.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Self::Status { status: 400 | 405..=428, .. } if self.class(Call::Put) == Class::Rejected)
    }

    /// Whether an answer came, whatever it said.
    pub(crate) fn was_answered(&self) -> bool {
        matches!(self, Self::Status { .. } | Self::Unreadable { .. } | Self::NotDone)
    }

    /// The server's wish, as far as it may be meant: a buyer waits, and a slip must not silence us for a day.
    fn retry_after(&self, class: Class) -> Option<Duration> {
        let longest = if class == Class::RateLimited { LONGEST_WAIT } else { LONGEST_OUTAGE_WAIT };
        match self {
            Self::Status { retry_after, .. } => {
                retry_after.filter(|wait| !wait.is_zero()).map(|wait| wait.min(longest))
            }
            _ => None,
        }
    }

    /// The error as the port tells it.
    pub(crate) fn to_api(&self, call: Call) -> ApiError {
        let class = self.class(call);
        ApiError {
            class,
            retry_after: self.retry_after(class),
            detail: format!("could not {}: {self}", call.verb()),
        }
    }
}

/// The documented error codes; anything else in a body is not repeated, as it might quote the key.
pub(crate) fn known_code(text: &str) -> Option<&'static str> {
    const CODES: [&str; 7] = [
        "bad_request",
        "invalid_api_key",
        "no_credits",
        "forbidden",
        "not_found",
        "rate_limited",
        "internal_error",
    ];
    CODES.into_iter().find(|code| *code == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(status: u16, call: Call) -> Class {
        Error::Status { status, code: None, retry_after: None }.class(call)
    }

    #[test]
    fn a_create_is_in_doubt_unless_the_status_says_refused() {
        for status in [400, 403, 404, 301, 307, 422] {
            assert_eq!(class(status, Call::Create), Class::Rejected, "{status}");
        }
        for status in [408, 409, 499, 500, 502, 503, 504, 599] {
            assert_eq!(class(status, Call::Create), Class::OutcomeUnknown, "{status}");
        }
        assert_eq!(class(401, Call::Create), Class::Unauthorized);
        assert_eq!(class(402, Call::Create), Class::CreditsExhausted);
        assert_eq!(class(429, Call::Create), Class::RateLimited);
    }

    #[test]
    fn a_repeatable_call_is_never_in_doubt() {
        for status in [408, 500, 503] {
            for call in [Call::List, Call::Get, Call::Put] {
                assert_eq!(class(status, call), Class::Transient, "{status} {call:?}");
            }
        }
    }
}
