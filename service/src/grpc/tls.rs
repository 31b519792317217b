//! TLS for gRPC, with a certificate that can be replaced while the program runs.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

/// A peer that has not shaken hands by then is given up.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// Connections that have shaken hands and are not served yet.
const WAITING: usize = 64;
/// Out of file descriptors, mostly: connections that end will free some.
const BREATHER: Duration = Duration::from_millis(100);

/// The certificate that is in force, whenever a connection begins.
pub type Certificate = Arc<ArcSwap<CertifiedKey>>;

/// Reads a certificate chain and its key from PEM, in any order in one text.
pub fn read(pem: &str) -> Result<CertifiedKey, String> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| format!("the certificate cannot be read: {error}"))?;
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| format!("the key cannot be read: {error}"))?;
    CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider())
        .map_err(|error| error.to_string())
}

#[derive(Debug)]
struct InForce(Certificate);

impl ResolvesServerCert for InForce {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

/// Connections that have shaken hands. Nobody waits for another one's handshake.
pub(super) fn incoming(
    listener: TcpListener,
    certificate: Certificate,
    stop: CancellationToken,
) -> ReceiverStream<io::Result<TlsStream<TcpStream>>> {
    let mut config =
        ServerConfig::builder().with_no_client_auth().with_cert_resolver(Arc::new(InForce(certificate)));
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (ready, connections) = mpsc::channel(WAITING);
    tokio::spawn(stop.run_until_cancelled_owned(async move {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept");
                    tokio::time::sleep(BREATHER).await;
                    continue;
                }
            };
            let _ = stream.set_nodelay(true);
            let (acceptor, ready) = (acceptor.clone(), ready.clone());
            tokio::spawn(async move {
                match tokio::time::timeout(HANDSHAKE_WITHIN, acceptor.accept(stream)).await {
                    // Nobody takes it any more once the program stops.
                    Ok(Ok(stream)) => drop(ready.send(Ok(stream)).await),
                    Ok(Err(error)) => tracing::debug!(%error, "a handshake failed"),
                    Err(_) => tracing::debug!("a handshake took too long"),
                }
            });
        }
    }));
    ReceiverStream::new(connections)
}
