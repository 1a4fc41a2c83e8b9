//! What a leader knows and does not log: heartbeats, leases, steps under way. It begins empty with each term, and
//! everything in it is learnt again within a lease or a heartbeat.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use curve_proto::mds::{Heartbeat, IscsiSession, ReplicaReport};
use curve_proto::pb::mds::PeerPong;
use curve_sched::Step;
use curve_types::{CopysetId, NodeId, Term};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::Instant;

/// A step that has been ordered and not yet seen done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Running {
    pub step: Step,
    pub since: Instant,
}

/// The last answer of another MDS.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    pub at: Instant,
    pub pong: PeerPong,
}

/// The last heartbeat of a chunkserver.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub at: Instant,
    /// Since when it has been heard without a gap.
    pub since: Instant,
    pub heartbeat: Heartbeat,
}

impl Seen {
    /// What it said of its replica of a copyset.
    pub(crate) fn replica(&self, copyset: CopysetId) -> Option<&ReplicaReport> {
        self.heartbeat.replicas.iter().find(|replica| replica.copyset == copyset)
    }
}

/// What an iSCSI gateway last said.
#[derive(Clone, Debug)]
pub(crate) struct HeardGateway {
    pub at: Instant,
    pub incarnation: u64,
    /// Its sessions; `None` until it has told.
    pub sessions: Option<Vec<IscsiSession>>,
}

/// What the leader of one term knows.
#[derive(Debug)]
pub(crate) struct Memory {
    pub term: Term,
    /// When this term's leadership was first noticed: nobody has been silent for longer.
    pub since: Instant,
    pub seen: BTreeMap<NodeId, Seen>,
    /// When each session was last refreshed, by volume and client.
    pub refreshed: BTreeMap<(u64, u64), Instant>,
    /// When each iSCSI gateway was last heard, by number, and in which life.
    pub gateways: BTreeMap<u16, HeardGateway>,
    pub running: BTreeMap<CopysetId, Running>,
    /// Since when a member that is up has not had its replica.
    pub missing: BTreeMap<(CopysetId, NodeId), Instant>,
    pub registered_at: Instant,
    pub leaders_planned_at: Instant,
    /// What other MDSs last answered.
    pub peers: BTreeMap<NodeId, Peer>,
    /// What concerns file systems.
    pub fs: curvefs_mds::Memory,
    pub rng: StdRng,
}

impl Memory {
    fn new(term: Term, seed: u64) -> Self {
        let now = Instant::now();
        Self {
            term,
            since: now,
            seen: BTreeMap::new(),
            refreshed: BTreeMap::new(),
            gateways: BTreeMap::new(),
            running: BTreeMap::new(),
            missing: BTreeMap::new(),
            registered_at: now,
            leaders_planned_at: now,
            peers: BTreeMap::new(),
            fs: curvefs_mds::Memory::new(now.into_std()),
            rng: StdRng::seed_from_u64(seed ^ term.get().wrapping_mul(0x9E37_79B9_7F4A_7C15)),
        }
    }

    /// Takes in a heartbeat. One that comes after a gap of more than `gap` begins anew.
    pub(crate) fn hear(&mut self, heartbeat: Heartbeat, gap: Duration, now: Instant) {
        let before =
            self.seen.get(&heartbeat.node).filter(|seen| now.saturating_duration_since(seen.at) <= gap);
        let since = before.map_or(now, |seen| seen.since);
        self.seen.insert(heartbeat.node, Seen { at: now, since, heartbeat });
    }

    /// How long a chunkserver has been silent, as far as this leader can know.
    pub(crate) fn silence(&self, node: NodeId, now: Instant) -> Duration {
        let heard = self.seen.get(&node).map_or(self.since, |seen| seen.at);
        now.saturating_duration_since(heard)
    }

    /// Forgets refreshes that are too old to matter: a lease that has run out looks the same without them.
    pub(crate) fn forget_refreshes(&mut self, lease: Duration, now: Instant) {
        self.refreshed.retain(|_, at| now.saturating_duration_since(*at) <= lease);
    }

    /// A gateway is alive.
    pub(crate) fn hear_gateway(&mut self, number: u16, incarnation: u64, now: Instant) -> &mut HeardGateway {
        let fresh = || HeardGateway { at: now, incarnation, sessions: None };
        let heard = self.gateways.entry(number).or_insert_with(fresh);
        if heard.incarnation != incarnation {
            *heard = fresh();
        }
        heard.at = now;
        heard
    }

    /// What is left of the lease of one life of a gateway; zero when it has run out. As with sessions, a leader gives
    /// everybody a whole lease first.
    pub(crate) fn gateway_lease_left(
        &self,
        number: u16,
        incarnation: u64,
        lease: Duration,
        now: Instant,
    ) -> Duration {
        let heard = self.gateways.get(&number).filter(|heard| heard.incarnation == incarnation);
        let at = heard.map_or(self.since, |heard| heard.at);
        lease.saturating_sub(now.saturating_duration_since(at))
    }

    /// What is left of a session's lease; zero when it has run out. A leader gives every session a whole lease first.
    pub(crate) fn lease_left(&self, volume: u64, client: u64, lease: Duration, now: Instant) -> Duration {
        let refreshed = self.refreshed.get(&(volume, client)).copied().unwrap_or(self.since);
        lease.saturating_sub(now.saturating_duration_since(refreshed))
    }
}

/// The memory of this node while it leads. The lock is held for short, synchronous steps only.
pub(crate) struct LeaderMemory {
    seed: u64,
    memory: Mutex<Memory>,
}

impl LeaderMemory {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, memory: Mutex::new(Memory::new(Term(0), seed)) }
    }

    /// Looks at, or changes, what the leader of `term` knows; an older term's knowledge is forgotten first.
    pub(crate) fn with<R>(&self, term: Term, act: impl FnOnce(&mut Memory) -> R) -> R {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        if memory.term < term {
            *memory = Memory::new(term, self.seed);
        }
        act(&mut memory)
    }

    /// Looks at it, whatever term it is of.
    pub(crate) fn peek<R>(&self, look: impl FnOnce(&Memory) -> R) -> R {
        look(&self.memory.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_new_term_begins_with_a_whole_lease_for_everybody() {
        let memory = LeaderMemory::new(1);
        let lease = Duration::from_secs(10);
        memory.with(Term(1), |m| m.refreshed.insert((1, 1), Instant::now()));
        tokio::time::advance(Duration::from_secs(11)).await;
        let left = |term| memory.with(term, |m| m.lease_left(1, 1, lease, Instant::now()));
        assert_eq!(left(Term(1)), Duration::ZERO);
        memory.with(Term(1), |m| m.forget_refreshes(lease, Instant::now()));
        assert!(memory.with(Term(1), |m| m.refreshed.is_empty()));
        assert_eq!(left(Term(1)), Duration::ZERO);
        assert_eq!(left(Term(2)), lease);
        tokio::time::advance(Duration::from_secs(4)).await;
        assert_eq!(left(Term(2)), Duration::from_secs(6));
        tokio::time::advance(Duration::from_secs(7)).await;
        assert_eq!(left(Term(2)), Duration::ZERO);
    }
}
