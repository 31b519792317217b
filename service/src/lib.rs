//! Grantsmith.

pub mod stripe;
