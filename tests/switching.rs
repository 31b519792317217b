//! From the guide's own handler to Grantsmith, as MIGRATING.md tells it, with the guide's handler really running.

#![expect(clippy::expect_used, reason = "a test stops where the world is not as it set it up")]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Stdio;

use futures_util::future::join_all;
use grantsmith_service::stripe::fake::{Event, Rendering};
use grantsmith_tests::outside::Outside;
use grantsmith_tests::stack::order;
use grantsmith_tests::{AUTHFORGE_KEY, Shape, Stack, WEBHOOK_SECRET, mailpit, until};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// The Express handler of AuthForge's Stripe guide.
struct Guide {
    _child: Child,
    url: String,
}

impl Guide {
    async fn start(stack: &Stack) -> Self {
        let rivals =
            std::env::var_os("GRANTSMITH_RIVALS").map_or_else(|| mailpit::tool("rivals"), PathBuf::from);
        let mut child = Command::new("node")
            .arg(rivals.join("guide.mjs"))
            .args(["--db", "guide.db", "--secret", WEBHOOK_SECRET])
            .args(["--authforge-url", &stack.authforge.url(), "--authforge-api-key", AUTHFORGE_KEY])
            .current_dir(stack.folder.path())
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("node runs");
        let mut lines = BufReader::new(child.stderr.take().expect("a log")).lines();
        let address = loop {
            let line = lines.next_line().await.expect("a log").expect("it says where it listens");
            let word = line.split_whitespace().find_map(|word| word.strip_prefix("http=").map(str::to_owned));
            if let Some(address) = word {
                break address;
            }
        };
        // Read on, or it would stop at a full pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { _child: child, url: format!("http://{address}") }
    }
}

/// The words that observing has for each grant.
async fn observed(stack: &Stack) -> Vec<String> {
    let detail = |grant: &serde_json::Value| grant["fix"].as_str().unwrap_or_default().to_owned();
    stack.grants().await.iter().map(detail).collect()
}

async fn deliver(to: &[&Outside], events: &[Event]) {
    join_all(to.iter().map(async |outside| {
        for event in events {
            outside.deliver(event.body(Rendering::Endive)).await;
        }
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seller_switches_over_without_a_second_key_or_mail() {
    switch_over(Shape::Standalone, "would adopt").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seller_switches_over_to_a_cluster_without_a_second_key_or_mail() {
    switch_over(Shape::Cluster, "would declare 1 license").await;
}

async fn switch_over(shape: Shape, observing: &str) {
    let mut stack = Stack::plan(shape).flags(&["--mode", "observe"]).start().await;
    let guide = Guide::start(&stack).await;
    let to_guide = Outside::new(stack.client.clone(), guide.url.clone(), stack.secret.clone());
    let ours = stack.outside();

    // The guide's handler sells, and Stripe tells both.
    let mut sold = Vec::new();
    for _ in 0..50 {
        let bought = stack.world.buy(order(), stack.now());
        deliver(&[&to_guide, &ours], &bought.events).await;
        sold.push(bought);
    }
    until("the guide's 50 keys", async || (stack.authforge.licenses().len() == 50).then_some(())).await;
    until("what would be done", async || {
        let words = observed(&stack).await;
        (words.len() == 50 && words.iter().all(|words| words.contains(observing))).then_some(())
    })
    .await;
    let creates = |stack: &Stack| stack.authforge.licenses().len();
    assert_eq!(creates(&stack), 50, "observing makes nothing");
    assert!(stack.mail.as_ref().expect("mail").mails().await.is_empty(), "and mails nothing");

    // Its endpoint is switched off; ours fulfils, and Stripe sends the last 20 again.
    drop(guide);
    stack.stop_back().await;
    if shape == Shape::Cluster {
        stack.stop_front().await;
        stack.kill_operator().await;
    }
    stack.reflag(&["--mode", "fulfil", "--look-before-create-after", "0s"]);
    stack.up().await;
    for bought in &sold[30..] {
        deliver(&[&ours], &bought.events).await;
    }
    let mut new = Vec::new();
    for _ in 0..5 {
        new.push(stack.buy(order()).await);
    }
    for bought in &new {
        assert_eq!(stack.keys(&bought.session).await.len(), 1);
    }
    stack.settled().await;
    for bought in &sold {
        stack.until_grant(&bought.session, "READY", "Adopted").await;
    }

    assert_eq!(creates(&stack), 55, "no second key");
    assert!(stack.authforge.licenses().iter().all(|license| !license.revoked), "none is a surplus");
    let mails = stack.mail.as_ref().expect("mail").until_mails(5).await;
    assert_eq!(mails.len(), 5, "the guide's handler has handed its own keys over");
    let bodies: BTreeSet<String> = stack.live().values().flatten().cloned().collect();
    assert_eq!(bodies.len(), 55, "what was said while observing was right: 50 adopted, none made");
    stack.assert_promise();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_says_what_would_be_done() {
    let stack = Stack::plan(Shape::Standalone).flags(&["--mode", "observe"]).start().await;
    let bought = stack.buy(order()).await;
    stack.until_grant(&bought.session, "ISSUING", "Paused").await;
    let create =
        ["grants", "create", "--reference", "nobody", "--app", grantsmith_tests::APP, "--wait", "-o", "name"];
    let (code, name, error) = stack.tool(&create).await;
    assert!(code == 1 && error.contains("not all its keys are there yet (Paused)"), "{code} {error}");
    assert!(name.starts_with("licenseGrants/lg-"), "and the grant stays: {name}");
    stack.until_grant("default/nobody", "ISSUING", "Paused").await;
    let (_, table, _) = stack.tool(&["grants", "list"]).await;
    let line = |id: &str| table.lines().find(|line| line.contains(id)).expect("a line").to_owned();
    assert!(line(&bought.session).ends_with("observed: would create main, mail it"), "{table}");
    assert!(line("nobody").ends_with("would create main, mail nothing, as no address is known"), "{table}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_bought_before_the_first_start_is_held_until_it_is_released() {
    hold_and_release(Shape::Standalone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_bought_before_the_first_start_is_not_declared_until_it_is_released() {
    hold_and_release(Shape::Cluster).await;
}

async fn hold_and_release(shape: Shape) {
    let stack = Stack::plan(shape).start().await;
    let yesterday = stack.now() - jiff::SignedDuration::from_hours(24);
    let bought = stack.world.buy(order(), yesterday);
    stack.deliver_all(&bought.events).await;
    let grant = stack.until_grant(&bought.session, "PARKED", "BeforeStart").await;
    assert!(stack.authforge.licenses().is_empty(), "somebody else may have handed a key over");
    assert!(stack.metrics().await.contains(r#"reason="BeforeStart""#), "and it is shown");

    let name = grant["name"].as_str().expect("a name");
    let (code, _, error) = stack.tool(&["grants", "release", name]).await;
    assert_eq!(code, 0, "{error}");
    assert_eq!(stack.keys(&bought.session).await.len(), 1);
    stack.mail.as_ref().expect("mail").until_mails(1).await;
    stack.assert_promise();
}
