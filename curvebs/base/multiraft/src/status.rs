//! What a group says about itself.

use curve_types::{LogIndex, NodeId, Term};

/// What this node is in a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Proposes and serves reads.
    Leader,
    /// Votes.
    Follower,
    /// Asks for votes.
    Candidate,
    /// Receives the log and does not vote.
    Learner,
}

/// Whether the group works on this node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum GroupState {
    /// It works.
    Running,
    /// It works, and its timers are off since nothing happens.
    Quiescent,
    /// It receives a snapshot.
    Installing,
    /// It was stopped or removed.
    Stopped,
    /// Its log or state machine failed; the text says how.
    Failed(String),
}

/// How far another member is, as the leader knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerStatus {
    /// The member.
    pub node: NodeId,
    /// Its log is known to equal the leader's up to here; 0 when nothing is known.
    pub matched: LogIndex,
}

/// A group as one node sees it. Cheap to get.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupStatus {
    /// Whether it works here.
    pub state: GroupState,
    /// What this node is in it.
    pub role: Role,
    /// Who leads, as far as this node knows.
    pub leader: Option<NodeId>,
    /// The current term.
    pub term: Term,
    /// The last entry in this node's log.
    pub last_log: LogIndex,
    /// The last entry known to be committed.
    pub committed: LogIndex,
    /// The last entry applied here.
    pub applied: LogIndex,
    /// The last entry that is only in snapshots; 0 when the log is complete.
    pub purged: LogIndex,
    /// Who votes, in order of id.
    pub members: Vec<NodeId>,
    /// Who receives the log and does not vote, in order of id.
    pub learners: Vec<NodeId>,
    /// Where the index of the members in force is: grows with each change of members.
    pub members_index: LogIndex,
    /// How far the others are; empty unless this node leads.
    pub peers: Vec<PeerStatus>,
}
