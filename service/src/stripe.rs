//! Stripe: what it sends, what it answers, and a stand-in for it.
//!
//! [`signature`] says whether Stripe sent some bytes, [`event`] which object they are about, [`shape`] what that object says.
//! The three are pure. [`client`] fetches the object as it stands now, and [`fake`] is a Stripe of our own over real HTTP,
//! for demonstration and tests.

pub mod client;
pub mod event;
pub mod fake;
pub mod key;
pub mod secret;
pub mod shape;
pub mod signature;

use std::fmt;
use std::str::FromStr;

/// Stripe's two worlds, which share no object (Stripe, keys).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Real money.
    Live,
    /// Test mode and sandboxes.
    Test,
}

impl Mode {
    /// The mode that a `livemode` field tells.
    pub const fn from_livemode(livemode: bool) -> Self {
        if livemode { Self::Live } else { Self::Test }
    }

    /// The `livemode` of this mode's objects.
    pub const fn livemode(self) -> bool {
        matches!(self, Self::Live)
    }

    /// The name as settings write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Test => "test",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a Stripe mode: write 'live' or 'test'")]
pub struct UnknownMode;

impl FromStr for Mode {
    type Err = UnknownMode;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "live" => Ok(Self::Live),
            "test" => Ok(Self::Test),
            _ => Err(UnknownMode),
        }
    }
}
