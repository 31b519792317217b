//! The chart: what it renders and what it refuses, and what a real API server makes of it.

#![expect(clippy::expect_used, clippy::panic, reason = "a test stops where the world is not as it set it up")]

mod health;
mod install;
mod rendering;
mod values;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use grantsmith_tests::mailpit::tool;
use serde_json::Value;

/// The folder of everything.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// The chart.
const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/grantsmith");
/// The least that must be said.
const MINIMAL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/grantsmith/ci/minimal-values.yaml");
/// All that can be said.
const EVERYTHING: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/grantsmith/ci/everything-values.yaml");

/// A tool that the environment names, or that is built.
fn given(variable: &str, name: &str) -> PathBuf {
    std::env::var_os(variable).map_or_else(|| tool(name), PathBuf::from)
}

fn helm() -> Command {
    static HELM: OnceLock<PathBuf> = OnceLock::new();
    let mut command = Command::new(HELM.get_or_init(|| given("GRANTSMITH_HELM", "helm")));
    command.current_dir(ROOT);
    command
}

/// Runs it to its end: what it prints, or what it says is wrong.
fn told(command: &mut Command) -> Result<String, String> {
    let output = command.output().expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    if output.status.success() {
        Ok(text(output.stdout))
    } else {
        Err(text(output.stdout) + &text(output.stderr))
    }
}

/// The release `grantsmith` in the namespace `shop`, rendered.
fn rendered(values: &str, more: &[&str]) -> Result<String, String> {
    let release = ["template", "grantsmith", CHART, "--namespace", "shop", "--values", values];
    told(helm().args(release).args(more))
}

/// The values files of the examples.
fn examples() -> Vec<String> {
    let folder = std::fs::read_dir(Path::new(CHART).join("ci")).expect("examples");
    let mut files: Vec<_> = folder.map(|file| file.expect("a file").path().display().to_string()).collect();
    files.sort();
    assert!(files.len() >= 4, "{files:?}");
    files
}

fn documents(yaml: &str) -> Vec<Value> {
    let all = serde_saphyr::from_multiple::<Value>(yaml).expect("YAML");
    all.into_iter().filter(|document| !document.is_null()).collect()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(ROOT).join(path)).expect("a file")
}
