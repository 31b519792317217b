//! `/v1/licenses`, as the switches and the script say.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::get;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::call::{Reply, run};
use super::store::Store;
use super::{CallKind, Deeds, ListOrder, NewLicense, PutAnswer, Shared, Stored, Switches, World};

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new().route("/v1/licenses", get(list).post(create)).route("/v1/licenses/{key}", get(one).put(put))
}

async fn create(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    run(shared, CallKind::Create, &headers, move |world, now| created(world, now, &body)).await
}

async fn list(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    Query(query): Query<ListQuery>,
) -> Response {
    run(shared, CallKind::List, &headers, move |world, now| listed(world, now, &query)).await
}

async fn one(State(shared): State<Arc<Shared>>, headers: HeaderMap, Path(key): Path<String>) -> Response {
    run(shared, CallKind::Get, &headers, move |world, _| read(world, &key)).await
}

async fn put(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    Path(key): Path<String>,
    body: Bytes,
) -> Response {
    run(shared, CallKind::Put, &headers, move |world, now| changed(world, now, &key, &body)).await
}

const LABEL: &str = "label";
const SLOTS: &str = "maxHwidSlots";
const HWIDS: &str = "hwidList";
const CREATED_AT: &str = "createdAt";

/// A license in one kind of answer: what every answer has, and those of the other fields that this one has.
fn shown(license: &Stored, others: &[&str]) -> Value {
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| fields.insert(name.to_owned(), value);
    put("licenseKey", json!(license.key));
    put("appId", json!(license.app_id));
    put("status", json!(if license.revoked { "revoked" } else { "active" }));
    put("expiresAt", json!(license.expires_at));
    for other in others {
        let value = match *other {
            LABEL => json!(license.label),
            SLOTS => json!(license.max_hwid_slots),
            HWIDS => json!(license.hwids),
            _ => json!(format!("{:.3}", license.created_at)),
        };
        put(other, value);
    }
    if others.contains(&SLOTS) {
        put("unlimitedHwidSlots", json!(license.unlimited));
    }
    Value::Object(fields)
}

fn whole(license: &Stored) -> Value {
    shown(license, &[LABEL, SLOTS, HWIDS, CREATED_AT])
}

fn bad(message: &str) -> Reply {
    Reply::error(400, "bad_request", message)
}

/// Refuses an app that is not this account's.
fn foreign(switches: &Switches, app: &str) -> Option<Reply> {
    let ours = switches.apps.as_ref().is_none_or(|apps| apps.iter().any(|ours| ours == app));
    let code = if switches.foreign_app_status == 404 { "not_found" } else { "forbidden" };
    (!ours).then(|| Reply::error(switches.foreign_app_status, code, "not an app of this account"))
}

fn created(world: &mut World, now: Timestamp, body: &[u8]) -> Reply {
    let switches = &world.switches;
    let Ok(Value::Object(body)) = serde_json::from_slice::<Value>(body) else {
        return bad("not a JSON object");
    };
    let known = ["appId", "quantity", "expiresAt", "maxHwidSlots", "label"];
    let is_known =
        |name: &str| known.contains(&name) || (switches.unlimited_supported && name == "unlimitedHwidSlots");
    if switches.unknown_fields_refused && !body.keys().all(|name| is_known(name)) {
        return bad("unknown field");
    }
    let Some(app) = body.get("appId").and_then(Value::as_str) else { return bad("appId is missing") };
    if let Some(refusal) = foreign(switches, app) {
        return refusal;
    }
    let quantity = body.get("quantity").map_or(Some(1), Value::as_u64);
    let Some(quantity @ 1..=100) = quantity else { return bad("quantity is not 1 to 100") };
    let slots = body.get("maxHwidSlots").map_or(Some(1), Value::as_u64);
    let Some(max_hwid_slots) = slots.filter(|slots| (1..=switches.slots_ceiling).contains(slots)) else {
        return bad("maxHwidSlots is out of range");
    };
    let Ok(expires_at) = time(body.get("expiresAt")) else { return bad("expiresAt is no ISO 8601 time") };
    let label = body.get("label").and_then(Value::as_str).map(str::to_owned);
    if label.as_ref().is_some_and(|label| label.chars().count() > 128) {
        return bad("label is longer than 128 characters");
    }
    let unlimited = switches.unlimited_supported
        && body.get("unlimitedHwidSlots").and_then(Value::as_bool).unwrap_or(false);
    let others: &[&str] =
        if switches.create_label { &[SLOTS, CREATED_AT, LABEL] } else { &[SLOTS, CREATED_AT] };
    let new = NewLicense { app_id: app.to_owned(), label, expires_at, max_hwid_slots, unlimited };
    let made: Vec<_> = (0..quantity).map(|_| world.store.create(new.clone(), now, Deeds::Created)).collect();
    let rows: Vec<_> = made.iter().map(|license| shown(license, others)).collect();
    let reply = Reply::json(201, &json!({"licenses": rows}));
    match made.as_slice() {
        [one] => reply.about(&one.key),
        _ => reply,
    }
}

fn time(value: Option<&Value>) -> Result<Option<Timestamp>, ()> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_str().and_then(|text| text.parse().ok()).map(Some).ok_or(()),
    }
}

#[derive(Deserialize)]
struct ListQuery {
    #[serde(rename = "appId")]
    app_id: Option<String>,
    limit: Option<String>,
    cursor: Option<String>,
}

fn listed(world: &World, now: Timestamp, query: &ListQuery) -> Reply {
    let Some(app) = query.app_id.as_deref() else { return bad("appId is missing") };
    if let Some(refusal) = foreign(&world.switches, app) {
        return refusal;
    }
    let limit = query.limit.as_deref().map_or(Some(50), |limit| limit.parse().ok());
    let Some(limit @ 1..=200) = limit else { return bad("limit is not 1 to 200") };
    let cursor =
        query.cursor.as_deref().map(|cursor| cursor.strip_prefix("after-").and_then(|at| at.parse().ok()));
    let cursor = match cursor {
        None => None,
        Some(Some(at)) => Some(at),
        Some(None) => return bad("unknown cursor"),
    };
    let lag = i64::try_from(world.switches.list_lag_ms).unwrap_or(i64::MAX);
    let late = |at: Timestamp| now.duration_since(at).as_millis() < i128::from(lag);
    let visible = |license: &&Stored| license.app_id == app && !late(license.created_at);
    let mut page: Vec<&Stored> = ordered(&world.store, world.switches.list_order, cursor, visible, limit + 1);
    let more = page.len() > limit;
    page.truncate(limit);
    let place = |license: &Stored| match world.switches.list_order {
        ListOrder::Arbitrary => world.store.shuffled(license.number),
        ListOrder::Oldest | ListOrder::Newest => license.number,
    };
    let cursor = page.last().filter(|_| more).map(|last| format!("after-{}", place(last)));
    let switches = &world.switches;
    let others: Vec<_> = [
        (switches.list_labels, LABEL),
        (switches.list_slots, SLOTS),
        (switches.list_hwids, HWIDS),
        (switches.list_created_at, CREATED_AT),
    ]
    .into_iter()
    .filter_map(|(on, field)| on.then_some(field))
    .collect();
    let listed = |license: &&Stored| {
        let revoked = license.revoked != license.turned_at.is_some_and(late);
        shown(&Stored { revoked, ..(*license).clone() }, &others)
    };
    let rows: Vec<_> = page.iter().map(listed).collect();
    Reply::json(200, &json!({"licenses": rows, "cursor": cursor}))
}

/// The next licenses behind a cursor.
fn ordered<'a>(
    store: &'a Store,
    order: ListOrder,
    cursor: Option<u64>,
    visible: impl Fn(&&'a Stored) -> bool,
    most: usize,
) -> Vec<&'a Stored> {
    match order {
        ListOrder::Oldest => store.after(cursor.unwrap_or(0)).filter(visible).take(most).collect(),
        ListOrder::Newest => store.before(cursor.unwrap_or(u64::MAX)).filter(visible).take(most).collect(),
        ListOrder::Arbitrary => {
            let behind = |place| cursor.is_none_or(|cursor| place > cursor);
            let mut all: Vec<_> = store
                .licenses()
                .filter(visible)
                .map(|license| (store.shuffled(license.number), license))
                .filter(|(place, _)| behind(*place))
                .collect();
            all.sort_unstable_by_key(|(place, _)| *place);
            all.into_iter().take(most).map(|(_, license)| license).collect()
        }
    }
}

fn find<'a>(world: &'a World, key: &str) -> Result<&'a Stored, Reply> {
    let license = world.store.get(key).ok_or_else(|| Reply::error(404, "not_found", "no such license"))?;
    match foreign(&world.switches, &license.app_id) {
        Some(_) => Err(Reply::error(403, "forbidden", "not a license of this account")),
        None => Ok(license),
    }
}

fn read(world: &World, key: &str) -> Reply {
    match find(world, key) {
        Ok(license) if world.switches.get_wrapped => Reply::json(200, &json!({"license": whole(license)})),
        Ok(license) => Reply::json(200, &whole(license)),
        Err(refusal) => refusal,
    }
}

fn changed(world: &mut World, now: Timestamp, key: &str, body: &[u8]) -> Reply {
    let license = match find(world, key) {
        Ok(license) => license.clone(),
        Err(refusal) => return refusal,
    };
    let switches = world.switches.clone();
    let Ok(Value::Object(body)) = serde_json::from_slice::<Value>(body) else {
        return bad("not a JSON object");
    };
    let action = body.get("action").and_then(Value::as_str).unwrap_or_default();
    if switches.unknown_fields_refused && body.keys().any(|name| name != "action" && name != "expiresAt") {
        return bad("unknown field");
    }
    let changed = match action {
        "revoke" if license.revoked && switches.repeat_refused => return bad("already revoked"),
        "revoke" => world.store.change(key, now, Deeds::Revoked, |license| license.revoked = true),
        "extend" => {
            let Some(Ok(at)) = body.get("expiresAt").map(|at| time(Some(at))) else {
                return bad("expiresAt");
            };
            let shorter = at.is_some_and(|at| license.expires_at.is_none_or(|old| at < old));
            if (shorter && switches.shorten_refused) || (license.revoked && switches.extend_revoked_refused) {
                return bad("this expiry cannot be set");
            }
            world.store.change(key, now, Deeds::Extended, |license| license.expires_at = at)
        }
        "reset-hwid" => world.store.change(key, now, Deeds::DevicesReset, |license| license.hwids.clear()),
        other if other == switches.activate_action && !switches.activate_refused => {
            if !license.revoked && switches.repeat_refused {
                return bad("already active");
            }
            world.store.change(key, now, Deeds::Activated, |license| license.revoked = false)
        }
        _ => return bad("unknown action"),
    };
    let Some(license) = changed else { return Reply::error(404, "not_found", "no such license") };
    let body = match switches.put_answer {
        PutAnswer::Full => whole(&license),
        PutAnswer::Partial => shown(&license, &[]),
        PutAnswer::Empty => json!({}),
    };
    Reply::json(200, &body).about(key)
}
