//! The demonstration as a new user meets it.

#![expect(clippy::expect_used, clippy::panic, reason = "a test stops where the world is not as it set it up")]

use std::path::Path;

use fantoccini::Locator;
use grantsmith_tests::{Browser, Program, until};
use tempfile::TempDir;

const PORTS: [&str; 4] = ["--http-listen", "--grpc-listen", "--admin-listen", "--shop-listen"];

/// A demonstration that keeps its files in a folder of its own.
struct Demo {
    program: Program,
    shop: String,
    client: reqwest::Client,
    folder: TempDir,
}

fn start(folder: &Path, more: &[&str]) -> Program {
    let mut arguments = vec!["demo".to_owned(), "--keep".to_owned(), folder.display().to_string()];
    arguments.extend(PORTS.iter().flat_map(|port| [(*port).to_owned(), "127.0.0.1:0".to_owned()]));
    arguments.extend(more.iter().map(|flag| (*flag).to_owned()));
    Program::start(&arguments, &[], folder)
}

/// The rest of the line that begins so.
fn told<'a>(log: &'a str, name: &str) -> Option<&'a str> {
    log.lines().find_map(|line| line.trim_start().strip_prefix(name)).map(str::trim)
}

/// How many processes have this folder in their arguments.
fn processes(folder: &Path) -> usize {
    let folder = folder.display().to_string();
    let all = std::fs::read_dir("/proc").expect("processes").filter_map(Result::ok);
    let arguments = all.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    arguments.filter(|arguments| String::from_utf8_lossy(arguments).contains(&folder)).count()
}

impl Demo {
    async fn serving() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let program = start(folder.path(), &[]);
        until("the demonstration to serve", async || program.log().contains("Ctrl-C stops").then_some(()))
            .await;
        let log = program.log();
        let shop = told(&log, "a shop to play").unwrap_or_else(|| panic!("a shop in {log}")).to_owned();
        let client = grantsmith_authforge::http_client(&[]).expect("a client");
        Self { program, shop, client, folder }
    }

    /// What `curl -X POST` prints.
    async fn buy(&self, wish: &str) -> (u16, String) {
        let answer = self.client.post(format!("{}/buy{wish}", self.shop)).header("accept", "*/*");
        let answer = answer.send().await.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("a text"))
    }

    async fn stop(self) {
        assert_eq!(processes(self.folder.path()), 2, "the demonstration and the program itself");
        self.program.terminate();
        let (status, log) = self.program.end().await;
        assert_eq!(status.code(), Some(0), "{log}");
        assert_eq!(processes(self.folder.path()), 0, "no child is left");
    }
}

#[tokio::test]
async fn once_tells_the_whole_story_and_ends() {
    let folder = tempfile::tempdir().expect("a folder");
    let (status, log) = start(folder.path(), &["--once"]).end().await;
    assert_eq!(status.code(), Some(0), "{log}");
    let key = told(&log, "license key").expect("a key");
    assert!(key.len() == 19 && key.split('-').all(|part| part.len() == 4), "{key}");
    let base = told(&log, "webhook and pages").expect("an address");
    let page = told(&log, "success page").expect("a page");
    assert!(page.starts_with(&format!("{base}/success?session_id=cs_test_")), "{page}");
    let mail = told(&log, "mail").expect("a mail");
    assert!(mail.contains("license key from Demo Shop") && mail.contains("buyer1@example.com"), "{mail}");
    let answers: Vec<&str> = log.lines().filter(|line| line.trim_start().starts_with("answer")).collect();
    assert!(answers[0].contains("200") && answers[0].contains(r#""outcome":"recorded""#), "{answers:?}");
    assert!(answers[1].contains("200") && answers[1].contains(r#""outcome":"duplicate""#), "{answers:?}");
    assert_eq!(told(&log, "at AuthForge"), Some("1 license for this order; 1 mail went out"), "{log}");
    assert_eq!(processes(folder.path()), 0, "no child is left");
}

#[tokio::test]
async fn each_way_to_buy_ends_with_one_license() {
    let demo = Demo::serving().await;
    let mut keys = Vec::new();
    for (wish, story) in [
        ("", "answer "),
        ("?mishap=lost-answer", "its answer was lost"),
        ("?mishap=kill", "the program was killed"),
        ("", "answer "),
    ] {
        let (status, text) = demo.buy(wish).await;
        assert_eq!(status, 200, "{wish}: {text}");
        assert!(text.contains(story), "{wish}: {text}");
        let made = told(&text, "at AuthForge").expect("a count");
        assert!(made.starts_with("1 license for this order"), "{wish}: {text}");
        keys.push(told(&text, "license key").expect("a key").to_owned());
        let page = told(&text, "success page").expect("a page");
        let page = demo.client.get(page).send().await.expect("a page").text().await.expect("a page");
        assert!(page.contains(&keys[keys.len() - 1]), "{wish}: the success page has the key");
    }
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), 4, "each a key of its own");
    let (status, text) = demo.buy("?mishap=earthquake").await;
    assert_eq!((status, text.trim()), (400, "mishap is lost-answer or kill"));
    demo.stop().await;
}

#[tokio::test]
async fn the_shop_is_pleasant_in_a_browser() {
    let demo = Demo::serving().await;
    for (name, browser) in [("phone", Browser::phone(true).await), ("desktop", Browser::desktop(true).await)]
    {
        browser.goto(&demo.shop).await;
        browser.until_text("Demo shop").await;
        for button in ["Buy", "Buy, lose an answer", "Buy, kill -9"] {
            let path = format!("//button[text()='{button}']");
            let button = browser.window.find(Locator::XPath(&path)).await.expect("a button");
            button.click().await.expect("a click");
            let text = browser.until_text("has its key").await;
            assert!(text.contains("1 license for this order"), "{text}");
            browser.goto(&demo.shop).await;
            browser.until_text("Orders").await;
        }
        let orders = if name == "phone" { 4 } else { 7 };
        browser.goto(&format!("{}/?order={orders}", demo.shop)).await;
        let text = browser.until_text(&format!("Order {orders} has its key")).await;
        assert!(text.contains("answer lost"), "{text}");
        assert_eq!(text.matches("1 license for this order").count(), 1, "{text}");
        assert!(!text.contains("2 licenses"), "{text}");
        let summary = browser.window.find(Locator::Css("summary")).await.expect("a mail");
        summary.click().await.expect("a click");
        browser.assert_fits().await;
        browser.picture(&format!("shop-{name}")).await;
        assert_eq!(browser.complaints().await, Vec::<String>::new());
    }
    demo.stop().await;
}
