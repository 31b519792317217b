//! Grantsmith in a cluster: each `LicenseGrant` becomes license keys in a Secret that it owns.
//!
//! A grant's way through the modules:
//!
//! 1. [`watch`] hears of it, [`index`] remembers what matters of it, [`queue`] says whose turn it is.
//! 2. [`reconcile`] reads it anew: [`validate`] (pure), observe ([`secret`]), plan and perform (`core::execute`, over
//!    [`attempts`]), [`status`] (pure).
//! 3. [`audit`] compares all of them with AuthForge now and then.
//!
//! [`lease`] lets one of several replicas work at a time, [`controller`] puts the parts together.
//!
//! The record is the grant itself: its status holds the attempts and what became of the licenses, its Secret the keys. Nothing
//! that matters is in this process alone, and what is settled costs neither a call nor a write.

pub mod app;
pub mod attempts;
pub mod audit;
pub mod config;
pub mod controller;
pub mod elsewhere;
mod events;
pub mod index;
pub mod lease;
pub mod metrics;
pub mod queue;
pub mod reconcile;
pub mod secret;
pub mod status;
pub mod validate;
pub mod watch;
