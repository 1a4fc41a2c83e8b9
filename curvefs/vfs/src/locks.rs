//! File locks: `fcntl` and `flock`. The partition decides; the mount waits, and cleans up after owners that close.

use std::time::Duration;

use curvefs_types::{
    Answer, FileLock, FsError, InodeId, LockFamily, LockKind, LockOwner, LockRange, MountId, Op, Query,
};

use crate::inode::Inode;
use crate::vfs::Vfs;

/// First and longest pause between two tries for a lock that another holds.
const PAUSE_MIN: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(250);

/// A lock that is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LockWish {
    /// Who.
    pub owner: LockOwner,
    /// Its process.
    pub pid: u32,
    /// Family.
    pub family: LockFamily,
    /// Kind.
    pub kind: LockKind,
    /// Range.
    pub range: LockRange,
}

impl Vfs {
    /// What excludes a lock, if anything does.
    pub async fn get_lock(&self, inode: InodeId, wish: LockWish) -> Result<Option<FileLock>, FsError> {
        let LockWish { owner, pid, family, kind, range } = wish;
        // The metadata client puts its own mount in.
        let lock = FileLock { mount: MountId::SERVERS, owner, pid, family, kind, range };
        self.core.store_closed(inode).await;
        match self.core.query(Query::GetLock { inode, lock }).await? {
            Answer::Lock { held } => Ok(held),
            _ => Err(FsError::Corrupt),
        }
    }

    /// Takes or changes a lock, or says `WouldBlock`.
    pub async fn lock(&self, id: InodeId, wish: LockWish) -> Result<(), FsError> {
        let LockWish { owner, pid, family, kind, range } = wish;
        let inode = self.core.inode(id);
        // First, so that a lock whose answer is lost is released with its owner.
        inode.state().lock_owners.insert(owner);
        self.core.store_closed(id).await;
        // What others wrote under the lock has to be seen by those who take it next.
        self.core.change(Op::Lock { inode: id, owner, pid, family, kind, range }).await?;
        self.core.fetch_attr(&inode).await.map(drop)
    }

    /// Takes or changes a lock, and waits for it. `interrupted` is asked between tries.
    pub async fn lock_wait(
        &self,
        id: InodeId,
        wish: LockWish,
        interrupted: impl Fn() -> bool + Send,
    ) -> Result<(), FsError> {
        let mut pause = PAUSE_MIN;
        loop {
            match self.lock(id, wish).await {
                Err(FsError::WouldBlock) => {}
                other => return other,
            }
            if interrupted() {
                return Err(FsError::Interrupted);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Gives up a range. What was written under the lock is published first.
    pub async fn unlock(
        &self,
        id: InodeId,
        owner: LockOwner,
        family: LockFamily,
        range: LockRange,
    ) -> Result<(), FsError> {
        let inode = self.core.inode(id);
        // A failure is kept for fsync and close; the lock must not stay.
        let _ = self.core.flush(&inode).await;
        self.core.change(Op::Unlock { inode: id, owner, family, range }).await.map(drop)
    }

    /// Gives up everything an owner has in a file.
    pub(crate) async fn unlock_owner(&self, inode: &Inode, owner: LockOwner) -> Result<(), FsError> {
        if !inode.state().lock_owners.contains(&owner) {
            return Ok(());
        }
        for family in [LockFamily::Posix, LockFamily::Flock] {
            self.unlock(inode.id, owner, family, LockRange::ALL).await?;
        }
        inode.state().lock_owners.remove(&owner);
        Ok(())
    }
}
