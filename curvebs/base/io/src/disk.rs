//! What replicated code may ask of a disk.
//!
//! Writes go to the page cache and return at once; only `File::sync` and `Disk::sync_dir` make them durable, and only
//! those wait. That split is what lets one task own a file without a thread for each write.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::aligned::AlignedBuf;
use crate::board::Board;
use crate::machine::FilePlace;

/// A boxed future, so that the traits of this crate can be used as objects.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// How to open a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenMode {
    /// The file must exist.
    Existing,
    /// The file is made when it is missing.
    Create,
    /// The file must not exist.
    CreateNew,
}

/// One name in a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirEntry {
    /// The last component of the path.
    pub name: String,
    /// Length in bytes; 0 for a directory.
    pub len: u64,
    /// Whether it is a directory.
    pub is_dir: bool,
}

/// Room on the file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Space {
    /// Bytes in all.
    pub total: u64,
    /// Bytes that an unprivileged process may still allocate.
    pub free: u64,
}

/// A directory tree on one disk. Paths are relative to its root.
pub trait Disk: Send + Sync + 'static {
    /// Opens or makes a file for reading and writing.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>>;
    /// Makes a directory and its parents. Durable after `sync_dir` of the parents.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Renames a file over whatever has the name. Durable after `sync_dir` of both parents.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory and all in it.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Lists a directory, sorted by name.
    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>>;
    /// Makes the names in a directory durable.
    fn sync_dir<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, io::Result<()>>;
    /// Room on the file system.
    fn space(&self) -> io::Result<Space>;
    /// For how long something that was asked of the disk has been waiting for an answer. To be asked several times a second: time
    /// without questions, in which the process may have stood still, counts little.
    fn unanswered(&self) -> Duration {
        Duration::ZERO
    }
    /// A new board for what the process that serves from this disk pledges to readers on its machine; `None` where there
    /// can be none.
    fn board(&self) -> Option<Arc<Board>> {
        None
    }
}

/// An open file. Methods that are not futures touch only the page cache, except `read_at`, which may wait for the
/// disk and is meant for start-up and background work.
pub trait File: Send + Sync + 'static {
    /// Fills `buf` from `offset`; fewer bytes are returned only at the end of the file. May wait for the disk.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;
    /// Reads `len` bytes from `offset` without blocking the task's thread: from the page cache at once where they are
    /// there, otherwise on a thread of its own. Fewer bytes are returned only at the end of the file.
    fn read(self: Arc<Self>, offset: u64, len: usize) -> BoxFuture<'static, io::Result<Bytes>>;
    /// Writes all of `parts`, one after the other, from `offset`. Lands in the page cache.
    fn write_at(&self, offset: u64, parts: &[io::IoSlice<'_>]) -> io::Result<()>;
    /// As `write_at`, for much at once that will not be read soon: goes around the page cache and waits for the disk, if that
    /// is quick enough and the parts are aligned to [`SECTOR_ALIGN`](crate::SECTOR_ALIGN). Says whether it did; otherwise
    /// nothing was written.
    fn write_around(&self, _offset: u64, _parts: &[io::IoSlice<'_>]) -> io::Result<bool> {
        Ok(false)
    }
    /// Makes all earlier writes and allocations durable (`fdatasync`). An error is final: the caller must stop using
    /// the file, since the kernel may have dropped the dirty pages.
    fn sync(self: Arc<Self>) -> BoxFuture<'static, io::Result<()>>;
    /// Writes `pages`, whole pages from a page boundary, makes them durable, with what is needed to find them (earlier writes
    /// elsewhere in the file need not be), and gives the buffer back. May go around the page cache; readers see the new bytes all the same. An error is final, as for
    /// [`sync`](Self::sync). Nothing else may write to the range meanwhile.
    fn write_durably(
        self: Arc<Self>,
        offset: u64,
        pages: AlignedBuf,
    ) -> BoxFuture<'static, (AlignedBuf, io::Result<()>)> {
        Box::pin(async move {
            let written = match self.write_at(offset, &[io::IoSlice::new(&pages)]) {
                Ok(()) => self.sync().await,
                Err(error) => Err(error),
            };
            (pages, written)
        })
    }
    /// Writes all of `parts`, one after the other, from `offset`, a page boundary, and makes them durable, with what is
    /// needed to find them (earlier writes elsewhere in the file need not be). Goes around the page cache where it can;
    /// readers see the new bytes all the same. After an error the range holds anything. Nothing else may write to it
    /// meanwhile.
    fn write_parts_durably(
        self: Arc<Self>,
        offset: u64,
        parts: Vec<Bytes>,
    ) -> BoxFuture<'static, io::Result<()>> {
        Box::pin(async move {
            let slices: Vec<_> = parts.iter().map(|part| io::IoSlice::new(part)).collect();
            self.write_at(offset, &slices)?;
            self.sync().await
        })
    }
    /// Reserves blocks for a range; the file grows if the range ends after it. Reserved bytes read as zeros.
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Gives the blocks of a range back; the range reads as zeros afterwards. The length stays.
    fn punch(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Cuts or extends the file.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Where other processes of this machine find the file; `None` when they cannot.
    fn place(&self) -> Option<FilePlace> {
        None
    }
    /// Under which name they find it now.
    fn path(&self) -> io::Result<PathBuf> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Whether the file holds nothing.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}
