//! The store of real processes: RocksDB without its own log.

use std::mem::ManuallyDrop;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use curve_io::{BoxFuture, Disk, RealDisk};
use curve_types::ByteSize;
use rocksdb::{
    BlockBasedOptions, Cache, DB, Direction, ErrorKind, FlushOptions, IteratorMode, LogLevel, Options,
    ReadOptions, Snapshot, WriteOptions,
};

use crate::error::KvError;
use crate::store::{Change, KeyRange, Reader, Row, Store, WriteBatch};

/// The marker's key. Rows have [`ROW`] before their key, so that no row can have this one.
const APPLIED: &[u8] = &[0];
const ROW: u8 = 1;
const ROWS_END: &[u8] = &[ROW + 1];

/// What must be free before a store is opened or flushed.
const ROOM_BYTES_MIN: u64 = 4 << 20;
const OPEN_FILES_MAX: i32 = 256;
/// Bits a key of the filters that tell a table without looking that it has not got a key: one in a hundred is wrong.
const FILTER_BITS: f64 = 10.0;
/// Share of the write buffer that the filter of what is in it takes: above 20 bits a row of 100 bytes.
const BUFFER_FILTER_SHARE: f64 = 0.02;

/// Blocks in memory that several stores share, so that all together are bounded.
#[derive(Clone)]
pub struct RocksCache(Cache);

impl RocksCache {
    /// Of at most so many bytes.
    pub fn new(bytes: usize) -> Result<Self, KvError> {
        Ok(Self(Cache::new_lru_cache(bytes).map_err(translate)?))
    }
}

impl std::fmt::Debug for RocksCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RocksCache").field("used", &self.0.get_usage()).finish()
    }
}

/// What a store may use.
#[derive(Clone, Debug)]
pub struct RocksOptions {
    /// Bytes of changes in memory before they are written to a table; there may be two such buffers.
    pub write_buffer_bytes: usize,
    /// Blocks, indexes and filters of tables are kept here. Without it, in a small cache of its own.
    pub cache: Option<RocksCache>,
}

impl Default for RocksOptions {
    fn default() -> Self {
        Self { write_buffer_bytes: 16 << 20, cache: None }
    }
}

/// RocksDB with its write-ahead log off and one column family, so that what a flush (ours, or its own when a buffer
/// is full) leaves is always the state after a whole batch. Blocks are verified when read.
pub struct RocksStore {
    inner: Arc<Inner>,
}

struct Inner {
    db: ManuallyDrop<DB>,
    failed: AtomicBool,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // RocksDB flushes when it is closed. On a full disk it is left as it is instead: what was not flushed is applied again.
        if ensure_room(self.db.path()).is_ok() {
            // SAFETY: nothing uses it after this.
            unsafe { ManuallyDrop::drop(&mut self.db) }
        }
    }
}

impl RocksStore {
    /// Opens the store in `path`, which is made when it is missing.
    pub fn open(path: &Path) -> Result<Self, KvError> {
        Self::open_with(path, &RocksOptions::default())
    }

    /// As [`open`](Self::open).
    pub fn open_with(path: &Path, limits: &RocksOptions) -> Result<Self, KvError> {
        std::fs::create_dir_all(path)?;
        ensure_room(path)?;
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_paranoid_checks(true);
        options.set_write_buffer_size(limits.write_buffer_bytes);
        options.set_max_open_files(OPEN_FILES_MAX);
        options.set_max_background_jobs(2);
        options.set_compression_type(rocksdb::DBCompressionType::Lz4);
        options.set_keep_log_file_num(2);
        options.set_log_level(LogLevel::Warn);
        options.set_stats_dump_period_sec(0);
        options.set_stats_persist_period_sec(0);
        if let Some(cache) = &limits.cache {
            let mut tables = BlockBasedOptions::default();
            tables.set_block_cache(&cache.0);
            tables.set_cache_index_and_filter_blocks(true);
            tables.set_pin_l0_filter_and_index_blocks_in_cache(true);
            tables.set_bloom_filter(FILTER_BITS, false);
            options.set_block_based_table_factory(&tables);
            // Most of what a change looks for is not there (locks, holds, delegations): a filter answers that for the buffer too.
            options.set_memtable_whole_key_filtering(true);
            options.set_memtable_prefix_bloom_ratio(BUFFER_FILTER_SHARE);
        }
        let db = DB::open(&options, path).map_err(translate)?;
        Ok(Self { inner: Arc::new(Inner { db: ManuallyDrop::new(db), failed: AtomicBool::new(false) }) })
    }
}

/// Refuses to begin what needs room on a full disk: RocksDB, as some distributions build it, ends the process when it fails half way.
fn ensure_room(path: &Path) -> Result<(), KvError> {
    let free = RealDisk::new(path.to_path_buf()).space()?.free;
    if free >= ROOM_BYTES_MIN {
        return Ok(());
    }
    let (free, needed) = (ByteSize(free), ByteSize(ROOM_BYTES_MIN));
    Err(KvError::Io(format!("the disk is full: {free} are free, and {needed} must be")))
}

fn translate(error: rocksdb::Error) -> KvError {
    match error.kind() {
        ErrorKind::Corruption => KvError::Corrupt(error.to_string()),
        _ => KvError::Io(error.to_string()),
    }
}

fn row_key(key: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(key.len() + 1);
    row.push(ROW);
    row.extend_from_slice(key);
    row
}

fn end_key(range: &KeyRange) -> Vec<u8> {
    range.to.as_ref().map_or_else(|| ROWS_END.to_vec(), |to| row_key(to))
}

fn read_options(range: &KeyRange) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_verify_checksums(true);
    options.set_iterate_upper_bound(end_key(range));
    options
}

fn collect<I>(rows: I, limit: usize) -> Result<Vec<Row>, KvError>
where
    I: Iterator<Item = Result<(Box<[u8]>, Box<[u8]>), rocksdb::Error>>,
{
    rows.take(limit)
        .map(|row| {
            let (key, value) = row.map_err(translate)?;
            Ok((Bytes::from(key).slice(1..), Bytes::from(value)))
        })
        .collect()
}

impl Reader for RocksStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        Ok(self.inner.db.get(row_key(key)).map_err(translate)?.map(Bytes::from))
    }

    fn scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<Row>, KvError> {
        let from = row_key(&range.from);
        let mode = IteratorMode::From(&from, Direction::Forward);
        collect(self.inner.db.iterator_opt(mode, read_options(range)), limit)
    }

    fn applied(&self) -> Result<Option<Bytes>, KvError> {
        Ok(self.inner.db.get(APPLIED).map_err(translate)?.map(Bytes::from))
    }
}

/// A snapshot and the database that it is of. The snapshot is declared, and so dropped, first.
struct View {
    snapshot: Snapshot<'static>,
    _inner: Arc<Inner>,
}

impl View {
    fn new(inner: Arc<Inner>) -> Self {
        let snapshot = inner.db.snapshot();
        // SAFETY: the snapshot borrows `inner.db`, which lives in an `Arc` that this struct keeps: it neither moves nor
        // goes away before the snapshot, since fields are dropped in the order of their declaration.
        let snapshot = unsafe { std::mem::transmute::<Snapshot<'_>, Snapshot<'static>>(snapshot) };
        Self { snapshot, _inner: inner }
    }
}

impl Reader for View {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        Ok(self.snapshot.get(row_key(key)).map_err(translate)?.map(Bytes::from))
    }

    fn scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<Row>, KvError> {
        let from = row_key(&range.from);
        let mode = IteratorMode::From(&from, Direction::Forward);
        collect(self.snapshot.iterator_opt(mode, read_options(range)), limit)
    }

    fn applied(&self) -> Result<Option<Bytes>, KvError> {
        Ok(self.snapshot.get(APPLIED).map_err(translate)?.map(Bytes::from))
    }
}

impl Store for RocksStore {
    fn write(&self, batch: WriteBatch, applied: Option<&[u8]>) -> Result<(), KvError> {
        if self.inner.failed.load(Ordering::Relaxed) {
            return Err(KvError::Stopped);
        }
        let mut out = rocksdb::WriteBatch::default();
        for change in batch.changes {
            match change {
                Change::Put(key, value) => out.put(row_key(&key), value),
                Change::Delete(key) => out.delete(row_key(&key)),
                Change::DeleteRange(range) => out.delete_range(row_key(&range.from), end_key(&range)),
            }
        }
        if let Some(applied) = applied {
            out.put(APPLIED, applied);
        }
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.inner.db.write_opt(out, &options).map_err(translate)
    }

    fn flush(&self) -> BoxFuture<'static, Result<(), KvError>> {
        let inner = self.inner.clone();
        Box::pin(async move {
            let flushing = tokio::task::spawn_blocking(move || {
                if inner.failed.load(Ordering::Relaxed) {
                    return Err(KvError::Stopped);
                }
                ensure_room(inner.db.path())?;
                let mut options = FlushOptions::default();
                options.set_wait(true);
                let flushed = inner.db.flush_opt(&options).map_err(translate);
                if flushed.is_err() {
                    inner.failed.store(true, Ordering::Relaxed);
                }
                flushed
            });
            flushing
                .await
                .unwrap_or_else(|error| Err(KvError::Io(format!("the flush did not finish: {error}"))))
        })
    }

    fn view(&self) -> Result<Arc<dyn Reader>, KvError> {
        Ok(Arc::new(View::new(self.inner.clone())))
    }
}

impl std::fmt::Debug for RocksStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RocksStore").field("path", &self.inner.db.path()).finish_non_exhaustive()
    }
}
