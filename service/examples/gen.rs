//! Writes the catalog's JSON schema: `cargo run -p grantsmith-service --example gen`.
//!
//! It is committed, so that editors find it. A test fails while it is stale.

use std::path::PathBuf;

/// Where the schema is, and what it says.
pub(crate) fn schema() -> Result<(PathBuf, String), serde_json::Error> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/catalog.schema.json");
    let json = serde_json::to_string_pretty(&grantsmith_service::catalog::schema())?;
    Ok((PathBuf::from(path), json + "\n"))
}

#[cfg_attr(test, expect(dead_code, reason = "the drift test calls `schema` alone"))]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (path, text) = schema()?;
    Ok(std::fs::write(path, text)?)
}
