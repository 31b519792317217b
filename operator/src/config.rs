//! The settings: every field's text is the manual that `--help` prints.
//!
//! Each flag has an environment variable, `GRANTSMITH_` and the flag's name. Secrets come from files or the environment.

#![expect(clippy::doc_markdown, reason = "these texts are printed by --help as they stand")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use grantsmith_core::AppId;
use url::Url;

use crate::metrics::LogFormat;

/// Between two audits at least: without a pause they would take a processor, and AuthForge's rate.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);

/// LicenseGrants in, license keys in Secrets out.
#[derive(Debug, Parser)]
#[command(name = "grantsmith-operator", version, max_term_width = 100, propagate_version = true)]
pub struct Cli {
    /// What to run.
    #[command(subcommand)]
    pub command: Command,
}

/// What to run.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make and look after the license keys of LicenseGrants
    Run(Box<Run>),
    /// Print the custom resource definition, for `kubectl apply --server-side -f -`
    Crd,
}

/// What is done about licenses that differ at AuthForge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum DriftPolicy {
    /// It is said.
    Report,
    /// They are brought back to what is declared.
    Repair,
}

/// Settings of `run`.
#[derive(Debug, Args)]
pub struct Run {
    /// The namespace of the grants; without it, the operator's own
    #[arg(long, env = "GRANTSMITH_NAMESPACE", value_name = "NAME", help_heading = "Kubernetes")]
    pub namespace: Option<String>,
    /// Which namespace may use which apps: NAMESPACE=APP,…; repeatable (in the environment, joined by ';'). These namespaces
    /// are looked after too; one that is not named here may use every app, if it is --namespace
    #[arg(
        long,
        env = "GRANTSMITH_ALLOW",
        value_delimiter = ';',
        value_name = "NAMESPACE=APP,…",
        value_parser = allowance,
        help_heading = "Kubernetes"
    )]
    pub allow: Vec<(String, BTreeSet<AppId>)>,
    /// Whether a lease is held while working, so that several replicas can stand by
    #[arg(
        long,
        env = "GRANTSMITH_LEADER_ELECTION",
        default_value_t = true,
        action = clap::ArgAction::Set,
        num_args = 0..=1,
        default_missing_value = "true",
        value_name = "true|false",
        help_heading = "Kubernetes"
    )]
    pub leader_election: bool,
    /// Grants that are worked on at once
    #[arg(
        long,
        env = "GRANTSMITH_CONCURRENCY",
        default_value_t = 64,
        value_parser = clap::value_parser!(u16).range(1..),
        value_name = "N",
        help_heading = "Kubernetes"
    )]
    pub concurrency: u16,

    /// AuthForge's API
    #[arg(
        long,
        env = "GRANTSMITH_AUTHFORGE_URL",
        default_value = "https://api.authforge.cc",
        value_name = "URL",
        help_heading = "AuthForge"
    )]
    pub authforge_url: Url,
    /// The API key, af_live_… (or GRANTSMITH_AUTHFORGE_API_KEY)
    #[arg(long, env = "GRANTSMITH_AUTHFORGE_API_KEY_FILE", value_name = "FILE", help_heading = "AuthForge")]
    pub authforge_api_key_file: Option<PathBuf>,
    /// Calls a second
    #[arg(long, env = "GRANTSMITH_AUTHFORGE_RATE", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..), value_name = "N", help_heading = "AuthForge")]
    pub authforge_rate: u32,
    /// Calls in one burst
    #[arg(long, env = "GRANTSMITH_AUTHFORGE_BURST", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..), value_name = "N", help_heading = "AuthForge")]
    pub authforge_burst: u32,
    /// The name of the action that brings a revoked license back
    #[arg(
        long,
        env = "GRANTSMITH_AUTHFORGE_ACTIVATE_ACTION",
        default_value = "activate",
        value_name = "NAME",
        help_heading = "AuthForge"
    )]
    pub authforge_activate_action: String,
    /// What this installation is called in the labels of manual grants; tells two installations apart that share an
    /// AuthForge account
    #[arg(long, env = "GRANTSMITH_INSTALLATION", default_value = "default", value_parser = installation, value_name = "NAME", help_heading = "AuthForge")]
    pub installation: String,
    /// Revocations by rule an hour, such as 100/h; beyond it they wait for a person
    #[arg(long, env = "GRANTSMITH_REVOCATION_BUDGET", default_value = "100/h", value_parser = per_hour, value_name = "N/h", help_heading = "AuthForge")]
    pub revocation_budget: u32,
    /// How long a create whose answer was lost is looked for before another may be sent
    #[arg(long, env = "GRANTSMITH_LOST_CREATE_QUARANTINE", default_value = "90s", value_parser = humantime::parse_duration, value_name = "TIME", help_heading = "AuthForge")]
    pub lost_create_quarantine: Duration,
    /// A purchase older than this is looked for at AuthForge before a license is created
    #[arg(long, env = "GRANTSMITH_LOOK_BEFORE_CREATE_AFTER", default_value = "15m", value_parser = humantime::parse_duration, value_name = "TIME", help_heading = "AuthForge")]
    pub look_before_create_after: Duration,
    /// How often all licenses are compared with AuthForge's
    #[arg(long, env = "GRANTSMITH_DRIFT_INTERVAL", default_value = "1h", value_parser = humantime::parse_duration, value_name = "TIME", help_heading = "AuthForge")]
    pub drift_interval: Duration,
    /// report: say what differs at AuthForge; repair: bring it back to what is declared, within the laws
    #[arg(
        long,
        env = "GRANTSMITH_DRIFT_POLICY",
        value_enum,
        default_value = "report",
        value_name = "POLICY",
        help_heading = "AuthForge"
    )]
    pub drift_policy: DriftPolicy,
    /// Further roots for TLS to AuthForge, PEM
    #[arg(long, env = "GRANTSMITH_CA_FILE", value_name = "FILE", help_heading = "AuthForge")]
    pub ca_file: Option<PathBuf>,

    /// Where /healthz, /readyz and /metrics listen; port 0 picks a free one
    #[arg(
        long,
        env = "GRANTSMITH_ADMIN_LISTEN",
        default_value = "127.0.0.1:9090",
        value_name = "ADDRESS",
        help_heading = "Operation"
    )]
    pub admin_listen: SocketAddr,
    /// How logs are written to standard error; auto is text on a terminal and JSON elsewhere
    #[arg(
        long,
        env = "GRANTSMITH_LOG_FORMAT",
        default_value = "auto",
        value_name = "FORMAT",
        help_heading = "Operation"
    )]
    pub log_format: LogFormat,
}

impl Run {
    /// The apps that each namespace with a rule may use.
    pub fn allowed(&self) -> BTreeMap<String, BTreeSet<AppId>> {
        let mut allowed: BTreeMap<String, BTreeSet<AppId>> = BTreeMap::new();
        for (namespace, apps) in &self.allow {
            allowed.entry(namespace.clone()).or_default().extend(apps.iter().cloned());
        }
        allowed
    }

    /// Checks what no single flag can tell.
    pub fn check(&self) -> Result<(), Wrong> {
        if !matches!(self.authforge_url.scheme(), "http" | "https") {
            return Err(Wrong("--authforge-url must begin with https:// (or http://)".to_owned()));
        }
        if self.drift_interval < SHORTEST_INTERVAL {
            let text = "--drift-interval must be a second or more; a long one, such as 30d, leaves nearly all audits out";
            return Err(Wrong(text.to_owned()));
        }
        Ok(())
    }
}

/// Settings that contradict each other, or lack something: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Wrong(pub String);

fn installation(text: &str) -> Result<String, String> {
    if grantsmith_core::manual::is_installation(text) {
        Ok(text.to_owned())
    } else {
        Err("write 1 to 32 lower-case letters, digits and '-'".to_owned())
    }
}

fn per_hour(text: &str) -> Result<u32, String> {
    let count = text.strip_suffix("/h").and_then(|count| count.parse().ok());
    count.ok_or_else(|| "write a number and /h, such as 100/h".to_owned())
}

fn allowance(text: &str) -> Result<(String, BTreeSet<AppId>), String> {
    let wrong = || "write NAMESPACE=APP, or NAMESPACE=APP,APP".to_owned();
    let (namespace, apps) =
        text.split_once('=').filter(|(namespace, _)| !namespace.is_empty()).ok_or_else(wrong)?;
    let apps = apps.split(',').map(|app| AppId::parse(app.trim()).ok_or_else(wrong));
    Ok((namespace.trim().to_owned(), apps.collect::<Result<_, _>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn run(arguments: &[&str]) -> Result<Run, clap::Error> {
        let all = ["grantsmith-operator", "run"].iter().chain(arguments);
        match Cli::try_parse_from(all)?.command {
            Command::Run(run) => Ok(*run),
            Command::Crd => panic!("it was told to run"),
        }
    }

    #[test]
    fn the_flags_make_sense() {
        Cli::command().debug_assert();
    }

    #[test]
    fn rules_for_a_namespace_add_up() {
        let run = run(&["--allow", "a=app-1,app-2;b=app-1", "--allow", "a=app-3"]).expect("settings");
        let allowed = run.allowed();
        let apps = |namespace: &str| allowed[namespace].iter().map(AppId::as_str).collect::<Vec<_>>();
        assert_eq!(apps("a"), ["app-1", "app-2", "app-3"]);
        assert_eq!(apps("b"), ["app-1"]);
    }

    #[test]
    fn a_rule_without_apps_is_wrong_use() {
        for rule in ["a", "a=", "=app-1", "a=app 1"] {
            assert!(run(&["--allow", rule]).is_err(), "{rule}");
        }
    }

    #[test]
    fn leader_election_can_be_switched_off() {
        assert!(run(&[]).expect("settings").leader_election);
        assert!(!run(&["--leader-election=false"]).expect("settings").leader_election);
    }
}
