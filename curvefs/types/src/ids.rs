//! Identifiers. All are opaque numbers given out by one authority, named in the doc of each.

use std::fmt;

use crate::{wire_newtype, wire_struct};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $format:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $inner);

        impl $name {
            /// The bare number.
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl From<$inner> for $name {
            fn from(n: $inner) -> Self {
                Self(n)
            }
        }
    };
}

id!(
    /// A file system; given out by the MDS, never reused.
    FsId(u32), "fs-{}"
);
id!(
    /// A partition of a file system's metadata: a Raft group. Given out by the MDS, never reused.
    PartitionId(u32), "part-{}"
);
id!(
    /// An inode; its number is never used again, so there is no generation beside it.
    ///
    /// | bits | what |
    /// |------|------|
    /// | 40 … 63 | slot: given by the MDS to one partition, which alone makes inodes in it |
    /// | 0 … 39  | serial in the slot, from 1 |
    ///
    /// [`crate::PartitionMap`] says which partition holds which range of numbers. A partition begins with one slot, so
    /// the map has one line for each partition and clients keep it whole: routing looks nothing up. A partition is split by
    /// giving the part of its range above some number to another, and a new slot to whichever goes on making inodes.
    InodeId(u64), "inode-{:#x}"
);
id!(
    /// One mount: given out by the MDS, never reused. Outlives its daemon when that hands its descriptor over.
    MountId(u64), "mount-{:x}"
);
id!(
    /// One life of one process that writes slices; given out by the MDS at each start, never reused. It is half of a
    /// slice's name, so that names are unique without asking anybody.
    WriterId(u64), "writer-{:x}"
);
id!(
    /// Who holds a file lock, as the kernel names it in its mount: a process (`fcntl`) or an open file (`flock`).
    LockOwner(u64), "owner-{:x}"
);

wire_newtype!(FsId, PartitionId, InodeId, MountId, WriterId, LockOwner);

/// Bits of an inode number below the slot.
pub const SERIAL_BITS: u32 = 40;

impl InodeId {
    /// The root directory: the first of slot 0, whatever the file system.
    pub const ROOT: Self = Self(1);

    /// The inode with a serial in a slot; `None` when either is out of range.
    pub fn in_slot(slot: u32, serial: u64) -> Option<Self> {
        let fits = slot < 1 << (64 - SERIAL_BITS) && (1..1 << SERIAL_BITS).contains(&serial);
        fits.then(|| Self(u64::from(slot) << SERIAL_BITS | serial))
    }

    /// The slot it was made in.
    pub const fn slot(self) -> u32 {
        (self.0 >> SERIAL_BITS) as u32
    }

    /// Its serial in the slot.
    pub const fn serial(self) -> u64 {
        self.0 & ((1 << SERIAL_BITS) - 1)
    }
}

impl MountId {
    /// The servers themselves: requests that no mount sends. They need no answer table, being idempotent by themselves.
    pub const SERVERS: Self = Self(0);
}

/// Names what one write put into the store. Objects of the S3 backend are named by it, and are never written twice, so a
/// reader with an old map gets old bytes or "gone", never mixed ones.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SliceId {
    /// Who wrote it.
    pub writer: WriterId,
    /// The writer's own number for it, from 1.
    pub serial: u64,
}

wire_struct!(SliceId { writer, serial });

impl fmt::Display for SliceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}/{:016x}", self.writer.0, self.serial)
    }
}

impl fmt::Debug for SliceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inode_numbers_are_cut_into_slot_and_serial() {
        for (slot, serial, number) in
            [(0, 1, Some(1)), (1, 1, Some(1 << 40 | 1)), (0, 0, None), (1 << 24, 1, None)]
        {
            let inode = InodeId::in_slot(slot, serial);
            assert_eq!(inode.map(InodeId::get), number);
            assert!(inode.is_none_or(|inode| (inode.slot(), inode.serial()) == (slot, serial)));
        }
        assert_eq!(InodeId::in_slot((1 << 24) - 1, (1 << 40) - 1), Some(InodeId(u64::MAX)));
        assert_eq!(InodeId::ROOT.slot(), 0);
    }
}
