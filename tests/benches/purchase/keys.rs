//! From a purchase to its key on the success page.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::task::JoinSet;

use crate::events::Events;
use crate::load::{Connection, Round, Schedule, histogram, micros};
use crate::machine::Watch;

/// How long each call to AuthForge takes.
pub(crate) const AUTHFORGE: Duration = Duration::from_millis(200);

/// How often a page is asked for; and since when, as there can be no key before AuthForge's answer. Both because a page may
/// be asked for sixty times a minute.
const ASK_EVERY: Duration = Duration::from_millis(5);
const ASK_FROM: Duration = Duration::from_millis(195);
/// A key that is not there by then never comes.
const GIVE_UP: Duration = Duration::from_secs(20);

/// Purchases at fixed times, each followed to its key. The latencies are beyond AuthForge's own.
pub(crate) async fn bought(
    address: SocketAddr,
    server: u32,
    events: Events,
    schedule: Schedule,
) -> anyhow::Result<Round> {
    let mut latency = histogram();
    let mut purchases: JoinSet<anyhow::Result<(Instant, Duration)>> = JoinSet::new();
    let mut watch = None;
    for place in 0..schedule.events() {
        let intended = schedule.time(place);
        tokio::time::sleep_until(intended.into()).await;
        if schedule.measures(intended) && watch.is_none() {
            watch = Some(Watch::begin(server));
        }
        let events = events.clone();
        purchases
            .spawn_local(async move { Ok((intended, follow(address, &events, place, intended).await?)) });
    }
    let mut acknowledged = 0;
    while let Some(ended) = purchases.join_next().await {
        let (intended, took) = ended??;
        acknowledged += 1;
        if schedule.measures(intended) {
            latency.saturating_record(micros(took.saturating_sub(AUTHFORGE)));
        }
    }
    let spent = watch.context("nothing was measured")?.spent();
    Ok(Round { latency, spent, acknowledged })
}

/// Posts a purchase and asks its page until the key is there.
async fn follow(
    address: SocketAddr,
    events: &Events,
    place: usize,
    intended: Instant,
) -> anyhow::Result<Duration> {
    let mut request = events.request();
    events.write(place, &mut request);
    let posting = tokio::task::spawn_local(async move {
        let mut connection = Connection::open(address).await?;
        let (status, body) = connection.ask(&request).await?;
        if status != 200 {
            bail!("an event was answered {status}: {}", String::from_utf8_lossy(body));
        }
        Ok(())
    });
    // Every buyer has an address of its own.
    let page = format!(
        "GET /success?session_id={} HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: application/json\r\n\
         x-forwarded-for: 198.51.{}.{}\r\n\r\n",
        events.session(place),
        place / 250 % 250,
        place % 250 + 1,
    );
    let mut connection = Connection::open(address).await?;
    let mut next = intended + ASK_FROM;
    while intended.elapsed() < GIVE_UP {
        tokio::time::sleep_until(next.into()).await;
        let (status, body) = connection.ask(page.as_bytes()).await?;
        if status == 200 && contains(body, b"license_key") {
            let took = intended.elapsed();
            posting.await??;
            return Ok(took);
        }
        next = (next + ASK_EVERY).max(Instant::now());
    }
    bail!("no key for a purchase within {GIVE_UP:?}");
}

fn contains(text: &[u8], wanted: &[u8]) -> bool {
    text.windows(wanted.len()).any(|window| window == wanted)
}
