//! A real Kubernetes without nodes: etcd, an API server and the controller manager, fresh for whoever starts one.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use data_encoding::BASE64;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ObjectMeta, Patch, PatchParams,
    PostParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use rand::distr::{Alphanumeric, SampleString as _};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::mailpit::tool;
use crate::port::free_port;
use crate::until;

/// The definition of `LicenseGrant`, as the chart installs it.
pub const DEFINITION: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/grantsmith/files/crds/licensegrants.yaml");

/// What the audit log does not tell: what the cluster does for itself, and the first half of each request.
const AUDIT_POLICY: &str = r#"{
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived", "ResponseStarted"],
    "rules": [
        {"level": "None", "users": ["system:apiserver", "system:kube-controller-manager"]},
        {"level": "Metadata"}
    ]
}"#;

/// A request in the API server's audit log.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Audited {
    /// Who asked.
    pub user: Asker,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete` and so on.
    pub verb: String,
    /// The path and query.
    #[serde(rename = "requestURI")]
    pub uri: String,
    /// What it was about; none for paths that are no resources.
    pub object_ref: Option<Target>,
    /// How it ended.
    pub response_status: Option<AuditedStatus>,
}

/// Who asked.
#[derive(Debug, Clone, Deserialize)]
pub struct Asker {
    /// The user's name, such as `system:serviceaccount:shop:grantsmith-operator`.
    #[serde(default)]
    pub username: String,
}

/// What a request was about.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Target {
    /// The plural, such as `secrets`.
    pub resource: String,
    /// Such as `status`; empty for the object itself.
    pub subresource: String,
    /// Empty for the core group.
    pub api_group: String,
    /// Empty for the whole cluster.
    pub namespace: String,
    /// Empty for a collection.
    pub name: String,
}

/// How a request ended.
#[derive(Debug, Clone, Deserialize)]
pub struct AuditedStatus {
    /// The HTTP status.
    #[serde(default)]
    pub code: u16,
}

impl Audited {
    /// Whether it was meant to change something. Asking what one may do is a `create` that changes nothing.
    pub fn writes(&self) -> bool {
        !matches!(self.verb.as_str(), "get" | "list" | "watch") && !self.concerns("selfsubjectaccessreviews")
    }

    /// Whether it was about this kind of resource, such as `leases`.
    pub fn concerns(&self, resource: &str) -> bool {
        self.object_ref.as_ref().is_some_and(|target| target.resource == resource)
    }
}

/// A control plane of its own. It is gone, with all its files, when this is dropped or the process ends in any way.
#[derive(Debug)]
pub struct Cluster {
    folder: PathBuf,
    api: u16,
    etcd: u16,
    disturbed: AtomicBool,
    supervisor: Mutex<Supervisor>,
}

#[derive(Debug)]
struct Supervisor {
    process: Child,
    /// None once it was told to end.
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

/// A process that must not outlive its cluster.
#[derive(Debug)]
pub struct Bequest(PathBuf);

impl Drop for Bequest {
    fn drop(&mut self) {
        // The folder may be gone before it.
        drop(std::fs::remove_file(&self.0));
    }
}

impl Supervisor {
    fn order(&mut self, order: &str) {
        let orders = self.orders.as_mut().expect("the supervisor listens");
        writeln!(orders, "{order}").expect("the supervisor takes orders");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("the supervisor answers");
        assert_eq!(answer.trim_end(), order, "the supervisor does as it is told");
    }
}

fn lines(words: &[impl AsRef<str>]) -> String {
    words.iter().flat_map(|word| [word.as_ref(), "\n"]).collect()
}

fn programs() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| match std::env::var_os("GRANTSMITH_KUBERNETES") {
        Some(path) => path.into(),
        None => tool("kubernetes"),
    })
}

/// How the API server is reached by whoever the kubeconfig names.
pub async fn config(kubeconfig: &Path) -> kube::Config {
    // Each test program and tool installs it; the first one wins, and all are the same.
    drop(rustls::crypto::ring::default_provider().install_default());
    let read = Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
    let options = KubeConfigOptions::default();
    let mut config = kube::Config::from_custom_kubeconfig(read, &options).await.expect("a usable kubeconfig");
    // A watch may be silent for longer than any limit.
    config.read_timeout = None;
    config
}

/// A client for whoever the kubeconfig names.
pub async fn client(kubeconfig: &Path) -> kube::Client {
    kube::Client::try_from(config(kubeconfig).await).expect("a client")
}

impl Cluster {
    /// Starts one on free ports.
    pub async fn start() -> Self {
        let folder =
            tempfile::Builder::new().prefix("grantsmith-cluster.").tempdir().expect("a folder").keep();
        let mut process = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tools/supervise.sh"))
            .arg(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C is for the program that the person started; it ends the cluster by ending.
            .process_group(0)
            .spawn()
            .expect("bash runs");
        let orders = process.stdin.take();
        let answers = BufReader::new(process.stdout.take().expect("a pipe"));
        let supervisor = Mutex::new(Supervisor { process, orders, answers });
        let cluster = Self {
            folder,
            api: free_port(),
            etcd: free_port(),
            disturbed: AtomicBool::new(false),
            supervisor,
        };
        cluster.configure();
        cluster.order("start etcd");
        cluster.order("start kube-apiserver");
        cluster.until_ready().await;
        cluster.order("start kube-controller-manager");
        // The last thing that a new namespace gets, and what a pod or a TokenRequest needs.
        let accounts: Api<ServiceAccount> = Api::namespaced(cluster.client().await, "default");
        until("the controller manager", async || accounts.get_opt("default").await.ok().flatten()).await;
        cluster
    }

    /// The one that all tests of a program share, with the definition of `LicenseGrant` in it: each has its own namespace.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<Cluster> = OnceCell::const_new();
        SHARED
            .get_or_init(async || {
                let cluster = Self::start().await;
                cluster.define_grants().await;
                cluster
            })
            .await
    }

    /// Applies the definition of `LicenseGrant`, and waits until it is served and explained.
    pub async fn define_grants(&self) {
        self.run(&["apply", "--server-side", "-f", DEFINITION]).await;
        self.run(&["wait", "--for=condition=Established", "--timeout=60s", "-f", DEFINITION]).await;
        // The field texts are published a while after the resource is served.
        until("the field texts", async || {
            let explain = self.kubectl().args(["explain", "licensegrant"]).output().await.ok()?;
            explain.status.success().then_some(())
        })
        .await;
    }

    fn configure(&self) {
        let pki = self.folder.join("pki");
        std::fs::create_dir(&pki).expect("a folder");
        self.write("audit-policy.json", AUDIT_POLICY);
        let mut tokens = String::new();
        for user in ["admin", "system:kube-controller-manager"] {
            let token = Alphanumeric.sample_string(&mut rand::rng(), 32);
            writeln!(tokens, "{token},{user},{user},system:masters").expect("a string");
            self.kubeconfig_for(user.rsplit(':').next().unwrap_or(user), &self.api(), &token, "default");
        }
        self.write("pki/tokens.csv", &tokens);
        self.write_command(
            "etcd",
            &[
                // The data is thrown away with the cluster, so nobody waits for the disk.
                "--unsafe-no-fsync",
                "--log-level=warn",
                &format!("--data-dir={}", self.path("etcd")),
                &format!("--listen-client-urls={}", self.etcd_url()),
                &format!("--advertise-client-urls={}", self.etcd_url()),
                // A single member has no peers, but must listen for them.
                &format!("--listen-peer-urls=unix://{}", self.path("peers")),
            ],
        );
        self.write_command(
            "kube-apiserver",
            &[
                &format!("--etcd-servers={}", self.etcd_url()),
                "--bind-address=127.0.0.1",
                &format!("--secure-port={}", self.api),
                // Where the server makes itself a certificate. Its key signs tokens too: it stays over restarts.
                &format!("--cert-dir={}", self.path("pki")),
                &format!("--service-account-key-file={}", self.path("pki/apiserver.key")),
                &format!("--service-account-signing-key-file={}", self.path("pki/apiserver.key")),
                "--service-account-issuer=https://kubernetes.default.svc",
                &format!("--token-auth-file={}", self.path("pki/tokens.csv")),
                "--authorization-mode=RBAC",
                "--service-cluster-ip-range=10.96.0.0/24",
                "--endpoint-reconciler-type=none",
                &format!("--audit-policy-file={}", self.path("audit-policy.json")),
                &format!("--audit-log-path={}", self.path("audit.log")),
                "--audit-log-maxsize=4096",
            ],
        );
        self.write_command(
            "kube-controller-manager",
            &[
                &format!("--kubeconfig={}", self.path("kube-controller-manager.kubeconfig")),
                &format!("--service-account-private-key-file={}", self.path("pki/apiserver.key")),
                "--bind-address=127.0.0.1",
                &format!("--secure-port={}", free_port()),
                &format!("--cert-dir={}", self.path("pki-manager")),
                "--leader-elect=false",
                // Its own limit, far below what it may ask, would be most of a test's time.
                "--kube-api-qps=1000",
                "--kube-api-burst=1000",
            ],
        );
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn etcd_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.etcd)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.join(name), text).expect("a file");
    }

    fn write_command(&self, program: &str, flags: &[&str]) {
        let path = programs().join(program).display().to_string();
        self.write(&format!("{program}.command"), &lines(&[&[path.as_str()], flags].concat()));
    }

    /// Runs a program until the cluster's end; gives the file of what it says.
    pub fn keep(&self, name: &str, command: &[String]) -> PathBuf {
        self.write(&format!("{name}.command"), &lines(command));
        self.order(&format!("start {name}"));
        self.folder.join(format!("{name}.log"))
    }

    /// Has the supervisor kill this process too, should the test die before it: until what is given is dropped.
    pub fn bequeath(&self, pid: u32) -> Bequest {
        let file = self.folder.join(format!("{pid}.pid"));
        std::fs::write(&file, pid.to_string()).expect("a file");
        Bequest(file)
    }

    /// Where kubectl is.
    pub fn kubectl_path() -> PathBuf {
        programs().join("kubectl")
    }

    fn order(&self, order: &str) {
        self.supervisor.lock().unwrap_or_else(PoisonError::into_inner).order(order);
    }

    async fn until_ready(&self) {
        // The server writes its own certificate and the authority's into one file; clients trust the second.
        let authority = until("the API server's certificate", async || {
            let both = std::fs::read_to_string(self.folder.join("pki/apiserver.crt")).ok()?;
            let begin = "-----BEGIN CERTIFICATE-----";
            let second = both.rfind(begin).filter(|at| *at > 0)?;
            both.trim_end().ends_with("-----END CERTIFICATE-----").then(|| both[second..].to_owned())
        })
        .await;
        self.write("pki/ca.crt", &authority);
        let client = self.client().await;
        until(&format!("the API server; its log: {}", self.path("kube-apiserver.log")), async || {
            let request = http::Request::get("/readyz").body(Vec::new()).expect("a request");
            client.request_text(request).await.ok()
        })
        .await;
    }

    /// Where the API server answers.
    pub fn api(&self) -> String {
        format!("https://127.0.0.1:{}", self.api)
    }

    /// Writes a kubeconfig: who finds the API server where, with which token, at home in which namespace.
    pub fn kubeconfig_for(&self, name: &str, server: &str, token: &str, namespace: &str) -> PathBuf {
        let text = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {
                "cluster": "test",
                "user": "test",
                "namespace": namespace,
            }}],
            "clusters": [{"name": "test", "cluster": {
                "server": server,
                "certificate-authority": self.path("pki/ca.crt"),
            }}],
            "users": [{"name": "test", "user": {"token": token}}],
        });
        let path = self.folder.join(format!("{name}.kubeconfig"));
        std::fs::write(&path, text.to_string()).expect("a file");
        path
    }

    /// A kubeconfig of somebody who may do everything.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("admin.kubeconfig")
    }

    /// A client of somebody who may do everything.
    ///
    /// Each test has its own: a client's connections end with the runtime that it was made in.
    pub async fn client(&self) -> kube::Client {
        client(&self.kubeconfig()).await
    }

    /// A new namespace with a name of its own.
    pub async fn namespace(&self) -> String {
        let generated = ObjectMeta { generate_name: Some("test-".to_owned()), ..ObjectMeta::default() };
        self.create_namespace(generated).await
    }

    /// A new namespace.
    pub async fn create_namespace(&self, metadata: ObjectMeta) -> String {
        let namespaces: Api<Namespace> = Api::all(self.client().await);
        let namespace = Namespace { metadata, ..Namespace::default() };
        let made = namespaces.create(&PostParams::default(), &namespace).await.expect("a namespace");
        made.metadata.name.expect("a name")
    }

    /// Asks for a namespace's deletion, which takes its time.
    pub async fn delete_namespace(&self, name: &str) {
        let namespaces: Api<Namespace> = Api::all(self.client().await);
        namespaces.delete(name, &DeleteParams::default()).await.expect("the namespace is deleted");
    }

    /// A token of a service account, which may do what RBAC gives it and no more, as a pod has it.
    pub async fn token(&self, namespace: &str, name: &str) -> String {
        self.token_for(namespace, name, &[]).await
    }

    /// The same for these audiences instead of the API server.
    pub async fn token_for(&self, namespace: &str, name: &str, audiences: &[&str]) -> String {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client().await, namespace);
        let audiences = audiences.iter().map(|audience| (*audience).to_owned()).collect();
        let spec = TokenRequestSpec {
            audiences,
            expiration_seconds: Some(24 * 3_600),
            ..TokenRequestSpec::default()
        };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let answer = accounts.create_token_request(name, &PostParams::default(), &request).await;
        answer.expect("a token").status.expect("a token").token
    }

    /// Applies objects, in a namespace or to the whole cluster. kubectl would ask for every kind that there is first, each time.
    pub async fn apply(&self, namespace: Option<&str>, objects: Vec<Value>) {
        let client = self.client().await;
        let manager = PatchParams::apply("grantsmith-tests").force();
        for object in objects {
            let object: DynamicObject = serde_json::from_value(object).expect("an object");
            let kind = GroupVersionKind::try_from(object.types.clone().expect("a kind")).expect("a kind");
            let resource = ApiResource::from_gvk(&kind);
            let api: Api<DynamicObject> = match namespace {
                Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
                None => Api::all_with(client.clone(), &resource),
            };
            let name = object.metadata.name.clone().expect("a name");
            api.patch(&name, &manager, &Patch::Apply(&object)).await.expect("the object is taken");
        }
    }

    /// Applies a file of manifests in a namespace.
    pub async fn apply_file(&self, namespace: &str, file: &str) {
        let text = std::fs::read_to_string(file).expect("manifests");
        self.apply(Some(namespace), serde_saphyr::from_multiple(&text).expect("manifests")).await;
    }

    /// kubectl, as somebody who may do everything.
    pub fn kubectl(&self) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(Self::kubectl_path());
        // Its cache of what the server knows would outlive this cluster.
        command.env("KUBECONFIG", self.kubeconfig()).env("KUBECACHEDIR", self.folder.join("kubectl"));
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Runs kubectl to its good end; gives what it prints.
    pub async fn run(&self, arguments: &[&str]) -> String {
        let output = self.kubectl().args(arguments).output().await.expect("kubectl runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "kubectl {arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Every request of this user that was answered so far.
    pub fn audited(&self, user: &str) -> Vec<Audited> {
        let log = std::fs::read(self.folder.join("audit.log")).expect("an audit log");
        // The last line may be half written.
        let whole = log.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let text = std::str::from_utf8(&log[..whole]).expect("an audit log of text");
        // Reading JSON is what takes the time.
        let lines = text.lines().filter(|line| line.contains(user));
        let audited = lines.map(|line| serde_json::from_str::<Audited>(line).expect("an audited request"));
        audited.filter(|request| request.user.username == user).collect()
    }

    /// Deletes the definition of `LicenseGrant`, and with it every grant.
    pub async fn undefine_grants(&self) {
        self.disturbed.store(true, Ordering::Relaxed);
        self.run(&["delete", "crd", "licensegrants.grantsmith.dev", "--timeout=60s"]).await;
    }

    /// Kills the API server; what it knows is in etcd.
    pub fn stop_api_server(&self) {
        self.order("kill kube-apiserver");
    }

    /// Starts the API server again, at the same address.
    pub async fn start_api_server(&self) {
        self.disturbed.store(true, Ordering::Relaxed);
        self.order("start kube-apiserver");
        self.until_ready().await;
    }

    /// Whether the API server was ever started again, or the definition taken away: until all roles are known, or all that is
    /// left of the definition is gone, what will be granted is refused.
    pub fn was_disturbed(&self) -> bool {
        self.disturbed.load(Ordering::Relaxed)
    }

    async fn ask_etcd(&self, path: &str, question: &Value) -> Value {
        let client = grantsmith_authforge::http_client(&[]).expect("a client");
        let answer = client.post(format!("{}/v3/{path}", self.etcd_url())).json(question).send().await;
        answer.expect("etcd answers").json().await.expect("etcd speaks JSON")
    }

    /// Everything that etcd holds, by its key there.
    pub async fn stored(&self) -> Vec<(String, Vec<u8>)> {
        // From the first key to the last, as etcd writes it.
        let all = self.ask_etcd("kv/range", &json!({"key": "AA==", "range_end": "AA=="})).await;
        let bytes =
            |value: &Value| BASE64.decode(value.as_str().unwrap_or_default().as_bytes()).expect("base64");
        let pair = |pair: &Value| {
            (String::from_utf8_lossy(&bytes(&pair["key"])).into_owned(), bytes(&pair["value"]))
        };
        all["kvs"].as_array().expect("values").iter().map(pair).collect()
    }

    /// Makes etcd forget all but the newest version of everything: who watched from an older one must begin anew.
    pub async fn forget_versions(&self) {
        let now = self.ask_etcd("kv/range", &json!({"key": "AA=="})).await;
        self.ask_etcd("kv/compaction", &json!({"revision": now["header"]["revision"], "physical": true}))
            .await;
    }

    /// The folder of everything that belongs to this cluster; it goes with it.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let supervisor = self.supervisor.get_mut().unwrap_or_else(PoisonError::into_inner);
        supervisor.orders = None;
        // A supervisor that cannot be waited for ends all the same.
        drop(supervisor.process.wait());
    }
}
