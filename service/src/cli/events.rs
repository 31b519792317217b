//! `grantsmith events`.

#![expect(clippy::doc_markdown, reason = "these texts are printed by --help as they stand")]

use std::process::ExitCode;

use clap::Subcommand;
use grantsmith_proto::v1 as pb;
use pb::event_service_client::EventServiceClient;
use serde_json::{Value, json};

use super::{Client, Output, table, told};
use crate::grpc::convert::timestamp;
use crate::grpc::tokens::Role;

/// What to do with events.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List events, newest received first
    List {
        /// Terms joined by AND, such as 'state = "PARKED"', 'reason = "BadMetadata"' or 'type = "refund.created"'
        #[arg(long, default_value = "", value_name = "TERMS")]
        filter: String,
        /// The most to print
        #[arg(long, default_value_t = 50, value_name = "N")]
        limit: usize,
    },
    /// Show one event; -o json has its payload, which holds the buyer's address
    Get {
        /// events/ID or ID, such as evt_1Abc
        name: String,
    },
    /// Take an event as if it had just come: after a fixed cause, or for a newer version
    Replay {
        /// events/ID or ID, such as evt_1Abc
        name: String,
    },
}

/// Runs `grantsmith events`.
pub async fn run(client: Client<Command>) -> anyhow::Result<ExitCode> {
    table::ended(perform(client).await)
}

async fn perform(client: Client<Command>) -> anyhow::Result<ExitCode> {
    let (channel, tokens) = client.access.open()?;
    let mut service = EventServiceClient::new(channel).max_decoding_message_size(4 << 20);
    let output = client.access.output;
    match client.command {
        Command::List { filter, limit } => {
            let mut events = Vec::new();
            let mut page_token = String::new();
            while events.len() < limit {
                let page_size = i32::try_from((limit - events.len()).min(500)).unwrap_or(500);
                let message = pb::ListEventsRequest { page_size, page_token, filter: filter.clone() };
                let request = tokens.load().authorize(Role::Read, message)?;
                let page = service.list_events(request).await.map_err(|status| told(&status))?.into_inner();
                events.extend(page.events);
                page_token = page.next_page_token;
                if page_token.is_empty() {
                    break;
                }
            }
            show_all(&events, output)?;
        }
        Command::Get { name } => {
            let request = tokens.load().authorize(Role::Read, pb::GetEventRequest { name: full(&name) })?;
            let event = service.get_event(request).await.map_err(|status| told(&status))?.into_inner();
            show(&event, output)?;
        }
        Command::Replay { name } => {
            let request =
                tokens.load().authorize(Role::Manage, pb::ReplayEventRequest { name: full(&name) })?;
            let event = service.replay_event(request).await.map_err(|status| told(&status))?.into_inner();
            show(&event, output)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn full(name: &str) -> String {
    if name.starts_with("events/") { name.to_owned() } else { format!("events/{name}") }
}

fn word(event: &pb::Event) -> &'static str {
    event.state().as_str_name().trim_start_matches("STATE_")
}

fn show_all(events: &[pb::Event], output: Output) -> anyhow::Result<()> {
    match output {
        Output::Table => {
            let head = ["NAME", "TYPE", "STATE", "REASON", "OBJECT", "GRANT", "RECEIVED"];
            let row = |event: &pb::Event| {
                vec![
                    event.name.trim_start_matches("events/").to_owned(),
                    event.r#type.clone(),
                    word(event).to_owned(),
                    table::or_dash(&event.reason),
                    table::or_dash(&event.object),
                    table::or_dash(event.license_grant.trim_start_matches("licenseGrants/")),
                    table::time(event.receive_time),
                ]
            };
            table::print(&head, &events.iter().map(row).collect::<Vec<_>>())?;
        }
        Output::Name => events.iter().try_for_each(|event| table::say(&event.name))?,
        Output::Json | Output::Yaml => {
            table::structured(&Value::Array(events.iter().map(value).collect()), output == Output::Yaml)?;
        }
    }
    Ok(())
}

fn show(event: &pb::Event, output: Output) -> anyhow::Result<()> {
    match output {
        Output::Name => table::say(&event.name)?,
        Output::Json | Output::Yaml => table::structured(&value(event), output == Output::Yaml)?,
        Output::Table => {
            let line = |name: &str, text: String| table::say(&format!("{name:10} {}", table::clean(&text)));
            line("Name", event.name.clone())?;
            line("Type", event.r#type.clone())?;
            line(
                "State",
                if event.reason.is_empty() {
                    word(event).to_owned()
                } else {
                    format!("{} ({})", word(event), event.reason)
                },
            )?;
            if !event.fix.is_empty() {
                line("To do", event.fix.clone())?;
            }
            line("Object", table::or_dash(&event.object))?;
            line("Grant", table::or_dash(&event.license_grant))?;
            line("Mode", event.mode().as_str_name().trim_start_matches("MODE_").to_lowercase())?;
            line("Version", table::or_dash(&event.api_version))?;
            line("Created", table::time(event.create_time))?;
            line("Received", table::time(event.receive_time))?;
        }
    }
    Ok(())
}

fn value(event: &pb::Event) -> Value {
    let at = |time: Option<prost_types::Timestamp>| {
        time.and_then(timestamp).map_or(Value::Null, |at| at.to_string().into())
    };
    let mut value = json!({
        "name": event.name,
        "type": event.r#type,
        "create_time": at(event.create_time),
        "receive_time": at(event.receive_time),
        "mode": event.mode().as_str_name().trim_start_matches("MODE_"),
        "api_version": event.api_version,
        "object": event.object,
        "state": word(event),
        "reason": event.reason,
        "fix": event.fix,
        "license_grant": event.license_grant,
    });
    if let (false, Some(fields)) = (event.payload.is_empty(), value.as_object_mut()) {
        let text = || Value::String(String::from_utf8_lossy(&event.payload).into_owned());
        fields
            .insert("payload".to_owned(), serde_json::from_slice(&event.payload).unwrap_or_else(|_| text()));
    }
    value
}
