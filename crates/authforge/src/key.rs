//! The API key: a secret that can be exchanged while the process runs.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// AuthForge's API key. It has no `Display`, its `Debug` shows nothing, and its memory is wiped when it goes.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct ApiKey(String);

impl ApiKey {
    /// Takes the key as it is to be sent: whoever reads it from a file strips the trailing newline.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(..)")
    }
}

/// The key in use, shared with whoever rotates it: `store` a new one and the next call sends it.
pub type SharedKey = Arc<ArcSwap<ApiKey>>;

/// Makes a key shareable.
pub fn shared_key(key: ApiKey) -> SharedKey {
    Arc::new(ArcSwap::from_pointee(key))
}
