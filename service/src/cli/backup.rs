//! `grantsmith backup`

#![expect(clippy::doc_markdown, reason = "these texts are printed by --help as they stand")]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::table;
use crate::store;

/// What to copy, and where to.
#[derive(Debug, Args)]
pub struct Backup {
    /// The copy, a new file
    pub file: PathBuf,
    /// The record, sqlite://PATH; its server may be running
    #[arg(
        long,
        env = "GRANTSMITH_DATABASE_URL",
        hide_env_values = true,
        default_value = "sqlite://grantsmith.db",
        value_name = "URL"
    )]
    pub database_url: String,
}

/// Runs the command.
pub async fn run(backup: Backup) -> anyhow::Result<ExitCode> {
    table::ended(perform(backup).await)
}

async fn perform(backup: Backup) -> anyhow::Result<ExitCode> {
    let Backup { file, database_url } = backup;
    let to = file.clone();
    let copy = tokio::task::spawn_blocking(move || {
        let mut told = 0;
        store::backup(&database_url, &to, &mut |percent| {
            if percent >= told + 10 {
                told = percent;
                eprintln!("{percent} %");
            }
        })
    });
    let rows = copy.await??;
    let rows: Vec<Vec<String>> =
        rows.into_iter().map(|table| vec![table.table, table.rows.to_string()]).collect();
    table::print(&["TABLE", "ROWS"], &rows)?;
    table::say(&format!("{}: read back, and whole", file.display()))?;
    Ok(ExitCode::SUCCESS)
}
