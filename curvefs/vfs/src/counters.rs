//! What a mount counts, and what it can say of itself to those who look after it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use curvefs_types::limits::{EXTENTS_PER_REQUEST_MAX, FILE_BYTES_MAX};
use curvefs_types::{Answer, Attr, Extent, FsError, FsFuture, InodeId, Meter, Query, XattrName};

use crate::vfs::Vfs;

/// What was done since the mount began.
#[derive(Default, Debug)]
pub struct Counters {
    /// Requests of programs, from the kernel's to the answer; without those that wait for a lock.
    pub requests: Meter,
    /// Reads among them, with the bytes that were read.
    pub reads: Meter,
    /// Writes, with the bytes that were taken; pages of mappings are among them.
    pub writes: Meter,
    /// Batches of written bytes that went to the store and into the metadata.
    pub publishes: Meter,
    lost_bytes: AtomicU64,
}

impl Counters {
    pub(crate) fn lost(&self, bytes: u64) {
        self.lost_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes that were written and given up, since publishing them could never succeed.
    pub fn lost_bytes(&self) -> u64 {
        self.lost_bytes.load(Ordering::Relaxed)
    }
}

/// What was written and is not published.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pending {
    /// Files.
    pub files: usize,
    /// Bytes.
    pub bytes: u64,
    /// The oldest of them waits so long.
    pub oldest: Option<Duration>,
    /// Files of which the last try failed.
    pub failing: usize,
    /// Why, for one of them.
    pub failure: Option<FsError>,
}

/// A page of a file's extents.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExtentPage {
    /// The file at that moment, as its partition knows it.
    pub attr: Attr,
    /// In order of offset. The first may begin before what was asked for.
    pub extents: Vec<Extent>,
    /// There are no more.
    pub end: bool,
}

/// Who knows the virtual attributes that are of the mount and not of the file system: `curve.file.…`, `system.curve.…`.
pub trait VirtualAttributes: Send + Sync + 'static {
    /// The value of one; `None` if there is no such. Must end in time whatever the servers do.
    fn value<'a>(&'a self, vfs: &'a Vfs, inode: InodeId, name: &'a XattrName) -> FsFuture<'a, Option<Bytes>>;
}

impl Vfs {
    /// What was done so far.
    pub fn counters(&self) -> &Counters {
        &self.core.counters
    }

    /// Says who knows the mount's virtual attributes. Once.
    pub fn set_virtual_attributes(&self, attributes: std::sync::Arc<dyn VirtualAttributes>) {
        assert!(self.core.attributes.set(attributes).is_ok(), "virtual attributes are set once");
    }

    /// Bytes in the cache of what was read.
    pub fn cached_bytes(&self) -> u64 {
        self.core.cache.bytes()
    }

    /// What was written and is not published. Looks at every inode that is known: not for every second.
    pub fn pending(&self) -> Pending {
        let mut pending = Pending::default();
        for inode in self.core.all() {
            let state = inode.state();
            if !state.is_dirty() {
                continue;
            }
            pending.files += 1;
            pending.bytes += state.unpublished();
            pending.oldest = pending.oldest.max(state.dirty_since.map(|since| since.elapsed()));
            if state.retry_at.is_some() && state.failure.is_some() {
                pending.failing += 1;
                pending.failure = state.failure;
            }
        }
        pending
    }

    /// Bytes written to one file that are not published.
    pub fn unpublished_of(&self, inode: InodeId) -> u64 {
        self.core.known(inode).map_or(0, |inode| inode.state().unpublished())
    }

    /// A file's attributes and some of its extents as they are published.
    pub async fn extents(&self, inode: InodeId, from: u64) -> Result<ExtentPage, FsError> {
        let (offset, limit) = (from.min(FILE_BYTES_MAX), EXTENTS_PER_REQUEST_MAX as u32);
        let query = Query::Extents { inode, offset, len: FILE_BYTES_MAX - offset, limit };
        match self.core.query(query).await? {
            Answer::Extents { attr, extents, end, .. } => Ok(ExtentPage { attr, extents, end }),
            _ => Err(FsError::Corrupt),
        }
    }
}
