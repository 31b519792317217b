//! A real Kubernetes that runs pods, in namespaces of its own: `tests/tools/node`.

use std::fmt;
use std::fs::File;
use std::future::Future;
use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::Api;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::runtime::Runtime;

use crate::cluster::{self, Audited};
use crate::mailpit::tool;
use crate::until;

/// The node's own address: here pods find what a test serves.
pub const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 88, 0, 1));

/// The images that the node has, without their tag: the service's and the operator's.
pub const IMAGES: [&str; 2] = ["localhost/grantsmith/grantsmith", "localhost/grantsmith/grantsmith-operator"];

/// The tag that they have.
pub const TAG: &str = "test";

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tools/node");

struct Life {
    process: Child,
    /// The node lives for as long as this is open.
    hold: Option<ChildStdin>,
}

/// A node with its control plane. It is gone, with all its files, when this is dropped or the process ends in any way.
pub struct Node {
    folder: PathBuf,
    /// Its first process, as this machine numbers it.
    first: String,
    /// None once it was told to end.
    life: Mutex<Option<Life>>,
    network: Arc<File>,
    runtime: Runtime,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("folder", &self.folder).finish_non_exhaustive()
    }
}

/// Why this machine cannot run a node; none if it can.
pub fn unable() -> Option<&'static str> {
    static REASON: OnceLock<Option<String>> = OnceLock::new();
    let reason = REASON.get_or_init(|| {
        let output = Command::new(format!("{SCRIPTS}/able.sh")).output().expect("bash runs");
        (!output.status.success()).then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    });
    reason.as_deref()
}

fn path_in(variable: &str, else_built: impl FnOnce() -> PathBuf) -> PathBuf {
    std::env::var_os(variable).map_or_else(else_built, PathBuf::from)
}

/// The folder of the images' tars.
fn images() -> PathBuf {
    path_in("GRANTSMITH_IMAGES", || {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
        let target = path_in("CARGO_TARGET_DIR", || PathBuf::from(root).join("target"));
        let folder = target.join("images-dev");
        let mut script = Command::new(format!("{root}/deploy/images.sh"));
        let status = script.arg("dev").arg(&folder).arg(TAG).stdout(Stdio::null()).status();
        assert!(status.expect("bash runs").success(), "the images are built");
        folder
    })
}

/// Networks are the business of single threads.
fn move_into(network: &File) {
    move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
        .expect("a thread may move into the node's network");
}

fn programs() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| path_in("GRANTSMITH_NODE", || tool("node")))
}

impl Node {
    /// Starts one with our images in it.
    pub fn start() -> Self {
        let images = images();
        let image = |name: &str| images.join(name.rsplit('/').next().unwrap_or(name)).with_extension("tar");
        let folder = tempfile::Builder::new().prefix("grantsmith-node.").tempdir().expect("a folder").keep();
        let mut process = Command::new(format!("{SCRIPTS}/up.sh"))
            .arg(&folder)
            .arg(programs())
            .args(IMAGES.map(image))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C is for the program that the person started; it ends the node by ending.
            .process_group(0)
            .spawn()
            .expect("bash runs");
        let hold = process.stdin.take();
        let mut answer = String::new();
        let answers = process.stdout.take().expect("a pipe");
        BufReader::new(answers).read_line(&mut answer).expect("the node says when it is up");
        let first = answer.trim().strip_prefix("up ").expect("the node comes up").to_owned();
        let network = Arc::new(File::open(format!("/proc/{first}/ns/net")).expect("the node's network"));
        let to = Arc::clone(&network);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .on_thread_start(move || move_into(&to))
            .build()
            .expect("a runtime");
        Self { folder, first, life: Mutex::new(Some(Life { process, hold })), network, runtime }
    }

    /// Runs a test in the node's network, with its children: what they listen on, pods reach at [`ADDRESS`], and they
    /// reach pods and Services. What it spawns lives as long as the node.
    pub fn run<F: Future<Output = ()>>(&self, test: impl FnOnce() -> F + Send) {
        // The thread that asks stays where it is: it may have other tests to run.
        let done = std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into(&self.network);
                self.runtime.block_on(test());
            });
            inside.join()
        });
        if let Err(panic) = done {
            std::panic::resume_unwind(panic);
        }
    }

    /// Ends it, and waits until nothing is left of it.
    pub fn end(&self) {
        let life = self.life.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Life { mut process, hold }) = life {
            drop(hold);
            // A supervisor that cannot be waited for ends all the same.
            drop(process.wait());
        }
    }

    /// What to put before a command so that it is the node's: it reaches what pods reach, and ends with the node.
    pub fn before_command(&self) -> Vec<String> {
        let target = format!("--target={}", self.first);
        ["nsenter", &target, "--net", "--pid"].map(str::to_owned).to_vec()
    }

    /// The folder of everything that belongs to this node; it goes with it.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A client of somebody who may do everything.
    pub async fn client(&self) -> kube::Client {
        cluster::client(&self.kubeconfig()).await
    }

    fn kubeconfig(&self) -> PathBuf {
        self.folder.join("admin.kubeconfig")
    }

    fn command(&self, program: &Path) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(program);
        command.env("KUBECONFIG", self.kubeconfig()).stdin(Stdio::null()).kill_on_drop(true);
        // What they remember of a cluster would outlive it.
        command.env("KUBECACHEDIR", self.folder.join("kubectl"));
        for home in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            command.env(home, self.folder.join("helm"));
        }
        command
    }

    /// kubectl, as somebody who may do everything.
    pub fn kubectl(&self) -> tokio::process::Command {
        self.command(&programs().join("kubectl"))
    }

    /// Helm, as somebody who may do everything.
    pub fn helm(&self) -> tokio::process::Command {
        static HELM: OnceLock<PathBuf> = OnceLock::new();
        self.command(HELM.get_or_init(|| path_in("GRANTSMITH_HELM", || tool("helm"))))
    }

    /// Gives the service's and the operator's image another tag besides.
    pub async fn tag(&self, tag: &str) {
        for image in IMAGES {
            let mut ctr = tokio::process::Command::new(programs().join("ctr"));
            ctr.arg("--address").arg(self.folder.join("fs/run/containerd/containerd.sock"));
            ctr.args(["--namespace", "k8s.io", "images", "tag", "--force"]);
            good(ctr.args([&format!("{image}:{TAG}"), &format!("{image}:{tag}")])).await;
        }
    }

    /// Runs kubectl to its good end; gives what it prints.
    pub async fn run_kubectl(&self, arguments: &[&str]) -> String {
        good(self.kubectl().args(arguments)).await
    }

    /// Applies these objects in a namespace.
    pub async fn apply(&self, namespace: &str, objects: &[Value]) {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
        let mut kubectl = self.kubectl();
        kubectl.args(["apply", "--server-side", "--namespace", namespace, "--filename", "-"]);
        let mut kubectl = kubectl.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("kubectl runs");
        let mut input = kubectl.stdin.take().expect("a pipe");
        input.write_all(list.as_bytes()).await.expect("kubectl reads");
        drop(input);
        assert!(kubectl.wait().await.expect("a status").success(), "the objects are taken: {list}");
    }

    /// A new namespace that takes only pods without any privilege.
    pub async fn namespace(&self, name: &str) {
        self.apply(
            "default",
            &[json!({
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {"name": name, "labels": {
                    "pod-security.kubernetes.io/enforce": "restricted",
                    "pod-security.kubernetes.io/enforce-version": "latest",
                }},
            })],
        )
        .await;
        // No pod is taken before its account is there.
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client().await, name);
        until("the namespace's account", async || accounts.get_opt("default").await.ok().flatten()).await;
    }

    /// What pods of a namespace asked of the API server and were refused for want of a right.
    pub fn refused(&self, namespace: &str) -> Vec<Audited> {
        let pods = format!("system:serviceaccount:{namespace}:");
        let log = std::fs::read_to_string(self.folder.join("audit.log")).unwrap_or_default();
        let asked = log.lines().filter(|line| line.contains(&pods));
        let asked = asked.filter_map(|line| serde_json::from_str::<Audited>(line).ok());
        asked
            .filter(|asked| asked.response_status.as_ref().is_some_and(|status| status.code == 403))
            .collect()
    }
}

/// Runs a program to its good end; gives what it prints.
pub async fn good(command: &mut tokio::process::Command) -> String {
    let output = command.output().await.expect("the program runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

impl Drop for Node {
    fn drop(&mut self) {
        self.end();
    }
}
