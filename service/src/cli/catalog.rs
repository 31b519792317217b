//! `grantsmith catalog`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;

use super::table;
use crate::catalog::Catalog;

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check a catalog: exit code 2 with line and column of the first mistake
    Check {
        /// The catalog, YAML
        file: PathBuf,
    },
}

/// Runs the command.
pub fn run(command: &Command) -> anyhow::Result<ExitCode> {
    let Command::Check { file } = command;
    let plans = Catalog::read(file)?.plans().len();
    let found = format!("{}: {plans} plan{}, no mistake", file.display(), if plans == 1 { "" } else { "s" });
    table::ended(table::say(&found).map(|()| ExitCode::SUCCESS).map_err(Into::into))
}
