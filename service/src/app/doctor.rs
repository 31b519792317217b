//! `grantsmith doctor`: looks at everything that a start would use, changes nothing, and says what to do.

mod stripe;

use std::collections::BTreeSet;
use std::process::ExitCode;

use grantsmith_authforge::{SystemClock, http_client};
use grantsmith_core::AppId;
use grantsmith_core::port::{Class, Clock, LicenseApi, Priority};
use http::header::DATE;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::{back, web};
use crate::catalog::Catalog;
use crate::cli::{Output, table};
use crate::config::{Standalone, Wrong};
use crate::store;

/// Seconds of difference at which the clock is told of, and at which Stripe's signatures are close to being refused.
const SKEWED: u64 = 30;
const WRONG: u64 = 240;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }
}

#[derive(Debug, Default)]
struct Report(Vec<(Verdict, &'static str, String)>);

impl Report {
    fn say(&mut self, verdict: Verdict, check: &'static str, text: impl Into<String>) {
        self.0.push((verdict, check, text.into()));
    }

    fn ok(&mut self, check: &'static str, text: impl Into<String>) {
        self.say(Verdict::Ok, check, text);
    }

    fn warn(&mut self, check: &'static str, text: impl Into<String>) {
        self.say(Verdict::Warn, check, text);
    }

    fn fail(&mut self, check: &'static str, text: impl Into<String>) {
        self.say(Verdict::Fail, check, text);
    }

    fn print(&self, output: Output) -> anyhow::Result<()> {
        match output {
            Output::Table | Output::Name => {
                for (verdict, check, text) in &self.0 {
                    table::say(&format!("{:4}  {check:14}  {}", verdict.word(), table::clean(text)))?;
                }
            }
            Output::Json | Output::Yaml => {
                let line = |(verdict, check, text): &(Verdict, &str, String)| json!({ "check": check, "verdict": verdict.word(), "text": text });
                let all = Value::Array(self.0.iter().map(line).collect());
                table::structured(&all, output == Output::Yaml)?;
            }
        }
        Ok(())
    }
}

/// Checks one by one; 1 if something must be mended.
pub(super) async fn run(settings: Standalone, output: Output) -> anyhow::Result<ExitCode> {
    if output == Output::Name {
        return Err(
            Wrong("-o name: a check has no resource name; use -o table, json or yaml".to_owned()).into()
        );
    }
    table::ended(examine(settings, output).await)
}

async fn examine(settings: Standalone, output: Output) -> anyhow::Result<ExitCode> {
    let stop = CancellationToken::new();
    let _stopped_at_the_end = stop.clone().drop_guard();
    let mut report = Report::default();
    let Some(public) = public(&settings, &mut report) else {
        report.print(output)?;
        return Ok(ExitCode::FAILURE);
    };
    match web::secrets(&settings.hook, stop.clone()) {
        Ok(_) => report.ok("webhook secret", "readable"),
        Err(error) => report.fail("webhook secret", format!("{error:#}")),
    }
    match store::inspect(&settings.back.database_url) {
        Ok(true) => report.ok("database", "readable, writable, and of this version"),
        Ok(false) => report.ok("database", "not there yet; the first start makes it"),
        Err(error) => report.fail("database", error.to_string()),
    }
    let catalog = catalog(&settings, &mut report);
    let http = match back::roots(&settings.back).and_then(|roots| Ok(http_client(&roots.1)?)) {
        Ok(http) => http,
        Err(error) => {
            report.fail("roots", format!("{error:#}"));
            http_client(&[])?
        }
    };
    stripe::check(&settings, &public, &http, catalog.as_ref(), &stop, &mut report).await;
    clock(&settings.back.stripe_url, &http, &mut report).await;
    authforge(&settings, &apps(&settings, catalog.as_ref()), &http, stop.clone(), &mut report).await;
    mail(&settings, &public, stop, &mut report).await;
    answers(&public, &http, &mut report).await;
    report.print(output)?;
    let mend = report.0.iter().any(|(verdict, ..)| *verdict == Verdict::Fail);
    Ok(if mend { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The address that buyers and Stripe use, if the settings go together at all.
fn public(settings: &Standalone, report: &mut Report) -> Option<Url> {
    let given = settings.public_url.clone();
    if given.is_none() {
        report.warn("settings", "no --public-url: mails and the endpoint at Stripe cannot be checked");
    }
    let mut url = given.or_else(|| Url::parse("http://127.0.0.1:8080").ok())?;
    if url.cannot_be_a_base() {
        report.fail("settings", "--public-url must begin with https://");
        return None;
    }
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    match settings.back.check(settings.hook.stripe_mode, &url) {
        Ok(()) => report.ok("settings", format!("they go together, {} mode", settings.hook.stripe_mode)),
        Err(error) => report.fail("settings", error.to_string()),
    }
    Some(url)
}

fn catalog(settings: &Standalone, report: &mut Report) -> Option<Catalog> {
    match Catalog::read(settings.back.catalog.as_deref()?) {
        Ok(catalog) => {
            report.ok("catalog", format!("{} plans, no mistake", catalog.plans().len()));
            Some(catalog)
        }
        Err(error) => {
            report.fail("catalog", error.to_string());
            None
        }
    }
}

/// The apps that the settings name.
fn apps(settings: &Standalone, catalog: Option<&Catalog>) -> BTreeSet<AppId> {
    let of_plans = catalog.into_iter().flat_map(Catalog::plans).map(|plan| plan.terms.app_id.clone());
    settings.back.authforge_app.clone().into_iter().chain(of_plans).collect()
}

/// Stripe refuses nobody for a wrong clock, but we refuse signatures by ours.
async fn clock(stripe: &Url, http: &reqwest::Client, report: &mut Report) {
    let answer = http.get(stripe.clone()).send().await.ok();
    let date = answer.as_ref().and_then(|answer| answer.headers().get(DATE)?.to_str().ok());
    let date = date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok());
    let Some(theirs) = date.map(|date| date.timestamp()) else {
        return report.warn("clock", "Stripe cannot be asked for the time");
    };
    skew("Stripe", SystemClock.now().wall, theirs, report);
}

fn skew(whose: &str, ours: Timestamp, theirs: Timestamp, report: &mut Report) {
    let apart = ours.duration_since(theirs).as_secs().unsigned_abs();
    let text = format!("{apart} s from that of {whose}");
    match apart {
        ..SKEWED => report.ok("clock", text),
        SKEWED..WRONG => report.warn("clock", format!("{text}; have it set by NTP")),
        _ => report.fail("clock", format!("{text}; have it set by NTP, or signatures are refused")),
    }
}

async fn authforge(
    settings: &Standalone,
    apps: &BTreeSet<AppId>,
    http: &reqwest::Client,
    stop: CancellationToken,
    report: &mut Report,
) {
    let check = "AuthForge key";
    if settings.back.authforge_url.scheme() == "fake" {
        return report.warn(check, "a fake AuthForge is used; its keys open nothing");
    }
    let key = match back::authforge_key(&settings.back, stop) {
        Ok(key) => key,
        Err(error) => return report.fail(check, format!("{error:#}")),
    };
    if apps.is_empty() {
        return report
            .warn(check, "readable, and not tried: neither --authforge-app nor a catalog names an app");
    }
    let parts = grantsmith_authforge::Settings::new(
        settings.back.authforge_url.clone(),
        key,
        std::sync::Arc::new(SystemClock),
    );
    let client = grantsmith_authforge::Client::new(http.clone(), parts);
    for app in apps {
        match client.list(app, SystemClock.now().moment, Priority::Buyer).await {
            Ok(_) => report.ok(check, format!("it may list the licenses of app {app}")),
            Err(error) if error.class == Class::Unauthorized => {
                return report.fail(check, "AuthForge does not accept it; make a new one in its dashboard");
            }
            Err(error) => report.fail(check, format!("app {app} cannot be listed: {error}")),
        }
    }
}

async fn mail(settings: &Standalone, public: &Url, ended: CancellationToken, report: &mut Report) {
    let shop = back::Shop {
        mode: settings.hook.stripe_mode,
        public_url: public.clone(),
        seller: settings.web.seller_name.clone(),
        templates: settings.web.templates.clone(),
    };
    let mailer =
        back::roots(&settings.back).and_then(|roots| back::mailer(&settings.back, &shop, roots.0, ended));
    match mailer {
        Ok(None) => report.warn("mail", "no --smtp-url: buyers find their keys on the success page only"),
        Ok(Some(mailer)) => match mailer.greet().await {
            Ok(()) => report.ok("mail", "the mail server lets us in; nothing was sent"),
            Err(why) => report.fail("mail", why),
        },
        Err(error) => report.fail("mail", format!("{error:#}")),
    }
}

async fn answers(public: &Url, http: &reqwest::Client, report: &mut Report) {
    let check = "public URL";
    if public.scheme() != "https" {
        report.warn(check, "it is not https://; keys would be shown in the clear");
    }
    match http.get(public.clone()).send().await {
        Ok(answer) if answer.status().is_success() => report.ok(check, "it answers"),
        Ok(answer) => report.warn(check, format!("it answers {}; look at the proxy", answer.status())),
        Err(_) => {
            report.warn(check, "nothing answers there now; start the server, or look at DNS and the proxy");
        }
    }
}
