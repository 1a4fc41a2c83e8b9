//! The store itself: buckets and objects on one directory. Synchronous; knows no S3 and no network.

mod list;
mod multipart;
mod read;
mod write;

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLockReadGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use rocksdb::WriteBatch;

pub use list::{After, ListQuery, Listed};
pub use multipart::{Part, Upload, UploadId};
pub use read::Reader;
pub use write::{INLINE_BYTES_MAX, Spool, Spooled};

use crate::error::StoreError;
use crate::files::{BlobFiles, RealFiles};
use crate::format::{self, ObjectRow, STORE_KEY, StoreRow};
use crate::locks::{Buckets, KeyLocks, Pins};
use crate::meta::{Commit, Meta};

/// Bits of a blob's number that count within one start of the store.
const RUN_SHIFT: u32 = 40;
/// Bytes of a key (S3's limit).
const KEY_BYTES_MAX: usize = 1024;
/// Bytes of all headers of an object, names and values together: S3 allows 2 KiB of the user's and 8 KiB of the rest.
const HEADER_BYTES_MAX: usize = 10 << 10;

/// Limits of a store.
#[derive(Clone, Copy, Debug)]
pub struct StoreLimits {
    /// Bytes of an object's part, or of an object that is put at once.
    pub object_bytes_max: u64,
    /// Bytes on the disk that are left free.
    pub reserve_bytes: u64,
    /// Smallest part of an upload that is not its last.
    pub part_bytes_min: u64,
}

impl Default for StoreLimits {
    fn default() -> Self {
        Self { object_bytes_max: 5 << 30, reserve_bytes: 0, part_bytes_min: 5 << 20 }
    }
}

/// What must hold for an object to be replaced.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Expect {
    /// Anything.
    #[default]
    Anything,
    /// There is no object of that key.
    Absent,
    /// There is one.
    Present,
    /// There is one with this ETag (without its quotes).
    ETag(String),
}

impl Expect {
    fn check(&self, found: Option<&ObjectRow>) -> Result<(), StoreError> {
        match (self, found) {
            (Self::Anything, _) | (Self::Absent, None) | (Self::Present, Some(_)) => Ok(()),
            (Self::ETag(_), None) => Err(StoreError::NoSuchKey),
            (Self::ETag(etag), Some(row)) if *etag == row.etag() => Ok(()),
            _ => Err(StoreError::Precondition),
        }
    }
}

/// Buckets and objects on one directory.
///
/// **A change is its rows.** The bytes of an object are in blobs, which are written once, under numbers that are never
/// used again, and made durable before the row that names them is committed. So an object is replaced as a whole
/// or not at all, a reader goes on with what it began to read, and a temporary name with a rename at the end would
/// add nothing: until the row is there, nobody knows the blob. Up to [`INLINE_BYTES_MAX`] bytes are in the rows themselves: a
/// small object costs one flush, which RocksDB shares among all who wait for one.
///
/// **What is replaced** is named as garbage in the same commit and removed after it, when its last reader is gone; what a
/// crash leaves of that is removed at the next start. After a crash the directory is also searched for blobs without a
/// row: torn or complete, nobody was told of them.
///
/// **Order of locks**: buckets, keys, pins. A key is locked to write from reading its row to committing the next
/// one, so conditions hold; to read while its row is read and its blobs are pinned.
///
/// **Damage**: rows have checksums, blobs one for each 64 KiB, compared at each read.
///
/// [`INLINE_BYTES_MAX`]: crate::INLINE_BYTES_MAX
pub struct Store {
    meta: Meta,
    files: Arc<dyn BlobFiles>,
    locks: KeyLocks,
    pins: Pins,
    buckets: Buckets,
    limits: StoreLimits,
    run: u32,
    next: AtomicU64,
    _lock: File,
}

impl Store {
    /// Opens the store in `dir`, which is made when it is missing.
    pub fn open(dir: &Path, limits: StoreLimits) -> Result<Arc<Self>, StoreError> {
        std::fs::create_dir_all(dir)?;
        let lock = lock(dir)?;
        let files = Arc::new(RealFiles::open(&dir.join("blobs"))?);
        Self::open_with(dir, limits, files, lock)
    }

    /// Opens the store with its files somewhere else, or failing.
    #[doc(hidden)]
    pub fn open_on(
        dir: &Path,
        limits: StoreLimits,
        decorate: impl FnOnce(Arc<dyn BlobFiles>) -> Arc<dyn BlobFiles>,
    ) -> Result<Arc<Self>, StoreError> {
        std::fs::create_dir_all(dir)?;
        let lock = lock(dir)?;
        Self::open_with(dir, limits, decorate(Arc::new(RealFiles::open(&dir.join("blobs"))?)), lock)
    }

    fn open_with(
        dir: &Path,
        limits: StoreLimits,
        files: Arc<dyn BlobFiles>,
        lock: File,
    ) -> Result<Arc<Self>, StoreError> {
        let meta = Meta::open(&dir.join("meta"))?;
        let last = match meta.get(STORE_KEY)? {
            Some(row) => StoreRow::decode(&row)?,
            None => StoreRow { run: 0, clean: true },
        };
        let run = last.run + 1;
        let mut batch = WriteBatch::default();
        batch.put(STORE_KEY, StoreRow { run, clean: false }.encode());
        meta.commit(batch, Commit::Durable)?;
        let mut buckets = BTreeMap::new();
        meta.scan(b"B", b"B", |key, value| {
            let name = String::from_utf8_lossy(&key[1..]).into_owned();
            buckets.insert(name, format::decode_bucket(value)?);
            Ok(ControlFlow::Continue(()))
        })?;
        let store = Arc::new(Self {
            meta,
            files,
            locks: KeyLocks::new(),
            pins: Pins::default(),
            buckets: buckets.into(),
            limits,
            run,
            next: AtomicU64::new(0),
            _lock: lock,
        });
        store.remove_garbage()?;
        if !last.clean {
            store.remove_unknown_blobs()?;
        }
        Ok(store)
    }

    /// Says that everything is in order, so that the next start need not search. Nothing may be changed after it.
    pub fn close(&self) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        batch.put(STORE_KEY, StoreRow { run: self.run, clean: true }.encode());
        self.meta.commit(batch, Commit::Durable)
    }

    /// Whether a failure has stopped it.
    pub fn stopped(&self) -> bool {
        self.meta.failed()
    }

    /// Bytes that are free, and those that are left alone.
    pub fn space(&self) -> Result<(u64, u64), StoreError> {
        Ok((self.files.free_bytes()?, self.limits.reserve_bytes))
    }

    /// Makes a bucket. Its name must have been checked.
    pub fn create_bucket(&self, name: &str) -> Result<(), StoreError> {
        let mut buckets = self.buckets.write().unwrap_or_else(PoisonError::into_inner);
        if buckets.contains_key(name) {
            return Err(StoreError::BucketExists);
        }
        let created = now_ms();
        let mut batch = WriteBatch::default();
        batch.put(format::bucket_key(name), format::encode_bucket(created));
        self.meta.commit(batch, Commit::Durable)?;
        buckets.insert(name.to_owned(), created);
        Ok(())
    }

    /// Removes an empty bucket.
    pub fn delete_bucket(&self, name: &str) -> Result<(), StoreError> {
        let mut buckets = self.buckets.write().unwrap_or_else(PoisonError::into_inner);
        if !buckets.contains_key(name) {
            return Err(StoreError::NoSuchBucket);
        }
        for prefix in [format::object_prefix(name), format::upload_prefix(name)] {
            let mut found = false;
            self.meta.scan(&prefix, &prefix, |_, _| {
                found = true;
                Ok(ControlFlow::Break(()))
            })?;
            if found {
                return Err(StoreError::BucketNotEmpty);
            }
        }
        let mut batch = WriteBatch::default();
        batch.delete(format::bucket_key(name));
        self.meta.commit(batch, Commit::Durable)?;
        buckets.remove(name);
        Ok(())
    }

    /// All buckets with their time of creation in milliseconds since 1970.
    pub fn buckets(&self) -> Vec<(String, i64)> {
        let buckets = self.buckets.read().unwrap_or_else(PoisonError::into_inner);
        buckets.iter().map(|(name, created)| (name.clone(), *created)).collect()
    }

    /// Checks that a bucket is there.
    pub fn check_bucket(&self, name: &str) -> Result<(), StoreError> {
        self.in_bucket(name).map(drop)
    }

    /// The bucket is there for as long as the guard.
    fn in_bucket(&self, name: &str) -> Result<RwLockReadGuard<'_, BTreeMap<String, i64>>, StoreError> {
        let buckets = self.buckets.read().unwrap_or_else(PoisonError::into_inner);
        if buckets.contains_key(name) { Ok(buckets) } else { Err(StoreError::NoSuchBucket) }
    }

    fn new_blob(&self) -> u64 {
        let count = self.next.fetch_add(1, Ordering::Relaxed);
        u64::from(self.run) << RUN_SHIFT | count
    }

    fn object(&self, bucket: &str, key: &str) -> Result<Option<ObjectRow>, StoreError> {
        let row = self.meta.get(&format::object_key(bucket, key))?;
        row.map(|row| ObjectRow::decode(&row)).transpose()
    }

    /// Removes blobs that a commit has named as garbage, unless somebody reads them. A failure leaves them to the next
    /// start.
    fn discard(&self, blobs: Vec<u64>) {
        self.remove(self.pins.doom(blobs));
    }

    fn remove(&self, blobs: Vec<u64>) {
        if blobs.is_empty() {
            return;
        }
        if let Err(error) = self.try_remove(&blobs) {
            tracing::warn!(%error, "blobs could not be removed; the next start removes them");
        }
    }

    fn try_remove(&self, blobs: &[u64]) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        for blob in blobs {
            self.files.remove(*blob)?;
            batch.delete(format::blob_key(*blob));
            batch.delete(format::garbage_key(*blob));
        }
        self.meta.commit(batch, Commit::Lazy)
    }

    fn remove_garbage(&self) -> Result<(), StoreError> {
        let mut blobs = Vec::new();
        self.meta.scan(b"G", b"G", |key, _| {
            blobs.extend(format::parse_garbage_key(key));
            Ok(ControlFlow::Continue(()))
        })?;
        for some in blobs.chunks(1000) {
            self.try_remove(some)?;
        }
        Ok(())
    }

    fn remove_unknown_blobs(&self) -> Result<(), StoreError> {
        let mut unknown = Vec::new();
        self.files.for_each(&mut |blob| {
            if self.meta.get(&format::blob_key(blob)).map_err(io::Error::other)?.is_none() {
                unknown.push(blob);
            }
            Ok(())
        })?;
        if !unknown.is_empty() {
            tracing::info!(blobs = unknown.len(), "removing what a crash left of unfinished writes");
        }
        unknown.into_iter().try_for_each(|blob| Ok(self.files.remove(blob)?))
    }
}

/// Two processes on one directory would destroy it. The lock ends with the process.
fn lock(dir: &Path) -> Result<File, StoreError> {
    let file = File::options().create(true).truncate(false).write(true).open(dir.join("lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(io::Error::new(io::ErrorKind::WouldBlock, "another process uses the directory").into())
        }
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}

fn check_key(key: &str) -> Result<(), StoreError> {
    let good = !key.is_empty() && key.len() <= KEY_BYTES_MAX && !key.contains('\0');
    if good { Ok(()) } else { Err(StoreError::BadKey) }
}

fn check_headers(headers: &[(String, String)]) -> Result<(), StoreError> {
    let bytes = headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
    if bytes <= HEADER_BYTES_MAX { Ok(()) } else { Err(StoreError::MetadataTooLarge(HEADER_BYTES_MAX)) }
}

/// Milliseconds since 1970, which is what an object's time is for: its readers. Nothing is decided by it.
fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("run", &self.run).finish_non_exhaustive()
    }
}
