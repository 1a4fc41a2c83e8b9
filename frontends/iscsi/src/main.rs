//! `curve-iscsi`: serves volumes to iSCSI initiators.

mod cli;
mod daemon;
mod targets;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use cli::{Cli, Command};

/// Large payloads come and go all the time; glibc would give their memory back to the kernel and fault it in again.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(serve) => match daemon::serve(&serve) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                // Nothing can be done if standard error is gone, too.
                let _ = writeln!(io::stderr(), "curve-iscsi: {error}");
                ExitCode::FAILURE
            }
        },
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "curve-iscsi", &mut io::stdout());
            ExitCode::SUCCESS
        }
    }
}
