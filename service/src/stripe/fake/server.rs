//! The fake's API, over real HTTP on a port of its own.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, RawForm, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use grantsmith_authforge::SystemClock;
use grantsmith_core::port::Clock;
use http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::object::{self, Expand, billing};
use super::till::{self, Form, Refused};
use super::world::World;

/// What can be asked of the fake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Route {
    /// `GET /v1/checkout/sessions/{id}`
    Session,
    /// `GET /v1/checkout/sessions/{id}/line_items`
    LineItems,
    /// `GET /v1/checkout/sessions?payment_intent=&subscription=`
    Sessions,
    /// `GET /v1/charges/{id}`
    Charge,
    /// `GET /v1/subscriptions/{id}`
    Subscription,
    /// `GET /v1/subscription_items?subscription=`
    SubscriptionItems,
    /// `GET /v1/invoices/{id}`
    Invoice,
    /// `GET /v1/invoices/{id}/lines`
    InvoiceLines,
    /// `GET /v1/invoices?subscription=&status=`
    Invoices,
    /// `GET /v1/customers/{id}`
    Customer,
    /// `POST /v1/checkout/sessions`
    CreateSession,
    /// `GET /v1/prices?lookup_keys[]=`
    Prices,
    /// `GET /v1/prices/{id}`
    Price,
    /// `GET /v1/products/{id}`
    Product,
    /// Lists that are asked for to see whether the key may.
    Probe,
}

/// What goes wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The right answer, late.
    Latency(Duration),
    /// An error of Stripe's form, with these headers beside it.
    Status(u16, Vec<(&'static str, &'static str)>),
    /// The connection breaks in the middle of the answer.
    Drop,
    /// The answer begins and never ends.
    Stall,
    /// Something that is not Stripe answers.
    Garbage,
    /// An answer without an end to its size.
    Flood,
}

impl Fault {
    /// An error of this status.
    pub fn status(status: u16) -> Self {
        Self::Status(status, Vec::new())
    }
}

/// A running fake. It stops when dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    world: Arc<World>,
    key: String,
    control: Mutex<Control>,
}

#[derive(Debug, Default)]
struct Control {
    script: VecDeque<(Route, Fault)>,
    forbidden: Vec<String>,
    endpoints: Vec<Value>,
    standing: Option<Fault>,
    counts: BTreeMap<Route, u64>,
    refused: u64,
    versions: Vec<String>,
    made: Vec<Made>,
}

/// A request to make a session, and its answer: the same again gets the same.
#[derive(Debug, Clone)]
struct Made {
    key: String,
    form: Form,
    session: Value,
}

impl Server {
    /// Starts a fake on a free port of the loopback, which takes this API key only.
    pub async fn start(world: Arc<World>, key: &str) -> std::io::Result<Self> {
        Self::start_on(TcpListener::bind(("127.0.0.1", 0)).await?, world, key)
    }

    /// The same at an address of the caller's choice.
    pub fn start_on(listener: TcpListener, world: Arc<World>, key: &str) -> std::io::Result<Self> {
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { world, key: key.to_owned(), control: Mutex::default() });
        let router = router(Arc::clone(&shared));
        let task = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "fake Stripe ended");
            }
        });
        Ok(Self { address, shared, task })
    }

    /// Where it is, as `--stripe-url` takes it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Adds faults: each meets one request of that route, in this order.
    pub fn script(&self, route: Route, faults: impl IntoIterator<Item = Fault>) {
        self.shared.control(|control| control.script.extend(faults.into_iter().map(|fault| (route, fault))));
    }

    /// A fault that meets every request, after those of the script, until it is taken away with `None`.
    pub fn always(&self, fault: Option<Fault>) {
        self.shared.control(|control| control.standing = fault);
    }

    /// Takes the permission to list away from the key, by path, such as `/v1/charges`.
    pub fn forbid(&self, path: &str) {
        self.shared.control(|control| control.forbidden.push(path.to_owned()));
    }

    /// Sets the webhook endpoints of the account.
    pub fn endpoints(&self, endpoints: impl IntoIterator<Item = Value>) {
        self.shared.control(|control| control.endpoints = endpoints.into_iter().collect());
    }

    /// How many requests of a route came with the right key, faults included.
    pub fn count(&self, route: Route) -> u64 {
        self.shared.control(|control| control.counts.get(&route).copied().unwrap_or_default())
    }

    /// How many requests came without the right key.
    pub fn refused(&self) -> u64 {
        self.shared.control(|control| control.refused)
    }

    /// The parameters of the sessions that were made through the API, in their order.
    pub fn sessions_made(&self) -> Vec<Vec<(String, String)>> {
        self.shared.control(|control| control.made.iter().map(|made| made.form.clone()).collect())
    }

    /// Which API versions were asked for, each once.
    pub fn versions(&self) -> Vec<String> {
        self.shared.control(|control| control.versions.clone())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn control<T>(&self, act: impl FnOnce(&mut Control) -> T) -> T {
        act(&mut self.control.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Counts a request and draws its fault; `Err` is the answer to somebody without the key.
    fn admit(&self, route: Route, headers: &HeaderMap) -> Result<Option<Fault>, Box<Response>> {
        let expected = format!("Bearer {}", self.key);
        let admitted =
            headers.get(AUTHORIZATION).is_some_and(|value| value.as_bytes() == expected.as_bytes());
        self.control(|control| {
            if !admitted {
                control.refused += 1;
                return Err(Box::new(error(401, None, &[])));
            }
            *control.counts.entry(route).or_default() += 1;
            let version = version(headers).unwrap_or_default();
            if !control.versions.iter().any(|known| known == version) {
                control.versions.push(version.to_owned());
            }
            let scripted = control.script.iter().position(|(of, _)| *of == route);
            let scripted = scripted.and_then(|index| control.script.remove(index)).map(|(_, fault)| fault);
            Ok(scripted.or_else(|| control.standing.clone()))
        })
    }
}

impl Shared {
    /// Makes a session, once for each idempotency key.
    fn make_session(&self, headers: &HeaderMap, form: Form) -> Result<Value, Box<Response>> {
        let key = headers.get("idempotency-key").and_then(|key| key.to_str().ok()).unwrap_or_default();
        let before = self
            .control(|control| control.made.iter().find(|made| !key.is_empty() && made.key == key).cloned());
        match before {
            Some(made) if made.form == form => return Ok(made.session),
            Some(_) => return Err(Box::new(refused("idempotency_error", None, None))),
            None => {}
        }
        let purchase = till::read(&form, &self.world).map_err(|Refused { code, param }| {
            Box::new(refused("invalid_request_error", code, Some(&param)))
        })?;
        let session = self.world.offer(purchase, SystemClock.now().wall);
        let made = Made { key: key.to_owned(), form, session: session.clone() };
        self.control(|control| control.made.push(made));
        Ok(session)
    }
}

fn version(headers: &HeaderMap) -> Option<&str> {
    headers.get("stripe-version")?.to_str().ok()
}

type Pairs = Vec<(String, String)>;

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/checkout/sessions/{id}", get(session))
        .route("/v1/checkout/sessions/{id}/line_items", get(line_items))
        .route("/v1/checkout/sessions", get(sessions).post(create_session))
        .route("/v1/prices", get(prices))
        .route("/v1/prices/{id}", get(price))
        .route("/v1/products/{id}", get(product))
        .route("/v1/charges/{id}", get(charge))
        .route("/v1/subscriptions/{id}", get(subscription))
        .route("/v1/subscription_items", get(subscription_items))
        .route("/v1/invoices/{id}", get(invoice))
        .route("/v1/invoices/{id}/lines", get(invoice_lines))
        .route("/v1/invoices", get(invoices))
        .route("/v1/customers/{id}", get(customer))
        .route("/v1/charges", get(probe))
        .route("/v1/customers", get(probe))
        .route("/v1/payment_intents", get(probe))
        .route("/v1/products", get(probe))
        .route("/v1/subscriptions", get(probe))
        .route("/v1/webhook_endpoints", get(probe))
        .fallback(|| async { error(404, None, &[]) })
        .with_state(shared)
}

async fn session(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    Query(query): Query<Pairs>,
    request: Request,
) -> Response {
    let mut expand = Expand::default();
    expansions(&query).for_each(|path| expand.add(path));
    answer(&shared, Route::Session, request.headers(), || shared.world.session(&id, expand)).await
}

async fn line_items(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    Query(query): Query<Pairs>,
    request: Request,
) -> Response {
    let page = || {
        let url = format!("{}/line_items", object::url("checkout.session", &id));
        page(&shared.world.lines(&id)?, &query, &url)
    };
    answer(&shared, Route::LineItems, request.headers(), page).await
}

async fn sessions(
    State(shared): State<Arc<Shared>>,
    Query(query): Query<Pairs>,
    request: Request,
) -> Response {
    let page = || {
        let (intent, subscription) = (value(&query, "payment_intent"), value(&query, "subscription"));
        page(&shared.world.sessions(intent, subscription), &query, "/v1/checkout/sessions")
    };
    answer(&shared, Route::Sessions, request.headers(), page).await
}

async fn charge(State(shared): State<Arc<Shared>>, Path(id): Path<String>, request: Request) -> Response {
    answer(&shared, Route::Charge, request.headers(), || shared.world.charge(&id)).await
}

async fn subscription(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    Query(query): Query<Pairs>,
    request: Request,
) -> Response {
    let mut expand = billing::Expand::default();
    expansions(&query).for_each(|path| expand.add(path));
    answer(&shared, Route::Subscription, request.headers(), || shared.world.subscription(&id, expand)).await
}

async fn subscription_items(
    State(shared): State<Arc<Shared>>,
    Query(query): Query<Pairs>,
    request: Request,
) -> Response {
    let page = || {
        let subscription = value(&query, "subscription").unwrap_or_default();
        page(&shared.world.subscription_items(subscription), &query, "/v1/subscription_items")
    };
    answer(&shared, Route::SubscriptionItems, request.headers(), page).await
}

async fn invoice(State(shared): State<Arc<Shared>>, Path(id): Path<String>, request: Request) -> Response {
    answer(&shared, Route::Invoice, request.headers(), || shared.world.invoice(&id)).await
}

async fn invoice_lines(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    Query(query): Query<Pairs>,
    request: Request,
) -> Response {
    let page = || {
        let url = format!("{}/lines", object::url("invoice", &id));
        page(&shared.world.invoice_lines(&id)?, &query, &url)
    };
    answer(&shared, Route::InvoiceLines, request.headers(), page).await
}

async fn invoices(
    State(shared): State<Arc<Shared>>,
    Query(query): Query<Pairs>,
    request: Request,
) -> Response {
    let page = || {
        let (subscription, status) = (value(&query, "subscription"), value(&query, "status"));
        page(&shared.world.invoices(subscription, status), &query, "/v1/invoices")
    };
    answer(&shared, Route::Invoices, request.headers(), page).await
}

async fn customer(State(shared): State<Arc<Shared>>, Path(id): Path<String>, request: Request) -> Response {
    answer(&shared, Route::Customer, request.headers(), || shared.world.customer(&id)).await
}

async fn prices(State(shared): State<Arc<Shared>>, Query(query): Query<Pairs>, request: Request) -> Response {
    let page = || page(&shared.world.prices(value(&query, "lookup_keys[]")), &query, "/v1/prices");
    answer(&shared, Route::Prices, request.headers(), page).await
}

async fn price(State(shared): State<Arc<Shared>>, Path(id): Path<String>, request: Request) -> Response {
    answer(&shared, Route::Price, request.headers(), || shared.world.price(&id)).await
}

async fn product(State(shared): State<Arc<Shared>>, Path(id): Path<String>, request: Request) -> Response {
    answer(&shared, Route::Product, request.headers(), || shared.world.product(&id)).await
}

async fn create_session(State(shared): State<Arc<Shared>>, headers: HeaderMap, form: RawForm) -> Response {
    let form: Form = url::form_urlencoded::parse(&form.0).into_owned().collect();
    let session = || shared.make_session(&headers, form);
    answer_with(&shared, Route::CreateSession, &headers, session).await
}

/// A list that only tells whether the key may read it; and the endpoints.
async fn probe(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    if shared.control(|control| control.forbidden.contains(&path)) {
        return error(403, None, &[]);
    }
    let page = || {
        let endpoints = || shared.control(|control| control.endpoints.clone());
        let all = if path == "/v1/webhook_endpoints" { endpoints() } else { Vec::new() };
        Some(json!({"object": "list", "data": all, "has_more": false, "url": path}))
    };
    answer(&shared, Route::Probe, request.headers(), page).await
}

fn expansions(query: &Pairs) -> impl Iterator<Item = &str> {
    query.iter().filter(|(key, _)| key.starts_with("expand[")).map(|(_, path)| path.as_str())
}

fn value<'q>(query: &'q Pairs, key: &str) -> Option<&'q str> {
    query.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
}

/// A page of a list, by Stripe's rules (Stripe, pagination): ten unless asked, a hundred at most; `None` after an unknown id.
fn page(all: &[Value], query: &Pairs, url: &str) -> Option<Value> {
    let limit = value(query, "limit").and_then(|text| text.parse().ok()).unwrap_or(10).clamp(1, 100);
    let start = match value(query, "starting_after") {
        Some(id) => all.iter().position(|object| object["id"] == id)? + 1,
        None => 0,
    };
    let rest = all.get(start..).unwrap_or_default();
    let shown: Vec<_> = rest.iter().take(limit).collect();
    Some(json!({"object": "list", "data": shown, "has_more": rest.len() > shown.len(), "url": url}))
}

/// Answers with an object, if there is one.
async fn answer(
    shared: &Shared,
    route: Route,
    headers: &HeaderMap,
    object: impl FnOnce() -> Option<Value>,
) -> Response {
    let missing = || Box::new(error(404, Some("resource_missing"), &[]));
    answer_with(shared, route, headers, || object().ok_or_else(missing)).await
}

/// Answers as the script wants it. The object is looked up late, so that a slow answer is as fresh as any.
async fn answer_with(
    shared: &Shared,
    route: Route,
    headers: &HeaderMap,
    object: impl FnOnce() -> Result<Value, Box<Response>>,
) -> Response {
    let fault = match shared.admit(route, headers) {
        Ok(fault) => fault,
        Err(refused) => return *refused,
    };
    match fault {
        None => {}
        Some(Fault::Latency(wait)) => tokio::time::sleep(wait).await,
        Some(Fault::Status(status, headers)) => return error(status, code(status), &headers),
        Some(Fault::Drop) => {
            let broken =
                stream::iter([Ok(Bytes::from_static(b"{\"id\":")), Err(std::io::Error::other("dropped"))]);
            return Body::from_stream(broken).into_response();
        }
        Some(Fault::Stall) => {
            let begun = stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"{\"id\":"))]);
            return Body::from_stream(begun.chain(stream::pending())).into_response();
        }
        Some(Fault::Garbage) => return "<html>not Stripe</html>".into_response(),
        Some(Fault::Flood) => {
            let blank = Bytes::from(vec![b' '; 64 * 1024]);
            return Body::from_stream(stream::repeat_with(move || Ok::<_, Infallible>(blank.clone())))
                .into_response();
        }
    }
    let mut object = match object() {
        Ok(object) => object,
        Err(refused) => return *refused,
    };
    if version(headers).is_none() {
        // Without the header Stripe answers at the account's default, and accounts are old.
        object::age(&mut object);
    }
    json_response(StatusCode::OK, &object)
}

fn code(status: u16) -> Option<&'static str> {
    match status {
        429 => Some("rate_limit"),
        409 => Some("lock_timeout"),
        _ => None,
    }
}

/// Stripe's answer to a request that is wrong in itself.
fn refused(kind: &str, code: Option<&str>, param: Option<&str>) -> Response {
    let message = "from the fake, with buyer@example.com in it";
    let body = json!({"error": {"type": kind, "code": code, "message": message, "param": param}});
    json_response(StatusCode::BAD_REQUEST, &body)
}

fn error(status: u16, code: Option<&str>, headers: &[(&'static str, &'static str)]) -> Response {
    let kind = if status >= 500 { "api_error" } else { "invalid_request_error" };
    let body = json!({"error": {"type": kind, "code": code, "message": "from the fake, with buyer@example.com in it"}});
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json_response(status, &body);
    for (name, value) in headers {
        response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    if status == StatusCode::TOO_MANY_REQUESTS && !response.headers().contains_key(RETRY_AFTER) {
        let reason = HeaderValue::from_static("endpoint-rate");
        response.headers_mut().insert("stripe-rate-limited-reason", reason);
    }
    response
}

fn json_response(status: StatusCode, body: &Value) -> Response {
    let headers = [(CONTENT_TYPE.as_str(), "application/json"), ("request-id", "req_Fake000000001")];
    (status, headers, serde_json::to_vec_pretty(body).unwrap_or_default()).into_response()
}
