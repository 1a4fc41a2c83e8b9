//! Tunables of the Raft runtime.

use std::time::Duration;

use curve_types::FRAME_PAYLOAD_BYTES_MAX;

/// Tunables of the Raft runtime; the defaults are for a data centre network and a disk that syncs in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaftOptions {
    /// How often a leader of an active group is heard.
    pub heartbeat: Duration,
    /// A follower gives its vote to nobody else for `election_max` after it heard the leader (that is the leader's lease),
    /// and asks for votes itself after a further random time between `election_min` and `election_max`. So a lost leader
    /// is replaced after 1.2 to 1.6 s with the defaults.
    pub election_min: Duration,
    /// See `election_min`.
    pub election_max: Duration,
    /// How much of the lease is not used, for clocks that run at different rates.
    pub clock_margin: Duration,
    /// Whether the lease serves reads. Otherwise a majority is asked for each: a leader whose machine stood still together with
    /// its clock, as a frozen virtual machine does, takes its lease for valid although it is over.
    pub lease_reads: bool,
    /// A disk that something has waited for so long is taken for hung: others lead until it answers.
    pub disk_timeout: Duration,
    /// With less room than this on the disk, state machines change nothing, until there is twice as much; 0 for no such limit.
    pub room_min: u64,
    /// A group without proposals for this long stops its own timers; `None` keeps them on.
    pub quiesce_after: Option<Duration>,
    /// Operations in one log entry at most.
    pub entry_ops_max: usize,
    /// Bytes in one log entry at most; also the largest operation.
    pub entry_bytes_max: usize,
    /// Log entries of one group that are proposed and not yet applied, at most. Only large operations use more than one.
    pub rounds_in_flight_max: usize,
    /// Operations of one group that wait or are in flight, at most; further proposals wait.
    pub queue_ops_max: usize,
    /// Bytes of one group that wait or are in flight, at most; further proposals wait.
    pub queue_bytes_max: usize,
    /// A checkpoint is made when a group has logged this much since its last one.
    pub checkpoint_log_bytes: u64,
    /// Groups that hold back the oldest segments are checkpointed and purged when the shared log has more than this many
    /// segments, or when its disk is full.
    pub log_segments_max: usize,
    /// Entries before the checkpoint that are kept for followers that were away for a short time, at most.
    pub log_keep_entries: u64,
    /// Bytes of such entries per group, at most.
    pub log_keep_bytes: u64,
    /// How often the purge policy runs.
    pub purge_interval: Duration,
    /// Snapshot parts that are fetched at the same time by this node, at most.
    pub snapshot_parallel: usize,
    /// Bytes a second this node serves to followers that install snapshots; `None` for no limit.
    pub snapshot_bytes_per_second: Option<u64>,
    /// How long `add_member` waits for the new member to catch up. It goes on catching up when nobody waits any more, so
    /// this is short: who asks may want something else of the group meanwhile, for example that another member goes.
    pub catch_up_deadline: Duration,
}

impl RaftOptions {
    /// Raises times that would make leaders lose their groups for no reason: a follower must be able to miss a
    /// heartbeat, and a lease must outlive several.
    pub(crate) fn raised(mut self) -> Self {
        let heartbeat = self.heartbeat.max(Duration::from_millis(10));
        let election_min = self.election_min.max(heartbeat * 2);
        let election_max = self.election_max.max(election_min + heartbeat).max(heartbeat * 4);
        let clock_margin = self.clock_margin.min(election_max / 4);
        let times = |options: &Self| {
            [options.heartbeat, options.election_min, options.election_max, options.clock_margin]
        };
        let before = times(&self);
        self = Self { heartbeat, election_min, election_max, clock_margin, ..self };
        if before != times(&self) {
            tracing::warn!(
                ?heartbeat,
                ?election_min,
                ?election_max,
                ?clock_margin,
                "times were raised to fit each other"
            );
        }
        self
    }
}

impl Default for RaftOptions {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(200),
            election_min: Duration::from_millis(400),
            election_max: Duration::from_millis(800),
            clock_margin: Duration::from_millis(100),
            lease_reads: true,
            disk_timeout: Duration::from_secs(2),
            room_min: 8 << 20,
            quiesce_after: Some(Duration::from_secs(5)),
            entry_ops_max: 1024,
            entry_bytes_max: FRAME_PAYLOAD_BYTES_MAX,
            rounds_in_flight_max: 4,
            queue_ops_max: 4096,
            queue_bytes_max: 16 << 20,
            checkpoint_log_bytes: 64 << 20,
            log_segments_max: 32,
            log_keep_entries: 10_000,
            log_keep_bytes: 64 << 20,
            purge_interval: Duration::from_secs(1),
            snapshot_parallel: 4,
            snapshot_bytes_per_second: None,
            catch_up_deadline: Duration::from_secs(5),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_stay_and_times_that_do_not_fit_are_raised() {
        assert_eq!(RaftOptions::default().raised(), RaftOptions::default());
        let odd = RaftOptions {
            heartbeat: Duration::from_secs(1),
            clock_margin: Duration::from_secs(9),
            ..RaftOptions::default()
        };
        let raised = odd.raised();
        assert_eq!(raised.election_min, Duration::from_secs(2));
        assert_eq!(raised.election_max, Duration::from_secs(4));
        assert_eq!(raised.clock_margin, Duration::from_secs(1));
        let zero =
            RaftOptions { heartbeat: Duration::ZERO, election_max: Duration::ZERO, ..RaftOptions::default() };
        assert!(zero.raised().heartbeat > Duration::ZERO);
    }
}
