//! Where log lines go and which are written.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;
use thiserror::Error;
use tracing_subscriber::EnvFilter;

/// The variable that chooses what is logged.
const LOG_VARIABLE: &str = "CURVE_LOG";

/// Why logging could not be set up.
#[derive(Debug, Error)]
pub enum LoggingError {
    /// `CURVE_LOG` is not understood.
    #[error(
        "CURVE_LOG=`{value}` is not a log filter ({cause}); write for example `info` or `warn,curve_rpc=debug`"
    )]
    Filter {
        /// Its value.
        value: String,
        /// Why not.
        cause: String,
    },
    /// Somebody else set up logging in this process.
    #[error("logging is already set up in this process")]
    AlreadySet,
}

/// What is logged when nothing is asked for.
const DEFAULT_FILTER: &str = "info";
/// What is logged only when it is asked for by name: a library that calls every request an error that a client may not make or that
/// asks for what is not there. What fails in the store itself the store logs.
const ONLY_BY_NAME: &str = "s3s=off";

/// Logs to standard error at `info`, or as `$CURVE_LOG` says: a level, or a list of `target=level`. A daemon goes on without its
/// log if that cannot be written, because its disk is full or its reader is gone or does not read: see `Lossy`.
pub fn init_logging() -> Result<(), LoggingError> {
    let asked = std::env::var(LOG_VARIABLE).ok().filter(|value| !value.is_empty());
    let value = asked.unwrap_or_else(|| DEFAULT_FILTER.to_owned());
    let filter = parse_filter(&value)?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| Lossy { out: Unwaiting(io::stderr().lock()), lost: &LINES_LOST })
        .with_ansi(std::io::stderr().is_terminal())
        .try_init()
        .map_err(|_| LoggingError::AlreadySet)
}

/// Lines that could not be written since the last one that could.
static LINES_LOST: AtomicU64 = AtomicU64::new(0);

/// A log whose writes never fail. Lines that cannot be written are counted (`curve_telemetry_log_lines_lost_total`), and said to be
/// missing once lines can be written again.
struct Lossy<'a, W> {
    out: W,
    lost: &'a AtomicU64,
}

impl<W: Write> Write for Lossy<'_, W> {
    /// A line, whole.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        // The last line may have been written in part.
        let missing = || format!("\n{lost} lines of this log could not be written\n");
        let said = if lost == 0 { Ok(()) } else { self.out.write_all(missing().as_bytes()) };
        if said.and_then(|()| self.out.write_all(line)).is_err() {
            self.lost.fetch_add(lost + 1, Ordering::Relaxed);
            metrics::counter!("curve_telemetry_log_lines_lost_total").increment(1);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file, pipe, socket or terminal that is only written to if that does not wait for who reads there: otherwise an error,
/// `WouldBlock`.
struct Unwaiting<F>(F);

/// A pipe is ready if it takes so much without waiting. Source: pipe(7), `PIPE_BUF`.
const AT_ONCE: usize = 4096;

impl<F: Write + AsFd> Write for Unwaiting<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut files = [PollFd::new(&self.0, PollFlags::OUT)];
        if poll(&mut files, Some(&Timespec::default()))? == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.0.write(&bytes[..bytes.len().min(AT_ONCE)])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn parse_filter(value: &str) -> Result<EnvFilter, LoggingError> {
    EnvFilter::builder()
        .parse(format!("{ONLY_BY_NAME},{value}"))
        .map_err(|e| LoggingError::Filter { value: value.to_owned(), cause: e.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many bytes, then no more.
    struct Disk<'a> {
        free: usize,
        holds: &'a mut Vec<u8>,
    }

    impl Write for Disk<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.free);
            self.free -= taken;
            self.holds.extend_from_slice(&bytes[..taken]);
            if taken == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(taken) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_and_said_to_be_missing() {
        let (lost, mut holds) = (AtomicU64::new(0), Vec::new());
        let mut log = |free: usize, line: &str| {
            let mut log = Lossy { out: Disk { free, holds: &mut holds }, lost: &lost };
            log.write_all(line.as_bytes()).expect("a log's writes never fail");
        };
        log(100, "one\n");
        log(2, "two\n");
        log(0, "three\n");
        log(10, "four\n"); // Not even that lines are missing.
        log(100, "five\n");
        log(100, "six\n");
        let text = String::from_utf8(holds).unwrap();
        assert_eq!(text, "one\ntw\n2 lines o\n3 lines of this log could not be written\nfive\nsix\n");
    }

    #[test]
    fn a_reader_that_does_not_read_is_not_waited_for() {
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let (lost, mut writer) = (AtomicU64::new(0), Some(writer));
        let line = [b'x'; 10_000];
        for _ in 0..20 {
            let mut log = Lossy { out: Unwaiting(writer.take().unwrap()), lost: &lost };
            log.write_all(&line).expect("a log's writes never fail");
            writer = Some(log.out.0);
        }
        // Linux's pipes hold 16 pages, and what was written in one piece lies in one page. Source: pipe(7).
        assert!((10..=16).contains(&lost.load(Ordering::Relaxed)), "{lost:?}");
        drop(writer);
        let read = io::copy(&mut reader, &mut io::sink()).expect("read");
        assert!((40 << 10..=64 << 10).contains(&read), "{read}");
    }

    #[test]
    fn a_library_that_calls_everything_an_error_is_silent_unless_it_is_named() {
        for (asked, filter) in [
            ("info", "s3s=off,info"),
            ("warn,curve_rpc=debug", "curve_rpc=debug,s3s=off,warn"),
            ("info,s3s=debug", "s3s=debug,info"),
        ] {
            assert_eq!(parse_filter(asked).unwrap().to_string(), filter);
        }
    }

    #[test]
    fn a_bad_filter_is_explained() {
        assert!(parse_filter("info").is_ok());
        assert!(parse_filter("warn,curve_rpc=debug").is_ok());
        let message = parse_filter("curve_rpc=loud").unwrap_err().to_string();
        assert!(message.contains("curve_rpc=loud") && message.contains("for example"), "{message}");
    }
}
