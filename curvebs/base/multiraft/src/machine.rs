//! openraft's state machine over the user's: batches of entries in, results out, checkpoints and snapshots.
//!
//! A "snapshot" in openraft's sense is a checkpoint here: building one makes the user's state durable, which allows to
//! purge the log. What a follower is sent is a live source, opened when the transfer begins. A follower installs what
//! it fetched *before* openraft hears of it: openraft treats a failed install as the end of the group, while a source
//! that goes away is an ordinary event.

use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use curve_io::BoxFuture;
use curve_types::{LogIndex, Term};
use futures::{FutureExt, Stream, StreamExt};
use openraft::RaftSnapshotBuilder;
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use tokio::sync::watch;

use crate::format::{bad, decode_marker, decode_ops, encode_marker};
use crate::op::Applied;
use crate::source::{SourceGuard, Sources};
use crate::state_machine::{SnapshotFetch, StateMachine};
use crate::types::{
    C, Entry, LeaderId, LogId, Payload, Results, Snapshot, SnapshotMeta, StoredMembership, public_index,
};

/// Entries given to the user's `apply` at once, at most.
const APPLY_ENTRIES_MAX: usize = 64;
/// Payload bytes given to the user's `apply` at once, at most (one entry more may go over it).
const APPLY_BYTES_MAX: usize = 4 << 20;

/// What others may see of a state machine without asking its task.
pub(crate) struct MachineView {
    /// The leader of the last applied entry: a leader may serve once it is itself.
    pub(crate) applied_leader: watch::Sender<Option<LeaderId>>,
    /// Set once openraft runs; before, it must not be told of snapshots that nobody asked for.
    pub(crate) live: AtomicBool,
    /// What the last checkpoint made durable.
    pub(crate) checkpointed: Mutex<Option<LogId>>,
}

/// The user's state machine with what openraft needs to know of it. Owned by openraft's worker for the group.
pub(crate) struct Machine {
    /// Never locked, only reached through `&mut self`: the mutex makes it `Sync`, as openraft demands.
    user: Mutex<Box<dyn StateMachine>>,
    applied: Option<LogId>,
    membership: StoredMembership,
    view: Arc<MachineView>,
    sources: Arc<Sources>,
    /// The state is further than openraft knows, since an install was not followed up.
    ahead: bool,
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
        let view = MachineView {
            applied_leader: watch::Sender::new(applied.map(|id| id.leader_id)),
            live: AtomicBool::new(false),
            checkpointed: Mutex::new(applied),
        };
        Ok(Self {
            user: Mutex::new(user),
            applied,
            membership,
            view: Arc::new(view),
            sources,
            ahead: false,
            _alive: alive,
        })
    }

    fn user(&mut self) -> &mut dyn StateMachine {
        &mut **self.user.get_mut().expect("never poisoned")
    }

    pub(crate) fn view(&self) -> Arc<MachineView> {
        self.view.clone()
    }

    pub(crate) fn applied(&self) -> Option<LogId> {
        self.applied
    }

    /// Pulls what this replica lacks. Nothing happens if it is as far as the marker already.
    pub(crate) async fn install(&mut self, fetch: Arc<dyn SnapshotFetch>, marker: Bytes) -> io::Result<()> {
        let (applied, membership) = decode_marker(&marker)?;
        if applied <= self.applied {
            return Ok(());
        }
        self.user().install(fetch, marker).await?;
        self.membership = membership;
        self.set_applied(applied);
        *self.view.checkpointed.lock().expect("never poisoned") = applied;
        self.ahead = true;
        Ok(())
    }

    fn set_applied(&mut self, applied: Option<LogId>) {
        self.applied = applied;
        let leader = applied.map(|id| id.leader_id);
        self.view.applied_leader.send_if_modified(|current| std::mem::replace(current, leader) != leader);
    }

    fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() }
    }

    fn marker(&self) -> Bytes {
        encode_marker(self.applied, &self.membership)
    }

    async fn apply_some(&mut self, entries: Vec<EntryResponder<C>>) -> io::Result<()> {
        let mut last = self.applied;
        let mut applied = Vec::with_capacity(entries.len());
        let mut answers: Vec<(Option<ApplyResponder<C>>, bool)> = Vec::with_capacity(entries.len());
        for (entry, responder) in entries {
            if Some(entry.log_id.index) <= self.applied.map(|id| id.index) {
                // Already contained in an installed snapshot.
                answers.push((responder, false));
                continue;
            }
            let next = last.map_or(0, |last| last.index + 1);
            if entry.log_id.index != next && self.view.live.load(Ordering::Acquire) {
                return Err(bad("log: an entry is missing"));
            }
            last = Some(entry.log_id);
            let ops = self.take(entry, &mut applied)?;
            answers.push((responder, ops));
        }
        if last == self.applied {
            answers
                .into_iter()
                .filter_map(|(responder, _)| responder)
                .for_each(|r| r.send(Results::default()));
            return Ok(());
        }
        let counts: Vec<usize> = applied.iter().map(|entry| entry.ops.len()).collect();
        let marker = encode_marker(last, &self.membership);
        let results = self.user().apply(applied, marker).await?;
        assert!(
            results.iter().map(Vec::len).eq(counts.iter().copied()),
            "a state machine answers each operation once"
        );
        self.set_applied(last);
        self.ahead = false;
        let mut results = results.into_iter();
        for (responder, ops) in answers {
            let result = if ops { results.next().expect("counted above") } else { Vec::new() };
            if let Some(responder) = responder {
                responder.send(Results(result));
            }
        }
        Ok(())
    }

    /// Adds the operations of an entry; tells whether it had any.
    fn take(&mut self, entry: Entry, to: &mut Vec<Applied>) -> io::Result<bool> {
        match entry.payload {
            Payload::Blank => Ok(false),
            Payload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
                Ok(false)
            }
            Payload::Normal(batch) => {
                let ops = decode_ops(&batch)?;
                if ops.is_empty() {
                    return Err(bad("entry without operations"));
                }
                to.push(Applied {
                    index: LogIndex(public_index(entry.log_id.index)),
                    term: Term(entry.log_id.leader_id.term),
                    ops,
                });
                Ok(true)
            }
        }
    }
}

/// What openraft carries where other systems have a file.
pub(crate) enum SnapshotData {
    /// A checkpoint was made; there is nothing to send.
    Checkpoint,
    /// A transfer can be served.
    Source(SourceGuard),
    /// The state machine has fetched it already.
    Installed,
}

/// A checkpoint in progress.
pub(crate) struct Checkpoint {
    done: Option<Mutex<BoxFuture<'static, io::Result<()>>>>,
    meta: SnapshotMeta,
    view: Arc<MachineView>,
}

impl RaftSnapshotBuilder<C> for Checkpoint {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot<SnapshotData>> {
        if let Some(done) = self.done.take() {
            done.into_inner().expect("never poisoned").await?;
        }
        *self.view.checkpointed.lock().expect("never poisoned") = self.meta.last_log_id;
        self.view.live.store(true, Ordering::Release);
        Ok(Snapshot { meta: self.meta.clone(), snapshot: SnapshotData::Checkpoint })
    }
}

impl RaftStateMachine<C> for Machine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Checkpoint;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<C>>> + Unpin + Send,
    {
        let mut entries = pin!(entries.fuse());
        loop {
            let Some(first) = entries.next().await.transpose()? else { return Ok(()) };
            let mut bytes = payload_bytes(&first.0);
            let mut some = vec![first];
            while some.len() < APPLY_ENTRIES_MAX && bytes < APPLY_BYTES_MAX {
                let Some(Some(next)) = entries.next().now_or_never() else { break };
                let next = next?;
                bytes += payload_bytes(&next.0);
                some.push(next);
            }
            self.apply_some(some).await?;
        }
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Checkpoint> {
        if self.ahead && !force {
            return None;
        }
        let current = *self.view.checkpointed.lock().expect("never poisoned") == self.applied;
        let done = (!current).then(|| Mutex::new(self.user().checkpoint()));
        Some(Checkpoint { done, meta: self.meta(), view: self.view.clone() })
    }

    async fn get_snapshot_builder(&mut self) -> Checkpoint {
        self.try_create_snapshot_builder(true).await.expect("forced")
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotData) -> io::Result<()> {
        if let SnapshotData::Source(source) = snapshot {
            let marker = source.marker();
            self.install(Arc::new(source), marker).await?;
        }
        if self.applied < meta.last_log_id {
            return Err(io::Error::other("a snapshot was announced that had not been fetched"));
        }
        self.ahead = self.applied > meta.last_log_id;
        self.view.live.store(true, Ordering::Release);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot<SnapshotData>>> {
        if self.applied.is_none() || !self.view.live.load(Ordering::Acquire) {
            return Ok(None);
        }
        let applied = public_index(self.applied.expect("checked above").index);
        let source = self.user().snapshot().await?;
        let guard = self.sources.open(source, LogIndex(applied), self.marker());
        Ok(Some(Snapshot { meta: self.meta(), snapshot: SnapshotData::Source(guard) }))
    }
}

fn payload_bytes(entry: &Entry) -> usize {
    match &entry.payload {
        Payload::Normal(batch) => batch.payload_len(),
        Payload::Blank | Payload::Membership(_) => 0,
    }
}
