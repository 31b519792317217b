//! Distinct events, signed before anything is measured.

use std::sync::Arc;

use grantsmith_authforge::SystemClock;
use grantsmith_core::port::Clock;
use grantsmith_service::stripe::Mode;
use grantsmith_service::stripe::fake::{Purchase, Rendering, World, stamp};
use grantsmith_service::stripe::secret::Secret;
use grantsmith_service::stripe::signature;
use grantsmith_tests::{WEBHOOK_SECRET, stack};
use jiff::SignedDuration;
use rand::RngExt;
use rand::distr::Alphanumeric;

/// Whether the events are purchases that make work behind the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Each sells a license.
    Purchases,
    /// Each sells something else: kept, looked at, and left alone.
    NotOurs,
}

/// So many letters at the end of each id are an event's own.
const ROLLED: usize = 23;
/// The ids of an event: its own, its session's, its payment's.
const IDS: usize = 3;
/// Letters of those of events and payments that tell the second in which they were made, and the account.
const STAMP: usize = 5;
const ACCOUNT: usize = 10;
/// Hex of a SHA-256.
const SIGNATURE: usize = 64;

/// A paid session's event as the fake Stripe renders it, within its request, and where its ids and signature stand.
///
/// Only these differ between events, so that is all that is kept of each: a connection writes them over those of the event
/// before, and hundreds of megabytes need not pass through the processors' caches.
#[derive(Debug)]
struct Template {
    request: Vec<u8>,
    body: usize,
    ids: [Vec<usize>; IDS],
    session: String,
    account: [u8; ACCOUNT],
}

/// What is an event's own.
#[derive(Debug)]
struct Event {
    ids: [[u8; ROLLED]; IDS],
    signature: [u8; SIGNATURE],
}

/// Many signed events.
#[derive(Debug, Clone)]
pub(crate) struct Events {
    template: Arc<Template>,
    events: Arc<[Event]>,
}

impl Events {
    /// As many as asked for, signed now. Their ids are those of a shop in which so many happen `a_second`: as Stripe's, they
    /// tell in which.
    pub(crate) fn signed(kind: Kind, count: usize, a_second: u32) -> Self {
        let now = SystemClock.now().wall;
        let world = World::new(Mode::Test, rand::random());
        let bought = world.buy(purchase(kind), now);
        let event = bought.events.iter().find(|event| event.event_type == "checkout.session.completed");
        let body = event.expect("a session was completed").body(Rendering::Endive);
        let secret = Secret::new(Mode::Test, WEBHOOK_SECRET).expect("a secret");
        let mut template = Template::new(&body, &signature::sign(&secret, now, &body));
        let seconds = (0..).flat_map(|second| (0..a_second).map(move |_| second));
        let events = seconds.take(count).map(|second| {
            let made = stamp(now + SignedDuration::from_secs(second));
            let ids = [template.made(&made), rolled(), template.made(&made)];
            template.roll(&ids);
            let signed = signature::sign(&secret, now, &template.request[template.body..]);
            let signature = signed.as_bytes().last_chunk().copied().expect("a digest");
            Event { ids, signature }
        });
        let events = events.collect();
        Self { template: template.into(), events }
    }

    /// How large a body is.
    pub(crate) fn size(&self) -> usize {
        self.template.request.len() - self.template.body
    }

    /// A request to write events over.
    pub(crate) fn request(&self) -> Vec<u8> {
        self.template.request.clone()
    }

    /// Writes one event over another; false if there are not so many.
    pub(crate) fn write(&self, place: usize, request: &mut [u8]) -> bool {
        let Some(event) = self.events.get(place) else { return false };
        write_ids(&self.template.ids, &event.ids, request);
        let end = self.template.body - TAIL.len();
        request[end - SIGNATURE..end].copy_from_slice(&event.signature);
        true
    }

    /// The session that an event is about.
    pub(crate) fn session(&self, place: usize) -> String {
        let kept = &self.template.session[..self.template.session.len() - ROLLED];
        format!("{kept}{}", String::from_utf8_lossy(&self.events[place].ids[1]))
    }
}

/// What stands between signature and body.
const TAIL: &str = "\r\n\r\n";

impl Template {
    fn new(body: &[u8], signature: &str) -> Self {
        let head = format!(
            "POST /webhooks/stripe HTTP/1.1\r\nhost: 127.0.0.1\r\nuser-agent: Stripe/1.0 (+https://stripe.com/docs/webhooks)\
             \r\naccept: */*; q=0.5, application/xml\r\ncontent-type: application/json; charset=utf-8\r\n\
             cache-control: no-cache\r\ncontent-length: {}\r\nstripe-signature: {signature}{TAIL}",
            body.len()
        );
        let json: serde_json::Value = serde_json::from_slice(body).expect("events are JSON");
        let object = &json["data"]["object"];
        let ids =
            [&json["id"], &object["id"], &object["payment_intent"]].map(|id| id.as_str().expect("an id"));
        let request = [head.as_bytes(), body].concat();
        Self {
            body: head.len(),
            ids: ids.map(|id| places(&request, id)),
            session: ids[1].to_owned(),
            account: std::array::from_fn(|place| ids[0].as_bytes()[ids[0].len() - ROLLED + STAMP + place]),
            request,
        }
    }

    /// The letters of an id that was made in a second.
    fn made(&self, stamp: &str) -> [u8; ROLLED] {
        let mut letters = rolled();
        letters[..STAMP].copy_from_slice(stamp.as_bytes());
        letters[STAMP..][..ACCOUNT].copy_from_slice(&self.account);
        letters
    }

    fn roll(&mut self, ids: &[[u8; ROLLED]; IDS]) {
        write_ids(&self.ids, ids, &mut self.request);
    }
}

fn write_ids(places: &[Vec<usize>; IDS], ids: &[[u8; ROLLED]; IDS], request: &mut [u8]) {
    for (places, id) in places.iter().zip(ids) {
        for place in places {
            request[*place..place + ROLLED].copy_from_slice(id);
        }
    }
}

fn rolled() -> [u8; ROLLED] {
    let mut dice = rand::rng();
    std::array::from_fn(|_| dice.sample(Alphanumeric))
}

/// Where the last letters of an id stand, wherever it does.
fn places(request: &[u8], id: &str) -> Vec<usize> {
    let found = request.windows(id.len()).enumerate().filter(|(_, window)| *window == id.as_bytes());
    found.map(|(start, _)| start + id.len() - ROLLED).collect()
}

fn purchase(kind: Kind) -> Purchase {
    match kind {
        Kind::Purchases => stack::order(),
        Kind::NotOurs => Purchase::of("price_mug")
            .metadata("warehouse_number", "7d9f6a9e-0000-4000-8000-000000000001")
            .metadata("guarantee_days_", "365")
            .metadata("pieces_in_box_", "2"),
    }
}
