//! One group's part of the shared log, in the engine's terms.
//!
//! Appends return as soon as the log has the entries in memory; the log's writer makes many groups' appends durable
//! with one sync and then reports. All records of a group reach the disk in the order of the calls here, which is what
//! the engine's safety rests on.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use curve_io::BoxFuture;
use curve_log::{Done, Entry as LogEntry, GroupLog};
use curve_types::NodeId;
use tokio::sync::oneshot;

use crate::engine::LogView;
use crate::flags::GroupFlags;
use crate::format::{
    EntryKind, bad, decode_log_id, decode_membership, decode_meta, decode_vote, encode_log_id,
    encode_membership, encode_meta, encode_vote, split_body,
};
use crate::types::{Batch, Entry, LeaderId, LogId, Membership, Payload, StoredMembership, Vote};

/// About what the log adds to an entry.
const ENTRY_OVERHEAD_BYTES: usize = 64;

/// One group's part of the shared log. Clones read and write the same.
#[derive(Clone)]
pub(crate) struct Store {
    log: GroupLog,
    flags: Arc<GroupFlags>,
}

impl Store {
    pub(crate) fn new(log: GroupLog, flags: Arc<GroupFlags>) -> Self {
        Self { log, flags }
    }

    /// Last purged and last log id: the last is the purged one when there are no entries.
    fn bounds(&self) -> io::Result<(LogId, LogId)> {
        let state = self.log.state();
        let id =
            |(index, meta): (u64, Bytes)| decode_meta(&meta).map(|(leader_id, _)| LogId { leader_id, index });
        let purged = state.purged.map(id).transpose()?.unwrap_or_default();
        let last = state.last.map(id).transpose()?.unwrap_or(purged);
        Ok((purged, last))
    }

    /// Whether anything was ever stored for the group.
    pub(crate) fn is_pristine(&self) -> bool {
        let state = self.log.state();
        state.purged.is_none() && state.last.is_none() && state.vote.is_none()
    }

    /// Writes the first entry of a new group, the same on all its first members: who they are. Durable on return.
    pub(crate) async fn bootstrap(&self, members: &[NodeId]) -> io::Result<()> {
        let voters: BTreeSet<u64> = members.iter().map(|member| member.get()).collect();
        let id = LogId { leader_id: LeaderId::default(), index: 1 };
        let entry = Entry { id, payload: Payload::Membership(Membership::of(voters)) };
        let (tell, durable) = oneshot::channel();
        let done = move |result| {
            // Nobody waits any more when opening was given up.
            let _ = tell.send(result);
        };
        self.log.append(vec![encode_entry(&entry)], Box::new(done));
        durable.await.map_err(io::Error::other)?
    }

    /// Makes the log agree with a state machine that is further than it, which a crash between the install of a
    /// snapshot and the purge of the log leaves behind.
    pub(crate) async fn reconcile(&self, applied: LogId) -> io::Result<()> {
        let (purged, last) = self.bounds()?;
        if purged >= applied {
            return Ok(());
        }
        if last.index >= applied.index {
            if self.leader_at(applied.index)? == Some(applied.leader_id) {
                return Ok(());
            }
            self.log.truncate_after(Some(purged.index).filter(|kept| *kept > 0)).await?;
        }
        self.purge(applied);
        Ok(())
    }

    fn leader_at(&self, index: u64) -> io::Result<Option<LeaderId>> {
        self.log.meta(index).map(|meta| decode_meta(&meta).map(|(leader, _)| leader)).transpose()
    }

    /// What the log holds: the vote, whose the entries are, and the members, of whom `known` are as of `applied`.
    pub(crate) async fn recover(
        &self,
        applied: LogId,
        known: StoredMembership,
    ) -> io::Result<(Vote, LogView, u64)> {
        let (purged, last) = self.bounds()?;
        let first = self.log.state().first.unwrap_or(last.index + 1);
        if first > purged.index.max(applied.index) + 1 {
            return Err(bad("log: entries are missing at its begin"));
        }
        let mut runs: Vec<(u64, LeaderId)> = Vec::new();
        let mut memberships = vec![known];
        for index in purged.index + 1..=last.index {
            let meta = self.log.meta(index).ok_or_else(|| bad("log: an entry is missing"))?;
            let (leader, kind) = decode_meta(&meta)?;
            if runs.last().is_none_or(|(_, known)| *known != leader) {
                runs.push((index, leader));
            }
            if kind == EntryKind::Membership && index > applied.index {
                for entry in self.read(index, 1, 1).await? {
                    if let Payload::Membership(membership) = entry.payload {
                        memberships.push(StoredMembership { log_id: entry.id, membership });
                    }
                }
            }
        }
        let state = self.log.state();
        let vote = state.vote.map(|vote| decode_vote(&vote)).transpose()?.unwrap_or_default();
        let committed = state.committed.map(|id| decode_log_id(&id)).transpose()?.unwrap_or_default();
        let kept = self.leader_at(committed.index)? == Some(committed.leader_id);
        let commit = if kept { committed.index } else { applied.index };
        Ok((vote, LogView::new(purged, runs, last.index, memberships), commit))
    }

    /// Reads up to `count` entries from `from` on, or about so many bytes.
    pub(crate) fn read(
        &self,
        from: u64,
        count: u64,
        bytes_max: usize,
    ) -> BoxFuture<'static, io::Result<Vec<Entry>>> {
        let entries = self.log.read(from..from.saturating_add(count), bytes_max);
        Box::pin(async move { entries.await?.into_iter().map(decode_entry).collect() })
    }

    /// Begins to save a vote.
    pub(crate) fn save_vote(&self, vote: &Vote) -> BoxFuture<'static, io::Result<()>> {
        self.log.save_vote(encode_vote(vote))
    }

    /// Notes how far the log is committed, which spares a restarted replica a wait.
    pub(crate) fn save_committed(&self, committed: LogId) {
        self.log.save_committed(encode_log_id(committed));
    }

    /// Waits until the log has room.
    pub(crate) async fn admit(&self) {
        self.log.admit().await;
    }

    /// Begins to append; `done` is called when the entries are durable. The log holds the bodies of `placed` instead of
    /// those of the entries with these numbers.
    pub(crate) fn append(&self, entries: &[Entry], placed: Vec<(usize, Batch)>, done: Done) {
        {
            let mut trail = self.flags.trail();
            for entry in entries {
                // What was placed counts as well: a checkpoint is about as much work.
                let bytes = entry.head_bytes() + entry.payload_bytes();
                trail.append(entry.id.index, (bytes + ENTRY_OVERHEAD_BYTES) as u64);
            }
        }
        let mut entries: Vec<LogEntry> = entries.iter().map(encode_entry).collect();
        for (n, body) in placed {
            let entry = &mut entries[n];
            if let Ok((leader, _)) = decode_meta(&entry.meta) {
                entry.meta = encode_meta(leader, EntryKind::Placed);
                entry.payload = parts_of(body);
            }
        }
        self.log.append(entries, done);
    }

    /// Begins to remove all entries after this index.
    pub(crate) fn truncate(&self, kept: u64) -> BoxFuture<'static, io::Result<()>> {
        self.log.truncate_after(Some(kept).filter(|kept| *kept > 0))
    }

    /// Forgets all entries up to here, which may lie behind the last one.
    pub(crate) fn purge(&self, upto: LogId) {
        self.log.purge(upto.index, encode_meta(upto.leader_id, EntryKind::Blank));
    }
}

fn decode_entry(entry: LogEntry) -> io::Result<Entry> {
    let (leader_id, kind) = decode_meta(&entry.meta)?;
    let payload = match kind {
        EntryKind::Blank => Payload::Blank,
        EntryKind::Ops => Payload::Ops(split_body(entry.payload)?),
        EntryKind::Placed => Payload::Placed(split_body(entry.payload)?),
        EntryKind::Membership => Payload::Membership(decode_membership(&entry.payload.concat())?),
    };
    Ok(Entry { id: LogId { leader_id, index: entry.index }, payload })
}

/// Kind, head and payload of an entry: the same in the log and on the wire.
pub(crate) fn encode_payload(payload: &Payload) -> (EntryKind, Batch) {
    match payload {
        Payload::Blank => (EntryKind::Blank, Batch::default()),
        Payload::Ops(batch) => (EntryKind::Ops, batch.clone()),
        Payload::Placed(batch) => (EntryKind::Placed, batch.clone()),
        Payload::Membership(membership) => {
            (EntryKind::Membership, Batch::new(encode_membership(membership), Vec::new()))
        }
    }
}

fn encode_entry(entry: &Entry) -> LogEntry {
    let (kind, body) = encode_payload(&entry.payload);
    LogEntry { index: entry.id.index, meta: encode_meta(entry.id.leader_id, kind), payload: parts_of(body) }
}

fn parts_of(body: Batch) -> Vec<Bytes> {
    let mut parts = Vec::with_capacity(1 + body.payload.len());
    if !body.head.is_empty() {
        parts.push(body.head.clone());
    }
    parts.extend(body.payload.iter().cloned());
    parts
}
