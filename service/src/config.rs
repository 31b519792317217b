//! The settings: every field's text is the manual that `--help` prints.
//!
//! Each flag has an environment variable, `GRANTSMITH_` and the flag's name. Secrets come from files or the environment.

#![expect(clippy::doc_markdown, reason = "these texts are printed by --help as they stand")]

mod mail_server;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue};
use clap::{Args, Parser, Subcommand};
use grantsmith_core::AppId;
use http::HeaderValue;
use ipnet::IpNet;
use jiff::Timestamp;
use url::Url;

pub use mail_server::MailServer;

use crate::cli::{Client, Output, backup, catalog, events, grants, import};
use crate::grpc::accounts::Account;
use crate::secret_file::Place;
use crate::stripe::Mode;
use crate::telemetry::LogFormat;

/// Stripe purchases in, AuthForge license keys out.
#[derive(Debug, Parser)]
#[command(name = "grantsmith", version, max_term_width = 100, propagate_version = true)]
pub struct Cli {
    /// What to run.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Reads the command line and the environment. What is wrong with them, or was asked for, is printed, and gives the code to
    /// end with.
    pub fn read() -> Result<Self, ExitCode> {
        Self::try_parse().map_err(|error| {
            match empty_variable(&error) {
                Some(name) => eprintln!("grantsmith: {name} is set and empty; unset it, or give it a value"),
                // Whoever asked for help may stop reading it.
                None => drop(error.print()),
            }
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1))
        })
    }
}

/// The variable without a value that an error is about: clap would name a flag that nobody gave.
fn empty_variable(error: &clap::Error) -> Option<String> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let flag = text(ContextKind::InvalidArg)?.strip_prefix("--")?.split(' ').next()?;
    let name = format!("GRANTSMITH_{}", flag.to_uppercase().replace('-', "_"));
    let empty = text(ContextKind::InvalidValue)?.is_empty();
    (empty && std::env::var_os(&name).is_some_and(|value| value.is_empty())).then_some(name)
}

/// What to run.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Everything on this machine with a fake AuthForge, a fake Stripe and a mailbox: buys, shows the key, then serves
    Demo(Demo),
    /// Everything in one process: webhook, pages, server and worker
    Standalone(Box<Standalone>),
    /// The record and the worker, behind gRPC; holds the Stripe and AuthForge keys
    Server(Box<Server>),
    /// The webhook and the buyer's pages; holds the webhook secrets and a gRPC client, nothing else
    Webhook(Box<Webhook>),
    /// Look at grants, reveal keys, mail them again; make, revoke, reinstate and change grants by hand
    Grants(Client<grants::Command>),
    /// Look at Stripe's events, and play them again
    Events(Client<events::Command>),
    /// Take in keys that were sold before: they are not made again and not mailed
    Import(import::Import),
    /// Check what is sold before it is sold
    Catalog {
        /// What to do.
        #[command(subcommand)]
        command: catalog::Command,
    },
    /// Check everything that `standalone` would use with the same settings, and say what to mend; changes nothing
    Doctor(Box<Doctor>),
    /// Copy the record to a new file while its server runs, and read the copy back
    Backup(backup::Backup),
}

/// Whether purchases are fulfilled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum RunMode {
    /// They are.
    Fulfil,
    /// It is only said what would be done.
    Observe,
}

/// Settings of `demo`.
#[derive(Debug, Args)]
pub struct Demo {
    /// Where the webhook and the pages listen; port 0 picks a free one
    #[arg(long, env = "GRANTSMITH_HTTP_LISTEN", default_value = "127.0.0.1:8080")]
    pub http_listen: SocketAddr,
    /// Where the gRPC services listen
    #[arg(long, env = "GRANTSMITH_GRPC_LISTEN", default_value = "127.0.0.1:50051")]
    pub grpc_listen: SocketAddr,
    /// Where /healthz, /readyz and /metrics listen
    #[arg(long, env = "GRANTSMITH_ADMIN_LISTEN", default_value = "127.0.0.1:9090")]
    pub admin_listen: SocketAddr,
    /// Where the shop to play with listens
    #[arg(long, default_value = "127.0.0.1:8081")]
    pub shop_listen: SocketAddr,
    /// A folder to keep everything in, so that the demonstration can be stopped and started again
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
    /// Stop after the purchase instead of serving
    #[arg(long)]
    pub once: bool,
    #[command(flatten)]
    #[expect(missing_docs, reason = "its fields are the manual")]
    pub log: Log,
}

/// Settings of `standalone`.
#[derive(Debug, Args)]
#[expect(missing_docs, reason = "the groups' fields are the manual")]
pub struct Standalone {
    #[command(flatten)]
    pub web: Web,
    /// What buyers see: the address that links in mails begin with; without it, http:// and where the pages listen
    #[arg(long, env = "GRANTSMITH_PUBLIC_URL", value_name = "URL", value_parser = web_page)]
    pub public_url: Option<Url>,
    #[command(flatten)]
    pub hook: Hook,
    #[command(flatten)]
    pub back: Back,
    #[command(flatten)]
    pub admin: Admin,
    #[command(flatten)]
    pub log: Log,
}

/// Settings of `doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// The settings to check.
    #[command(flatten)]
    pub settings: Standalone,
    /// How to print
    #[arg(short, long, default_value = "table")]
    pub output: Output,
}

/// Who brings grants to what they declare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Issuing {
    /// This process, with the AuthForge API key.
    #[default]
    Direct,
    /// The operator: each grant is written as a LicenseGrant, and the operator has the AuthForge API key.
    Kubernetes,
}

/// Settings of `server`.
#[derive(Debug, Args)]
#[expect(missing_docs, reason = "the groups' fields are the manual")]
pub struct Server {
    #[command(flatten)]
    pub back: Back,
    /// direct: make license keys in this process; kubernetes: declare them as LicenseGrants, which the operator fulfils
    #[arg(
        long,
        env = "GRANTSMITH_ISSUER",
        value_enum,
        default_value = "direct",
        value_name = "ISSUER",
        help_heading = "Kubernetes"
    )]
    pub issuer: Issuing,
    /// The namespace of the LicenseGrants; without it, this server's own
    #[arg(long, env = "GRANTSMITH_GRANTS_NAMESPACE", value_name = "NAME", help_heading = "Kubernetes")]
    pub grants_namespace: Option<String>,
    /// What buyers see: the address that links in mails begin with
    #[arg(long, env = "GRANTSMITH_PUBLIC_URL", value_name = "URL", value_parser = web_page)]
    pub public_url: Option<Url>,
    /// The Stripe mode that this deployment fulfils; events of the other are recorded and ignored
    #[arg(long, env = "GRANTSMITH_STRIPE_MODE", default_value = "live", value_name = "live|test")]
    pub stripe_mode: Mode,
    /// The seller's name on pages and in mails
    #[arg(long, env = "GRANTSMITH_SELLER_NAME", value_name = "NAME")]
    pub seller_name: Option<String>,
    /// A folder whose files replace the built-in templates of the same path, such as email/license.html
    #[arg(long, env = "GRANTSMITH_TEMPLATES", value_name = "DIR")]
    pub templates: Option<PathBuf>,
    #[command(flatten)]
    pub admin: Admin,
    #[command(flatten)]
    pub log: Log,
}

/// Settings of `webhook`.
#[derive(Debug, Args)]
#[expect(missing_docs, reason = "the groups' fields are the manual")]
pub struct Webhook {
    #[command(flatten)]
    pub web: Web,
    #[command(flatten)]
    pub hook: Hook,
    /// The gRPC server
    #[arg(long, env = "GRANTSMITH_SERVER", default_value = "http://127.0.0.1:50051", value_name = "URL")]
    pub server: String,
    /// A file with the token, or with lines NAME ROLES TOKEN; needs the roles ingest and storefront
    #[arg(long, env = "GRANTSMITH_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Further roots for outgoing TLS, PEM
    #[arg(long, env = "GRANTSMITH_CA_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    #[command(flatten)]
    pub admin: Admin,
    #[command(flatten)]
    pub log: Log,
}

/// What buyers and Stripe talk to.
#[derive(Debug, Args)]
#[command(next_help_heading = "Webhook and pages")]
pub struct Web {
    /// Where the webhook and the pages listen; port 0 picks a free one
    #[arg(long, env = "GRANTSMITH_HTTP_LISTEN", default_value = "127.0.0.1:8080")]
    pub http_listen: SocketAddr,
    /// Proxies whose X-Forwarded-For counts for rate limits: networks or single addresses, comma-separated
    #[arg(
        long,
        env = "GRANTSMITH_TRUSTED_PROXIES",
        value_delimiter = ',',
        default_value = "127.0.0.0/8,::1/128",
        value_parser = network,
        value_name = "CIDR"
    )]
    pub trusted_proxies: Vec<IpNet>,
    /// Sites whose pages may call create-checkout, such as https://shop.example; repeatable
    #[arg(long, env = "GRANTSMITH_CORS_ORIGIN", value_delimiter = ',', value_name = "ORIGIN", value_parser = origin)]
    pub cors_origin: Vec<HeaderValue>,
    /// The seller's name on pages and in mails
    #[arg(long, env = "GRANTSMITH_SELLER_NAME", value_name = "NAME")]
    pub seller_name: Option<String>,
    /// Where a buyer with a question turns to; shown on pages
    #[arg(long, env = "GRANTSMITH_SUPPORT", value_name = "ADDRESS")]
    pub support: Option<String>,
    /// Stripe's no-code customer portal, https://billing.stripe.com/p/login/…, linked to from the buyers' portal
    #[arg(long, env = "GRANTSMITH_BILLING_PORTAL_URL", value_name = "URL", value_parser = web_page)]
    pub billing_portal_url: Option<Url>,
    /// A folder whose files replace the built-in templates of the same path, such as pages/success.html
    #[arg(long, env = "GRANTSMITH_TEMPLATES", value_name = "DIR")]
    pub templates: Option<PathBuf>,
}

/// How Stripe's requests are verified.
#[derive(Debug, Args)]
#[command(next_help_heading = "Stripe's webhook")]
pub struct Hook {
    /// Signing secrets, one whsec_… a line, each may begin with live: or test:; # begins a comment line (or
    /// GRANTSMITH_STRIPE_WEBHOOK_SECRETS, comma-separated)
    #[arg(long, env = "GRANTSMITH_STRIPE_WEBHOOK_SECRETS_FILE", value_name = "FILE")]
    pub stripe_webhook_secrets_file: Option<PathBuf>,
    /// The Stripe mode that this deployment fulfils; events of the other are recorded and ignored
    #[arg(long, env = "GRANTSMITH_STRIPE_MODE", default_value = "live", value_name = "live|test")]
    pub stripe_mode: Mode,
    /// How old or how far ahead a signature may be
    #[arg(long, env = "GRANTSMITH_STRIPE_TOLERANCE", default_value = "300s", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub stripe_tolerance: Duration,
}

/// The record, the worker and the services around.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct Back {
    /// The record, sqlite://PATH; created and brought up to date at start
    #[arg(
        long,
        env = "GRANTSMITH_DATABASE_URL",
        default_value = "sqlite://grantsmith.db",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub database_url: String,
    /// How long the raw bodies of events are kept; their ids are kept for ever
    #[arg(long, env = "GRANTSMITH_KEEP_BODIES", default_value = "90d", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub keep_bodies: Duration,
    /// How long after its payment a success page shows the key
    #[arg(long, env = "GRANTSMITH_SUCCESS_PAGE_FOR", default_value = "72h", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub success_page_for: Duration,

    /// Stripe's API
    #[arg(
        long,
        env = "GRANTSMITH_STRIPE_URL",
        default_value = "https://api.stripe.com",
        value_name = "URL",
        value_parser = web_page,
        help_heading = "Stripe's API"
    )]
    pub stripe_url: Url,
    /// A secret or restricted API key (or GRANTSMITH_STRIPE_API_KEY); required, unless --events-only is given
    #[arg(long, env = "GRANTSMITH_STRIPE_API_KEY_FILE", value_name = "FILE", help_heading = "Stripe's API")]
    pub stripe_api_key_file: Option<PathBuf>,
    /// Do without a Stripe API key: believe the events, one license per purchase, terms from metadata only
    #[arg(long, env = "GRANTSMITH_EVENTS_ONLY", help_heading = "Stripe's API")]
    pub events_only: bool,

    /// Plans by price, lookup key or product, YAML; `grantsmith catalog check FILE` checks one
    #[arg(long, env = "GRANTSMITH_CATALOG", value_name = "FILE", help_heading = "What is sold")]
    pub catalog: Option<PathBuf>,
    /// Where a buyer goes after a session of create-checkout; {CHECKOUT_SESSION_ID} becomes its id. Without it, the
    /// success page
    #[arg(long, env = "GRANTSMITH_SUCCESS_URL", value_name = "URL", value_parser = web_address, help_heading = "What is sold")]
    pub success_url: Option<String>,
    /// Where a buyer goes who leaves such a session; without it, the start page
    #[arg(long, env = "GRANTSMITH_CANCEL_URL", value_name = "URL", value_parser = web_address, help_heading = "What is sold")]
    pub cancel_url: Option<String>,

    /// AuthForge's API; `fake:` runs a fake in this process, in test mode only
    #[arg(
        long,
        env = "GRANTSMITH_AUTHFORGE_URL",
        default_value = "https://api.authforge.cc",
        value_name = "URL",
        help_heading = "AuthForge"
    )]
    pub authforge_url: Url,
    /// The API key, af_live_… (or GRANTSMITH_AUTHFORGE_API_KEY)
    #[arg(long, env = "GRANTSMITH_AUTHFORGE_API_KEY_FILE", value_name = "FILE", help_heading = "AuthForge")]
    pub authforge_api_key_file: Option<PathBuf>,
    /// Calls a second
    #[arg(long, env = "GRANTSMITH_AUTHFORGE_RATE", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..), value_name = "N", help_heading = "AuthForge")]
    pub authforge_rate: u32,
    /// Calls in one burst
    #[arg(long, env = "GRANTSMITH_AUTHFORGE_BURST", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..), value_name = "N", help_heading = "AuthForge")]
    pub authforge_burst: u32,
    /// The name of the action that brings a revoked license back
    #[arg(
        long,
        env = "GRANTSMITH_AUTHFORGE_ACTIVATE_ACTION",
        default_value = "activate",
        value_name = "NAME",
        help_heading = "AuthForge"
    )]
    pub authforge_activate_action: String,
    /// The app of subscriptions whose metadata names none, as in AuthForge's guide
    #[arg(long, env = "GRANTSMITH_AUTHFORGE_APP", value_name = "ID", value_parser = app_id, help_heading = "AuthForge")]
    pub authforge_app: Option<AppId>,
    /// What this installation is called in the labels of grants that people make; tells two installations apart that share
    /// an AuthForge account
    #[arg(long, env = "GRANTSMITH_INSTALLATION", default_value = "default", value_parser = installation, value_name = "NAME", help_heading = "AuthForge")]
    pub installation: String,
    /// Revocations by rule an hour, such as 100/h; beyond it they wait for a person
    #[arg(long, env = "GRANTSMITH_REVOCATION_BUDGET", default_value = "100/h", value_parser = per_hour, value_name = "N/h", help_heading = "AuthForge")]
    pub revocation_budget: u32,
    /// How long a create whose answer was lost is looked for before another may be sent
    #[arg(long, env = "GRANTSMITH_LOST_CREATE_QUARANTINE", default_value = "90s", value_parser = humantime::parse_duration, value_name = "TIME", help_heading = "AuthForge")]
    pub lost_create_quarantine: Duration,
    /// fulfil: do what the purchases ask for; observe: record everything, say what would be created, mailed and revoked, and
    /// do none of it
    #[arg(
        long,
        env = "GRANTSMITH_MODE",
        value_enum,
        default_value = "fulfil",
        value_name = "MODE",
        help_heading = "AuthForge"
    )]
    pub mode: RunMode,
    /// The record comes from a backup: observe, whatever --mode says, until started without this
    #[arg(long, env = "GRANTSMITH_RESTORED", help_heading = "AuthForge")]
    pub restored: bool,
    /// What was paid before this time (RFC 3339; default: the first start) is adopted where a license is found, and else held
    /// as BeforeStart
    #[arg(long, env = "GRANTSMITH_FULFIL_SINCE", value_name = "TIME", value_parser = moment, help_heading = "AuthForge")]
    pub fulfil_since: Option<Timestamp>,
    /// Create licenses for purchases before --fulfil-since too, where none is found
    #[arg(
        long,
        env = "GRANTSMITH_CREATE_MISSING",
        conflicts_with = "fulfil_since",
        help_heading = "AuthForge"
    )]
    pub create_missing: bool,
    /// A purchase older than this is looked for at AuthForge before a license is created
    #[arg(long, env = "GRANTSMITH_LOOK_BEFORE_CREATE_AFTER", default_value = "15m", value_parser = humantime::parse_duration, value_name = "TIME", help_heading = "AuthForge")]
    pub look_before_create_after: Duration,

    /// The mail server: smtp://, smtps:// or smtp+starttls://[USER@]HOST[:PORT]; without it no mail is sent
    #[arg(
        long,
        env = "GRANTSMITH_SMTP_URL",
        value_name = "URL",
        value_parser = mail_server::Parser,
        hide_env_values = true,
        help_heading = "Mail"
    )]
    pub smtp_url: Option<MailServer>,
    /// The password of the user in --smtp-url (or GRANTSMITH_SMTP_PASSWORD)
    #[arg(long, env = "GRANTSMITH_SMTP_PASSWORD_FILE", value_name = "FILE", help_heading = "Mail")]
    pub smtp_password_file: Option<PathBuf>,
    /// The sender of mails, such as `Shop <keys@shop.example>`
    #[arg(long, env = "GRANTSMITH_MAIL_FROM", value_name = "ADDRESS", help_heading = "Mail")]
    pub mail_from: Option<String>,
    /// Where answers to mails go
    #[arg(long, env = "GRANTSMITH_MAIL_REPLY_TO", value_name = "ADDRESS", help_heading = "Mail")]
    pub mail_reply_to: Option<String>,

    /// Where the gRPC services listen; port 0 picks a free one
    #[arg(long, env = "GRANTSMITH_GRPC_LISTEN", default_value = "127.0.0.1:50051", help_heading = "gRPC")]
    pub grpc_listen: SocketAddr,
    /// Who may call: lines NAME ROLES TOKEN, roles joined by commas, TOKEN may be sha256:HEX; without it, written beside
    /// the record at first start
    #[arg(long, env = "GRANTSMITH_GRPC_TOKENS_FILE", value_name = "FILE", help_heading = "gRPC")]
    pub grpc_tokens_file: Option<PathBuf>,
    /// The certificate chain for gRPC over TLS, PEM; read again when it changes
    #[arg(
        long,
        env = "GRANTSMITH_GRPC_TLS_CERT_FILE",
        value_name = "FILE",
        requires = "grpc_tls_key_file",
        help_heading = "gRPC"
    )]
    pub grpc_tls_cert_file: Option<PathBuf>,
    /// The private key for gRPC over TLS, PEM; read again when it changes
    #[arg(
        long,
        env = "GRANTSMITH_GRPC_TLS_KEY_FILE",
        value_name = "FILE",
        requires = "grpc_tls_cert_file",
        help_heading = "gRPC"
    )]
    pub grpc_tls_key_file: Option<PathBuf>,
    /// A Kubernetes service account that may call, and its roles: NAMESPACE/NAME=ROLE,ROLE; repeatable, in the environment
    /// separated by spaces. Its tokens are shown to the cluster for review
    #[arg(
        long,
        env = "GRANTSMITH_GRPC_SERVICE_ACCOUNT",
        value_delimiter = ' ',
        value_name = "ACCOUNT",
        help_heading = "gRPC"
    )]
    pub grpc_service_account: Vec<Account>,
    /// The audience that tokens of service accounts must be for
    #[arg(
        long,
        env = "GRANTSMITH_GRPC_AUDIENCE",
        default_value = "grantsmith",
        value_name = "NAME",
        help_heading = "gRPC"
    )]
    pub grpc_audience: String,
    /// Serve gRPC off loopback without TLS, because something else encrypts
    #[arg(long, env = "GRANTSMITH_GRPC_INSECURE", help_heading = "gRPC")]
    pub grpc_insecure: bool,
    /// Further roots for outgoing TLS, PEM
    #[arg(long, env = "GRANTSMITH_CA_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
}

/// Health and metrics.
#[derive(Debug, Args)]
pub struct Admin {
    /// Where /healthz, /readyz and /metrics listen; port 0 picks a free one
    #[arg(
        long,
        env = "GRANTSMITH_ADMIN_LISTEN",
        default_value = "127.0.0.1:9090",
        help_heading = "Operation"
    )]
    pub admin_listen: SocketAddr,
}

/// Logs.
#[derive(Debug, Args)]
pub struct Log {
    /// How logs are written to standard error; auto is text on a terminal and JSON elsewhere
    #[arg(long, env = "GRANTSMITH_LOG_FORMAT", default_value = "auto", help_heading = "Operation")]
    pub log_format: LogFormat,
}

fn app_id(text: &str) -> Result<AppId, String> {
    AppId::parse(text).ok_or_else(|| "an app id is a UUID, as AuthForge's dashboard shows it".to_owned())
}

fn web_page(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    url.ok_or_else(|| "write an address that begins with https://".to_owned())
}

fn network(text: &str) -> Result<IpNet, String> {
    let alone = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse()
        .or_else(|_| alone())
        .map_err(|_| "write a network such as 10.0.0.0/8, or an address".to_owned())
}

fn moment(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|_| "write a time such as 2026-01-31T00:00:00Z".to_owned())
}

fn installation(text: &str) -> Result<String, String> {
    if grantsmith_core::manual::is_installation(text) {
        Ok(text.to_owned())
    } else {
        Err("write 1 to 32 lower-case letters, digits and '-'".to_owned())
    }
}

/// An address as it was written: braces in it are Stripe's.
fn web_address(text: &str) -> Result<String, String> {
    let fits = Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    if fits { Ok(text.to_owned()) } else { Err("write an address that begins with https://".to_owned()) }
}

fn origin(text: &str) -> Result<HeaderValue, String> {
    let own = |url: Url| url.origin().ascii_serialization() == text.to_ascii_lowercase();
    let fits = text.contains("://") && Url::parse(text).is_ok_and(own);
    let value = HeaderValue::from_str(&text.to_ascii_lowercase()).ok().filter(|_| fits);
    value.ok_or_else(|| "an origin is scheme, host and perhaps port alone: https://shop.example".to_owned())
}

fn per_hour(text: &str) -> Result<u32, String> {
    let count = text.strip_suffix("/h").and_then(|count| count.parse().ok());
    count.ok_or_else(|| "write a number and /h, such as 100/h".to_owned())
}

/// Settings that contradict each other, or lack something: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Wrong(pub String);

impl Server {
    /// Checks what no single flag can tell.
    pub fn check(&self) -> Result<(), Wrong> {
        match self.issuer {
            Issuing::Direct if self.grants_namespace.is_some() => {
                Err(Wrong("--grants-namespace goes with --issuer kubernetes".to_owned()))
            }
            Issuing::Kubernetes if self.back.authforge_api_key_file.is_some() => Err(Wrong(
                "--authforge-api-key-file goes with --issuer direct: with --issuer kubernetes the operator has that key, and \
                 the server needs none"
                    .to_owned(),
            )),
            Issuing::Direct | Issuing::Kubernetes => Ok(()),
        }
    }
}

impl Back {
    /// Where the Stripe API key is to be found.
    pub fn stripe_api_key(&self) -> Place {
        Place {
            what: "Stripe API key",
            flag: "stripe-api-key-file",
            env: "GRANTSMITH_STRIPE_API_KEY",
            file: self.stripe_api_key_file.clone(),
        }
    }

    /// Checks what no single flag can tell.
    pub fn check(&self, mode: Mode, public_url: &Url) -> Result<(), Wrong> {
        let wrong = |text: &str| Err(Wrong(text.to_owned()));
        let key = self.stripe_api_key().is_given();
        if !key && !self.events_only {
            return wrong(
                "no Stripe API key; give one with --stripe-api-key-file FILE or in GRANTSMITH_STRIPE_API_KEY (a restricted \
                 key that may read Checkout and payments is enough), or choose --events-only to do without",
            );
        }
        if key && self.events_only {
            return wrong("--events-only contradicts a Stripe API key; leave out one of them");
        }
        if self.authforge_url.scheme() == "fake" && mode == Mode::Live {
            return wrong("--authforge-url fake: makes keys that open nothing; it needs --stripe-mode test");
        }
        if !matches!(self.authforge_url.scheme(), "http" | "https" | "fake") {
            return wrong("--authforge-url must begin with https:// (or http://, or be fake:)");
        }
        if self.smtp_url.is_some() && self.mail_from.is_none() {
            return wrong("--smtp-url needs --mail-from, the sender of the mails");
        }
        if self.smtp_url.as_ref().is_some_and(MailServer::shows_password) {
            return wrong(
                "--smtp-url holds a password, which every process on this machine can read; put it in \
                 --smtp-password-file FILE or GRANTSMITH_SMTP_PASSWORD",
            );
        }
        let loopback = match public_url.host() {
            Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
            Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
            Some(url::Host::Domain(name)) => name == "localhost",
            None => false,
        };
        if self.smtp_url.is_some() && mode == Mode::Live && (loopback || public_url.scheme() != "https") {
            return wrong(
                "mails to real buyers would link to an address that they cannot open; set --public-url to your https:// \
                 address, or use --stripe-mode test",
            );
        }
        if !self.grpc_listen.ip().is_loopback() && self.grpc_tls_cert_file.is_none() && !self.grpc_insecure {
            return wrong(
                "gRPC off loopback would send tokens in the clear; give --grpc-tls-cert-file and --grpc-tls-key-file, or \
                 --grpc-insecure if something else encrypts",
            );
        }
        Ok(())
    }
}
