//! Who may depend on what: the crate graph keeps the promises that the folders make.

#![expect(clippy::expect_used, reason = "a test stops where the world is not as it set it up")]

use std::collections::BTreeSet;

use cargo_metadata::{CargoOpt, Metadata, MetadataCommand, Package};

fn metadata() -> Metadata {
    MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .features(CargoOpt::AllFeatures)
        .other_options(vec!["--locked".to_owned()])
        .exec()
        .expect("cargo tells")
}

/// The packages that `root` is built with: normal and build dependencies, no tests'.
fn tree<'a>(metadata: &'a Metadata, root: &str) -> BTreeSet<&'a str> {
    let resolve = metadata.resolve.as_ref().expect("a graph");
    let package =
        |name: &str| metadata.packages.iter().find(|package| package.name == name).expect("a package");
    let mut waiting = vec![package(root).id.clone()];
    let mut seen = BTreeSet::new();
    while let Some(id) = waiting.pop() {
        if !seen.insert(id.clone()) {
            continue;
        }
        let node = resolve.nodes.iter().find(|node| node.id == id).expect("a node");
        let built = |dep: &&cargo_metadata::NodeDep| {
            dep.dep_kinds.iter().any(|kind| kind.kind != cargo_metadata::DependencyKind::Development)
        };
        waiting.extend(node.deps.iter().filter(built).map(|dep| dep.pkg.clone()));
    }
    metadata
        .packages
        .iter()
        .filter(|package| seen.contains(&package.id))
        .map(|package| package.name.as_str())
        .collect()
}

fn ours(package: &Package) -> BTreeSet<String> {
    let normal = package.dependencies.iter().filter(|dep| dep.kind == cargo_metadata::DependencyKind::Normal);
    normal.map(|dep| dep.name.clone()).filter(|name| name.starts_with("grantsmith-")).collect()
}

#[test]
fn core_knows_no_runtime_no_network_no_store_and_no_cluster() {
    let metadata = metadata();
    let tree = tree(&metadata, "grantsmith-core");
    for banned in [
        "tokio",
        "async-std",
        "smol",
        "hyper",
        "reqwest",
        "axum",
        "tonic",
        "http",
        "rusqlite",
        "libsqlite3-sys",
        "sqlx",
        "kube",
        "k8s-openapi",
        "lettre",
        "rustls",
        "mio",
        "socket2",
        "rand",
    ] {
        assert!(!tree.contains(banned), "core's tree holds {banned}");
    }
}

#[test]
fn crates_depend_on_their_elders_only() {
    let metadata = metadata();
    for (name, allowed) in [
        ("grantsmith-core", &[][..]),
        ("grantsmith-proto", &[]),
        ("grantsmith-authforge", &["grantsmith-core"]),
        ("grantsmith-crd", &["grantsmith-core"]),
        ("grantsmith-operator", &["grantsmith-authforge", "grantsmith-core", "grantsmith-crd"]),
        (
            "grantsmith-service",
            &["grantsmith-authforge", "grantsmith-core", "grantsmith-crd", "grantsmith-proto"],
        ),
    ] {
        let package = metadata.packages.iter().find(|package| package.name == name).expect("a crate");
        let allowed: BTreeSet<String> = allowed.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(ours(package), allowed, "{name}");
    }
    let leaf = metadata.packages.iter().filter(|package| ours(package).contains("grantsmith-tests"));
    assert_eq!(leaf.count(), 0, "nothing depends on the tests");
}

#[test]
fn each_edge_library_has_its_keeper() {
    let metadata = metadata();
    for (library, keepers) in [
        ("rusqlite", &["grantsmith-service", "grantsmith-tests"][..]),
        ("kube", &["grantsmith-crd", "grantsmith-operator", "grantsmith-service", "grantsmith-tests"]),
        ("lettre", &["grantsmith-service"]),
        ("tonic", &["grantsmith-proto", "grantsmith-service", "grantsmith-tests"]),
        ("reqwest", &["grantsmith-authforge", "grantsmith-service", "grantsmith-tests"]),
    ] {
        for package in metadata.workspace_packages() {
            let uses = package.dependencies.iter().any(|dep| dep.name == library);
            assert!(!uses || keepers.contains(&package.name.as_str()), "{} uses {library}", package.name);
        }
    }
}

#[test]
fn one_tls_provider_and_no_platform_tls() {
    let metadata = metadata();
    for program in ["grantsmith-service", "grantsmith-operator"] {
        let tree = tree(&metadata, program);
        assert!(tree.contains("ring"));
        for banned in ["aws-lc-rs", "aws-lc-sys", "openssl", "openssl-sys", "native-tls"] {
            assert!(!tree.contains(banned), "{program} is built with {banned}");
        }
    }
}

#[test]
fn every_reason_has_its_heading_in_the_runbook() {
    let runbook = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/README.md"))
        .expect("a runbook");
    let headings: BTreeSet<&str> =
        runbook.lines().filter_map(|line| line.strip_prefix("### ")).map(str::trim).collect();
    for reason in grantsmith_core::Reason::ALL {
        assert!(headings.contains(reason.as_str()), "deploy/README.md has no '### {reason}'");
    }
    for reason in grantsmith_service::grpc::status::CallReason::ALL {
        let name = reason.as_upper_snake();
        assert!(headings.contains(name), "deploy/README.md has no '### {name}'");
    }
}
