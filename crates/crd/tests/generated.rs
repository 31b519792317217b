//! The committed definition is what the types say.

#[path = "../examples/gen.rs"]
mod codegen;

#[test]
fn the_definition_in_the_chart_is_fresh() {
    let committed = std::fs::read_to_string(codegen::path()).unwrap_or_default();
    let fresh = codegen::generate().expect("YAML");
    assert!(
        committed == fresh,
        "the chart's definition is stale; run `make generate` and commit what it writes"
    );
}
