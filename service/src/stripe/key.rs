//! The key to Stripe's API (Stripe, keys).

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use zeroize::Zeroizing;

use super::Mode;

/// Why a text is no API key. It never tells the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nothing stands there.
    #[error("Stripe API key is blank; create a restricted key in Stripe and put it there")]
    Blank,
    /// It has white space inside, or characters that no key has.
    #[error("Stripe API key has white space or odd characters inside; copy it again from Stripe")]
    Malformed,
    /// It is another of Stripe's texts: a publishable key or a webhook secret.
    #[error("Stripe API key must begin with 'rk_' or 'sk_'; this is another of Stripe's keys")]
    OtherKind,
}

/// A secret (`sk_`) or restricted (`rk_`) key. Its `Debug` shows nothing, and its memory is wiped when it goes.
#[derive(Clone)]
pub struct ApiKey(Zeroizing<String>);

/// The key in use, which a reread file may swap.
pub type SharedKey = Arc<ArcSwap<ApiKey>>;

impl ApiKey {
    /// Reads a key, dropping white space around it.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        if text.is_empty() {
            return Err(Error::Blank);
        }
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Error::Malformed);
        }
        if ["pk_", "whsec_", "we_"].iter().any(|prefix| text.starts_with(prefix)) {
            return Err(Error::OtherKind);
        }
        Ok(Self(Zeroizing::new(text.to_owned())))
    }

    /// The key in a place that can be swapped.
    pub fn shared(self) -> SharedKey {
        Arc::new(ArcSwap::from_pointee(self))
    }

    /// The mode of the objects it can read.
    pub fn mode(&self) -> Option<Mode> {
        key_mode(&self.0)
    }

    /// The secret text.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(..)")
    }
}

/// The mode that a key's prefix tells, `sk_test_` or `rk_live_`; `None` for a key that tells none (Stripe, keys).
pub fn key_mode(key: &str) -> Option<Mode> {
    let (_, rest) = key.trim().split_once('_')?;
    match rest.split_once('_')?.0 {
        "live" => Some(Mode::Live),
        "test" => Some(Mode::Test),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_tells_its_mode_by_its_prefix() {
        assert_eq!(key_mode("sk_test_1"), Some(Mode::Test));
        assert_eq!(key_mode("rk_live_1\n"), Some(Mode::Live));
        for odd in ["", "sk_", "sk_old", "rk_org_live_", "live_1", "sk_1_test_"] {
            assert_eq!(key_mode(odd), None, "{odd:?}");
        }
    }

    #[test]
    fn keys_are_read_trimmed_and_never_shown() {
        let key = ApiKey::parse(" rk_test_topsecret\n").expect("a key");
        assert_eq!(key.expose(), "rk_test_topsecret");
        assert_eq!(key.mode(), Some(Mode::Test));
        assert_eq!(format!("{key:?}"), "ApiKey(..)");
        assert_eq!(ApiKey::parse(" \n").err(), Some(Error::Blank));
        assert_eq!(ApiKey::parse("sk_test a").err(), Some(Error::Malformed));
        assert_eq!(ApiKey::parse("whsec_1").err(), Some(Error::OtherKind));
        assert_eq!(ApiKey::parse("pk_live_1").err(), Some(Error::OtherKind));
    }
}
