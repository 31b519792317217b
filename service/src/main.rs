//! `grantsmith`: parse, run, exit.

use std::process::ExitCode;

use grantsmith_service::app;
use grantsmith_service::config::Cli;
use mimalloc::MiMalloc;

/// More than a tenth of what an acknowledgement costs was glibc's malloc and free. SQLite allocates with this one too (feature `override`).
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    Cli::read().map_or_else(|code| code, app::main)
}
