//! Tries the client on a real AuthForge app (or a fake) by hand: `probe find|create SESSION`, `probe revoke|activate KEY`.
//!
//! Settings come from the environment: `GRANTSMITH_AUTHFORGE_API_KEY`, `GRANTSMITH_AUTHFORGE_APP` and, for another place
//! than the vendor's, `GRANTSMITH_AUTHFORGE_URL`. Use an app of its own for tests: what `create` makes is real, and it
//! prints the whole key.

use std::io::Write as _;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use grantsmith_authforge::{ApiKey, Client, Settings, SystemClock, http_client, shared_key};
use grantsmith_core::port::{Clock, CreateLicense, LicenseApi as _, Priority};
use grantsmith_core::{AppId, Label, License, LicenseKey, LicenseName, PurchaseId, Slots};

fn setting(name: &str) -> anyhow::Result<String> {
    std::env::var(name).with_context(|| format!("{name} is not set"))
}

fn show(license: &License) -> anyhow::Result<()> {
    let License { key, status, expires_at, slots, created_at, label, .. } = license;
    let mut out = std::io::stdout();
    writeln!(out, "{} {status:?} made {created_at} ends {expires_at:?} {slots:?} {label:?}", key.expose())?;
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [verb, what] = arguments.as_slice() else {
        bail!("probe find|create SESSION, probe revoke|activate KEY")
    };
    let url =
        std::env::var("GRANTSMITH_AUTHFORGE_URL").unwrap_or_else(|_| "https://api.authforge.cc".to_owned());
    let key = shared_key(ApiKey::new(setting("GRANTSMITH_AUTHFORGE_API_KEY")?.trim_end()));
    let app_id = AppId::parse(&setting("GRANTSMITH_AUTHFORGE_APP")?).context("the app id cannot be read")?;
    let clock = Arc::new(SystemClock);
    let now = clock.now();
    let client = Client::new(http_client(&[])?, Settings::new(url.parse()?, key, clock));
    let label = || anyhow::Ok(Label::new(&PurchaseId::parse(what)?, &LicenseName::main(), 1));
    match verb.as_str() {
        "find" => {
            let listing = client.list(&app_id, now.moment, Priority::Buyer).await?;
            listing.labeled(&label()?).iter().try_for_each(show)?;
            writeln!(std::io::stdout(), "complete: {}", listing.is_complete())?;
        }
        "create" => {
            let expires_at = Some(now.wall.checked_add(jiff::SignedDuration::from_hours(1))?);
            let order = CreateLicense { app_id, label: label()?, expires_at, slots: Slots::Limited(1) };
            client.reserve_create(Priority::Buyer).await?;
            show(&client.create(&order).await?)?;
        }
        "revoke" => client.revoke(&LicenseKey::new(what.as_str()), Priority::Buyer).await?,
        "activate" => client.reinstate(&LicenseKey::new(what.as_str()), Priority::Buyer).await?,
        other => bail!("nothing is called '{other}'"),
    }
    writeln!(std::io::stdout(), "their clock is ahead by {:#}", client.clock_offset())?;
    Ok(())
}
