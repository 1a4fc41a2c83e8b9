//! What the plans are made from, and what they are made of.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use curve_types::{CopysetId, NodeId};

/// Replicas of a copyset.
pub const REPLICAS: usize = 3;

/// Whether a disk can be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskState {
    /// It is heard from.
    Up,
    /// It is not heard from, and may come back.
    Down,
    /// It has been silent for so long that its replicas are rebuilt elsewhere.
    Dead,
    /// It was replaced and will never come back.
    Gone,
    /// The operator takes it out of service.
    Leaving,
}

/// After how much silence a disk counts as what.
#[derive(Clone, Copy, Debug)]
pub struct Silences {
    /// As down.
    pub down: Duration,
    /// As dead.
    pub dead: Duration,
}

impl DiskState {
    /// What silence means. `leaving`: the operator, or a replacement, takes the disk out of service. `replaced`: another server
    /// has its address, so it will never come back.
    pub fn of(silence: Duration, limits: Silences, leaving: bool, replaced: bool) -> Self {
        let silent = silence > limits.down;
        // Who leaves and is gone need not be waited for. Until it is certain that a replaced one is gone nothing is done for
        // it: a member that is added beside it could be lost as well, and the two that are left would be no majority of four.
        if leaving && replaced {
            if silent { Self::Gone } else { Self::Down }
        } else if silence > limits.dead || (silent && leaving) {
            Self::Dead
        } else if silent {
            Self::Down
        } else if leaving {
            Self::Leaving
        } else {
            Self::Up
        }
    }
}

/// One disk: one chunkserver.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiskView {
    /// Its failure domain.
    pub zone: String,
    /// Whether it can be used.
    pub state: DiskState,
    /// Bytes free.
    pub free_bytes: u64,
    /// Bytes that must stay free.
    pub reserve_bytes: u64,
    /// The chunkserver itself says that it takes no new data.
    pub reserve_low: bool,
}

impl DiskView {
    /// Bytes that new data may use.
    pub fn usable_bytes(&self) -> u64 {
        if self.reserve_low { 0 } else { self.free_bytes.saturating_sub(self.reserve_bytes) }
    }

    fn takes_replicas(&self) -> bool {
        self.state == DiskState::Up && self.usable_bytes() > 0
    }
}

/// One copyset.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CopysetView {
    /// The voting members.
    pub members: Vec<NodeId>,
    /// Members that only learn.
    pub learners: Vec<NodeId>,
    /// Who leads, when that is known.
    pub leader: Option<NodeId>,
    /// What is being done to it already.
    pub running: Option<Step>,
}

/// Everything a plan may depend on.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ClusterView {
    /// All disks.
    pub disks: BTreeMap<NodeId, DiskView>,
    /// All copysets.
    pub copysets: BTreeMap<CopysetId, CopysetView>,
}

/// One change to one copyset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Add a member.
    Add(NodeId),
    /// Remove a member.
    Remove(NodeId),
    /// Hand leadership over.
    Transfer(NodeId),
}

/// A step and the copyset that it is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Operator {
    /// Which copyset.
    pub copyset: CopysetId,
    /// What to do.
    pub step: Step,
}

impl ClusterView {
    /// Whether a disk is up.
    pub fn is_up(&self, node: NodeId) -> bool {
        self.disks.get(&node).is_some_and(|disk| disk.state == DiskState::Up)
    }

    /// Whether a majority of the copyset's members is up.
    pub fn has_quorum(&self, copyset: &CopysetView) -> bool {
        let reachable = |node: &&NodeId| {
            self.disks.get(node).is_some_and(|disk| matches!(disk.state, DiskState::Up | DiskState::Leaving))
        };
        copyset.members.iter().filter(reachable).count() > copyset.members.len() / 2
    }

    /// Disks that may get new replicas, in order of id.
    pub(crate) fn targets(&self) -> BTreeSet<NodeId> {
        self.disks.iter().filter(|(_, disk)| disk.takes_replicas()).map(|(&node, _)| node).collect()
    }

    pub(crate) fn zone(&self, node: NodeId) -> &str {
        self.disks.get(&node).map_or("", |disk| &disk.zone)
    }

    /// How many replicas each disk has, running additions included.
    pub(crate) fn replica_counts(&self) -> BTreeMap<NodeId, usize> {
        let mut counts: BTreeMap<NodeId, usize> = self.disks.keys().map(|&node| (node, 0)).collect();
        for copyset in self.copysets.values() {
            let adding = match copyset.running {
                Some(Step::Add(node)) if !copyset.members.contains(&node) => Some(node),
                _ => None,
            };
            for node in copyset.members.iter().copied().chain(adding) {
                *counts.entry(node).or_default() += 1;
            }
        }
        counts
    }
}
