//! Writes `src/gen` from the `.proto` files: `cargo run -p grantsmith-proto --example gen`.
//!
//! The output is committed, so that building needs no protobuf compiler. A test fails while it is stale.

use std::path::Path;

use prost::Message;

const FILES: [&str; 3] = [
    "grantsmith/fulfillment/v1/event_service.proto",
    "grantsmith/fulfillment/v1/license_grant_service.proto",
    "grantsmith/fulfillment/v1/storefront_service.proto",
];

/// Generates everything into `out`.
pub(crate) fn generate(root: &Path, out: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let files = protox::compile(FILES, [root])?;
    std::fs::write(out.join("descriptor.bin"), files.encode_to_vec())?;
    tonic_prost_build::configure()
        .out_dir(out)
        .client_mod_attribute(".", r#"#[cfg(feature = "client")]"#)
        .server_mod_attribute(".", r#"#[cfg(feature = "server")]"#)
        .compile_fds(files)?;
    Ok(())
}

#[cfg_attr(test, expect(dead_code, reason = "the drift test calls `generate` alone"))]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    generate(root, &root.join("src/gen"))
}
