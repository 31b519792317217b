//! Stands between a program and a server and decides, for each request, whether it arrives and whether its answer does.

use std::fmt;
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
use kube::config::AuthInfo;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

/// A request that has not reached the server yet.
#[derive(Debug, Clone, Copy)]
pub struct Passing<'a> {
    /// What is asked.
    pub method: &'a Method,
    /// Of what.
    pub uri: &'a Uri,
    /// Its body.
    pub body: &'a Bytes,
}

/// What happens to a request.
pub enum Fate {
    /// It is answered.
    Pass,
    /// The connection is gone before the server hears it.
    Drop,
    /// The server hears it twice, as from a gateway that repeats; the program hears the second answer.
    Repeat,
    /// The server does it, then this is run: if it says so, the program hears the answer; else the connection is gone.
    Then(Box<dyn FnOnce() -> bool + Send>),
}

impl fmt::Debug for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pass => "Pass",
            Self::Drop => "Drop",
            Self::Repeat => "Repeat",
            Self::Then(_) => "Then",
        })
    }
}

/// Decides about every request. It may end programs.
type Judge = Arc<dyn Fn(Passing<'_>) -> Fate + Send + Sync>;

/// A running proxy. It stops when dropped, and with it every connection.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Starts one before the server of this configuration. Who asks must say who they are: its credentials are not used.
    pub async fn start(
        mut upstream: kube::Config,
        judge: impl Fn(Passing<'_>) -> Fate + Send + Sync + 'static,
    ) -> Self {
        upstream.auth_info = AuthInfo::default();
        let upstream = kube::Client::try_from(upstream).expect("a client");
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
    let fate = judge(Passing { method: &parts.method, uri: &parts.uri, body: &body });
    if matches!(fate, Fate::Drop) {
        return Err(gone());
    }
    let copy = || {
        let mut request = Request::new(Body::from(body.to_vec()));
        *request.method_mut() = parts.method.clone();
        // The upstream's address is put before the path.
        *request.uri_mut() = parts.uri.clone();
        request.headers_mut().extend(parts.headers.clone());
        request.headers_mut().remove(http::header::HOST);
        request
    };
    let (first, second) = (copy(), matches!(fate, Fate::Repeat).then(copy));
    // What was sent arrives, also when the program dies meanwhile: so a task of its own.
    let answering = tokio::spawn(async move {
        let answer = upstream.send(first).await;
        match second {
            Some(second) => upstream.send(second).await,
            None => answer,
        }
    });
    let answer = answering.await.map_err(|_| gone())?.map_err(|_| gone())?;
    let heard = match fate {
        Fate::Then(act) => act(),
        Fate::Pass | Fate::Repeat | Fate::Drop => true,
    };
    if heard { Ok(answer) } else { Err(gone()) }
}
