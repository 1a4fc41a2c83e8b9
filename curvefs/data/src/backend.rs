//! Slices and objects: the data backend.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use curvefs_types::limits::CHUNK_BYTES;
use curvefs_types::{
    DataBackend, DataRef, Durable, Extent, FsError, FsFuture, FsId, InodeId, SliceId, SliceRef, WriterId,
};
use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::{Mutex, Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep_until};

use crate::bucket::{DELETE_MAX, ObjectStore};
use crate::content::Cut;
use crate::error::DataError;
use crate::format::{ObjectName, stored_len, stored_range};
use crate::located::ObjectPart;
use crate::memory::MemoryBucket;
use crate::options::BackendOptions;
use crate::probe::{ProbeError, ProbeTimes, probe_bucket, time_bucket};
use crate::retry::retry;

/// Memory is counted in units of this, since a semaphore counts in 32 bits.
const UNIT_BYTES: usize = 4 << 10;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// A file system's data in objects.
///
/// **Write**: a range of a file is cut at the borders of chunks into slices, each with a number of this writer's own that is never
/// used again, and slices into objects. All objects are put at the same time, as far as the limits allow; the extents are
/// handed out when all are durable. After a failure what was put is garbage under a name that no metadata knows.
///
/// **Read**: an extent names slice and place, hence objects and ranges; only the blocks that are needed are fetched, at
/// the same time, and verified. Nothing is looked up and nothing is cached here.
///
/// **Placement**: an object is in the bucket that its name's hash chooses. So the list of buckets, with its order, belongs
/// to the file system and never changes; two buckets double what one allows.
///
/// **Limits**: requests and bytes at a time, for reads and writes together. An object takes both before it is sent or
/// asked for, and only one object's bytes at a time, so that nobody waits for more while holding some.
pub struct ObjectBackend {
    buckets: Vec<Arc<dyn ObjectStore>>,
    fs: FsId,
    writer: WriterId,
    serial: AtomicU64,
    options: BackendOptions,
    requests: Semaphore,
    memory: Semaphore,
    /// When the next deletion may be sent.
    deletions: Mutex<Option<Instant>>,
}

/// An object and a range of its content.
#[derive(Clone, Debug)]
struct Piece {
    name: ObjectName,
    /// Bytes of the whole object's content.
    content: u32,
    wanted: Range<u32>,
}

impl ObjectBackend {
    /// A backend over the file system's buckets, of which there is at least one, in the order of its record. `writer`
    /// must never have been given to another process, unless [`Self::set_next_serial`] follows.
    ///
    /// # Panics
    ///
    /// Without a bucket, or if an object does not fit into the memory that is allowed.
    pub fn new(
        buckets: Vec<Arc<dyn ObjectStore>>,
        fs: FsId,
        writer: WriterId,
        options: BackendOptions,
    ) -> Self {
        assert!(!buckets.is_empty(), "a file system has at least one bucket");
        let units = options.memory_bytes_max / UNIT_BYTES;
        assert!(
            units_of(stored_len(options.object_bytes)) as usize <= units && options.object_bytes > 0,
            "one object must fit into the memory"
        );
        Self {
            buckets,
            fs,
            writer,
            serial: AtomicU64::new(1),
            options,
            requests: Semaphore::new(options.requests_max.max(1)),
            memory: Semaphore::new(units.min(Semaphore::MAX_PERMITS)),
            deletions: Mutex::new(None),
        }
    }

    /// A backend over one bucket in memory, and that bucket, to make it fail.
    pub fn in_memory(fs: FsId, writer: WriterId, options: BackendOptions) -> (Self, Arc<MemoryBucket>) {
        let bucket = Arc::new(MemoryBucket::new());
        (Self::new(vec![bucket.clone()], fs, writer, options), bucket)
    }

    /// The number of the next slice, for the process that takes this writer over.
    pub fn next_serial(&self) -> u64 {
        self.serial.load(Ordering::Relaxed)
    }

    /// Takes a writer over from another process, which writes no more. Before the first write.
    pub fn set_next_serial(&self, serial: u64) {
        self.serial.fetch_max(serial, Ordering::Relaxed);
    }

    /// Uses each bucket once, to say what does not work. `nonce` tells probes apart.
    pub async fn check(&self, nonce: u64) -> Result<(), ProbeError> {
        let probes = self.buckets.iter().map(|bucket| probe_bucket(&**bucket, nonce));
        futures::future::try_join_all(probes).await.map(drop)
    }

    /// Uses each bucket once, and says of each how long it took or what does not work. `nonce` tells probes apart.
    pub async fn time_buckets(&self, nonce: u64) -> Vec<(String, Result<ProbeTimes, ProbeError>)> {
        let probes = self
            .buckets
            .iter()
            .map(|bucket| async move { (bucket.name().to_owned(), time_bucket(&**bucket, nonce).await) });
        futures::future::join_all(probes).await
    }

    /// The objects that an extent's bytes are in, in order of the file; none of what was never written.
    pub fn locate(&self, extent: &Extent) -> Vec<ObjectPart> {
        let DataRef::Slice { slice, bytes, at } = extent.data else { return Vec::new() };
        let end = at.saturating_add(extent.len).min(bytes);
        let mut offset = extent.offset;
        let part = |piece: Piece| {
            let len = piece.wanted.len() as u32;
            let part = ObjectPart {
                offset,
                len,
                bucket: self.buckets[self.bucket(&piece.name)].name().to_owned(),
                object: piece.name.to_string(),
                object_bytes: piece.content,
                at: piece.wanted.start,
            };
            offset += u64::from(len);
            part
        };
        self.pieces(SliceRef { slice, bytes }, at.min(end)..end).map(part).collect()
    }

    /// What it may use.
    pub fn options(&self) -> &BackendOptions {
        &self.options
    }

    fn bucket(&self, name: &ObjectName) -> usize {
        name.hash() as usize % self.buckets.len()
    }

    /// The room for one object.
    async fn room(&self, bytes: u64) -> (SemaphorePermit<'_>, SemaphorePermit<'_>) {
        let memory = self.memory.acquire_many(units_of(bytes)).await.expect("never closed");
        (memory, self.requests.acquire().await.expect("never closed"))
    }

    /// Objects of a part of a slice.
    fn pieces(
        &self,
        SliceRef { slice, bytes }: SliceRef,
        part: Range<u32>,
    ) -> impl Iterator<Item = Piece> + use<> {
        let (fs, size) = (self.fs, self.options.object_bytes);
        let last = part.end.div_ceil(size);
        (part.start / size..last).map(move |index| {
            let start = index * size;
            let content = size.min(bytes - start);
            let wanted = part.start.saturating_sub(start)..(part.end - start).min(content);
            Piece { name: ObjectName { fs, slice, index }, content, wanted }
        })
    }

    async fn put_piece(&self, piece: &Piece, content: Vec<Bytes>) -> Result<(), DataError> {
        let _room = self.room(stored_len(piece.content)).await;
        let sealed = piece.name.seal(content);
        let (bucket, object) = (&self.buckets[self.bucket(&piece.name)], piece.name.to_string());
        let bytes = u64::from(piece.content);
        retry(self.options.patience, || bucket.put(object.clone(), sealed.clone())).await?;
        metrics::counter!("curve_fs_store_put_bytes_total").increment(bytes);
        Ok(())
    }

    async fn get_piece(&self, piece: Piece) -> Result<Vec<Bytes>, DataError> {
        let range = stored_range(&piece.wanted, piece.content);
        let _room = self.room(range.end - range.start).await;
        let (bucket, object) = (&self.buckets[self.bucket(&piece.name)], piece.name.to_string());
        let mut again = true;
        loop {
            let stored = retry(self.options.patience, || bucket.get(object.clone(), range.clone())).await?;
            match piece.name.unseal(stored, piece.wanted.clone()) {
                // Once more, since a connection may damage bytes too.
                Err(DataError::Damaged { what, .. }) if again => {
                    tracing::warn!(%object, what, "read damaged bytes; reading again");
                    again = false;
                }
                unsealed => {
                    metrics::counter!("curve_fs_store_get_bytes_total").increment(piece.wanted.len() as u64);
                    return unsealed;
                }
            }
        }
    }

    async fn write_slice(&self, content: Vec<Bytes>) -> Result<SliceRef, DataError> {
        let bytes = content.iter().map(Bytes::len).sum::<usize>();
        let slice = self.new_slice(u32::try_from(bytes).expect("a slice is within a chunk"));
        self.put_slice(slice, content).await?;
        Ok(slice)
    }

    fn new_slice(&self, bytes: u32) -> SliceRef {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        SliceRef { slice: SliceId { writer: self.writer, serial }, bytes }
    }

    /// Puts all objects of a slice. The content is as long as it says.
    async fn put_slice(&self, slice: SliceRef, content: Vec<Bytes>) -> Result<(), DataError> {
        let mut rest = Cut::new(content);
        let puts = self.pieces(slice, 0..slice.bytes).map(|piece| {
            let content = rest.take(piece.content as usize);
            async move { self.put_piece(&piece, content).await }
        });
        futures::future::try_join_all(puts.collect::<Vec<_>>()).await.map(drop)
    }

    async fn write_all(&self, offset: u64, data: Vec<Bytes>) -> Result<Vec<Extent>, FsError> {
        let len = data.iter().map(|bytes| bytes.len() as u64).sum::<u64>();
        let end = offset.checked_add(len).ok_or(FsError::TooBig)?;
        let (mut rest, mut at, mut slices) = (Cut::new(data), offset, Vec::new());
        while at < end {
            let border = (at / CHUNK_BYTES + 1).saturating_mul(CHUNK_BYTES).min(end);
            let content = rest.take((border - at) as usize);
            let from = at;
            slices.push(async move {
                let SliceRef { slice, bytes } =
                    self.write_slice(content).await.map_err(|error| told(&error))?;
                Extent::checked(from, bytes, DataRef::Slice { slice, bytes, at: 0 })
            });
            at = border;
        }
        futures::future::try_join_all(slices).await
    }

    async fn read_extent(&self, extent: Extent) -> Result<Vec<Bytes>, FsError> {
        let Extent { offset, len, data } = extent;
        Extent::checked(offset, len, data)?;
        match data {
            DataRef::Unwritten => Ok(zeros(len)),
            DataRef::Volume { .. } => Err(FsError::NotSupported),
            DataRef::Slice { slice, bytes, at } => {
                let pieces = self.pieces(SliceRef { slice, bytes }, at..at + len);
                let reads = pieces.map(|piece| self.get_piece(piece));
                let parts = stream::iter(reads).buffered(self.options.requests_max.max(1));
                let parts = parts.try_collect::<Vec<_>>().await.map_err(|error| told(&error))?;
                Ok(parts.into_iter().flatten().collect())
            }
        }
    }

    async fn delete_all(&self, slices: Vec<SliceRef>) -> Result<(), FsError> {
        let mut by_bucket = vec![Vec::new(); self.buckets.len()];
        for slice in slices {
            for piece in self.pieces(slice, 0..slice.bytes) {
                by_bucket[self.bucket(&piece.name)].push(piece.name.to_string());
                let full =
                    by_bucket.iter_mut().zip(&self.buckets).find(|(names, _)| names.len() == DELETE_MAX);
                if let Some((names, bucket)) = full {
                    self.delete_some(&**bucket, std::mem::take(names)).await?;
                }
            }
        }
        for (names, bucket) in by_bucket.into_iter().zip(&self.buckets).filter(|(names, _)| !names.is_empty())
        {
            self.delete_some(&**bucket, names).await?;
        }
        Ok(())
    }

    async fn delete_some(&self, bucket: &dyn ObjectStore, names: Vec<String>) -> Result<(), FsError> {
        let share = Duration::from_secs(1) / self.options.deletes_per_second.max(1);
        let at = {
            let mut next = self.deletions.lock().await;
            let at = next.map_or_else(Instant::now, |next| next.max(Instant::now()));
            *next = Some(at + share * names.len() as u32);
            at
        };
        sleep_until(at).await;
        let _request = self.requests.acquire().await.expect("never closed");
        let deleted = retry(self.options.patience, || bucket.delete(names.clone())).await;
        metrics::counter!("curve_fs_store_deleted_total").increment(names.len() as u64);
        deleted.map_err(|error| told(&error))
    }
}

fn units_of(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT_BYTES as u64)).expect("an object is far below 16 TiB")
}

/// Counts and logs a failure where it becomes a program's error.
fn told(error: &DataError) -> FsError {
    metrics::counter!("curve_fs_store_failures_total", "code" => error.code()).increment(1);
    tracing::error!(code = error.code(), %error, "the data store failed");
    FsError::from(error)
}

fn zeros(len: u32) -> Vec<Bytes> {
    let len = len as usize;
    (0..len).step_by(ZEROS.len()).map(|at| Bytes::from_static(&ZEROS[..ZEROS.len().min(len - at)])).collect()
}

impl DataBackend for ObjectBackend {
    fn write(&self, _: InodeId, offset: u64, data: Vec<Bytes>) -> FsFuture<'_, Durable<Vec<Extent>>> {
        Box::pin(async move { Ok(Durable::vouch(self.write_all(offset, data).await?)) })
    }

    fn reserve(&self, bytes: u32) -> Option<SliceRef> {
        Some(self.new_slice(bytes))
    }

    fn put(&self, slice: SliceRef, content: Bytes) -> FsFuture<'_, ()> {
        Box::pin(async move {
            if content.len() != slice.bytes as usize {
                return Err(FsError::Invalid);
            }
            self.put_slice(slice, vec![content]).await.map_err(|error| told(&error))
        })
    }

    fn read(&self, extent: Extent) -> FsFuture<'_, Vec<Bytes>> {
        Box::pin(self.read_extent(extent))
    }

    fn delete(&self, slices: Vec<SliceRef>) -> FsFuture<'_, ()> {
        Box::pin(self.delete_all(slices))
    }

    fn probe(&self) -> FsFuture<'_, ()> {
        Box::pin(async move {
            self.check(self.writer.0).await.map_err(|error| {
                tracing::error!(%error, "the data store cannot be used");
                match error {
                    ProbeError::Failed { cause, .. } => FsError::from(&cause),
                    ProbeError::Slow { .. } => FsError::TimedOut,
                    ProbeError::Wrong { .. } => FsError::DataDamaged,
                    ProbeError::NotDeleted { .. } => FsError::StoreRefused,
                }
            })
        })
    }
}
