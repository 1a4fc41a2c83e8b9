//! The operator's command line and the launcher of the server roles.
//!
//! `cli` is the grammar; every other module carries out one family of commands. Errors leave through `failure` with a
//! stable code, the cause and the remedy.

// They panic if nobody reads; `say!` and `say_error!` do not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod api;
mod bs;
mod cli;
mod cluster;
mod confirm;
mod failure;
mod fs;
mod iscsi;
mod output;
mod playground;
mod progress;
mod run;
mod serve;

pub use run::run_command_line;
