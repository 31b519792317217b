//! What the chart renders.

use std::collections::BTreeSet;
use std::process::Command;

use grantsmith_tests::{program, realm};
use serde_json::Value;

use crate::{CHART, EVERYTHING, MINIMAL, ROOT, documents, examples, given, helm, read, rendered, told};

#[test]
fn two_renderings_are_byte_equal() {
    for values in examples() {
        assert_eq!(rendered(&values, &[]), rendered(&values, &[]), "{values}");
    }
}

#[test]
fn examples_pass_the_linter() {
    for values in examples() {
        let linted =
            told(helm().args(["lint", "--strict", CHART, "--namespace", "shop", "--values", &values]));
        assert!(linted.is_ok(), "{values}: {linted:?}");
    }
}

#[test]
fn unit_tests_pass() {
    let mut unittest = Command::new(given("GRANTSMITH_HELM_UNITTEST", "helm-unittest"));
    let result = told(unittest.args(["--strict", "--color=false", CHART]));
    assert!(result.is_ok(), "{}", result.unwrap_or_else(|failed| failed));
}

#[test]
fn what_is_generated_from_the_chart_is_fresh() {
    for (what, path) in
        [("manifests", "deploy/manifests/grantsmith.yaml"), ("readme", "charts/grantsmith/README.md")]
    {
        let fresh = told(Command::new("tests/tools/chart.sh").arg(what).current_dir(ROOT));
        let fresh = fresh.expect("it is made");
        assert!(read(path) == fresh, "{path} is stale; run `make generate` and commit what it writes");
    }
}

fn rules(documents: &[Value], kind: &str, name: &str) -> Value {
    let role = documents.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    role.expect("a role")["rules"].clone()
}

#[test]
fn the_rights_are_those_that_the_programs_were_seen_to_use() {
    let chart = documents(&rendered(MINIMAL, &[]).expect("it renders"));
    for (file, name) in [(realm::ROLE, realm::ACCOUNT), (realm::SERVER_ROLE, realm::SERVER)] {
        let used = documents(&std::fs::read_to_string(file).expect("a role"));
        assert_eq!(rules(&chart, "Role", name), rules(&used, "Role", name), "{file}");
    }
    let wide: Vec<_> = chart.iter().filter(|object| object["kind"] == "ClusterRole").collect();
    let review = serde_json::json!([
        {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]},
    ]);
    assert_eq!(wide.iter().map(|role| &role["rules"]).collect::<Vec<_>>(), [&review]);
}

#[test]
fn no_part_mounts_what_is_anothers() {
    let chart = documents(&rendered(MINIMAL, &[]).expect("it renders"));
    let pod = |name: &str| {
        let part = chart.iter().find(|o| o["kind"] == "Deployment" && o["metadata"]["name"] == name);
        part.expect("a part")["spec"]["template"]["spec"].to_string()
    };
    let (server, webhook, operator) =
        (pod("grantsmith-server"), pod("grantsmith-webhook"), pod("grantsmith-operator"));
    for (secret, holder, others) in [
        ("\"key\":\"api-key\",\"path\":\"stripe-api-key\"", &server, [&webhook, &operator]),
        ("webhook-secrets", &webhook, [&server, &operator]),
        ("grantsmith-authforge", &operator, [&server, &webhook]),
        ("tls.key", &server, [&webhook, &operator]),
    ] {
        assert!(holder.contains(secret), "{secret}: {holder}");
        assert!(others.iter().all(|other| !other.contains(secret)), "{secret} is one program's alone");
    }
}

/// Flags of the program as its `--help` lists them.
fn flags(program: &std::path::Path, command: &str) -> String {
    let mut help = Command::new(program);
    told(help.args([command, "--help"])).expect("help")
}

#[test]
fn every_flag_is_one_that_the_program_has() {
    let programs = [
        ("server", flags(program::binary(), "server")),
        ("webhook", flags(program::binary(), "webhook")),
        ("run", flags(realm::binary(), "run")),
    ];
    for values in examples() {
        for object in documents(&rendered(&values, &[]).expect("it renders")) {
            let arguments = &object["spec"]["template"]["spec"]["containers"][0]["args"];
            let Some(arguments) = arguments.as_array() else { continue };
            let mut arguments = arguments.iter().map(|argument| argument.as_str().expect("text"));
            let command = arguments.next().expect("a command");
            let (_, help) = programs.iter().find(|(name, _)| *name == command).expect("a program");
            for argument in arguments {
                let flag = argument.split('=').next().unwrap_or(argument);
                let known = help.split_whitespace().any(|word| word.trim_end_matches(',') == flag);
                assert!(known, "{values}: `{command}` has no {flag}");
            }
        }
    }
}

/// The names of metrics in a text.
fn metrics(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("grantsmith_")).collect()
}

#[test]
fn alerts_and_dashboard_go_by_metrics_that_there_are() {
    let mut source = String::new();
    let mut folders = vec![format!("{ROOT}/service/src"), format!("{ROOT}/operator/src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path.display().to_string());
            } else {
                source += &std::fs::read_to_string(path).expect("source");
            }
        }
    }
    let written = read("charts/grantsmith/templates/prometheusrule.yaml")
        + &read("charts/grantsmith/files/dashboard.json");
    let used = metrics(&written);
    assert!(used.len() > 12, "{used:?}");
    for metric in used {
        let name = metric.strip_suffix("_bucket").unwrap_or(metric);
        assert!(source.contains(&format!("\"{name}\"")), "no program has a metric {name}");
    }
}

#[test]
fn every_alert_has_its_heading_in_the_runbook() {
    let runbook = read("deploy/README.md");
    let headings: BTreeSet<&str> = runbook.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let chart = documents(&rendered(EVERYTHING, &[]).expect("it renders"));
    let rule = chart.iter().find(|object| object["kind"] == "PrometheusRule").expect("alerts");
    let alerts = rule["spec"]["groups"][0]["rules"].as_array().expect("alerts");
    assert!(alerts.len() > 10);
    for alert in alerts {
        let name = alert["alert"].as_str().expect("a name");
        assert!(headings.contains(name), "deploy/README.md has no '### {name}'");
        let url = alert["annotations"]["runbook_url"].as_str().expect("a page");
        assert_eq!(url, format!("https://wiki.example.com/grantsmith#{}", name.to_lowercase()));
    }
}
