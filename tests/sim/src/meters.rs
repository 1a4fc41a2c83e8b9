//! The counters of production code, read back.
//!
//! What a chunkserver heals before a client notices shows in its counters only. All processes of a simulation count
//! together.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

/// Blocks that a chunkserver found damaged on its disk.
pub const CORRUPT_FOUND: &str = "curve_chunkserver_corrupt_blocks_found_total";

/// Reads that a client made without asking anybody.
pub const UNASKED_READS: &str = "curve_client_unasked_reads_total";

/// All counters by name, whatever their labels.
#[derive(Clone, Default)]
pub struct Meters(Arc<Mutex<BTreeMap<String, Arc<AtomicU64>>>>);

impl Meters {
    /// Counts from now on for what runs on this thread as long as `run` does.
    pub fn during<T>(&self, run: impl FnOnce() -> T) -> T {
        metrics::with_local_recorder(self, run)
    }

    /// The value of a counter.
    pub fn get(&self, name: &str) -> u64 {
        self.counter(name).load(Ordering::Relaxed)
    }

    fn counter(&self, name: &str) -> Arc<AtomicU64> {
        let mut counters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counters.entry(name.to_owned()).or_default().clone()
    }
}

impl Recorder for Meters {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.counter(key.name()))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_read_back() {
        let meters = Meters::default();
        meters.during(|| {
            metrics::counter!(CORRUPT_FOUND).increment(2);
            metrics::counter!(CORRUPT_FOUND, "disk" => "a").increment(1);
        });
        metrics::counter!(CORRUPT_FOUND).increment(9);
        assert_eq!((meters.get(CORRUPT_FOUND), meters.get("other")), (3, 0));
    }
}
