//! Writing, and making sure that it is kept.

use std::sync::Arc;

use curvefs_types::limits::FILE_BYTES_MAX;
use curvefs_types::{FsError, LockOwner};

use crate::flush::{STREAM_BYTES, is_final};
use crate::handle::FileHandle;
use crate::inode::Inode;
use crate::shared::{Core, now_ns};
use crate::vfs::Vfs;

/// Bytes of a file that may be closed before they are stored.
const WAITING_BYTES_MAX: u64 = 1 << 20;

impl Vfs {
    /// Writes. With `O_APPEND` the offset is where the caller believes the end to be, and is not used otherwise. `kill_priv`:
    /// the writer may not keep set-user-id and set-group-id.
    pub async fn write(
        &self,
        handle: u64,
        offset: u64,
        data: Vec<u8>,
        kill_priv: bool,
    ) -> Result<u32, FsError> {
        let file = self.file(handle)?;
        if !file.mode.write {
            return Err(FsError::Access);
        }
        let written = self.write_bytes(&file.inode, offset, data, file.mode.append, kill_priv).await?;
        if file.mode.sync {
            self.core.flush(&file.inode).await?;
            self.core.sync_name(&file.inode).await?;
        }
        Ok(written)
    }

    /// Writes to an offset, with `O_APPEND` too: pages of a mapping. The kernel may use any handle of the file for them.
    pub async fn write_at(&self, handle: u64, offset: u64, data: Vec<u8>) -> Result<u32, FsError> {
        let file = self.file(handle)?;
        self.write_bytes(&file.inode, offset, data, false, false).await
    }

    async fn write_bytes(
        &self,
        inode: &Arc<Inode>,
        offset: u64,
        data: Vec<u8>,
        append: bool,
        kill_priv: bool,
    ) -> Result<u32, FsError> {
        let (metering, len) = (self.core.counters.writes.begin(), data.len() as u64);
        if offset.checked_add(len).is_none_or(|end| end > FILE_BYTES_MAX) {
            return Err(FsError::TooBig);
        }
        if len == 0 {
            metering.done(0);
            return Ok(0);
        }
        self.core.take_budget(len).await?;
        let mut taken = Taken { vfs: self, bytes: len };
        let unpublished = {
            let _order = inode.order.read().await;
            let meets = |end| !append && inode.state().meets_tail(end);
            while meets(offset + len) {
                self.core.flush(inode).await?;
            }
            let mut state = inode.state();
            if append {
                let at = state.append(&data, now_ns(), kill_priv);
                if at != offset {
                    // The kernel has put the bytes where it took the end to be.
                    state.mistrust();
                }
                taken.bytes = 0;
            } else {
                let grown = state.write(offset, data, now_ns(), kill_priv);
                taken.bytes -= grown;
            }
            state.unpublished()
        };
        drop(taken);
        self.core.watch(inode.id);
        self.core.tell_kernel(inode);
        if unpublished >= STREAM_BYTES || self.core.budget.is_tight() {
            self.core.set_due(inode.id);
        }
        metering.done(len);
        Ok(len as u32)
    }

    /// `fsync` and `fdatasync`: everything written before is durable, or the error says why not. What failed earlier, in the
    /// background, is told here, once to each handle.
    pub async fn fsync(&self, handle: u64) -> Result<(), FsError> {
        let file = self.file(handle)?;
        if self.core.is_named_first(&file.inode) {
            self.core.sync_name(&file.inode).await?;
        }
        let stored = self.store(&file).await;
        let named = self.core.sync_name(&file.inode).await;
        stored.and(named)
    }

    async fn store(&self, file: &FileHandle) -> Result<(), FsError> {
        let flushed = self.core.flush(&file.inode).await;
        let earlier = file.failure();
        flushed?;
        match earlier {
            // It was tried again and went well.
            Some(error) if !is_final(error) => Ok(()),
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// A descriptor is closed: with close-to-open what was written is published, and the owner's locks end.
    pub async fn close(&self, handle: u64, owner: Option<LockOwner>) -> Result<(), FsError> {
        let file = self.file(handle)?;
        let unlocked = match owner {
            Some(owner) => self.unlock_owner(&file.inode, owner).await,
            None => Ok(()),
        };
        let waits = file.mode.write && self.core.may_wait(&file.inode);
        let synced = if self.core.options.close_to_open && file.mode.write && !waits {
            self.store(&file).await
        } else {
            file.failure().filter(|error| is_final(*error)).map_or(Ok(()), Err)
        };
        synced.and(unlocked)
    }
}

impl Core {
    /// Makes the name of a file durable that was made without asking.
    async fn sync_name(&self, inode: &Inode) -> Result<(), FsError> {
        self.in_time(self.meta.sync(inode.id)).await
    }

    /// Whether a new file's name is published before its few bytes, which then go to the partition and not to the store: unless it
    /// was closed, when whoever sees the name may expect them.
    fn is_named_first(&self, inode: &Inode) -> bool {
        (1..=self.options.stage_bytes).contains(&inode.state().unpublished())
            && self.meta.is_open_birth(inode.id)
    }

    /// Whether a file may be closed with its bytes in memory: nobody else can see it before they are stored.
    fn may_wait(&self, inode: &Inode) -> bool {
        let (bytes, has_failed) = {
            let state = inode.state();
            (state.unpublished(), state.failure.is_some())
        };
        let is_little = bytes == 0 || bytes <= WAITING_BYTES_MAX && !self.budget.is_tight();
        is_little && !has_failed && self.meta.may_wait(inode.id, bytes > 0)
    }
}

/// Memory that was asked for and not used.
struct Taken<'a> {
    vfs: &'a Vfs,
    bytes: u64,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.vfs.core.budget.free(self.bytes);
    }
}
