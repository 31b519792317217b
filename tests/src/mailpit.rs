//! A real mail server, read back: mailpit.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::OnceLock;

use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::port::free_port;
use crate::until;

/// A mail server of its own.
#[derive(Debug)]
pub struct Mailpit {
    host: IpAddr,
    before: Vec<String>,
    smtp: u16,
    http: u16,
    process: Option<Child>,
    client: reqwest::Client,
}

fn binary() -> &'static PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match std::env::var_os("GRANTSMITH_MAILPIT") {
        Some(path) => path.into(),
        None => tool("mailpit"),
    })
}

/// The path of a test tool, built if need be.
pub fn tool(name: &str) -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tools/get.sh");
    let output =
        std::process::Command::new(script).arg(name).stderr(Stdio::inherit()).output().expect("get.sh runs");
    assert!(output.status.success(), "tests/tools/get.sh {name} ends well");
    String::from_utf8(output.stdout).expect("a path").trim().into()
}

impl Mailpit {
    /// Starts one on free ports.
    pub async fn start() -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST.into(), Vec::new()).await
    }

    /// One that takes mail from this user alone.
    pub async fn start_with_login(user: &str, password: &str) -> Self {
        let login = format!("MP_SMTP_AUTH={user}:{password}");
        let words = ["env".to_owned(), login, "MP_SMTP_AUTH_ALLOW_INSECURE=true".to_owned()];
        Self::start_at(Ipv4Addr::LOCALHOST.into(), words.to_vec()).await
    }

    /// The same at another address, with these words before its command.
    pub async fn start_at(host: IpAddr, before: Vec<String>) -> Self {
        let (smtp, http) = (free_port(), free_port());
        let mut mailpit = Self {
            host,
            before,
            smtp,
            http,
            process: None,
            client: grantsmith_authforge::http_client(&[]).expect("a client"),
        };
        mailpit.up().await;
        mailpit
    }

    /// Starts it again on the same ports, with an empty mailbox.
    pub async fn up(&mut self) {
        let binary = binary().display().to_string();
        let words = [self.before.as_slice(), &[binary]].concat();
        let process = Command::new(&words[0])
            .args(&words[1..])
            .args([
                "--smtp",
                &format!("{}:{}", self.host, self.smtp),
                "--listen",
                &format!("{}:{}", self.host, self.http),
            ])
            // It would forget all but the last 500 mails.
            .args(["--enable-chaos", "--quiet", "--disable-version-check", "--max", "0"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("mailpit starts");
        self.process = Some(process);
        until("mailpit", async || self.get("/api/v1/info").await).await;
    }

    /// Takes it down.
    pub async fn down(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().await.expect("mailpit can be killed");
        }
    }

    /// What `--smtp-url` is given.
    pub fn url(&self) -> String {
        format!("smtp://{}:{}", self.host, self.smtp)
    }

    async fn get(&self, path: &str) -> Option<Value> {
        let answer =
            self.client.get(format!("http://{}:{}{path}", self.host, self.http)).send().await.ok()?;
        answer.json().await.ok()
    }

    /// The mails that came, oldest first: summaries with `ID`, `MessageID`, `To`, `Subject`.
    pub async fn mails(&self) -> Vec<Value> {
        let list = self.get("/api/v1/messages?limit=10000").await.expect("mailpit lists");
        let mut mails = list["messages"].as_array().cloned().unwrap_or_default();
        mails.reverse();
        mails
    }

    /// One whole mail: `Text`, `HTML`, `From`, `ReplyTo` and so on.
    pub async fn mail(&self, id: &str) -> Value {
        self.get(&format!("/api/v1/message/{id}")).await.expect("mailpit shows")
    }

    /// A mail's headers.
    pub async fn headers(&self, id: &str) -> Value {
        self.get(&format!("/api/v1/message/{id}/headers")).await.expect("mailpit shows")
    }

    /// Waits until this many mails are there.
    pub async fn until_mails(&self, count: usize) -> Vec<Value> {
        until(&format!("{count} mails"), async || {
            let mails = self.mails().await;
            (mails.len() >= count).then_some(mails)
        })
        .await
    }

    /// Refuses every recipient with this code from now on; 0 takes them again.
    pub async fn refuse(&self, code: u16) {
        let probability = if code == 0 { 0 } else { 100 };
        let code = if code == 0 { 451 } else { code };
        let body = json!({ "Recipient": { "ErrorCode": code, "Probability": probability } });
        let url = format!("http://{}:{}/api/v1/chaos", self.host, self.http);
        let answer = self.client.put(url).json(&body).send().await.expect("mailpit answers");
        assert!(answer.status().is_success(), "mailpit takes the order");
    }
}
