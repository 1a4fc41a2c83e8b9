//! openraft's log store over one group's part of the shared log.
//!
//! Appends return as soon as the log has the entries in memory; the log's writer makes many groups' appends durable
//! with one sync and then reports to openraft. Votes and truncations wait. All records of a group reach the disk in
//! the order of the calls here, which is what openraft's safety rests on.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use bytes::Bytes;
use curve_log::{Entry as LogEntry, GroupLog};
use curve_types::{FRAME_PAYLOAD_BYTES_MAX, NodeId};
use futures::Stream;
use futures::stream::{self, StreamExt, TryStreamExt};
use openraft::LogState;
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
use tokio::sync::oneshot;

use crate::flags::GroupFlags;
use crate::format::{
    EntryKind, decode_log_id, decode_membership, decode_meta, decode_vote, encode_log_id, encode_membership,
    encode_meta, encode_vote, split_body,
};
use crate::types::{Batch, C, Entry, LeaderId, LogId, Membership, Payload, Vote, public_index};
use crate::wire::APPEND_HEADS_BYTES_MAX;

/// Bytes read from the log at once when applying or recovering.
const READ_BYTES: usize = 4 << 20;
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

    /// Last purged and last log id, as openraft wants them: the last is the purged one when there are no entries.
    fn bounds(&self) -> io::Result<(Option<LogId>, Option<LogId>)> {
        let state = self.log.state();
        let id = |(index, meta): (u64, Bytes)| decode_id(index, &meta);
        let purged = state.purged.map(id).transpose()?;
        let last = state.last.map(id).transpose()?;
        Ok((purged, last.or(purged)))
    }

    /// Whether anything was ever stored for the group.
    pub(crate) fn is_pristine(&self) -> bool {
        let state = self.log.state();
        state.purged.is_none() && state.last.is_none() && state.vote.is_none()
    }

    /// Writes the first entry of a new group, the same on all its first members: who they are. Durable on return.
    pub(crate) async fn bootstrap(&self, members: &[NodeId]) -> io::Result<()> {
        let voters: BTreeSet<u64> = members.iter().map(|member| member.get()).collect();
        let nodes: BTreeMap<u64, ()> = voters.iter().map(|voter| (*voter, ())).collect();
        let membership = Membership::new(vec![voters], nodes).map_err(io::Error::other)?;
        let log_id = LogId { leader_id: LeaderId { term: 0, node_id: 0 }, index: 0 };
        let entry = Entry { log_id, payload: Payload::Membership(membership) };
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
    pub(crate) async fn reconcile(&mut self, applied: Option<LogId>) -> io::Result<()> {
        let Some(applied) = applied else { return Ok(()) };
        let (purged, last) = self.bounds()?;
        if purged >= Some(applied) || last.is_none_or(|last| last.index < applied.index) {
            return Ok(());
        }
        let at = self.read_some(applied.index, applied.index + 1, 1).await?;
        if at.first().is_some_and(|entry| entry.log_id == applied) {
            return Ok(());
        }
        let kept =
            applied.index.checked_sub(1).filter(|kept| purged.is_none_or(|purged| purged.index <= *kept));
        self.log.truncate_after(kept.map(public_index)).await?;
        self.log.purge(public_index(applied.index), encode_meta(applied.leader_id, EntryKind::Blank));
        Ok(())
    }

    async fn read_some(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let entries = self.log.read(public_index(start)..public_index(end), bytes_max).await?;
        entries.into_iter().map(decode_entry).collect()
    }
}

fn decode_id(index: u64, meta: &[u8]) -> io::Result<LogId> {
    let (leader_id, _) = decode_meta(meta)?;
    Ok(LogId { leader_id, index: index - 1 })
}

fn decode_entry(entry: LogEntry) -> io::Result<Entry> {
    let (leader_id, kind) = decode_meta(&entry.meta)?;
    let payload = match kind {
        EntryKind::Blank => Payload::Blank,
        EntryKind::Ops => Payload::Normal(split_body(entry.payload)?),
        EntryKind::Membership => Payload::Membership(decode_membership(&entry.payload.concat())?),
    };
    Ok(Entry { log_id: LogId { leader_id, index: entry.index - 1 }, payload })
}

/// Kind, head and payload of an entry: the same in the log and on the wire.
pub(crate) fn encode_payload(payload: &Payload) -> (EntryKind, Batch) {
    match payload {
        Payload::Blank => (EntryKind::Blank, Batch::default()),
        Payload::Normal(batch) => (EntryKind::Ops, batch.clone()),
        Payload::Membership(membership) => {
            (EntryKind::Membership, Batch::new(encode_membership(membership), Vec::new()))
        }
    }
}

fn encode_entry(entry: &Entry) -> LogEntry {
    let (kind, body) = encode_payload(&entry.payload);
    let mut payload = Vec::with_capacity(1 + body.payload.len());
    if !body.head.is_empty() {
        payload.push(body.head.clone());
    }
    payload.extend(body.payload.iter().cloned());
    LogEntry {
        index: public_index(entry.log_id.index),
        meta: encode_meta(entry.log_id.leader_id, kind),
        payload,
    }
}

fn bounds_of(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end + 1,
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX - 1,
    };
    (start, end)
}

/// Cuts entries so that they fit one message.
fn cut_to_message(mut entries: Vec<Entry>) -> Vec<Entry> {
    let (mut heads, mut payloads) = (0, 0);
    let fits = entries
        .iter()
        .take_while(|entry| {
            let (_, body) = encode_payload(&entry.payload);
            heads += body.head.len() + 48;
            payloads += body.payload_len();
            heads <= APPEND_HEADS_BYTES_MAX && payloads <= FRAME_PAYLOAD_BYTES_MAX
        })
        .count();
    entries.truncate(fits.max(1));
    entries
}

impl RaftLogReader<C> for Store {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        self.entries_stream(range).await.try_collect().await
    }

    /// Reads in steps, so that a long recovery does not hold the whole log in memory.
    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = io::Result<Entry>> + Send
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        let (start, end) = bounds_of(&range);
        // As openraft's own stores do, entries that are not there are left out at the beginning; `Machine` checks that
        // none is missing among those it applies.
        let first = self.log.state().first.map_or(start, |first| first - 1);
        let start = start.max(first);
        let store = self.clone();
        let steps = stream::try_unfold(start, move |next| {
            let store = store.clone();
            async move {
                if next >= end {
                    return Ok(None);
                }
                let entries = store.read_some(next, end, READ_BYTES).await?;
                let after = next + entries.len() as u64;
                Ok::<_, io::Error>((!entries.is_empty()).then_some((entries, after)))
            }
        });
        steps.map_ok(|entries| stream::iter(entries.into_iter().map(Ok))).try_flatten().boxed()
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        self.log.state().vote.map(|vote| decode_vote(&vote)).transpose()
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        Ok(cut_to_message(self.read_some(start, end, FRAME_PAYLOAD_BYTES_MAX).await?))
    }
}

impl RaftLogStorage<C> for Store {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<C>> {
        let (last_purged_log_id, last_log_id) = self.bounds()?;
        Ok(LogState { last_purged_log_id, last_log_id })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.log.save_vote(encode_vote(vote)).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        if let Some(committed) = committed {
            self.log.save_committed(encode_log_id(committed));
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        self.log.state().committed.map(|id| decode_log_id(&id)).transpose()
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<C>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let entries: Vec<LogEntry> = entries.into_iter().map(|entry| encode_entry(&entry)).collect();
        self.log.admit().await;
        {
            let mut trail = self.flags.trail();
            for entry in &entries {
                let bytes: usize = entry.payload.iter().map(Bytes::len).sum();
                trail.append(entry.index, (bytes + ENTRY_OVERHEAD_BYTES) as u64);
            }
        }
        self.log.append(entries, Box::new(move |result| callback.io_completed(result)));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        self.log.truncate_after(last.map(|last| public_index(last.index))).await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.log.purge(public_index(upto.index), encode_meta(upto.leader_id, EntryKind::Blank));
        Ok(())
    }
}
