//! The whole product as its users have it: the real program as a process, with a fake Stripe, a fake AuthForge and a real
//! mail server around it.

#![expect(clippy::expect_used, clippy::panic, reason = "a test stops where the world is not as it set it up")]

pub mod browser;
pub mod cluster;
pub mod mailpit;
pub mod measure;
pub mod node;
pub mod outside;
pub mod port;
pub mod program;
pub mod proxy;
pub mod raw;
pub mod realm;
pub mod stack;
pub mod stripe_mock;
pub mod tls;
pub mod wait;

pub use browser::Browser;
pub use cluster::Cluster;
pub use node::Node;
pub use outside::Outside;
pub use program::Program;
pub use raw::Raw;
pub use realm::Realm;
pub use stack::{Shape, Stack};
pub use stripe_mock::StripeMock;
pub use wait::until;

/// The app that test purchases are for.
pub const APP: &str = "7d9f6a9e-0000-4000-8000-000000000001";
/// The Stripe API key of every test.
pub const STRIPE_KEY: &str = "sk_test_canary4eC39HqLyjWDarjtT1zdp7dc";
/// The AuthForge API key of every test.
pub const AUTHFORGE_KEY: &str = "af_live_canary8f14e45fceea167a5a36dedd4bea2543";
/// The webhook secret of every test.
pub const WEBHOOK_SECRET: &str = "whsec_canaryd41d8cd98f00b204e9800998ecf8427e";
