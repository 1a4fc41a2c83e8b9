//! The user's state machine, as the group's task works with it: entries in, results out, checkpoints and snapshots.
//!
//! It does one thing at a time and is moved into the future that does it, so that the task goes on with messages
//! meanwhile. A follower installs what it fetched *before* the engine hears of it: until then its log and vote are what
//! they were.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use curve_io::BoxFuture;
use curve_types::{LogIndex, Term};
use tokio::sync::watch;

use crate::format::{bad, decode_marker, decode_ops, encode_marker};
use crate::op::Applied;
use crate::placer::Placer;
use crate::source::{SourceGuard, Sources};
use crate::state_machine::{SnapshotFetch, StateMachine};
use crate::types::{Entry, LogId, Payload, StoredMembership};

/// What the state machine said to the operations of one entry.
pub(crate) type Results = (LogId, Vec<Bytes>);

/// The user's state machine and how far it is.
pub(crate) struct Machine {
    user: Box<dyn StateMachine>,
    applied: LogId,
    membership: StoredMembership,
    sources: Arc<Sources>,
    /// Dropped with the rest, after `user`.
    _alive: watch::Sender<()>,
}

impl Machine {
    /// Takes over a recovered state machine. `alive` is dropped when it is.
    pub(crate) fn new(
        user: Box<dyn StateMachine>,
        sources: Arc<Sources>,
        alive: watch::Sender<()>,
    ) -> io::Result<Self> {
        let (applied, membership) = match user.recovered() {
            Some(marker) => decode_marker(&marker)?,
            None => Default::default(),
        };
        Ok(Self { user, applied, membership, sources, _alive: alive })
    }

    /// What takes payloads out of the log, if the state machine has that.
    pub(crate) fn placer(&self) -> Option<Arc<dyn Placer>> {
        self.user.placer()
    }

    pub(crate) fn applied(&self) -> LogId {
        self.applied
    }

    pub(crate) fn membership(&self) -> &StoredMembership {
        &self.membership
    }

    /// Applies committed entries, which follow what is applied. Entries without operations have no results.
    pub(crate) async fn apply(&mut self, entries: Vec<Entry>) -> io::Result<Vec<Results>> {
        let mut ids = Vec::with_capacity(entries.len());
        let mut applied = Vec::with_capacity(entries.len());
        let mut last = self.applied;
        for entry in entries {
            if entry.id.index != last.index + 1 {
                return Err(bad("log: an entry is missing"));
            }
            last = entry.id;
            match entry.payload {
                Payload::Blank => {}
                Payload::Membership(membership) => {
                    self.membership = StoredMembership { log_id: entry.id, membership };
                }
                Payload::Ops(batch) | Payload::Placed(batch) => {
                    let ops = decode_ops(&batch)?;
                    if ops.is_empty() {
                        return Err(bad("entry without operations"));
                    }
                    ids.push((entry.id, ops.len()));
                    applied.push(Applied {
                        index: LogIndex(entry.id.index),
                        term: Term(entry.id.leader_id.term),
                        ops,
                    });
                }
            }
        }
        let marker = encode_marker(last, &self.membership);
        let results = self.user.apply(applied, marker).await?;
        assert!(
            results.iter().map(Vec::len).eq(ids.iter().map(|(_, ops)| *ops)),
            "a state machine answers each operation once"
        );
        self.applied = last;
        Ok(ids.into_iter().map(|(id, _)| id).zip(results).collect())
    }

    /// Begins a checkpoint of what is applied.
    pub(crate) fn checkpoint(&mut self) -> BoxFuture<'static, io::Result<()>> {
        self.user.checkpoint()
    }

    /// Begins to serve a snapshot of what is applied.
    pub(crate) async fn open(&mut self) -> io::Result<SourceGuard> {
        let marker = encode_marker(self.applied, &self.membership);
        let source = self.user.snapshot().await?;
        Ok(self.sources.open(source, LogIndex(self.applied.index), marker))
    }

    /// Pulls what this replica lacks. Nothing happens if it is as far as the marker already; tells whether it was not.
    pub(crate) async fn install(&mut self, fetch: Arc<dyn SnapshotFetch>, marker: Bytes) -> io::Result<bool> {
        let (applied, membership) = decode_marker(&marker)?;
        if applied <= self.applied {
            return Ok(false);
        }
        self.user.install(fetch, marker).await?;
        self.membership = membership;
        self.applied = applied;
        Ok(true)
    }
}
