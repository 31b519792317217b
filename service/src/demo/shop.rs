//! The demonstration's shop: buttons to buy with and without mishaps, and what Stripe, AuthForge and the mailbox hold.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use minijinja::value::Serde;
use minijinja::{Environment, context};
use serde::{Deserialize, Serialize};

use super::{Mishap, Stage};
use crate::stripe::fake::Route;

const TEMPLATE: &str = include_str!("../../templates/demo/shop.html");

#[derive(Debug, Deserialize)]
struct Wish {
    mishap: Option<String>,
}

/// A purchase as the shop tells it.
#[derive(Debug, Serialize)]
struct Told {
    story: &'static str,
    answer: String,
    key: String,
    page: String,
    licenses: usize,
    seconds: String,
}

#[derive(Debug, Serialize)]
struct ShownMail {
    subject: String,
    to: String,
    text: String,
}

#[derive(Debug, Serialize)]
struct ShownDeed {
    what: String,
    key: String,
    label: String,
    answered: bool,
}

pub(super) fn router(stage: Arc<Stage>) -> Router {
    Router::new().route("/", get(window)).route("/buy", post(buy)).with_state(stage)
}

async fn window(State(stage): State<Arc<Stage>>) -> Response {
    page(&stage, None)
}

async fn buy(State(stage): State<Arc<Stage>>, Query(wish): Query<Wish>, headers: HeaderMap) -> Response {
    let mishap = match wish.mishap.as_deref() {
        None => Mishap::None,
        Some("lost-answer") => Mishap::LostAnswer,
        Some("kill") => Mishap::Kill,
        Some(_) => return (StatusCode::BAD_REQUEST, "mishap is lost-answer or kill\n").into_response(),
    };
    let told = match play(&stage, mishap).await {
        Ok(told) => told,
        Err(error) => return (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")).into_response(),
    };
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    if accept.is_some_and(|accept| accept.contains("text/html")) {
        page(&stage, Some(told))
    } else {
        plain(&told)
    }
}

async fn play(stage: &Stage, mishap: Mishap) -> anyhow::Result<Told> {
    let begun = tokio::time::Instant::now();
    let played = stage.play(mishap).await?;
    Ok(Told {
        story: match mishap {
            Mishap::None => "",
            Mishap::LostAnswer => {
                "AuthForge made the license and its answer was lost; it was looked for and found."
            }
            Mishap::Kill => {
                "AuthForge made the license, the program was killed before the answer, started again, and found it."
            }
        },
        answer: format!("{} {}", played.answer.status, played.answer.body),
        licenses: stage.licenses_of(&played.session),
        key: played.key,
        page: played.page,
        seconds: format!("{:.1}", begun.elapsed().as_secs_f64()),
    })
}

fn plain(told: &Told) -> Response {
    let Told { story, answer, key, page, licenses, seconds } = told;
    let story = if story.is_empty() { String::new() } else { format!("{story}\n") };
    format!(
        "{story}answer        {answer}\nlicense key   {key}\nsuccess page  {page}\n\
         at AuthForge  {licenses} license for this order, after {seconds} s\n"
    )
    .into_response()
}

fn page(stage: &Stage, played: Option<Told>) -> Response {
    let mails = stage.mailbox.mails().into_iter().rev();
    let mails: Vec<_> =
        mails.map(|mail| ShownMail { subject: mail.subject, to: mail.to, text: mail.text }).collect();
    let deeds = stage.authforge.history().into_iter().rev();
    let deeds: Vec<_> = deeds
        .map(|deed| ShownDeed {
            what: format!("{:?}", deed.what),
            key: deed.key,
            label: deed.label.unwrap_or_default(),
            answered: deed.answered,
        })
        .collect();
    let context = context! {
        played => Serde(played),
        mails => Serde(mails),
        deeds => Serde(deeds),
        asked => stage.stripe.count(Route::Session),
        bought => stage.world.true_history().len(),
    };
    match Environment::new().render_named_str("shop.html", TEMPLATE, context) {
        Ok(html) => Html(html).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")).into_response(),
    }
}
