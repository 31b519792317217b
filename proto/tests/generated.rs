//! The committed code is what the `.proto` files say.

#![expect(clippy::expect_used, reason = "a test stops where the world is not as it set it up")]

use std::collections::BTreeMap;
use std::path::Path;

#[path = "../examples/gen.rs"]
mod codegen;

fn read(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    entries
        .map(|entry| entry.expect("an entry").path())
        .map(|path| {
            (
                path.file_name().expect("a name").to_string_lossy().into_owned(),
                std::fs::read(&path).expect("a file"),
            )
        })
        .collect()
}

#[test]
fn generated_code_is_fresh() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let fresh = tempfile::tempdir().expect("a folder");
    codegen::generate(root, fresh.path()).expect("the files compile");
    let (committed, fresh) = (read(&root.join("src/gen")), read(fresh.path()));
    let stale = committed != fresh;
    assert!(!stale, "proto/src/gen is stale; run `make generate` and commit what it writes");
}
