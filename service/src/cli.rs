//! The hand tools: gRPC clients like any other.

pub mod backup;
pub mod catalog;
pub mod events;
pub mod grants;
pub mod import;
pub(crate) mod table;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use arc_swap::ArcSwap;
use clap::{Args, Subcommand, ValueEnum};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Status};

use crate::config::Wrong;
use crate::grpc::tokens::TokenFile;
use crate::secret_file::{Place, Watched};

/// What a hand tool with several commands takes.
#[derive(Debug, Args)]
pub struct Client<C: Subcommand> {
    /// How the server is reached.
    #[command(flatten)]
    pub access: Access,
    /// What to do.
    #[command(subcommand)]
    pub command: C,
}

/// What every hand tool takes.
#[derive(Debug, Args)]
pub struct Access {
    /// The gRPC server
    #[arg(
        long,
        env = "GRANTSMITH_SERVER",
        default_value = "http://127.0.0.1:50051",
        value_name = "URL",
        global = true
    )]
    pub server: String,
    /// A file with the token, or the server's tokens file; grantsmith.db.tokens is tried if there is one
    #[arg(long, env = "GRANTSMITH_TOKEN_FILE", value_name = "FILE", global = true)]
    pub token_file: Option<PathBuf>,
    /// Further roots for TLS, PEM
    #[arg(long, env = "GRANTSMITH_CA_FILE", value_name = "FILE", global = true)]
    pub ca_file: Option<PathBuf>,
    /// How to print
    #[arg(short, long, default_value = "table", global = true)]
    pub output: Output,
}

impl Access {
    /// The channel and the caller's tokens.
    pub(crate) fn open(&self) -> anyhow::Result<(Channel, Arc<ArcSwap<TokenFile>>)> {
        let tokens = token_file(self.token_file.as_deref(), CancellationToken::new())?;
        Ok((channel(&self.server, self.ca_file.as_deref())?, tokens))
    }
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    Table,
    /// For programs
    Json,
    /// For both
    Yaml,
    /// One resource name a line
    Name,
}

/// Where tokens are looked for when nobody says: beside the default record.
const DEFAULT_TOKENS: &str = "grantsmith.db.tokens";

/// The caller's tokens, following their file.
pub(crate) fn token_file(
    given: Option<&Path>,
    stop: CancellationToken,
) -> anyhow::Result<Arc<ArcSwap<TokenFile>>> {
    let default = || Some(PathBuf::from(DEFAULT_TOKENS)).filter(|path| path.exists());
    let place = Place {
        what: "gRPC token",
        flag: "token-file",
        env: "GRANTSMITH_TOKEN",
        file: given.map(Path::to_owned).or_else(default),
    };
    Ok(Watched::open(place, stop, TokenFile::parse)?.shared())
}

/// A channel that connects when first used.
///
/// # Errors
///
/// The address is none, or the CA file cannot be read or holds no certificates.
pub fn channel(url: &str, ca_file: Option<&Path>) -> anyhow::Result<Channel> {
    let ca = ca_file.map(|path| {
        std::fs::read_to_string(path).with_context(|| format!("cannot read '{}'", path.display()))
    });
    Ok(channel_over(url, ca.transpose()?.as_deref())?)
}

/// The same for a program that runs long: a CA file that changes is read again, and connections begin anew with it.
pub(crate) fn lasting_channel(
    url: &str,
    ca_file: Option<&Path>,
    stop: CancellationToken,
) -> anyhow::Result<Arc<ArcSwap<Channel>>> {
    let Some(path) = ca_file else { return Ok(Arc::new(ArcSwap::from_pointee(channel_over(url, None)?))) };
    let url = url.to_owned();
    let open = move |pem: &str| channel_over(&url, Some(pem));
    Ok(Watched::open_files("CA file", vec![path.to_owned()], stop, open)?.shared())
}

fn channel_over(url: &str, ca: Option<&str>) -> Result<Channel, Wrong> {
    let wrong = || Wrong(format!("--server '{url}' must be http://HOST:PORT or https://HOST:PORT"));
    let mut endpoint = Endpoint::from_shared(url.to_owned()).map_err(|_| wrong())?;
    match endpoint.uri().scheme_str() {
        Some("http") => {}
        Some("https") => {
            let mut tls = ClientTlsConfig::new().with_webpki_roots();
            if let Some(pem) = ca {
                grantsmith_authforge::roots_from_pem(pem.as_bytes())
                    .map_err(|error| Wrong(format!("--ca-file: {error}")))?;
                tls = tls.ca_certificate(Certificate::from_pem(pem));
            }
            endpoint = endpoint.tls_config(tls).map_err(|error| Wrong(format!("--server: {error}")))?;
        }
        _ => return Err(wrong()),
    }
    let endpoint = endpoint.connect_timeout(Duration::from_secs(3)).tcp_nodelay(true);
    let endpoint = endpoint.user_agent("grantsmith").map_err(|_| wrong())?;
    Ok(endpoint.keep_alive_while_idle(true).http2_keep_alive_interval(Duration::from_secs(20)).connect_lazy())
}

/// A call's failure, as a person should read it.
pub(crate) fn told(status: &Status) -> anyhow::Error {
    // What has a cause here was not said by the server.
    if let Some(cause) = std::error::Error::source(status) {
        let causes = crate::app::chain(cause.source().unwrap_or(cause));
        return anyhow::anyhow!(
            "the server cannot be reached: {causes}; --server is to be the address of its --grpc-listen"
        );
    }
    match status.code() {
        Code::Unavailable => {
            anyhow::anyhow!("the server cannot answer now: {}", status.message())
        }
        Code::InvalidArgument => Wrong(status.message().to_owned()).into(),
        _ => anyhow::anyhow!("{}", status.message()),
    }
}
