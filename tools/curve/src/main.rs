//! `curve`: see the library's documentation.

use std::process::ExitCode;

/// Large payloads come and go all the time. glibc gives their memory back to the kernel and faults it in again, which
/// cost a third of the CPU of a 1 MiB request.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    curve::run_command_line()
}
