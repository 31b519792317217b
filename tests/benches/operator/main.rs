//! How fast, how steadily and how quietly the operator works: `make bench ARGS=operator`.
//!
//! The operator is the real program, compiled for release, with its default settings; API server, etcd and controller
//! manager are Kubernetes' own, on the same machine, and AuthForge's fake is as slow as its limit and 200 ms make it.
//! Nothing here fails for being slow: whoever reads the table decides.
//!
//! - `issue`: from a grant's declaration to its Secret. `backlog`: three thousand at once, and who comes meanwhile.
//! - `rest`: ten thousand that nobody touches.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints, and may give up")]

mod backlog;
mod issue;
mod rest;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::bail;
use futures_util::{StreamExt as _, TryStreamExt as _};
use grantsmith_authforge::fake::RateLimit;
use grantsmith_tests::measure::{histogram, percentile};
use grantsmith_tests::realm::{Operator, Realm};
use grantsmith_tests::{Cluster, wait};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{WatchEvent, WatchParams};
use serde_json::Value;
use tokio::task::JoinHandle;

/// How long AuthForge takes for an answer.
const AUTHFORGE: Duration = Duration::from_millis(200);

/// Nothing here takes longer, also on a machine that does something else besides.
const PATIENCE: Duration = Duration::from_secs(1_800);

/// Grants that are declared at once.
const HANDS: usize = 16;

/// How much of everything.
#[derive(Debug, Clone, Copy)]
struct Lengths {
    issue: Duration,
    backlog: usize,
    rest: usize,
}

const DEFAULT: Lengths = Lengths { issue: Duration::from_secs(20), backlog: 3_000, rest: 10_000 };
const QUICK: Lengths = Lengths { issue: Duration::from_secs(4), backlog: 400, rest: 500 };

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut lengths = DEFAULT;
    let mut only = None;
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--quick" => lengths = QUICK,
            // From cargo.
            "--bench" => {}
            part @ ("issue" | "backlog" | "rest") => only = Some(part.to_owned()),
            other => bail!("'{other}' is unknown; there are --quick, issue, backlog and rest"),
        }
    }
    let wanted = |part: &str| only.as_deref().is_none_or(|only| only == part);
    let begun = Instant::now();
    let cluster = Cluster::start().await;
    cluster.define_grants().await;
    println!(
        "grantsmith-operator {}, Kubernetes {}; {} processors, shared by operator, control plane and load",
        env!("CARGO_PKG_VERSION"),
        cluster.client().await.apiserver_version().await?.git_version,
        std::thread::available_parallelism()?,
    );
    if wanted("issue") {
        issue::run(&cluster, lengths.issue).await?;
    }
    if wanted("backlog") {
        backlog::run(&cluster, lengths.backlog).await?;
    }
    if wanted("rest") {
        rest::run(&cluster, lengths.rest).await?;
    }
    println!("\nTook {:.0} s.", begun.elapsed().as_secs_f64());
    Ok(())
}

/// A realm whose AuthForge is as slow as the real one may be, and as strict.
async fn slow_realm(cluster: &Cluster) -> Realm<'_> {
    let realm = Realm::new(cluster).await;
    realm.authforge.switch(|switches| {
        switches.latency_ms = u64::try_from(AUTHFORGE.as_millis()).unwrap_or_default();
        switches.rate_limit = Some(RateLimit::DOCUMENTED);
    });
    realm
}

/// Declares many grants, several at once.
async fn declare(realm: &Realm<'_>, grants: impl Iterator<Item = (String, Value)>) {
    let declare = |(name, spec): (String, Value)| async move {
        realm.declare(&name, &spec).await;
    };
    futures_util::stream::iter(grants.map(declare)).buffer_unordered(HANDS).collect::<()>().await;
}

/// When each Secret of a realm appeared.
#[derive(Debug)]
struct Arrivals {
    seen: Arc<Mutex<HashMap<String, Instant>>>,
    watching: JoinHandle<()>,
}

impl Arrivals {
    /// Begins to watch.
    async fn watch(realm: &Realm<'_>) -> anyhow::Result<Self> {
        let secrets = realm.secrets();
        let mut events = secrets.watch(&WatchParams::default(), "0").await?.boxed();
        let seen = Arc::new(Mutex::new(HashMap::new()));
        let watched = Arc::clone(&seen);
        let watching = tokio::spawn(async move {
            loop {
                while let Ok(Some(event)) = events.try_next().await {
                    let WatchEvent::Added(secret) = event else { continue };
                    let name = Self::grant(&secret).unwrap_or_default();
                    let mut seen = watched.lock().unwrap_or_else(PoisonError::into_inner);
                    seen.entry(name).or_insert_with(Instant::now);
                }
                // The server ends a watch after five minutes; the next one begins with what is there.
                events = match secrets.watch(&WatchParams::default(), "0").await {
                    Ok(events) => events.boxed(),
                    Err(_) => return,
                };
            }
        });
        Ok(Self { seen, watching })
    }

    fn grant(secret: &Secret) -> Option<String> {
        Some(secret.metadata.name.as_deref()?.strip_suffix("-license")?.to_owned())
    }

    /// When this grant's Secret appeared, waited for.
    async fn of(&self, grant: &str) -> Instant {
        let seen = || self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(grant).copied();
        wait::until_within(PATIENCE, &format!("the key of {grant}"), async || seen()).await
    }

    /// Waits until as many Secrets are there of grants whose names begin so.
    async fn until(&self, prefix: &str, count: usize) {
        let there = || {
            let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.keys().filter(|grant| grant.starts_with(prefix)).count()
        };
        wait::until_within(PATIENCE, &format!("{count} keys"), async || (there() >= count).then_some(()))
            .await;
    }
}

impl Drop for Arrivals {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

/// Ends an operator in good order.
async fn stop(operator: Operator) -> anyhow::Result<()> {
    let (code, log) = operator.stop().await;
    anyhow::ensure!(code == Some(0), "the operator said:\n{log}");
    Ok(())
}
