//! The time that leaders stamp changes with.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use curvefs_types::TimeNs;
use tokio::time::Instant;

/// A clock that goes back less than this is corrected by standing still.
const STANDS_STILL_MAX: i64 = Duration::from_secs(10).as_nanos() as i64;

/// Wall-clock time that was given by whoever started the server, carried on by `tokio::time`. Nothing is decided by it:
/// it is what attributes say.
pub struct Clock {
    base: Instant,
    /// What the clock said at `base`.
    base_ns: AtomicI64,
    last_ns: AtomicI64,
}

impl Clock {
    /// It is this late now.
    pub fn new(now_ns: TimeNs) -> Self {
        Self { base: Instant::now(), base_ns: AtomicI64::new(now_ns), last_ns: AtomicI64::new(0) }
    }

    /// It is this late now, as a better clock says.
    pub fn set(&self, now_ns: TimeNs) {
        self.base_ns.store(now_ns.saturating_sub(self.elapsed()), Ordering::Relaxed);
    }

    fn elapsed(&self) -> i64 {
        i64::try_from(self.base.elapsed().as_nanos()).unwrap_or(i64::MAX)
    }

    /// The time; does not go back for a small correction.
    pub fn now_ns(&self) -> TimeNs {
        let now = self.base_ns.load(Ordering::Relaxed).saturating_add(self.elapsed());
        let last = self.last_ns.fetch_max(now, Ordering::Relaxed);
        if last.saturating_sub(now) > STANDS_STILL_MAX {
            self.last_ns.store(now, Ordering::Relaxed);
            return now;
        }
        now.max(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn small_corrections_stop_it_and_large_ones_are_taken() {
        let clock = Clock::new(1_000_000_000_000);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(clock.now_ns(), 1_001_000_000_000);
        clock.set(1_000_500_000_000);
        assert_eq!(clock.now_ns(), 1_001_000_000_000);
        clock.set(900_000_000_000);
        assert_eq!(clock.now_ns(), 900_000_000_000);
    }
}
