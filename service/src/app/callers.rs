//! Who may call over gRPC, and what callers are shown.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use super::cluster;
use crate::config::Back;
use crate::grpc;
use crate::grpc::accounts::Accounts;
use crate::grpc::tls::Certificate;
use crate::grpc::tokens::Tokens;
use crate::secret_file::{Place, Watched};

/// The callers' tokens; at first start they are written beside the record.
pub(super) fn tokens(settings: &Back, stop: CancellationToken) -> anyhow::Result<Arc<ArcSwap<Tokens>>> {
    let file = if let Some(file) = &settings.grpc_tokens_file {
        file.clone()
    } else {
        let record = settings.database_url.strip_prefix("sqlite://").unwrap_or("grantsmith.db");
        let file = PathBuf::from(format!("{record}.tokens"));
        grpc::tokens::write_once(&file).with_context(|| format!("cannot write '{}'", file.display()))?;
        tracing::info!(file = %file.display(), "gRPC tokens");
        file
    };
    let place = Place {
        what: "gRPC tokens",
        flag: "grpc-tokens-file",
        env: "GRANTSMITH_GRPC_TOKENS",
        file: Some(file),
    };
    Ok(Watched::open(place, stop, Tokens::parse)?.shared())
}

/// The accounts of the cluster that may call, if any may.
pub(super) async fn accounts(settings: &Back) -> anyhow::Result<Option<Arc<Accounts>>> {
    if settings.grpc_service_account.is_empty() {
        return Ok(None);
    }
    let client = cluster::client(cluster::config("leave out --grpc-service-account").await?)?;
    let accounts = settings.grpc_service_account.clone();
    Ok(Some(Arc::new(Accounts::new(client, settings.grpc_audience.clone(), accounts))))
}

/// The certificate of the gRPC listener, if it has one.
pub(super) fn certificate(settings: &Back, stop: CancellationToken) -> anyhow::Result<Option<Certificate>> {
    let (Some(chain), Some(key)) = (&settings.grpc_tls_cert_file, &settings.grpc_tls_key_file) else {
        return Ok(None);
    };
    // The listener would tell only later, and to nobody who can mend it.
    let names = format!("'{}' and '{}'", chain.display(), key.display());
    let read = move |pem: &str| {
        grpc::tls::read(pem).map_err(|error| {
            format!(
                "--grpc-tls-cert-file and --grpc-tls-key-file: {error}; {names} must be a chain and its key, as PEM"
            )
        })
    };
    let files = vec![chain.clone(), key.clone()];
    Ok(Some(Watched::open_files("gRPC certificate", files, stop, read)?.shared()))
}
