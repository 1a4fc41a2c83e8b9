//! All groups of one process.

use std::ops::Range;
use std::sync::Arc;

use curve_io::{Handler, Message, Network, Reply};
use curve_log::Log;
use curve_types::{GroupId, NodeId};

use crate::errors::GroupError;
use crate::group::Group;
use crate::options::RaftOptions;
use crate::state_machine::StateMachine;

/// The method numbers that belong to this crate: a process's handler routes them to [`MultiRaft::handle`].
pub const METHODS: Range<u16> = 0x100..0x200;

/// Where the members can be called. Asked before each call, so that an address may change.
pub trait AddressBook: Send + Sync + 'static {
    /// The address of a node's framed port; `None` while it is unknown.
    fn address(&self, node: NodeId) -> Option<String>;
}

/// All groups of one process, over one log.
pub struct MultiRaft {}

impl MultiRaft {
    /// Starts with no group. `seed` feeds all random draws (election timeouts). Must be called inside a tokio runtime.
    pub fn new(
        node: NodeId,
        log: Log,
        network: Arc<dyn Network>,
        addresses: Arc<dyn AddressBook>,
        seed: u64,
        options: RaftOptions,
    ) -> Arc<Self> {
        let _ = (node, log, network, addresses, seed, options);
        unimplemented!()
    }

    /// This process's id.
    pub fn node(&self) -> NodeId {
        unimplemented!()
    }

    /// Makes a new group. Every initial member calls it with the same list; it elects a leader once a majority has.
    /// Harmless when the group already exists in the log (then it is opened).
    pub async fn create_group(
        self: &Arc<Self>,
        group: GroupId,
        initial_members: &[NodeId],
        machine: Box<dyn StateMachine>,
    ) -> Result<Group, GroupError> {
        let _ = (group, initial_members, machine);
        unimplemented!()
    }

    /// Makes an empty replica that waits until the group's leader adds it.
    pub async fn join_group(
        self: &Arc<Self>,
        group: GroupId,
        machine: Box<dyn StateMachine>,
    ) -> Result<Group, GroupError> {
        let _ = (group, machine);
        unimplemented!()
    }

    /// Opens a replica after a restart.
    pub async fn open_group(
        self: &Arc<Self>,
        group: GroupId,
        machine: Box<dyn StateMachine>,
    ) -> Result<Group, GroupError> {
        let _ = (group, machine);
        unimplemented!()
    }

    /// Stops a replica and forgets its log. The state machine has been dropped when this returns.
    pub async fn remove_group(&self, group: GroupId) -> Result<(), GroupError> {
        let _ = group;
        unimplemented!()
    }

    /// An open group.
    pub fn group(&self, group: GroupId) -> Option<Group> {
        let _ = group;
        unimplemented!()
    }

    /// All open groups, in order of id.
    pub fn groups(&self) -> Vec<Group> {
        unimplemented!()
    }

    /// Takes a request whose method is in [`METHODS`]. Does not block.
    pub fn handle(&self, request: Message, reply: Box<dyn Reply>) {
        let _ = (request, reply);
        unimplemented!()
    }

    /// Hands leaderships over, then stops all groups. The log stays open: close it afterwards.
    pub async fn shutdown(&self) {
        unimplemented!()
    }
}

impl Handler for MultiRaft {
    fn handle(&self, request: Message, reply: Box<dyn Reply>) {
        Self::handle(self, request, reply);
    }
}
