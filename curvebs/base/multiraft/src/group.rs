//! One group as its user sees it.

use curve_types::{GroupId, NodeId};
use tokio::sync::watch;

use crate::errors::{MembershipError, ProposeError, ReadError};
use crate::op::{Op, Proposed};
use crate::status::GroupStatus;

/// A replica of one group on this node. Cheap to clone; the group lives until `MultiRaft::remove_group` or `shutdown`.
#[derive(Clone)]
pub struct Group {}

impl Group {
    /// Which group this is.
    pub fn id(&self) -> GroupId {
        unimplemented!()
    }

    /// Has `op` committed and applied, and returns what the state machine said. Waits while the group's queue is full.
    /// Operations enter the log in the order in which their futures are first polled. Dropping the future does not
    /// withdraw the operation.
    pub async fn propose(&self, op: Op) -> Result<Proposed, ProposeError> {
        let _ = op;
        unimplemented!()
    }

    /// Returns when a read of this node's state machine sees everything that was acknowledged before the call. Needs
    /// no message while the leader's lease holds, else one round to a majority.
    pub async fn read_barrier(&self) -> Result<(), ReadError> {
        unimplemented!()
    }

    /// What this node knows of the group. Takes no message and no lock that is held for long.
    pub fn status(&self) -> GroupStatus {
        unimplemented!()
    }

    /// Follows who leads, as far as this node knows. `Some` of this node only once it may serve.
    pub fn watch_leader(&self) -> watch::Receiver<Option<NodeId>> {
        unimplemented!()
    }

    /// Hands leadership to `to` and returns when this node no longer leads.
    pub async fn transfer_leader(&self, to: NodeId) -> Result<(), MembershipError> {
        let _ = to;
        unimplemented!()
    }

    /// Adds a member: first as a learner, and as a voter once it has caught up. Its process must have called
    /// `MultiRaft::join_group`. Repeating it is harmless.
    pub async fn add_member(&self, node: NodeId) -> Result<(), MembershipError> {
        let _ = node;
        unimplemented!()
    }

    /// Removes a member or a learner. Repeating it is harmless. A leader that removes itself hands leadership over.
    pub async fn remove_member(&self, node: NodeId) -> Result<(), MembershipError> {
        let _ = node;
        unimplemented!()
    }

    /// Makes a checkpoint now and purges what the policy allows. The background task does it when it is needed.
    pub async fn checkpoint(&self) -> Result<(), ProposeError> {
        unimplemented!()
    }
}
