//! What all copysets of a store share: the disk, the pool of free files, the space gauge, the first failure.
//!
//! Nothing here is touched by a write to a chunk that exists, except two atomic loads.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use curve_io::{Disk, File, OpenMode};
use tokio::sync::Notify;

use crate::config::ChunkStoreConfig;
use crate::data::StoreSpace;
use crate::error::NoSpace;
use crate::layout::Layout;

/// Chunks a copyset may cache however many copysets share the limit.
const CACHED_CHUNKS_MIN: usize = 16;
/// With less room than so many times the reserve, large writes leave none behind.
const SCARCE_RESERVES: u64 = 4;
/// Admissions between two looks at the file system.
const ADMITS_PER_LOOK: u32 = 64;

/// Locks a mutex whose holder never leaves it half changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Shared by the store and its copysets.
pub(crate) struct Shared {
    pub disk: Arc<dyn Disk>,
    pub dir: PathBuf,
    pub config: ChunkStoreConfig,
    pub layout: Layout,
    /// Copysets that are open; they share the cache limit.
    pub copysets: AtomicUsize,
    pool: Mutex<Pool>,
    failed: AtomicBool,
    failure: Mutex<Option<String>>,
    total: AtomicU64,
    fs_free: AtomicU64,
    low: AtomicBool,
    admits: AtomicU32,
    pub refused: Notify,
}

/// A file is handed out only when its name in the pool is durable: otherwise a power loss could keep the later of its two
/// renames and lose the earlier one, on a file system that does not order them, and leave it with two names.
#[derive(Default)]
struct Pool {
    free: VecDeque<u64>,
    /// In the pool, but not yet durably.
    fresh: Vec<u64>,
    next: u64,
}

impl Pool {
    fn len(&self) -> usize {
        self.free.len() + self.fresh.len()
    }
}

impl Shared {
    pub(crate) fn new(disk: Arc<dyn Disk>, dir: PathBuf, config: ChunkStoreConfig, layout: Layout) -> Self {
        Self {
            disk,
            dir,
            config,
            layout,
            copysets: AtomicUsize::new(0),
            pool: Mutex::default(),
            failed: AtomicBool::new(false),
            failure: Mutex::default(),
            total: AtomicU64::new(0),
            fs_free: AtomicU64::new(0),
            low: AtomicBool::new(false),
            admits: AtomicU32::new(0),
            refused: Notify::new(),
        }
    }

    pub(crate) fn pool_dir(&self) -> PathBuf {
        self.dir.join("pool")
    }

    pub(crate) fn copysets_dir(&self) -> PathBuf {
        self.dir.join("copysets")
    }

    fn pool_path(&self, number: u64) -> PathBuf {
        self.pool_dir().join(format!("{number:016x}"))
    }

    /// Chunks that one copyset may cache.
    pub(crate) fn cached_chunks_max(&self) -> usize {
        let copysets = self.copysets.load(Ordering::Relaxed).max(1);
        (self.config.cached_chunks_max / copysets).max(CACHED_CHUNKS_MIN)
    }

    /// An error once the store has failed.
    pub(crate) fn check(&self) -> io::Result<()> {
        if !self.failed.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(io::Error::other(self.failure().unwrap_or_default()))
    }

    /// Notes a failed write or sync: from now on nothing is written.
    pub(crate) fn fail(&self, what: &str, error: &io::Error) {
        let mut failure = lock(&self.failure);
        if failure.is_none() {
            tracing::error!(dir = %self.dir.display(), "chunk store failed: {what}: {error}");
            *failure = Some(format!("{what}: {error}"));
            self.failed.store(true, Ordering::Release);
        }
    }

    pub(crate) fn failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    pub(crate) fn failure(&self) -> Option<String> {
        lock(&self.failure).clone()
    }

    /// Takes up what is in the pool directory; files of another length were being made when the process ended.
    pub(crate) async fn load_pool(&self) -> io::Result<()> {
        self.disk.sync_dir(&self.pool_dir()).await?;
        let entries = self.disk.list(&self.pool_dir())?;
        let mut pool = lock(&self.pool);
        for entry in entries {
            match u64::from_str_radix(&entry.name, 16) {
                Ok(number) if entry.len == self.layout.file_bytes => {
                    pool.free.push_back(number);
                    pool.next = pool.next.max(number + 1);
                }
                _ => self.disk.remove_file(&self.pool_dir().join(&entry.name))?,
            }
        }
        Ok(())
    }

    /// Makes the names in the pool durable, after which its files may be handed out.
    pub(crate) async fn settle_pool(&self) -> io::Result<()> {
        let fresh = lock(&self.pool).fresh.clone();
        self.disk.sync_dir(&self.pool_dir()).await?;
        let mut pool = lock(&self.pool);
        let settled: Vec<_> = pool.fresh.extract_if(.., |number| fresh.contains(number)).collect();
        pool.free.extend(settled);
        Ok(())
    }

    /// Moves a free file to `path`, making one when the pool is empty. Also says whether parts of it may lack room.
    pub(crate) fn take_file(&self, path: &Path) -> io::Result<(Arc<dyn File>, bool)> {
        let pooled = lock(&self.pool).free.pop_front();
        let taken = match pooled {
            Some(number) => {
                self.disk.rename(&self.pool_path(number), path)?;
                (self.disk.open(path, OpenMode::Existing)?, false)
            }
            None => self.make_file(path)?,
        };
        self.look_at_space()?;
        Ok(taken)
    }

    fn make_file(&self, path: &Path) -> io::Result<(Arc<dyn File>, bool)> {
        let file = self.disk.open(path, OpenMode::CreateNew)?;
        match file.allocate(0, self.layout.file_bytes) {
            Ok(()) => Ok((file, false)),
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                file.set_len(self.layout.file_bytes)?;
                Ok((file, true))
            }
            Err(error) => Err(error),
        }
    }

    /// Takes a file out of a copyset: to the pool, or away when the pool is full or the file cannot have all its room.
    /// The file's present name must be durable. To be followed by [`settle_pool`](Self::settle_pool).
    pub(crate) fn give_back(&self, path: &Path) -> io::Result<()> {
        let missing = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
        if lock(&self.pool).len() < self.config.pool_files {
            let whole = self.disk.open(path, OpenMode::Existing).and_then(|file| {
                // Without the second plane, if it has one.
                file.set_len(self.layout.file_bytes)?;
                file.allocate(0, self.layout.file_bytes)
            });
            if whole.is_ok() {
                let number = self.pool_number();
                self.disk.rename(path, &self.pool_path(number))?;
                lock(&self.pool).fresh.push(number);
                return self.look_at_space();
            }
        }
        match self.disk.remove_file(path) {
            Err(error) if !missing(&error) => Err(error),
            _ => self.look_at_space(),
        }
    }

    fn pool_number(&self) -> u64 {
        let mut pool = lock(&self.pool);
        pool.next += 1;
        pool.next - 1
    }

    /// Makes one file for the pool if it should have more and there is room. Says whether it did. To be followed by
    /// [`settle_pool`](Self::settle_pool).
    pub(crate) fn grow_pool(&self) -> io::Result<bool> {
        self.look_at_space()?;
        let fs_free = self.fs_free.load(Ordering::Relaxed);
        let room = fs_free >= self.config.reserve_bytes.saturating_add(self.layout.file_bytes);
        if lock(&self.pool).len() >= self.config.pool_files || !room {
            return Ok(false);
        }
        let number = self.pool_number();
        let path = self.pool_path(number);
        match self.make_file(&path) {
            Ok((_, false)) => {
                lock(&self.pool).fresh.push(number);
                Ok(true)
            }
            // A file without room of its own is no use in the pool, and a pool that cannot grow is not a failure.
            Ok((_, true)) | Err(_) => self.disk.remove_file(&path).map(|()| false),
        }
    }

    fn pool_bytes(&self) -> u64 {
        lock(&self.pool).len() as u64 * self.layout.file_bytes
    }

    /// Asks the file system how much room there is.
    pub(crate) fn look_at_space(&self) -> io::Result<()> {
        let space = self.disk.space()?;
        self.total.store(space.total, Ordering::Relaxed);
        self.fs_free.store(space.free, Ordering::Relaxed);
        self.low.store(space.free + self.pool_bytes() < self.config.reserve_bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Whether only the reserve is left. Looks at the file system now and then.
    pub(crate) fn space_is_low(&self) -> bool {
        if self.admits.fetch_add(1, Ordering::Relaxed).is_multiple_of(ADMITS_PER_LOOK) {
            // A file system that cannot say how full it is will show its trouble at the next write.
            let _ = self.look_at_space();
        }
        self.low.load(Ordering::Relaxed)
    }

    /// Whether there is so little room that none should be kept for what does not need it.
    pub(crate) fn room_is_scarce(&self) -> bool {
        let free = self.fs_free.load(Ordering::Relaxed) + self.pool_bytes();
        self.space_is_low() || free < self.config.reserve_bytes.saturating_mul(SCARCE_RESERVES)
    }

    pub(crate) fn no_space(&self) -> NoSpace {
        NoSpace { free: self.space().free, reserve: self.config.reserve_bytes }
    }

    pub(crate) fn space(&self) -> StoreSpace {
        let pool = self.pool_bytes();
        StoreSpace {
            total: self.total.load(Ordering::Relaxed),
            free: self.fs_free.load(Ordering::Relaxed) + pool,
            pool,
            reserve_low: self.low.load(Ordering::Relaxed),
        }
    }
}
