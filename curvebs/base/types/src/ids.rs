//! Identifiers. All are opaque numbers given out by one authority, named in the doc of each.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl $name {
            /// The bare number, for the wire and for disk formats.
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
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
    /// A volume; given out by the MDS, never reused.
    VolumeId(u64), "vol-"
);
id!(
    /// A copyset: a Raft group of chunkservers that stores whole chunks. Given out by the MDS, never reused.
    CopysetId(u32), "cs-"
);
id!(
    /// A Raft group in a process. Copysets use their own number; other users have reserved ranges (see the constants).
    GroupId(u64), "group-"
);
id!(
    /// A process that is a member of Raft groups: a chunkserver, an MDS, a metaserver. Stable across address changes.
    NodeId(u64), "node-"
);
id!(
    /// A fencing token of a volume: raised by the MDS whenever a holder may have to be shut out. Only grows.
    Epoch(u64), "epoch-"
);
id!(
    /// One opened session of one client process; random, never reused.
    ClientId(u64), "client-"
);
id!(
    /// A client's own number for one mutation; starts at 1 and grows by one.
    Sequence(u64), "seq-"
);
id!(
    /// A Raft term.
    Term(u64), "term-"
);
id!(
    /// An index in a group's Raft log; the first entry has index 1, and 0 means none.
    LogIndex(u64), "idx-"
);

impl GroupId {
    /// The MDS group. Copysets start at 1, so 0 is free for it.
    pub const MDS: Self = Self(0);
}

impl From<CopysetId> for GroupId {
    fn from(copyset: CopysetId) -> Self {
        Self(u64::from(copyset.0))
    }
}

impl LogIndex {
    /// The index after this one.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Names one chunk: the volume it belongs to and its place in it. A chunk's home copyset is in the volume's segment map.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ChunkKey {
    /// The owning volume.
    pub volume: VolumeId,
    /// Which chunk of the volume, counted from 0.
    pub index: u32,
}

impl fmt::Display for ChunkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.volume, self.index)
    }
}
