//! The fake's sockets.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tower::ServiceExt as _;

use super::{Shared, admin, api};

/// Marks an answer that is never to be sent: the connection drops in its place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Drop;

/// Accepts until it is aborted; the connections end with it.
pub(super) async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let router = Router::new().merge(api::routes()).nest("/_fake", admin::routes()).with_state(shared);
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, most likely: whoever holds them has to run first.
            tokio::task::yield_now().await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        while connections.try_join_next().is_some() {}
        let router = router.clone();
        connections.spawn(async move {
            let service =
                service_fn(move |request: hyper::Request<Incoming>| answer(router.clone(), request));
            let mut http = hyper::server::conn::http1::Builder::new();
            // The fake writes its own `Date`, or none.
            http.auto_date_header(false);
            // A dropped connection ends in an error by design.
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// Routes a request. An error makes hyper close the socket without a word, which is what a lost answer looks like.
async fn answer(router: Router, request: hyper::Request<Incoming>) -> Result<Response, io::Error> {
    let request: Request = request.map(Body::new);
    let response: Result<Response, Infallible> = router.oneshot(request).await;
    match response {
        Ok(response) if response.extensions().get::<Drop>().is_some() => {
            Err(io::Error::new(io::ErrorKind::ConnectionAborted, "dropped by script"))
        }
        Ok(response) => Ok(response),
        Err(never) => match never {},
    }
}
