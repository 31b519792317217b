//! The servers that are compared: started, asked where they are, killed, and their records counted.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use grantsmith_tests::{AUTHFORGE_KEY, WEBHOOK_SECRET, mailpit, measure};
use rusqlite::{Connection, OpenFlags};
use tempfile::TempDir;

/// No server takes longer than this to start.
const PATIENCE: Duration = Duration::from_secs(30);

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// `grantsmith standalone --events-only`
    Grantsmith,
    /// `ack.mjs`
    Single,
    /// `ack.mjs --grouped`
    Grouped,
    /// `guide.mjs`
    Guide,
    /// `guide.mjs --durable`
    GuideDurable,
}

impl Side {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Grantsmith => "grantsmith",
            Self::Single => "Express, a commit an event",
            Self::Grouped => "Express, a commit a turn",
            Self::Guide => "the guide's handler",
            Self::GuideDurable => "the guide's, made durable",
        }
    }
}

/// What servers are made of.
#[derive(Debug)]
pub(crate) struct Parts {
    /// The program, compiled for release.
    pub(crate) program: PathBuf,
    /// The folder with the rivals and their packages.
    pub(crate) rivals: PathBuf,
    /// Makes every sync take 2 ms.
    pub(crate) slow_sync: PathBuf,
    /// The fake AuthForge.
    pub(crate) authforge: String,
    /// On the disk that is measured.
    pub(crate) folder: PathBuf,
}

impl Parts {
    /// Compiles what is missing.
    pub(crate) fn new(folder: PathBuf, authforge: String) -> anyhow::Result<Self> {
        let slow_sync = folder.join("slow_sync.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/slow_sync.c");
        let compiled = Command::new("cc")
            .args(["-O2", "-Wall", "-shared", "-fPIC", "-o"])
            .args([&slow_sync, &source])
            .arg("-ldl")
            .status()
            .context("no C compiler")?;
        if !compiled.success() {
            bail!("slow_sync.c does not compile");
        }
        let rivals =
            std::env::var_os("GRANTSMITH_RIVALS").map_or_else(|| mailpit::tool("rivals"), PathBuf::from);
        Ok(Self { program: program()?, rivals, slow_sync, authforge, folder })
    }
}

/// The program, compiled for release, unless `GRANTSMITH_PROGRAM` names one to compare with.
fn program() -> anyhow::Result<PathBuf> {
    if let Some(program) = std::env::var_os("GRANTSMITH_PROGRAM") {
        return Ok(program.into());
    }
    let output = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--release", "--package", "grantsmith-service", "--bin", "grantsmith"])
        .arg("--message-format=json")
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .stderr(Stdio::inherit())
        .output()?;
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let artifacts = lines.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut programs = artifacts.filter_map(|artifact| artifact["executable"].as_str().map(PathBuf::from));
    programs.find(|path| path.ends_with("grantsmith")).context("the program was not built")
}

/// A running server. Dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    folder: TempDir,
    side: Side,
    /// Where the webhook and the pages are.
    pub(crate) http: SocketAddr,
}

impl Server {
    /// Starts a server on an empty record.
    pub(crate) fn start(side: Side, parts: &Parts, slow: bool) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir_in(&parts.folder)?;
        let mut command = match side {
            Side::Grantsmith => grantsmith(parts, folder.path())?,
            Side::Single => node(parts, "ack.mjs", &[]),
            Side::Grouped => node(parts, "ack.mjs", &["--grouped"]),
            Side::Guide => node(parts, "guide.mjs", &guide(parts)),
            Side::GuideDurable => node(parts, "guide.mjs", &[&guide(parts)[..], &["--durable"]].concat()),
        };
        if slow {
            command.env("LD_PRELOAD", &parts.slow_sync);
        }
        Self::spawn(command, folder, side)
    }

    /// Starts Grantsmith with more flags, on an empty record.
    pub(crate) fn with_flags(parts: &Parts, flags: &[&str]) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir_in(&parts.folder)?;
        let mut command = grantsmith(parts, folder.path())?;
        command.args(flags);
        Self::spawn(command, folder, Side::Grantsmith)
    }

    /// Kills Grantsmith and starts it on the same record, without those flags.
    pub(crate) fn restarted(mut self, parts: &Parts) -> anyhow::Result<Self> {
        self.kill();
        let folder = std::mem::replace(&mut self.folder, tempfile::tempdir_in(&parts.folder)?);
        let command = grantsmith(parts, folder.path())?;
        Self::spawn(command, folder, Side::Grantsmith)
    }

    fn spawn(mut command: Command, folder: TempDir, side: Side) -> anyhow::Result<Self> {
        let log = folder.path().join("log");
        let child = command
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()
            .with_context(|| format!("{} does not start", side.name()))?;
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut server = Self { child, folder, side, http: nowhere };
        server.http = server.address("http")?;
        Ok(server)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn resident(&self) -> f64 {
        measure::resident(self.pid())
    }

    /// All that the server has said.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Where a listener is, as the server says itself.
    pub(crate) fn address(&mut self, name: &str) -> anyhow::Result<SocketAddr> {
        let wanted = format!("{name}=");
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE && self.child.try_wait()?.is_none() {
            let log = self.log();
            let words = log.lines().filter(|line| line.contains("listening")).flat_map(str::split_whitespace);
            let mut addresses = words.filter_map(|word| word.strip_prefix(&wanted)?.parse().ok());
            if let Some(address) = addresses.next() {
                return Ok(address);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        bail!("{} does not listen; it said:\n{}", self.side.name(), self.log());
    }

    /// Kills the server as a loss of power would, and counts the events on its disk.
    pub(crate) fn kill_and_count(mut self) -> anyhow::Result<u64> {
        self.kill();
        let file = match self.side {
            Side::Grantsmith => "grantsmith.db",
            _ => "events.db",
        };
        let record =
            Connection::open_with_flags(self.folder.path().join(file), OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        Ok(record.query_row("SELECT count(*) FROM events", [], |row| row.get(0))?)
    }

    fn kill(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn grantsmith(parts: &Parts, folder: &Path) -> anyhow::Result<Command> {
    fs::write(folder.join("authforge-key"), AUTHFORGE_KEY)?;
    fs::write(folder.join("webhook-secrets"), WEBHOOK_SECRET)?;
    let mut command = Command::new(&parts.program);
    command
        .env_clear()
        .args(["standalone", "--events-only", "--stripe-mode", "test", "--log-format", "text"])
        .args([
            "--database-url",
            "sqlite://grantsmith.db",
            "--stripe-webhook-secrets-file",
            "webhook-secrets",
        ])
        .args(["--authforge-url", &parts.authforge, "--authforge-api-key-file", "authforge-key"])
        .args([
            "--http-listen",
            "127.0.0.1:0",
            "--grpc-listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
        ]);
    Ok(command)
}

fn node(parts: &Parts, script: &str, flags: &[&str]) -> Command {
    let mut command = Command::new("node");
    command
        .arg(parts.rivals.join(script))
        .args(["--db", "events.db", "--secret", WEBHOOK_SECRET])
        .args(flags);
    command
}

fn guide(parts: &Parts) -> [&str; 4] {
    ["--authforge-url", &parts.authforge, "--authforge-api-key", AUTHFORGE_KEY]
}
