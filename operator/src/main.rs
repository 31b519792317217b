//! `grantsmith-operator`: parse, run, exit.

use std::process::ExitCode;

use clap::Parser;
use grantsmith_operator::app;
use grantsmith_operator::config::Cli;

fn main() -> ExitCode {
    app::main(Cli::parse())
}
