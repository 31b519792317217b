//! The engine in one SQLite file: its harness, and what holds of it alone.

use std::any::Any;
use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use data_encoding::BASE64URL_NOPAD;
use grantsmith_core::purchase::Email;
use grantsmith_core::testing::{ManualClock, World};
use grantsmith_service::fulfillment::portal::Token;
use grantsmith_service::store::{self, Error, EventFilter, NewEvent, Opens, Recorded, Store};
use jiff::Timestamp;
use rusqlite::Connection;

use crate::Harness;
use crate::build::{event, session};

/// A record in a temporary folder.
pub(crate) struct SqliteHarness {
    folder: tempfile::TempDir,
    clock: std::sync::OnceLock<ManualClock>,
}

impl SqliteHarness {
    fn path(&self) -> PathBuf {
        self.folder.path().join("grantsmith.db")
    }
}

async fn try_open(path: &Path, clock: &ManualClock) -> Result<Arc<dyn Store>, Error> {
    store::open(&format!("sqlite://{}", path.display()), Arc::new(clock.clone())).await
}

#[async_trait]
impl Harness for SqliteHarness {
    async fn fresh() -> Self {
        Self { folder: tempfile::tempdir().expect("folder"), clock: std::sync::OnceLock::new() }
    }

    fn clock(&self) -> &ManualClock {
        self.clock.get_or_init(ManualClock::default)
    }

    fn follow(&self, world: &World) {
        self.clock.set(world.clock.clone()).expect("before the clock is read");
    }

    async fn try_open(&self) -> Result<Arc<dyn Store>, Error> {
        try_open(&self.path(), self.clock()).await
    }

    async fn crash(&self) -> Self {
        let after = Self::fresh().await;
        // The file before its log: a page that a checkpoint moves meanwhile is still in the log.
        for name in ["grantsmith.db", "grantsmith.db-wal"] {
            fs::copy(self.folder.path().join(name), after.folder.path().join(name)).expect("copies");
        }
        after
    }

    async fn hold(&self) -> Box<dyn Any + Send> {
        let other = Connection::open(self.path()).expect("opens");
        other.execute_batch("BEGIN EXCLUSIVE").expect("locks");
        Box::new(other)
    }

    async fn outdate(&self) {
        let other = Connection::open(self.path()).expect("opens");
        other.pragma_update(None, "user_version", 99).expect("writes");
    }
}

fn refusal(result: Result<Arc<dyn Store>, Error>) -> String {
    match result {
        Err(Error::BadUrl(why)) => why,
        other => unreachable!("expected a bad URL, not {other:?}"),
    }
}

#[tokio::test]
async fn the_files_are_their_owners_alone() {
    let harness = SqliteHarness::fresh().await;
    let store = harness.open().await;
    store.check().await.expect("writes");
    for name in ["grantsmith.db", "grantsmith.db-wal", "grantsmith.db-shm", "grantsmith.db.lock"] {
        let mode = fs::metadata(harness.folder.path().join(name)).expect(name).permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[tokio::test]
async fn a_path_that_cannot_be_used_says_what_to_do() {
    let folder = tempfile::tempdir().expect("folder");
    let clock = ManualClock::default();
    let why = refusal(try_open(&folder.path().join("no/such/grantsmith.db"), &clock).await);
    assert!(why.contains("does not exist; make it"), "{why}");
    let why = refusal(try_open(folder.path(), &clock).await);
    assert!(why.contains("is a folder; --database-url must name a file"), "{why}");

    let text = folder.path().join("notes.txt");
    fs::write(&text, "not a database at all, but long enough to look like the header of one".repeat(30))
        .expect("writes");
    let why = refusal(try_open(&text, &clock).await);
    assert!(why.contains("is not a SQLite database"), "{why}");

    let foreign = folder.path().join("foreign.db");
    let other = Connection::open(&foreign).expect("opens");
    other.execute_batch("CREATE TABLE theirs (x)").expect("writes");
    let why = refusal(try_open(&foreign, &clock).await);
    assert!(why.contains("is a database of another program"), "{why}");
    let mode: String = other.query_row("PRAGMA journal_mode", [], |row| row.get(0)).expect("reads");
    assert_eq!(mode, "delete", "and nothing of theirs was changed");

    for url in ["sqlite://", "postgres://localhost/x", "mysql://x", "grantsmith.db"] {
        refusal(store::open(url, Arc::new(clock.clone())).await);
    }
}

#[tokio::test]
async fn a_link_to_the_file_meets_the_same_lock() {
    let harness = SqliteHarness::fresh().await;
    let store = harness.open().await;
    let link = harness.folder.path().join("link.db");
    std::os::unix::fs::symlink(harness.path(), &link).expect("links");
    let second = try_open(&link, harness.clock()).await;
    assert!(matches!(second, Err(Error::InUse(path)) if path == link));
    drop(store);
}

#[tokio::test]
async fn every_table_and_column_is_explained() {
    let sql = include_str!("../../migrations/sqlite/0001_record.sql");
    let mut above = "";
    for line in sql.lines() {
        let text = line.trim();
        let names = text.starts_with("CREATE TABLE")
            || (line.starts_with("    ")
                && text.split(' ').next().is_some_and(|word| !word.starts_with("--")));
        let explained = above.trim().starts_with("--") || text.starts_with("PRIMARY KEY");
        assert!(!names || explained, "no comment above: {line}");
        above = line;
    }
}

#[tokio::test]
async fn no_token_of_the_portal_is_in_the_files() {
    let harness = SqliteHarness::fresh().await;
    let store = harness.open().await;
    let email = Email::new("jane@example.com").expect("an address");
    let tokens = [Opens::Portal, Opens::Action].map(|opens| (Token::random(), opens));
    for (token, opens) in &tokens {
        store.issue_token(token.hash(), *opens, &email, Timestamp::MAX).await.expect("keeps");
    }
    let files = || {
        let names = ["grantsmith.db", "grantsmith.db-wal"];
        names.map(|name| fs::read(harness.folder.path().join(name)).expect(name)).concat()
    };
    let holds = |bytes: &[u8], text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(holds(&files(), "jane@example.com"), "the files are those that hold the rest");
    for (token, opens) in tokens {
        let raw = BASE64URL_NOPAD.decode(token.expose().as_bytes()).expect("base64");
        assert!(!holds(&files(), token.expose()), "{opens:?}");
        assert!(!files().windows(raw.len()).any(|window| window == raw), "{opens:?}, raw");
        assert!(
            store.spend_token(token.hash(), opens, Timestamp::UNIX_EPOCH).await.expect("spends").is_some()
        );
    }
}

fn large(id: &str) -> NewEvent {
    let mut noise = 7_u64;
    let body: Bytes = (0..20_000)
        .map(|_| {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            noise.to_be_bytes()[0]
        })
        .collect();
    NewEvent { body, ..event(id, 1, &session("cs_1")) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_stays_bounded_under_constant_load() {
    let harness = SqliteHarness::fresh().await;
    let store = harness.open().await;
    let log = harness.folder.path().join("grantsmith.db-wal");
    let mut longest = 0;
    // Several times as much as the log may hold, while somebody reads all the time.
    let reading = {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            loop {
                store.events(&EventFilter::default(), None, 200).await.expect("lists");
            }
        })
    };
    for round in 0..40 {
        let tellings = (0..400).map(|n| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.record_event(large(&format!("evt_{round}_{n}"))).await })
        });
        for telling in tellings.collect::<Vec<_>>() {
            telling.await.expect("ends").expect("records");
        }
        longest = longest.max(fs::metadata(&log).expect("a log").len());
    }
    reading.abort();
    // Where the writer no longer waits for a pass of the checkpointer, and half as much again for what commits meanwhile.
    assert!(longest < 192 << 20, "{longest} bytes of log for 320 MB of events");
}

/// A file system of two megabytes, if this user may have one.
struct TinyDisk(tempfile::TempDir);

impl TinyDisk {
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().expect("folder");
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=2m", "none"])
            .arg(folder.path())
            .output()
            .is_ok_and(|output| output.status.success());
        mount.then_some(Self(folder))
    }
}

impl Drop for TinyDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).output();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_loses_nothing_that_was_answered() {
    let Some(disk) = TinyDisk::mount() else {
        // The same is tested with a limit of SQLite's own beside the writer.
        println!("skipped: this user may not mount a file system to fill");
        return;
    };
    let path = disk.0.path().join("grantsmith.db");
    let ballast = disk.0.path().join("ballast");
    fs::write(&ballast, vec![1; 512 << 10]).expect("writes");
    let clock = ManualClock::default();
    let store = try_open(&path, &clock).await.expect("opens");
    let mut kept = Vec::new();
    let error = loop {
        let id = format!("evt_{}", kept.len());
        match store.record_event(large(&id)).await {
            Ok(_) => kept.push(id),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Unavailable(_)), "{error}");
    assert!(kept.len() > 5, "{} events fit", kept.len());
    for id in &kept {
        assert!(
            store.event(id).await.expect("reads go on").is_some_and(|event| event.body.is_some()),
            "{id}"
        );
    }
    fs::remove_file(&ballast).expect("makes room");
    let next = store.record_event(large(&format!("evt_{}", kept.len()))).await;
    assert_eq!(next.expect("works again"), Recorded::New, "what was refused was not written");
    drop(store);
    let store = try_open(&path, &clock).await.expect("opens");
    let listed = store.events(&EventFilter::default(), None, 1_000).await.expect("lists");
    assert_eq!(listed.len(), kept.len() + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_buyer_is_forgotten_though_the_systems_temporary_folder_is_small() {
    const FOLDER: &str = "SQLITE_TMPDIR";
    if env::var_os(FOLDER).is_none() {
        let Some(disk) = TinyDisk::mount() else {
            println!("skipped: this user may not mount a file system to fill");
            return;
        };
        // The environment is a process's, and SQLite asks it before all other places.
        let own = "sqlite::a_buyer_is_forgotten_though_the_systems_temporary_folder_is_small";
        let program = env::current_exe().expect("a program");
        let run =
            Command::new(program).args(["--exact", own]).env(FOLDER, disk.0.path()).output().expect("runs");
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stdout));
        return;
    }
    let harness = SqliteHarness::fresh().await;
    let store = harness.open().await;
    for n in 0..200 {
        store.record_event(large(&format!("evt_{n}"))).await.expect("records");
    }
    let nobody = Email::new("nobody@example.com").expect("an address");
    store.forget(&nobody, "ops", Timestamp::UNIX_EPOCH).await.expect("rewrites the file");
}
