//! `curve-nbd`: serves volumes to NBD clients, and to the kernel.

mod attach;
mod cli;
mod daemon;
mod keep;
mod map;

use std::fmt::Display;
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
        Command::Serve(serve) => exit(daemon::serve(&serve)),
        Command::Map(map) => exit(map::map(&map)),
        Command::Unmap(unmap) => exit(map::unmap(&unmap)),
        Command::ListMapped(list) => exit(map::list(&list)),
        Command::Takeover(takeover) => exit(map::take_over(&takeover)),
        Command::Keep(what) => keep::keep(&what),
        Command::Attach(what) => attach::attach(&what),
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "curve-nbd", &mut io::stdout());
            ExitCode::SUCCESS
        }
    }
}

fn exit(result: Result<(), impl Display>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing can be done if standard error is gone, too.
            let _ = writeln!(io::stderr(), "curve-nbd: {error}");
            ExitCode::FAILURE
        }
    }
}
