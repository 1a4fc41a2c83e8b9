//! Counters of a metaserver. The handles are made once, so counting is an atomic addition.

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

/// How one kind of request did.
#[derive(Debug)]
pub struct OpMetrics {
    /// Requests a partition answered, with success or an error of the file system.
    pub done: Counter,
    /// Requests no partition answered here.
    pub refused: Counter,
    /// Seconds from the arrival of the request to its reply.
    pub seconds: Histogram,
}

impl OpMetrics {
    fn new(op: &'static str) -> Self {
        Self {
            done: counter!("curve_metaserver_requests_total", "op" => op, "result" => "answered"),
            refused: counter!("curve_metaserver_requests_total", "op" => op, "result" => "refused"),
            seconds: histogram!("curve_metaserver_request_seconds", "op" => op),
        }
    }
}

/// All counters of a metaserver.
#[derive(Debug)]
pub struct Metrics {
    /// Changes by mounts.
    pub change: OpMetrics,
    /// Questions by mounts.
    pub query: OpMetrics,
    /// Mounts that wait for what is asked back.
    pub recall_poll: OpMetrics,
    /// Changes by other metaservers.
    pub peer_change: OpMetrics,
    /// Questions by other metaservers.
    pub peer_query: OpMetrics,
    /// Operations over several partitions that were begun here.
    pub transactions: Counter,
    /// Those that met another one and began again.
    pub transactions_again: Counter,
    /// Times that a request waited for a transaction.
    pub waits: Counter,
    /// Delegated directories that were asked back.
    pub recalls: Counter,
    /// Those that were taken away.
    pub revocations: Counter,
    /// Slices deleted from data stores.
    pub slices_deleted: Counter,
    /// Slices that waited here and went to data stores.
    pub slices_stored: Counter,
    /// Requests refused because too much was in flight.
    pub busy: Counter,
    /// Requests refused because a disk is full up to the reserve.
    pub no_space: Counter,
    /// Heartbeats the MDS answered.
    pub heartbeats: Counter,
    /// Heartbeats no MDS answered.
    pub heartbeats_failed: Counter,
    /// Partitions with a replica here.
    pub partitions: Gauge,
    /// Partitions led from here.
    pub partitions_led: Gauge,
    /// Requests in flight.
    pub inflight: Gauge,
    /// Flushes of the shared log.
    pub log_flushes: Counter,
    /// Bytes appended to the shared log.
    pub log_bytes: Counter,
    /// Bytes of the disk.
    pub space_total: Gauge,
    /// Bytes that are free.
    pub space_free: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            change: OpMetrics::new("change"),
            query: OpMetrics::new("query"),
            recall_poll: OpMetrics::new("recalls"),
            peer_change: OpMetrics::new("peer_change"),
            peer_query: OpMetrics::new("peer_query"),
            transactions: counter!("curve_metaserver_transactions_total"),
            transactions_again: counter!("curve_metaserver_transactions_again_total"),
            waits: counter!("curve_metaserver_waits_total"),
            recalls: counter!("curve_metaserver_recalls_total"),
            revocations: counter!("curve_metaserver_revocations_total"),
            slices_deleted: counter!("curve_metaserver_slices_deleted_total"),
            slices_stored: counter!("curve_metaserver_slices_stored_total"),
            busy: counter!("curve_metaserver_busy_total"),
            no_space: counter!("curve_metaserver_no_space_total"),
            heartbeats: counter!("curve_metaserver_heartbeats_total", "result" => "ok"),
            heartbeats_failed: counter!("curve_metaserver_heartbeats_total", "result" => "error"),
            partitions: gauge!("curve_metaserver_partitions"),
            partitions_led: gauge!("curve_metaserver_partitions_led"),
            inflight: gauge!("curve_metaserver_inflight_requests"),
            log_flushes: counter!("curve_log_flushes_total"),
            log_bytes: counter!("curve_log_appended_bytes_total"),
            space_total: gauge!("curve_metaserver_space_total_bytes"),
            space_free: gauge!("curve_metaserver_space_free_bytes"),
        }
    }
}
