//! `grantsmith grants`.

mod hand;

use std::process::ExitCode;

use anyhow::bail;
use clap::Subcommand;
use clap::builder::NonEmptyStringValueParser;
use grantsmith_proto::v1 as pb;
use pb::license_grant_service_client::LicenseGrantServiceClient;
use serde_json::{Value, json};
use tonic::transport::Channel;

use super::{Client, Output, table, told};
use crate::grpc::convert::timestamp;
use crate::grpc::tokens::{Role, TokenFile};

/// What to do with grants.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List grants, newest first
    List {
        /// Terms joined by AND, such as 'state = "PARKED"' or 'email = "buyer@example.com"'
        #[arg(long, default_value = "", value_name = "TERMS")]
        filter: String,
        /// The most to print
        #[arg(long, default_value_t = 50, value_name = "N")]
        limit: usize,
    },
    /// Show one grant: where it stands, why, and what to do
    Get {
        /// licenseGrants/ID or ID
        name: String,
        /// Also tell all that happened to it
        #[arg(long)]
        history: bool,
    },
    /// Find grants by whatever names them: cs_…, sub_…, pi_…, ch_…, in_…, cus_…, a reference, an address, a key or its
    /// fingerprint
    Find {
        /// What to look for
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        text: String,
    },
    /// Print a grant's keys
    Key {
        /// licenseGrants/ID or ID
        name: String,
    },
    /// Mail the buyer their keys again
    Resend {
        /// licenseGrants/ID or ID
        name: String,
    },
    /// Erase a buyer from the record: address, and what Stripe has told of them. Keys and licenses stay
    Forget {
        /// The buyer's address
        address: String,
    },
    /// What a person decides.
    #[command(flatten)]
    Hand(hand::Command),
}

struct Caller {
    client: LicenseGrantServiceClient<Channel>,
    tokens: std::sync::Arc<arc_swap::ArcSwap<TokenFile>>,
}

impl Caller {
    fn request<T>(&self, role: Role, message: T) -> anyhow::Result<tonic::Request<T>> {
        Ok(self.tokens.load().authorize(role, message)?)
    }
}

/// Runs `grantsmith grants`.
pub async fn run(client: Client<Command>) -> anyhow::Result<ExitCode> {
    table::ended(perform(client).await)
}

async fn perform(client: Client<Command>) -> anyhow::Result<ExitCode> {
    let (channel, tokens) = client.access.open()?;
    let mut caller = Caller { client: LicenseGrantServiceClient::new(channel), tokens };
    let output = client.access.output;
    match client.command {
        Command::List { filter, limit } => {
            let grants = list(&mut caller, filter, limit).await?;
            show_all(&grants, output)?;
        }
        Command::Find { text } => {
            let message = pb::ListLicenseGrantsRequest { find: text, ..Default::default() };
            let request = caller.request(Role::Read, message)?;
            let found = caller.client.list_license_grants(request).await.map_err(|status| told(&status))?;
            let grants = found.into_inner().license_grants;
            if grants.is_empty() && output == Output::Table {
                eprintln!("nothing found");
            } else {
                show_all(&grants, output)?;
            }
            if grants.is_empty() {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Get { name, history } => {
            let view = if history { pb::LicenseGrantView::Full } else { pb::LicenseGrantView::Basic }.into();
            let message = pb::GetLicenseGrantRequest { name: full(&name), view };
            let request = caller.request(Role::Read, message)?;
            let grant =
                caller.client.get_license_grant(request).await.map_err(|status| told(&status))?.into_inner();
            show(&grant, output)?;
        }
        Command::Key { name } => {
            let request = caller.request(Role::Reveal, pb::GetLicenseKeyRequest { name: full(&name) })?;
            let keys =
                caller.client.get_license_key(request).await.map_err(|status| told(&status))?.into_inner();
            show_keys(&full(&name), &keys.license_keys, output)?;
        }
        Command::Hand(command) => {
            let waits = command.waits();
            let grant = hand::run(&mut caller, command).await?;
            show(&grant, output)?;
            let there = |license: &pb::License| !license.masked_key.is_empty();
            if waits && !grant.licenses.iter().all(there) {
                let pb::LicenseGrant { name, reason, .. } = grant;
                bail!(
                    "{name} is made and stays, but not all its keys are there yet ({reason}); look at it again"
                );
            }
        }
        Command::Forget { address } => {
            let request = caller.request(Role::Manage, pb::ForgetBuyerRequest { email: address })?;
            let answer = caller.client.forget_buyer(request).await.map_err(|status| told(&status))?;
            show_forgotten(&answer.into_inner(), output)?;
        }
        Command::Resend { name } => {
            let sent = resend(&mut caller, &name).await?;
            match output {
                Output::Table => table::say(&format!("mail {} is on its way", sent.number))?,
                Output::Name => table::say(&full(&name))?,
                Output::Json | Output::Yaml => {
                    table::structured(
                        &json!({ "name": full(&name), "number": sent.number }),
                        output == Output::Yaml,
                    )?;
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn resend(caller: &mut Caller, name: &str) -> anyhow::Result<pb::ResendLicenseKeyResponse> {
    let request = caller.request(Role::Manage, pb::ResendLicenseKeyRequest { name: full(name) })?;
    Ok(caller.client.resend_license_key(request).await.map_err(|status| told(&status))?.into_inner())
}

async fn list(caller: &mut Caller, filter: String, limit: usize) -> anyhow::Result<Vec<pb::LicenseGrant>> {
    let mut grants = Vec::new();
    let mut page_token = String::new();
    while grants.len() < limit {
        let page_size = i32::try_from((limit - grants.len()).min(500)).unwrap_or(500);
        let filter = filter.clone();
        let message = pb::ListLicenseGrantsRequest { page_size, page_token, filter, find: String::new() };
        let request = caller.request(Role::Read, message)?;
        let page =
            caller.client.list_license_grants(request).await.map_err(|status| told(&status))?.into_inner();
        grants.extend(page.license_grants);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    Ok(grants)
}

fn full(name: &str) -> String {
    if name.starts_with("licenseGrants/") { name.to_owned() } else { format!("licenseGrants/{name}") }
}

fn show_all(grants: &[pb::LicenseGrant], output: Output) -> anyhow::Result<()> {
    match output {
        Output::Table => {
            let head = ["NAME", "STATE", "REASON", "PURCHASE", "LICENSES", "MAIL", "CREATED", "TO DO"];
            table::print(&head, &grants.iter().map(row).collect::<Vec<_>>())?;
        }
        Output::Name => grants.iter().try_for_each(|grant| table::say(&grant.name))?,
        Output::Json | Output::Yaml => {
            let all: Vec<Value> = grants.iter().map(value).collect();
            table::structured(&Value::Array(all), output == Output::Yaml)?;
        }
    }
    Ok(())
}

fn show_forgotten(forgotten: &pb::ForgetBuyerResponse, output: Output) -> anyhow::Result<()> {
    let &pb::ForgetBuyerResponse { purchases, events, waiting_events } = forgotten;
    match output {
        Output::Json | Output::Yaml => {
            let value = json!({ "purchases": purchases, "events": events, "waiting_events": waiting_events });
            table::structured(&value, output == Output::Yaml)?;
        }
        Output::Table | Output::Name => {
            table::say(&format!("erased from {purchases} purchases and the bodies of {events} events"))?;
            if waiting_events > 0 {
                table::say(&format!(
                    "{waiting_events} events wait for their work and hold the address still; repeat this when it is done"
                ))?;
            }
        }
    }
    Ok(())
}

fn row(grant: &pb::LicenseGrant) -> Vec<String> {
    let made = grant.licenses.iter().filter(|license| !license.masked_key.is_empty()).count();
    vec![
        grant.name.trim_start_matches("licenseGrants/").to_owned(),
        word(grant.state().as_str_name()),
        grant.reason.clone(),
        grant.purchase.as_ref().map_or_else(String::new, |purchase| purchase.id.clone()),
        format!("{made}/{}", grant.licenses.len()),
        grant
            .delivery
            .as_ref()
            .map_or_else(|| "-".to_owned(), |delivery| word(delivery.state().as_str_name())),
        table::time(grant.create_time),
        grant.fix.clone(),
    ]
}

/// `STATE_READY` as `READY`.
fn word(name: &str) -> String {
    name.trim_start_matches("STATE_").to_owned()
}

fn show(grant: &pb::LicenseGrant, output: Output) -> anyhow::Result<()> {
    match output {
        Output::Name => table::say(&grant.name)?,
        Output::Json | Output::Yaml => table::structured(&value(grant), output == Output::Yaml)?,
        Output::Table => {
            let purchase = grant.purchase.clone().unwrap_or_default();
            let line = |name: &str, text: String| table::say(&format!("{name:10} {}", table::clean(&text)));
            line("Name", grant.name.clone())?;
            line("State", format!("{} ({})", word(grant.state().as_str_name()), grant.reason))?;
            if !grant.fix.is_empty() {
                line("To do", grant.fix.clone())?;
            }
            line("Purchase", format!("{} {}", purchase.id, if purchase.livemode { "live" } else { "test" }))?;
            line("Paid", table::time(purchase.pay_time))?;
            line("Buyer", table::or_dash(&grant.customer.clone().unwrap_or_default().email))?;
            line("Mail", grant.delivery.as_ref().map_or_else(|| "-".to_owned(), mail))?;
            if let Some(hand) = &grant.r#override {
                line("By hand", by_hand(hand))?;
            }
            if !grant.note.is_empty() {
                line("Note", grant.note.clone())?;
            }
            table::say("")?;
            let head = ["LICENSE", "REASON", "KEY", "APP", "SLOTS", "EXPIRES", "ISSUED"];
            table::print(&head, &grant.licenses.iter().map(license_row).collect::<Vec<_>>())?;
            if !grant.history.is_empty() {
                table::say("")?;
                let row = |entry: &pb::HistoryEntry| {
                    vec![table::time(entry.time), entry.cause.clone(), entry.text.clone()]
                };
                table::print(&["TIME", "BY", "WHAT"], &grant.history.iter().map(row).collect::<Vec<_>>())?;
            }
        }
    }
    Ok(())
}

/// What a person decided, in words.
fn by_hand(hand: &pb::Override) -> String {
    let state = match hand.state() {
        pb::license::State::Unspecified => None,
        state => Some(word(state.as_str_name())),
    };
    let ends = hand.sets_expiry.then(|| match hand.expire_time {
        Some(at) => format!("ends {}", table::time(Some(at))),
        None => "never ends".to_owned(),
    });
    let released = hand.released.then(|| "released".to_owned());
    let what: Vec<String> = [state, ends, released].into_iter().flatten().collect();
    let why = if hand.reason.is_empty() { String::new() } else { format!(": {}", hand.reason) };
    format!("{} by {} at {}{why}", what.join(", "), hand.person, table::time(hand.time))
}

fn mail(delivery: &pb::Delivery) -> String {
    let because = match (delivery.reason.as_str(), delivery.fix.as_str()) {
        ("", "") => String::new(),
        (reason, fix) => format!(
            " ({})",
            [reason, fix].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(": ")
        ),
    };
    format!(
        "{} number {} at {}{because}",
        word(delivery.state().as_str_name()),
        delivery.number,
        table::time(delivery.update_time)
    )
}

fn license_row(license: &pb::License) -> Vec<String> {
    vec![
        license.name.clone(),
        license.reason.clone(),
        table::or_dash(&license.masked_key),
        license.app_id.clone(),
        match license.hwid_slots {
            Some(pb::license::HwidSlots::MaxHwidSlots(count)) => count.to_string(),
            Some(pb::license::HwidSlots::UnlimitedHwidSlots(_)) => "any".to_owned(),
            None => "-".to_owned(),
        },
        license.expire_time.map_or_else(|| "never".to_owned(), |at| table::time(Some(at))),
        table::time(license.issue_time),
    ]
}

fn show_keys(name: &str, keys: &[pb::LicenseKey], output: Output) -> anyhow::Result<()> {
    match output {
        // Nothing but keys, one a line, so that a script can take them.
        Output::Table => keys.iter().try_for_each(|key| table::say(&key.license_key))?,
        Output::Name => table::say(name)?,
        Output::Json | Output::Yaml => {
            let key =
                |key: &pb::LicenseKey| json!({ "license": key.license, "license_key": key.license_key });
            table::structured(&Value::Array(keys.iter().map(key).collect()), output == Output::Yaml)?;
        }
    }
    Ok(())
}

fn at(time: Option<prost_types::Timestamp>) -> Value {
    time.and_then(timestamp).map_or(Value::Null, |at| at.to_string().into())
}

/// A grant as `-o json` prints it: the names of the contract, in snake case.
pub fn value(grant: &pb::LicenseGrant) -> Value {
    let purchase = grant.purchase.clone().unwrap_or_default();
    let license = |license: &pb::License| {
        let (slots, unlimited) = match license.hwid_slots {
            Some(pb::license::HwidSlots::MaxHwidSlots(count)) => (Some(count), false),
            Some(pb::license::HwidSlots::UnlimitedHwidSlots(any)) => (None, any),
            None => (None, false),
        };
        json!({
            "name": license.name,
            "app_id": license.app_id,
            "max_hwid_slots": slots,
            "unlimited_hwid_slots": unlimited,
            "state": word(license.state().as_str_name()),
            "reason": license.reason,
            "masked_key": license.masked_key,
            "fingerprint": license.fingerprint,
            "expire_time": at(license.expire_time),
            "issue_time": at(license.issue_time),
            "generation": license.generation,
        })
    };
    let hand = grant.r#override.as_ref().map(|hand| {
        let state = Some(hand.state()).filter(|state| *state != pb::license::State::Unspecified);
        json!({
            "state": state.map(|state| word(state.as_str_name())),
            "sets_expiry": hand.sets_expiry,
            "expire_time": at(hand.expire_time),
            "released": hand.released,
            "reason": hand.reason,
            "person": hand.person,
            "time": at(hand.time),
        })
    });
    let entry = |entry: &pb::HistoryEntry| json!({ "time": at(entry.time), "cause": entry.cause, "text": entry.text });
    let delivery = grant.delivery.as_ref().map(|delivery| {
        json!({
            "number": delivery.number,
            "state": word(delivery.state().as_str_name()),
            "reason": delivery.reason,
            "fix": delivery.fix,
            "update_time": at(delivery.update_time),
        })
    });
    json!({
        "name": grant.name,
        "purchase": {
            "provider": purchase.provider,
            "kind": purchase.kind,
            "id": purchase.id,
            "livemode": purchase.livemode,
            "pay_time": at(purchase.pay_time),
        },
        "state": word(grant.state().as_str_name()),
        "reason": grant.reason,
        "fix": grant.fix,
        "licenses": grant.licenses.iter().map(license).collect::<Vec<_>>(),
        "customer": { "email": grant.customer.clone().unwrap_or_default().email },
        "delivery": delivery,
        "note": grant.note,
        "override": hand,
        "history": grant.history.iter().map(entry).collect::<Vec<_>>(),
        "create_time": at(grant.create_time),
        "update_time": at(grant.update_time),
    })
}
