//! What a person decides about grants.

use clap::{Args, Subcommand};
use grantsmith_authforge::SystemClock;
use grantsmith_core::terms::Duration;
use grantsmith_proto::v1 as pb;
use jiff::{SignedDuration, Timestamp};
use prost_types::FieldMask;

use super::super::told;
use super::{Caller, full, resend};
use crate::grpc::tokens::Role;

/// What to decide.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a grant without a purchase: complimentary, for a reseller, for another payment provider
    Create(Create),
    /// Change the address that keys are mailed to
    SetEmail {
        /// licenseGrants/ID or ID
        name: String,
        /// The address
        address: String,
        /// Mail the keys there now
        #[arg(long)]
        resend: bool,
    },
    /// Change the note that no buyer sees
    SetNote {
        /// licenseGrants/ID or ID
        name: String,
        /// The note; empty for none
        text: String,
    },
    /// Set when every license ends, whatever the purchase says, until it is taken back
    SetExpiry {
        /// licenseGrants/ID or ID
        name: String,
        /// A time such as 2027-01-31T00:00:00Z, or never
        #[arg(value_parser = end)]
        end: End,
    },
    /// Revoke every license, whatever was paid, until it is taken back
    Revoke {
        /// licenseGrants/ID or ID
        name: String,
        /// Why; reaches no buyer
        #[arg(long, default_value = "", value_name = "TEXT")]
        reason: String,
    },
    /// Bring every license back, whatever was refunded, until it is taken back; also one revoked at AuthForge itself
    Reinstate {
        /// licenseGrants/ID or ID
        name: String,
        /// Why; reaches no buyer
        #[arg(long, default_value = "", value_name = "TEXT")]
        reason: String,
    },
    /// Take back what people decided: the purchase counts again
    ClearOverride {
        /// licenseGrants/ID or ID
        name: String,
    },
    /// Let go on what is held: a revocation beyond the budget of this hour, a key for what was paid before the first start
    Release {
        /// licenseGrants/ID or ID
        name: String,
    },
    /// Replace a key, such as one that leaked: a new one is made and mailed, the old one revoked
    Replace(OneLicense),
    /// Unbind the devices of a license, once
    ResetDevices(OneLicense),
}

impl Command {
    /// Whether the keys are waited for.
    pub(super) fn waits(&self) -> bool {
        matches!(self, Self::Create(create) if create.wait)
    }
}

/// A grant to make.
#[derive(Debug, Args)]
pub struct Create {
    /// What names it for ever, such as an order number; a second grant of this name is refused
    #[arg(long, value_name = "TEXT")]
    reference: String,
    /// The AuthForge app
    #[arg(long, value_name = "ID")]
    app: String,
    /// How many keys
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=100), value_name = "N")]
    quantity: u16,
    /// Devices for each key
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16), value_name = "N")]
    slots: u8,
    /// Any number of devices
    #[arg(long, conflicts_with = "slots")]
    unlimited: bool,
    /// When the keys end, such as 2027-01-31T00:00:00Z; never without it
    #[arg(long, value_parser = end, value_name = "TIME")]
    expires: Option<End>,
    /// How many days the keys last, from now
    #[arg(
        long,
        conflicts_with_all = ["expires", "request_id"],
        value_parser = clap::value_parser!(u32).range(1..=i64::from(Duration::MOST_DAYS)),
        value_name = "N"
    )]
    days: Option<u32>,
    /// Where the keys are mailed to; nowhere without it
    #[arg(long, value_name = "ADDRESS")]
    email: Option<String>,
    /// A note that no buyer sees
    #[arg(long, default_value = "", value_name = "TEXT")]
    note: String,
    /// Makes repetitions count once
    #[arg(long, default_value = "", value_name = "ID")]
    request_id: String,
    /// Wait until the keys are there, half a minute at most
    #[arg(long)]
    wait: bool,
}

/// A license of a grant.
#[derive(Debug, Args)]
pub struct OneLicense {
    /// licenseGrants/ID or ID
    name: String,
    /// Which license, such as main or 2; may be left out if there is only one
    #[arg(long, default_value = "", value_name = "NAME")]
    license: String,
    /// Makes repetitions count once
    #[arg(long, default_value = "", value_name = "ID")]
    request_id: String,
}

/// When licenses end.
#[derive(Debug, Clone, Copy)]
pub enum End {
    /// Never.
    Never,
    /// Then.
    At(Timestamp),
}

impl End {
    fn time(self) -> Option<prost_types::Timestamp> {
        match self {
            Self::Never => None,
            Self::At(at) => Some(crate::grpc::convert::time(at)),
        }
    }
}

fn end(text: &str) -> Result<End, String> {
    if text == "never" {
        return Ok(End::Never);
    }
    text.parse().map(End::At).map_err(|_| "write a time such as 2027-01-31T00:00:00Z, or never".to_owned())
}

/// Makes a call of the role manage; gives the grant as it is then.
macro_rules! call {
    ($caller:ident.$rpc:ident($message:expr)) => {{
        let request = $caller.request(Role::Manage, $message)?;
        let answer = $caller.client.$rpc(request).await.map_err(|status| told(&status))?;
        Ok(answer.into_inner())
    }};
}

/// Does what a person decides; gives the grant as it is then.
pub(super) async fn run(caller: &mut Caller, command: Command) -> anyhow::Result<pb::LicenseGrant> {
    match command {
        Command::Create(create) => call!(caller.create_license_grant(create.message()?)),
        Command::SetEmail { name, address, resend: again } => {
            let customer = Some(pb::Customer { email: address });
            let wanted = pb::LicenseGrant { name: full(&name), customer, ..Default::default() };
            let grant = update(caller, wanted, "customer.email").await?;
            if again && !is_on_its_way(&grant) {
                resend(caller, &name).await?;
            }
            Ok(grant)
        }
        Command::SetNote { name, text } => {
            let wanted = pb::LicenseGrant { name: full(&name), note: text, ..Default::default() };
            update(caller, wanted, "note").await
        }
        Command::SetExpiry { name, end } => {
            let hand = pb::Override { expire_time: end.time(), ..Default::default() };
            let wanted = pb::LicenseGrant { name: full(&name), r#override: Some(hand), ..Default::default() };
            update(caller, wanted, "override.expire_time").await
        }
        Command::Revoke { name, reason } => {
            call!(caller.revoke_license_grant(pb::RevokeLicenseGrantRequest { name: full(&name), reason }))
        }
        Command::Reinstate { name, reason } => {
            call!(
                caller
                    .reinstate_license_grant(pb::ReinstateLicenseGrantRequest { name: full(&name), reason })
            )
        }
        Command::ClearOverride { name } => {
            call!(caller.clear_override(pb::ClearOverrideRequest { name: full(&name) }))
        }
        Command::Release { name } => {
            call!(caller.release_license_grant(pb::ReleaseLicenseGrantRequest { name: full(&name) }))
        }
        Command::Replace(OneLicense { name, license, request_id }) => {
            let message = pb::ReplaceLicenseKeyRequest { name: full(&name), license, request_id };
            call!(caller.replace_license_key(message))
        }
        Command::ResetDevices(OneLicense { name, license, request_id }) => {
            let message = pb::ResetLicenseDevicesRequest { name: full(&name), license, request_id };
            call!(caller.reset_license_devices(message))
        }
    }
}

/// Whether a change of the address has begun a sending there itself, as it does for one that was refused or had no address.
fn is_on_its_way(grant: &pb::LicenseGrant) -> bool {
    let time = |at: prost_types::Timestamp| (at.seconds, at.nanos);
    let changed = grant.update_time.map(time);
    let begun = grant.delivery.as_ref().and_then(|delivery| delivery.update_time).map(time);
    begun.is_some() && begun >= changed
}

async fn update(
    caller: &mut Caller,
    wanted: pb::LicenseGrant,
    path: &str,
) -> anyhow::Result<pb::LicenseGrant> {
    let update_mask = Some(FieldMask { paths: vec![path.to_owned()] });
    call!(
        caller
            .update_license_grant(pb::UpdateLicenseGrantRequest { license_grant: Some(wanted), update_mask })
    )
}

impl Create {
    fn message(self) -> anyhow::Result<pb::CreateLicenseGrantRequest> {
        use grantsmith_core::port::Clock;
        use pb::license::HwidSlots;
        let end = match (self.days, self.expires) {
            (Some(days), _) => {
                let after = SignedDuration::from_hours(i64::from(days) * 24);
                End::At(SystemClock.now().wall.checked_add(after)?)
            }
            (None, expires) => expires.unwrap_or(End::Never),
        };
        let slots = if self.unlimited {
            HwidSlots::UnlimitedHwidSlots(true)
        } else {
            HwidSlots::MaxHwidSlots(self.slots.into())
        };
        let license = pb::License {
            app_id: self.app,
            hwid_slots: Some(slots),
            expire_time: end.time(),
            ..Default::default()
        };
        let grant = pb::LicenseGrant {
            licenses: vec![license; usize::from(self.quantity)],
            customer: self.email.map(|email| pb::Customer { email }),
            note: self.note,
            ..Default::default()
        };
        Ok(pb::CreateLicenseGrantRequest {
            license_grant: Some(grant),
            external_reference: self.reference,
            request_id: self.request_id,
            wait: self.wait,
        })
    }
}
