//! `grantsmith import`.

mod file;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use arc_swap::ArcSwap;
use clap::Args;
use futures_util::{StreamExt, stream};
use grantsmith_proto::v1 as pb;
use pb::license_grant_service_client::LicenseGrantServiceClient;
use serde_json::{Value, json};
use tonic::transport::Channel;
use tonic::{Code, Status};

use self::file::Row;
use super::{Access, Output, table, told};
use crate::grpc::tokens::{Role, TokenFile};

/// How many rows are under way at once: the server looks each up at Stripe and AuthForge.
const AT_ONCE: usize = 8;
/// When a row is tried again that could not be looked up.
const AGAIN: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(15)];
/// After how many rows it is said how far it is.
const TELL_EVERY: usize = 100;

/// Settings of `import`.
#[derive(Debug, Args)]
pub struct Import {
    /// How the server is reached.
    #[command(flatten)]
    pub access: Access,
    /// CSV with a head that names `stripe_id` (cs_… or sub_…), `license_key`, `app_id` and `email`, in any order and beside
    /// others
    #[arg(value_name = "FILE.csv")]
    pub file: PathBuf,
    /// Only say what would become of each row
    #[arg(long)]
    pub dry_run: bool,
}

/// What became of a row.
enum Outcome {
    Adopted(String),
    WouldAdopt(String),
    Declared(String),
    WouldDeclare(String),
    Known(String),
    Refused(String),
}

impl Outcome {
    fn word(&self) -> &'static str {
        match self {
            Self::Adopted(_) => "adopted",
            Self::WouldAdopt(_) => "would adopt",
            Self::Declared(_) => "declared",
            Self::WouldDeclare(_) => "would declare",
            Self::Known(_) => "known",
            Self::Refused(_) => "refused",
        }
    }

    fn grant(&self) -> Option<&str> {
        match self {
            Self::Adopted(grant)
            | Self::WouldAdopt(grant)
            | Self::Declared(grant)
            | Self::WouldDeclare(grant)
            | Self::Known(grant) => Some(grant),
            Self::Refused(_) => None,
        }
    }

    fn why(&self) -> Option<&str> {
        match self {
            Self::Refused(why) => Some(why),
            Self::Adopted(_)
            | Self::WouldAdopt(_)
            | Self::Declared(_)
            | Self::WouldDeclare(_)
            | Self::Known(_) => None,
        }
    }
}

#[derive(Clone)]
struct Caller {
    client: LicenseGrantServiceClient<Channel>,
    tokens: Arc<ArcSwap<TokenFile>>,
    dry_run: bool,
}

/// Runs `grantsmith import`.
pub async fn run(import: Import) -> anyhow::Result<ExitCode> {
    let rows = file::read(&import.file)?;
    let (channel, tokens) = import.access.open()?;
    let client = LicenseGrantServiceClient::new(channel);
    let caller = Caller { client, tokens, dry_run: import.dry_run };
    let total = rows.len();
    let mut taken = stream::iter(rows).map(|row| caller.clone().take(row)).buffered(AT_ONCE);
    let output = import.access.output;
    let mut done: Vec<(Row, Outcome)> = Vec::new();
    let mut stopped = None;
    while let Some(next) = taken.next().await {
        match next {
            Ok((row, outcome)) => {
                show(&row, &outcome, output)?;
                done.push((row, outcome));
            }
            Err((row, status)) => {
                stopped = Some(anyhow!(
                    "stopped at line {}: {}; run it again: what was taken in is known then",
                    row.line,
                    told(&status)
                ));
                break;
            }
        }
        if done.len().is_multiple_of(TELL_EVERY) && done.len() < total {
            eprintln!("{} of {total}", done.len());
        }
    }
    sum_up(&done, output)?;
    if let Some(error) = stopped {
        return Err(error);
    }
    let refused = done.iter().any(|(_, outcome)| outcome.why().is_some());
    Ok(if refused { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

impl Caller {
    /// Has a row taken in. Fails where the next row would fare no better.
    async fn take(mut self, row: Row) -> Result<(Row, Outcome), (Row, Status)> {
        let mut waits = AGAIN.into_iter();
        loop {
            let status = match self.call(&row).await {
                Ok(outcome) => return Ok((row, outcome)),
                Err(status) => status,
            };
            match (status.code(), waits.next()) {
                (Code::Unavailable, Some(wait)) => tokio::time::sleep(wait).await,
                (Code::InvalidArgument | Code::NotFound | Code::FailedPrecondition, _) => {
                    return Ok((row, Outcome::Refused(status.message().to_owned())));
                }
                _ => return Err((row, status)),
            }
        }
    }

    async fn call(&mut self, row: &Row) -> Result<Outcome, Status> {
        use pb::import_license_response::Outcome as Told;
        let message = pb::ImportLicenseRequest {
            stripe_id: row.stripe_id.clone(),
            license_key: row.key.expose().to_owned(),
            app_id: row.app_id.clone(),
            email: row.email.clone(),
            validate_only: self.dry_run,
        };
        let authorized = self.tokens.load().authorize(Role::Manage, message);
        let request = authorized.map_err(|error| Status::unauthenticated(error.to_string()))?;
        let answer = self.client.import_license(request).await?.into_inner();
        let outcome = answer.outcome();
        let grant = answer.license_grant;
        match (outcome, self.dry_run) {
            (Told::Known, _) => Ok(Outcome::Known(grant)),
            (Told::Adopted, true) => Ok(Outcome::WouldAdopt(grant)),
            (Told::Adopted, false) => Ok(Outcome::Adopted(grant)),
            (Told::Declared, true) => Ok(Outcome::WouldDeclare(grant)),
            (Told::Declared, false) => Ok(Outcome::Declared(grant)),
            (Told::Unspecified, _) => Err(Status::internal("the server is newer; use its own program")),
        }
    }
}

fn show(row: &Row, outcome: &Outcome, output: Output) -> Result<(), table::Error> {
    match output {
        Output::Table => {
            let why = outcome.why().map_or_else(String::new, |why| format!(": {why}"));
            let line = format!(
                "line {}  {}  {}  {}{why}",
                row.line,
                row.stripe_id,
                row.key.masked(),
                outcome.word()
            );
            table::say(&table::clean(&line))
        }
        Output::Name => outcome.grant().into_iter().try_for_each(table::say),
        Output::Json | Output::Yaml => Ok(()),
    }
}

fn sum_up(done: &[(Row, Outcome)], output: Output) -> anyhow::Result<()> {
    let count = |word: &str| done.iter().filter(|(_, outcome)| outcome.word() == word).count();
    let words = ["adopted", "would adopt", "declared", "would declare", "known", "refused"];
    match output {
        Output::Table => {
            let counts = words.map(|word| (word, count(word)));
            let said: Vec<String> = counts
                .into_iter()
                .filter(|(_, count)| *count > 0)
                .map(|(word, count)| format!("{count} {word}"))
                .collect();
            table::say(&format!("{} rows: {}", done.len(), table::or_dash(&said.join(", "))))?;
        }
        Output::Name => {}
        Output::Json | Output::Yaml => {
            let row = |(row, outcome): &(Row, Outcome)| {
                json!({
                    "line": row.line,
                    "stripe_id": row.stripe_id,
                    "masked_key": row.key.masked(),
                    "outcome": outcome.word(),
                    "why": outcome.why(),
                    "license_grant": outcome.grant(),
                })
            };
            let rows: Vec<Value> = done.iter().map(row).collect();
            let totals: serde_json::Map<String, Value> =
                words.iter().map(|word| (word.replace(' ', "_"), count(word).into())).collect();
            table::structured(&json!({ "rows": rows, "totals": totals }), output == Output::Yaml)?;
        }
    }
    Ok(())
}
