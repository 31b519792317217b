//! What people ask of grants: the calls of the role manage, read, checked and taken.

use std::time::Duration;

use data_encoding::HEXLOWER;
use grantsmith_core::grant::DesiredState;
use grantsmith_core::license::Slots;
use grantsmith_core::manual::{ManualId, Promised};
use grantsmith_core::purchase::{Email, PurchaseId};
use grantsmith_core::{AppId, GrantId, LicenseName, Reason};
use grantsmith_proto::v1 as pb;
use jiff::Timestamp;
use prost::Message;
use sha2::{Digest, Sha256};
use tonic::{Code, Status};

use super::grant::grant_id;
use super::status::CallReason;
use super::{Services, convert, status};
use crate::store::{Act, Ask, GrantState, Promise, Refusal, Request, Taken};

/// The longest note and reason.
const LONGEST_NOTE: usize = 1_000;
const LONGEST_REASON: usize = 500;
/// The most licenses of one grant.
const MOST_LICENSES: usize = 100;
/// How long `wait` waits, and how often it looks.
const WAIT: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(50);

pub(super) fn bad(text: impl Into<String>) -> Status {
    status::plain(Code::InvalidArgument, CallReason::BadArgument, text)
}

/// A caller's id for a request, if there is one, with the hash of all that it says.
fn request<M: Message>(call: &str, id: &str, message: &M) -> Result<Option<Request>, Status> {
    if id.is_empty() {
        return Ok(None);
    }
    let plain = id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if !plain || id.len() > 64 {
        return Err(bad("a request id is up to 64 letters, digits, '-' and '_', such as a UUID"));
    }
    let mut hash = Sha256::new();
    hash.update(call.as_bytes());
    hash.update(message.encode_to_vec());
    Ok(Some(Request { id: id.to_owned(), digest: HEXLOWER.encode(&hash.finalize()) }))
}

/// An address that mail can be sent to.
pub(super) fn address(text: &str) -> Result<Email, Status> {
    let parsed = text.trim().parse::<lettre::Address>().ok();
    parsed.and_then(|_| Email::new(text)).ok_or_else(|| {
        status::plain(Code::InvalidArgument, CallReason::BadAddress, "the email is no address")
    })
}

fn words(field: &str, text: String, longest: usize) -> Result<String, Status> {
    if text.chars().count() > longest || text.chars().any(|c| c.is_control() && c != '\n') {
        return Err(bad(format!("{field} is at most {longest} characters of plain text")));
    }
    Ok(text)
}

fn time(field: &str, at: Option<prost_types::Timestamp>) -> Result<Option<Timestamp>, Status> {
    let read = |at| convert::timestamp(at).ok_or_else(|| bad(format!("{field} is no time")));
    at.map(read).transpose()
}

fn promised(license: &pb::License, now: Timestamp) -> Result<Promised, Status> {
    use pb::license::HwidSlots;
    let app_id = AppId::parse(&license.app_id)
        .ok_or_else(|| bad("an app id is a UUID, as AuthForge's dashboard shows it"))?;
    let slots = match license.hwid_slots {
        Some(HwidSlots::UnlimitedHwidSlots(true)) => Slots::Unlimited,
        Some(HwidSlots::MaxHwidSlots(count)) => u8::try_from(count)
            .ok()
            .filter(|count| (1..=Slots::MOST).contains(count))
            .map(Slots::Limited)
            .ok_or_else(|| bad(format!("max_hwid_slots is 1 to {}", Slots::MOST)))?,
        Some(HwidSlots::UnlimitedHwidSlots(false)) | None => Slots::Limited(1),
    };
    let expires_at = time("expire_time", license.expire_time)?;
    if expires_at.is_some_and(|end| end <= now) {
        return Err(bad("the license would have ended before it is made; choose a later end"));
    }
    Ok(Promised { app_id, slots, expires_at })
}

fn license_name(text: &str) -> Result<Option<LicenseName>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    LicenseName::parse(text).map(Some).ok_or_else(|| refused(Refusal::NoLicense, ""))
}

fn refused(refusal: Refusal, name: &str) -> Status {
    let failed = |reason, text: &str| status::plain(Code::FailedPrecondition, reason, text);
    match refusal {
        Refusal::RequestReused => status::plain(
            Code::InvalidArgument,
            CallReason::RequestIdReused,
            "the request id was used for something else; choose another one",
        ),
        Refusal::Exists => status::exists(name),
        Refusal::NoGrant => status::not_found("grant", name),
        Refusal::NothingDeclared => failed(
            CallReason::NoLicense,
            "the grant has no license; look at the grant to see why, or make another one by hand",
        ),
        Refusal::WhichLicense => bad("the grant has several licenses; name one, such as 'main' or '2'"),
        Refusal::NoLicense => {
            let text = "the grant has no license of that name; look at the grant to see their names";
            status::plain(Code::NotFound, CallReason::NoLicense, text)
        }
        Refusal::KeyPending => status::later(
            Reason::KeyPending,
            "the license has no live key now: it is being made or replaced, or is revoked; look at the grant to see",
            Duration::from_secs(2),
        ),
        Refusal::NothingHeld => {
            failed(CallReason::NothingHeld, "no license of the grant is held; nothing to release")
        }
        Refusal::KeyTaken => failed(CallReason::KeyMismatch, "the key is kept for another purchase already"),
    }
}

impl Services {
    async fn take(&self, ask: Ask) -> Result<Taken, Status> {
        let name = convert::grant_name(&ask.grant);
        match self.fulfillment.take(ask).await.map_err(|error| status::store(&error))? {
            Taken::Refused(refusal) => Err(refused(refusal, &name)),
            taken @ (Taken::Done | Taken::Repeated) => Ok(taken),
        }
    }

    /// Takes an act on a grant that is there; gives the grant as it is then.
    async fn act(
        &self,
        name: &str,
        act: Act,
        request: Option<Request>,
        person: String,
    ) -> Result<pb::LicenseGrant, Status> {
        let grant = grant_id(name)?;
        self.possible(name, &act).await?;
        self.take(Ask { grant, act, request, person, at: self.fulfillment.now() }).await?;
        self.grant(name).await.map(convert::grant)
    }

    /// What cannot be done where grants are issued in a cluster is refused before it is written down.
    async fn possible(&self, name: &str, act: &Act) -> Result<(), Status> {
        if !self.fulfillment.is_in_cluster() {
            return Ok(());
        }
        let refused = |text| Err(status::because(Code::FailedPrecondition, Reason::ChangeNotSupported, text));
        let row = self.grant(name).await?;
        let outranks = match act {
            Act::Update { email, note, .. } => email.is_none() && note.is_none(),
            Act::Override { .. } | Act::Overrule { .. } | Act::Clear | Act::Release => true,
            Act::Promise(_) | Act::Replace(_) | Act::ResetDevices(_) | Act::Import(_) => false,
        };
        match row.object {
            Some(object) if !outranks => refused(format!(
                "people declare the grant in the cluster; change its LicenseGrant '{}' there",
                object.name
            )),
            _ => Ok(()),
        }
    }

    pub(super) async fn forget_by_hand(
        &self,
        email: &str,
        person: String,
    ) -> Result<pb::ForgetBuyerResponse, Status> {
        let address = address(email)?;
        let forgotten = self.fulfillment.forget(&address, &person).await;
        let forgotten = forgotten.map_err(|error| status::store(&error))?;
        let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        Ok(pb::ForgetBuyerResponse {
            purchases: count(forgotten.purchases),
            events: count(forgotten.events),
            waiting_events: count(forgotten.waiting),
        })
    }

    pub(super) async fn create_by_hand(
        &self,
        message: pb::CreateLicenseGrantRequest,
        person: String,
    ) -> Result<pb::LicenseGrant, Status> {
        let said = pb::CreateLicenseGrantRequest { wait: false, ..message.clone() };
        let request = request("CreateLicenseGrant", &message.request_id, &said)?;
        let id = ManualId::new(self.fulfillment.installation(), &message.external_reference)
            .map_err(|error| bad(error.to_string()))?;
        let purchase = PurchaseId::Manual(id);
        let wanted = message.license_grant.unwrap_or_default();
        if wanted.licenses.is_empty() {
            return Err(bad("license_grant.licenses is empty; name at least one app"));
        }
        if wanted.licenses.len() > MOST_LICENSES {
            let text = format!("at most {MOST_LICENSES} licenses in one grant; make several grants");
            return Err(status::because(Code::InvalidArgument, Reason::TooManyUnits, text));
        }
        let email = wanted.customer.map(|customer| customer.email).filter(|email| !email.is_empty());
        let at = self.fulfillment.now();
        let promise = Promise {
            livemode: self.fulfillment.livemode(),
            licenses: wanted
                .licenses
                .iter()
                .map(|license| promised(license, at))
                .collect::<Result<_, _>>()?,
            email: email.as_deref().map(address).transpose()?,
            note: words("note", wanted.note, LONGEST_NOTE)?,
            purchase,
        };
        let grant = GrantId::of(&promise.purchase);
        let name = convert::grant_name(&grant);
        self.take(Ask { grant, act: Act::Promise(promise), request, person, at }).await?;
        if message.wait {
            self.issued(&name).await?;
        }
        self.grant(&name).await.map(convert::grant)
    }

    /// Waits until the keys of a grant are there, or a person must do something, or the time is over.
    async fn issued(&self, name: &str) -> Result<(), Status> {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        let over = tokio::time::sleep(WAIT);
        tokio::pin!(over);
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                () = &mut over => return Ok(()),
            }
            let row = self.grant(name).await?;
            // While observing, nothing will come of it.
            if row.state != GrantState::Issuing || row.reason == Reason::Paused {
                return Ok(());
            }
        }
    }

    pub(super) async fn update_by_hand(
        &self,
        message: pb::UpdateLicenseGrantRequest,
        person: String,
    ) -> Result<pb::LicenseGrant, Status> {
        let wanted = message.license_grant.unwrap_or_default();
        let (mut email, mut note, mut expires_at) = (None, None, None);
        for path in message.update_mask.unwrap_or_default().paths {
            match path.as_str() {
                "customer.email" => {
                    email = Some(address(&wanted.customer.clone().unwrap_or_default().email)?);
                }
                "note" => note = Some(words("note", wanted.note.clone(), LONGEST_NOTE)?),
                "override.expire_time" => {
                    let at = wanted.r#override.as_ref().and_then(|hand| hand.expire_time);
                    expires_at = Some(time("override.expire_time", at)?);
                }
                other => {
                    let text = format!(
                        "update_mask: '{other}' cannot be changed; customer.email, note and override.expire_time can"
                    );
                    return Err(bad(text));
                }
            }
        }
        if email.is_none() && note.is_none() && expires_at.is_none() {
            let text = "update_mask is empty; name customer.email, note or override.expire_time";
            return Err(bad(text));
        }
        self.act(&wanted.name, Act::Update { email, note, expires_at }, None, person).await
    }

    pub(super) async fn revoke_by_hand(
        &self,
        message: pb::RevokeLicenseGrantRequest,
        person: String,
    ) -> Result<pb::LicenseGrant, Status> {
        let reason = words("reason", message.reason, LONGEST_REASON)?;
        self.act(&message.name, Act::Override { state: DesiredState::Revoked, reason }, None, person).await
    }

    pub(super) async fn reinstate_by_hand(
        &self,
        message: pb::ReinstateLicenseGrantRequest,
        person: String,
    ) -> Result<pb::LicenseGrant, Status> {
        let reason = words("reason", message.reason, LONGEST_REASON)?;
        self.act(&message.name, Act::Override { state: DesiredState::Active, reason }, None, person).await
    }

    pub(super) async fn clear_by_hand(
        &self,
        message: pb::ClearOverrideRequest,
        person: String,
    ) -> Result<pb::LicenseGrant, Status> {
        self.act(&message.name, Act::Clear, None, person).await
    }

    pub(super) async fn release_by_hand(
        &self,
        message: pb::ReleaseLicenseGrantRequest,
        person: String,
    ) -> Result<pb::LicenseGrant, Status> {
        self.act(&message.name, Act::Release, None, person).await
    }

    pub(super) async fn replace_by_hand(
        &self,
        message: pb::ReplaceLicenseKeyRequest,
        person: String,
    ) -> Result<pb::LicenseGrant, Status> {
        let request = request("ReplaceLicenseKey", &message.request_id, &message)?;
        let license = license_name(&message.license)?;
        self.act(&message.name, Act::Replace(license), request, person).await
    }

    pub(super) async fn reset_by_hand(
        &self,
        message: pb::ResetLicenseDevicesRequest,
        person: String,
    ) -> Result<pb::LicenseGrant, Status> {
        let request = request("ResetLicenseDevices", &message.request_id, &message)?;
        let license = license_name(&message.license)?;
        self.act(&message.name, Act::ResetDevices(license), request, person).await
    }
}
