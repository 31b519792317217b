//! Writes the custom resource definition into the chart: `cargo run -p grantsmith-crd --example gen`.
//!
//! The output is committed, so that it can be applied and read without building. A test fails while it is stale.

use std::path::{Path, PathBuf};

/// Where the definition is committed.
pub(crate) fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts/grantsmith/files/crds/licensegrants.yaml")
}

/// The definition as YAML.
pub(crate) fn generate() -> Result<String, Box<dyn std::error::Error>> {
    Ok(serde_saphyr::to_string(&grantsmith_crd::definition())?)
}

#[cfg_attr(test, expect(dead_code, reason = "the drift test calls `generate` alone"))]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = path();
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    Ok(std::fs::write(path, generate()?)?)
}
