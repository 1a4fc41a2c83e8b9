//! What a group replicates: the trait its user implements, and how a snapshot travels.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use curve_io::BoxFuture;

use crate::op::Applied;
use crate::placer::Placer;

/// The meaning of a group's log. One per group and node, owned by the task that applies.
///
/// # Markers
///
/// A marker is a small opaque value of this crate (how far the log is applied, and who the members are). The state
/// machine stores the marker it was last given together with its state at each [`checkpoint`](Self::checkpoint), and
/// returns it from [`recovered`](Self::recovered) after a restart; everything after it is applied again from the log.
///
/// # Replay
///
/// After a crash, entries that had been applied after the last checkpoint are applied a second time, on a state that
/// may already contain some or all of their effects. `apply` must therefore be idempotent in that sense: either the
/// state and the marker are stored in one atomic batch (RocksDB), or each piece of state knows the index of its last
/// change and skips what is not newer (chunks).
pub trait StateMachine: Send + 'static {
    /// The marker of the last completed checkpoint or install; `None` for a new state machine.
    fn recovered(&self) -> Option<Bytes>;

    /// What takes large payloads out of this node's log, if anything does; asked once. Then entries that are applied again
    /// after a restart have operations as the placer gave them to the log.
    fn placer(&self) -> Option<Arc<dyn Placer>> {
        None
    }

    /// Applies committed entries in order and returns, per entry and operation, the encoded result that the proposer
    /// gets. `marker` describes the state after the last of them. `entries` may be empty: then only the marker moves.
    /// An error stops the group on this node, since replicas must not diverge; what a client may do wrong is a result.
    fn apply(&mut self, entries: Vec<Applied>, marker: Bytes) -> BoxFuture<'_, io::Result<Vec<Vec<Bytes>>>>;

    /// Begins to make everything applied so far durable, with the last marker given. The call itself is short, since
    /// applying waits for it; the returned future does the waiting while later entries are applied. When it is done,
    /// the log up to the marker may be purged. Two checkpoints of a group never run at the same time.
    fn checkpoint(&mut self) -> BoxFuture<'static, io::Result<()>>;

    /// Begins to serve a snapshot of the state as it is now (of the last marker given) to one follower. Applying goes
    /// on while it is served. What is served may contain changes made later, if replaying the log from the marker over
    /// it converges (see Replay); what decides outcomes (fences, deduplication tables) must be of the marker exactly.
    fn snapshot(&mut self) -> BoxFuture<'_, io::Result<Arc<dyn SnapshotSource>>>;

    /// Brings this state machine to the state that `fetch` serves, pulling only what it lacks, and makes it durable
    /// with `marker` before it returns. Nothing is applied meanwhile. If it fails or the process dies half way, the
    /// state machine must still accept, with its old marker: a replay of its own log, and another `install`. That
    /// allows to replace chunks in place (they know their last change), with the small state and the marker last.
    fn install(&mut self, fetch: Arc<dyn SnapshotFetch>, marker: Bytes) -> BoxFuture<'_, io::Result<()>>;
}

/// A reply to one request for a part of a snapshot, in the state machine's own encoding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotPart {
    /// Encoded description, at most `FRAME_HEADER_BYTES_MAX - 1024` long. Lists that may be longer go into the payload.
    pub header: Bytes,
    /// Raw bytes, at most `FRAME_PAYLOAD_BYTES_MAX` in all parts. Received as at most one part.
    pub payload: Vec<Bytes>,
}

/// The leader's side of one snapshot transfer. Dropped when the follower has finished or gone away.
pub trait SnapshotSource: Send + Sync + 'static {
    /// Serves one part. Requests may run at the same time and may be repeated.
    fn read(&self, request: Bytes) -> BoxFuture<'_, io::Result<SnapshotPart>>;
}

/// The follower's side of one snapshot transfer: asks the leader's [`SnapshotSource`]. Calls may run at the same
/// time; this crate bounds how many do and how many bytes a second they may move, and retries lost messages.
pub trait SnapshotFetch: Send + Sync + 'static {
    /// Gets one part. The request and its reply are in the state machine's own encoding. An error is final for this
    /// transfer.
    fn read(&self, request: Bytes) -> BoxFuture<'_, io::Result<SnapshotPart>>;
}
