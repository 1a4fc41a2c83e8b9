//! What the log of a group is made of. Nothing here is public.
//!
//! Indices count from 1, as the log and the public types do; 0 stands for "none".

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

/// Who led when an entry was proposed. In one term there is at most one leader; logs of earlier versions may have two,
/// of which the one with the larger id came later.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct LeaderId {
    pub(crate) term: u64,
    pub(crate) node_id: u64,
}

/// One entry's place in history.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct LogId {
    pub(crate) leader_id: LeaderId,
    pub(crate) index: u64,
}

impl LogId {
    /// Before the first entry.
    pub(crate) const NONE: Self = Self { leader_id: LeaderId { term: 0, node_id: 0 }, index: 0 };

    /// `None` for [`NONE`](Self::NONE).
    pub(crate) fn some(self) -> Option<Self> {
        (self.index > 0).then_some(self)
    }
}

/// What a node has promised: to follow this leader, or to have voted for it. Node 0 stands for nobody.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Vote {
    pub(crate) leader_id: LeaderId,
    /// The node was known to lead, not only voted for.
    pub(crate) committed: bool,
}

/// What an entry holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Payload {
    /// Nothing: the first entry of a leader.
    Blank,
    /// Operations for the state machine.
    Ops(Batch),
    /// The same as this node's log holds it, without payloads that were placed elsewhere. Never leaves the node.
    Placed(Batch),
    /// Who the members are from here on.
    Membership(Membership),
}

/// One log entry. Clones share the bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub(crate) id: LogId,
    pub(crate) payload: Payload,
}

/// What an entry adds to a message's header besides its head.
const ENTRY_HEADER_BYTES: usize = 48;
/// What one member adds to an encoded membership, and the fixed part.
const MEMBER_BYTES: usize = 16;

impl Entry {
    /// About the bytes it adds to a message's header.
    pub(crate) fn head_bytes(&self) -> usize {
        ENTRY_HEADER_BYTES
            + match &self.payload {
                Payload::Blank => 0,
                Payload::Ops(batch) | Payload::Placed(batch) => batch.head.len(),
                Payload::Membership(membership) => MEMBER_BYTES * (membership.nodes.len() * 3 + 1),
            }
    }

    /// The bytes it adds to a message's payload.
    pub(crate) fn payload_bytes(&self) -> usize {
        match &self.payload {
            Payload::Ops(batch) | Payload::Placed(batch) => batch.payload_len(),
            Payload::Blank | Payload::Membership(_) => 0,
        }
    }
}

/// The operations of one log entry, encoded (see `format`). Clones share the bytes.
#[derive(Clone, PartialEq, Eq, Default)]
pub(crate) struct Batch {
    pub(crate) head: Bytes,
    pub(crate) payload: Arc<Vec<Bytes>>,
}

impl Batch {
    pub(crate) fn new(head: Bytes, payload: Vec<Bytes>) -> Self {
        Self { head, payload: Arc::new(payload) }
    }

    pub(crate) fn payload_len(&self) -> usize {
        self.payload.iter().map(Bytes::len).sum()
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "operations({} bytes)", self.head.len() + self.payload_len())
    }
}

/// Who votes and who only receives the log. Two sets of voters mean that a change is half way (joint consensus): both
/// must agree. This version changes one member at a time and writes one set; it reads two.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Membership {
    sets: Vec<BTreeSet<u64>>,
    nodes: BTreeSet<u64>,
}

impl Membership {
    /// `None` if a set is empty or names a node that `nodes` does not.
    pub(crate) fn new(sets: Vec<BTreeSet<u64>>, nodes: BTreeSet<u64>) -> Option<Self> {
        let sound = sets.iter().all(|set| !set.is_empty() && set.is_subset(&nodes));
        sound.then_some(Self { sets, nodes })
    }

    /// One set of voters and no learners.
    pub(crate) fn of(voters: BTreeSet<u64>) -> Self {
        Self { nodes: voters.clone(), sets: vec![voters] }
    }

    pub(crate) fn sets(&self) -> &[BTreeSet<u64>] {
        &self.sets
    }

    pub(crate) fn nodes(&self) -> &BTreeSet<u64> {
        &self.nodes
    }

    pub(crate) fn is_joint(&self) -> bool {
        self.sets.len() > 1
    }

    pub(crate) fn is_voter(&self, node: u64) -> bool {
        self.sets.iter().any(|set| set.contains(&node))
    }

    pub(crate) fn voters(&self) -> BTreeSet<u64> {
        self.sets.iter().flatten().copied().collect()
    }

    /// Members that are no voters, in order.
    pub(crate) fn learners(&self) -> impl Iterator<Item = u64> + '_ {
        self.nodes.iter().copied().filter(|node| !self.is_voter(*node))
    }

    /// Whether this node is the only voter.
    pub(crate) fn is_alone(&self, node: u64) -> bool {
        !self.sets.is_empty() && self.sets.iter().flatten().all(|voter| *voter == node)
    }

    /// The largest value that a majority of each set has reached; `None` without voters. Sets are small, so that
    /// comparing all pairs is quicker than sorting a copy.
    pub(crate) fn agreed<T: Ord + Copy>(&self, value: impl Fn(u64) -> T) -> Option<T> {
        let of_set = |set: &BTreeSet<u64>| {
            let reached = |bar: T| set.iter().filter(|voter| value(**voter) >= bar).count() * 2 > set.len();
            set.iter().map(|voter| value(*voter)).filter(|bar| reached(*bar)).max()
        };
        self.sets.iter().map(of_set).min().flatten()
    }

    /// With one more learner.
    pub(crate) fn with_learner(&self, node: u64) -> Self {
        let mut changed = self.clone();
        changed.nodes.insert(node);
        changed
    }

    /// With one more voter. Only of a membership with one set.
    pub(crate) fn with_voter(&self, node: u64) -> Self {
        let mut changed = self.with_learner(node);
        for set in &mut changed.sets {
            set.insert(node);
        }
        changed
    }

    /// Without a member; `None` if it is the last voter.
    pub(crate) fn without(&self, node: u64) -> Option<Self> {
        let mut changed = self.clone();
        changed.nodes.remove(&node);
        for set in &mut changed.sets {
            set.remove(&node);
        }
        changed.sets.iter().all(|set| !set.is_empty()).then_some(changed)
    }

    /// The end of a change that is half way.
    pub(crate) fn settled(&self) -> Self {
        let last = self.sets.last().cloned().into_iter().collect();
        Self { sets: last, nodes: self.nodes.clone() }
    }
}

/// The members and the entry that made them so.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct StoredMembership {
    /// [`LogId::NONE`] when no entry did.
    pub(crate) log_id: LogId,
    pub(crate) membership: Membership,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_of_each_set_must_agree() {
        let of = |sets: &[&[u64]]| {
            let sets: Vec<BTreeSet<u64>> = sets.iter().map(|set| set.iter().copied().collect()).collect();
            let nodes = sets.iter().flatten().copied().collect();
            Membership::new(sets, nodes).expect("sound")
        };
        // The value of a node is its id.
        for (sets, agreed) in [
            (&[&[1u64] as &[u64]] as &[&[u64]], 1),
            (&[&[1, 2]], 1),
            (&[&[1, 2, 3]], 2),
            (&[&[1, 2, 3, 4]], 2),
            (&[&[1, 2, 3, 4, 5]], 3),
            (&[&[1, 2, 3], &[3, 4, 5]], 2),
        ] {
            assert_eq!(of(sets).agreed(|node| node), Some(agreed), "{sets:?}");
        }
        assert_eq!(Membership::default().agreed(|node| node), None);
        assert!(
            of(&[&[1, 2, 3], &[3, 4]]).settled()
                == Membership { sets: vec![[3, 4].into()], nodes: (1..=4).collect() }
        );
        assert_eq!(of(&[&[1]]).without(1), None);
        assert!(Membership::new(vec![[1, 2].into()], [1].into()).is_none());
    }
}
