//! A real browser, driven over WebDriver.

use std::net::TcpListener;
use std::process::Stdio;

use fantoccini::{Client, ClientBuilder};
use serde_json::json;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::until;

/// A browser of its own: its driver, its profile, one window.
#[derive(Debug)]
pub struct Browser {
    /// The window.
    pub window: Client,
    _driver: Child,
    _profile: TempDir,
}

impl Browser {
    /// Opens a window of this size, with or without JavaScript.
    pub async fn open(width: u32, height: u32, javascript: bool) -> Self {
        let port =
            TcpListener::bind(("127.0.0.1", 0)).and_then(|l| l.local_addr()).expect("a free port").port();
        let profile = tempfile::tempdir().expect("a folder");
        let driver = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("chromedriver starts; `make prerequisites` installs it");
        let arguments = [
            "--headless=new".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-gpu".to_owned(),
            "--no-first-run".to_owned(),
            "--disable-background-networking".to_owned(),
            "--disable-component-update".to_owned(),
            "--disable-sync".to_owned(),
            "--hide-scrollbars".to_owned(),
            format!("--user-data-dir={}", profile.path().display()),
            format!("--window-size={width},{height}"),
        ];
        let scripts = if javascript { 1 } else { 2 };
        let capabilities = json!({
            "goog:chromeOptions": {
                "args": arguments,
                "prefs": { "profile.managed_default_content_settings.javascript": scripts },
                "mobileEmulation": { "deviceMetrics": { "width": width, "height": height, "pixelRatio": 2.0 } },
            }
        });
        let capabilities = capabilities.as_object().cloned().expect("an object");
        let url = format!("http://127.0.0.1:{port}");
        let window = until("the browser", async || {
            ClientBuilder::new(hyper_util::client::legacy::connect::HttpConnector::new())
                .capabilities(capabilities.clone())
                .connect(&url)
                .await
                .ok()
        })
        .await;
        Self { window, _driver: driver, _profile: profile }
    }

    /// What a person reads on the page.
    pub async fn text(&self) -> String {
        let body = self.window.find(fantoccini::Locator::Css("body")).await.expect("a body");
        body.text().await.expect("a text")
    }

    /// Keeps a picture of the page where `GRANTSMITH_SCREENSHOTS` says, for people to look at.
    pub async fn picture(&self, name: &str) {
        let png = self.window.screenshot().await.expect("a picture");
        assert!(png.starts_with(b"\x89PNG"), "a picture is a PNG");
        if let Some(folder) = std::env::var_os("GRANTSMITH_SCREENSHOTS") {
            std::fs::create_dir_all(&folder).expect("a folder");
            std::fs::write(std::path::Path::new(&folder).join(format!("{name}.png")), png).expect("a file");
        }
    }
}
