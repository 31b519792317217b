//! The portal: an address, a mailed link, and then what was bought with that address. And the success page's form for
//! another address.
//!
//! The server decides, this only shows. Opening a mailed link by GET asks nothing of the server and spends nothing, since
//! mail scanners open links. No form needs a token against forgery by other sites: there are no cookies, so a request is
//! worth what stands in it, a secret that only the buyer's own page or mail has.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{ConnectInfo, FromRequestParts, Query, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{Redirect, Response};
use grantsmith_core::GrantId;
use jiff::Timestamp;
use minijinja::value::Serde;
use minijinja::{Value, context};
use serde::{Deserialize, Serialize};

use super::Web;
use super::client_ip::client_ip;
use super::form::Posted;
use super::pages::{private, shown_license};
use crate::fulfillment::Page;
use crate::fulfillment::portal::{Error, Order, Portal, Resent, TOKEN_FOR, Token};
use crate::render;

/// The way from a page to `/portal`: the public address may have a path before it, which is not known here.
const HERE: &str = "portal";
const ABOVE: &str = "../portal";

/// The client that a request is counted for.
pub(super) struct Client(IpAddr);

impl FromRequestParts<Web> for Client {
    type Rejection = StatusCode;

    async fn from_request_parts(parts: &mut Parts, web: &Web) -> Result<Self, StatusCode> {
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        let ConnectInfo(peer) = peer.ok_or(StatusCode::INTERNAL_SERVER_ERROR)?;
        Ok(Self(client_ip(*peer, &parts.headers, &web.trusted_proxies)))
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Address {
    email: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Link {
    token: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Action {
    action: String,
    grant: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Correction {
    session_id: String,
    email: String,
}

/// `GET /portal`
pub(super) async fn form(State(web): State<Web>) -> Response {
    ask(&web, HERE)
}

/// `GET` of an address that only takes forms: somebody has opened it once more.
pub(super) async fn form_again(State(web): State<Web>) -> Response {
    ask(&web, ABOVE)
}

fn ask(web: &Web, portal: &str) -> Response {
    web.show(StatusCode::OK, "pages/portal.html", context! { portal })
}

/// `POST /portal`
pub(super) async fn request_link(
    State(web): State<Web>,
    Client(client): Client,
    Posted(Address { email }): Posted<Address>,
) -> Response {
    match web.backend.request_portal_link(&email, client).await {
        Ok(()) => {
            let context = context! { portal => HERE, email => email.trim(), minutes => TOKEN_FOR.as_mins() };
            web.show(StatusCode::OK, "pages/portal_sent.html", context)
        }
        Err(error) => refused(&web, &error, context! { portal => HERE, email }),
    }
}

/// `GET /portal/open?token=`: a page with one button.
pub(super) async fn offer(
    State(web): State<Web>,
    link: Result<Query<Link>, axum::extract::rejection::QueryRejection>,
) -> Response {
    match link {
        Ok(Query(Link { token })) if !token.is_empty() => {
            web.show(StatusCode::OK, "pages/portal_open.html", context! { token })
        }
        _ => ask(&web, ABOVE),
    }
}

/// `POST /portal/open`
pub(super) async fn open(
    State(web): State<Web>,
    Client(client): Client,
    Posted(Link { token }): Posted<Link>,
) -> Response {
    match web.backend.open_portal(&Token::new(token), client).await {
        Ok(portal) => show(&web, StatusCode::OK, &portal, None),
        Err(error) => refused(&web, &error, context! { portal => ABOVE, gone => "link" }),
    }
}

/// `POST /portal/resend`
pub(super) async fn resend(
    State(web): State<Web>,
    Client(client): Client,
    Posted(Action { action, grant }): Posted<Action>,
) -> Response {
    let gone = context! { portal => ABOVE, gone => "page" };
    let Some(grant) = GrantId::parse(&grant) else { return refused(&web, &Error::Gone, gone) };
    match web.backend.resend_portal_key(&Token::new(action), &grant, client).await {
        Ok((resent, portal)) => {
            let (status, note) = match resent {
                Resent::Sent => (StatusCode::OK, "sent"),
                Resent::TooOften => (StatusCode::TOO_MANY_REQUESTS, "too_often"),
                Resent::NotNow => (StatusCode::CONFLICT, "not_now"),
            };
            show(&web, status, &portal, Some((&grant, note)))
        }
        Err(error) => refused(&web, &error, gone),
    }
}

/// `POST /success`: the keys of a session go to another address.
pub(super) async fn correct_email(
    State(web): State<Web>,
    Client(client): Client,
    Posted(Correction { session_id, email }): Posted<Correction>,
) -> Response {
    let back = |note: &str| {
        let session = url::form_urlencoded::byte_serialize(session_id.as_bytes()).collect::<String>();
        private(Redirect::to(&format!("success?session_id={session}&note={note}")))
    };
    match web.backend.correct_email(&session_id, &email, client).await {
        Ok(()) => back("sent"),
        Err(Error::BadAddress) => back("address"),
        Err(Error::Gone) => web.show(StatusCode::NOT_FOUND, "pages/not_found.html", context! {}),
        Err(error) => refused(&web, &error, context! { portal => HERE }),
    }
}

/// A license, and whether its time is over.
#[derive(Serialize)]
struct ShownLicense {
    #[serde(flatten)]
    license: render::PageLicense,
    expired: bool,
}

#[derive(Serialize)]
struct ShownOrder<'a> {
    grant: &'a str,
    order: &'a str,
    day: String,
    state: &'static str,
    licenses: Vec<ShownLicense>,
    can_resend: bool,
    note: Option<&'a str>,
}

fn show(web: &Web, status: StatusCode, portal: &Portal, note: Option<(&GrantId, &str)>) -> Response {
    let now = web.clock.now().wall;
    let orders: Vec<_> = portal.orders.iter().map(|order| shown(order, note, now)).collect();
    let context = context! {
        portal => ABOVE,
        email => portal.email.expose(),
        orders => Value::from(Serde(orders)),
        more => portal.more,
        action => portal.action.expose(),
        billing_url => web.billing_portal.as_ref().map(url::Url::as_str),
    };
    web.show(status, "pages/portal_orders.html", context)
}

fn shown<'a>(order: &'a Order, note: Option<(&GrantId, &'a str)>, now: Timestamp) -> ShownOrder<'a> {
    let (state, licenses) = match &order.page {
        Page::Ready { licenses, .. } => ("ready", licenses.as_slice()),
        Page::Pending => ("pending", [].as_slice()),
        Page::PaymentPending => ("payment", [].as_slice()),
        Page::Ended | Page::NotFound => ("ended", [].as_slice()),
    };
    let licenses = licenses.iter().map(|license| ShownLicense {
        license: shown_license(license),
        expired: license.expires_at.is_some_and(|end| end <= now),
    });
    ShownOrder {
        grant: order.grant.as_str(),
        order: &order.purchase,
        day: render::day(order.at),
        state,
        licenses: licenses.collect(),
        can_resend: order.can_resend,
        note: note.filter(|(grant, _)| **grant == order.grant).map(|(_, note)| note),
    }
}

/// The page of a refusal; `context` is the form's, where that is shown again.
fn refused(web: &Web, error: &Error, context: Value) -> Response {
    match error {
        Error::TooMany { wait } => {
            let minutes = wait.as_secs().div_ceil(60).max(1);
            let context = context! { minutes, ..context };
            let mut response = web.show(StatusCode::TOO_MANY_REQUESTS, "pages/portal_wait.html", context);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs() + 1));
            response
        }
        Error::BadAddress => {
            let context = context! { problem => "address", ..context };
            web.show(StatusCode::UNPROCESSABLE_ENTITY, "pages/portal.html", context)
        }
        Error::NoMailer => {
            let context = context! { problem => "no_mail", ..context };
            web.show(StatusCode::NOT_FOUND, "pages/portal.html", context)
        }
        Error::Gone => web.show(StatusCode::GONE, "pages/portal.html", context.clone()),
        Error::Unavailable(_) => {
            tracing::warn!(%error, "the portal");
            let mut response = web.show(StatusCode::SERVICE_UNAVAILABLE, "pages/error.html", context! {});
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("10"));
            response
        }
    }
}
