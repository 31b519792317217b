//! Errors as callers get them: a code, a text that says what to do, and `google.rpc.ErrorInfo` with a reason.

use std::collections::HashMap;
use std::time::Duration;

use grantsmith_core::Reason;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// The domain of every `ErrorInfo`.
pub const DOMAIN: &str = "grantsmith.dev";

/// Declares the enum once, so that wire form and list can never disagree.
macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident $upper:literal,)*) => {
        /// Why a call failed, where that is nothing a grant, event or mail can be in ([`Reason`] is for those). Each has a heading
        /// of its wire form in `deploy/README.md`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum CallReason { $($(#[$doc])* $name,)* }

        impl CallReason {
            /// Every reason, in the order of the runbook.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The name as `google.rpc.ErrorInfo` carries it, such as `BAD_ARGUMENT`.
            pub const fn as_upper_snake(self) -> &'static str {
                match self { $(Self::$name => $upper,)* }
            }
        }
    };
}

reasons! {
    /// The call carries no token.
    TokenMissing "TOKEN_MISSING",
    /// Its token is not in the server's file.
    TokenUnknown "TOKEN_UNKNOWN",
    /// The cluster, which knows whose service accounts' tokens are, cannot be asked now.
    TokenReviewUnavailable "TOKEN_REVIEW_UNAVAILABLE",
    /// Its token may do other things.
    RoleMissing "ROLE_MISSING",
    /// Something that it says cannot be; its text tells which, and what may stand there.
    BadArgument "BAD_ARGUMENT",
    /// No mail can be sent to the address.
    BadAddress "BAD_ADDRESS",
    /// Its request id came with another request.
    RequestIdReused "REQUEST_ID_REUSED",
    /// Nothing has that name.
    NotFound "NOT_FOUND",
    /// The grant has no license, or none of that name; or AuthForge has none with that key.
    NoLicense "NO_LICENSE",
    /// The reference names a grant already.
    AlreadyExists "ALREADY_EXISTS",
    /// Nothing is held that could be released.
    NothingHeld "NOTHING_HELD",
    /// The imported key and its purchase do not belong together.
    KeyMismatch "KEY_MISMATCH",
    /// The record cannot be read or written now.
    StoreUnavailable "STORE_UNAVAILABLE",
}

/// The longest text of an error, in characters. It is sent in headers, twice and encoded, and beyond 16 KiB of them the
/// connection is cut with all calls that share it.
const LONGEST: usize = 500;

/// An error with a reason of the one enum.
pub fn because(code: Code, reason: Reason, text: impl Into<String>) -> Status {
    with(code, reason.as_upper_snake(), text, None)
}

/// An error that passes by itself, with the time after which to ask again.
pub fn later(reason: Reason, text: impl Into<String>, after: Duration) -> Status {
    with(Code::FailedPrecondition, reason.as_upper_snake(), text, Some(after))
}

/// An error of the call itself, which no grant can be in.
pub fn plain(code: Code, reason: CallReason, text: impl Into<String>) -> Status {
    with(code, reason.as_upper_snake(), text, None)
}

/// Asked for too often, with the time after which to ask again.
pub fn too_many(text: impl Into<String>, after: Duration) -> Status {
    with(Code::ResourceExhausted, Reason::RateLimited.as_upper_snake(), text, Some(after))
}

/// The record cannot be had: the one error that callers retry.
pub fn store(error: &dyn std::error::Error) -> Status {
    tracing::warn!(%error, "a call failed");
    with(
        Code::Unavailable,
        CallReason::StoreUnavailable.as_upper_snake(),
        error.to_string(),
        Some(Duration::from_secs(1)),
    )
}

/// Nothing has that name.
pub fn not_found(what: &str, name: &str) -> Status {
    plain(
        Code::NotFound,
        CallReason::NotFound,
        format!("no {what} is called '{name}'; list them to see their names"),
    )
}

/// The reference names a grant already.
pub fn exists(grant: &str) -> Status {
    let metadata = HashMap::from([("license_grant".to_owned(), grant.to_owned())]);
    let text = format!("the reference names {grant} already; read that, or choose another reference");
    let details = ErrorDetails::with_error_info(CallReason::AlreadyExists.as_upper_snake(), DOMAIN, metadata);
    Status::with_error_details(Code::AlreadyExists, text, details)
}

fn with(code: Code, reason: &str, text: impl Into<String>, retry: Option<Duration>) -> Status {
    let mut text = text.into();
    // Callers' own words may stand in it.
    if let Some((end, _)) = text.char_indices().nth(LONGEST) {
        text.truncate(end);
        text.push('…');
    }
    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
    if retry.is_some() {
        details.set_retry_info(retry);
    }
    Status::with_error_details(code, text, details)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_fits_into_its_header_whatever_the_caller_wrote() {
        for name in ["x", "\"", "é", "🎉"] {
            let status = not_found("event", &name.repeat(60_000));
            let headers: http::HeaderMap = status.into_http::<()>().into_parts().0.headers;
            let size: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
            assert!(size < 12 << 10, "{size} bytes for '{name}'");
        }
        let short = not_found("event", "events/evt_1");
        assert_eq!(short.message(), "no event is called 'events/evt_1'; list them to see their names");
    }
}
