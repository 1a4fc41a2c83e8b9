//! What is read of a partition: by its leader under a lease, without a log entry.

use bytes::Bytes;

use crate::attr::{Attr, TimeNs};
use crate::dentry::{Dentry, DirEntry};
use crate::extent::{Extent, Freed, Staged};
use crate::ids::{InodeId, MountId, PartitionId, SliceId};
use crate::lock::FileLock;
use crate::name::{Name, XattrName};
use crate::op::Told;
use crate::tx::TxId;
use crate::usage::{DirUsage, Usage};
use crate::{wire_enum, wire_struct};
use curve_types::Epoch;

/// A question with who asks. The leader refuses a fenced mount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ask {
    /// Who asks.
    pub mount: MountId,
    /// The epoch of its lease.
    pub epoch: Epoch,
    /// What.
    pub query: Query,
}

wire_struct!(Ask { mount, epoch, query });

/// A question to one partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Query {
    /// A name. The attributes come along if the inode is in the same partition.
    Lookup {
        /// The directory.
        parent: InodeId,
        /// The name.
        name: Name,
    },
    /// An inode's attributes.
    GetAttr {
        /// Which.
        inode: InodeId,
    },
    /// Attributes of many inodes; those that are gone are left out.
    GetAttrs {
        /// Which; all of one partition.
        inodes: Vec<InodeId>,
    },
    /// A page of a directory, in order of name.
    ReadDir {
        /// Which.
        inode: InodeId,
        /// After this name; `None` from the start. Entries that come or go meanwhile are seen or not; all others once.
        after: Option<Name>,
        /// At most so many.
        limit: u32,
        /// With attributes.
        plus: bool,
    },
    /// A symbolic link's target.
    ReadLink {
        /// Which.
        inode: InodeId,
    },
    /// An extended attribute.
    GetXattr {
        /// Of this inode.
        inode: InodeId,
        /// Which.
        name: XattrName,
    },
    /// Names of extended attributes.
    ListXattr {
        /// Of this inode.
        inode: InodeId,
    },
    /// Extents with a byte in a range.
    Extents {
        /// Of this file.
        inode: InodeId,
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
        /// At most so many.
        limit: u32,
    },
    /// The bytes of a slice that waits in the partition for the store.
    Staged {
        /// A file that it is in.
        inode: InodeId,
        /// Which.
        slice: SliceId,
    },
    /// A directory's counters.
    DirUsage {
        /// Which.
        inode: InodeId,
    },
    /// The whole partition's counters.
    StatFs {
        /// An inode of the partition.
        inode: InodeId,
    },
    /// `F_GETLK`: what excludes a lock, whose mount and owner ask.
    GetLock {
        /// Of this file.
        inode: InodeId,
        /// What would be taken.
        lock: FileLock,
    },
    /// Which of the mount's delegated directories others wait for. Answered when there is one that the mount does not know of
    /// yet, or after a while with nothing new.
    Recalls {
        /// An inode of the partition.
        inode: InodeId,
        /// Directories that the mount is about to give back.
        known: Vec<InodeId>,
    },
    /// Servers: slices to delete.
    Garbage {
        /// Freed before this, so that readers of old maps have gone on.
        before_ns: TimeNs,
        /// At most so many.
        limit: u32,
    },
    /// Servers: slices that wait for the store.
    StagedSlices {
        /// Since before this; older ones first.
        before_ns: TimeNs,
        /// At most so many.
        limit: u32,
    },
    /// Servers: totals to tell to parents in other partitions.
    Untold {
        /// At most so many.
        limit: u32,
    },
    /// Servers: transactions that are prepared here.
    PreparedTxs {
        /// At most so many.
        limit: u32,
    },
    /// Servers: transactions that were committed here and are not forgotten.
    CommittedTxs {
        /// At most so many.
        limit: u32,
    },
}

wire_enum!(Query {
    1 => Lookup { parent, name },
    2 => GetAttr { inode },
    3 => GetAttrs { inodes },
    4 => ReadDir { inode, after, limit, plus },
    5 => ReadLink { inode },
    6 => GetXattr { inode, name },
    7 => ListXattr { inode },
    8 => Extents { inode, offset, len, limit },
    9 => DirUsage { inode },
    10 => StatFs { inode },
    11 => GetLock { inode, lock },
    12 => Recalls { inode, known },
    13 => Staged { inode, slice },
    32 => Garbage { before_ns, limit },
    33 => Untold { limit },
    34 => PreparedTxs { limit },
    35 => CommittedTxs { limit },
    36 => StagedSlices { before_ns, limit },
});

impl Query {
    /// The inode whose partition knows; `None` for servers' questions to a partition they name.
    pub fn home(&self) -> Option<InodeId> {
        match self {
            Self::Lookup { parent: inode, .. }
            | Self::GetAttr { inode }
            | Self::ReadDir { inode, .. }
            | Self::ReadLink { inode }
            | Self::GetXattr { inode, .. }
            | Self::ListXattr { inode }
            | Self::Extents { inode, .. }
            | Self::Staged { inode, .. }
            | Self::DirUsage { inode }
            | Self::StatFs { inode }
            | Self::GetLock { inode, .. }
            | Self::Recalls { inode, .. } => Some(*inode),
            Self::GetAttrs { inodes } => inodes.first().copied(),
            Self::Garbage { .. }
            | Self::StagedSlices { .. }
            | Self::Untold { .. }
            | Self::PreparedTxs { .. }
            | Self::CommittedTxs { .. } => None,
        }
    }
}

/// A transaction committed here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommittedTx {
    /// Which.
    pub tx: TxId,
    /// Whom to tell.
    pub participants: Vec<PartitionId>,
}

wire_struct!(CommittedTx { tx, participants });

/// What a question is answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Of `Lookup`.
    Entry {
        /// What the name names.
        dentry: Dentry,
        /// `None`: the inode is in another partition; `GetAttr` there.
        attr: Option<Attr>,
    },
    /// Of `GetAttr` and `GetAttrs`.
    Attrs {
        /// As they are.
        attrs: Vec<Attr>,
    },
    /// Of `ReadDir`.
    Page {
        /// Entries.
        entries: Vec<DirEntry>,
        /// There are no more.
        end: bool,
    },
    /// Of `ReadLink` and `GetXattr`.
    Value {
        /// Bytes.
        value: Bytes,
    },
    /// Of `ListXattr`.
    Names {
        /// In order.
        names: Vec<XattrName>,
    },
    /// Of `Extents`.
    Extents {
        /// The file at the same moment.
        attr: Attr,
        /// In order of offset, whole (they may begin before the range and end after it).
        extents: Vec<Extent>,
        /// Nothing was left off.
        end: bool,
        /// Slices of these extents that wait in the partition for the store.
        staged: Vec<SliceId>,
    },
    /// Of `Staged`.
    Staged {
        /// All bytes of the slice; `None` when it waits no more: the store has it, or nobody needs it.
        content: Option<Bytes>,
    },
    /// Of `DirUsage`.
    DirUsage {
        /// Counters.
        usage: DirUsage,
    },
    /// Of `StatFs`.
    StatFs {
        /// Inodes that live in the partition, and their bytes.
        usage: Usage,
    },
    /// Of `GetLock`.
    Lock {
        /// The first lock that excludes it.
        held: Option<FileLock>,
    },
    /// Of `Recalls`.
    Recalls {
        /// Directories.
        dirs: Vec<InodeId>,
    },
    /// Of `Garbage`.
    Garbage {
        /// Slices.
        slices: Vec<Freed>,
    },
    /// Of `StagedSlices`.
    StagedSlices {
        /// Slices.
        slices: Vec<Staged>,
        /// Bytes of all that wait.
        waiting: u64,
    },
    /// Of `Untold`.
    Untold {
        /// Totals.
        told: Vec<Told>,
    },
    /// Of `PreparedTxs`.
    PreparedTxs {
        /// Transactions.
        txs: Vec<TxId>,
    },
    /// Of `CommittedTxs`.
    CommittedTxs {
        /// Transactions.
        txs: Vec<CommittedTx>,
    },
}

wire_enum!(Answer {
    1 => Entry { dentry, attr },
    2 => Attrs { attrs },
    3 => Page { entries, end },
    4 => Value { value },
    5 => Names { names },
    6 => Extents { attr, extents, end, staged },
    7 => DirUsage { usage },
    8 => StatFs { usage },
    9 => Lock { held },
    10 => Recalls { dirs },
    11 => Staged { content },
    32 => Garbage { slices },
    33 => Untold { told },
    34 => PreparedTxs { txs },
    35 => CommittedTxs { txs },
    36 => StagedSlices { slices, waiting },
});
