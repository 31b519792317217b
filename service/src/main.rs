//! `grantsmith`: parse, run, exit.

use std::process::ExitCode;

use clap::Parser;
use grantsmith_service::app;
use grantsmith_service::config::Cli;

fn main() -> ExitCode {
    app::main(Cli::parse())
}
