//! The cluster as the leader sees it at one moment.

use std::collections::{BTreeMap, BTreeSet};

use curve_kv::KvError;
use curve_proto::mds::{ChunkserverState, ReplicaReport};
use curve_proto::pb::mds_state::{ChunkserverRow, CopysetRow};
use curve_sched::{ClusterView, CopysetView, DiskState, DiskView, Silences};
use curve_types::{CopysetId, NodeId, Term};
use tokio::time::Instant;

use crate::config::MdsConfig;
use crate::keys;
use crate::memory::Memory;
use crate::rows::{Rows, all};

/// At most this part of a disk is kept as reserve, so that small disks are usable.
const RESERVE_PART: u64 = 20;

/// Rows and heartbeats put together.
#[derive(Debug)]
pub(crate) struct Picture {
    pub now: Instant,
    pub chunkservers: BTreeMap<NodeId, ChunkserverRow>,
    pub copysets: BTreeMap<CopysetId, CopysetRow>,
    /// What planning looks at.
    pub view: ClusterView,
    /// The best report about each copyset: of the highest term, from the leader itself where it has reported.
    pub best: BTreeMap<CopysetId, (NodeId, ReplicaReport)>,
    /// Who has reported a replica of a copyset.
    pub reported: BTreeMap<CopysetId, BTreeSet<NodeId>>,
    /// Who has sent a heartbeat to this leader.
    pub heard: BTreeSet<NodeId>,
}

impl Picture {
    /// Takes the picture.
    pub(crate) fn take(
        rows: &(impl Rows + ?Sized),
        memory: &Memory,
        config: &MdsConfig,
        now: Instant,
    ) -> Result<Self, KvError> {
        let chunkservers: Vec<ChunkserverRow> = all(rows, &keys::chunkservers())?;
        let copysets: Vec<CopysetRow> = all(rows, &keys::copysets())?;
        let mut picture = Self {
            now,
            chunkservers: chunkservers.into_iter().map(|row| (NodeId(row.node), row)).collect(),
            copysets: copysets.into_iter().map(|row| (CopysetId(row.id), row)).collect(),
            view: ClusterView::default(),
            best: BTreeMap::new(),
            reported: BTreeMap::new(),
            heard: memory.seen.keys().copied().collect(),
        };
        picture.hear(memory, config);
        picture.view.disks =
            picture.chunkservers.iter().map(|(&node, row)| (node, disk(row, memory, config, now))).collect();
        picture.view.copysets =
            picture.copysets.iter().map(|(&id, row)| (id, picture.copyset(row, memory))).collect();
        Ok(picture)
    }

    fn hear(&mut self, memory: &Memory, config: &MdsConfig) {
        for (&node, seen) in &memory.seen {
            for replica in &seen.heartbeat.replicas {
                self.reported.entry(replica.copyset).or_default().insert(node);
                if memory.silence(node, self.now) > config.down_after.0 {
                    continue;
                }
                let rank = |node: NodeId, report: &ReplicaReport| {
                    (report.term, report.leader == Some(node), report.leader.is_some())
                };
                let better = self
                    .best
                    .get(&replica.copyset)
                    .is_none_or(|(other, report)| rank(node, replica) > rank(*other, report));
                if better {
                    self.best.insert(replica.copyset, (node, replica.clone()));
                }
            }
        }
    }

    fn copyset(&self, row: &CopysetRow, memory: &Memory) -> CopysetView {
        let id = CopysetId(row.id);
        CopysetView {
            members: row.members.iter().copied().map(NodeId).collect(),
            learners: row.learners.iter().copied().map(NodeId).collect(),
            leader: self.leader(id),
            running: memory.running.get(&id).map(|running| running.step),
        }
    }

    /// Who leads a copyset, when somebody that is heard from says so.
    pub(crate) fn leader(&self, copyset: CopysetId) -> Option<NodeId> {
        self.best.get(&copyset).and_then(|(_, report)| report.leader)
    }

    /// The report of a copyset's leader about itself.
    pub(crate) fn leader_report(&self, copyset: CopysetId) -> Option<(NodeId, &ReplicaReport)> {
        let (node, report) = self.best.get(&copyset)?;
        (report.leader == Some(*node)).then_some((*node, report))
    }

    /// Whether a chunkserver has reported a replica of a copyset.
    pub(crate) fn has_replica(&self, copyset: CopysetId, node: NodeId) -> bool {
        self.reported.get(&copyset).is_some_and(|nodes| nodes.contains(&node))
    }

    /// The state of a chunkserver as operators see it.
    pub(crate) fn state(&self, node: NodeId) -> ChunkserverState {
        match self.view.disks.get(&node).map(|disk| disk.state) {
            Some(DiskState::Up) => ChunkserverState::Up,
            Some(DiskState::Leaving) => ChunkserverState::Leaving,
            Some(DiskState::Down) => ChunkserverState::Down,
            Some(DiskState::Dead | DiskState::Gone) | None => ChunkserverState::Dead,
        }
    }

    /// Whether a chunkserver is heard from.
    pub(crate) fn is_heard(&self, node: NodeId) -> bool {
        matches!(self.state(node), ChunkserverState::Up | ChunkserverState::Leaving)
    }

    /// How many chunkservers are heard from.
    pub(crate) fn up(&self) -> usize {
        self.chunkservers.keys().filter(|&&node| self.is_heard(node)).count()
    }

    /// The term of the best report about a copyset.
    pub(crate) fn term(&self, copyset: CopysetId) -> Term {
        self.best.get(&copyset).map_or(Term(0), |(_, report)| report.term)
    }
}

fn disk(row: &ChunkserverRow, memory: &Memory, config: &MdsConfig, now: Instant) -> DiskView {
    let node = NodeId(row.node);
    let silence = memory.silence(node, now);
    let limits = Silences { down: config.down_after.0, dead: config.dead_after.0 };
    // A new chunkserver has its address: its disk was replaced or set aside.
    let state = DiskState::of(silence, limits, row.leaving, row.address.is_empty());
    let heartbeat = memory.seen.get(&node).map(|seen| &seen.heartbeat);
    // Nothing has been heard yet: assume that there is room, the chunkserver itself refuses when there is not.
    let (total, free) =
        heartbeat.map_or((row.total_bytes, row.total_bytes), |h| (h.total_bytes, h.free_bytes));
    DiskView {
        zone: row.zone.clone(),
        state,
        free_bytes: free,
        reserve_bytes: config.reserve.0.min(total / RESERVE_PART),
        reserve_low: heartbeat.is_some_and(|h| h.reserve_low),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::memory::LeaderMemory;

    #[tokio::test(start_paused = true)]
    async fn what_silence_means_depends_on_who_is_silent() {
        let config = MdsConfig::default();
        let short = config.down_after.0 / 2;
        let long = config.down_after.0 + Duration::from_secs(1);
        let row = |address: &str, leaving| ChunkserverRow {
            node: 1,
            address: address.into(),
            leaving,
            ..ChunkserverRow::default()
        };
        for (what, row, silence, expected) in [
            ("heard", row("a:1", false), short, DiskState::Up),
            ("silent", row("a:1", false), long, DiskState::Down),
            ("silent for very long", row("a:1", false), config.dead_after.0 * 2, DiskState::Dead),
            ("removed", row("a:1", true), short, DiskState::Leaving),
            ("removed and silent", row("a:1", true), long, DiskState::Dead),
            ("another has its address", row("", false), short, DiskState::Up),
            ("just replaced", row("", true), short, DiskState::Down),
            ("replaced", row("", true), long, DiskState::Gone),
        ] {
            let memory = LeaderMemory::new(1);
            let began = memory.peek(|memory| memory.since);
            let view = memory.peek(|memory| disk(&row, memory, &config, began + silence));
            assert_eq!(view.state, expected, "{what}");
        }
    }
}
