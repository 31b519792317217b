//! AuthForge's developer API: the client behind core's [`LicenseApi`](grantsmith_core::LicenseApi), and a fake server.
//!
//! A call's way, told by the modules it passes through:
//!
//! 1. `client`: the port's calls, each one request.
//! 2. `listing`: a listing that serves all who wait for it, with labels from the [`LabelCache`] or from one GET each.
//! 3. `scheduler`: whose call goes next, and what 429, 402, 401 and an outage mean for all the others.
//! 4. `transport`: one HTTP exchange, without redirects or retries, and the time heard from its answer.
//! 5. `wire` and `error`: what the answer says, and what a failure means for what may be done next.
//!
//! What is deliberately absent: no retry (the executor's), no decision about licenses (core's), no log line with a key, a
//! URL or a body. The vendor's reference is incomplete; where it leaves something open, the client takes every answer that
//! is possible, and `fake` (feature `fake`) has a switch for each.

mod client;
mod clock;
mod error;
#[cfg(feature = "fake")]
pub mod fake;
mod key;
mod label_cache;
mod listing;
mod scheduler;
mod transport;
mod wire;

pub use client::{Client, Settings};
pub use clock::SystemClock;
pub use key::{ApiKey, SharedKey, shared_key};
pub use label_cache::{CacheError, LabelCache, MemoryLabels};
pub use scheduler::{Health, Pace, Paused, Scheduler, Ticket, Verdict};
pub use transport::{HttpError, http_client, roots_from_pem};
