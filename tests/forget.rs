//! A buyer who asks to be forgotten.

#![expect(clippy::expect_used, reason = "a test stops where the world is not as it set it up")]

use std::path::{Path, PathBuf};

use grantsmith_tests::stack::order;
use grantsmith_tests::{Shape, Stack, until};
use memchr::memmem;

const JANE: &str = "Jane.Buyer@example.com";
const JOHN: &str = "john@example.com";

/// The files below a folder that hold a text, whatever its case.
fn holding(folder: &Path, text: &str) -> Vec<PathBuf> {
    let text = text.to_lowercase();
    let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut found = Vec::new();
    for path in entries {
        if path.is_dir() {
            found.extend(holding(&path, &text));
        } else {
            let bytes = std::fs::read(&path).expect("a file").to_ascii_lowercase();
            if memmem::find(&bytes, text.as_bytes()).is_some() {
                found.push(path);
            }
        }
    }
    found
}

async fn forgets(shape: Shape, events_only: bool) {
    let plan = Stack::plan(shape);
    let mut stack = if events_only { plan.events_only() } else { plan }.start().await;
    let mut janes = Vec::new();
    for _ in 0..3 {
        let bought = stack.buy(order().by(JANE)).await;
        janes.push((bought.session.clone(), stack.keys(&bought.session).await));
    }
    let john = stack.buy(order().by(JOHN)).await;
    stack.keys(&john.session).await;
    stack.mail.as_ref().expect("mail").until_mails(4).await;
    stack.settled().await;
    let grant = stack.grant(&janes[0].0).await.expect("a grant");
    let name = grant["name"].as_str().expect("a name");
    let (code, _, error) =
        stack.tool(&["grants", "set-note", name, "wrote from jane.buyer@example.com"]).await;
    assert_eq!(code, 0, "{error}");
    let why = "asked for by jane.buyer@example.com";
    for arguments in [&["revoke", name, "--reason", why][..], &["clear-override", name]] {
        let (code, _, error) = stack.tool(&[&["grants"], arguments].concat()).await;
        assert_eq!(code, 0, "{error}");
        stack.settled().await;
    }
    let folder = stack.folder.path().to_owned();
    assert!(!holding(&folder, JANE).is_empty(), "it is there to be forgotten");

    let said = stack.json(&["grants", "forget", "jane.BUYER@example.com"]).await;
    assert_eq!((&said["purchases"], &said["waiting_events"]), (&3.into(), &0.into()), "{said}");
    assert!(said["events"].as_i64().is_some_and(|events| events >= 3), "{said}");
    assert_eq!(holding(&folder, JANE), Vec::<PathBuf>::new(), "while it runs");
    if let Some(realm) = &stack.realm {
        let objects = ["get", "lg,secrets,events", "--output", "yaml", "--namespace", &realm.namespace];
        let objects = realm.cluster.run(&objects).await.to_lowercase();
        assert!(
            objects.contains("licensegrant") && !objects.contains(&JANE.to_lowercase()),
            "nor in the cluster"
        );
    }
    assert!(!stack.logs().to_lowercase().contains(&JANE.to_lowercase()));
    let (code, _, _) = stack.tool(&["grants", "find", JANE]).await;
    assert_eq!(code, 1);

    // A look fetches the session anew, and Stripe still knows the buyer.
    let filter = format!("purchase = \"{}\"", janes[0].0);
    let events = stack.json(&["events", "list", "--filter", &filter]).await;
    for event in events.as_array().expect("events") {
        let name = event["name"].as_str().expect("a name");
        assert_eq!(stack.tool(&["events", "replay", name]).await.0, 0);
    }
    until("the replayed events", async || {
        let waiting = stack.json(&["events", "list", "--filter", "state = PENDING"]).await;
        waiting.as_array().is_some_and(Vec::is_empty).then_some(())
    })
    .await;
    assert_eq!(holding(&folder, JANE), Vec::<PathBuf>::new(), "after another look");

    for (session, keys) in &janes {
        assert_eq!(&stack.keys(session).await, keys, "what was bought stays");
    }
    let history = stack.json(&["grants", "get", name, "--history"]).await;
    assert!(history["history"].to_string().contains("the buyer was forgotten"), "{history}");
    let (code, _, error) = stack.tool(&["grants", "resend", name]).await;
    assert!(code == 1 && error.contains("no address"), "{error}");
    let found = stack.json(&["grants", "find", JOHN]).await;
    assert_eq!(found.as_array().map(Vec::len), Some(1), "somebody else is not forgotten");
    let (code, _, error) = stack.tool(&["grants", "forget", "nobody"]).await;
    assert!(code == 2 && error.contains("no address"), "{error}");
    let again = stack.json(&["grants", "forget", JANE]).await;
    assert_eq!(again["purchases"], 0, "and once is enough");
    stack.assert_promise();

    assert_eq!(stack.stop_back().await, Some(0));
    assert_eq!(holding(&folder, JANE), Vec::<PathBuf>::new(), "nor after the end");
    stack.up_back().await;
    assert_eq!(stack.keys(&janes[1].0).await, janes[1].1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_buyer_is_left_in_any_file_and_their_keys_go_on() {
    forgets(Shape::Standalone, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_buyer_is_forgotten_where_only_events_tell() {
    forgets(Shape::Split, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_buyer_is_left_in_a_cluster_either() {
    forgets(Shape::Cluster, false).await;
}
