//! Opening and closing of files.

use std::sync::Arc;

use curvefs_types::{FsError, InodeId, Kind, LockOwner, Op};
use tokio::time::Instant;

use crate::handle::{FileHandle, OpenMode};
use crate::inode::Inode;
use crate::shared::locked;
use crate::vfs::{Opened, Vfs};

impl Vfs {
    /// Opens a file. With close-to-open it is as its last closer left it.
    pub async fn open(&self, id: InodeId, mode: OpenMode) -> Result<Opened, FsError> {
        if mode.write || mode.truncate {
            self.core.writable()?;
        }
        let inode = self.core.inode(id);
        let opening = Opening::new(inode.clone());
        let held = self.hold(&inode, mode).await;
        match held {
            Ok(()) => {
                opening.keep();
                Ok(self.add_handle(inode, mode))
            }
            Err(error) => {
                drop((opening, inode));
                self.core.release_inode(id);
                Err(error)
            }
        }
    }

    /// Makes sure that the partition knows, and that what is known here is right.
    async fn hold(&self, inode: &Arc<Inode>, mode: OpenMode) -> Result<(), FsError> {
        let held = inode.state().held;
        if mode.truncate || !held {
            let _order = self.core.alone(inode).await?;
            let _one = inode.publishing().await;
            if mode.truncate {
                let freed = inode.state().discard();
                self.core.budget.free(freed);
            }
            // Truncation makes pages useless too, so it may count as another's change.
            let opened = self.core.change_attr(Op::Open { inode: inode.id, truncate: mode.truncate }).await;
            let attr = opened?;
            if attr.kind == Kind::Directory {
                return Err(FsError::IsDir);
            }
            self.core.heard(inode, attr);
            inode.state().held = true;
            self.core.watch(inode.id);
        } else if self.core.options.close_to_open {
            self.core.fetch_attr(inode).await?;
        }
        Ok(())
    }

    /// A handle of a file that the mount holds, and whose opens it has counted.
    pub(crate) fn add_handle(&self, inode: Arc<Inode>, mode: OpenMode) -> Opened {
        let keep_cache = inode.state().keep_cache() && !mode.direct;
        let handle = self.core.next_handle();
        locked(&self.core.files).insert(handle, Arc::new(FileHandle::new(inode, mode)));
        Opened { handle, keep_cache }
    }

    /// The last descriptor of a handle is closed. `owner`: whose `flock` ends. Errors of writing were for [`Vfs::close`].
    pub async fn release(&self, handle: u64, owner: Option<LockOwner>) -> Result<(), FsError> {
        let file = locked(&self.core.files).remove(&handle).ok_or(FsError::Stale)?;
        let inode = file.inode.clone();
        drop(file);
        let unlocked = match owner {
            Some(owner) => self.unlock_owner(&inode, owner).await,
            None => Ok(()),
        };
        let is_last = {
            let mut state = inode.state();
            state.opens = state.opens.saturating_sub(1);
            if state.opens == 0 {
                state.idle_since = Some(Instant::now());
            }
            state.opens == 0
        };
        if is_last {
            self.drop_unnamed(&inode).await;
        }
        let id = inode.id;
        drop(inode);
        self.core.release_inode(id);
        unlocked
    }

    /// Ends an inode that has no name and is not open: nobody can read what was written to it.
    pub(crate) async fn drop_unnamed(&self, inode: &Inode) {
        let is_unnamed =
            inode.state().attr().is_some_and(|(attr, _)| attr.nlink == 0) && inode.state().opens == 0;
        if !is_unnamed {
            return;
        }
        {
            let _one = inode.publishing().await;
            let freed = {
                let mut state = inode.state();
                if state.opens > 0 { 0 } else { state.discard() }
            };
            self.core.budget.free(freed);
        }
        if let Err(error) = self.core.close_hold(inode).await {
            tracing::debug!(inode = %inode.id, %error, "cannot give up an unnamed file now");
        }
    }
}

/// An open that is counted before it is done, so that the hold is not given up meanwhile.
pub(crate) struct Opening {
    inode: Arc<Inode>,
    is_kept: bool,
}

impl Opening {
    /// Counts it.
    pub fn new(inode: Arc<Inode>) -> Self {
        {
            let mut state = inode.state();
            state.opens += 1;
            state.idle_since = None;
        }
        Self { inode, is_kept: false }
    }

    /// It is done: a handle's end will count it off.
    pub fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if !self.is_kept {
            let mut state = self.inode.state();
            state.opens = state.opens.saturating_sub(1);
            state.idle_since.get_or_insert_with(Instant::now);
        }
    }
}
