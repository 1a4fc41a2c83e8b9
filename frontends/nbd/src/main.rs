//! `curve-nbd`: serves volumes to NBD clients, and to the kernel.

// They panic if nobody reads; `say!` and `say_error!` do not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod attach;
mod cli;
mod daemon;
mod keep;
mod map;

use std::convert::Infallible;
use std::fmt::Display;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use curve_telemetry::console;

use cli::{Cli, Command};

/// Large payloads come and go all the time. glibc gives their memory back to the kernel and faults it in again, which
/// cost a third of the CPU of a 1 MiB request.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const NAME: &str = "curve-nbd";

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
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), NAME, &mut script);
            console::text(&script);
            exit(Ok::<_, Infallible>(()))
        }
    }
}

fn exit(result: Result<(), impl Display>) -> ExitCode {
    console::exit(NAME, result)
}
