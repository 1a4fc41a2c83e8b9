//! `curve-nbd`: serves volumes to NBD clients.

mod cli;
mod daemon;
mod volumes;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use cli::{Cli, Command};

/// Large payloads come and go all the time. glibc gives their memory back to the kernel and faults it in again, which
/// cost a third of the CPU of a 1 MiB request.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(serve) => match daemon::serve(&serve) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                // Nothing can be done if standard error is gone, too.
                let _ = writeln!(io::stderr(), "curve-nbd: {error}");
                ExitCode::FAILURE
            }
        },
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "curve-nbd", &mut io::stdout());
            ExitCode::SUCCESS
        }
    }
}
