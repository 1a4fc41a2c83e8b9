//! One group's view of the shared log.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use curve_io::BoxFuture;
use curve_types::GroupId;

use crate::index::{GroupCore, GroupIndex};
use crate::log::{Handle, call_refused, durable};
use crate::queue::{Job, Work, payload_len};
use crate::read::read_entries;

/// One log entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Its index; entries of a group follow each other without holes.
    pub index: u64,
    /// Small and the caller's own, for example the encoded log id. Kept in memory for every entry in the log.
    pub meta: Bytes,
    /// The content in parts, written one after the other. Read back from disk it has one part, or none when empty.
    pub payload: Vec<Bytes>,
}

/// Called once the records are durable, or with the error that made the log stop for good.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// What a group has in the log now, including what is not durable yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupState {
    /// Index and meta given to the last `purge`.
    pub purged: Option<(u64, Bytes)>,
    /// Index and meta of the last entry; `None` when there are no entries (then `purged` is the last that was).
    pub last: Option<(u64, Bytes)>,
    /// The first entry that can be read.
    pub first: Option<u64>,
    /// The vote that was saved last.
    pub vote: Option<Bytes>,
    /// The commit point that was saved last.
    pub committed: Option<Bytes>,
}

/// One group's part of the log. All records of a group reach the disk in the order of the calls.
#[derive(Clone)]
pub struct GroupLog {
    core: Arc<GroupCore>,
    handle: Arc<Handle>,
}

impl GroupLog {
    pub(crate) fn new(core: Arc<GroupCore>, handle: Arc<Handle>) -> Self {
        Self { core, handle }
    }

    /// The group.
    pub fn id(&self) -> GroupId {
        self.core.id
    }

    /// What the group has in the log.
    pub fn state(&self) -> GroupState {
        self.core.lock().state()
    }

    /// The meta of an entry, from memory; `None` if the entry does not exist.
    pub fn meta(&self, index: u64) -> Option<Bytes> {
        self.core.lock().meta(index)
    }

    /// Waits until the writer's queue has room. Call it before `append`, which itself never waits.
    pub async fn admit(&self) {
        self.handle.queue.admit().await;
    }

    /// Appends entries, which can be read at once. `done` is called when they are durable, in the order of the calls.
    ///
    /// The first index must be the last one + 1 (or the purged one + 1; any in a new group). An entry larger than
    /// [`crate::LogConfig::entry_bytes_max`] is refused with `InvalidInput`, and nothing of the call is appended.
    pub fn append(&self, entries: Vec<Entry>, done: Done) {
        let max = self.handle.config.entry_bytes_max();
        if let Some(entry) = entries.iter().find(|entry| entry.meta.len() + payload_len(entry) > max) {
            let message = format!("entry {} is larger than {max} bytes", entry.index);
            return done(Err(io::Error::new(io::ErrorKind::InvalidInput, message)));
        }
        self.push(Some(done), |index| {
            let ticket = index.append(&entries);
            Some(Work::Append { entries, ticket })
        });
    }

    /// Saves the vote; resolves when it is durable. The record is queued by the call, not by the first poll.
    pub fn save_vote(&self, vote: Bytes) -> BoxFuture<'static, io::Result<()>> {
        // Kept as long as the group, so it must not keep a whole network frame with it.
        let vote = Bytes::copy_from_slice(&vote);
        let (done, durable) = durable();
        self.push(Some(done), |index| {
            index.set_vote(vote.clone());
            Some(Work::Vote(vote))
        });
        durable
    }

    /// Saves the commit point; durable with the next flush or soon after (`LogConfig::settle_after`).
    pub fn save_committed(&self, meta: Bytes) {
        let meta = Bytes::copy_from_slice(&meta);
        self.push(None, |index| {
            index.set_committed(meta.clone());
            let queued = std::mem::replace(&mut index.committed_queued, true);
            (!queued).then_some(Work::Committed(meta))
        });
    }

    /// Removes all entries after `last_kept` (all entries, if `None`); resolves when that is durable.
    pub fn truncate_after(&self, last_kept: Option<u64>) -> BoxFuture<'static, io::Result<()>> {
        let first_removed = last_kept.map_or(0, |last| last + 1);
        let (done, durable) = durable();
        self.push(Some(done), |index| {
            index.truncate_from(first_removed);
            Some(Work::Truncate { first_removed })
        });
        durable
    }

    /// Forgets all entries up to and including `upto`, which may lie after the last entry (a snapshot was installed).
    /// `meta` is kept as that of the last purged entry. Durable with the next flush or soon after.
    pub fn purge(&self, upto: u64, meta: Bytes) {
        let meta = Bytes::copy_from_slice(&meta);
        self.push(None, |index| index.purge(upto, meta.clone()).then_some(Work::Purge { upto, meta }));
    }

    /// Reads entries from `range.start` on, without holes, up to `range.end` or about `bytes_max` payload bytes, but at
    /// least one if the first exists. Empty if the first does not exist (any more). Damage on disk is reported as
    /// `InvalidData` with a [`crate::LogError::Corrupt`] inside.
    pub fn read(&self, range: Range<u64>, bytes_max: usize) -> BoxFuture<'static, io::Result<Vec<Entry>>> {
        let (core, handle) = (self.core.clone(), self.handle.clone());
        Box::pin(async move { read_entries(&core, &handle, range, bytes_max).await })
    }

    /// Changes the index and queues the work under one lock, so that their orders agree.
    fn push(&self, done: Option<Done>, change: impl FnOnce(&mut GroupIndex) -> Option<Work>) {
        let mut index = self.core.lock();
        if index.removed {
            drop(index);
            if let Some(done) = done {
                done(Err(removed(self.core.id)));
            }
            return;
        }
        let Some(work) = change(&mut index) else { return };
        let pushed = self.handle.queue.push(Job::new(self.core.clone(), work, done));
        drop(index);
        call_refused(pushed);
    }
}

fn removed(group: GroupId) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{group} was removed from the log"))
}
