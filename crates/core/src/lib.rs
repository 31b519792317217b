//! What a purchase entitles to, and which calls make it so.
//!
//! One purchase's life, told by the modules it passes through:
//!
//! 1. [`purchase`]: what Stripe has told us about it, as snapshots of Stripe's objects.
//! 2. [`terms`]: what was sold, read from metadata and stored before the first create.
//! 3. [`entitle`]: snapshots, terms and hands become a [`grant::Grant`]: which licenses should exist.
//! 4. [`plan`]: the grant, what is on record and what AuthForge lists become the next [`plan::Step`]s.
//! 5. [`execute`]: performs the steps over two ports, and is the only place that orders effects.
//!
//! Nothing here reads a clock, draws a random number, or touches a socket, a disk or a runtime: time and ids come in as
//! arguments, effects go out through the ports of [`port`]. That is why every decision can be tested by value.

pub mod entitle;
pub mod execute;
pub mod grant;
pub mod label;
pub mod license;
pub mod manual;
pub mod plan;
pub mod port;
pub mod purchase;
pub mod reason;
pub mod retry;
pub mod terms;
#[cfg(feature = "testing")]
pub mod testing;

pub use entitle::entitle;
pub use grant::{Desired, DesiredState, Grant, GrantId, Hand, LicenseName, Standing};
pub use label::Label;
pub use license::{AppId, License, LicenseKey, LicenseStatus, Slots};
pub use port::{AttemptLog, LicenseApi};
pub use purchase::{Email, PurchaseId};
pub use reason::Reason;
