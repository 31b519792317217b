//! A namespace with operators in it, an AuthForge of its own, and the people who declare grants there.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use grantsmith_authforge::SystemClock;
use grantsmith_authforge::fake::{Deeds, Fake, Settings, Stored, Switches};
use grantsmith_crd::{LicenseGrant, READY};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{Event, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cluster::{Audited, Bequest, Cluster};
use crate::program::{Program, built};
use crate::{APP, AUTHFORGE_KEY, until};

/// What an operator may do in its namespace, as an installation applies it.
pub const ROLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/operator/rbac.yaml");

/// The operator's service account, in that file.
pub const ACCOUNT: &str = "grantsmith-operator";

/// What a server that issues through the cluster may do there, as an installation applies it.
pub const SERVER_ROLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/server/rbac.yaml");

/// The server's service account, in that file.
pub const SERVER: &str = "grantsmith-server";

/// The file of the operator: the one that `GRANTSMITH_OPERATOR` names, or freshly built.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match std::env::var_os("GRANTSMITH_OPERATOR") {
        Some(path) => path.into(),
        None => built("grantsmith-operator"),
    })
}

/// A namespace with all that an operator needs, and no operator yet.
pub struct Realm<'a> {
    /// Where it is.
    pub cluster: &'a Cluster,
    /// Its name.
    pub namespace: String,
    /// A client of somebody who may do everything.
    pub client: kube::Client,
    /// AuthForge.
    pub authforge: Fake,
    /// The operator's token.
    pub token: String,
    folder: TempDir,
}

impl fmt::Debug for Realm<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Realm").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

/// How an operator is started.
#[derive(Debug, Clone)]
pub struct Start {
    /// Further flags.
    pub flags: Vec<String>,
    /// Where it finds the API server.
    pub api: String,
    /// Where it finds AuthForge.
    pub authforge: String,
    /// How far its wall clock is ahead, in seconds.
    pub ahead: i64,
}

/// A running operator.
#[derive(Debug)]
pub struct Operator {
    program: Program,
    admin: SocketAddr,
    client: reqwest::Client,
    _bequest: Bequest,
}

impl<'a> Realm<'a> {
    /// A new namespace in this cluster, with an AuthForge that behaves as documented.
    pub async fn new(cluster: &'a Cluster) -> Self {
        Self::at(cluster, cluster.namespace().await).await
    }

    /// The same in this namespace.
    pub async fn at(cluster: &'a Cluster, namespace: String) -> Self {
        cluster.apply_file(&namespace, ROLE).await;
        let token = cluster.token(&namespace, ACCOUNT).await;
        let mut settings = Settings::new(Arc::new(SystemClock)).with(Switches::default());
        settings.seed = rand::random();
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("authforge-key"), format!("{AUTHFORGE_KEY}\n")).expect("a file");
        Self {
            cluster,
            namespace,
            client: cluster.client().await,
            authforge: Fake::start(settings).await.expect("a fake AuthForge"),
            token,
            folder,
        }
    }

    /// Gives somebody else their rights here; gives their token.
    pub async fn account(&self, role: &str, account: &str) -> String {
        self.cluster.apply_file(&self.namespace, role).await;
        self.cluster.token(&self.namespace, account).await
    }

    /// Gives one of this realm's accounts rights in the whole cluster: RBAC's rules.
    pub async fn allow_everywhere(&self, account: &str, rules: &Value) {
        let name = format!("{}.{account}", self.namespace);
        let kind = |kind: &str| json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name}});
        let (mut role, mut binding) = (kind("ClusterRole"), kind("ClusterRoleBinding"));
        role["rules"] = rules.clone();
        binding["roleRef"] =
            json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name});
        binding["subjects"] =
            json!([{"kind": "ServiceAccount", "name": account, "namespace": self.namespace}]);
        self.cluster.apply(None, vec![role, binding]).await;
    }

    /// An operator of this realm, with these flags besides those that say where everything is.
    pub fn plan(&self, flags: &[&str]) -> Start {
        Start {
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            api: self.cluster.api(),
            authforge: self.authforge.url(),
            ahead: 0,
        }
    }

    /// Starts an operator that works alone, and waits until it is ready.
    pub async fn operator(&self, flags: &[&str]) -> Operator {
        let mut start = self.plan(flags);
        start.flags.extend(["--leader-election".to_owned(), "false".to_owned()]);
        let operator = self.start(&start).await;
        operator.until_ready().await;
        operator
    }

    /// How an operator is started, and in which environment.
    pub fn command(&self, start: &Start) -> (Vec<String>, Vec<(&'static str, String)>) {
        let name = format!("{}.operator-{}", self.namespace, rand::random::<u32>());
        let kubeconfig = self.cluster.kubeconfig_for(&name, &start.api, &self.token, &self.namespace);
        let key = self.folder.path().join("authforge-key").display().to_string();
        let fixed = ["run", "--log-format", "text", "--admin-listen", "127.0.0.1:0"];
        let mut arguments = vec![binary().display().to_string()];
        arguments.extend(fixed.map(str::to_owned));
        let mut flag = |name: &str, value: &str| arguments.extend([name.to_owned(), value.to_owned()]);
        flag("--authforge-url", &start.authforge);
        flag("--authforge-api-key-file", &key);
        arguments.extend(start.flags.iter().cloned());
        let mut environment =
            vec![("RUST_LOG", "info".to_owned()), ("KUBECONFIG", kubeconfig.display().to_string())];
        if start.ahead != 0 {
            environment.extend([
                ("LD_PRELOAD", libfaketime().to_owned()),
                ("FAKETIME", format!("{:+}s", start.ahead)),
                // The wall clock alone: what a wrong clock does to a machine.
                ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ]);
        }
        (arguments, environment)
    }

    /// Starts an operator.
    pub async fn start(&self, start: &Start) -> Operator {
        let (arguments, environment) = self.command(start);
        let mut command = tokio::process::Command::new(&arguments[0]);
        command.args(&arguments[1..]);
        let environment: Vec<_> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let program = Program::of(command, &environment, self.folder.path());
        let bequest = self.cluster.bequeath(program.pid());
        let admin = program.address("admin").await;
        let client = grantsmith_authforge::http_client(&[]).expect("a client");
        Operator { program, admin, client, _bequest: bequest }
    }

    /// The realm's grants.
    pub fn grants(&self) -> Api<LicenseGrant> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The realm's Secrets.
    pub fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Declares a grant, or what has changed of it: a manifest's `spec`.
    pub async fn declare(&self, name: &str, spec: &Value) -> LicenseGrant {
        let manifest = json!({
            "apiVersion": "grantsmith.dev/v1alpha1",
            "kind": "LicenseGrant",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": spec,
        });
        let applied =
            self.grants().patch(name, &PatchParams::apply("shop").force(), &Patch::Apply(manifest)).await;
        applied.expect("the grant is taken")
    }

    /// Declares a manual grant of one license, paid now, and waits for its key.
    pub async fn issue(&self, name: &str) -> String {
        self.declare(name, &manual(name)).await;
        self.until_key(name).await
    }

    /// Changes a grant as a person does.
    pub async fn edit(&self, name: &str, change: &Value) {
        self.grants()
            .patch(name, &PatchParams::default(), &Patch::Merge(change))
            .await
            .expect("the change is taken");
    }

    /// Deletes a grant.
    pub async fn delete(&self, name: &str) {
        self.grants().delete(name, &DeleteParams::default()).await.expect("the grant is deleted");
    }

    /// Waits until a grant is so.
    pub async fn until_grant(
        &self,
        name: &str,
        what: &str,
        is: impl Fn(&LicenseGrant) -> bool,
    ) -> LicenseGrant {
        let grants = self.grants();
        until(&format!("{name} {what}"), async || grants.get(name).await.ok().filter(&is)).await
    }

    /// Waits until a grant is as its newest spec declares.
    pub async fn until_settled(&self, name: &str) -> LicenseGrant {
        self.until_grant(name, "to be as declared", |grant| {
            let observed = grant.status.as_ref().and_then(|status| status.observed_generation);
            observed == grant.metadata.generation
                && condition(grant, READY).is_some_and(|c| c.status == "True")
        })
        .await
    }

    /// Waits until a grant is not ready, or stalled, for this reason.
    pub async fn until_reason(&self, name: &str, reason: &str) -> LicenseGrant {
        self.until_grant(name, &format!("to be {reason}"), |grant| {
            condition(grant, READY).is_some_and(|condition| condition.reason == reason)
        })
        .await
    }

    /// Waits until a grant is settled; gives the key of its license `main`.
    pub async fn until_key(&self, name: &str) -> String {
        self.until_settled(name).await;
        self.keys(name).await.remove("main").expect("a key")
    }

    /// What is in a grant's Secret: license names and keys.
    pub async fn keys(&self, name: &str) -> BTreeMap<String, String> {
        let secret = self.secrets().get_opt(&format!("{name}-license")).await.expect("an answer");
        let data = secret.and_then(|secret| secret.data).unwrap_or_default();
        data.into_iter().map(|(name, key)| (name, String::from_utf8(key.0).expect("a key"))).collect()
    }

    /// The licenses of a manual grant of this name at AuthForge that are not revoked.
    pub fn live(&self, name: &str) -> Vec<String> {
        let label = format!("Grant default/{name}");
        let live = |license: &Stored| license.label.as_deref() == Some(&label) && !license.revoked;
        self.authforge.licenses().into_iter().filter(live).map(|license| license.key).collect()
    }

    /// How many licenses were ever made by calls.
    pub fn created(&self) -> usize {
        self.authforge.history().iter().filter(|deed| deed.what == Deeds::Created).count()
    }

    /// How many times the devices of a license were unbound.
    pub fn resets(&self) -> usize {
        self.authforge.history().iter().filter(|deed| deed.what == Deeds::DevicesReset).count()
    }

    /// The reasons of the events about a grant, oldest first.
    pub async fn events(&self, name: &str) -> Vec<String> {
        let events: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        let about = ListParams::default().fields(&format!("involvedObject.name={name}"));
        let mut events = events.list(&about).await.expect("events").items;
        events.sort_by_key(|event| event.metadata.creation_timestamp.clone());
        events.into_iter().filter_map(|event| event.reason).collect()
    }

    /// What the operators' lease says; none before anybody leads.
    pub async fn lease(&self) -> Option<LeaseSpec> {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), &self.namespace);
        leases.list(&ListParams::default()).await.ok()?.items.pop()?.spec
    }

    /// Waits until the leader has renewed its lease some times: an operator's pulse.
    pub async fn beats(&self, count: usize) {
        for _ in 0..count {
            let before = self.lease().await.and_then(|lease| lease.renew_time);
            until("the lease to be renewed", async || {
                self.lease().await?.renew_time.filter(|now| Some(now) != before.as_ref())
            })
            .await;
        }
    }

    /// What the operators of this realm asked of the API server.
    pub fn audited(&self) -> Vec<Audited> {
        self.audited_of(ACCOUNT)
    }

    /// What a service account of this realm asked of the API server.
    pub fn audited_of(&self, account: &str) -> Vec<Audited> {
        self.cluster.audited(&format!("system:serviceaccount:{}:{account}", self.namespace))
    }
}

impl Drop for Realm<'_> {
    /// Whatever a test is about: an operator never tries what it may not.
    fn drop(&mut self) {
        if std::thread::panicking() || self.cluster.was_disturbed() {
            return;
        }
        let mut audited = self.audited();
        audited.extend(self.audited_of(SERVER));
        let refused = |request: &&Audited| request.response_status.as_ref().is_some_and(|s| s.code == 403);
        let refused: Vec<_> = audited.iter().filter(refused).collect();
        assert!(refused.is_empty(), "an operator or a server was refused: {refused:#?}");
    }
}

/// One condition of a grant.
pub fn condition<'g>(grant: &'g LicenseGrant, kind: &str) -> Option<&'g Condition> {
    grant.status.as_ref()?.conditions.iter().find(|condition| condition.type_ == kind)
}

/// The spec of a manual grant of one license, paid now.
pub fn manual(reference: &str) -> Value {
    use grantsmith_core::port::Clock as _;
    json!({
        "purchase": {"provider": "manual", "reference": reference, "paidAt": SystemClock.now().wall.to_string()},
        "licenses": [{"name": "main", "appId": APP}],
    })
}

impl Operator {
    async fn ask(&self, path: &str) -> Option<(u16, String)> {
        let answer = self.client.get(format!("http://{}{path}", self.admin)).send().await.ok()?;
        Some((answer.status().as_u16(), answer.text().await.ok()?))
    }

    /// What `/readyz` says.
    pub async fn readiness(&self) -> (u16, String) {
        self.ask("/readyz").await.unwrap_or_default()
    }

    /// Waits until it is ready.
    pub async fn until_ready(&self) {
        until(&format!("readiness of an operator, which said:\n{}", self.log()), async || {
            (self.readiness().await.0 == 200).then_some(())
        })
        .await;
    }

    /// What `/metrics` says.
    pub async fn metrics(&self) -> String {
        self.ask("/metrics").await.unwrap_or_default().1
    }

    /// All that it has said.
    pub fn log(&self) -> String {
        self.program.log()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.program.pid()
    }

    /// [`Program::freeze`].
    pub fn freeze(&self) {
        self.program.freeze();
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.program.signal(Signal::CONT);
    }

    /// `kill -9`; gives all that it said.
    pub async fn kill(self) -> String {
        self.program.kill().await
    }

    /// SIGTERM, waited for; gives its exit code and all that it said.
    pub async fn stop(self) -> (Option<i32>, String) {
        self.program.terminate();
        let (status, log) = self.program.end().await;
        (status.code(), log)
    }
}

fn libfaketime() -> &'static str {
    static LIBRARY: OnceLock<String> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let folders = std::fs::read_dir("/usr/lib").expect("libraries").filter_map(Result::ok);
        let below = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));
        let path =
            below.chain(["/usr/local/lib/faketime/libfaketimeMT.so.1".into()]).find(|path| path.exists());
        path.expect("libfaketime, which tests/tools/prerequisites.sh gets").display().to_string()
    })
}
