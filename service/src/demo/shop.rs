//! The demonstration's shop: buttons to buy with and without mishaps, and what Stripe, AuthForge and the mailbox hold.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;

use super::{Mishap, Stage};
use crate::stripe::fake::Route;

#[derive(Debug, Deserialize)]
struct Wish {
    mishap: Option<String>,
}

pub(super) fn router(stage: Arc<Stage>) -> Router {
    Router::new().route("/", get(window)).route("/buy", post(buy)).with_state(stage)
}

async fn buy(State(stage): State<Arc<Stage>>, Query(wish): Query<Wish>) -> Response {
    let mishap = match wish.mishap.as_deref() {
        None => Mishap::None,
        Some("lost-answer") => Mishap::LostAnswer,
        Some("kill") => Mishap::Kill,
        Some(_) => return (StatusCode::BAD_REQUEST, "mishap is lost-answer or kill\n").into_response(),
    };
    let begun = tokio::time::Instant::now();
    match stage.play(mishap).await {
        Ok(played) => {
            let licenses = stage.licenses_of(&played.session);
            let story = match mishap {
                Mishap::None => "",
                Mishap::LostAnswer => {
                    "AuthForge made the license and its answer was lost; it was looked for and found.\n"
                }
                Mishap::Kill => {
                    "AuthForge made the license, the program was killed before the answer, started again, and found it.\n"
                }
            };
            format!(
                "{story}answer        {} {}\nlicense key   {}\nsuccess page  {}\nat AuthForge  {licenses} license for this order, after {:.1} s\n",
                played.answer.status,
                played.answer.body,
                played.key,
                played.page,
                begun.elapsed().as_secs_f64(),
            )
            .into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")).into_response(),
    }
}

async fn window(State(stage): State<Arc<Stage>>) -> Html<String> {
    let mails: String = stage
        .mailbox
        .mails()
        .iter()
        .rev()
        .map(|mail| {
            format!(
                "<details><summary>{} &rarr; {}</summary><pre>{}</pre></details>",
                escape(&mail.subject),
                escape(&mail.to),
                escape(&mail.text)
            )
        })
        .collect();
    let licenses: String = stage
        .authforge
        .history()
        .iter()
        .rev()
        .map(|deed| {
            format!(
                "<tr><td>{:?}<td><code>{}</code><td>{}<td>{}",
                deed.what,
                escape(&deed.key),
                escape(deed.label.as_deref().unwrap_or("")),
                if deed.answered { "" } else { "answer lost" }
            )
        })
        .collect();
    Html(format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'><title>Demo shop</title>\
         <style>body{{font:16px/1.5 system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem}}button{{font:inherit;padding:.5rem 1rem;margin:.25rem}}\
         pre{{white-space:pre-wrap;overflow-wrap:anywhere;background:#8881;padding:1rem}}td{{padding:.2rem 1rem .2rem 0}}table{{overflow-wrap:anywhere}}form{{display:inline}}</style>\
         <h1>Demo shop</h1><p><form method=post action=/buy><button>Buy</button></form>\
         <form method=post action='/buy?mishap=lost-answer'><button>Buy, and lose AuthForge's answer</button></form>\
         <form method=post action='/buy?mishap=kill'><button>Buy, and kill -9 in the middle</button></form>\
         <h2>Mailbox</h2>{mails}<h2>What AuthForge really did</h2><table>{licenses}</table>\
         <p>Stripe was asked for {} sessions; {} were bought.",
        stage.stripe.count(Route::Session),
        stage.world.true_history().len(),
    ))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
