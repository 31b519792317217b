//! The real program as a process: started, read, asked to end, killed.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use crate::until;
use crate::wait::{PATIENCE, answer_within};

/// The file of `grantsmith`, freshly built.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| built("grantsmith"))
}

/// The file of a program of this workspace, freshly built: of the whole of it, as `make test` does, so that little is compiled
/// that was not before.
pub fn built(name: &str) -> PathBuf {
    let mut cargo = std::process::Command::new(env!("CARGO"));
    // What cargo tells a test about its own package makes ring's build script run again, and most of the program
    // would be compiled anew at each change between this build and one by hand.
    for (name, _) in std::env::vars_os() {
        let ours = |name: &str| name.starts_with("CARGO_MANIFEST_") || name.starts_with("CARGO_PKG_");
        if name.to_str().is_some_and(ours) {
            cargo.env_remove(name);
        }
    }
    let output = cargo
        .args(["build", "--quiet", "--message-format=json", "--workspace", "--bin", name])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "the program builds: {}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut artifacts = lines.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    artifacts
        .find_map(|artifact| artifact["executable"].as_str().map(PathBuf::from))
        .expect("cargo tells where the program is")
}

/// A running program.
#[derive(Debug)]
pub struct Program {
    child: Child,
    log: Arc<Mutex<String>>,
    ears: Vec<JoinHandle<()>>,
}

impl Program {
    /// Starts the program with these arguments, and nothing in its environment but `environment`.
    pub fn start(arguments: &[String], environment: &[(&str, &str)], folder: &Path) -> Self {
        let mut command = Command::new(binary());
        command.args(arguments);
        Self::of(command, environment, folder)
    }

    /// Starts another program, and nothing in its environment but `environment`.
    pub fn of(mut command: Command, environment: &[(&str, &str)], folder: &Path) -> Self {
        let mut child = command
            .env_clear()
            .envs(environment.iter().copied())
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the program starts");
        let log = Arc::new(Mutex::new(String::new()));
        let streams: [Box<dyn tokio::io::AsyncRead + Unpin + Send>; 2] =
            [Box::new(child.stderr.take().expect("a pipe")), Box::new(child.stdout.take().expect("a pipe"))];
        let listen = |stream| {
            let log = log.clone();
            tokio::spawn(async move {
                let mut lines = BufReader::new(stream).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
                    log.push_str(&line);
                    log.push('\n');
                }
            })
        };
        let ears = streams.into_iter().map(listen).collect();
        Self { child, log, ears }
    }

    /// All that the program has said.
    pub fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where a listener really is, as the program says itself.
    pub async fn address(&self, name: &str) -> SocketAddr {
        let wanted = format!("{name}=");
        let find = || {
            // Looked at before its words are: when it has ended, there are no more to come.
            let ended = self.ears.iter().all(JoinHandle::is_finished);
            let log = self.log();
            let lines = log.lines().filter(|line| line.contains("listening"));
            let found = lines
                .flat_map(str::split_whitespace)
                .find_map(|word| word.strip_prefix(&wanted)?.parse().ok());
            (found.is_some() || ended).then_some(found)
        };
        let found = answer_within(PATIENCE, async || find()).await.flatten();
        found
            .unwrap_or_else(|| panic!("no 'listening {name}=' from the program, which said:\n{}", self.log()))
    }

    /// `kill -9`, waited for.
    pub async fn kill(mut self) -> String {
        self.child.kill().await.expect("the program can be killed");
        self.log()
    }

    /// Nobody reads what the program says from here on: its pipes are closed, as when the program behind a `|` has ended.
    pub async fn stop_reading(&mut self) {
        for ear in self.ears.drain(..) {
            ear.abort();
            let _ = ear.await;
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        self::signal(self.pid(), signal);
    }

    /// Freezes it, as a machine that is out of breath does, and returns when it stands still.
    pub fn freeze(&self) {
        freeze(self.pid());
    }

    /// Waits for the program's own end; gives its code and all that it said.
    pub async fn end(mut self) -> (ExitStatus, String) {
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        let status = ended
            .unwrap_or_else(|_| panic!("the program does not end; it said:\n{}", self.log()))
            .expect("a status");
        // The pipes are read by tasks of their own; the last line may still be on its way.
        let log = self.log.clone();
        until("the program's last words", async || (Arc::strong_count(&log) <= 2).then_some(())).await;
        (status, self.log())
    }
}

/// Freezes a child process. The signal alone would leave some of its threads a little time on a busy machine; when this
/// returns, none of them runs.
pub fn freeze(pid: u32) {
    signal(pid, Signal::STOP);
    waitid(WaitId::Pid(process(pid)), WaitIdOptions::STOPPED).expect("the program is a child of this one");
}

/// Sends a signal.
pub fn signal(pid: u32, signal: Signal) {
    kill_process(process(pid), signal).expect("the program can be signalled");
}

fn process(pid: u32) -> Pid {
    i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process")
}

/// Runs the program to its end: a hand tool. Gives its code, standard output and standard error.
pub async fn run(arguments: &[&str], environment: &[(&str, &str)], folder: &Path) -> (i32, String, String) {
    run_into(arguments, environment, folder, Stdio::piped()).await
}

/// As [`run`], with its standard output somewhere else.
pub async fn run_into(
    arguments: &[&str],
    environment: &[(&str, &str)],
    folder: &Path,
    out: impl Into<Stdio>,
) -> (i32, String, String) {
    let tool = Command::new(binary())
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the tool starts");
    let output = tokio::time::timeout(PATIENCE, tool.wait_with_output())
        .await
        .expect("the tool ends")
        .expect("the tool is waited for");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("the tool prints text");
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}
