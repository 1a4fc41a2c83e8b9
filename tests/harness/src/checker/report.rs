//! What a run of the checker saw.

use std::fmt;
use std::time::Duration;

/// An operation that took long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stall {
    /// When it began, after the run's begin.
    pub began: Duration,
    /// How long it took.
    pub took: Duration,
    /// What it was.
    pub operation: &'static str,
    /// Its first block.
    pub block: u64,
}

/// The result of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Writes acknowledged.
    pub writes: u64,
    /// Trims and zero-writes acknowledged.
    pub zeroes: u64,
    /// Reads judged.
    pub reads: u64,
    /// Flushes acknowledged.
    pub flushes: u64,
    /// Times a connection was made again.
    pub reconnects: u64,
    /// Operations longer than the threshold, as they ended.
    pub stalls: Vec<Stall>,
    /// The longest operation.
    pub longest: Duration,
    /// I/O errors that the server reported.
    pub errors: Vec<String>,
    /// Lost, stale or torn blocks.
    pub violations: Vec<String>,
    /// How long it ran.
    pub ran: Duration,
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (began, took) = (self.began.as_secs_f64(), self.took.as_secs_f64());
        write!(f, "{} of block {} from {began:.3} s took {took:.3} s", self.operation, self.block)
    }
}

impl Report {
    /// Operations shorter than this are not kept one by one.
    pub const STALL_MIN: Duration = Duration::from_millis(100);
    /// How many stalls, errors and violations are kept.
    const KEPT_MAX: usize = 10_000;

    /// Takes in one finished operation.
    pub fn finished(&mut self, operation: &'static str, block: u64, began: Duration, took: Duration) {
        self.longest = self.longest.max(took);
        if took >= Self::STALL_MIN && self.stalls.len() < Self::KEPT_MAX {
            self.stalls.push(Stall { began, took, operation, block });
        }
    }

    /// Keeps an I/O error.
    pub fn error(&mut self, error: String) {
        if self.errors.len() < Self::KEPT_MAX {
            self.errors.push(error);
        }
    }

    /// Keeps a violation.
    pub fn violation(&mut self, violation: String) {
        if self.violations.len() < Self::KEPT_MAX {
            self.violations.push(violation);
        }
    }

    /// The longest operation that was in flight at some moment between `from` and `to`; `None`: none was a stall.
    pub fn stall_between(&self, from: Duration, to: Duration) -> Option<&Stall> {
        let overlaps = |stall: &&Stall| stall.began <= to && stall.began + stall.took >= from;
        self.stalls.iter().filter(overlaps).max_by_key(|stall| stall.took)
    }

    /// How long that took.
    pub fn longest_between(&self, from: Duration, to: Duration) -> Duration {
        self.stall_between(from, to).map_or(Duration::ZERO, |stall| stall.took)
    }

    /// Panics unless nothing was lost, stale or torn, and no error was seen.
    #[track_caller]
    pub fn assert_clean(&self) {
        assert!(self.violations.is_empty(), "{self}");
        assert!(self.errors.is_empty(), "{self}");
        assert!(self.writes > 0 && self.reads > 0, "nothing was checked: {self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:.1} s: {} writes, {} reads, {} trims/zeroes, {} flushes, {} reconnects; longest operation {:.3} s; {} errors, {} violations",
            self.ran.as_secs_f64(),
            self.writes,
            self.reads,
            self.zeroes,
            self.flushes,
            self.reconnects,
            self.longest.as_secs_f64(),
            self.errors.len(),
            self.violations.len(),
        )?;
        for text in self.violations.iter().take(10).chain(self.errors.iter().take(10)) {
            writeln!(f, "  {text}")?;
        }
        Ok(())
    }
}
