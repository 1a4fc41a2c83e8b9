//! Values of the rows that only a partition knows; the others are types of `curvefs-types`.

use bytes::Bytes;
use curve_types::{Epoch, Sequence};
use curvefs_types::{DataRef, DirUsage, Extent, FileLock, FsId, InodeId, PartitionId, Usage, wire_struct};

/// A range of inode numbers, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InodeRange {
    /// First.
    pub first: InodeId,
    /// Last.
    pub last: InodeId,
}

wire_struct!(InodeRange { first, last });

/// The partition itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    pub fs: FsId,
    pub partition: PartitionId,
    /// The inodes that it holds.
    pub ranges: Vec<InodeRange>,
    /// Where it makes new ones.
    pub slot: u32,
    pub next_serial: u64,
    /// Inodes that live here and the bytes of files.
    pub totals: Usage,
    /// Bytes that wait for the store.
    pub staged: u64,
}

wire_struct!(Header { fs, partition, ranges, slot, next_serial, totals, staged });

impl Header {
    /// Whether the partition holds an inode, be it there or not.
    pub fn holds(&self, inode: InodeId) -> bool {
        self.ranges.iter().any(|range| (range.first..=range.last).contains(&inode))
    }
}

/// What an extent's key does not say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ExtentRow {
    pub len: u32,
    pub data: DataRef,
}

wire_struct!(ExtentRow { len, data });

impl ExtentRow {
    /// With the end from the key.
    pub fn extent(&self, end: u64) -> Option<Extent> {
        Extent::checked(end.checked_sub(u64::from(self.len))?, self.len, self.data).ok()
    }
}

/// A slice that is in extents.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct SliceRow {
    /// How many.
    pub references: u32,
    /// Since when it waits for the store; 0 if it does not.
    pub staged_at: u64,
}

wire_struct!(SliceRow { references, staged_at });

/// A directory's counters, with the version of its total.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct UsageRow {
    pub usage: DirUsage,
    pub version: u64,
}

wire_struct!(UsageRow { usage, version });

/// What a directory was told by a child.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct ToldRow {
    pub version: u64,
    pub total: Usage,
    /// Names of the child in the directory.
    pub names: u32,
}

wire_struct!(ToldRow { version, total, names });

/// Numbers that are reserved for a mount.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct ReservedRow {
    /// How many.
    pub count: u32,
    /// A bit for each that was used, the first in the lowest bit of the first byte; as long as needed.
    pub used: Bytes,
}

wire_struct!(ReservedRow { count, used });

/// A mount, as far as a partition knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct SessionRow {
    /// Requests of lower epochs are refused.
    pub epoch: Epoch,
    /// Answers of lower sequences are forgotten.
    pub floor: Sequence,
}

wire_struct!(SessionRow { epoch, floor });

/// File locks of an inode.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct LocksRow {
    pub locks: Vec<FileLock>,
}

wire_struct!(LocksRow { locks });
