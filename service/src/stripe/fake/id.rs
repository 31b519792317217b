//! Ids that look like Stripe's, each a function of seed, serial and what it names.

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use sha2::{Digest, Sha256};

/// In the order of their bytes, so that stamps of equal length sort by time.
const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The second whose stamp is `00000`, seen in the examples of Stripe's reference, which show ids beside `created`
/// (Stripe, events/object, charges/object, subscriptions/object).
const EPOCH: i64 = 1_342_389_380;

/// An id that tells nothing, as those of sessions and customers.
pub(super) fn id_of(prefix: &str, length: usize, seed: u64, serial: u64, what: &str) -> String {
    let hex = HEXLOWER.encode(&digest(prefix, seed, serial, what));
    format!("{prefix}{}", hex.get(..length).unwrap_or(&hex))
}

/// An id such as `evt_1NG8Du2eZvKYlo2CUI79vXWy`: when it was made, the account, and eight letters that are its own. Most of
/// Stripe's are like this, so they grow with time and stand side by side in an index.
pub(super) fn id_at(prefix: &str, at: Timestamp, seed: u64, serial: u64, what: &str) -> String {
    let stamp = stamp(at);
    let account = letters::<10>(number(&digest("acct_", seed, 0, "account")));
    let own = letters::<8>(number(&digest(prefix, seed, serial, what)));
    format!("{prefix}{stamp}{account}{own}")
}

/// The five letters in an id that tell the second in which Stripe made it.
pub fn stamp(at: Timestamp) -> String {
    letters::<5>(u64::try_from(at.as_second() - EPOCH).unwrap_or(0))
}

fn digest(prefix: &str, seed: u64, serial: u64, what: &str) -> [u8; 32] {
    Sha256::digest(format!("{what}/{prefix}/{seed}/{serial}")).into()
}

fn number(digest: &[u8; 32]) -> u64 {
    digest.first_chunk().copied().map_or(0, u64::from_be_bytes)
}

/// The last letters of a number in base 62.
fn letters<const LENGTH: usize>(mut number: u64) -> String {
    let mut letters = [LETTERS[0]; LENGTH];
    for letter in letters.iter_mut().rev() {
        *letter =
            usize::try_from(number % 62).ok().and_then(|digit| LETTERS.get(digit)).copied().unwrap_or(b'0');
        number /= 62;
    }
    letters.iter().copied().map(char::from).collect()
}
