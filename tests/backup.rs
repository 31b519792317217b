//! A copy made while the server works, and a server that goes on from it.

#![expect(clippy::expect_used, reason = "a test stops where the world is not as it set it up")]

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use futures_util::StreamExt as _;
use futures_util::stream;
use grantsmith_service::stripe::fake::{Bought, Rendering};
use grantsmith_tests::stack::order;
use grantsmith_tests::{Shape, Stack, until};
use rusqlite::{Connection, OpenFlags};
use tokio::sync::mpsc;

fn ids(bought: &[Bought]) -> BTreeSet<String> {
    bought.iter().flat_map(|bought| &bought.events).map(|event| event.id(Rendering::Endive)).collect()
}

fn events_of(copy: &Path) -> BTreeSet<String> {
    let copy = Connection::open_with_flags(copy, OpenFlags::SQLITE_OPEN_READ_ONLY).expect("a database");
    let verdict: String = copy.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("a verdict");
    assert_eq!(verdict, "ok");
    let mut events = copy.prepare("SELECT id FROM events").expect("the table");
    let ids = events.query_map([], |row| row.get(0)).expect("rows");
    ids.collect::<Result<_, _>>().expect("ids")
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

/// The letters that were sent, by what names them: one that is repeated counts once.
async fn letters(stack: &Stack) -> BTreeSet<String> {
    let mails = stack.mail.as_ref().expect("mail").mails().await;
    mails.iter().map(|mail| mail["MessageID"].as_str().expect("an id").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_made_in_a_burst_holds_what_was_answered_and_a_server_goes_on_from_it() {
    let mut stack = Stack::plan(Shape::Standalone).start().await;
    let mut before = Vec::new();
    for _ in 0..5 {
        before.push(stack.buy(order()).await);
    }
    let mut keys = Vec::new();
    for bought in &before {
        keys.push(stack.keys(&bought.session).await);
    }
    stack.mail.as_ref().expect("mail").until_mails(5).await;

    // Others buy while the copy is made.
    let burst: Vec<Bought> = (0..60).map(|_| stack.world.buy(order(), stack.now())).collect();
    let bodies = burst.iter().flat_map(|bought| &bought.events);
    let bodies: Vec<Vec<u8>> = bodies.map(|event| event.body(Rendering::Endive)).collect();
    let (outside, (tell, mut answered)) = (stack.outside(), mpsc::unbounded_channel());
    let sending = tokio::spawn(stream::iter(bodies).for_each_concurrent(8, move |body| {
        let (outside, tell) = (outside.clone(), tell.clone());
        async move {
            outside.deliver(body).await;
            tell.send(()).expect("somebody counts");
        }
    }));
    for _ in 0..20 {
        answered.recv().await.expect("an answer");
    }
    let acknowledged = ids(&before);
    let (code, table, error) = stack.tool(&["backup", "copy.db"]).await;
    assert_eq!(code, 0, "{error}");
    assert!(table.contains("events") && table.contains("read back, and whole"), "{table}");
    sending.await.expect("all are answered");

    let copy = stack.folder.path().join("copy.db");
    let held = events_of(&copy);
    assert!(held.is_superset(&acknowledged), "what was answered before it began is in it");
    assert!(held.len() >= acknowledged.len() + 20, "and what was answered in the burst until then");
    assert!(held.is_subset(&ids(&[before.clone(), burst.clone()].concat())));
    assert_eq!(copy.metadata().expect("a file").permissions().mode() & 0o777, 0o600);
    let files = names(stack.folder.path());
    assert!(!files.iter().any(|name| name.starts_with("copy.db-") || name.contains("backup")), "{files:?}");

    // All of the burst has its keys; then the record is lost.
    for bought in &burst {
        stack.until_grant(&bought.session, "READY", "Issued").await;
    }
    let mailed = until("a letter for each", async || {
        let letters = letters(&stack).await;
        (letters.len() >= 65).then_some(letters)
    })
    .await;
    let made = stack.authforge.licenses().len();
    assert_eq!(stack.stop_back().await, Some(0));
    for name in names(stack.folder.path()) {
        if ["grantsmith.db", "grantsmith.db-wal", "grantsmith.db-shm"].contains(&name.as_str()) {
            std::fs::remove_file(stack.folder.path().join(name)).expect("the record goes");
        }
    }
    std::fs::copy(&copy, stack.folder.path().join("grantsmith.db")).expect("the copy comes back");
    stack.reflag(&["--restored"]);
    stack.up().await;
    for bought in &burst {
        stack.deliver_all(&bought.events).await;
    }
    until("every grant to be seen again", async || {
        let grants = stack.grants().await;
        let seen = grants.iter().filter(|grant| {
            grant["state"] == "READY" || grant["fix"].as_str().is_some_and(|fix| fix.contains("would adopt"))
        });
        (seen.count() == 65).then_some(())
    })
    .await;
    assert_eq!(stack.keys(&before[0].session).await, keys[0], "what it knows it serves");
    assert_eq!(stack.authforge.licenses().len(), made, "and it makes nothing");

    stack.stop_back().await;
    stack.reflag(&["--look-before-create-after", "0s"]);
    stack.up().await;
    stack.settled().await;
    for (bought, keys) in before.iter().zip(&keys) {
        assert_eq!(&stack.keys(&bought.session).await, keys);
    }
    assert_eq!(
        stack.authforge.licenses().len(),
        made,
        "every key that was made since is found, none made again"
    );
    assert_eq!(
        letters(&stack).await,
        mailed,
        "and there is no second letter, though one may be sent once more"
    );
    stack.assert_promise();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_takes_no_other_files_place_and_needs_a_record() {
    let stack = Stack::plan(Shape::Standalone).without_mail().start().await;
    std::fs::write(stack.folder.path().join("mine"), "precious").expect("a file");
    std::fs::write(stack.folder.path().join("other.db"), "no database").expect("a file");
    for (arguments, code, words) in [
        (&["backup", "mine"][..], 2, "there already"),
        (&["backup", "grantsmith.db"], 2, "there already"),
        (&["backup", "no/such/folder/copy"], 1, "there is no folder 'no/such/folder'"),
        (&["backup", "copy", "--database-url", "sqlite://missing.db"], 2, "no record"),
        (&["backup", "copy", "--database-url", "sqlite://other.db"], 2, "not a SQLite database"),
        (&["backup", "copy", "--database-url", "postgres://x"], 2, "sqlite://PATH"),
    ] {
        let (found, out, error) = stack.tool(arguments).await;
        assert!(found == code && error.contains(words) && out.is_empty(), "{arguments:?}: {found} {error}");
    }
    assert_eq!(std::fs::read(stack.folder.path().join("mine")).expect("a file"), b"precious");
    assert!(!names(stack.folder.path()).iter().any(|name| name == "copy" || name.contains("backup")));
}
