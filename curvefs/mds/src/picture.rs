//! Everything as the leader sees it at one moment.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use curve_kv::KvError;
use curve_proto::pb::fs::{MetaReplica, MetaserverState};
use curve_proto::pb::mds_state::{FsCountersRow, FsMetaserverRow, FsMountRow, FsPartitionRow, FsSystemRow};
use curve_rows::{Rows, all, get};
use curve_sched::{ClusterView, CopysetView, DiskState, DiskView, Silences};
use curve_types::{CopysetId, NodeId};

use crate::keys;
use crate::memory::Memory;
use crate::times::Times;

/// Bytes of a metaserver's disk that replicas must leave free, and the part of the disk that is kept at most.
const RESERVE_BYTES: u64 = 1 << 30;
const RESERVE_PART: u64 = 20;

/// Rows and heartbeats put together. For the scheduler a partition is a copyset and a metaserver a disk: groups with three
/// members.
#[derive(Debug)]
pub struct Picture {
    /// When it was taken.
    pub now: Instant,
    /// All metaservers.
    pub metaservers: BTreeMap<u64, FsMetaserverRow>,
    /// All file systems.
    pub systems: BTreeMap<u32, FsSystemRow>,
    /// All partitions.
    pub partitions: BTreeMap<u32, FsPartitionRow>,
    /// All mounts.
    pub mounts: BTreeMap<u64, FsMountRow>,
    /// No partition has had this id or a later one.
    pub next_partition: u32,
    /// What planning looks at: without the partitions of file systems that are being deleted.
    pub view: ClusterView,
    /// The best report about each partition: of the highest term, from the leader itself where it has reported.
    pub best: BTreeMap<u32, (u64, MetaReplica)>,
    /// Who has reported a replica of a partition.
    pub reported: BTreeMap<u32, BTreeSet<u64>>,
    /// Who has sent a heartbeat to this leader.
    pub heard: BTreeSet<u64>,
}

/// A partition as the scheduler names it.
pub(crate) fn group(partition: u32) -> CopysetId {
    CopysetId(partition)
}

pub(crate) fn nodes(numbers: &[u64]) -> Vec<NodeId> {
    numbers.iter().copied().map(NodeId).collect()
}

impl Picture {
    /// Takes the picture.
    pub fn take(
        rows: &(impl Rows + ?Sized),
        memory: &Memory,
        times: &Times,
        now: Instant,
    ) -> Result<Self, KvError> {
        let metaservers: Vec<FsMetaserverRow> = all(rows, &keys::metaservers())?;
        let systems: Vec<FsSystemRow> = all(rows, &keys::systems())?;
        let partitions: Vec<FsPartitionRow> = all(rows, &keys::partitions())?;
        let mounts: Vec<FsMountRow> = all(rows, &keys::mounts())?;
        let counters: FsCountersRow = get(rows, &keys::counters())?.unwrap_or_default();
        let mut picture = Self {
            now,
            metaservers: metaservers.into_iter().map(|row| (row.node, row)).collect(),
            systems: systems.into_iter().map(|row| (row.id, row)).collect(),
            partitions: partitions.into_iter().map(|row| (row.id, row)).collect(),
            mounts: mounts.into_iter().map(|row| (row.id, row)).collect(),
            next_partition: counters.next_partition,
            view: ClusterView::default(),
            best: BTreeMap::new(),
            reported: BTreeMap::new(),
            heard: memory.seen.keys().copied().collect(),
        };
        picture.hear(memory, times);
        let disks = picture.metaservers.values().map(|row| (NodeId(row.node), disk(row, memory, times, now)));
        picture.view.disks = disks.collect();
        let alive = picture.partitions.values().filter(|row| !picture.is_doomed(row));
        picture.view.copysets = alive.map(|row| (group(row.id), picture.copyset(row, memory))).collect();
        Ok(picture)
    }

    fn hear(&mut self, memory: &Memory, times: &Times) {
        let rank = |node: u64, report: &MetaReplica| (report.term, report.leader == node, report.leader != 0);
        for (&node, seen) in &memory.seen {
            for replica in &seen.heartbeat.replicas {
                self.reported.entry(replica.partition).or_default().insert(node);
                if memory.silence(node, self.now) > times.down_after {
                    continue;
                }
                let known = self.best.get(&replica.partition);
                if known.is_none_or(|(other, report)| rank(node, replica) > rank(*other, report)) {
                    self.best.insert(replica.partition, (node, replica.clone()));
                }
            }
        }
    }

    fn copyset(&self, row: &FsPartitionRow, memory: &Memory) -> CopysetView {
        CopysetView {
            members: nodes(&row.members),
            learners: nodes(&row.learners),
            leader: self.leader(row.id).map(NodeId),
            running: memory.running.get(&row.id).map(|running| running.step),
        }
    }

    /// Whether a partition's file system is being deleted.
    pub fn is_doomed(&self, row: &FsPartitionRow) -> bool {
        self.systems.get(&row.fs).is_none_or(|system| system.deleting)
    }

    /// The partitions of a file system.
    pub fn partitions_of(&self, fs: u32) -> impl Iterator<Item = &FsPartitionRow> {
        self.partitions.values().filter(move |row| row.fs == fs)
    }

    /// The mounts of a file system.
    pub fn mounts_of(&self, fs: u32) -> impl Iterator<Item = &FsMountRow> {
        self.mounts.values().filter(move |row| row.fs == fs)
    }

    /// Who leads a partition, when somebody that is heard from says so.
    pub fn leader(&self, partition: u32) -> Option<u64> {
        self.best.get(&partition).map(|(_, report)| report.leader).filter(|&leader| leader != 0)
    }

    /// The report of a partition's leader about itself.
    pub fn leader_report(&self, partition: u32) -> Option<(u64, &MetaReplica)> {
        let (node, report) = self.best.get(&partition)?;
        (report.leader == *node).then_some((*node, report))
    }

    /// Whether a metaserver has reported a replica of a partition.
    pub fn has_replica(&self, partition: u32, node: u64) -> bool {
        self.reported.get(&partition).is_some_and(|nodes| nodes.contains(&node))
    }

    /// The state of a metaserver as operators see it.
    pub fn state(&self, node: u64) -> MetaserverState {
        match self.view.disks.get(&NodeId(node)).map(|disk| disk.state) {
            Some(DiskState::Up) => MetaserverState::MetaserverUp,
            Some(DiskState::Leaving) => MetaserverState::MetaserverLeaving,
            Some(DiskState::Down) => MetaserverState::MetaserverDown,
            Some(DiskState::Dead | DiskState::Gone) | None => MetaserverState::MetaserverDead,
        }
    }

    /// Whether a metaserver is heard from.
    pub fn is_heard(&self, node: u64) -> bool {
        matches!(self.state(node), MetaserverState::MetaserverUp | MetaserverState::MetaserverLeaving)
    }

    /// Whether a metaserver has spoken to this leader and takes new replicas.
    pub fn is_usable(&self, node: u64) -> bool {
        self.heard.contains(&node) && self.view.is_up(NodeId(node))
    }

    /// Whether something is about to happen that metaservers should hear of soon: partitions that are being made or have
    /// no leader, mounts and file systems that end.
    pub fn has_news(&self) -> bool {
        let unsettled = |row: &FsPartitionRow| !row.created || self.leader(row.id).is_none();
        self.partitions.values().any(unsettled)
            || self.mounts.values().any(|row| row.ending)
            || self.systems.values().any(|row| row.deleting)
    }

    /// How many metaservers are heard from.
    pub fn up(&self) -> usize {
        self.metaservers.keys().filter(|&&node| self.is_heard(node)).count()
    }
}

fn disk(row: &FsMetaserverRow, memory: &Memory, times: &Times, now: Instant) -> DiskView {
    let silence = memory.silence(row.node, now);
    let limits = Silences { down: times.down_after, dead: times.dead_after };
    // A new metaserver has its address: it will not come back.
    let state = DiskState::of(silence, limits, row.leaving, row.address.is_empty());
    let seen = memory.seen.get(&row.node).map(|seen| &seen.heartbeat);
    // Nothing has been heard yet: assume that there is room.
    let (total, free) = seen.map_or((row.total_bytes, row.total_bytes), |h| (h.total_bytes, h.free_bytes));
    DiskView {
        zone: row.zone.clone(),
        state,
        free_bytes: free,
        reserve_bytes: RESERVE_BYTES.min(total / RESERVE_PART),
        reserve_low: seen.is_some_and(|h| h.reserve_low),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_silence_means_depends_on_who_is_silent() {
        let seconds = Duration::from_secs;
        let times = Times {
            heartbeat_interval: seconds(1),
            down_after: seconds(3),
            dead_after: seconds(60),
            grace_after_failover: seconds(10),
            lost_replica_after: seconds(30),
            mount_lease: seconds(10),
        };
        let row = |address: &str, leaving| FsMetaserverRow {
            node: 1,
            address: address.into(),
            leaving,
            ..Default::default()
        };
        for (what, row, silence, expected) in [
            ("heard", row("a:1", false), 2, DiskState::Up),
            ("silent", row("a:1", false), 4, DiskState::Down),
            ("silent for very long", row("a:1", false), 61, DiskState::Dead),
            ("removed", row("a:1", true), 2, DiskState::Leaving),
            ("removed and silent", row("a:1", true), 4, DiskState::Dead),
            ("just replaced", row("", true), 2, DiskState::Down),
            ("replaced", row("", true), 4, DiskState::Gone),
        ] {
            let began = Instant::now();
            let view = disk(&row, &Memory::new(began), &times, began + seconds(silence));
            assert_eq!(view.state, expected, "{what}");
        }
    }
}
