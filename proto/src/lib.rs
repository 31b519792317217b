//! The gRPC contract, `grantsmith.fulfillment.v1`: messages, clients and servers.
//!
//! The sources are the `.proto` files beside `src`; their comments are the documentation. `src/gen` is written by
//! `make generate` and never edited.

/// Version 1 of the contract.
pub mod v1 {
    #![expect(clippy::pedantic, clippy::allow_attributes, reason = "generated code")]
    include!("gen/grantsmith.fulfillment.v1.rs");

    /// The compiled `.proto` files, for server reflection.
    pub const DESCRIPTOR: &[u8] = include_bytes!("gen/descriptor.bin");
}
