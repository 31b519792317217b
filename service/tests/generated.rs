//! The committed JSON schema is what the program reads, and the example is a catalog.

use std::path::Path;

use grantsmith_service::catalog::Catalog;

#[path = "../examples/gen.rs"]
mod generator;

#[test]
fn the_catalogs_schema_is_fresh() {
    let (path, fresh) = generator::schema().expect("a schema");
    let stale = std::fs::read_to_string(path).ok().as_deref() != Some(fresh.as_str());
    assert!(!stale, "deploy/catalog.schema.json is stale; run `make generate` and commit what it writes");
}

#[test]
fn the_example_is_a_catalog() {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/examples/catalog.yaml"));
    assert!(!Catalog::read(path).expect("a catalog").plans().is_empty());
}
