//! No whole key, token, secret, raw body or buyer's address leaves through logs, metrics, errors or the journal.

#![expect(clippy::expect_used, reason = "a test stops where the world is not as it set it up")]

use grantsmith_authforge::fake::{CallKind, Fault};
use grantsmith_service::stripe::fake::{PaymentPlan, Rendering};
use grantsmith_tests::stack::order;
use grantsmith_tests::{AUTHFORGE_KEY, STRIPE_KEY, Shape, Stack, WEBHOOK_SECRET};
use memchr::memmem;

const ADDRESS: &str = "canary.buyer@very-secret.example";

/// Everything that must not get out, with a name for the failure.
struct Canaries(Vec<(&'static str, String)>);

impl Canaries {
    fn assert_absent(&self, place: &str, text: &str) {
        for (what, secret) in &self.0 {
            assert!(!text.contains(secret.as_str()), "{what} is in {place}");
        }
    }
}

async fn walk(shape: Shape) {
    let mut stack = Stack::plan(shape).flags(&["--lost-create-quarantine", "2s"]).log("trace").start().await;
    stack.authforge.script(
        CallKind::Create,
        [Fault::LostAfter, Fault::FiveHundredAfterCommit, Fault::TooManyRequests, Fault::LostBefore],
    );
    let mut keys = Vec::new();
    for _ in 0..5 {
        let bought = stack.buy(order().by(ADDRESS).metadata("note", "canary-metadata-55")).await;
        keys.extend(stack.keys(&bought.session).await);
    }
    let parked = stack.buy(order().by(ADDRESS).metadata("license_duration", "canary-duration-77")).await;
    stack.until_grant(&parked.session, "PARKED", "BadMetadata").await;
    stack.buy(order().by(ADDRESS).paying(PaymentPlan::Delayed)).await;
    // Every kind of refusal, and of trouble with mail.
    let body = stack.world.buy(order().by(ADDRESS), stack.now()).events[0].body(Rendering::Endive);
    let forged = stack
        .client
        .post(stack.url("/webhooks/stripe"))
        .header("stripe-signature", "t=1,v1=00")
        .body(body.clone());
    let refusal = forged.send().await.expect("an answer").text().await.expect("a text");
    stack.mail.as_ref().expect("mail").until_mails(5).await;
    stack.mail.as_ref().expect("mail").refuse(550).await;
    let refused = stack.buy(order().by(ADDRESS)).await;
    keys.extend(stack.keys(&refused.session).await);
    let grant = grantsmith_tests::until("a refused mail", async || {
        let grant = stack.grant(&refused.session).await?;
        (grant["delivery"]["state"] == "PARKED").then_some(grant)
    })
    .await;

    let tokens = std::fs::read_to_string(stack.folder.path().join("grantsmith.db.tokens")).expect("tokens");
    let mut canaries = Canaries(vec![
        ("a buyer's address", ADDRESS.to_owned()),
        ("metadata", "canary-metadata-55".to_owned()),
        ("metadata", "canary-duration-77".to_owned()),
        ("the Stripe key", STRIPE_KEY.to_owned()),
        ("the AuthForge key", AUTHFORGE_KEY.to_owned()),
        ("the webhook secret", WEBHOOK_SECRET.to_owned()),
        ("a raw body", String::from_utf8_lossy(body.get(..60).expect("long")).into_owned()),
    ]);
    let tokens = tokens
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_whitespace().nth(2));
    canaries.0.extend(tokens.map(|token| ("a gRPC token", token.to_owned())));
    canaries.0.extend(stack.authforge.licenses().into_iter().map(|license| ("a license key", license.key)));
    assert!(keys.len() >= 6);

    canaries.assert_absent("an answer", &refusal);
    canaries.assert_absent("the metrics", &stack.metrics().await);
    canaries.assert_absent("what a mail server said", &grant["delivery"].to_string());
    canaries.assert_absent("the licenses of a grant", &grant["licenses"].to_string());
    stack.stop_back().await;
    let record = rusqlite::Connection::open(stack.folder.path().join("grantsmith.db")).expect("the record");
    let mut journal = record.prepare("SELECT * FROM journal").expect("a journal");
    let columns = journal.column_count();
    let rows = journal.query_map([], |row| {
        (0..columns)
            .map(|column| row.get::<_, rusqlite::types::Value>(column).map(|value| format!("{value:?}")))
            .collect::<Result<String, _>>()
    });
    let journal: String = rows.expect("rows").map(|row| row.expect("a row")).collect();
    assert!(journal.contains("license main"), "the journal tells of the licenses");
    canaries.assert_absent("the journal", &journal);
    let logs = stack.logs();
    assert!(logs.contains("decided") && logs.contains("refused"), "the logs tell of all that");
    canaries.assert_absent("the logs", &logs);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_secret_leaves_one_process() {
    walk(Shape::Standalone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_secret_leaves_server_and_webhook() {
    walk(Shape::Split).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_secret_leaves_a_server_that_issues_through_a_cluster() {
    walk(Shape::Cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_webhook_process_holds_nothing_but_its_secrets_and_a_token() {
    let stack = Stack::plan(Shape::Split).start().await;
    let bought = stack.buy(order().by(ADDRESS)).await;
    stack.keys(&bought.session).await;
    let files = stack.front_files();
    assert!(
        !files.iter().any(|file| file.contains("grantsmith.db") && !file.ends_with(".tokens")),
        "no record: {files:?}"
    );
    let memory = stack.front_memory();
    assert!(!memory.is_empty());
    for (what, secret) in [("the AuthForge key", AUTHFORGE_KEY), ("the Stripe key", STRIPE_KEY)] {
        let found = memmem::find(&memory, secret.as_bytes());
        assert_eq!(found, None, "{what} is in the webhook's memory");
    }
}
