//! Serves a router over HTTP/1.1, with the limits that strangers need, until stopped.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use rustix::process::{Resource, getrlimit};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutWriter;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// Headers that have not arrived by then are given up.
const HEADERS_WITHIN: Duration = Duration::from_secs(15);
/// Who has taken nothing of an answer for so long is given up.
const TAKEN_WITHIN: Duration = Duration::from_secs(15);
/// Connections at once, if there are files for them; the rest wait to be accepted.
const CONNECTIONS: u64 = 4_096;
/// One listener's share of the files that may be open: there are two such, gRPC, the record and the calls to others.
const SHARE: u64 = 4;
/// Requests under way get this long when the program stops.
const FINISH_WITHIN: Duration = Duration::from_secs(15);

/// Serves until stopped, then finishes what is under way.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let connections = usize::try_from((files / SHARE).clamp(1, CONNECTIONS)).unwrap_or(1);
    serve_some(listener, router, stop, connections, TAKEN_WITHIN).await;
}

async fn serve_some(
    listener: TcpListener,
    router: Router,
    stop: CancellationToken,
    connections: usize,
    taken_within: Duration,
) {
    let places = Arc::new(Semaphore::new(connections));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADERS_WITHIN).keep_alive(true);
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = async {
            let place = places.clone().acquire_owned().await;
            listener.accept().await.map(|(stream, peer)| (stream, peer, place))
        };
        let (stream, peer, place) = tokio::select! {
            accepted = accepted => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, mostly: connections that end will free some.
                    tracing::warn!(%error, "cannot accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            () = stop.cancelled() => break,
        };
        let _ = stream.set_nodelay(true);
        let service =
            router.clone().map_request(move |mut request: hyper::Request<hyper::body::Incoming>| {
                request.extensions_mut().insert(ConnectInfo(peer));
                request.map(axum::body::Body::new)
            });
        let mut stream = TimeoutWriter::new(stream);
        stream.set_timeout(Some(taken_within));
        let stream = TokioIo::new(Box::pin(stream));
        let connection = graceful.watch(http.serve_connection(stream, TowerToHyperService::new(service)));
        tokio::spawn(async move {
            let _place = place;
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection broke");
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(FINISH_WITHIN, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests were cut off at the stop");
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn who_takes_nothing_of_an_answer_makes_place_for_the_next() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        // No kernel keeps as much for somebody who does not read.
        let router = Router::new().route("/", get(async || vec![b' '; 64 << 20]));
        let stop = CancellationToken::new();
        let served = tokio::spawn(serve_some(listener, router, stop.clone(), 1, Duration::from_millis(50)));
        let mut deaf = TcpStream::connect(address).await.expect("it listens");
        deaf.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sent");
        let mut next = TcpStream::connect(address).await.expect("it listens");
        next.write_all(b"GET /no HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.expect("sent");
        let mut answer = String::new();
        let read = tokio::time::timeout(Duration::from_secs(10), next.read_to_string(&mut answer)).await;
        read.expect("it is its turn").expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
        stop.cancel();
        served.await.expect("it ends");
    }
}
