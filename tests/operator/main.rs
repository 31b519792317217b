//! `LicenseGrant` and its operator, on a real API server.

#![expect(clippy::expect_used, clippy::panic, reason = "a test stops where the world is not as it set it up")]

mod crashes;
mod deletion;
mod elsewhere;
mod grants;
mod leases;
mod manifests;
mod privileges;
mod reasons;
mod recovery;
mod silence;
