//! `grantsmith`: parse, run, exit.

use std::process::ExitCode;

use grantsmith_service::app;
use grantsmith_service::config::Cli;
use mimalloc::MiMalloc;

/// Half of what a web thread did was to ask glibc for memory and to give it back.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    Cli::read().map_or_else(|code| code, app::main)
}
