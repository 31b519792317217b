//! The demonstration's shop: buttons to buy with and without mishaps, and what Stripe, AuthForge and the mailbox hold.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use minijinja::{AutoEscape, Environment, Value, context};
use serde::Deserialize;

use super::{Mishap, Order, Played, Stage, mime};

const WINDOW: &str = include_str!("shop.html");

#[derive(Debug, Deserialize)]
struct Wish {
    mishap: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Look {
    /// The order whose outcome stands on top.
    order: Option<usize>,
}

pub(super) fn router(stage: Arc<Stage>) -> Router {
    Router::new().route("/", get(window)).route("/buy", post(buy)).with_state(stage)
}

async fn buy(State(stage): State<Arc<Stage>>, Query(wish): Query<Wish>, headers: HeaderMap) -> Response {
    let mishap = match wish.mishap.as_deref() {
        None => Mishap::None,
        Some("lost-answer") => Mishap::LostAnswer,
        Some("kill") => Mishap::Kill,
        Some(_) => return (StatusCode::BAD_REQUEST, "mishap is lost-answer or kill\n").into_response(),
    };
    let order = stage.order(mishap).await;
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    if accept.contains("text/html") {
        return Redirect::to(&format!("/?order={}", order.number)).into_response();
    }
    match &order.outcome {
        Ok(played) => {
            let (story, licenses) = (story(mishap), stage.licenses_of(&played.session));
            let story = if story.is_empty() { String::new() } else { format!("{story}\n") };
            format!(
                "{story}answer        {} {}\nlicense key   {}\nsuccess page  {}\nat AuthForge  {licenses} license for this order, after {:.1} s\n",
                played.answer.status, played.answer.body, played.key, played.page, played.seconds,
            )
            .into_response()
        }
        Err(problem) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{problem}\n")).into_response(),
    }
}

async fn window(State(stage): State<Arc<Stage>>, Query(look): Query<Look>) -> Response {
    let orders = stage.orders();
    let shown = |order: &Order| shown(&stage, order);
    let html = |raw: &str| {
        // The mail's links open beside the shop, because no page of ours lets itself be framed.
        mime::part(raw, "text/html").map(|html| format!("<base target=_blank>{html}"))
    };
    let mails = stage.mailbox.mails();
    let mails = mails.iter().rev().map(|mail| {
        let html = html(&mail.text);
        context! { to => mail.to.as_str(), subject => mail.subject.as_str(), html }
    });
    let deeds = stage.authforge.history();
    let deeds = deeds.iter().rev().map(|deed| {
        let what = format!("{:?}", deed.what);
        context! { what, key => deed.key.as_str(), label => deed.label.as_deref(), answered => deed.answered }
    });
    let values = context! {
        base => stage.child.base(),
        result => orders.iter().find(|order| Some(order.number) == look.order).map(shown),
        orders => orders.iter().rev().map(shown).collect::<Vec<_>>(),
        mails => mails.collect::<Vec<_>>(),
        deeds => deeds.collect::<Vec<_>>(),
    };
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    match environment.render_str(WINDOW, values) {
        Ok(html) => Html(html).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")).into_response(),
    }
}

fn shown(stage: &Stage, order: &Order) -> Value {
    let mishap = match order.mishap {
        Mishap::None => "",
        Mishap::LostAnswer => "lost answer",
        Mishap::Kill => "kill -9",
    };
    let Order { number, .. } = order;
    match &order.outcome {
        Ok(Played { session, answer, key, page, seconds, .. }) => context! {
            number, mishap, key, page,
            story => story(order.mishap),
            seconds => format!("{seconds:.1}"),
            answer => format!("{} {}", answer.status, answer.body),
            licenses => stage.licenses_of(session),
        },
        Err(problem) => context! { number, mishap, problem },
    }
}

fn story(mishap: Mishap) -> &'static str {
    match mishap {
        Mishap::None => "",
        Mishap::LostAnswer => {
            "AuthForge made the license and its answer was lost; it was looked for and found."
        }
        Mishap::Kill => {
            "AuthForge made the license, the program was killed before the answer, started again, and found it."
        }
    }
}
