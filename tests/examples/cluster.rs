//! A real Kubernetes to try Grantsmith on: an API server with the operator and a fake AuthForge. Ctrl-C ends all of it.

#![expect(clippy::print_stdout, reason = "it speaks to a person")]

use anyhow::{Context as _, Result};
use grantsmith_tests::{APP, Cluster, Realm};
use kube::api::ObjectMeta;

const NAMESPACE: &str = "licenses";

fn grant() -> String {
    format!(
        "apiVersion: grantsmith.dev/v1alpha1
kind: LicenseGrant
metadata: {{name: reviewer-jane}}
spec:
  purchase: {{provider: manual, reference: press-2026-17}}
  customer: {{email: jane@example.com}}
  licenses:
    - {{name: main, appId: {APP}, maxHwidSlots: 2, expiresAt: \"2031-01-01T00:00:00Z\"}}
"
    )
}

#[tokio::main]
async fn main() -> Result<()> {
    let cluster = Cluster::start().await;
    cluster.define_grants().await;
    let named = ObjectMeta { name: Some(NAMESPACE.to_owned()), ..ObjectMeta::default() };
    let realm = Realm::at(&cluster, cluster.create_namespace(named).await).await;
    let (operator, environment) = realm.command(&realm.plan(&[]));
    let mut command = vec!["env".to_owned()];
    command.extend(environment.iter().map(|(name, value)| format!("{name}={value}")));
    command.extend(operator);
    let log = cluster.keep("grantsmith-operator", &command);

    cluster.run(&["config", "set-context", "--current", "--namespace", NAMESPACE]).await;
    let manifest = cluster.folder().join("reviewer-jane.yaml");
    std::fs::write(&manifest, grant())
        .with_context(|| format!("could not write '{}'", manifest.display()))?;
    println!(
        "
A Kubernetes control plane is up, with LicenseGrants, their operator and a fake AuthForge. In another terminal:

    export KUBECONFIG={kubeconfig}
    alias kubectl={kubectl}

    kubectl apply -f {manifest}
    kubectl get licensegrants --watch
    kubectl get secret reviewer-jane-license -o go-template='{{{{.data.main | base64decode}}}}{{{{\"\\n\"}}}}'
    kubectl patch licensegrant reviewer-jane --type merge -p '{{\"spec\":{{\"override\":{{\"state\":\"Suspended\"}}}}}}'
    kubectl get events
    kubectl explain licensegrant.spec
    curl {authforge}/_fake/licenses

The operator's log is {log}. Ctrl-C ends all of it.",
        kubeconfig = cluster.kubeconfig().display(),
        kubectl = Cluster::kubectl_path().display(),
        manifest = manifest.display(),
        authforge = realm.authforge.url(),
        log = log.display(),
    );
    let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminated.recv() => {}
    }
    Ok(())
}
