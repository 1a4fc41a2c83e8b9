//! Why a call on a group failed; each variant is a thing the caller does next.

use std::io;

use curve_types::{GroupId, NodeId};
use thiserror::Error;

/// Why an operation was not proposed, or why its fate is unknown.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum ProposeError {
    /// Ask the hinted node. The operation may still be applied if it had been queued: retries must be idempotent.
    #[error("not the leader, {}", hint_text(*hint))]
    NotLeader {
        /// Who leads, as far as this node knows.
        hint: Option<NodeId>,
    },
    /// This node leads, or nobody does yet: try the same node again in a moment. The operation may still be applied.
    #[error("the group cannot commit at the moment")]
    Unavailable,
    /// The group was stopped or removed here, or its log or state machine failed.
    #[error("the group is stopped on this node")]
    Stopped,
    /// The operation can never fit a log entry.
    #[error("operation of {len} bytes is larger than the limit of {max}")]
    TooLarge {
        /// Its bytes.
        len: usize,
        /// The limit.
        max: usize,
    },
}

/// Why a read may not be served here.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum ReadError {
    /// Ask the hinted node.
    #[error("not the leader, {}", hint_text(*hint))]
    NotLeader {
        /// Who leads, as far as this node knows.
        hint: Option<NodeId>,
    },
    /// Leadership could not be confirmed in time: try the same node again in a moment.
    #[error("leadership could not be confirmed")]
    Unavailable,
    /// The group was stopped or removed here, or its log or state machine failed.
    #[error("the group is stopped on this node")]
    Stopped,
}

/// Why the membership or the leader was not changed.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum MembershipError {
    /// Ask the hinted node.
    #[error("not the leader, {}", hint_text(*hint))]
    NotLeader {
        /// Who leads, as far as this node knows.
        hint: Option<NodeId>,
    },
    /// Another change is in progress; try again when it is done.
    #[error("another membership change is in progress")]
    InProgress,
    /// The node did not catch up, or did not take over, in time. It stays what it was (a new member stays a learner
    /// and goes on catching up); try again.
    #[error("{node} did not catch up in time")]
    TooSlow {
        /// The node.
        node: NodeId,
    },
    /// The last member cannot be removed.
    #[error("the last member cannot be removed")]
    LastMember,
    /// The node is not a member.
    #[error("{node} is not a member")]
    NotMember {
        /// The node.
        node: NodeId,
    },
    /// The group cannot commit at the moment; try again.
    #[error("the group cannot commit at the moment")]
    Unavailable,
    /// The group was stopped or removed here, or its log or state machine failed.
    #[error("the group is stopped on this node")]
    Stopped,
}

/// Why a group was not created, opened or removed.
#[derive(Debug, Error)]
pub enum GroupError {
    /// A group with this id is open in this process.
    #[error("{0} is already open")]
    AlreadyOpen(GroupId),
    /// No group with this id is open in this process.
    #[error("{0} is not open")]
    NotOpen(GroupId),
    /// The process is shutting down, or its log failed.
    #[error("the node is stopped")]
    Stopped,
    /// What the log or the state machine recovered makes no sense together.
    #[error("{group} cannot be opened: {cause}")]
    Corrupt {
        /// The group.
        group: GroupId,
        /// What does not fit.
        cause: String,
    },
    /// The log or the state machine failed.
    #[error("{group}: {cause}")]
    Io {
        /// The group.
        group: GroupId,
        /// What the system said.
        cause: io::Error,
    },
}

fn hint_text(hint: Option<NodeId>) -> String {
    hint.map_or_else(|| "leader unknown".to_owned(), |node| format!("try {node}"))
}
