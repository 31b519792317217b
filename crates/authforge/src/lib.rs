//! Grantsmith.
