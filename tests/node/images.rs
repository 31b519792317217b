//! Each image by itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use grantsmith_authforge::SystemClock;
use grantsmith_authforge::fake::{Fake, Settings};
use grantsmith_crd::LicenseGrant;
use grantsmith_tests::cluster::DEFINITION;
use grantsmith_tests::node::{ADDRESS, IMAGES, Node, TAG};
use grantsmith_tests::realm::{ACCOUNT, ROLE, manual};
use grantsmith_tests::tls::{Authority, Front};
use grantsmith_tests::{AUTHFORGE_KEY, until};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::Api;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// A pod that may do as little as can be, which its namespace demands, and sees nothing of the image but its program.
fn pod(name: &str, image: &str, spec: &Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "main",
                "image": format!("{image}:{TAG}"),
                "imagePullPolicy": "Never",
                "securityContext": {
                    "allowPrivilegeEscalation": false,
                    "readOnlyRootFilesystem": true,
                    "capabilities": {"drop": ["ALL"]},
                },
            }],
        },
    });
    for (field, value) in spec.as_object().into_iter().flatten() {
        pod["spec"][field] = value.clone();
    }
    pod
}

fn with(mut pod: Value, container: &Value) -> Value {
    for (field, value) in container.as_object().into_iter().flatten() {
        pod["spec"]["containers"][0][field] = value.clone();
    }
    pod
}

pub(crate) async fn each_runs_without_any_privilege(node: &'static Node) {
    node.namespace("images").await;
    let runs = [
        ("service-version", IMAGES[0], "--version", "grantsmith"),
        ("operator-version", IMAGES[1], "--version", "grantsmith-operator"),
        ("operator-crd", IMAGES[1], "crd", "name: licensegrants.grantsmith.dev"),
    ];
    let pods: Vec<_> = runs
        .map(|(name, image, word, _)| with(pod(name, image, &Value::Null), &json!({"args": [word]})))
        .into();
    node.apply("images", &pods).await;
    let api: Api<Pod> = Api::namespaced(node.client().await, "images");
    for (name, _, _, words) in runs {
        let phase = until(&format!("{name} to end"), async || {
            let phase = api.get(name).await.ok()?.status?.phase?;
            ["Succeeded", "Failed"].contains(&phase.as_str()).then_some(phase)
        })
        .await;
        let log = node.run_kubectl(&["logs", "--namespace", "images", name]).await;
        assert_eq!(phase, "Succeeded", "{name} says: {log}");
        assert!(log.contains(words), "{name} says: {log}");
    }
}

pub(crate) async fn the_operator_speaks_https(node: &'static Node) {
    let namespace = "https";
    node.namespace(namespace).await;
    node.run_kubectl(&["apply", "--server-side", "-f", DEFINITION]).await;
    node.run_kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "-f", DEFINITION]).await;
    node.run_kubectl(&["apply", "--namespace", namespace, "-f", ROLE]).await;
    let mut settings = Settings::new(Arc::new(SystemClock));
    settings.listener = Some(TcpListener::bind((ADDRESS, 0)).await.expect("a port"));
    let authforge = Fake::start(settings).await.expect("a fake AuthForge");
    let authority = Authority::new();
    let front = Front::start(authforge.address(), &authority.certify(&[&ADDRESS.to_string()])).await;
    let operator = pod(
        "operator",
        IMAGES[1],
        &json!({
            "serviceAccountName": ACCOUNT,
            "volumes": [
                {"name": "key", "secret": {"secretName": "authforge"}},
                {"name": "roots", "configMap": {"name": "roots"}},
            ],
        }),
    );
    let operator = with(
        operator,
        &json!({
            "args": [
                "run", "--namespace", namespace, "--leader-election", "false",
                "--authforge-url", front.url(), "--authforge-api-key-file", "/etc/key/api-key",
                "--ca-file", "/etc/roots/ca.crt",
            ],
            "volumeMounts": [
                {"name": "key", "mountPath": "/etc/key"},
                {"name": "roots", "mountPath": "/etc/roots"},
            ],
        }),
    );
    node.apply(namespace, &[
        json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "authforge"},
            "stringData": {"api-key": AUTHFORGE_KEY},
        }),
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "roots"},
            "data": {"ca.crt": authority.pem()},
        }),
        json!({
            "apiVersion": "grantsmith.dev/v1alpha1", "kind": "LicenseGrant", "metadata": {"name": "first"},
            "spec": manual("first"),
        }),
        operator,
    ])
    .await;
    let client = node.client().await;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let pods: Api<Pod> = Api::namespaced(client, namespace);
    let key = until("the key", async || {
        let pod = pods.get("operator").await.ok()?;
        let phase = pod.status.and_then(|status| status.phase);
        assert_ne!(
            phase.as_deref(),
            Some("Failed"),
            "{}",
            node.run_kubectl(&["logs", "-n", namespace, "operator"]).await
        );
        let data: BTreeMap<_, _> = secrets.get_opt("first-license").await.ok()??.data?;
        String::from_utf8(data.get("main")?.0.clone()).ok()
    })
    .await;
    let licenses = authforge.licenses();
    assert_eq!(licenses.len(), 1, "{licenses:?}");
    assert_eq!(licenses[0].key, key);
    let grants: Api<LicenseGrant> = Api::namespaced(node.client().await, namespace);
    let grant = grants.get("first").await.expect("a grant");
    assert!(grant.status.is_some(), "the operator tells what it did");
    // The chart brings the definition itself, and does not take over what another installed.
    node.run_kubectl(&["delete", "-f", DEFINITION]).await;
    node.run_kubectl(&["delete", "pod", "operator", "--namespace", namespace]).await;
}
