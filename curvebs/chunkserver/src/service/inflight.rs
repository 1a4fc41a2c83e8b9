//! The bound on requests that are being served.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use curve_types::FRAME_PAYLOAD_BYTES_MAX;

/// How much may be in flight over all copysets of a chunkserver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InflightLimits {
    /// Requests.
    pub ops: usize,
    /// Payload bytes, of requests and of replies being read.
    pub bytes: usize,
}

impl Default for InflightLimits {
    fn default() -> Self {
        Self { ops: 5000, bytes: 128 << 20 }
    }
}

const _: () =
    assert!(128 << 20 >= 4 * FRAME_PAYLOAD_BYTES_MAX, "a few large requests must not refuse the rest");

/// Counts requests in flight; refuses instead of queueing, since the client backs off better than a queue would.
#[derive(Debug)]
pub struct Inflight {
    limits: InflightLimits,
    ops: AtomicUsize,
    bytes: AtomicUsize,
}

/// One request's share; given back when dropped.
#[derive(Debug)]
pub struct InflightPermit {
    inflight: Arc<Inflight>,
    bytes: usize,
}

impl Inflight {
    /// Nothing in flight.
    pub fn new(limits: InflightLimits) -> Arc<Self> {
        Arc::new(Self { limits, ops: AtomicUsize::new(0), bytes: AtomicUsize::new(0) })
    }

    /// A share for a request of `bytes`; `None` when there is no room.
    pub fn enter(self: &Arc<Self>, bytes: usize) -> Option<InflightPermit> {
        let ops = self.ops.fetch_add(1, Ordering::Relaxed);
        let others = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let permit = InflightPermit { inflight: self.clone(), bytes };
        (ops < self.limits.ops && others + bytes <= self.limits.bytes).then_some(permit)
    }

    /// Requests in flight now.
    pub fn ops(&self) -> usize {
        self.ops.load(Ordering::Relaxed)
    }
}

impl Drop for InflightPermit {
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
        let inflight = Inflight::new(InflightLimits { ops: 2, bytes: 100 });
        let first = inflight.enter(60).unwrap();
        assert!(inflight.enter(41).is_none(), "bytes");
        let second = inflight.enter(40).unwrap();
        assert!(inflight.enter(0).is_none(), "ops");
        drop((first, second));
        assert_eq!(inflight.ops(), 0);
        assert!(inflight.enter(100).is_some());
    }
}
