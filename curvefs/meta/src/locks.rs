//! File locks: what excludes what, and how ranges of one owner are split and merged. Pure, but for the rows at the end.

use curvefs_types::keys::Key;
use curvefs_types::limits::LOCKS_PER_INODE_MAX;
use curvefs_types::{FileLock, FsError, InodeId, LockFamily, LockOwner, LockRange, MountId, Reply};

use crate::fail::Step;
use crate::rows::LocksRow;
use crate::step::Change;
use crate::view::View;

/// Whose locks of which family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Holder {
    pub mount: MountId,
    pub owner: LockOwner,
    pub family: LockFamily,
}

impl Holder {
    fn of(lock: &FileLock) -> Self {
        Self { mount: lock.mount, owner: lock.owner, family: lock.family }
    }
}

/// The locks without a holder's in a range.
pub(crate) fn without(locks: &[FileLock], holder: Holder, range: LockRange) -> Vec<FileLock> {
    let mut left = Vec::with_capacity(locks.len() + 1);
    for lock in locks {
        if Holder::of(lock) != holder || !lock.range.overlaps(&range) {
            left.push(*lock);
            continue;
        }
        let before = range.first().checked_sub(1).and_then(|last| LockRange::new(lock.range.first(), last));
        let after = range.last().checked_add(1).and_then(|first| LockRange::new(first, lock.range.last()));
        left.extend([before, after].into_iter().flatten().map(|range| FileLock { range, ..*lock }));
    }
    left
}

/// The locks with one more, whose holder's others in the range it replaces, joined to its neighbours of the same kind.
pub(crate) fn with(locks: &[FileLock], lock: FileLock) -> Vec<FileLock> {
    let mut left = without(locks, Holder::of(&lock), lock.range);
    let mut joined = lock;
    left.retain(|other| {
        let touches = other.range.last().checked_add(1) == Some(joined.range.first())
            || joined.range.last().checked_add(1) == Some(other.range.first());
        let joins = touches && Holder::of(other) == Holder::of(&lock) && other.kind == lock.kind;
        if joins {
            let first = other.range.first().min(joined.range.first());
            let last = other.range.last().max(joined.range.last());
            joined.range = LockRange::new(first, last).unwrap_or(joined.range);
        }
        !joins
    });
    left.push(joined);
    left.sort_by_key(|lock| (lock.range.first(), lock.mount, lock.owner));
    left
}

/// The first lock that excludes another.
pub(crate) fn excluding(locks: &[FileLock], lock: &FileLock) -> Option<FileLock> {
    locks.iter().find(|held| held.excludes(lock)).copied()
}

impl Change<'_, '_> {
    /// Takes or changes a lock.
    pub fn lock(&mut self, inode: InodeId, lock: FileLock) -> Step<Reply> {
        self.own_inode(inode)?;
        let row = self.locks(inode)?;
        if excluding(&row.locks, &lock).is_some() {
            return Err(FsError::WouldBlock.into());
        }
        let locks = with(&row.locks, lock);
        if locks.len() > LOCKS_PER_INODE_MAX {
            return Err(FsError::NoLocks.into());
        }
        self.put(&Key::Locks { inode }, &LocksRow { locks });
        self.mark(&Key::Held { mount: self.mount, inode });
        Ok(Reply::Done)
    }

    /// Gives up a range.
    pub fn unlock(&mut self, inode: InodeId, holder: Holder, range: LockRange) -> Step<Reply> {
        self.check_here(inode)?;
        let row = self.locks(inode)?;
        let locks = without(&row.locks, holder, range);
        if locks.len() > LOCKS_PER_INODE_MAX {
            return Err(FsError::NoLocks.into());
        }
        self.store_locks(inode, locks);
        self.forget_held(inode)?;
        Ok(Reply::Done)
    }

    /// Gives up all locks of the mount in a file.
    pub fn unlock_all(&mut self, inode: InodeId) -> Step<()> {
        let mut row = self.locks(inode)?;
        row.locks.retain(|lock| lock.mount != self.mount);
        self.store_locks(inode, row.locks);
        Ok(())
    }

    fn store_locks(&mut self, inode: InodeId, locks: Vec<FileLock>) {
        let key = Key::Locks { inode };
        if locks.is_empty() {
            self.delete(&key);
        } else {
            self.put(&key, &LocksRow { locks });
        }
    }
}

#[cfg(test)]
mod tests {
    use curvefs_types::LockKind;
    use proptest::prelude::*;

    use super::*;

    const BYTES: u64 = 24;

    fn lock(owner: u64, write: bool, first: u64, last: u64) -> FileLock {
        FileLock {
            mount: MountId(1),
            owner: LockOwner(owner),
            pid: 0,
            family: LockFamily::Posix,
            kind: if write { LockKind::Write } else { LockKind::Read },
            range: LockRange::new(first.min(last), first.max(last)).unwrap(),
        }
    }

    /// Who holds a byte how.
    fn at(locks: &[FileLock], owner: u64, byte: u64) -> Option<LockKind> {
        let one = LockRange::new(byte, byte).unwrap();
        let mut found = locks.iter().filter(|lock| lock.owner.0 == owner && lock.range.overlaps(&one));
        let first = found.next().map(|lock| lock.kind);
        assert!(found.next().is_none(), "an owner's locks do not overlap");
        first
    }

    proptest! {
        /// Against a table of bytes.
        #[test]
        fn locks_are_as_a_table_of_bytes_says(
            steps in prop::collection::vec((0u64..3, 0u8..3, 0..BYTES, 0..BYTES), 1..40),
        ) {
            let mut locks = Vec::new();
            let mut table = [[None; BYTES as usize]; 3];
            for (owner, what, first, last) in steps {
                let lock = lock(owner, what == 1, first, last);
                let range = lock.range.first() as usize..=lock.range.last() as usize;
                let excluded = (0..3).filter(|other| *other != owner as usize).any(|other| {
                    table[other][range.clone()].iter().flatten().any(|kind| *kind == LockKind::Write || what == 1)
                });
                if what == 2 {
                    locks = without(&locks, Holder::of(&lock), lock.range);
                    table[owner as usize][range].fill(None);
                } else {
                    prop_assert_eq!(excluding(&locks, &lock).is_some(), excluded);
                    if !excluded {
                        locks = with(&locks, lock);
                        table[owner as usize][range].fill(Some(lock.kind));
                    }
                }
                for owner in 0..3u64 {
                    for byte in 0..BYTES {
                        prop_assert_eq!(at(&locks, owner, byte), table[owner as usize][byte as usize]);
                    }
                }
            }
        }
    }

    #[test]
    fn neighbours_join() {
        let locks = with(&with(&with(&[], lock(1, true, 0, 4)), lock(1, true, 10, 14)), lock(1, true, 5, 9));
        assert_eq!(locks, [lock(1, true, 0, 14)]);
        assert_eq!(without(&[lock(1, true, 0, u64::MAX)], Holder::of(&locks[0]), LockRange::ALL), []);
    }
}
