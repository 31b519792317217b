//! AuthForge's object: a license, its key, and how a key is spoken of without telling it.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// The AuthForge app that a license belongs to, a UUID in the vendor's documentation (concepts).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AppId(String);

impl AppId {
    /// Reads an app id: 1 to 64 letters, digits, `-` or `_`. The vendor documents UUIDs but promises no more.
    pub fn parse(text: &str) -> Option<Self> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        ((1..=64).contains(&text.len()) && text.bytes().all(plain)).then(|| Self(text.to_owned()))
    }

    /// The id as AuthForge writes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it names the same app: UUIDs are the same in either case.
    pub fn is_same(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl fmt::Display for AppId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A license key: the secret that the buyer paid for.
///
/// It has no `Display`, its `Debug` shows nothing, and its memory is wiped when it goes. [`LicenseKey::expose`] is the one
/// way to the text, so a search for that word finds every place a key can leave.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct LicenseKey(String);

impl LicenseKey {
    /// Takes the key as AuthForge wrote it. Its documented form is not enforced: a key that was issued is a key.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret text.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The key as people may see it: its last group, `****-****-****-WXYZ`.
    pub fn masked(&self) -> String {
        let tail: String = self.0.chars().rev().take(4).collect::<Vec<_>>().into_iter().rev().collect();
        if self.0.len() < 12 { "****".to_owned() } else { format!("****-****-****-{tail}") }
    }

    /// Reads a key as a person types it: in small letters, with blanks, without dashes. What has another form is taken as it is.
    pub fn typed(text: &str) -> Self {
        let plain: Zeroizing<String> = Zeroizing::new(
            text.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_uppercase()).collect(),
        );
        match (0..4).map(|group| plain.get(4 * group..4 * group + 4)).collect::<Option<Vec<_>>>() {
            Some(groups) if plain.len() == 16 => Self(groups.join("-")),
            _ => Self(text.to_owned()),
        }
    }

    /// A name for the key that does not tell it.
    pub fn fingerprint(&self) -> Fingerprint {
        let hash = Sha256::digest(self.0.as_bytes());
        Fingerprint(data_encoding::HEXLOWER.encode(hash.get(..16).unwrap_or_default()))
    }
}

impl fmt::Debug for LicenseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LicenseKey(..)")
    }
}

/// The first 128 bits of a key's SHA-256, in hex. The key itself has 80 bits, so this cannot be guessed back.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(String);

impl Fingerprint {
    /// Takes a fingerprint that was written down before.
    pub fn from_hex(hex: impl Into<String>) -> Self {
        Self(hex.into())
    }

    /// The hex digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How many devices a license may be bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Slots {
    /// Up to this many HWID slots, 1 to 16 (AuthForge, licenses).
    Limited(u8),
    /// No limit (`unlimitedHwidSlots`).
    Unlimited,
}

impl Slots {
    /// The most slots that AuthForge documents.
    pub const MOST: u8 = 16;
}

/// The two states AuthForge knows. Expiry is by date and changes neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LicenseStatus {
    /// `active`
    Active,
    /// `revoked`
    Revoked,
}

/// A license as AuthForge reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct License {
    /// The key.
    pub key: LicenseKey,
    /// The app it belongs to.
    pub app_id: AppId,
    /// Active or revoked.
    pub status: LicenseStatus,
    /// When it ends; none is a lifetime license.
    pub expires_at: Option<Timestamp>,
    /// Its device slots, where the answer told them.
    pub slots: Option<Slots>,
    /// When AuthForge made it, by AuthForge's clock.
    pub created_at: Timestamp,
    /// Its label, where the answer told it.
    pub label: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_never_printed_whole() {
        let key = LicenseKey::new("ABCD-EFGH-JKLM-NPQR");
        assert_eq!(format!("{key:?}"), "LicenseKey(..)");
        assert_eq!(key.masked(), "****-****-****-NPQR");
        assert_eq!(LicenseKey::new("short").masked(), "****");
        assert!(!key.fingerprint().as_str().contains("ABCD"));
    }

    #[test]
    fn a_key_is_known_however_it_is_typed() {
        for text in ["ABCD-EFGH-JKLM-NPQR", "abcdefghjklmnpqr", " abcd efgh jklm npqr", "ABCD–EFGH–JKLM–NPQR"]
        {
            assert_eq!(LicenseKey::typed(text).expose(), "ABCD-EFGH-JKLM-NPQR");
        }
        for text in ["", "abc", "order-77", "abcd-efgh-jklm-npqr-s"] {
            assert_eq!(LicenseKey::typed(text).expose(), text);
        }
    }

    #[test]
    fn app_ids_are_plain_words() {
        assert!(AppId::parse("7d9f6a9e-0000-4000-8000-000000000000").is_some());
        for bad in ["", "a b", "a/b", "app\n", &"x".repeat(65)] {
            assert!(AppId::parse(bad).is_none(), "{bad:?}");
        }
    }
}
