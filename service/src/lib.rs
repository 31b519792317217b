//! Grantsmith's Stripe and customer side: webhook, pages, server and worker.
//!
//! A purchase's way through the modules:
//!
//! 1. [`http`] takes Stripe's request, [`stripe::signature`] verifies its raw bytes.
//! 2. [`ingest`] reads the envelope, [`store`] commits the event; only then is Stripe answered.
//! 3. [`worker`] looks at the event's object, decides with `core::entitle`, and brings the grant to what it declares with
//!    `core::execute`; then it has the keys mailed by [`mail`].
//! 4. [`http`] shows the key, asking [`backend`], which is [`fulfillment`] in this process or behind [`grpc`].
//!
//! [`app`] puts the parts together for each program; [`cli`] are the hand tools, gRPC clients like any other.

pub mod app;
pub mod backend;
pub mod catalog;
pub mod checkout;
pub mod cli;
pub mod config;
pub mod decide;
pub mod demo;
pub mod fulfillment;
pub mod grpc;
mod hand;
pub mod http;
pub mod ingest;
pub mod issuer;
pub mod mail;
pub mod render;
pub mod secret_file;
pub mod store;
pub mod stripe;
pub mod telemetry;
mod window;
pub mod worker;
