//! `grantsmith`: parse, run, exit.

use std::process::ExitCode;

use grantsmith_service::app;
use grantsmith_service::config::Cli;

fn main() -> ExitCode {
    Cli::read().map_or_else(|code| code, app::main)
}
