//! Advisory file locks: `fcntl` ranges and `flock`.

use crate::ids::{LockOwner, MountId};
use crate::wire::{Input, Seeds, Wire, WireError};
use crate::{wire_enum, wire_struct};

/// Which family of locks; the two do not see each other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum LockFamily {
    /// `fcntl`: byte ranges, owned by a process, split and merged.
    Posix,
    /// `flock`: the whole file, owned by an open file.
    Flock,
}

wire_enum!(LockFamily { 1 => Posix {}, 2 => Flock {} });

/// What a lock excludes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum LockKind {
    /// Writers' locks.
    Read,
    /// All others.
    Write,
}

wire_enum!(LockKind { 1 => Read {}, 2 => Write {} });

/// A range of bytes to be locked. [`LockRange::ALL`] for `flock`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LockRange {
    first: u64,
    last: u64,
}

impl LockRange {
    /// The whole file, however long it becomes.
    pub const ALL: Self = Self { first: 0, last: u64::MAX };

    /// From the first byte to the last, both included; `None` when they are the wrong way round.
    pub fn new(first: u64, last: u64) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    /// The first byte.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// The last byte.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Whether they have a byte in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl Wire for LockRange {
    fn put(&self, out: &mut Vec<u8>) {
        self.first.put(out);
        self.last.put(out);
    }

    fn get(input: &mut Input<'_>) -> Result<Self, WireError> {
        Self::new(u64::get(input)?, u64::get(input)?).ok_or(WireError::Value("lock range"))
    }

    fn sample(seeds: &mut Seeds) -> Self {
        let (a, b) = (seeds.number(), seeds.number());
        Self { first: a.min(b), last: a.max(b) }
    }
}

/// A lock that somebody holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileLock {
    /// The mount: the lock ends with its lease.
    pub mount: MountId,
    /// Who in the mount.
    pub owner: LockOwner,
    /// Process, for `F_GETLK`.
    pub pid: u32,
    /// Family.
    pub family: LockFamily,
    /// Kind.
    pub kind: LockKind,
    /// Range.
    pub range: LockRange,
}

wire_struct!(FileLock { mount, owner, pid, family, kind, range });

impl FileLock {
    /// Whether both cannot be held at once.
    pub fn excludes(&self, other: &Self) -> bool {
        self.family == other.family
            && (self.mount, self.owner) != (other.mount, other.owner)
            && self.range.overlaps(&other.range)
            && (self.kind == LockKind::Write || other.kind == LockKind::Write)
    }
}
