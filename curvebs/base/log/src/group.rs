//! One group's view of the shared log.

use std::io;
use std::ops::Range;

use bytes::Bytes;
use curve_io::BoxFuture;
use curve_types::GroupId;

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
    id: GroupId,
}

impl GroupLog {
    /// The group.
    pub fn id(&self) -> GroupId {
        self.id
    }

    /// What the group has in the log.
    pub fn state(&self) -> GroupState {
        unimplemented!()
    }

    /// Waits until the writer's queue has room. Call it before `append`, which itself never waits.
    pub async fn admit(&self) {
        unimplemented!()
    }

    /// Appends entries, which can be read at once. `done` is called when they are durable, in the order of the calls.
    ///
    /// The first index must be the last one + 1 (or the purged one + 1; any in a new group). An entry larger than
    /// [`crate::LogConfig::entry_bytes_max`] is refused with `InvalidInput`, and nothing of the call is appended.
    pub fn append(&self, entries: Vec<Entry>, done: Done) {
        let _ = (entries, done);
        unimplemented!()
    }

    /// Saves the vote; resolves when it is durable. The record is queued by the call, not by the first poll.
    pub fn save_vote(&self, vote: Bytes) -> BoxFuture<'static, io::Result<()>> {
        let _ = vote;
        unimplemented!()
    }

    /// Saves the commit point; durable with the next flush or soon after (`LogConfig::settle_after`).
    pub fn save_committed(&self, meta: Bytes) {
        let _ = meta;
        unimplemented!()
    }

    /// Removes all entries after `last_kept` (all entries, if `None`); resolves when that is durable.
    pub fn truncate_after(&self, last_kept: Option<u64>) -> BoxFuture<'static, io::Result<()>> {
        let _ = last_kept;
        unimplemented!()
    }

    /// Forgets all entries up to and including `upto`, which may lie after the last entry (a snapshot was installed).
    /// `meta` is kept as that of the last purged entry. Durable with the next flush or soon after.
    pub fn purge(&self, upto: u64, meta: Bytes) {
        let _ = (upto, meta);
        unimplemented!()
    }

    /// Reads entries from `range.start` on, without holes, up to `range.end` or about `bytes_max` payload bytes, but at
    /// least one if the first exists. Empty if the first does not exist (any more).
    pub fn read(&self, range: Range<u64>, bytes_max: usize) -> BoxFuture<'static, io::Result<Vec<Entry>>> {
        let _ = (range, bytes_max);
        unimplemented!()
    }
}
