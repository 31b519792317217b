//! Stripe's own stripe-mock: it holds every request against the published description of the API, and knows nothing else.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::OnceLock;

use tokio::process::{Child, Command};

use crate::mailpit::tool;
use crate::port::free_port;
use crate::{STRIPE_KEY, until};

/// A running stripe-mock. It stops when dropped.
#[derive(Debug)]
pub struct StripeMock {
    port: u16,
    _process: Child,
}

fn binary() -> &'static PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match std::env::var_os("GRANTSMITH_STRIPE_MOCK") {
        Some(path) => path.into(),
        None => tool("stripe-mock"),
    })
}

impl StripeMock {
    /// Starts one on a free port.
    pub async fn start() -> Self {
        let port = free_port();
        let process = Command::new(binary())
            .args(["-http-port", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("stripe-mock starts");
        let mock = Self { port, _process: process };
        let client = grantsmith_authforge::http_client(&[]).expect("a client");
        until("stripe-mock", async || {
            let request = client.get(format!("{}/v1/prices", mock.url())).bearer_auth(STRIPE_KEY);
            request.send().await.ok().filter(|answer| answer.status().is_success())
        })
        .await;
        mock
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}
