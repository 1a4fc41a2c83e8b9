//! The two seams of a mount: `vfs` above, metadata and data below. Neither knows the other.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;

use crate::error::FsError;
use crate::extent::{Extent, SliceRef};
use crate::ids::{FsId, InodeId};
use crate::op::{Op, Reply};
use crate::query::{Answer, Query};
use crate::usage::Usage;

/// What a seam's call returns.
pub type FsFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, FsError>> + Send + 'a>>;

/// A file system as mounted: what `vfs` calls. Implemented by the routed client (`curvefs/client`) and by a single
/// partition in memory for tests of `vfs`.
///
/// The implementation routes by `home()`, numbers each change, repeats it with the same number until there is an answer,
/// fetches the map anew at `NotHere`, and waits at `Busy`: the caller never sees a transient error. Dropping a future does not
/// undo what was sent.
pub trait Metadata: Send + Sync + 'static {
    /// The file system.
    fn fs(&self) -> FsId;
    /// Makes one change, once. [`Op::Close`] may name files of several partitions, and may have closed some when it fails.
    fn change(&self, op: Op) -> FsFuture<'_, Reply>;
    /// Asks. Sees every change that was answered before.
    fn query(&self, query: Query) -> FsFuture<'_, Answer>;
    /// Inodes and bytes of the whole file system: the sum over its partitions.
    fn stat_fs(&self) -> FsFuture<'_, Usage>;
}

/// Something that a [`DataBackend`] has made durable. **Metadata never names data that is not**: extents get into
/// [`Op::Write`] only out of one of these, or with their bytes beside them.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use]
pub struct Durable<T>(T);

impl<T> Durable<T> {
    /// Vouches for it. For data backends only, after the store has acknowledged all of it.
    pub fn vouch(value: T) -> Self {
        Self(value)
    }

    /// What is durable.
    pub fn into_inner(self) -> T {
        self.0
    }
}

/// Where bytes of files are kept: objects (S3), later a volume. Knows neither names nor lengths, and holds no state that
/// a crash could lose: what was written and is in no extent is garbage, found by its writer's id.
pub trait DataBackend: Send + Sync + 'static {
    /// Puts bytes that are one range of a file into the store; durable when it completes. The extents cover exactly
    /// `offset .. offset + len` in order. With `O_APPEND` the offset counts from the end. Nothing that exists is changed.
    fn write(&self, inode: InodeId, offset: u64, data: Vec<Bytes>) -> FsFuture<'_, Durable<Vec<Extent>>>;
    /// A number for a slice of so many bytes whose content waits in the metadata ([`Op::Write`]) until a server puts it into
    /// the store. `None`: this backend has no use for that.
    fn reserve(&self, bytes: u32) -> Option<SliceRef>;
    /// Puts the content of a slice that was reserved, by whomever; durable when it completes. Repeating it changes nothing.
    fn put(&self, slice: SliceRef, content: Bytes) -> FsFuture<'_, ()>;
    /// Reads the bytes of an extent (or of a [`Extent::part`] of one): `len` bytes together. `Unwritten` is zeros.
    /// `DataLost` when the store has not got them: the caller asks for the extents anew once and then fails.
    fn read(&self, extent: Extent) -> FsFuture<'_, Vec<Bytes>>;
    /// Deletes slices; what is not there is deleted. Called by metaservers only, after the grace period.
    fn delete(&self, slices: Vec<SliceRef>) -> FsFuture<'_, ()>;
    /// Writes, reads and deletes something of its own, to say at `create` what would not work.
    fn probe(&self) -> FsFuture<'_, ()>;
}
