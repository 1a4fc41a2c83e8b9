//! What travels through a group: operations in, results out.

use bytes::Bytes;
use curve_types::{LogIndex, Term};

/// One operation of one client. Many travel in one log entry. The header is the state machine's own encoding; the
/// payload is never copied between the socket, the log and the state machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Op {
    /// What to do, in the state machine's encoding.
    pub header: Bytes,
    /// Raw bytes that go with it, in parts that follow each other.
    pub payload: Vec<Bytes>,
}

impl Op {
    /// Bytes of header and payload.
    pub fn len(&self) -> usize {
        self.header.len() + self.payload.iter().map(Bytes::len).sum::<usize>()
    }

    /// Whether header and payload are empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One committed log entry, as the state machine sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Its place in the log. Strictly growing over calls of `apply`, with gaps (entries without operations).
    pub index: LogIndex,
    /// The term in which it was proposed.
    pub term: Term,
    /// Its operations, in order; at least one.
    pub ops: Vec<Op>,
}

/// A proposed operation that was committed and applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposed {
    /// The log entry it was in.
    pub index: LogIndex,
    /// What the state machine returned for it.
    pub result: Bytes,
}
