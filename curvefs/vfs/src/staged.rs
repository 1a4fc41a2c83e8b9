//! Bytes that are durable in the metadata and not in the store yet, as a mount sees them.
//!
//! `fsync` and `close` of few bytes do not wait for the store: the bytes go with their extents into the partition, whose leader
//! moves them to the store later (`curvefs_meta`'s `stage`). Extents do not tell; so the mount remembers which slices it
//! was told of, asks the partition for them, and the store once the partition has them no more. What it has forgotten it asks
//! the store for, does not find, and is told again with the file's extents ([`FsError::DataLost`]).

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use curvefs_types::limits::{STAGED_PER_REQUEST_MAX, STAGED_SLICE_BYTES_MAX};
use curvefs_types::{
    Answer, DataBackend, DataRef, Durable, Extent, FsError, FsFuture, InodeId, Query, SliceId, SliceRef,
    Staged,
};

use crate::delegation::Delegations;
use crate::inode::Flushing;
use crate::shared::{Core, locked};

/// Slices that are remembered.
const KNOWN_MAX: usize = 1 << 16;
/// Runs of one batch that may wait: each becomes an object.
const RUNS_MAX: usize = 16;

/// The data of a mount: some of it in the metadata, the rest in the store.
pub(crate) struct StagedData {
    store: Arc<dyn DataBackend>,
    meta: Arc<Delegations>,
    /// A file that each is in.
    known: Mutex<HashMap<SliceId, InodeId>>,
}

impl StagedData {
    pub fn new(store: Arc<dyn DataBackend>, meta: Arc<Delegations>) -> Self {
        Self { store, meta, known: Mutex::default() }
    }

    /// Remembers slices of a file.
    pub fn told(&self, inode: InodeId, slices: impl IntoIterator<Item = SliceId>) {
        let mut known = locked(&self.known);
        if known.len() > KNOWN_MAX {
            known.clear();
        }
        known.extend(slices.into_iter().map(|slice| (slice, inode)));
    }

    async fn read_staged(&self, extent: Extent) -> Result<Vec<Bytes>, FsError> {
        if let DataRef::Slice { slice, at, .. } = extent.data {
            let inode = locked(&self.known).get(&slice).copied();
            if let Some(inode) = inode {
                match self.meta.query(Query::Staged { inode, slice }).await? {
                    Answer::Staged { content: Some(content) } => {
                        let part = at as usize..at as usize + extent.len as usize;
                        return match content.get(part.clone()) {
                            Some(_) => Ok(vec![content.slice(part)]),
                            None => Err(FsError::DataDamaged),
                        };
                    }
                    Answer::Staged { content: None } => drop(locked(&self.known).remove(&slice)),
                    _ => return Err(FsError::Corrupt),
                }
            }
        }
        self.store.read(extent).await
    }
}

impl DataBackend for StagedData {
    fn write(&self, inode: InodeId, offset: u64, data: Vec<Bytes>) -> FsFuture<'_, Durable<Vec<Extent>>> {
        self.store.write(inode, offset, data)
    }

    fn reserve(&self, bytes: u32) -> Option<SliceRef> {
        self.store.reserve(bytes)
    }

    fn put(&self, slice: SliceRef, content: Bytes) -> FsFuture<'_, ()> {
        self.store.put(slice, content)
    }

    fn read(&self, extent: Extent) -> FsFuture<'_, Vec<Bytes>> {
        Box::pin(self.read_staged(extent))
    }

    fn delete(&self, slices: Vec<SliceRef>) -> FsFuture<'_, ()> {
        self.store.delete(slices)
    }

    fn probe(&self) -> FsFuture<'_, ()> {
        self.store.probe()
    }
}

impl Core {
    /// The extents of a batch and their bytes, if it may wait in the metadata.
    pub fn stage(&self, inode: InodeId, flushing: &Flushing) -> Option<(Vec<Extent>, Vec<Staged>)> {
        if self.meta.is_unpublished(inode) {
            return None;
        }
        let limit = self.options.stage_bytes.min(STAGED_PER_REQUEST_MAX as u64);
        let runs = flushing.batch.runs();
        if runs.iter().flat_map(|(_, run)| run).map(|bytes| bytes.len() as u64).sum::<u64>() > limit {
            return None;
        }
        if runs.len() > RUNS_MAX {
            return None;
        }
        let staged = runs.into_iter().map(|(offset, run)| {
            let content: Bytes = run.concat().into();
            let bytes = u32::try_from(content.len()).ok().filter(|bytes| *bytes <= STAGED_SLICE_BYTES_MAX)?;
            let slice = self.data.reserve(bytes)?;
            let data = DataRef::Slice { slice: slice.slice, bytes, at: 0 };
            Some((Extent::checked(offset, bytes, data).ok()?, Staged { slice, content }))
        });
        staged.collect::<Option<Vec<_>>>().map(|staged| staged.into_iter().unzip())
    }

    /// Batches that wait in the metadata now can be read from memory, for a while.
    pub fn keep_staged(&self, inode: InodeId, staged: Vec<Staged>) {
        self.data.told(inode, staged.iter().map(|staged| staged.slice.slice));
        for Staged { slice, content } in staged {
            self.cache.keep(slice, content);
        }
    }
}
