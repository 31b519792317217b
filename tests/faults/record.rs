//! The record is locked, in use, or of another time.

use std::time::Duration;

use futures_util::future::join_all;
use grantsmith_service::stripe::fake::Rendering;
use grantsmith_tests::stack::order;
use grantsmith_tests::{Shape, Stack, program, until};
use rusqlite::Connection;
use tokio::time::Instant;

use super::{all_get_their_keys, buy};

fn record(stack: &Stack) -> Connection {
    Connection::open(stack.folder.path().join("grantsmith.db")).expect("the record")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_record_answers_503_and_loses_nothing_that_was_answered() {
    for shape in Shape::ALL {
        let stack = Stack::plan(shape).without_mail().start().await;
        let mut sessions = buy(&stack, 3).await;
        let lock = record(&stack);
        // Ours may be in the middle of a write of its own.
        lock.busy_timeout(Duration::from_secs(10)).expect("a timeout");
        lock.execute_batch("BEGIN EXCLUSIVE").expect("the lock");
        let refused: Vec<_> = (0..4).map(|_| stack.world.buy(order(), stack.now())).collect();
        let answers = refused.iter().map(async |bought| {
            let begun = Instant::now();
            let body = bought.events[2].body(Rendering::Endive);
            let signature = stack.signature(stack.now(), &body);
            let request = stack.client.post(stack.url("/webhooks/stripe")).body(body);
            let answer = request.header("stripe-signature", signature).send().await.expect("an answer");
            assert_eq!(answer.status(), 503);
            assert!(answer.headers().contains_key("retry-after"));
            assert!(begun.elapsed() < Duration::from_secs(15), "{shape:?}: after {:?}", begun.elapsed());
        });
        join_all(answers).await;
        lock.execute_batch("ROLLBACK").expect("unlocked");
        for bought in refused {
            stack.deliver_all(&bought.events).await;
            sessions.push(bought.session);
        }
        all_get_their_keys(&stack, &sessions).await;
        assert_eq!(stack.ready().await, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_that_cannot_be_written_down_is_not_sent_again_and_again() {
    let mut stack = Stack::plan(Shape::Standalone).start().await;
    stack.mail.as_mut().expect("mail").down().await;
    let bought = stack.buy(order()).await;
    until("a mail that found no server", async || {
        let grant = stack.grant(&bought.session).await?;
        (grant["delivery"]["reason"] == "MailRefused").then_some(())
    })
    .await;
    let lock = record(&stack);
    lock.busy_timeout(Duration::from_secs(10)).expect("a timeout");
    lock.execute_batch("BEGIN IMMEDIATE").expect("the lock");
    stack.mail.as_mut().expect("mail").up().await;
    until("two failures to write", async || {
        let log = stack.back().log();
        (log.matches("what became of a mail was not written down").count() > 1).then_some(())
    })
    .await;
    lock.execute_batch("ROLLBACK").expect("unlocked");
    until("the mail on record", async || {
        let grant = stack.grant(&bought.session).await?;
        (grant["delivery"]["state"] == "SENT").then_some(())
    })
    .await;
    assert_eq!(stack.mail.as_ref().expect("mail").mails().await.len(), 1);
}

/// Starts a second program in the folder of the first; flags of `other` stand for those of the first.
async fn second(stack: &Stack, other: &[[&str; 2]]) -> (i32, String) {
    let (stripe, authforge) = (stack.stripe.url(), stack.authforge.url());
    let mut flags = [
        ["--database-url", "sqlite://grantsmith.db"],
        ["--authforge-url", &authforge],
        ["--authforge-api-key-file", "authforge-key"],
        ["--stripe-url", &stripe],
        ["--stripe-api-key-file", "stripe-key"],
        ["--stripe-mode", "test"],
        ["--stripe-webhook-secrets-file", "webhook-secrets"],
        ["--http-listen", "127.0.0.1:0"],
        ["--grpc-listen", "127.0.0.1:0"],
        ["--admin-listen", "127.0.0.1:0"],
    ];
    for [flag, value] in &mut flags {
        if let Some([_, another]) = other.iter().find(|[name, _]| name == flag) {
            *value = another;
        }
    }
    let arguments = [&["standalone"], flags.as_flattened()].concat();
    let (code, out, error) = program::run(&arguments, &[], stack.folder.path()).await;
    assert_eq!(out, "", "complaints go to standard error");
    (code, error)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_the_record_says_so_and_ends() {
    let stack = Stack::plan(Shape::Standalone).without_mail().start().await;
    let (code, said) = second(&stack, &[]).await;
    assert_ne!(code, 0);
    assert!(said.contains("in use by another process") && said.contains("grantsmith.db"), "{said}");
    let sessions = buy(&stack, 1).await;
    all_get_their_keys(&stack, &sessions).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_the_other_mode_is_left_alone() {
    let mut stack = Stack::plan(Shape::Standalone).without_mail().start().await;
    assert_eq!(stack.stop_back().await, Some(0));
    std::fs::write(stack.folder.path().join("live-key"), "sk_live_1").expect("a file");
    let live = [["--stripe-mode", "live"], ["--stripe-api-key-file", "live-key"]];
    let (code, said) = second(&stack, &live).await;
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("a record of test mode") && said.contains("--database-url"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_of_a_stopped_program_holds_everything_by_itself() {
    let mut stack = Stack::plan(Shape::Standalone).without_mail().start().await;
    let sessions = buy(&stack, 3).await;
    all_get_their_keys(&stack, &sessions).await;
    let last = stack.buy(order()).await;
    assert_eq!(stack.stop_back().await, Some(0));
    let copy = stack.folder.path().join("copy.db");
    std::fs::copy(stack.folder.path().join("grantsmith.db"), &copy).expect("a copy");
    let known: u32 = Connection::open(copy)
        .expect("a record")
        .query_row("SELECT count(*) FROM objects WHERE id = ?1", [&last.session], |row| row.get(0))
        .expect("a count");
    assert_eq!(known, 1, "what was acknowledged last");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_a_later_version_is_left_alone() {
    let mut stack = Stack::plan(Shape::Standalone).without_mail().start().await;
    let sessions = buy(&stack, 1).await;
    all_get_their_keys(&stack, &sessions).await;
    assert_eq!(stack.stop_back().await, Some(0));
    let known: u32 =
        record(&stack).query_row("PRAGMA user_version", [], |row| row.get(0)).expect("a version");
    record(&stack).pragma_update(None, "user_version", 99).expect("written");
    let (code, said) = second(&stack, &[]).await;
    assert_ne!(code, 0);
    assert!(said.contains("schema 99") && said.contains("version"), "{said}");

    record(&stack).pragma_update(None, "user_version", known).expect("written");
    stack.up().await;
    all_get_their_keys(&stack, &sessions).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_not_ours_is_left_alone() {
    let mut stack = Stack::plan(Shape::Standalone).without_mail().start().await;
    assert_eq!(stack.stop_back().await, Some(0));
    let path = stack.folder.path().join("grantsmith.db");
    for what in ["a text file, and an important one", "SQLite format 3\0 and then nonsense"] {
        for beside in ["wal", "shm"] {
            // SQLite would mend the file from what stands in its log.
            let _ = std::fs::remove_file(path.with_extension(format!("db-{beside}")));
        }
        let text = what.repeat(500);
        std::fs::write(&path, &text).expect("a file");
        let (code, said) = second(&stack, &[]).await;
        assert_ne!(code, 0);
        assert!(said.lines().last().is_some_and(|line| line.starts_with("grantsmith: ")), "{said}");
        assert_eq!(std::fs::read_to_string(&path).expect("a file"), text, "not a byte is changed");
    }
}
