//! Bytes of small files, in slices that several share: an object for hundreds of files instead of one for each.
//!
//! **What must hold.** A partition deletes a slice with the last extent that refers to it, so all files of a slice are published in one
//! change. Hence such extents are in a file only while its batch is under way: `Table::take` puts them in, and if the
//! batch was not made they are taken out again, and the bytes stored anew. A file that cannot come along leaves its part unused.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use curvefs_types::{Attr, DataBackend, DataRef, Extent, FsError, InodeId, SliceRef};
use tokio::sync::OwnedMutexGuard;

use super::birth::Written;
use crate::inode::{Flushing, Inode};
use crate::shared::Core;

/// A file with more bytes gets slices of its own.
const FILE_BYTES_MAX: usize = 128 << 10;
/// A file with more pieces does.
const RUNS_MAX: usize = 4;
/// Bytes of a slice, all of which stay until the last of its files is deleted.
const SLICE_BYTES_MAX: usize = 1 << 20;

/// Bytes of a closed file that are on their way. Dropped they are dirty again.
pub(super) struct Packed {
    core: Arc<Core>,
    inode: Arc<Inode>,
    flushing: Flushing,
    /// Which close it was.
    pub lazy: u64,
    runs: Vec<(u64, Vec<Bytes>)>,
    /// Where the bytes are, once they are stored. Appended ones count from the end.
    extents: Vec<Extent>,
    published: Option<(Attr, u64)>,
    _publish: OwnedMutexGuard<()>,
}

impl Packed {
    /// Takes the bytes of a file, if they are few, can be named in one step, and nobody else publishes them.
    pub fn begin(core: &Arc<Core>, inode: Arc<Inode>, lazy: u64) -> Option<Self> {
        let publish = inode.try_publishing_owned()?;
        let (flushing, has_more) = {
            let mut state = inode.state();
            if state.unpublished() > FILE_BYTES_MAX as u64 {
                return None;
            }
            (state.begin(u64::MAX)?, state.has_more())
        };
        let mut packed = Self {
            core: core.clone(),
            inode,
            flushing,
            lazy,
            runs: Vec::new(),
            extents: Vec::new(),
            published: None,
            _publish: publish,
        };
        packed.runs = packed.flushing.batch.runs();
        (!has_more && packed.runs.len() <= RUNS_MAX).then_some(packed)
    }

    /// Which file.
    pub fn id(&self) -> InodeId {
        self.inode.id
    }

    fn bytes(&self) -> usize {
        self.runs.iter().flat_map(|(_, run)| run).map(Bytes::len).sum()
    }

    /// What is published of it.
    pub fn written(&self) -> Written<'_> {
        Written {
            place: self.flushing.batch.place(),
            extents: &self.extents,
            length: 0,
            mtime: self.flushing.mtime,
            expect: None,
            kill_priv: self.flushing.kill_priv,
            set: &self.flushing.set,
        }
    }

    /// It is published: with these attributes, appended bytes from there on.
    pub fn published(mut self, attr: Attr, base: u64) {
        self.extents.iter_mut().for_each(|extent| extent.offset = extent.offset.saturating_add(base));
        self.published = Some((attr, base));
    }
}

impl Drop for Packed {
    fn drop(&mut self) {
        let freed = match self.published {
            Some((attr, base)) => self.inode.state().end(attr, base, &self.extents, 1),
            None => self.inode.state().put_back(),
        };
        self.core.budget.free(freed);
        self.core.tell_kernel(&self.inode);
    }
}

/// Files by what goes into one slice.
pub(super) fn slices(files: Vec<Packed>) -> Vec<Vec<Packed>> {
    let mut slices: Vec<Vec<Packed>> = Vec::new();
    let mut room = 0;
    for file in files {
        let bytes = file.bytes();
        if bytes > room {
            room = SLICE_BYTES_MAX;
            slices.push(Vec::new());
        }
        room -= bytes;
        slices.last_mut().expect("there is room in one").push(file);
    }
    slices
}

/// Puts the bytes of files into one slice. Without it they are dirty again.
pub(super) async fn store(core: &Core, mut files: Vec<Packed>) -> Result<Vec<Packed>, FsError> {
    let bytes: usize = files.iter().map(Packed::bytes).sum();
    let bytes = u32::try_from(bytes).map_err(|_| FsError::TooBig)?;
    let slice = core.data.reserve(bytes).ok_or(FsError::NotSupported)?;
    let mut content = BytesMut::with_capacity(bytes as usize);
    for file in &mut files {
        for (offset, run) in std::mem::take(&mut file.runs) {
            let at = content.len();
            run.iter().for_each(|piece| content.extend_from_slice(piece));
            let SliceRef { slice, bytes } = slice;
            let data = DataRef::Slice { slice, bytes, at: at as u32 };
            file.extents.push(Extent::checked(offset, (content.len() - at) as u32, data)?);
        }
    }
    core.in_time(core.data.put(slice, content.freeze())).await?;
    Ok(files)
}

/// Files that are stored, for a batch.
pub(super) type Packs = HashMap<InodeId, Packed>;
