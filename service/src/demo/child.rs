//! The real program as a child process that can be killed.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::{API_KEY, AUTHFORGE_KEY, CATALOG, WEBHOOK_SECRET, write_private};
use crate::config::Demo;
use crate::telemetry::LogFormat;

/// Where the child listens, as it said itself.
#[derive(Debug, Clone, Copy, Default)]
struct Listening {
    http: Option<SocketAddr>,
    grpc: Option<SocketAddr>,
    admin: Option<SocketAddr>,
}

pub(super) struct Child {
    folder: PathBuf,
    arguments: Vec<String>,
    listening: Listening,
    process: Mutex<Option<tokio::process::Child>>,
    stop: CancellationToken,
}

impl Child {
    pub(super) async fn start(
        settings: &Demo,
        folder: &Path,
        stripe: &str,
        authforge: &str,
        smtp: &str,
        stop: CancellationToken,
    ) -> anyhow::Result<Self> {
        let file = |name: &str, text: &str| {
            let path = folder.join(name);
            write_private(&path, text).with_context(|| format!("cannot write '{}'", path.display()))?;
            Ok::<_, anyhow::Error>(path.display().to_string())
        };
        let format = match settings.log.log_format {
            LogFormat::Json => "json",
            LogFormat::Auto | LogFormat::Text => "text",
        };
        let flags = [
            ("--database-url", format!("sqlite://{}", folder.join("grantsmith.db").display())),
            ("--stripe-mode", "test".to_owned()),
            ("--stripe-url", stripe.to_owned()),
            ("--stripe-api-key-file", file("stripe-api-key", API_KEY)?),
            ("--stripe-webhook-secrets-file", file("stripe-webhook-secrets", WEBHOOK_SECRET)?),
            ("--catalog", file("catalog.yaml", CATALOG)?),
            ("--authforge-url", authforge.to_owned()),
            ("--authforge-api-key-file", file("authforge-api-key", AUTHFORGE_KEY)?),
            ("--smtp-url", smtp.to_owned()),
            ("--mail-from", "Demo Shop <keys@shop.example>".to_owned()),
            ("--mail-reply-to", "help@shop.example".to_owned()),
            ("--seller-name", "Demo Shop".to_owned()),
            ("--support", "help@shop.example".to_owned()),
            ("--log-format", format.to_owned()),
        ];
        let arguments = flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect();
        let mut child = Self {
            folder: folder.to_owned(),
            arguments,
            listening: Listening {
                http: Some(settings.http_listen),
                grpc: Some(settings.grpc_listen),
                admin: Some(settings.admin_listen),
            },
            process: Mutex::new(None),
            stop,
        };
        child.listening = child.spawn().await?;
        Ok(child)
    }

    /// What the pages' addresses begin with.
    pub(super) fn base(&self) -> String {
        self.listening.http.map_or_else(String::new, |address| format!("http://{address}"))
    }

    pub(super) fn grpc(&self) -> Option<SocketAddr> {
        self.listening.grpc
    }

    /// Starts the program and waits until it listens everywhere.
    async fn spawn(&self) -> anyhow::Result<Listening> {
        let program = std::env::current_exe().context("this program's own file")?;
        let listen = |address: Option<SocketAddr>| {
            address.map_or_else(|| "127.0.0.1:0".to_owned(), |address| address.to_string())
        };
        let mut command = Command::new(program);
        command
            .arg("standalone")
            .args(&self.arguments)
            .args(["--http-listen", &listen(self.listening.http)])
            .args(["--grpc-listen", &listen(self.listening.grpc)])
            .args(["--admin-listen", &listen(self.listening.admin)])
            .current_dir(&self.folder)
            // Its settings are the flags above and nothing that happens to be in the environment.
            .env_clear()
            .env(
                "RUST_LOG",
                std::env::var("RUST_LOG").unwrap_or_else(|_| "warn,grantsmith_service::app=info".to_owned()),
            )
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut process = command.spawn().context("cannot start the program")?;
        let mut lines = BufReader::new(process.stderr.take().context("the child's log")?).lines();
        let mut listening = Listening::default();
        while listening.http.is_none() || listening.grpc.is_none() || listening.admin.is_none() {
            let line = tokio::select! {
                line = lines.next_line() => line?,
                () = tokio::time::sleep(Duration::from_secs(30)) => bail!("the program does not listen"),
                () = self.stop.cancelled() => bail!("stopped"),
            };
            let Some(line) = line else { bail!("the program ended at its start; its last words are above") };
            eprintln!("{line}");
            listening.http = listening.http.or(address(&line, "http"));
            listening.grpc = listening.grpc.or(address(&line, "grpc"));
            listening.admin = listening.admin.or(address(&line, "admin"));
        }
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                eprintln!("{line}");
            }
        });
        *self.process.lock().await = Some(process);
        Ok(listening)
    }

    /// `kill -9`, and a new start on the same files and ports.
    pub(super) async fn kill_and_restart(&self) -> anyhow::Result<()> {
        if let Some(mut process) = self.process.lock().await.take() {
            process.kill().await.context("cannot kill the program")?;
        }
        self.spawn().await?;
        Ok(())
    }

    /// Asks the program to end, and waits.
    pub(super) async fn stop(&self) {
        let Some(mut process) = self.process.lock().await.take() else { return };
        let pid = process.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = process.wait().await;
    }
}

/// Finds `name=ADDRESS`, or `"name":"ADDRESS"`, in a line that says where something listens.
fn address(line: &str, name: &str) -> Option<SocketAddr> {
    if !line.contains("listening") {
        return None;
    }
    let plain = line.replace(['"', '{', '}', ','], " ").replace(" : ", "=").replace(" :", "=");
    plain.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_lines_are_read_in_both_formats() {
        let text = "2026-11-23T00:00:00Z  INFO listening http=127.0.0.1:41233";
        let json = r#"{"timestamp":"2026-11-23T00:00:00Z","level":"INFO","message":"listening","http":"127.0.0.1:41233"}"#;
        for line in [text, json] {
            assert_eq!(address(line, "http"), Some("127.0.0.1:41233".parse().expect("an address")), "{line}");
            assert_eq!(address(line, "grpc"), None);
        }
    }
}
