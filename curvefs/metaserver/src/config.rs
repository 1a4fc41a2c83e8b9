//! Configuration of a metaserver.

use std::path::PathBuf;
use std::time::Duration;

use curve_log::LogConfig;
use curve_multiraft::RaftOptions;
use curve_types::{ByteSize, HumanDuration};
use serde::Deserialize;

/// A metaserver's configuration file.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetaserverConfig {
    /// The directory that is used; made when it is missing. It holds the identity, the log and the partitions' rows.
    pub data_dir: PathBuf,
    /// The failure domain. Replicas of a partition are in different zones as long as there are enough of them.
    pub zone: String,
    /// Where mounts and other metaservers are served: `host:port` or `unix:/path`.
    pub listen_address: String,
    /// What others are told to call, when it differs from `listen_address`.
    pub advertise_address: Option<String>,
    /// gRPC addresses (`host:port`) of all MDSs. `$CURVE_MDS` (a comma-separated list) overrides it.
    pub mds_addresses: Vec<String>,
    /// Where `/metrics` and `/healthz` are served (`host:port`); empty for nowhere.
    pub http_address: String,
    /// Memory for rows that were read, shared by all partitions.
    pub cache: ByteSize,
    /// Memory for rows that were changed and are not in a table yet, for each partition; twice that for a moment.
    pub write_buffer: ByteSize,
    /// Bytes of one segment file of the shared log; a few of them are preallocated.
    pub log_segment: ByteSize,
    /// How large the shared log may grow before the partitions that hold it back are checkpointed.
    pub log_size: ByteSize,
    /// A partition's rows are made durable, so that its part of the log may go, when it has logged this much since.
    pub checkpoint_after: ByteSize,
    /// How much of a partition's log is kept beyond that, so that a replica that was away for a short time catches up from it.
    pub log_keep: ByteSize,
    /// Bytes of the disk that are kept free, a twentieth of it at most. With less, what grows is refused as a full disk
    /// (`ENOSPC`); reads and removals go on.
    pub reserve: ByteSize,
    /// How often the MDS hears from this metaserver; it is told at once when a leader changes.
    pub heartbeat_interval: HumanDuration,
    /// Requests that may be in flight; more are refused as busy, and mounts back off.
    pub inflight_max: usize,
    /// Bytes of requests that may be in flight.
    pub inflight_bytes_max: ByteSize,
    /// How often a leader of an active partition is heard by its followers.
    pub raft_heartbeat: HumanDuration,
    /// How long a leader may serve reads after a majority was last heard. A lost leader is replaced after one and a
    /// half to two times this.
    pub lease: HumanDuration,
    /// Whether that is enough for a read. `false` where a hypervisor may freeze this machine, for example for a snapshot: its clock
    /// stands still too, and a lease that is over seems valid for a moment. Then a majority is asked for each read.
    pub lease_reads: bool,
    /// A disk that something has waited for so long is taken for hung: this server leads no partition until it answers, and the MDS hears
    /// nothing of it.
    pub disk_timeout: HumanDuration,
    /// A partition without changes for this long stops its timers; `0s` keeps them on.
    pub quiesce_after: HumanDuration,
    /// Bytes a second that are sent to replicas that catch up; `0` for no limit.
    pub snapshot_rate: ByteSize,
    /// How soon a directory's recursive counters show what changed below it.
    pub settle_after: HumanDuration,
    /// How long the data of what was deleted or overwritten stays in the store, for readers that do not know it yet.
    pub garbage_grace: HumanDuration,
    /// How long small writes that were synced wait here before they go to the store; overwritten ones never do.
    pub stage_for: HumanDuration,
    /// Objects a second that are deleted, for each file system.
    pub deletes_per_second: u32,
    /// Threads that serve.
    pub threads: usize,
}

/// A segment takes at least four of the largest entries.
const LOG_SEGMENT_MIN: u64 = 8 << 20;

impl Default for MetaserverConfig {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("/var/lib/curve/metaserver"),
            zone: "default".into(),
            listen_address: "127.0.0.1:8400".into(),
            advertise_address: None,
            mds_addresses: Vec::new(),
            http_address: "127.0.0.1:8401".into(),
            cache: ByteSize(256 << 20),
            write_buffer: ByteSize(8 << 20),
            log_segment: ByteSize(32 << 20),
            log_size: ByteSize(1 << 30),
            checkpoint_after: ByteSize(32 << 20),
            log_keep: ByteSize(32 << 20),
            reserve: ByteSize(1 << 30),
            heartbeat_interval: HumanDuration(Duration::from_secs(1)),
            inflight_max: 8192,
            inflight_bytes_max: ByteSize(128 << 20),
            raft_heartbeat: HumanDuration(Duration::from_millis(200)),
            lease: HumanDuration(Duration::from_millis(800)),
            lease_reads: true,
            disk_timeout: HumanDuration(Duration::from_secs(2)),
            quiesce_after: HumanDuration(Duration::from_secs(5)),
            snapshot_rate: ByteSize(0),
            settle_after: HumanDuration(Duration::from_millis(200)),
            garbage_grace: HumanDuration(Duration::from_secs(60)),
            stage_for: HumanDuration(Duration::from_secs(5)),
            deletes_per_second: 1000,
            threads: 1,
        }
    }
}

impl MetaserverConfig {
    /// What others are told to call.
    pub fn advertised(&self) -> &str {
        self.advertise_address.as_deref().unwrap_or(&self.listen_address)
    }

    pub(crate) fn log(&self) -> LogConfig {
        LogConfig { segment_bytes: self.log_segment.0.max(LOG_SEGMENT_MIN), ..LogConfig::default() }
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
            quiesce_after: Some(self.quiesce_after.0).filter(|after| !after.is_zero()),
            checkpoint_log_bytes: self.checkpoint_after.0,
            log_keep_bytes: self.log_keep.0,
            log_segments_max: (self.log_size.0 / self.log().segment_bytes).max(4) as usize,
            snapshot_bytes_per_second: Some(self.snapshot_rate.0).filter(|rate| *rate > 0),
            ..RaftOptions::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_the_default_and_keys_are_checked() {
        let config: MetaserverConfig = curve_config::parse("", "c.toml").unwrap();
        assert_eq!(config.advertised(), "127.0.0.1:8400");
        let config: MetaserverConfig = curve_config::parse("lease = \"500ms\"\n", "c.toml").unwrap();
        assert_eq!(config.raft().election_max, Duration::from_millis(500));
        assert_eq!(config.raft().log_segments_max, 32);
        let error = curve_config::parse::<MetaserverConfig>("zoen = 1", "c.toml").unwrap_err();
        assert!(error.to_string().contains("zone"), "{error}");
    }
}
