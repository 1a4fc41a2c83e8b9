//! `curve-iscsi`: serves volumes to iSCSI initiators.

// They panic if nobody reads; `say!` and `say_error!` do not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod cli;
mod daemon;
mod targets;

use std::convert::Infallible;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use curve_telemetry::console;

use cli::{Cli, Command};

/// Large payloads come and go all the time; glibc would give their memory back to the kernel and fault it in again.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const NAME: &str = "curve-iscsi";

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(serve) => console::exit(NAME, daemon::serve(&serve)),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), NAME, &mut script);
            console::text(&script);
            console::exit(NAME, Ok::<_, Infallible>(()))
        }
    }
}
