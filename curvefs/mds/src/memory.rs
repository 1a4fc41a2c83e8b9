//! What a leader knows and does not log: heartbeats, leases of mounts, steps under way. It begins empty with each term, and
//! everything in it is learnt again within a lease or a heartbeat.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use curve_proto::pb::fs::{MetaHeartbeat, MetaReplica};
use curve_sched::Step;

/// A step that has been ordered and not yet seen done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    /// Which.
    pub step: Step,
    /// Since when.
    pub since: Instant,
}

/// The last heartbeat of a metaserver.
#[derive(Clone, Debug)]
pub struct Seen {
    /// When it came.
    pub at: Instant,
    /// Since when it has been heard without a gap.
    pub since: Instant,
    /// What it said.
    pub heartbeat: MetaHeartbeat,
}

impl Seen {
    /// What it said of its replica of a partition.
    pub fn replica(&self, partition: u32) -> Option<&MetaReplica> {
        self.heartbeat.replicas.iter().find(|replica| replica.partition == partition)
    }
}

/// What the leader of one term knows.
#[derive(Debug)]
pub struct Memory {
    /// When this term's leadership was first noticed: nobody has been silent for longer.
    pub since: Instant,
    /// The last heartbeat of each metaserver.
    pub seen: BTreeMap<u64, Seen>,
    /// When each mount was last heard, or first noticed: so a new leader gives everybody a whole lease.
    pub mounts: BTreeMap<u64, Instant>,
    /// What is being done to partitions.
    pub running: BTreeMap<u32, Running>,
    /// Since when a member that is up has not had its replica.
    pub missing: BTreeMap<(u32, u64), Instant>,
    /// When leaders were last balanced.
    pub leaders_planned_at: Instant,
}

impl Memory {
    /// Nothing is known yet.
    pub fn new(now: Instant) -> Self {
        Self {
            since: now,
            seen: BTreeMap::new(),
            mounts: BTreeMap::new(),
            running: BTreeMap::new(),
            missing: BTreeMap::new(),
            leaders_planned_at: now,
        }
    }

    /// Takes in a heartbeat. One that comes after a gap of more than `gap` begins anew.
    pub fn hear(&mut self, heartbeat: MetaHeartbeat, gap: Duration, now: Instant) {
        let before = self.seen.get(&heartbeat.node);
        let before = before.filter(|seen| now.saturating_duration_since(seen.at) <= gap);
        let since = before.map_or(now, |seen| seen.since);
        self.seen.insert(heartbeat.node, Seen { at: now, since, heartbeat });
    }

    /// How long a metaserver has been silent, as far as this leader can know.
    pub fn silence(&self, node: u64, now: Instant) -> Duration {
        let heard = self.seen.get(&node).map_or(self.since, |seen| seen.at);
        now.saturating_duration_since(heard)
    }

    /// A mount is alive.
    pub fn touch(&mut self, mount: u64, now: Instant) {
        self.mounts.insert(mount, now);
    }

    /// What is left of a mount's lease; zero when it has run out.
    pub fn lease_left(&self, mount: u64, lease: Duration, now: Instant) -> Duration {
        let heard = self.mounts.get(&mount).copied().unwrap_or(now);
        lease.saturating_sub(now.saturating_duration_since(heard))
    }
}
