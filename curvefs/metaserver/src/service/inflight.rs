//! The bound on requests that are being served.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts requests in flight over all partitions; refuses instead of queueing, since the mount backs off better than a queue
/// would.
#[derive(Debug)]
pub struct Inflight {
    ops_max: usize,
    bytes_max: usize,
    ops: AtomicUsize,
    bytes: AtomicUsize,
}

/// One request's share; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    inflight: Arc<Inflight>,
    bytes: usize,
}

impl Inflight {
    /// Nothing in flight.
    pub fn new(ops_max: usize, bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { ops_max, bytes_max, ops: AtomicUsize::new(0), bytes: AtomicUsize::new(0) })
    }

    /// A share for a request of `bytes`; `None` when there is no room.
    pub(super) fn enter(self: &Arc<Self>, bytes: usize) -> Option<Permit> {
        let ops = self.ops.fetch_add(1, Ordering::Relaxed);
        let others = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let permit = Permit { inflight: self.clone(), bytes };
        (ops < self.ops_max && others + bytes <= self.bytes_max).then_some(permit)
    }

    /// Requests in flight now.
    pub fn ops(&self) -> usize {
        self.ops.load(Ordering::Relaxed)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.inflight.ops.fetch_sub(1, Ordering::Relaxed);
        self.inflight.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_limits_hold_and_permits_come_back() {
        let inflight = Inflight::new(2, 100);
        let first = inflight.enter(60).unwrap();
        assert!(inflight.enter(41).is_none(), "bytes");
        let second = inflight.enter(40).unwrap();
        assert!(inflight.enter(0).is_none(), "ops");
        drop((first, second));
        assert_eq!(inflight.ops(), 0);
    }
}
