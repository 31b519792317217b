//! The one enum of reasons, shared by SQL, gRPC, conditions, metrics and the runbook.

use std::fmt;
use std::str::FromStr;

/// Declares the enum once, so that name, wire form and list can never disagree.
macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident $upper:literal,)*) => {
        /// Why something stands as it does. Each has a heading of its name in `deploy/README.md`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason { $($(#[$doc])* $name,)* }

        impl Reason {
            /// Every reason, in the order of the runbook.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The name as conditions, tables and metric labels show it, such as `OutcomeUnknown`.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// The name as `google.rpc.ErrorInfo` carries it, such as `OUTCOME_UNKNOWN`.
            pub const fn as_upper_snake(self) -> &'static str {
                match self { $(Self::$name => $upper,)* }
            }
        }
    };
}

reasons! {
    /// The license exists at AuthForge as declared.
    Issued "ISSUED",
    /// The license is being made.
    Issuing "ISSUING",
    /// A create was sent and its answer lost: nobody knows yet whether the license exists.
    OutcomeUnknown "OUTCOME_UNKNOWN",
    /// A license found at AuthForge under the purchase's label was taken over.
    Adopted "ADOPTED",
    /// The license's time is over.
    Expired "EXPIRED",
    /// The payment was refunded.
    Refunded "REFUNDED",
    /// The payment is disputed.
    Disputed "DISPUTED",
    /// The payment failed.
    PaymentFailed "PAYMENT_FAILED",
    /// The payment is on its way, or authorized and not captured.
    PaymentPending "PAYMENT_PENDING",
    /// The purchase was canceled, or its checkout expired.
    Canceled "CANCELED",
    /// The subscription ends at a known time.
    Ending "ENDING",
    /// A person decided otherwise than Stripe's facts would.
    Overridden "OVERRIDDEN",
    /// Reconciliation is switched off for this grant.
    Paused "PAUSED",
    /// A revocation waits because the budget of this hour is spent.
    RevocationHeld "REVOCATION_HELD",
    /// Somebody else revoked the license at AuthForge.
    RevokedElsewhere "REVOKED_ELSEWHERE",
    /// More than one live license carries the purchase's label, and not all of them are ours.
    DuplicateLicenses "DUPLICATE_LICENSES",
    /// Another grant owns this purchase.
    DuplicatePurchase "DUPLICATE_PURCHASE",
    /// AuthForge refused to re-activate the license.
    ReinstateRefused "REINSTATE_REFUSED",
    /// AuthForge refused to bring an expiry forward.
    ShortenRefused "SHORTEN_REFUSED",
    /// The change cannot be made to an existing license.
    ChangeNotSupported "CHANGE_NOT_SUPPORTED",
    /// The Secret's name belongs to something else.
    SecretNameTaken "SECRET_NAME_TAKEN",
    /// AuthForge has no license of the key that was named, or it is another's.
    KeyNotFound "KEY_NOT_FOUND",
    /// AuthForge asks for a slower pace.
    RateLimited "RATE_LIMITED",
    /// The AuthForge account has no credits left.
    CreditsExhausted "CREDITS_EXHAUSTED",
    /// AuthForge does not accept the API key.
    Unauthorized "UNAUTHORIZED",
    /// AuthForge refuses the request as it stands.
    Rejected "REJECTED",
    /// AuthForge cannot be reached.
    AuthForgeUnavailable "AUTH_FORGE_UNAVAILABLE",
    /// Stripe's API cannot be reached.
    StripeUnavailable "STRIPE_UNAVAILABLE",
    /// Only Stripe's API can tell what is missing, and no key for it is configured.
    NeedsStripeKey "NEEDS_STRIPE_KEY",
    /// The purchase names no license: it is somebody else's.
    NotOurs "NOT_OURS",
    /// A price that had terms before has none now.
    NoTerms "NO_TERMS",
    /// The purchase's metadata cannot be read.
    BadMetadata "BAD_METADATA",
    /// Two sources of terms contradict each other.
    TermsConflict "TERMS_CONFLICT",
    /// The purchase asks for more than a hundred licenses.
    TooManyUnits "TOO_MANY_UNITS",
    /// The purchase is older than this installation.
    BeforeStart "BEFORE_START",
    /// The event belongs to Stripe's other mode.
    OtherMode "OTHER_MODE",
    /// The event's type means nothing to us.
    UnknownType "UNKNOWN_TYPE",
    /// Stripe no longer has the object.
    ObjectGone "OBJECT_GONE",
    /// The event is kept for a later version.
    NotYetHandled "NOT_YET_HANDLED",
    /// No address is known to mail to.
    NoAddress "NO_ADDRESS",
    /// The mail server refused the mail for good.
    MailRefused "MAIL_REFUSED",
    /// No mail server is configured.
    NoMailer "NO_MAILER",
    /// The license key is not there yet.
    KeyPending "KEY_PENDING",
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no reason is called '{0}'")]
pub struct UnknownReason(String);

impl FromStr for Reason {
    type Err = UnknownReason;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .iter()
            .copied()
            .find(|reason| reason.as_str() == text)
            .ok_or_else(|| UnknownReason(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_form_is_the_name_in_upper_snake_case() {
        for reason in Reason::ALL {
            let mut expected = String::new();
            for (index, c) in reason.as_str().chars().enumerate() {
                if c.is_uppercase() && index > 0 {
                    expected.push('_');
                }
                expected.push(c.to_ascii_uppercase());
            }
            assert_eq!(reason.as_upper_snake(), expected);
            assert_eq!(reason.as_str().parse(), Ok(*reason));
        }
    }
}
