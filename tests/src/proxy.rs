//! Stands between a program and a server and decides, for each request, whether it arrives and whether its answer does.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, Uri};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kube::client::Body;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

/// A request, at one of the two points where a program or a connection can die.
#[derive(Debug, Clone, Copy)]
pub struct Passing<'a> {
    /// What is asked.
    pub method: &'a Method,
    /// Of what.
    pub uri: &'a Uri,
    /// Its body.
    pub body: &'a Bytes,
    /// Where it is.
    pub at: Point,
}

/// Where a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Point {
    /// It has not reached the server.
    Before,
    /// The server has done it; the program does not know.
    After,
}

/// What happens to a request at a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Pass,
    /// The connection is gone.
    Drop,
    /// The server hears it once more, as from a gateway that repeats; the program hears the second answer.
    Repeat,
}

/// A running proxy. It stops when dropped, and with it every connection.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

/// Decides about every request, at both points. It may end programs.
type Judge = Arc<dyn Fn(Passing<'_>) -> Verdict + Send + Sync>;

impl Proxy {
    /// Starts one before the server of this client, which brings no credentials: those of the requests count.
    pub async fn start(
        upstream: kube::Client,
        judge: impl Fn(Passing<'_>) -> Verdict + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let judge: Judge = Arc::new(judge);
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (upstream, judge) = (upstream.clone(), Arc::clone(&judge));
                let service = service_fn(move |request| relay(request, upstream.clone(), Arc::clone(&judge)));
                connections.spawn(async move {
                    let connection = hyper::server::conn::http1::Builder::new();
                    // That a connection breaks is what this is for.
                    drop(connection.serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        Self { address, accepting }
    }

    /// Where the program finds it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn relay(
    request: Request<Incoming>,
    upstream: kube::Client,
    judge: Judge,
) -> Result<Response<Body>, io::Error> {
    let gone = || io::Error::from(io::ErrorKind::ConnectionReset);
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| gone())?.to_bytes();
    let ask = |at| judge(Passing { method: &parts.method, uri: &parts.uri, body: &body, at });
    let repeat = match ask(Point::Before) {
        Verdict::Pass => false,
        Verdict::Repeat => true,
        Verdict::Drop => return Err(gone()),
    };
    let again = || {
        let mut request = Request::new(Body::from(body.to_vec()));
        *request.method_mut() = parts.method.clone();
        // The upstream's address is put before the path.
        *request.uri_mut() = parts.uri.clone();
        request.headers_mut().extend(parts.headers.clone());
        request.headers_mut().remove(http::header::HOST);
        request
    };
    // What was sent arrives, also when the program dies meanwhile: so a task of its own.
    let (first, second) = (again(), repeat.then(again));
    let answer = tokio::spawn(async move {
        let answer = upstream.send(first).await;
        match second {
            Some(second) => upstream.send(second).await,
            None => answer,
        }
    });
    let answer = answer.await.map_err(|_| gone())?.map_err(|_| gone())?;
    match ask(Point::After) {
        Verdict::Pass | Verdict::Repeat => Ok(answer),
        Verdict::Drop => Err(gone()),
    }
}
