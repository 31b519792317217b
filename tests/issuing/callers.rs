//! Who calls: service accounts of the cluster, over TLS that changes, and in other languages.

use std::path::PathBuf;
use std::time::Duration;

use grantsmith_authforge::fake::CallKind;
use grantsmith_proto::v1 as pb;
use grantsmith_tests::realm::SERVER;
use grantsmith_tests::stack::{Plan, order};
use grantsmith_tests::wait::until_within;
use grantsmith_tests::{APP, Shape, Stack, until};
use serde_json::{Value, json};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use super::{bought, realm};

/// An installation whose namespace has the accounts `billing`, which may read and manage, and `stranger`, of whom the server
/// was told nothing.
async fn with_accounts(plan: Plan) -> Stack {
    let mut stack = plan.start().await;
    let (namespace, cluster) = (realm(&stack).namespace.clone(), realm(&stack).cluster);
    for account in ["billing", "stranger"] {
        cluster.run(&["create", "serviceaccount", account, "--namespace", &namespace]).await;
    }
    let review = json!([
        {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]},
    ]);
    realm(&stack).allow_everywhere(SERVER, &review).await;
    assert_eq!(stack.stop_back().await, Some(0));
    stack.reflag(&["--grpc-service-account", &format!("{namespace}/billing=read,manage,reveal")]);
    stack.up_back().await;
    until("readiness", async || (stack.ready().await == 200).then_some(())).await;
    stack
}

async fn token(stack: &Stack, account: &str, audience: &str) -> String {
    realm(stack).cluster.token_for(&realm(stack).namespace, account, &[audience]).await
}

fn as_caller<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("a header"));
    request
}

/// The same claims under another signature.
fn forged(token: &str) -> String {
    let (claims, signature) = token.rsplit_once('.').expect("a signature");
    format!("{claims}.{}", signature.chars().rev().collect::<String>())
}

fn refused(status: &Status) -> (Code, String) {
    (status.code(), status.get_details_error_info().map(|info| info.reason).unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_account_may_do_what_its_roles_say() {
    let stack = with_accounts(Stack::plan(Shape::Cluster)).await;
    let (_, name) = bought(&stack, "jane@example.com").await;
    let name = format!("licenseGrants/{name}");
    let mut service = stack.grant_service();
    let billing = token(&stack, "billing", "grantsmith").await;

    let wish = pb::RevokeLicenseGrantRequest { name: name.clone(), reason: "not paid".to_owned() };
    let grant = service.revoke_license_grant(as_caller(&billing, wish)).await.expect("it may").into_inner();
    let person = format!("{}/billing", realm(&stack).namespace);
    assert_eq!(grant.r#override.expect("a hand").person, person, "the record tells who it was");

    let channel = Channel::from_shared(stack.grpc_url()).expect("a URL").connect_lazy();
    let mut events = pb::event_service_client::EventServiceClient::new(channel);
    let message = pb::RecordEventRequest { payload: b"{}".to_vec(), verified_mode: pb::Mode::Test.into() };
    let status = events.record_event(as_caller(&billing, message)).await.expect_err("not its role");
    assert_eq!(refused(&status), (Code::PermissionDenied, "ROLE_MISSING".to_owned()));

    let read = || pb::GetLicenseGrantRequest { name: name.clone(), ..Default::default() };
    for (what, token, expected) in [
        (
            "another audience",
            token(&stack, "billing", "vault").await,
            (Code::Unauthenticated, "TOKEN_UNKNOWN"),
        ),
        (
            "an account without roles",
            token(&stack, "stranger", "grantsmith").await,
            (Code::PermissionDenied, "ROLE_MISSING"),
        ),
        ("a forged token", forged(&billing), (Code::Unauthenticated, "TOKEN_UNKNOWN")),
    ] {
        let status = service.get_license_grant(as_caller(&token, read())).await.expect_err(what);
        assert_eq!(refused(&status), (expected.0, expected.1.to_owned()), "{what}: {}", status.message());
        assert!(!status.message().contains(&token), "{what}: the text does not tell the token");
    }

    let reviews = || {
        let audited = realm(&stack).audited_of(SERVER);
        audited.iter().filter(|request| request.concerns("tokenreviews")).count()
    };
    let before = reviews();
    for _ in 0..20 {
        service.get_license_grant(as_caller(&billing, read())).await.expect("it may");
    }
    assert_eq!(reviews(), before, "a token that was reviewed within a minute is known");
    let logs = stack.logs();
    assert!(!logs.contains(&billing), "no token is logged");
    // The hand tools go on with their static tokens.
    assert_eq!(stack.json(&["grants", "get", &name]).await["name"], name.as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_the_cluster_has_named_is_known_while_it_cannot_be_asked() {
    let stack = with_accounts(Stack::plan(Shape::Cluster).alone().await).await;
    let (_, name) = bought(&stack, "jane@example.com").await;
    let read = || pb::GetLicenseGrantRequest { name: format!("licenseGrants/{name}"), ..Default::default() };
    let mut service = stack.grant_service();
    let billing = token(&stack, "billing", "grantsmith").await;
    let fresh = token(&stack, "billing", "grantsmith").await;
    service.get_license_grant(as_caller(&billing, read())).await.expect("it may");
    realm(&stack).cluster.stop_api_server();
    // An answer of the cluster counts for a minute by itself.
    until_within(Duration::from_secs(120), "the cluster's last word to count", async || {
        let request = as_caller(&billing, read());
        stack.grant_service().get_license_grant(request).await.expect("it is known");
        stack.logs().contains("what it said last counts").then_some(())
    })
    .await;
    let status = service.get_license_grant(as_caller(&fresh, read())).await.expect_err("nobody knows it");
    assert_eq!(refused(&status), (Code::Unavailable, "TOKEN_REVIEW_UNAVAILABLE".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_replaced_without_a_restart() {
    let stack = Stack::plan(Shape::Cluster).tls().start().await;
    bought(&stack, "before@example.com").await;
    let (code, _, error) = stack.tool(&["grants", "list", "--ca-file", "/dev/null"]).await;
    assert_ne!(code, 0, "whoever does not trust the authority talks to nobody: {error}");
    let before = std::fs::read_to_string(stack.folder.path().join("ca.crt")).expect("a file");
    std::fs::write(stack.folder.path().join("old-ca.crt"), before).expect("a file");
    stack.certify();
    until("the old authority to be refused", async || {
        let (code, ..) = stack.tool(&["grants", "list", "--ca-file", "old-ca.crt"]).await;
        (code != 0).then_some(())
    })
    .await;
    assert_eq!(stack.tool(&["grants", "list"]).await.0, 0, "the new one counts");
    // The webhook's process goes on too: it has the new authority, and Stripe is answered.
    bought(&stack, "after@example.com").await;
    assert_eq!(stack.authforge.counts().of(CallKind::Create), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_in_python_makes_a_grant_waits_for_it_and_reads_its_key() {
    let client = PathBuf::from(
        std::env::var_os("GRANTSMITH_PYTHON_CLIENT")
            .expect("GRANTSMITH_PYTHON_CLIENT, from tests/tools/get.sh"),
    );
    let stack = with_accounts(Stack::plan(Shape::Cluster).tls()).await;
    let token = token(&stack, "billing", "grantsmith").await;
    std::fs::write(stack.folder.path().join("billing-token"), format!("{token}\n")).expect("a file");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/python/grant.py");
    let server = stack.grpc_url();
    let mut python = tokio::process::Command::new(client.join("bin/python"));
    python.arg(script).args([
        server.trim_start_matches("https://"),
        "billing-token",
        "press-1",
        APP,
        "ca.crt",
    ]);
    python.env("PYTHONPATH", client.join("classes")).current_dir(stack.folder.path()).kill_on_drop(true);
    let output = python.output().await.expect("python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&told["state"], &told["again"]), (&"STATE_READY".into(), &"ALREADY_EXISTS".into()));
    let licenses = stack.authforge.licenses();
    assert_eq!(licenses.len(), 1);
    assert_eq!(told["keys"], json!([licenses[0].key]));
    assert_eq!(licenses[0].label.as_deref(), Some("Grant default/press-1"));
    // And one purchase, to see that nothing of this stands in its way.
    stack.buy(order()).await;
}
