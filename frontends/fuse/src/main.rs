//! `curve-fuse`: mounts CurveFS file systems on this host. Called as `mount.curvefs` it is what `mount -t curvefs` runs.
//!
//! | file | what |
//! |---|---|
//! | `cli`, `helper` | the command lines: ours, and mount(8)'s |
//! | `options` | pure: the text after `-o` |
//! | `checks`, `mounts` | whether it can be mounted there, in words; what the kernel has mounted |
//! | `background` | a process of its own, waited for until the mount is usable |
//! | `error` | why there is no mount, and what to do |
//! | `daemon`, `session`, `health` | the mount: opened; served, ended in order; how it is |
//! | `handover` | from one process to the next, with its protocol |
//! | `inspect` | what a mount says of itself and of its files: counters, places, findings |
//! | `notify` | telling systemd |
//! | `unmount`, `record` | taking a mount away, and waiting for its process |
//!
//! The file system itself is `curvefs-vfs` over `curvefs-client`; the kernel adaptor is `curvefs-fuse`.

// They panic if nobody reads; `say!` and `say_error!` do not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod background;
mod checks;
mod cli;
mod daemon;
mod error;
mod handover;
mod health;
mod helper;
mod inspect;
mod mounts;
mod notify;
mod options;
mod record;
mod session;
mod unmount;

use std::convert::Infallible;
use std::ffi::OsString;
use std::fmt::Display;
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use curve_telemetry::{console, say_error};

use cli::{Cli, Command};

/// Blocks of files come and go all the time; glibc would give their memory back to the kernel and fault it in again.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

unsafe extern "C" {
    // Of mimalloc, which its crate does not name.
    fn mi_option_set(option: std::ffi::c_int, value: std::ffi::c_long);
}

/// `mi_option_purge_delay` of mimalloc 2 and 3.
const PURGE_DELAY: std::ffi::c_int = 15;
const PURGE_DELAY_MS: std::ffi::c_long = 1000;

/// Keeps freed memory for a second. Buffers of a MiB come and go thousands of times a second; given back after mimalloc's 10 ms, the
/// kernel clears their pages anew each time, which was a third of what a mount spends on writing.
fn keep_freed_memory() {
    // SAFETY: sets a number that the allocator reads with atomic operations, at any time.
    unsafe { mi_option_set(PURGE_DELAY, PURGE_DELAY_MS) };
}

/// What mount(8) takes for a wrong command line, and for a mount that failed (mount(8), "EXIT STATUS").
const MOUNT_USAGE: u8 = 1;
const MOUNT_FAILED: u8 = 32;

const NAME: &str = "curve-fuse";

fn main() -> ExitCode {
    keep_freed_memory();
    let args: Vec<OsString> = std::env::args_os().collect();
    let called = args.first().map(Path::new).and_then(Path::file_name);
    if called.is_some_and(helper::is_helper) {
        return as_helper(&args[1..]);
    }
    match Cli::parse().command {
        Command::Mount(mount) if mount.child => background::serve_as_child(&mount),
        Command::Mount(mount) => exit(background::mount(&mount)),
        Command::Upgrade(upgrade) if upgrade.child => background::upgrade_as_child(&upgrade),
        Command::Upgrade(upgrade) => exit(background::upgrade(&upgrade)),
        Command::Umount(umount) => exit(unmount::unmount(&umount)),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), NAME, &mut script);
            console::text(&script);
            exit(Ok::<_, Infallible>(()))
        }
    }
}

fn as_helper(args: &[OsString]) -> ExitCode {
    match helper::parse(args) {
        Ok(helper::Helper { fake: true, .. }) => ExitCode::SUCCESS,
        Ok(helper::Helper { mount, .. }) => match background::mount(&mount) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed("mount.curvefs", &error, MOUNT_FAILED),
        },
        Err(error) => failed("mount.curvefs", &error, MOUNT_USAGE),
    }
}

fn exit(result: Result<(), impl Display>) -> ExitCode {
    console::exit(NAME, result)
}

fn failed(program: &str, error: &impl Display, code: u8) -> ExitCode {
    say_error!("{program}: {error}");
    ExitCode::from(code)
}
