//! `LicenseGrant` and its operator, on a real API server.

#![expect(clippy::expect_used, reason = "a test stops where the world is not as it set it up")]

mod deletion;
mod grants;
mod manifests;
mod reasons;
