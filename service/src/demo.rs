//! `grantsmith demo`: the real program as a child process, with a fake AuthForge, a fake Stripe and a mailbox around it.
//!
//! The child is `grantsmith standalone` from the same file, so that killing it in the middle of a purchase is a real kill.

mod child;
mod mailbox;
mod mime;
mod shop;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use grantsmith_authforge::SystemClock;
use grantsmith_authforge::fake::{CallKind, Deeds, Fake, Fault};
use grantsmith_core::port::Clock;
use jiff::Timestamp;
use serde_json::Value;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::app;
use crate::config::Demo;
use crate::stripe::Mode;
use crate::stripe::fake::{self as fake_stripe, Delivery, Line, Rendering};
use crate::stripe::secret::Secret;
use child::Child;
use mailbox::Mailbox;

const API_KEY: &str = "sk_test_demo";
const AUTHFORGE_KEY: &str = "af_live_demo";
const WEBHOOK_SECRET: &str = "whsec_demo";
/// What the demonstration sells: a year on two devices.
const CATALOG: &str = "plans:
  - name: demo
    price: price_demo
    app_id: 7d9f6a9e-0000-4000-8000-00000000de00
    duration: 365d
    max_hwid_slots: 2
";

/// The key of a demonstration's purchase is there by then, restarts and lost answers included.
const KEY_WITHIN: Duration = Duration::from_secs(120);

/// What happens to a purchase besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mishap {
    /// Nothing.
    None,
    /// AuthForge makes the license, and its answer is lost.
    LostAnswer,
    /// The answer is lost because the program is killed in the middle.
    Kill,
}

/// A purchase that was played.
#[derive(Clone)]
struct Played {
    session: String,
    event: Vec<u8>,
    answer: Delivery,
    key: String,
    page: String,
    seconds: f64,
}

/// A purchase and what became of it, for the shop's window.
#[derive(Clone)]
struct Order {
    number: usize,
    mishap: Mishap,
    outcome: Result<Played, String>,
}

/// Everything around the child.
struct Stage {
    http: reqwest::Client,
    world: Arc<fake_stripe::World>,
    _stripe: fake_stripe::Server,
    authforge: Fake,
    mailbox: Arc<Mailbox>,
    child: Child,
    secret: Secret,
    one_at_a_time: tokio::sync::Mutex<()>,
    orders: Mutex<Vec<Order>>,
    folder: PathBuf,
    _temporary: Option<TempDir>,
}

/// Plays the demonstration, then serves until stopped.
pub async fn run(settings: Demo, stop: CancellationToken) -> anyhow::Result<()> {
    let listener = app::bind("shop-listen", settings.shop_listen).await?;
    let stage = Arc::new(Stage::set(&settings, stop.clone()).await?);
    let shop_url = format!("http://{}", listener.local_addr()?);
    say(&format!(
        "\nGrantsmith's demonstration: the real program, and around it a fake Stripe, a fake AuthForge and a mailbox.\nNothing here is money, and its keys open nothing.\n\n  webhook and pages  {}\n  a shop to play     {shop_url}\n",
        stage.child.base()
    ));
    stage.first_purchase().await?;
    if settings.once {
        stop.cancel();
    } else {
        say(&stage.what_to_try(&shop_url));
        app::serve_until(listener, shop::router(stage.clone()), stop.clone()).await;
    }
    stop.cancelled().await;
    stage.child.stop().await;
    Ok(())
}

impl Stage {
    async fn set(settings: &Demo, stop: CancellationToken) -> anyhow::Result<Self> {
        let temporary = if settings.keep.is_none() {
            Some(tempfile::tempdir().context("a temporary folder")?)
        } else {
            None
        };
        let folder = match (&settings.keep, &temporary) {
            (Some(keep), _) => keep.clone(),
            (None, Some(temporary)) => temporary.path().to_owned(),
            (None, None) => PathBuf::from("."),
        };
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make '{}'", folder.display()))?;
        let folder = folder.canonicalize()?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let seed = rand::random();
        let world = Arc::new(fake_stripe::World::new(Mode::Test, seed));
        world.stock(Line::of("price_demo"), false);
        let stripe = fake_stripe::Server::start(world.clone(), API_KEY).await?;
        let mut authforge = grantsmith_authforge::fake::Settings::new(clock);
        authforge.state_file = Some(folder.join("authforge.jsonl"));
        authforge.seed = seed;
        let authforge = Fake::start(authforge).await?;
        let mailbox = Mailbox::start(stop.clone()).await?;
        let child =
            Child::start(settings, &folder, &stripe.url(), &authforge.url(), &mailbox.url(), stop).await?;
        Ok(Self {
            http: grantsmith_authforge::http_client(&[])?,
            world,
            _stripe: stripe,
            authforge,
            mailbox,
            child,
            secret: Secret::new(Mode::Test, WEBHOOK_SECRET).context("the demonstration's secret")?,
            one_at_a_time: tokio::sync::Mutex::default(),
            orders: Mutex::default(),
            folder,
            _temporary: temporary,
        })
    }

    async fn first_purchase(&self) -> anyhow::Result<()> {
        say(
            "Somebody buys: POST /api/create-checkout makes the payment page. Stripe signs checkout.session.completed and posts it to the webhook:",
        );
        let played = self.order(Mishap::None).await.outcome.map_err(anyhow::Error::msg)?;
        say(&format!("  answer             {} {}", played.answer.status, played.answer.body));
        say(&format!("  license key        {}", played.key));
        say(&format!("  success page       {}", played.page));
        let mail =
            self.mailbox.until(|mails| mails.iter().position(|mail| mail.text.contains(&played.key))).await;
        say(&format!(
            "  mail               \"{}\" to {} ({shown})",
            mail.subject,
            mail.to,
            shown = "see it in the shop"
        ));
        say("\nStripe sends the same event again, as it may:");
        let again = self.deliver(&played.event).await?;
        let licenses = self.licenses_of(&played.session);
        let mails = self.mailbox.mails().iter().filter(|mail| mail.text.contains(&played.key)).count();
        say(&format!("  answer             {} {}", again.status, again.body));
        say(&format!("  at AuthForge       {licenses} license for this order; {mails} mail went out"));
        Ok(())
    }

    fn what_to_try(&self, shop: &str) -> String {
        let grants = match self.child.grpc() {
            Some(grpc) => format!(
                "\nAnd look from inside:\n  grantsmith grants list --server http://{grpc} --token-file {}\n",
                self.folder.join("grantsmith.db.tokens").display()
            ),
            None => String::new(),
        };
        format!(
            "\nThree things to try, in a browser at {shop} or here:\n\
             \x20 1. buy again                        curl -X POST '{shop}/buy'\n\
             \x20 2. lose AuthForge's answer          curl -X POST '{shop}/buy?mishap=lost-answer'\n\
             \x20 3. kill -9 and restart in the middle  curl -X POST '{shop}/buy?mishap=kill'\n\
             Each ends with one key, because every step is written down before it is taken.\n{grants}\nCtrl-C stops."
        )
    }

    /// Plays one purchase and keeps what became of it.
    async fn order(&self, mishap: Mishap) -> Order {
        let _alone = self.one_at_a_time.lock().await;
        let number = self.orders().len() + 1;
        let outcome = self.play(number, mishap).await.map_err(|error| format!("{error:#}"));
        let order = Order { number, mishap, outcome };
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).push(order.clone());
        order
    }

    /// The orders so far.
    fn orders(&self) -> Vec<Order> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Plays one purchase to its key.
    async fn play(&self, number: usize, mishap: Mishap) -> anyhow::Result<Played> {
        let begun = tokio::time::Instant::now();
        let made_before = self.made();
        if mishap != Mishap::None {
            self.authforge.script(CallKind::Create, [Fault::LostAfter]);
        }
        let session = self.checkout(&format!("buyer{number}@example.com")).await?;
        let bought = self.world.pay(&session, now()).context("a session that cannot be paid")?;
        let mut completed = None;
        for event in &bought.events {
            let body = event.body(Rendering::Endive);
            let answer = self.deliver(&body).await?;
            if event.event_type == "checkout.session.completed" {
                completed = Some((body, answer));
            }
        }
        let (event, answer) = completed.context("a purchase without its event")?;
        if mishap == Mishap::Kill {
            self.authforge
                .until(|history| {
                    history.iter().filter(|deed| deed.what == Deeds::Created).count() > made_before
                })
                .await;
            self.child.kill_and_restart().await?;
        }
        let page = format!("{}/success?session_id={}", self.child.base(), bought.session);
        let key =
            tokio::time::timeout(KEY_WITHIN, self.key(&page)).await.context("the key did not come")??;
        let seconds = begun.elapsed().as_secs_f64();
        Ok(Played { session: bought.session, event, answer, key, page, seconds })
    }

    /// Asks for a payment page as a shop does; gives its session.
    async fn checkout(&self, email: &str) -> anyhow::Result<String> {
        let url = format!("{}/api/create-checkout", self.child.base());
        let answer: Value =
            self.http.post(url).json(&serde_json::json!({ "email": email })).send().await?.json().await?;
        let page = answer["url"].as_str().with_context(|| format!("no payment page: {answer}"))?;
        Ok(page.rsplit('/').next().unwrap_or_default().to_owned())
    }

    /// Posts until it is taken, as Stripe does.
    async fn deliver(&self, event: &[u8]) -> anyhow::Result<Delivery> {
        let hook = format!("{}/webhooks/stripe", self.child.base());
        loop {
            match fake_stripe::deliver(&self.http, &hook, &self.secret, event.to_vec(), now()).await {
                Ok(delivery) if delivery.status < 500 => return Ok(delivery),
                Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(300)).await,
            }
        }
    }

    async fn key(&self, page: &str) -> anyhow::Result<String> {
        loop {
            let answer = self.http.get(page).header("accept", "application/json").send().await;
            if let Ok(answer) = answer {
                let body: Value = answer.json().await.unwrap_or_default();
                if let Some(key) = body.pointer("/licenses/0/license_key").and_then(Value::as_str) {
                    return Ok(key.to_owned());
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn made(&self) -> usize {
        self.authforge.history().iter().filter(|deed| deed.what == Deeds::Created).count()
    }

    fn licenses_of(&self, session: &str) -> usize {
        let label = format!("Stripe session {session}");
        self.authforge
            .history()
            .iter()
            .filter(|deed| deed.what == Deeds::Created && deed.label.as_ref() == Some(&label))
            .count()
    }
}

fn now() -> Timestamp {
    SystemClock.now().wall
}

/// Writes a secret for the child, readable by its owner only.
fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?
        .write_all(text.as_bytes())
}

#[expect(clippy::print_stdout, reason = "the demonstration's story")]
fn say(line: &str) {
    println!("{line}");
}
