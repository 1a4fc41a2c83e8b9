//! A data backend in memory: for tests, and for mounts that need not last.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use curvefs_types::limits::SLICE_BYTES_MAX;
use curvefs_types::{
    DataBackend, DataRef, Durable, Extent, FsError, FsFuture, InodeId, SliceId, SliceRef, WriterId,
};

/// Slices in memory. Can be told to fail, to see what a mount does about it.
#[derive(Debug)]
pub struct MemoryBackend {
    writer: WriterId,
    serial: AtomicU64,
    slices: Mutex<HashMap<SliceId, Bytes>>,
    failing: Mutex<Option<FsError>>,
    reads: AtomicU64,
    writes: AtomicU64,
}

impl MemoryBackend {
    /// An empty one, whose slices carry the writer's id.
    pub fn new(writer: WriterId) -> Self {
        Self {
            writer,
            serial: AtomicU64::new(0),
            slices: Mutex::default(),
            failing: Mutex::default(),
            reads: AtomicU64::new(0),
            writes: AtomicU64::new(0),
        }
    }

    /// From now on every call fails so; `None` ends that.
    pub fn fail(&self, error: Option<FsError>) {
        *self.failing.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }

    /// Calls of `read` so far.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// Calls of `write` so far.
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    /// Loses every slice.
    pub fn lose(&self) {
        self.held().clear();
    }

    /// Slices that it has.
    pub fn slices(&self) -> usize {
        self.held().len()
    }

    fn held(&self) -> std::sync::MutexGuard<'_, HashMap<SliceId, Bytes>> {
        self.slices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_slice(&self) -> SliceId {
        SliceId { writer: self.writer, serial: self.serial.fetch_add(1, Ordering::Relaxed) + 1 }
    }

    fn check(&self) -> Result<(), FsError> {
        (*self.failing.lock().unwrap_or_else(PoisonError::into_inner)).map_or(Ok(()), Err)
    }

    fn put(&self, offset: u64, data: &[Bytes]) -> Result<Vec<Extent>, FsError> {
        self.check()?;
        let whole: Bytes = data.concat().into();
        let mut extents = Vec::new();
        for (i, part) in whole.chunks(SLICE_BYTES_MAX as usize).enumerate() {
            let slice = self.next_slice();
            let data = DataRef::Slice { slice, bytes: part.len() as u32, at: 0 };
            let at = offset + (i * SLICE_BYTES_MAX as usize) as u64;
            extents.push(Extent::checked(at, part.len() as u32, data)?);
            self.held().insert(slice, whole.slice_ref(part));
        }
        Ok(extents)
    }

    fn get(&self, extent: Extent) -> Result<Bytes, FsError> {
        self.check()?;
        match extent.data {
            DataRef::Slice { slice, at, .. } => {
                let bytes = self.held().get(&slice).cloned().ok_or(FsError::DataLost)?;
                let (from, to) = (at as usize, at as usize + extent.len as usize);
                if to > bytes.len() { Err(FsError::DataLost) } else { Ok(bytes.slice(from..to)) }
            }
            DataRef::Unwritten => Ok(Bytes::from(vec![0; extent.len as usize])),
            DataRef::Volume { .. } => Err(FsError::DataLost),
        }
    }
}

impl DataBackend for MemoryBackend {
    fn write(&self, _: InodeId, offset: u64, data: Vec<Bytes>) -> FsFuture<'_, Durable<Vec<Extent>>> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            self.writes.fetch_add(1, Ordering::Relaxed);
            self.put(offset, &data).map(Durable::vouch)
        })
    }

    fn reserve(&self, bytes: u32) -> Option<SliceRef> {
        Some(SliceRef { slice: self.next_slice(), bytes })
    }

    fn put(&self, slice: SliceRef, content: Bytes) -> FsFuture<'_, ()> {
        Box::pin(async move {
            self.check()?;
            self.held().insert(slice.slice, content);
            Ok(())
        })
    }

    fn read(&self, extent: Extent) -> FsFuture<'_, Vec<Bytes>> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            self.reads.fetch_add(1, Ordering::Relaxed);
            Ok(vec![self.get(extent)?])
        })
    }

    fn delete(&self, slices: Vec<SliceRef>) -> FsFuture<'_, ()> {
        Box::pin(async move {
            self.check()?;
            let mut held = self.held();
            slices.iter().for_each(|slice| drop(held.remove(&slice.slice)));
            Ok(())
        })
    }

    fn probe(&self) -> FsFuture<'_, ()> {
        Box::pin(async move { self.check() })
    }
}
