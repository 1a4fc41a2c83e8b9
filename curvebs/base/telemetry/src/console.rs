//! What a command says to whoever runs it: [`say!`](crate::say) and [`say_error!`](crate::say_error) in place of `println!`
//! and `eprintln!`, which panic if it cannot be written.
//!
//! A command that changes something goes on if nobody reads any more, as with `| head`. What could not be written for
//! another reason, as on a full disk, is said when the command ends: [`finish`].

use std::fmt::{self, Display};
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;
use std::sync::Mutex;

/// The first error of standard output other than a reader that went away.
static LOST: Mutex<Option<io::Error>> = Mutex::new(None);

/// Writes a line to standard output, as `println!` does, and never panics.
#[macro_export]
macro_rules! say {
    ($($text:tt)*) => { $crate::console::line(::std::format_args!($($text)*)) };
}

/// Writes a line to standard error, as `eprintln!` does, and never panics: if it is gone, there is nobody to tell.
#[macro_export]
macro_rules! say_error {
    ($($text:tt)*) => { $crate::console::error_line(::std::format_args!($($text)*)) };
}

/// What [`say!`](crate::say) does.
pub fn line(text: fmt::Arguments<'_>) {
    remember(writeln!(io::stdout(), "{text}"), &LOST);
}

/// What [`say_error!`](crate::say_error) does.
pub fn error_line(text: fmt::Arguments<'_>) {
    // In one piece, since others may write to the same terminal or file.
    let _ = io::stderr().write_all(format!("{text}\n").as_bytes());
}

/// Writes to standard output as it is, without a newline.
pub fn text(text: &[u8]) {
    let mut out = io::stdout().lock();
    remember(out.write_all(text).and_then(|()| out.flush()), &LOST);
}

/// When a command has done what it was to do: the error of what was not written to standard output, if any. That its reader
/// went away is none.
pub fn finish() -> io::Result<()> {
    remember(io::stdout().flush(), &LOST);
    match LOST.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take() {
        None => Ok(()),
        Some(error) => Err(error),
    }
}

/// How a program ends: what failed is said on standard error, after the program's name.
pub fn exit(program: &str, result: Result<(), impl Display>) -> ExitCode {
    let failed = match result {
        Err(error) => error.to_string(),
        Ok(()) => match finish() {
            Ok(()) => return ExitCode::SUCCESS,
            Err(error) => format!("cannot write to standard output: {error}"),
        },
    };
    say_error!("{program}: {failed}");
    ExitCode::FAILURE
}

fn remember(written: io::Result<()>, lost: &Mutex<Option<io::Error>>) {
    if let Err(error) = written
        && error.kind() != ErrorKind::BrokenPipe
    {
        lost.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get_or_insert(error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_error_is_remembered_and_a_reader_that_left_is_none() {
        let lost = Mutex::new(None);
        remember(Ok(()), &lost);
        remember(Err(ErrorKind::BrokenPipe.into()), &lost);
        assert!(lost.lock().unwrap().is_none());
        remember(Err(ErrorKind::StorageFull.into()), &lost);
        remember(Err(ErrorKind::TimedOut.into()), &lost);
        assert_eq!(lost.lock().unwrap().take().unwrap().kind(), ErrorKind::StorageFull);
    }
}
