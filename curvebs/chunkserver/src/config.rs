//! Configuration of a chunkserver.

use std::path::PathBuf;
use std::time::Duration;

use curve_chunkstore::ChunkStoreConfig;
use curve_log::LogConfig;
use curve_multiraft::RaftOptions;
use curve_types::{ByteSize, Geometry, HumanDuration};
use serde::Deserialize;

use crate::service::InflightLimits;

/// A chunkserver's configuration file. One chunkserver serves one disk.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChunkserverConfig {
    /// The directory on the disk that is served; made when it is missing. It holds the identity, the log and the chunks.
    pub data_dir: PathBuf,
    /// The failure domain. No two replicas of a copyset are in one zone.
    pub zone: String,
    /// Where clients and other chunkservers are served: `host:port` or `unix:/path`.
    pub listen_address: String,
    /// What others are told to call, when it differs from `listen_address`.
    pub advertise_address: Option<String>,
    /// gRPC addresses (`host:port`) of all MDSs. `$CURVE_MDS` (a comma-separated list) overrides it.
    pub mds_addresses: Vec<String>,
    /// Where `/metrics` and `/healthz` are served (`host:port`); empty for nowhere.
    pub http_address: String,
    /// Room on the disk that new allocations leave free, so that what was accepted can be finished and deletions work.
    pub reserve: ByteSize,
    /// Chunk files that are kept preallocated; 0 allocates each when it is needed.
    pub pool_files: usize,
    /// Chunks whose checksums and file handle are kept in memory; one costs about 18 KiB and a file descriptor.
    pub cached_chunks: usize,
    /// Bytes of one segment file of the shared log; a few of them are preallocated.
    pub log_segment: ByteSize,
    /// How large the shared log may grow before the copysets that hold it back are checkpointed.
    pub log_size: ByteSize,
    /// A copyset's chunks are made durable, so that its part of the log may go, when it has logged this much since.
    pub checkpoint_after: ByteSize,
    /// How much of a copyset's log is kept beyond that, so that a replica that was away for a short time catches up from it.
    pub log_keep: ByteSize,
    /// Bytes a second that scrub reads and verifies; `0` turns it off.
    pub scrub_rate: ByteSize,
    /// The shortest time between the beginnings of two passes of scrub.
    pub scrub_interval: HumanDuration,
    /// How often the MDS hears from this chunkserver; it is told at once when a leader changes.
    pub heartbeat_interval: HumanDuration,
    /// Requests that may be in flight; more are refused as busy, and clients back off.
    pub inflight_max: usize,
    /// Payload bytes that may be in flight.
    pub inflight_bytes_max: ByteSize,
    /// How often a leader of an active copyset is heard by its followers.
    pub raft_heartbeat: HumanDuration,
    /// How long a leader may serve reads after a majority was last heard. A lost leader is replaced after one and a
    /// half to two times this.
    pub lease: HumanDuration,
    /// Whether that is enough for a read. `false` where a hypervisor may freeze this machine, for example for a snapshot: its clock
    /// stands still too, and a lease that is over seems valid for a moment. Then a majority is asked for each read.
    pub lease_reads: bool,
    /// A disk that something has waited for so long is taken for hung: this server leads no copyset until it answers, and the MDS hears
    /// nothing of it.
    pub disk_timeout: HumanDuration,
    /// A copyset without writes for this long stops its timers; `0s` keeps them on.
    pub quiesce_after: HumanDuration,
    /// Bytes a second that are sent to replicas that catch up; `0` for no limit.
    pub snapshot_rate: ByteSize,
    /// Threads that serve; one is the fastest for one disk.
    pub threads: usize,
}

/// A segment takes at least four of the largest entries.
const LOG_SEGMENT_MIN: u64 = 8 << 20;
/// See `ChunkserverConfig::room_min`.
const ROOM_MIN_MAX: u64 = 64 << 20;

impl Default for ChunkserverConfig {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("/var/lib/curve/chunkserver"),
            zone: "default".into(),
            listen_address: "127.0.0.1:8200".into(),
            advertise_address: None,
            mds_addresses: Vec::new(),
            http_address: "127.0.0.1:8201".into(),
            reserve: ByteSize(1 << 30),
            pool_files: 32,
            cached_chunks: 2048,
            log_segment: ByteSize(64 << 20),
            log_size: ByteSize(2 << 30),
            checkpoint_after: ByteSize(64 << 20),
            log_keep: ByteSize(64 << 20),
            scrub_rate: ByteSize(4 << 20),
            scrub_interval: HumanDuration(Duration::from_secs(24 * 3600)),
            heartbeat_interval: HumanDuration(Duration::from_secs(1)),
            inflight_max: InflightLimits::default().ops,
            inflight_bytes_max: ByteSize(InflightLimits::default().bytes as u64),
            raft_heartbeat: HumanDuration(Duration::from_millis(200)),
            lease: HumanDuration(Duration::from_millis(800)),
            lease_reads: true,
            disk_timeout: HumanDuration(Duration::from_secs(2)),
            quiesce_after: HumanDuration(Duration::from_secs(5)),
            snapshot_rate: ByteSize(0),
            threads: 1,
        }
    }
}

impl ChunkserverConfig {
    /// What others are told to call.
    pub fn advertised(&self) -> &str {
        self.advertise_address.as_deref().unwrap_or(&self.listen_address)
    }

    /// File descriptors without which the chunkserver must not start: every cached chunk (twice, since one is for writes
    /// around the page cache), the log, connections.
    pub fn descriptors_needed(&self) -> u64 {
        2 * self.cached_chunks as u64 + 512
    }

    pub(crate) fn store(&self) -> ChunkStoreConfig {
        ChunkStoreConfig {
            geometry: Geometry::default(),
            pool_files: self.pool_files,
            reserve_bytes: self.reserve.0,
            cached_chunks_max: self.cached_chunks,
        }
    }

    pub(crate) fn log(&self) -> LogConfig {
        LogConfig {
            segment_bytes: self.log_segment.0.max(LOG_SEGMENT_MIN),
            // Held changes go on with twice the least room, so the log must leave that.
            keep_free_bytes: 2 * self.room_min(),
            ..LogConfig::default()
        }
    }

    /// Without room for a few chunk files, which other replicas may have agreed on, nothing is applied.
    fn room_min(&self) -> u64 {
        (self.reserve.0 / 4).min(ROOM_MIN_MAX)
    }

    pub(crate) fn raft(&self) -> RaftOptions {
        let lease = self.lease.0;
        RaftOptions {
            heartbeat: self.raft_heartbeat.0,
            election_min: lease / 2,
            election_max: lease,
            clock_margin: lease / 8,
            lease_reads: self.lease_reads,
            disk_timeout: self.disk_timeout.0,
            room_min: self.room_min(),
            quiesce_after: Some(self.quiesce_after.0).filter(|after| !after.is_zero()),
            checkpoint_log_bytes: self.checkpoint_after.0,
            log_keep_bytes: self.log_keep.0,
            log_segments_max: (self.log_size.0 / self.log().segment_bytes).max(4) as usize,
            snapshot_bytes_per_second: Some(self.snapshot_rate.0).filter(|rate| *rate > 0),
            ..RaftOptions::default()
        }
    }

    pub(crate) fn inflight(&self) -> InflightLimits {
        InflightLimits { ops: self.inflight_max, bytes: self.inflight_bytes_max.0 as usize }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_the_default_and_keys_are_checked() {
        let config: ChunkserverConfig = curve_config::parse("", "c.toml").unwrap();
        assert_eq!(config.advertised(), "127.0.0.1:8200");
        let text = "zone = \"z1\"\nreserve = \"2GiB\"\nlease = \"500ms\"\n";
        let config: ChunkserverConfig = curve_config::parse(text, "c.toml").unwrap();
        assert_eq!(config.reserve, ByteSize(2 << 30));
        assert_eq!(config.raft().election_max, Duration::from_millis(500));
        assert_eq!(config.raft().log_segments_max, 32);
        let error = curve_config::parse::<ChunkserverConfig>("zoen = 1", "c.toml").unwrap_err();
        assert!(error.to_string().contains("zone"), "{error}");
    }
}
