//! A mounted file system: what programs can ask of it.

use std::sync::Arc;
use std::time::Duration;

use curvefs_types::{Attr, DataBackend, FsError, InodeId, Metadata, MountOptions, Usage};

use futures::StreamExt;

use crate::flush::FILES_AT_ONCE;
use crate::handle::{DirHandle, FileHandle};
use crate::inode::Inode;
use crate::shared::{Core, KernelCaches, locked};

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Caller {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bits that new inodes do not get.
    pub umask: u32,
}

/// An inode as the kernel is told of it. Whoever gets one holds a reference until [`Vfs::forget`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its attributes.
    pub attr: Attr,
    /// How long they may be believed.
    pub attr_ttl: Duration,
    /// How long the name may be believed.
    pub entry_ttl: Duration,
}

/// A file that was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opened {
    /// Its handle.
    pub handle: u64,
    /// Pages that the kernel has of it are still right.
    pub keep_cache: bool,
}

/// A mounted file system. Knows no kernel types: an adaptor (`curvefs-fuse`) translates.
///
/// # What a write goes through
///
/// ```text
/// write -> memory budget -> dirty bytes of the inode            answered here; O_SYNC goes on
///       -> flush (fsync, close, 3 s, 8 MiB, memory half full)
///       -> DataBackend::write -> Durable<extents> -> Op::Write   published here
/// ```
///
/// There is no other path to `Op::Write`, so metadata never names what is not durable. Bytes stay visible in the mount the
/// whole way. What could not be published is kept, tried again and told at `fsync` and `close`; it is given up only when
/// trying again can never help (the file is gone, the mount is fenced).
///
/// # Who else writes
///
/// A file's `generation` says whether cached bytes are right. The mount counts its own changes: an answer whose generation
/// is not the next one tells of another's change. Extents are then asked for anew, and the kernel is told to drop its pages.
/// `open` asks the partition (close-to-open); in between attributes are believed for their timeouts.
///
/// Names are cached by the kernel alone, for the times that [`Entry`] gives; those of directories that are delegated to the mount are
/// known (see `delegation`). Must be made inside a tokio runtime.
#[derive(Clone)]
pub struct Vfs {
    pub(crate) core: Arc<Core>,
}

impl Vfs {
    /// Mounts: a task in the background begins.
    pub fn new(meta: Arc<dyn Metadata>, data: Arc<dyn DataBackend>, options: MountOptions) -> Self {
        let core = Core::new(meta, data, options);
        Core::begin_background(&core);
        Self { core }
    }

    /// The options it was mounted with.
    pub fn options(&self) -> &MountOptions {
        &self.core.options
    }

    /// Whom to tell what others have changed. Once.
    pub fn set_kernel_caches(&self, kernel: Arc<dyn KernelCaches>) {
        // A second one would be a second mount of the same `Vfs`, which adaptors do not make.
        assert!(self.core.kernel.set(kernel).is_ok(), "kernel caches are set once");
    }

    /// Publishes everything and gives up all holds: the end of a mount. Later calls fail or find nothing.
    pub async fn shutdown(&self) -> Result<(), FsError> {
        let flushed = self.sync().await;
        let flushed = flushed.and(self.core.in_time(self.core.meta.give_all_back()).await);
        let (files, dirs) =
            (std::mem::take(&mut *locked(&self.core.files)), std::mem::take(&mut *locked(&self.core.dirs)));
        drop((files, dirs));
        let mut closed = Ok(());
        for inode in self.core.all() {
            let owners: Vec<_> = inode.state().lock_owners.iter().copied().collect();
            for owner in owners {
                closed = closed.and(self.unlock_owner(&inode, owner).await);
            }
            inode.state().opens = 0;
            closed = closed.and(self.core.close_hold(&inode).await);
        }
        self.core.stop_tasks().await;
        flushed.and(closed)
    }

    /// Publishes everything that was written.
    pub async fn sync(&self) -> Result<(), FsError> {
        // Closed new files first, which share objects. What cannot be published says so below.
        let _ = self.core.in_time(self.core.meta.publish_all()).await;
        let flushes = self.core.all().into_iter().map(|inode| {
            let core = &self.core;
            async move { core.flush(&inode).await }
        });
        let flushed = futures::stream::iter(flushes).buffer_unordered(FILES_AT_ONCE);
        let result = flushed.fold(Ok(()), |all, one| std::future::ready(Result::and(all, one))).await;
        result.and(self.core.in_time(self.core.meta.publish_all()).await)
    }

    /// Directories that are delegated to this mount, and what it has made there.
    pub fn delegations(&self) -> crate::DelegationCounts {
        self.core.meta.counts()
    }

    /// The whole file system's inodes and bytes.
    pub async fn stat_fs(&self) -> Result<Usage, FsError> {
        self.core.in_time(self.core.meta.stat_fs()).await
    }

    /// Written bytes in memory that the store has not got yet.
    pub fn unpublished_bytes(&self) -> u64 {
        self.core.budget.used()
    }

    /// Gives back references that [`Entry`]s were.
    pub fn forget(&self, inode: InodeId, lookups: u64) {
        if let Some(known) = self.core.known(inode) {
            let left = {
                let mut state = known.state();
                state.lookups = state.lookups.saturating_sub(lookups);
                state.lookups
            };
            drop(known);
            if left == 0 {
                self.core.release_inode(inode);
            }
        }
    }

    /// How many inodes the mount remembers.
    pub fn known_inodes(&self) -> usize {
        self.core.all().len()
    }

    pub(crate) fn file(&self, handle: u64) -> Result<Arc<FileHandle>, FsError> {
        locked(&self.core.files).get(&handle).cloned().ok_or(FsError::Stale)
    }

    pub(crate) fn dir(&self, handle: u64) -> Result<Arc<DirHandle>, FsError> {
        locked(&self.core.dirs).get(&handle).cloned().ok_or(FsError::Stale)
    }

    /// Attributes that came from a partition, as an entry that counts as a reference.
    pub(crate) fn enter(&self, attr: Attr) -> (Arc<Inode>, Entry) {
        let inode = self.core.inode(attr.inode);
        inode.state().lookups += 1;
        let attr = self.core.heard(&inode, attr);
        let entry =
            Entry { attr, attr_ttl: self.core.timeout_of(&attr), entry_ttl: self.core.options.entry_timeout };
        (inode, entry)
    }
}
