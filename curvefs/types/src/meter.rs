//! Counting calls: how many, how long, how many bytes, how many failed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Counts calls of one kind. Cheap enough for every request: some additions to atomics, no lock.
#[derive(Default, Debug)]
pub struct Meter {
    calls: AtomicU64,
    failures: AtomicU64,
    bytes: AtomicU64,
    micros: AtomicU64,
    under_way: AtomicU64,
}

/// What a [`Meter`] has counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Metered {
    /// Calls that ended.
    pub calls: u64,
    /// Those of them that failed, or that nobody waited for any more.
    pub failures: u64,
    /// Bytes of those that did not fail.
    pub bytes: u64,
    /// Microseconds of all that ended, together.
    pub micros: u64,
    /// Calls that did not end yet.
    pub under_way: u64,
}

/// A call that is under way. Dropped, as when nobody waits for it any more, it counts as failed.
#[derive(Debug)]
#[must_use]
pub struct Metering<'a> {
    meter: &'a Meter,
    begun: Instant,
    failed: bool,
    bytes: u64,
}

impl Meter {
    /// A call begins.
    pub fn begin(&self) -> Metering<'_> {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        Metering { meter: self, begun: Instant::now(), failed: true, bytes: 0 }
    }

    /// What was counted so far. Its parts may be a call apart.
    pub fn read(&self) -> Metered {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Metered {
            calls: of(&self.calls),
            failures: of(&self.failures),
            bytes: of(&self.bytes),
            micros: of(&self.micros),
            under_way: of(&self.under_way),
        }
    }
}

impl Metering<'_> {
    /// The call went well.
    pub fn done(mut self, bytes: u64) {
        (self.failed, self.bytes) = (false, bytes);
    }
}

impl Drop for Metering<'_> {
    fn drop(&mut self) {
        let Metering { meter, begun, failed, bytes } = self;
        let took: Duration = begun.elapsed();
        meter.calls.fetch_add(1, Ordering::Relaxed);
        meter.failures.fetch_add(u64::from(*failed), Ordering::Relaxed);
        meter.bytes.fetch_add(*bytes, Ordering::Relaxed);
        meter.micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        meter.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_however_they_end() {
        let meter = Meter::default();
        let (one, two) = (meter.begin(), meter.begin());
        assert_eq!((meter.read().calls, meter.read().under_way), (0, 2));
        std::thread::sleep(Duration::from_millis(2));
        one.done(7);
        drop(two);
        let Metered { calls, failures, bytes, micros, under_way } = meter.read();
        assert_eq!((calls, failures, bytes, under_way), (2, 1, 7, 0));
        assert!(micros >= 4000, "{micros}");
    }
}
