//! `curve`: see the library's documentation.

use std::process::ExitCode;

fn main() -> ExitCode {
    curve::run_command_line()
}
