//! Whether a disk is quick enough to be waited for.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The longest durable write that is waited for: a page of a database with its record. More than that means that many wait
/// for this write, and more will have come before it ends: the thread that serves them is better not kept from them.
const BYTES_MAX: usize = 24 << 10;
/// A disk whose usual durable write of a few pages takes less than this is quick.
const QUICK: Duration = Duration::from_micros(600);
/// A disk whose usual large write of a mebibyte takes less than this is quick.
const QUICK_LARGE: Duration = Duration::from_millis(4);
/// The average moves by this part of the difference.
const WEIGHT: u64 = 8;

/// Keeps a moving average of how long short durable writes take, over all files of a disk.
///
/// A thread that serves a network must not wait for a disk that takes milliseconds: everything else it serves would wait
/// too. A quick one costs less to wait for than to hand over. One stall is still waited out by whoever met it; from then
/// on the pool takes over, until the average is low again.
#[derive(Debug)]
pub(crate) struct Pace {
    average_ns: AtomicU64,
    /// Of large writes, for a mebibyte.
    large_ns: AtomicU64,
}

impl Default for Pace {
    /// Nothing is known of a new disk: it is not waited for.
    fn default() -> Self {
        Self { average_ns: AtomicU64::new(QUICK.as_nanos() as u64), large_ns: AtomicU64::new(0) }
    }
}

impl Pace {
    /// Whether a durable write of so many bytes may be waited for.
    pub(crate) fn allows(&self, bytes: usize) -> bool {
        bytes <= BYTES_MAX && Duration::from_nanos(self.average_ns.load(Ordering::Relaxed)) < QUICK
    }

    /// Notes how long a durable write took. Two at once may lose one, which does not matter.
    pub(crate) fn note(&self, took: Duration, bytes: usize) {
        if bytes > BYTES_MAX {
            return;
        }
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).min(1 << 40);
        move_average(&self.average_ns, took);
    }

    /// Whether a large write around the page cache may be waited for. After a slow one some are refused, then one is tried.
    pub(crate) fn allows_large(&self) -> bool {
        let average = self.large_ns.load(Ordering::Relaxed);
        if Duration::from_nanos(average) < QUICK_LARGE {
            return true;
        }
        self.large_ns.store(average - average / (8 * WEIGHT), Ordering::Relaxed);
        false
    }

    /// Notes how long a large write took that did not sync.
    pub(crate) fn note_large(&self, took: Duration, bytes: usize) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).min(1 << 40);
        move_average(&self.large_ns, took.saturating_mul(1 << 20) / bytes.max(1) as u64);
    }
}

fn move_average(average: &AtomicU64, took: u64) {
    let before = average.load(Ordering::Relaxed);
    average.store(before - before / WEIGHT + took / WEIGHT, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_trusted_once_it_was_quick_and_no_longer_after_a_stall() {
        let pace = Pace::default();
        assert!(!pace.allows(4096));
        pace.note(Duration::from_micros(80), 4096);
        assert!(pace.allows(4096) && !pace.allows(BYTES_MAX + 1));
        pace.note(Duration::from_millis(50), 4096);
        assert!(!pace.allows(4096));
        let until = (0..).take_while(|_| {
            pace.note(Duration::from_micros(80), 4096);
            !pace.allows(4096)
        });
        assert!((5..60).contains(&until.count()));
        pace.note(Duration::from_secs(5), BYTES_MAX + 1);
        assert!(pace.allows(4096), "long writes say nothing of short ones");
    }

    #[test]
    fn large_writes_are_tried_again_after_a_while() {
        let pace = Pace::default();
        pace.note_large(Duration::from_micros(500), 512 << 10);
        assert!(pace.allows_large());
        pace.note_large(Duration::from_millis(100), 1 << 20);
        let refused = (0..).take_while(|_| !pace.allows_large()).count();
        assert!((10..200).contains(&refused), "{refused}");
    }
}
