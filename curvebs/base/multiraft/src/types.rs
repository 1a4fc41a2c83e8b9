//! openraft's type parameters, fixed. No other module spells out its generics, and nothing here is public.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use openraft::impls::{BoxedErrorSource, InlineBatch, TokioRuntime, leader_id_adv};
use openraft::raft::ClientWriteResult;
use openraft::raft::responder::Responder;
use openraft_rt::deterministic_rng::DeterministicRng;

use crate::machine::Machine;

/// The types this crate gives to openraft.
#[derive(Debug, Clone, Copy, Default, Eq, PartialEq, Ord, PartialOrd)]
pub(crate) struct C;

impl openraft::RaftTypeConfig for C {
    type D = Batch;
    type R = Results;
    type NodeId = u64;
    type Node = ();
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = Vote;
    type Payload = Payload;
    type Entry = Entry;
    type AsyncRuntime = Runtime;
    type Responder<T>
        = OnComplete<T>
    where
        T: Send + 'static;
    type Batch<T>
        = InlineBatch<T>
    where
        T: Send + 'static;
    type ErrorSource = BoxedErrorSource;
}

/// Tokio, with random draws from a seed: openraft takes its election timeouts from its runtime.
pub(crate) type Runtime = DeterministicRng<TokioRuntime>;
pub(crate) type LeaderId = leader_id_adv::LeaderId<u64, u64>;
pub(crate) type LogId = openraft::LogId<LeaderId>;
pub(crate) type Vote = openraft::Vote<LeaderId>;
pub(crate) type Payload = openraft::EntryPayload<Batch, u64, ()>;
pub(crate) type Entry = openraft::Entry<LeaderId, Payload>;
pub(crate) type Membership = openraft::Membership<u64, ()>;
pub(crate) type StoredMembership = openraft::StoredMembership<LeaderId, u64, ()>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<LeaderId, u64, ()>;
pub(crate) type Snapshot<D> = openraft::Snapshot<LeaderId, u64, (), D>;
pub(crate) type Metrics = openraft::RaftMetrics<C>;
pub(crate) type Raft = openraft::Raft<C, Machine>;

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

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What the state machine returned for the operations of one entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Results(pub(crate) Vec<Bytes>);

/// Calls a closure with the fate of a proposed entry. Dropped uncalled when the group stops.
pub(crate) struct OnComplete<T>(Box<dyn FnOnce(T) + Send>);

impl<T> OnComplete<T> {
    pub(crate) fn new(call: impl FnOnce(T) + Send + 'static) -> Self {
        Self(Box::new(call))
    }
}

impl<T: Send + 'static> Responder<C, T> for OnComplete<T> {
    fn on_complete(self, result: T) {
        (self.0)(result);
    }
}

/// The fate of a proposed entry.
pub(crate) type WriteResult = ClientWriteResult<C>;

/// The number that the log and the public types use for openraft's `index`.
pub(crate) fn public_index(index: u64) -> u64 {
    index + 1
}

/// [`public_index`] of an optional log id; 0 for none.
pub(crate) fn public_index_of(id: Option<LogId>) -> u64 {
    id.map_or(0, |id| public_index(id.index))
}
