//! The templates of pages and mails: compiled in, each replaceable by a file of the same path.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use grantsmith_core::license::Slots;
use grantsmith_core::port::Kept;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use minijinja::{AutoEscape, Environment, UndefinedBehavior, context};
use serde::Serialize;

/// Declares the built-in templates, by the path that a replacement must have.
macro_rules! built_in {
    ($($path:literal,)*) => {
        const BUILT_IN: &[(&str, &str)] = &[$(($path, include_str!(concat!("../templates/", $path))),)*];
    };
}

built_in! {
    "pages/base.html",
    "pages/contact.html",
    "pages/home.html",
    "pages/success.html",
    "pages/pending.html",
    "pages/ended.html",
    "pages/not_found.html",
    "pages/too_many.html",
    "pages/error.html",
    "pages/keys.css",
    "pages/keys.js",
    "pages/once.js",
    "pages/portal.html",
    "pages/portal_sent.html",
    "pages/portal_open.html",
    "pages/portal_orders.html",
    "pages/portal_wait.html",
    "email/base.html",
    "email/license.html",
    "email/license.txt",
    "email/license.subject.txt",
    "email/payment_failed.html",
    "email/payment_failed.txt",
    "email/payment_failed.subject.txt",
    "email/link.html",
    "email/link.txt",
    "email/link.subject.txt",
}

/// Why templates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder of replacements is not there.
    #[error("--templates: there is no folder '{}'", _0.display())]
    NoFolder(PathBuf),
    /// A replacement cannot be read.
    #[error("cannot read the template '{path}'")]
    Unreadable {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A template is wrong.
    #[error("the template '{path}' has a mistake")]
    Mistake {
        /// Which.
        path: String,
        /// Where and what.
        source: minijinja::Error,
    },
}

/// Renders templates.
#[derive(Debug, Clone)]
pub struct Renderer {
    environment: Arc<Environment<'static>>,
}

impl Renderer {
    /// Takes the built-in templates, and from `folder` those that replace one. Every one is checked now, not at a buyer's
    /// first visit.
    pub fn new(folder: Option<&Path>) -> Result<Self, Error> {
        if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
            return Err(Error::NoFolder(folder.to_owned()));
        }
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_auto_escape_callback(|name| {
            let html = Path::new(name).extension().is_some_and(|extension| extension == "html");
            if html { AutoEscape::Html } else { AutoEscape::None }
        });
        for (path, text) in BUILT_IN {
            let file = folder.map(|folder| folder.join(path)).filter(|file| file.exists());
            let text = match file {
                Some(file) => std::fs::read_to_string(file)
                    .map_err(|source| Error::Unreadable { path: (*path).to_owned(), source })?,
                None => (*text).to_owned(),
            };
            environment
                .add_template_owned(*path, text)
                .map_err(|source| Error::Mistake { path: (*path).to_owned(), source })?;
        }
        let renderer = Self { environment: Arc::new(environment) };
        renderer.rehearse()?;
        Ok(renderer)
    }

    /// Renders everything once with made-up values, because an unknown filter or a missing parent shows only then.
    fn rehearse(&self) -> Result<(), Error> {
        let until = |expires_at| {
            PageLicense::new("main", "AAAA-BBBB-CCCC-DDDD", "app", expires_at, Slots::Limited(2))
        };
        let one = vec![until(Some(Timestamp::UNIX_EPOCH))];
        let many = vec![until(Some(Timestamp::UNIX_EPOCH)), until(None), until(None)];
        for (licenses, variant, again) in [(one, "issuing", false), (many, "payment", true)] {
            let licenses = minijinja::Value::from(minijinja::value::Serde(licenses));
            let order = context! {
                licenses => &licenses, day => "1 January 1970", state => "ready", note => "sent", can_resend => true,
            };
            let orders = vec![order];
            let values = context! {
                licenses => &licenses, variant,
                mail_on => again, give_up => again, resend => again,
                refresh_seconds => 5, refresh_url => "?look=1", page_url => "https://shop.example/success",
                nonce => "nonce", seller => "Shop", support => "help@shop.example",
                order => "cs_test_1", email_masked => "b@e.com", email => "b@e.com", note => "sent",
                portal => "portal", portal_url => "https://shop.example/portal", billing_url => "https://billing.example",
                link_url => "https://shop.example/portal/open", token => "token", action => "token", minutes => 15,
                gone => again.then_some("link"), problem => again.then_some("address"), more => again, orders,
            };
            for (path, _) in BUILT_IN {
                let mistake = |source| Error::Mistake { path: (*path).to_owned(), source };
                self.render(path, &values).map_err(mistake)?;
            }
        }
        Ok(())
    }

    /// Renders one.
    pub fn render(&self, path: &str, context: &minijinja::Value) -> Result<String, minijinja::Error> {
        self.environment.get_template(path)?.render(context)
    }
}

/// A license as templates see it.
#[derive(Debug, Serialize)]
pub struct PageLicense {
    name: String,
    key: String,
    app_id: String,
    expires: Option<String>,
    slots: Option<String>,
}

/// A kept license for a template.
pub fn page_license(kept: &Kept, slots: Slots) -> PageLicense {
    let slots = kept.slots.unwrap_or(slots);
    PageLicense::new(kept.name.as_str(), kept.key.expose(), kept.app_id.as_str(), kept.expires_at, slots)
}

impl PageLicense {
    /// A license for a template.
    pub fn new(name: &str, key: &str, app_id: &str, expires_at: Option<Timestamp>, slots: Slots) -> Self {
        Self {
            name: name.to_owned(),
            key: key.to_owned(),
            app_id: app_id.to_owned(),
            expires: expires_at.map(day),
            slots: Some(match slots {
                Slots::Limited(1) => "1 device".to_owned(),
                Slots::Limited(count) => format!("{count} devices"),
                Slots::Unlimited => "any number of devices".to_owned(),
            }),
        }
    }
}

/// A date that reads the same everywhere.
pub fn day(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).strftime("%-d %B %Y").to_string()
}
