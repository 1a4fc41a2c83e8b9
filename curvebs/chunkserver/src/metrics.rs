//! Counters of a chunkserver. The handles are made once, so counting is an atomic addition.

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use crate::copyset::Outcome;

/// How one kind of request did.
#[derive(Debug)]
pub struct OpMetrics {
    /// Requests answered with success.
    pub done: Counter,
    /// Requests refused or failed.
    pub failed: Counter,
    /// Payload bytes of successful requests.
    pub bytes: Counter,
    /// Seconds from the arrival of the request to its reply.
    pub seconds: Histogram,
}

impl OpMetrics {
    fn new(op: &'static str) -> Self {
        Self {
            done: counter!("curve_chunkserver_requests_total", "op" => op, "result" => "ok"),
            failed: counter!("curve_chunkserver_requests_total", "op" => op, "result" => "error"),
            bytes: counter!("curve_chunkserver_bytes_total", "op" => op),
            seconds: histogram!("curve_chunkserver_request_seconds", "op" => op),
        }
    }
}

/// All counters of a chunkserver.
#[derive(Debug)]
pub struct Metrics {
    /// Writes.
    pub write: OpMetrics,
    /// Reads.
    pub read: OpMetrics,
    /// Discards and deletions.
    pub discard: OpMetrics,
    /// Zeroing.
    pub write_zeroes: OpMetrics,
    /// Everything else: block status, fences, repair reads.
    pub other: OpMetrics,
    /// Operations refused at apply because of their epoch.
    pub fenced: Counter,
    /// Repeated operations that were answered from the window, or refused as late copies.
    pub repeated: Counter,
    /// Requests refused because too much was in flight.
    pub busy: Counter,
    /// Payloads whose checksum was wrong when they arrived.
    pub damaged_in_flight: Counter,
    /// Bad blocks found on this disk, by reads, by scrub and by snapshots.
    pub corrupt_found: Counter,
    /// Bad blocks replaced by another replica's copy.
    pub corrupt_repaired: Counter,
    /// Attempts to replace bad blocks that failed.
    pub repair_failed: Counter,
    /// Bytes read and verified by scrub.
    pub scrubbed: Counter,
    /// Passes of scrub over the whole disk.
    pub scrub_passes: Counter,
    /// Bytes of snapshots sent to followers.
    pub snapshot_sent: Counter,
    /// Bytes of snapshots received from leaders.
    pub snapshot_received: Counter,
    /// Heartbeats the MDS answered.
    pub heartbeats: Counter,
    /// Heartbeats no MDS answered.
    pub heartbeats_failed: Counter,
    /// Copysets with a replica here.
    pub copysets: Gauge,
    /// Copysets led from here.
    pub copysets_led: Gauge,
    /// Requests in flight.
    pub inflight: Gauge,
    /// Flushes of the shared log.
    pub log_flushes: Counter,
    /// Bytes appended to the shared log.
    pub log_bytes: Counter,
    /// Bytes of large writes that went straight to the chunk files.
    pub placed: Counter,
    /// Bytes that readers on this machine took from the chunk files themselves.
    pub located: Counter,
    /// Bytes of the disk.
    pub space_total: Gauge,
    /// Bytes for new chunks.
    pub space_free: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            write: OpMetrics::new("write"),
            read: OpMetrics::new("read"),
            discard: OpMetrics::new("discard"),
            write_zeroes: OpMetrics::new("write_zeroes"),
            other: OpMetrics::new("other"),
            fenced: counter!("curve_chunkserver_fenced_total"),
            repeated: counter!("curve_chunkserver_repeated_total"),
            busy: counter!("curve_chunkserver_busy_total"),
            damaged_in_flight: counter!("curve_chunkserver_damaged_in_flight_total"),
            corrupt_found: counter!("curve_chunkserver_corrupt_blocks_found_total"),
            corrupt_repaired: counter!("curve_chunkserver_corrupt_blocks_repaired_total"),
            repair_failed: counter!("curve_chunkserver_repair_failed_total"),
            scrubbed: counter!("curve_chunkserver_scrubbed_bytes_total"),
            scrub_passes: counter!("curve_chunkserver_scrub_passes_total"),
            snapshot_sent: counter!("curve_chunkserver_snapshot_sent_bytes_total"),
            snapshot_received: counter!("curve_chunkserver_snapshot_received_bytes_total"),
            heartbeats: counter!("curve_chunkserver_heartbeats_total", "result" => "ok"),
            heartbeats_failed: counter!("curve_chunkserver_heartbeats_total", "result" => "error"),
            copysets: gauge!("curve_chunkserver_copysets"),
            copysets_led: gauge!("curve_chunkserver_copysets_led"),
            inflight: gauge!("curve_chunkserver_inflight_requests"),
            log_flushes: counter!("curve_log_flushes_total"),
            log_bytes: counter!("curve_log_appended_bytes_total"),
            placed: counter!("curve_chunkserver_placed_bytes_total"),
            located: counter!("curve_chunkserver_located_bytes_total"),
            space_total: gauge!("curve_chunkserver_space_total_bytes"),
            space_free: gauge!("curve_chunkserver_space_free_bytes"),
        }
    }
}

impl Metrics {
    /// Counts an operation that was decided without being done.
    pub fn refused(&self, outcome: Outcome) {
        match outcome {
            Outcome::Fenced { .. } => self.fenced.increment(1),
            Outcome::Applied | Outcome::Stale | Outcome::Differs { .. } => self.repeated.increment(1),
            Outcome::AnotherTerm | Outcome::Malformed => {}
        }
    }
}
