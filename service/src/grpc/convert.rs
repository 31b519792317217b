//! Rows to messages. Keys are masked here, and only `GetLicenseKey` and the success page show them.

use grantsmith_core::grant::DesiredState;
use grantsmith_core::license::Slots;
use grantsmith_core::{GrantId, PurchaseId, Reason};
use grantsmith_proto::v1 as pb;
use jiff::Timestamp;

use crate::ingest::{Answer, Outcome};
use crate::store::{
    Delivery, DeliveryState, Event, EventState, GrantLicense, GrantRow, GrantState, HandRow, JournalEntry,
};

/// A time as protobuf has it.
pub(crate) fn time(at: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: at.as_second(), nanos: at.subsec_nanosecond() }
}

/// A time from protobuf.
pub fn timestamp(at: prost_types::Timestamp) -> Option<Timestamp> {
    Timestamp::new(at.seconds, at.nanos).ok()
}

/// The resource name of a grant.
pub fn grant_name(id: &GrantId) -> String {
    format!("licenseGrants/{id}")
}

/// The grant that a resource name names.
pub fn grant_id(name: &str) -> Option<GrantId> {
    name.strip_prefix("licenseGrants/").and_then(GrantId::parse)
}

/// The resource name of an event.
pub(super) fn event_name(id: &str) -> String {
    format!("events/{id}")
}

fn reason_text(reason: Option<Reason>) -> String {
    reason.map_or_else(String::new, |reason| reason.as_str().to_owned())
}

pub(super) fn answer(id: &str, answer: Answer) -> pb::RecordEventResponse {
    use pb::record_event_response::Outcome as Told;
    let outcome = match answer.outcome {
        Outcome::Recorded => Told::Recorded,
        Outcome::Duplicate => Told::Duplicate,
        Outcome::Ignored => Told::Ignored,
    };
    pb::RecordEventResponse {
        name: event_name(id),
        outcome: outcome.into(),
        reason: reason_text(answer.reason),
        fix: answer.fix.unwrap_or_default(),
    }
}

pub(super) fn event(event: Event) -> pb::Event {
    use pb::event::State;
    let state = match event.state {
        EventState::Pending => State::Pending,
        EventState::Handled => State::Handled,
        EventState::Parked => State::Parked,
        EventState::Ignored => State::Ignored,
    };
    pb::Event {
        name: event_name(&event.id),
        r#type: event.kind,
        create_time: Some(time(event.created)),
        receive_time: Some(time(event.received)),
        mode: if event.livemode { pb::Mode::Live } else { pb::Mode::Test }.into(),
        api_version: event.api_version.unwrap_or_default(),
        object: event.object_id.unwrap_or_default(),
        state: state.into(),
        reason: reason_text(event.reason),
        fix: event.detail.unwrap_or_default(),
        license_grant: event
            .purchase
            .as_ref()
            .map_or_else(String::new, |purchase| grant_name(&GrantId::of(purchase))),
        payload: event.body.map(Vec::from).unwrap_or_default(),
    }
}

pub(super) fn grant(row: GrantRow) -> pb::LicenseGrant {
    use pb::license_grant::State;
    let state = match row.state {
        GrantState::Pending => State::Pending,
        GrantState::Issuing => State::Issuing,
        GrantState::Ready => State::Ready,
        GrantState::Ended => State::Ended,
        GrantState::Parked => State::Parked,
        GrantState::NotOurs => State::NotOurs,
    };
    pb::LicenseGrant {
        name: grant_name(&row.id),
        purchase: Some(pb::Purchase {
            provider: match row.purchase {
                PurchaseId::Session(_) | PurchaseId::Subscription(_) => "stripe",
                PurchaseId::Manual(_) => "manual",
            }
            .to_owned(),
            kind: match row.purchase {
                PurchaseId::Session(_) => "checkout.session",
                PurchaseId::Subscription(_) => "subscription",
                PurchaseId::Manual(_) => "reference",
            }
            .to_owned(),
            id: row.purchase.to_string(),
            livemode: row.livemode,
            pay_time: row.paid_at.map(time),
        }),
        state: state.into(),
        reason: row.reason.to_string(),
        fix: row.detail.unwrap_or_default(),
        licenses: row.licenses.into_iter().map(license).collect(),
        customer: row.email.map(|email| pb::Customer { email: email.expose().to_owned() }),
        delivery: row.delivery.map(delivery),
        create_time: Some(time(row.created)),
        update_time: Some(time(row.updated)),
        note: row.note.unwrap_or_default(),
        r#override: row.hand.map(hand),
        history: Vec::new(),
    }
}

fn hand(hand: HandRow) -> pb::Override {
    pb::Override {
        state: hand.state.map_or(pb::license::State::Unspecified, license_state).into(),
        sets_expiry: hand.expires_at.is_some(),
        expire_time: hand.expires_at.flatten().map(time),
        released: hand.released,
        reason: hand.reason,
        person: hand.person,
        time: Some(time(hand.at)),
    }
}

pub(super) fn history(entry: JournalEntry) -> pb::HistoryEntry {
    pb::HistoryEntry { time: Some(time(entry.at)), cause: entry.cause, text: entry.text }
}

fn license_state(state: DesiredState) -> pb::license::State {
    match state {
        DesiredState::Active => pb::license::State::Active,
        DesiredState::Suspended => pb::license::State::Suspended,
        DesiredState::Revoked => pb::license::State::Revoked,
    }
}

fn license(license: GrantLicense) -> pb::License {
    use pb::license::HwidSlots;
    let GrantLicense { desired, reason, kept, shown, .. } = license;
    let (masked_key, fingerprint) =
        shown.map(|shown| (shown.masked, shown.fingerprint.to_string())).unwrap_or_default();
    let slots = kept.as_ref().and_then(|kept| kept.slots).unwrap_or(desired.slots);
    let expires_at = kept.as_ref().map_or(desired.expires_at, |kept| kept.expires_at);
    pb::License {
        name: desired.name.to_string(),
        app_id: desired.app_id.to_string(),
        hwid_slots: Some(match slots {
            Slots::Limited(count) => HwidSlots::MaxHwidSlots(count.into()),
            Slots::Unlimited => HwidSlots::UnlimitedHwidSlots(true),
        }),
        state: license_state(desired.state).into(),
        reason: reason.to_string(),
        masked_key,
        fingerprint,
        expire_time: expires_at.map(time),
        issue_time: kept.as_ref().map(|kept| time(kept.created_at)),
        generation: i32::try_from(desired.generation).unwrap_or(i32::MAX),
    }
}

fn delivery(delivery: Delivery) -> pb::Delivery {
    use pb::delivery::State;
    let state = match delivery.state {
        DeliveryState::Due => State::Due,
        DeliveryState::Sent => State::Sent,
        DeliveryState::Parked => State::Parked,
        DeliveryState::Dropped => State::Dropped,
    };
    pb::Delivery {
        number: i32::try_from(delivery.number).unwrap_or(i32::MAX),
        state: state.into(),
        reason: reason_text(delivery.reason),
        fix: delivery.detail.unwrap_or_default(),
        update_time: Some(time(delivery.updated)),
    }
}
