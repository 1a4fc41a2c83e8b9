//! The rows: RocksDB with its write-ahead log, since a row is what makes a change.

use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rocksdb::{
    DB, Direction, ErrorKind, IteratorMode, LogLevel, Options, ReadOptions, WriteBatch, WriteOptions,
};

use crate::error::StoreError;

const WRITE_BUFFER_BYTES: usize = 32 << 20;
const OPEN_FILES_MAX: i32 = 256;
const WAL_BYTES_MAX: u64 = 128 << 20;

pub(crate) struct Meta {
    db: DB,
    failed: AtomicBool,
}

/// When a commit is acknowledged.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Commit {
    /// After it is durable. RocksDB flushes for all that wait together.
    Durable,
    /// At once: it may be done again after a crash.
    Lazy,
}

fn translate(error: rocksdb::Error) -> StoreError {
    match error.kind() {
        ErrorKind::Corruption => StoreError::Damaged(error.to_string()),
        _ if error.to_string().contains("No space left") => {
            StoreError::Io(io::Error::new(io::ErrorKind::StorageFull, error.to_string()))
        }
        _ => StoreError::Io(io::Error::other(error.to_string())),
    }
}

impl Meta {
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_paranoid_checks(true);
        options.set_write_buffer_size(WRITE_BUFFER_BYTES);
        options.set_max_total_wal_size(WAL_BYTES_MAX);
        options.set_max_open_files(OPEN_FILES_MAX);
        options.set_max_background_jobs(2);
        options.set_compression_type(rocksdb::DBCompressionType::Lz4);
        options.set_keep_log_file_num(2);
        options.set_log_level(LogLevel::Warn);
        options.set_stats_dump_period_sec(0);
        options.set_stats_persist_period_sec(0);
        let db = DB::open(&options, path).map_err(translate)?;
        Ok(Self { db, failed: AtomicBool::new(false) })
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.db.get(key).map_err(translate)
    }

    /// Whether nothing can be changed any more.
    pub(crate) fn failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Makes a change. After an error nothing more is changed: whether it is on disk is unknown.
    pub(crate) fn commit(&self, batch: WriteBatch, commit: Commit) -> Result<(), StoreError> {
        if self.failed() {
            return Err(StoreError::Stopped);
        }
        let mut options = WriteOptions::default();
        options.set_sync(commit == Commit::Durable);
        self.db.write_opt(batch, &options).map_err(translate).inspect_err(|error| {
            self.failed.store(true, Ordering::Relaxed);
            tracing::error!(%error, "a commit failed: the store changes nothing until a restart");
        })
    }

    /// Visits the rows from `from` whose keys begin with `prefix`, in order.
    pub(crate) fn scan(
        &self,
        prefix: &[u8],
        from: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, StoreError>,
    ) -> Result<(), StoreError> {
        let mut options = ReadOptions::default();
        options.set_verify_checksums(true);
        if let Some(end) = successor(prefix) {
            options.set_iterate_upper_bound(end);
        }
        for row in self.db.iterator_opt(IteratorMode::From(from.max(prefix), Direction::Forward), options) {
            let (key, value) = row.map_err(translate)?;
            if visit(&key, &value)?.is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// The first key after all that begin with `prefix`.
pub(crate) fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while end.last() == Some(&0xff) {
        end.pop();
    }
    *end.last_mut()? += 1;
    Some(end)
}
