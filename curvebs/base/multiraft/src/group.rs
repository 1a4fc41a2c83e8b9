//! One group as its user sees it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use curve_types::{GroupId, LogIndex, NodeId, Term};
use openraft::errors::{LinearizableReadError, RaftError};
use openraft::{AsyncRuntime, Instant as _, ReadPolicy, ServerState};
use openraft_rt::{Watch, WatchReceiver};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::errors::{MembershipError, ProposeError, ReadError};
use crate::flags::GroupFlags;
use crate::machine::MachineView;
use crate::op::{Op, Proposed};
use crate::options::RaftOptions;
use crate::proposer::Proposals;
use crate::source::Sources;
use crate::status::{GroupState, GroupStatus, PeerStatus, Role};
use crate::transport::Caller;
use crate::types::{C, LeaderId, Metrics, Raft, Runtime, public_index, public_index_of};

pub(crate) type MetricsReceiver = <<Runtime as AsyncRuntime>::Watch as Watch>::Receiver<Metrics>;

/// What all tasks of a group share.
pub(crate) struct Inner {
    pub(crate) id: GroupId,
    pub(crate) options: Arc<RaftOptions>,
    pub(crate) raft: Raft,
    pub(crate) caller: Caller,
    pub(crate) flags: Arc<GroupFlags>,
    pub(crate) view: Arc<MachineView>,
    pub(crate) sources: Arc<Sources>,
    pub(crate) proposals: Proposals,
    pub(crate) metrics: MetricsReceiver,
    /// Who leads; this node only once it may serve.
    pub(crate) leader: watch::Sender<Option<NodeId>>,
    pub(crate) stop: watch::Sender<bool>,
    pub(crate) failure: Mutex<Option<String>>,
    /// Until then, no vote is given: a leader may still read under a lease this node promised before a restart.
    pub(crate) votes_from: Instant,
    /// To whom leadership was handed last, for callers that come before the successor is heard of.
    pub(crate) successor: Mutex<Option<NodeId>>,
    /// One change of members or of the leader at a time.
    pub(crate) change: tokio::sync::Mutex<()>,
    pub(crate) install: Mutex<crate::install::Progress>,
    /// Closed when the state machine has been dropped.
    pub(crate) dropped: watch::Receiver<()>,
}

/// Whether this node may serve a read without asking anyone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Lease {
    Holds,
    Unsure,
    NotLeader(Option<NodeId>),
}

impl Inner {
    pub(crate) fn node(&self) -> NodeId {
        self.caller.node
    }

    /// Resolves when the group is stopped on this node.
    pub(crate) async fn stopped(&self) {
        let _ = self.stop.subscribe().wait_for(|stopped| *stopped).await;
    }

    pub(crate) fn is_stopped(&self) -> bool {
        *self.stop.borrow()
    }

    /// Who may be asked instead of this node.
    pub(crate) fn hint(&self) -> Option<NodeId> {
        let known = (*self.leader.borrow()).filter(|leader| *leader != self.node());
        known.or(*self.successor.lock().expect("never poisoned"))
    }

    /// The term this node leads, if it does.
    pub(crate) fn leading(&self) -> Option<LeaderId> {
        leading(&self.metrics.borrow_watched(), self.node())
    }

    fn lease(&self) -> Lease {
        let metrics = self.metrics.borrow_watched();
        let Some(leader) = leading(&metrics, self.node()) else {
            let other = metrics.current_leader.map(NodeId).filter(|leader| *leader != self.node());
            drop(metrics);
            return Lease::NotLeader(other.or_else(|| self.hint()));
        };
        // Without an entry of its own term applied, entries that an earlier leader acknowledged may be missing.
        if metrics.last_applied.map(|id| id.leader_id) != Some(leader) {
            return Lease::Unsure;
        }
        let mut voters = metrics.membership_config.voter_ids();
        if voters.next() == Some(self.node().get()) && voters.next().is_none() {
            return Lease::Holds;
        }
        // Read at each call: a process that was stopped for a while finds its lease over.
        let fresh = |age: Duration| age < self.options.election_max.saturating_sub(self.options.clock_margin);
        let acked = metrics.last_quorum_acked.as_ref().is_some_and(|acked| fresh(acked.elapsed()));
        if acked && self.flags.lease_reads_allowed(leader) { Lease::Holds } else { Lease::Unsure }
    }

    async fn read_index(&self) -> Result<(), ReadError> {
        match self.raft.ensure_linearizable(ReadPolicy::ReadIndex).await {
            Ok(_) => Ok(()),
            Err(RaftError::Fatal(_)) => Err(ReadError::Stopped),
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => {
                Err(ReadError::Unavailable)
            }
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                Err(ReadError::NotLeader { hint: forward.leader_id.map(NodeId).or_else(|| self.hint()) })
            }
        }
    }

    /// Turns the group's timers on if it sleeps; tells whether it did.
    pub(crate) fn rouse(&self) -> bool {
        let slept = self.flags.is_asleep() && self.flags.wake();
        if slept {
            self.raft.runtime_config().tick(true);
        }
        slept
    }

    /// Turns the group's timers on if it sleeps, and if this node leads it, waits for its lease to hold.
    pub(crate) async fn wake(&self) {
        self.flags.touch();
        if self.rouse() && self.leading().is_some() {
            self.wait_for_lease().await;
        }
    }

    /// After openraft refused a proposal since the leader's lease had lapsed: waits until a majority has been heard, or
    /// this node no longer leads, or some time has passed.
    pub(crate) async fn wait_for_lease(&self) {
        let mut metrics = self.metrics.clone();
        let deadline = Instant::now() + self.options.election_max;
        let fresh = self.options.heartbeat;
        while Instant::now() < deadline && self.raft.trigger().heartbeat().await.is_ok() {
            let heard = metrics.wait_until(|now| {
                now.last_quorum_acked.as_ref().is_some_and(|at| at.elapsed() < fresh)
                    || leading(now, self.node()).is_none()
            });
            if tokio::time::timeout(self.options.heartbeat / 4, heard).await.is_ok() {
                return;
            }
        }
    }

    pub(crate) fn state(&self) -> GroupState {
        if let Some(failure) = self.failure.lock().expect("never poisoned").clone() {
            return GroupState::Failed(failure);
        }
        match () {
            () if self.is_stopped() => GroupState::Stopped,
            () if self.flags.is_installing() => GroupState::Installing,
            () if self.flags.is_asleep() => GroupState::Quiescent,
            () => GroupState::Running,
        }
    }
}

/// The term this node leads, if it does.
pub(crate) fn leading(metrics: &Metrics, node: NodeId) -> Option<LeaderId> {
    let leader = metrics.vote.leader_id;
    (metrics.state == ServerState::Leader && metrics.vote.committed && leader.node_id == node.get())
        .then_some(leader)
}

/// A replica of one group on this node. Cheap to clone; the group lives until `MultiRaft::remove_group` or `shutdown`.
#[derive(Clone)]
pub struct Group {
    pub(crate) inner: Arc<Inner>,
}

impl Group {
    /// Which group this is.
    pub fn id(&self) -> GroupId {
        self.inner.id
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.inner.node()
    }

    /// Has `op` committed and applied, and returns what the state machine said. Waits while the group's queue is full.
    /// Operations enter the log in the order in which their futures are first polled. Dropping the future does not
    /// withdraw the operation.
    pub async fn propose(&self, op: Op) -> Result<Proposed, ProposeError> {
        let known = *self.inner.leader.borrow();
        match known {
            Some(leader) if leader != self.inner.node() => {
                Err(ProposeError::NotLeader { hint: Some(leader) })
            }
            _ if self.inner.is_stopped() => Err(ProposeError::Stopped),
            _ => self.inner.proposals.propose(op).await,
        }
    }

    /// Returns when a read of this node's state machine sees everything that was acknowledged before the call. Needs
    /// no message while the leader's lease holds, else one round to a majority.
    pub async fn read_barrier(&self) -> Result<(), ReadError> {
        if self.inner.is_stopped() {
            return Err(ReadError::Stopped);
        }
        self.inner.flags.touch();
        match self.inner.lease() {
            Lease::Holds => Ok(()),
            Lease::NotLeader(hint) => Err(ReadError::NotLeader { hint }),
            Lease::Unsure => {
                self.inner.wake().await;
                match self.inner.lease() {
                    Lease::Holds => Ok(()),
                    Lease::NotLeader(hint) => Err(ReadError::NotLeader { hint }),
                    Lease::Unsure => self.inner.read_index().await,
                }
            }
        }
    }

    /// What this node knows of the group. Takes no message and no lock that is held for long.
    pub fn status(&self) -> GroupStatus {
        let metrics = self.inner.metrics.borrow_watched();
        let node = self.inner.node().get();
        let membership = metrics.membership_config.membership();
        let peers = metrics.replication.iter().flatten().filter(|(peer, _)| **peer != node);
        GroupStatus {
            state: self.inner.state(),
            role: match metrics.state {
                ServerState::Leader => Role::Leader,
                ServerState::Candidate => Role::Candidate,
                ServerState::Follower => Role::Follower,
                ServerState::Learner | ServerState::Shutdown => Role::Learner,
            },
            leader: *self.inner.leader.borrow(),
            term: Term(metrics.current_term),
            last_log: LogIndex(metrics.last_log_index.map_or(0, public_index)),
            committed: LogIndex(public_index_of(metrics.local_committed)),
            applied: LogIndex(public_index_of(metrics.last_applied)),
            purged: LogIndex(public_index_of(metrics.purged)),
            members: membership.voter_ids().map(NodeId).collect(),
            learners: membership.learner_ids().map(NodeId).collect(),
            members_index: LogIndex(public_index_of(*metrics.membership_config.log_id())),
            peers: peers
                .map(|(peer, matched)| PeerStatus {
                    node: NodeId(*peer),
                    matched: LogIndex(public_index_of(*matched)),
                })
                .collect(),
        }
    }

    /// Follows who leads, as far as this node knows. `Some` of this node only once it may serve.
    pub fn watch_leader(&self) -> watch::Receiver<Option<NodeId>> {
        self.inner.leader.subscribe()
    }

    /// Hands leadership to `to` and returns when this node no longer leads.
    pub async fn transfer_leader(&self, to: NodeId) -> Result<(), MembershipError> {
        crate::membership::transfer(&self.inner, to).await
    }

    /// Adds a member: first as a learner, and as a voter once it has caught up. Its process must have called
    /// `MultiRaft::join_group`. Repeating it is harmless.
    pub async fn add_member(&self, node: NodeId) -> Result<(), MembershipError> {
        crate::membership::add(&self.inner, node).await
    }

    /// Removes a member or a learner. Repeating it is harmless. A leader that is to remove itself hands leadership over
    /// first and answers `NotLeader`; its successor removes it when asked again.
    pub async fn remove_member(&self, node: NodeId) -> Result<(), MembershipError> {
        crate::membership::remove(&self.inner, node).await
    }

    /// Makes a checkpoint now and purges what the policy allows. The background task does it when it is needed.
    pub async fn checkpoint(&self) -> Result<(), ProposeError> {
        crate::purge::checkpoint(&self.inner).await.map_err(|()| ProposeError::Stopped)
    }
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Group({})", self.inner.id)
    }
}

/// A metrics error that ends a group, as text for operators.
pub(crate) fn failure_of(metrics: &Metrics) -> Option<String> {
    metrics.running_state.as_ref().err().map(|fatal: &openraft::errors::Fatal<C>| fatal.to_string())
}
