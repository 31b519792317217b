//! Errors as callers get them: a code, a text that says what to do, and `google.rpc.ErrorInfo` with a reason.

use std::collections::HashMap;
use std::time::Duration;

use grantsmith_core::Reason;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// The domain of every `ErrorInfo`.
pub const DOMAIN: &str = "grantsmith.dev";

/// An error with a reason of the one enum.
pub fn because(code: Code, reason: Reason, text: impl Into<String>) -> Status {
    with(code, reason.as_upper_snake(), text, None)
}

/// An error that passes by itself, with the time after which to ask again.
pub fn later(reason: Reason, text: impl Into<String>, after: Duration) -> Status {
    with(Code::FailedPrecondition, reason.as_upper_snake(), text, Some(after))
}

/// An error of the call itself, which no grant can be in.
pub fn plain(code: Code, reason: &str, text: impl Into<String>) -> Status {
    with(code, reason, text, None)
}

/// Asked for too often, with the time after which to ask again.
pub fn too_many(text: impl Into<String>, after: Duration) -> Status {
    with(Code::ResourceExhausted, Reason::RateLimited.as_upper_snake(), text, Some(after))
}

/// The record cannot be had: the one error that callers retry.
pub fn store(error: &dyn std::error::Error) -> Status {
    tracing::warn!(%error, "a call failed");
    with(Code::Unavailable, "STORE_UNAVAILABLE", error.to_string(), Some(Duration::from_secs(1)))
}

/// Nothing has that name.
pub fn not_found(what: &str, name: &str) -> Status {
    plain(Code::NotFound, "NOT_FOUND", format!("no {what} is called '{name}'; list them to see their names"))
}

/// The reference names a grant already.
pub fn exists(grant: &str) -> Status {
    let metadata = HashMap::from([("license_grant".to_owned(), grant.to_owned())]);
    let text = format!("the reference names {grant} already; read that, or choose another reference");
    let details = ErrorDetails::with_error_info("ALREADY_EXISTS", DOMAIN, metadata);
    Status::with_error_details(Code::AlreadyExists, text, details)
}

fn with(code: Code, reason: &str, text: impl Into<String>, retry: Option<Duration>) -> Status {
    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
    if retry.is_some() {
        details.set_retry_info(retry);
    }
    Status::with_error_details(code, text, details)
}
