//! A real browser, driven over its driver.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::Duration;

use fantoccini::{Client, ClientBuilder, Locator};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::port::free_port;
use crate::until;

/// A browser of its own: its driver, its profile, one window.
#[derive(Debug)]
pub struct Browser {
    /// The window.
    pub window: Client,
    /// Its size.
    size: (u32, u32),
    port: u16,
    session: String,
    client: reqwest::Client,
    _driver: Child,
    _profile: TempDir,
}

impl Browser {
    /// A narrow phone.
    pub async fn phone(javascript: bool) -> Self {
        Self::open(360, 740, javascript).await
    }

    /// A small laptop.
    pub async fn desktop(javascript: bool) -> Self {
        Self::open(1280, 800, javascript).await
    }

    /// Opens a window of this size, with or without JavaScript.
    pub async fn open(width: u32, height: u32, javascript: bool) -> Self {
        let port = free_port();
        let profile = tempfile::tempdir().expect("a folder");
        let driver = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("chromedriver starts; `make prerequisites` installs it");
        let capabilities = capabilities((width, height), javascript, &profile);
        let url = format!("http://127.0.0.1:{port}");
        let window = until("the browser", async || {
            ClientBuilder::new(hyper_util::client::legacy::connect::HttpConnector::new())
                .capabilities(capabilities.clone())
                .connect(&url)
                .await
                .ok()
        })
        .await;
        let session = window.session_id().await.expect("a session").expect("a session");
        let client = grantsmith_authforge::http_client(&[]).expect("a client");
        Self { window, size: (width, height), port, session, client, _driver: driver, _profile: profile }
    }

    /// Opens an address.
    pub async fn goto(&self, url: &str) {
        self.window.goto(url).await.expect("the page opens");
    }

    /// What a person reads on the page.
    pub async fn text(&self) -> String {
        self.read().await.expect("a text")
    }

    async fn read(&self) -> Option<String> {
        self.window.find(Locator::Css("body")).await.ok()?.text().await.ok()
    }

    /// Waits until a person can read this on the page, which may replace itself meanwhile; gives the whole text.
    pub async fn until_text(&self, wanted: &str) -> String {
        until(&format!("'{wanted}' in the browser"), async || {
            self.read().await.filter(|text| text.contains(wanted))
        })
        .await
    }

    /// What an expression is, in the page, which may replace itself meanwhile.
    pub async fn value(&self, expression: &str) -> Value {
        let script = format!("return {expression}");
        until(expression, async || self.window.execute(&script, Vec::new()).await.ok()).await
    }

    /// Presses what a selector finds, as a finger would: the driver's own click never ends in a window without JavaScript.
    pub async fn press(&self, selector: &str) {
        let place = format!(
            "(() => {{ const it = document.querySelector({selector:?}); it.scrollIntoView({{ block: 'center' }}); \
             const box = it.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]; }})()"
        );
        let place = self.value(&place).await;
        for kind in ["mousePressed", "mouseReleased"] {
            let event =
                json!({ "type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1 });
            self.order("Input.dispatchMouseEvent", event).await;
        }
    }

    /// Presses a field and writes into it.
    pub async fn write(&self, selector: &str, text: &str) {
        self.press(selector).await;
        self.order("Input.insertText", json!({ "text": text })).await;
    }

    /// Fails if the page is wider than the window.
    pub async fn assert_fits(&self) {
        let [wanted, width] = [
            self.value("document.documentElement.scrollWidth").await,
            self.value("document.documentElement.clientWidth").await,
        ];
        assert!(width.as_u64() <= Some(self.size.0.into()), "the viewport is {width}");
        assert!(wanted.as_u64() <= width.as_u64(), "the page needs {wanted} of {width} pixels");
    }

    /// Everything that the browser has complained about since the last time, such as what a policy forbade.
    pub async fn complaints(&self) -> Vec<String> {
        let log = self.ask("se/log", json!({ "type": "browser" })).await;
        let entries = log.as_array().cloned().unwrap_or_default();
        entries.iter().map(|entry| format!("{} {}", entry["level"], entry["message"])).collect()
    }

    /// Prefers dark or light pages.
    pub async fn prefer(&self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.order("Emulation.setEmulatedMedia", json!({ "features": features })).await;
    }

    async fn order(&self, command: &str, parameters: Value) -> Value {
        self.ask("goog/cdp/execute", json!({ "cmd": command, "params": parameters })).await
    }

    /// What the driver offers beyond the standard.
    async fn ask(&self, path: &str, body: Value) -> Value {
        let url = format!("http://127.0.0.1:{}/session/{}/{path}", self.port, self.session);
        let answer = self.client.post(url).json(&body).send().await.expect("the driver answers");
        let answer: Value = answer.json().await.expect("JSON");
        assert!(answer["value"]["error"].is_null(), "{answer}");
        answer["value"].clone()
    }

    /// Keeps a picture of the whole page where `GRANTSMITH_SCREENSHOTS` says, for people to look at.
    pub async fn picture(&self, name: &str) {
        let Some(folder) = std::env::var_os("GRANTSMITH_SCREENSHOTS") else { return };
        let long = self.value("document.documentElement.scrollHeight").await.as_u64().expect("a height");
        self.stretch(long.max(self.size.1.into())).await;
        let png = self.window.screenshot().await.expect("a picture");
        self.stretch(self.size.1.into()).await;
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(std::path::Path::new(&folder).join(format!("{name}.png")), png).expect("a file");
    }

    async fn stretch(&self, height: u64) {
        let (width, mobile) = (self.size.0, is_phone(self.size));
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 2, "mobile": mobile });
        self.order("Emulation.setDeviceMetricsOverride", metrics).await;
    }
}

impl Drop for Browser {
    /// The driver closes the window and ends the browser's many processes; killed, it would leave them behind.
    fn drop(&mut self) {
        let Ok(mut driver) = TcpStream::connect(("127.0.0.1", self.port)) else { return };
        let _ = driver.set_read_timeout(Some(Duration::from_secs(10)));
        let session = &self.session;
        let _ = write!(
            driver,
            "DELETE /session/{session} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
        );
        let _ = driver.read(&mut [0; 1024]);
    }
}

fn is_phone((width, _): (u32, u32)) -> bool {
    width < 600
}

fn capabilities(
    (width, height): (u32, u32),
    javascript: bool,
    profile: &TempDir,
) -> serde_json::Map<String, Value> {
    let arguments = [
        "--headless=new".to_owned(),
        "--no-sandbox".to_owned(),
        "--disable-gpu".to_owned(),
        "--disable-software-rasterizer".to_owned(),
        "--no-first-run".to_owned(),
        "--disable-background-networking".to_owned(),
        "--disable-component-update".to_owned(),
        "--disable-sync".to_owned(),
        "--hide-scrollbars".to_owned(),
        format!("--user-data-dir={}", profile.path().display()),
        format!("--window-size={width},{height}"),
    ];
    let scripts = if javascript { 1 } else { 2 };
    let metrics = json!({
        "width": width, "height": height, "pixelRatio": 2.0, "mobile": is_phone((width, height)), "touch": is_phone((width, height)),
    });
    let capabilities = json!({
        "goog:chromeOptions": {
            "args": arguments,
            "prefs": { "profile.managed_default_content_settings.javascript": scripts },
            "mobileEmulation": { "deviceMetrics": metrics },
        },
        "goog:loggingPrefs": { "browser": "ALL" },
    });
    capabilities.as_object().cloned().expect("an object")
}
