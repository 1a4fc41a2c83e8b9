//! What goes into the engine and what comes out of it.

use std::time::Duration;

use crate::types::{Entry, LogId, Vote};

/// The time since some moment of this process, by its steady clock.
pub(crate) type Time = Duration;

/// Names a request that waits for its reply.
pub(crate) type Token = u64;

/// A leader's entries, or a sign of life without any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AppendRequest {
    pub(crate) term: u64,
    pub(crate) leader: u64,
    /// The entry before the first; [`LogId::NONE`] also when nothing is asked about the receiver's log.
    pub(crate) prev: LogId,
    pub(crate) entries: Vec<Entry>,
    pub(crate) commit: u64,
}

impl AppendRequest {
    /// The index of the last entry, or of the one before the first.
    pub(crate) fn last_index(&self) -> u64 {
        self.prev.index + self.entries.len() as u64
    }
}

/// A follower's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AppendReply {
    /// The logs are the same up to here, durably.
    Ok { matched: u64 },
    /// The logs differ at `prev`; they may be the same up to here.
    Conflict { hint: u64 },
    /// There is a higher term.
    Higher { term: u64 },
}

/// A candidate's question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VoteRequest {
    /// The term it would lead.
    pub(crate) term: u64,
    pub(crate) candidate: u64,
    pub(crate) last: LogId,
    /// The leader of the term before has asked for it, so its lease is no obstacle.
    pub(crate) transfer: bool,
    /// Only asks what the answer would be; changes nothing.
    pub(crate) pre: bool,
}

/// A voter's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VoteReply {
    /// The voter's own term.
    pub(crate) term: u64,
    pub(crate) granted: bool,
}

/// A leader asks its successor to stand for election.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TransferRequest {
    pub(crate) term: u64,
    pub(crate) leader: u64,
    /// What the successor's log must hold.
    pub(crate) last: LogId,
}

/// What must be remembered of a sent append to make sense of its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    /// The term it was sent in.
    pub(crate) term: u64,
    /// Grows with each message of a leader.
    pub(crate) seq: u64,
    /// When it was sent.
    pub(crate) at: Time,
    pub(crate) prev: u64,
    pub(crate) last: u64,
}

/// A request to a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Append(AppendRequest, Sent),
    Vote(VoteRequest),
}

/// A reply to a peer's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Append(AppendReply),
    Vote(VoteReply),
}

/// Something to be done to the log. Writes become durable in the order of their numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Write {
    /// To be told to [`Core::flushed`](super::Core::flushed).
    pub(crate) io: u64,
    pub(crate) kind: WriteKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WriteKind {
    Vote(Vote),
    Append(Vec<Entry>),
    /// Remove all entries after this index.
    Truncate(u64),
}

/// What the engine wants done, in this order: writes begin, then messages leave.
#[derive(Default, Debug)]
pub(crate) struct Actions {
    pub(crate) writes: Vec<Write>,
    pub(crate) replies: Vec<(Token, Reply)>,
    pub(crate) sends: Vec<(u64, Message)>,
    /// Entries to read from the log for a peer, from this index on.
    pub(crate) fetches: Vec<(u64, u64)>,
    /// Peers that need a snapshot.
    pub(crate) snapshots: Vec<u64>,
    /// Reads by message that may be served once what is committed now is applied, and what that is.
    pub(crate) reads: Vec<(u64, u64)>,
    /// This node stopped leading: what waits for it will not be answered by it.
    pub(crate) resigned: bool,
}

/// A change of members, by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    AddLearner(u64),
    /// Makes a learner a voter.
    Promote(u64),
    Remove(u64),
}
