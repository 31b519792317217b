//! The control plane that other tests stand on: real, quick, and gone afterwards.

#![expect(clippy::expect_used, reason = "a test stops where the world is not as it set it up")]

use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use grantsmith_tests::{Cluster, cluster, until};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, ObjectMeta, PostParams};

fn config_map(name: &str, owner: Option<&ConfigMap>) -> ConfigMap {
    let owner = owner.map(|owner| OwnerReference {
        api_version: "v1".to_owned(),
        kind: "ConfigMap".to_owned(),
        name: owner.metadata.name.clone().expect("a name"),
        uid: owner.metadata.uid.clone().expect("an id"),
        ..OwnerReference::default()
    });
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            owner_references: owner.map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        ..ConfigMap::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_keeps_what_it_is_told_over_restarts_and_takes_namespaces_and_owned_objects_away() {
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let space = cluster.namespace().await;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &space);
    let owner = maps.create(&PostParams::default(), &config_map("owner", None)).await.expect("it is made");
    maps.create(&PostParams::default(), &config_map("owned", Some(&owner))).await.expect("it is made");

    cluster.stop_api_server();
    assert!(maps.get("owner").await.is_err(), "nobody answers");
    cluster.start_api_server().await;
    maps.get("owner").await.expect("it is still there");

    maps.delete("owner", &kube::api::DeleteParams::default()).await.expect("it is deleted");
    until("the owned to follow", async || maps.get_opt("owned").await.ok()?.is_none().then_some(())).await;
    cluster.delete_namespace(&space).await;
    let spaces: Api<Namespace> = Api::all(client);
    until("the namespace to go", async || spaces.get_opt(&space).await.ok()?.is_none().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_account_may_do_nothing_by_itself_and_is_seen_in_the_audit_log() {
    let cluster = Cluster::start().await;
    let space = cluster.namespace().await;
    let accounts: Api<ServiceAccount> = Api::namespaced(cluster.client().await, &space);
    let account = ServiceAccount {
        metadata: ObjectMeta { name: Some("somebody".to_owned()), ..ObjectMeta::default() },
        ..ServiceAccount::default()
    };
    accounts.create(&PostParams::default(), &account).await.expect("it is made");
    let token = cluster.token(&space, "somebody").await;
    let client = cluster::client(&cluster.kubeconfig_for("somebody", &cluster.api(), &token, &space)).await;
    let maps: Api<ConfigMap> = Api::namespaced(client, &space);
    let refused = maps.list(&kube::api::ListParams::default()).await.expect_err("it is refused");
    assert!(matches!(&refused, kube::Error::Api(status) if status.code == 403), "{refused}");
    let user = format!("system:serviceaccount:{space}:somebody");
    let seen =
        until("the request in the audit log", async || cluster.audited(&user).into_iter().next()).await;
    assert_eq!(seen.verb, "list");
    assert_eq!(seen.object_ref.expect("an object").resource, "configmaps");
    assert_eq!(seen.response_status.expect("a status").code, 403);
}

/// Whatever runs with this folder in its command line.
fn processes_of(folder: &str) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").expect("a proc").filter_map(Result::ok);
    let lines = processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|l| l.contains(folder))
        .collect()
}

/// The folder is named in the test's environment, because what is killed cannot tell.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_it_or_beside_it_when_its_test_is_killed() {
    const TOLD: &str = "GRANTSMITH_TEST_TELLS";
    if let Some(told) = std::env::var_os(TOLD) {
        let cluster = Cluster::start().await;
        let mut ours = Command::new("tail");
        let ours = ours.arg("-f").arg(cluster.folder().join("etcd.log")).stdout(Stdio::null()).spawn();
        let _bequest = cluster.bequeath(ours.expect("it starts").id());
        std::fs::write(told, cluster.folder().display().to_string()).expect("a file");
        return std::future::pending().await;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let told = folder.path().join("told");
    let mut victim = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "nothing_is_left_of_it_or_beside_it_when_its_test_is_killed"])
        .env(TOLD, &told)
        .stdout(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("it starts");
    let cluster =
        until("a cluster", async || std::fs::read_to_string(&told).ok().filter(|folder| !folder.is_empty()))
            .await;
    assert!(processes_of(&cluster).len() >= 5, "{:?}", processes_of(&cluster));
    victim.kill().expect("it is killed");
    victim.wait().expect("it is gone");
    until("the cluster's end", async || processes_of(&cluster).is_empty().then_some(())).await;
    until("the folder's end", async || (!std::path::Path::new(&cluster).exists()).then_some(())).await;
}
