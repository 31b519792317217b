//! What a real API server makes of the chart.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use grantsmith_tests::{APP, Cluster};
use kube::api::ObjectMeta;
use serde_json::{Value, json};

use crate::{CHART, MINIMAL, documents, examples, helm, rendered, told};

/// Kinds of other people, which a bare API server does not know.
fn is_ours(object: &Value) -> bool {
    let version = object["apiVersion"].as_str().unwrap_or_default();
    !["monitoring.coreos.com/", "cert-manager.io/", "gateway.networking.k8s.io/"]
        .iter()
        .any(|foreign| version.starts_with(foreign))
}

/// A namespace that refuses pods which are not restricted, and warns of Deployments that would make some.
async fn restricted(cluster: &Cluster, name: Option<&str>) -> String {
    let labels: BTreeMap<_, _> = ["enforce", "warn"]
        .map(|mode| (format!("pod-security.kubernetes.io/{mode}"), "restricted".to_owned()))
        .into();
    let generate_name = name.is_none().then(|| "test-".to_owned());
    let metadata = ObjectMeta {
        name: name.map(str::to_owned),
        generate_name,
        labels: Some(labels),
        ..ObjectMeta::default()
    };
    cluster.create_namespace(metadata).await
}

fn kubectl(cluster: &Cluster) -> Command {
    let mut command = Command::new(Cluster::kubectl_path());
    command.env("KUBECONFIG", cluster.kubeconfig()).env("KUBECACHEDIR", cluster.folder().join("kubectl"));
    command
}

/// Has the API server judge the objects, or really take them; gives all that it says.
fn apply(cluster: &Cluster, folder: &Path, objects: &[Value], dry: bool) -> Result<String, String> {
    let file = folder.join("objects.json");
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    std::fs::write(&file, list.to_string()).expect("a file");
    let mut command = kubectl(cluster);
    command.args(["apply", "--server-side", "--force-conflicts", "-f"]).arg(file);
    if dry {
        command.arg("--dry-run=server");
    }
    let output = command.output().expect("kubectl runs");
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if output.status.success() { Ok(text) } else { Err(text) }
}

/// The pod that a Deployment would make.
fn pod(deployment: &Value) -> Value {
    let mut metadata = deployment["spec"]["template"]["metadata"].clone();
    metadata["name"] = deployment["metadata"]["name"].clone();
    metadata["namespace"] = deployment["metadata"]["namespace"].clone();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": deployment["spec"]["template"]["spec"],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_takes_every_example_and_its_pods_are_restricted() {
    let cluster = Cluster::shared().await;
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["press", "beta"] {
        restricted(cluster, Some(name)).await;
    }
    for values in examples() {
        let home = restricted(cluster, None).await;
        let grants = restricted(cluster, None).await;
        let there = ["--namespace", &home, "--set", &format!("grants.namespace={grants}")];
        let objects = documents(&rendered(&values, &there).expect("it renders"));
        let (ours, theirs): (Vec<_>, Vec<_>) = objects.into_iter().partition(is_ours);
        for foreign in &theirs {
            assert!(foreign["spec"].is_object() && foreign["metadata"]["namespace"] == home.as_str());
        }
        // A pod is refused whose account is not there, also in a rehearsal.
        let accounts: Vec<_> =
            ours.iter().filter(|object| object["kind"] == "ServiceAccount").cloned().collect();
        assert_eq!(accounts.len(), 3);
        apply(cluster, folder.path(), &accounts, false).expect("accounts");
        let taken = apply(cluster, folder.path(), &ours, true);
        let said = taken.unwrap_or_else(|refused| panic!("{values}: {refused}"));
        assert!(!said.contains("Warning"), "{values}: {said}");
        assert_eq!(said.matches("(server dry run)").count(), ours.len(), "{values}: {said}");

        let deployments = ours.iter().filter(|object| object["kind"] == "Deployment");
        let pods: Vec<_> = deployments.map(pod).collect();
        assert_eq!(pods.len(), 3);
        let taken = apply(cluster, folder.path(), &pods, true);
        assert!(taken.is_ok(), "{values}: {taken:?}");
        // The judge is awake.
        for careless in ["/spec/containers/0/securityContext", "/spec/securityContext"] {
            let mut pod = pods[0].clone();
            *pod.pointer_mut(careless).expect("a context") = json!({});
            let refused = apply(cluster, folder.path(), &[pod], true).expect_err("it is refused");
            assert!(refused.contains("violates PodSecurity \"restricted"), "{refused}");
        }
    }
}

/// Helm, as somebody who may do everything in this cluster, with nothing of the machine's own.
fn helm_in(cluster: &Cluster, folder: &Path, arguments: &[&str]) -> String {
    let mut command = helm();
    command.env("KUBECONFIG", cluster.kubeconfig()).args(arguments);
    for place in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        command.env(place, folder.join(place));
    }
    told(&mut command).unwrap_or_else(|wrong| panic!("helm {arguments:?}: {wrong}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn grants_definition_and_record_outlive_the_release_and_the_next_one_takes_them_over() {
    let cluster = Cluster::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let helm = |arguments: &[&str]| helm_in(&cluster, folder.path(), arguments);
    restricted(&cluster, Some("shop")).await;
    let install = ["install", "grantsmith", CHART, "--namespace", "shop", "--values", MINIMAL];

    let notes = helm(&install);
    for told in [
        "https://licenses.example.com/webhooks/stripe",
        "checkout.session.completed",
        "kubectl -n shop-licenses get lg --watch",
        "grantsmith-stripe, key api-key: Stripe's API key",
        "Service grantsmith-webhook, port 80",
    ] {
        assert!(notes.contains(told), "{told}: {notes}");
    }
    cluster
        .run(&["wait", "--for=condition=Established", "--timeout=60s", "crd/licensegrants.grantsmith.dev"])
        .await;
    // The notes' own example.
    let grant = json!({
        "apiVersion": "grantsmith.dev/v1alpha1",
        "kind": "LicenseGrant",
        "metadata": {"name": "first", "namespace": "shop-licenses"},
        "spec": {"purchase": {"provider": "manual", "reference": "first"}, "licenses": [{"name": "main", "appId": APP}]},
    });
    apply(&cluster, folder.path(), &[grant], false).expect("the grant is taken");
    let uid = async |what: &[&str]| {
        let asked = [&["get", "-o", "jsonpath={.metadata.uid}"], what].concat();
        let uid = cluster.run(&asked).await;
        assert!(!uid.is_empty());
        uid
    };
    let kept: [&[&str]; 4] = [
        &["crd", "licensegrants.grantsmith.dev"],
        &["namespace", "shop-licenses"],
        &["-n", "shop-licenses", "lg", "first"],
        &["-n", "shop", "pvc", "grantsmith-server"],
    ];
    let mut before = Vec::new();
    for what in kept {
        before.push(uid(what).await);
    }

    let upgraded = [
        "upgrade",
        "grantsmith",
        CHART,
        "--namespace",
        "shop",
        "--values",
        MINIMAL,
        "--set",
        "operator.replicas=3",
    ];
    helm(&upgraded);
    let operator =
        ["-n", "shop", "get", "deployment", "grantsmith-operator", "-o", "jsonpath={.spec.replicas}"];
    assert_eq!(cluster.run(&operator).await, "3");

    helm(&["uninstall", "grantsmith", "--namespace", "shop"]);
    let left =
        cluster.run(&["-n", "shop", "get", "deployments,services,networkpolicies,pdb", "-o", "name"]).await;
    assert_eq!(left, "", "nothing else is left");
    let left = cluster.run(&["-n", "shop-licenses", "get", "roles,rolebindings", "-o", "name"]).await;
    assert_eq!(left, "", "nor any right");
    helm(&install);
    for (what, before) in kept.into_iter().zip(before) {
        assert_eq!(uid(what).await, before, "{what:?} is the same as ever");
    }
}
