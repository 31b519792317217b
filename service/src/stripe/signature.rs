//! Whether Stripe sent these bytes (Stripe, webhooks/signature).
//!
//! The header is `t=SECONDS,v1=HEX,...`. What is signed is the text of `t`, a full stop, and the body's raw bytes; the key is
//! the whole secret, `whsec_` included. Only `v1` counts: to accept another scheme would let an attacker choose the weakest.

use std::time::Duration;

use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::Mode;
use super::secret::Secret;

/// The longest header that is looked at: room for a hundred signatures, where Stripe sends one for each live secret.
///
/// A flood of candidates is thus refused by its length, before any is decoded, and the body is hashed once for each of our
/// secrets however many candidates there are.
pub const LONGEST_HEADER: usize = 8 * 1024;

/// Stripe's own default for the age of a signature (Stripe, webhooks/signature).
pub const DEFAULT_TOLERANCE: Duration = Duration::from_secs(300);

type HmacSha256 = Hmac<Sha256>;

/// Why bytes are not taken for Stripe's.
///
/// For our own log. The sender gets one answer for all of them, so that it learns nothing by trying.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The header is longer than [`LONGEST_HEADER`].
    #[error("signature header is longer than {LONGEST_HEADER} bytes")]
    HeaderTooLong,
    /// The header has no `t`.
    #[error("signature header has no timestamp")]
    NoTimestamp,
    /// `t` is not a number of seconds in plain digits.
    #[error("signature header has a timestamp that is not plain digits")]
    BadTimestamp,
    /// The header has two `t`: which of them is signed would be anyone's guess.
    #[error("signature header has two timestamps")]
    TwoTimestamps,
    /// The header has no `v1`.
    #[error("signature header has no 'v1' signature")]
    NoSignature,
    /// No `v1` fits any secret. The usual causes: another endpoint's secret, or a proxy that rewrites bodies.
    #[error(
        "no signature fits any of the webhook secrets; compare them with those of the endpoint in Stripe"
    )]
    NoMatch,
    /// Stripe signed it, but too long ago: a replay, or this machine's clock is ahead.
    #[error(
        "signature is {seconds} s old, more than the tolerance; if this goes on, check this machine's clock"
    )]
    TooOld {
        /// Its age.
        seconds: u64,
    },
    /// Stripe signed it, but in the future: this machine's clock is behind. Stripe's own libraries let it pass.
    #[error("signature is {seconds} s in the future, more than the tolerance; check this machine's clock")]
    TooNew {
        /// How far ahead it is.
        seconds: u64,
    },
}

/// Stripe sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    /// Which of the secrets it was signed with.
    pub secret: usize,
    /// That secret's mode, which the event's `livemode` must agree with.
    pub mode: Mode,
}

/// Checks the `Stripe-Signature` header of a body against every secret (Stripe, webhooks/signature).
///
/// The signature is checked before the age, so that a complaint about age is always about a genuine signature.
pub fn verify(
    header: &[u8],
    body: &[u8],
    secrets: &[Secret],
    tolerance: Duration,
    now: Timestamp,
) -> Result<Verified, Error> {
    let header = Header::parse(header)?;
    // To stop at the first secret that fits tells nothing to anybody who cannot sign already.
    let verified = secrets
        .iter()
        .enumerate()
        .find(|(_, secret)| header.fits(secret, body))
        .map(|(index, secret)| Verified { secret: index, mode: secret.mode() })
        .ok_or(Error::NoMatch)?;
    header.check_age(tolerance, now)?;
    Ok(verified)
}

/// Signs a body as Stripe does, and returns the header.
pub fn sign(secret: &Secret, at: Timestamp, body: &[u8]) -> String {
    let seconds = at.as_second().to_string();
    let signature = digest(secret, seconds.as_bytes(), body).unwrap_or_default();
    format!("t={seconds},v1={}", HEXLOWER.encode(&signature))
}

/// `None` never happens: HMAC takes a key of any length.
fn digest(secret: &Secret, timestamp: &[u8], body: &[u8]) -> Option<[u8; 32]> {
    let mut mac = HmacSha256::new_from_slice(secret.expose().as_bytes()).ok()?;
    mac.update(timestamp);
    mac.update(b".");
    mac.update(body);
    Some(mac.finalize().into_bytes().into())
}

/// The parts of the header that count.
struct Header<'h> {
    /// As written, because that is what is signed.
    timestamp: &'h [u8],
    seconds: i64,
    candidates: Vec<[u8; 32]>,
}

impl<'h> Header<'h> {
    fn parse(header: &'h [u8]) -> Result<Self, Error> {
        if header.len() > LONGEST_HEADER {
            return Err(Error::HeaderTooLong);
        }
        let mut timestamp = None;
        let mut candidates = Vec::with_capacity(2);
        let mut signatures = 0_usize;
        for element in header.split(|b| *b == b',') {
            if let Some(value) = element.strip_prefix(b"t=") {
                if timestamp.replace(value).is_some() {
                    return Err(Error::TwoTimestamps);
                }
            } else if let Some(value) = element.strip_prefix(b"v1=") {
                signatures += 1;
                // A candidate that is no digest fits no body, but a good one may stand beside it.
                candidates.extend(decode(value));
            }
        }
        let timestamp = timestamp.ok_or(Error::NoTimestamp)?;
        let seconds = seconds(timestamp).ok_or(Error::BadTimestamp)?;
        if signatures == 0 {
            return Err(Error::NoSignature);
        }
        Ok(Self { timestamp, seconds, candidates })
    }

    /// Compares with every candidate, each in constant time.
    fn fits(&self, secret: &Secret, body: &[u8]) -> bool {
        // Without this, a header of rubbish would cost a hash of the body.
        if self.candidates.is_empty() {
            return false;
        }
        let Some(expected) = digest(secret, self.timestamp, body) else { return false };
        let none = subtle::Choice::from(0);
        self.candidates.iter().fold(none, |found, candidate| found | candidate.ct_eq(&expected)).into()
    }

    fn check_age(&self, tolerance: Duration, now: Timestamp) -> Result<(), Error> {
        let now = now.as_second();
        let seconds = now.abs_diff(self.seconds);
        if seconds <= tolerance.as_secs() {
            Ok(())
        } else if self.seconds < now {
            Err(Error::TooOld { seconds })
        } else {
            Err(Error::TooNew { seconds })
        }
    }
}

/// Lower-case hex only, as Stripe writes it.
fn decode(hex: &[u8]) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    if hex.len() != 64 {
        return None;
    }
    HEXLOWER.decode_mut(hex, &mut digest).ok()?;
    Some(digest)
}

fn seconds(digits: &[u8]) -> Option<i64> {
    let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    // `parse` alone would take a sign.
    if plain { std::str::from_utf8(digits).ok()?.parse().ok() } else { None }
}

#[cfg(test)]
mod tests;
