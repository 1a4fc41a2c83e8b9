//! Whether there is room for what grows.
//!
//! A disk that is full stops everything on it: the log takes nothing more, and the tables of rows cannot be written. So what
//! grows is refused while a reserve is left, on which all else lives: reads, removals, what was agreed on already, the
//! compaction that gives room back. What a partition accepts lands on the disks of all its members, so its leader looks at
//! its own disk and at what the MDS has heard of the others'.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use curve_io::Disk;
use curve_log::Log;
use curve_types::{ByteSize, NodeId};
use curvefs_types::{NameOp, Op, Part};
use tokio::time::Instant;

/// How long a look at the disk is good for.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// At most this part of a disk is kept as reserve, so that small disks are usable.
const RESERVE_PART: u64 = 20;
/// Before what grows is taken again there must be this part of the reserve beyond it, so that it is not on and off.
const BEYOND_PART: u64 = 4;

/// How full the disk is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Space {
    /// Its bytes.
    pub total: u64,
    /// Those that are free.
    pub free: u64,
    /// Those that must stay free.
    pub reserve: u64,
    /// Nothing that grows is taken.
    pub is_low: bool,
}

impl Space {
    /// What this becomes when the disk is found like that.
    fn next(was_low: bool, reserve: ByteSize, total: u64, free: u64, log_low: bool) -> Self {
        let reserve = reserve.0.min(total / RESERVE_PART);
        let wanted = if was_low { reserve + reserve / BEYOND_PART } else { reserve };
        Self { total, free, reserve, is_low: free < wanted || log_low }
    }
}

#[derive(Default)]
struct Looked {
    at: Option<Instant>,
    space: Option<Space>,
}

/// The room on this metaserver's disk and on those of others.
pub struct Room {
    disk: Arc<dyn Disk>,
    log: Log,
    reserve: ByteSize,
    looked: Mutex<Looked>,
    elsewhere: RwLock<BTreeSet<NodeId>>,
}

impl Room {
    /// Nothing is known yet of others.
    pub fn new(disk: Arc<dyn Disk>, log: Log, reserve: ByteSize) -> Self {
        Self { disk, log, reserve, looked: Mutex::default(), elsewhere: RwLock::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Looked> {
        self.looked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How full the disk is, as it was a moment ago; `None` if the system has never said.
    pub fn space(&self) -> Option<Space> {
        let mut looked = self.lock();
        if looked.at.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
            looked.at = Some(Instant::now());
            // A file system that cannot say how full it is will show its trouble at the next write.
            if let Ok(found) = self.disk.space() {
                let was_low = looked.space.is_some_and(|space| space.is_low);
                let space = Space::next(was_low, self.reserve, found.total, found.free, self.log.space_low());
                if space.is_low != was_low {
                    tell(space);
                }
                looked.space = Some(space);
            }
        }
        looked.space
    }

    /// Whether nothing that grows is taken here.
    pub fn is_low(&self) -> bool {
        self.space().is_some_and(|space| space.is_low)
    }

    /// The MDS told who has no room.
    pub fn heard(&self, low: impl IntoIterator<Item = NodeId>) {
        *self.elsewhere.write().unwrap_or_else(PoisonError::into_inner) = low.into_iter().collect();
    }

    /// Whether one of these has no room, as far as is known.
    pub fn is_low_at(&self, members: &[NodeId], this: NodeId) -> bool {
        let elsewhere = self.elsewhere.read().unwrap_or_else(PoisonError::into_inner);
        members.iter().any(|member| *member != this && elsewhere.contains(member))
    }
}

fn tell(space: Space) {
    let (free, reserve) = (ByteSize(space.free), ByteSize(space.reserve));
    if space.is_low {
        tracing::error!(%free, %reserve, "the disk is full up to the reserve: nothing that grows is taken");
    } else {
        tracing::info!(%free, "there is room again");
    }
}

/// Whether a mount's change makes the rows more. What opens, closes, renames, truncates and removes does not, or by so
/// little that the reserve bears it; and what was opened must be closed, and a full disk be emptied.
pub fn grows(op: &Op) -> bool {
    match op {
        Op::Name { op } => match op {
            NameOp::Create { .. } | NameOp::Mkdir { .. } | NameOp::Link { .. } => true,
            NameOp::Unlink { .. } | NameOp::Rmdir { .. } | NameOp::Rename { .. } => false,
        },
        Op::Write { extents, .. } => !extents.is_empty(),
        Op::Publish { dirs, .. } => dirs.iter().any(|published| !published.born.is_empty()),
        Op::Allocate { .. } | Op::CopyRange { .. } | Op::SetXattr { .. } => true,
        // Of another partition's operation: what makes an inode here.
        Op::Prepare { parts, .. } => parts.iter().any(|part| matches!(part, Part::MakeDir { .. })),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use curvefs_types::wire::{Seeds, Wire as _};

    use super::*;

    #[test]
    fn the_reserve_is_a_part_of_small_disks_and_has_two_edges() {
        let gib = |n: u64| n << 30;
        let space = |was_low, total, free| Space::next(was_low, ByteSize(gib(1)), total, free, false);
        for (what, space, reserve, is_low) in [
            ("a large disk with room", space(false, gib(100), gib(1)), gib(1), false),
            ("a large disk without", space(false, gib(100), gib(1) - 1), gib(1), true),
            ("not yet again", space(true, gib(100), gib(1)), gib(1), true),
            ("again", space(true, gib(100), gib(1) + gib(1) / 4), gib(1), false),
            ("a small disk", space(false, gib(10), gib(1) / 2), gib(1) / 2, false),
            ("a small disk without", space(false, gib(10), gib(1) / 2 - 1), gib(1) / 2, true),
            ("nobody knows its size", space(false, 0, 0), 0, false),
        ] {
            assert_eq!((space.reserve, space.is_low), (reserve, is_low), "{what}");
        }
        assert!(Space::next(false, ByteSize(1), gib(100), gib(50), true).is_low, "the log has no room");
    }

    #[test]
    fn what_frees_is_never_refused() {
        for seed in 0..2000 {
            let op = Op::sample(&mut Seeds::new(seed));
            let frees = matches!(
                op,
                Op::Name { op: NameOp::Unlink { .. } | NameOp::Rmdir { .. } }
                    | Op::Truncate { .. }
                    | Op::Punch { .. }
                    | Op::RemoveXattr { .. }
                    | Op::Close { .. }
                    | Op::Unlock { .. }
                    | Op::Decide { .. }
                    | Op::Finish { .. }
                    | Op::Drain { .. }
                    | Op::Reclaimed { .. }
                    | Op::Stored { .. }
            );
            assert!(!(frees && grows(&op)), "{op:?}");
        }
    }
}
