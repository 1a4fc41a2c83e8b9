//! One group as its user sees it.

use std::sync::{Arc, Mutex};

use curve_io::Pledge;
use curve_types::{GroupId, LogIndex, NodeId, Term};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};

use crate::driver::Input;
use crate::engine::Role as EngineRole;
use crate::errors::{MembershipError, ProposeError, ReadError};
use crate::flags::GroupFlags;
use crate::op::{Op, Proposed};
use crate::options::RaftOptions;
use crate::proposer::Room;
use crate::source::Sources;
use crate::stall::{DiskState, Stall};
use crate::status::{GroupState, GroupStatus, PeerStatus, Role};
use crate::transport::Caller;
use crate::types::LeaderId;
use crate::view::{Lease, Published};

/// What a group's task shares with those who call it.
pub(crate) struct Inner {
    pub(crate) id: GroupId,
    pub(crate) options: Arc<RaftOptions>,
    pub(crate) caller: Caller,
    pub(crate) flags: Arc<GroupFlags>,
    pub(crate) view: Published,
    pub(crate) sources: Arc<Sources>,
    /// The way to the group's task. Bounded by what goes in: proposals by `room`, a peer's messages by what it has in
    /// flight, the rest by being one at a time.
    pub(crate) inbox: mpsc::UnboundedSender<Input>,
    pub(crate) room: Room,
    /// Who leads; this node only once it may serve.
    pub(crate) leader: watch::Sender<Option<NodeId>>,
    pub(crate) stop: watch::Sender<bool>,
    pub(crate) failure: Mutex<Option<String>>,
    /// To whom leadership was handed last, for callers that come before the successor is heard of.
    pub(crate) successor: Mutex<Option<NodeId>>,
    /// One change of members or of the leader at a time.
    pub(crate) change: tokio::sync::Mutex<()>,
    pub(crate) stall: Arc<Stall>,
    pub(crate) install: Mutex<crate::install::Progress>,
    /// Closed when the state machine has been dropped.
    pub(crate) dropped: watch::Receiver<()>,
}

/// Whether this node may serve a read without asking anyone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Right {
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

    /// Tells the group's task something; it hears nothing any more when it has ended, which its callers see.
    pub(crate) fn tell(&self, input: Input) {
        let _ = self.inbox.send(input);
    }

    /// Who may be asked instead of this node.
    pub(crate) fn hint(&self) -> Option<NodeId> {
        let known = (*self.leader.borrow()).filter(|leader| *leader != self.node());
        known.or(*self.successor.lock().expect("never poisoned"))
    }

    /// The term this node leads, if it does.
    pub(crate) fn leading(&self) -> Option<LeaderId> {
        self.view.lock().leading()
    }

    fn right_to_read(&self) -> Right {
        let view = self.view.lock();
        let Some(leader) = view.leading() else {
            let other = view.leader.map(NodeId);
            drop(view);
            return Right::NotLeader(other.or_else(|| self.hint()));
        };
        let holds = match self.view.lease(&view, leader) {
            Lease::None => false,
            Lease::Always => true,
            // Read at each call: a process that was stopped for a while finds its lease over.
            Lease::Until(until) => Instant::now() < until,
        };
        if holds { Right::Holds } else { Right::Unsure }
    }

    /// Asks a majority whether this node leads.
    async fn read_by_message(&self) -> Result<(), ReadError> {
        let (tell, answer) = oneshot::channel();
        self.tell(Input::Read(tell));
        match timeout(self.options.election_max * 2, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(ReadError::Stopped),
            Err(_) => Err(ReadError::Unavailable),
        }
    }

    /// Turns the group's timers on if it sleeps.
    pub(crate) fn wake(&self) {
        self.flags.touch();
        if self.flags.is_asleep() && self.flags.wake() {
            self.tell(Input::Woken);
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
                return Err(ProposeError::NotLeader { hint: Some(leader) });
            }
            _ if self.inner.is_stopped() => return Err(ProposeError::Stopped),
            _ => {}
        }
        let (waiting, result) = self.inner.room.admit(op).await?;
        self.inner.tell(Input::Propose(waiting));
        result.await.unwrap_or(Err(ProposeError::Stopped))
    }

    /// Returns when a read of this node's state machine sees everything that was acknowledged before the call. Needs
    /// no message while the leader's lease holds, else one round to a majority.
    pub async fn read_barrier(&self) -> Result<(), ReadError> {
        if self.inner.is_stopped() {
            return Err(ReadError::Stopped);
        }
        self.inner.flags.touch();
        match self.inner.right_to_read() {
            Right::Holds => Ok(()),
            Right::NotLeader(hint) => Err(ReadError::NotLeader { hint }),
            Right::Unsure => self.inner.read_by_message().await,
        }
    }

    /// Has readers on this machine see on a board until when this node may serve reads. What was answered under the pledge
    /// ends with the term; whatever else ends it the caller counts itself. Once.
    pub fn pledge_on(&self, pledge: Arc<Pledge>) {
        self.inner.view.pledge_on(pledge);
    }

    /// What this node knows of the group. Takes no message and no lock that is held for long.
    pub fn status(&self) -> GroupStatus {
        let state = self.inner.state();
        let leader = *self.inner.leader.borrow();
        let view = self.inner.view.lock();
        let membership = &view.membership.membership;
        let peer =
            |(node, matched): &(u64, u64)| PeerStatus { node: NodeId(*node), matched: LogIndex(*matched) };
        GroupStatus {
            state,
            role: match view.role {
                EngineRole::Leader => Role::Leader,
                EngineRole::PreCandidate | EngineRole::Candidate => Role::Candidate,
                EngineRole::Follower => Role::Follower,
                EngineRole::Learner => Role::Learner,
            },
            leader,
            term: Term(view.term),
            last_log: LogIndex(view.last.index),
            committed: LogIndex(view.committed),
            applied: LogIndex(view.applied.index),
            purged: LogIndex(view.purged),
            members: membership.voters().into_iter().map(NodeId).collect(),
            learners: membership.learners().map(NodeId).collect(),
            members_index: LogIndex(view.membership.log_id.index),
            peers: view.peers.iter().map(peer).collect(),
        }
    }

    /// Follows who leads, as far as this node knows. `Some` of this node only once it may serve.
    pub fn watch_leader(&self) -> watch::Receiver<Option<NodeId>> {
        self.inner.leader.subscribe()
    }

    /// Follows how this node's disk is: what waits for one that hangs may give up, as this node gives up leading.
    pub fn watch_disk(&self) -> watch::Receiver<DiskState> {
        self.inner.stall.watch()
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
