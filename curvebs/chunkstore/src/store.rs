//! A directory of chunk files on one disk.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use curve_io::{Disk, OpenMode, make_dirs_durable, read_whole, replace_file};
use curve_types::{CopysetId, Geometry};
use tokio::sync::Notify;

use crate::config::ChunkStoreConfig;
use crate::copyset::CopysetStore;
use crate::data::{Maintained, StoreSpace};
use crate::error::{CopysetError, OpenError};
use crate::format::{self, FormatError};
use crate::layout::Layout;
use crate::shared::{Shared, lock};

/// Pool files made in one step, so that preparing a large pool does not hold up a small disk.
const POOL_FILES_PER_STEP: usize = 4;
/// Pause between two steps while the pool grows.
const GROW_PAUSE: Duration = Duration::from_millis(50);
/// Pause between two looks at the space when there is nothing to make.
const IDLE_PAUSE: Duration = Duration::from_secs(2);

/// All copysets of one disk, and the pool of files they share.
///
/// ```text
/// <dir>/format  <dir>/pool/<number>  <dir>/copysets/<id>/{manifest, <name>.rec, <chunk>.chunk}
/// ```
///
/// A copyset whose manifest is damaged does not keep the others from being served: it is listed by
/// [`damaged_copysets`](Self::damaged_copysets), and its owner removes it and has it rebuilt from its peers.
///
/// Space: files have their full length allocated when they are made, so writing to a chunk needs no room until a
/// discard has punched it. New allocations are refused at admission, while `reserve_bytes` are left; an apply that runs
/// into a full disk all the same is a failure of this replica, since the others have applied it.
pub struct ChunkStore {
    shared: Arc<Shared>,
    copysets: Mutex<BTreeMap<CopysetId, Arc<CopysetStore>>>,
    damaged: Mutex<BTreeMap<CopysetId, String>>,
    /// Held while a copyset is made or removed, so that no two of these work on one directory.
    lifecycle: tokio::sync::Mutex<()>,
}

impl ChunkStore {
    /// Opens the store in `dir`, making it when the directory is empty. Reads the manifests, not the chunks.
    pub async fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        config: ChunkStoreConfig,
    ) -> Result<Arc<Self>, OpenError> {
        let layout = Layout::new(config.geometry).ok_or(OpenError::Unsupported(config.geometry))?;
        let shared = Arc::new(Shared::new(disk, dir.to_owned(), config, layout));
        make_or_check_format(&shared).await?;
        shared.load_pool().await?;
        shared.look_at_space()?;
        let store = Self {
            shared,
            copysets: Mutex::default(),
            damaged: Mutex::default(),
            lifecycle: tokio::sync::Mutex::default(),
        };
        for entry in store.shared.disk.list(&store.shared.copysets_dir())? {
            if let Ok(id) = entry.name.parse() {
                store.open_copyset(CopysetId(id)).await?;
            }
        }
        Ok(Arc::new(store))
    }

    async fn open_copyset(&self, id: CopysetId) -> io::Result<()> {
        match CopysetStore::open(self.shared.clone(), id).await {
            Ok(Some(copyset)) => self.insert(copyset),
            Ok(None) => {}
            Err(CopysetError::Damaged { cause, .. }) => {
                tracing::error!(copyset = %id, "copyset cannot be opened: {cause}");
                lock(&self.damaged).insert(id, cause);
            }
            Err(CopysetError::Io(error)) => return Err(error),
            Err(CopysetError::Unknown(_)) => unreachable!("opening a copyset does not look it up"),
        }
        Ok(())
    }

    fn insert(&self, copyset: Arc<CopysetStore>) {
        let mut copysets = lock(&self.copysets);
        copysets.insert(copyset.id(), copyset);
        self.shared.copysets.store(copysets.len(), Ordering::Relaxed);
    }

    /// Makes a copyset, durably; an existing one is returned as it is. A damaged one must be removed first.
    pub async fn create_copyset(&self, id: CopysetId) -> Result<Arc<CopysetStore>, CopysetError> {
        let _turn = self.lifecycle.lock().await;
        match self.copyset(id) {
            Err(CopysetError::Unknown(_)) => {}
            found => return found,
        }
        self.shared.check()?;
        let copyset = CopysetStore::create(self.shared.clone(), id).await?;
        self.insert(copyset.clone());
        Ok(copyset)
    }

    /// Removes a copyset and all its chunks, healthy or damaged; no error when there is none.
    pub async fn remove_copyset(&self, id: CopysetId) -> Result<(), CopysetError> {
        let _turn = self.lifecycle.lock().await;
        let removed = lock(&self.copysets).remove(&id);
        self.shared.copysets.store(lock(&self.copysets).len(), Ordering::Relaxed);
        let damaged = lock(&self.damaged).remove(&id).is_some();
        if let Some(copyset) = &removed {
            copyset.close().await;
        }
        if removed.is_some() || damaged {
            CopysetStore::remove(&self.shared, id).await?;
        }
        Ok(())
    }

    /// A copyset that exists.
    pub fn copyset(&self, id: CopysetId) -> Result<Arc<CopysetStore>, CopysetError> {
        if let Some(copyset) = lock(&self.copysets).get(&id) {
            return Ok(copyset.clone());
        }
        match lock(&self.damaged).get(&id) {
            Some(cause) => Err(CopysetError::Damaged { copyset: id, cause: cause.clone() }),
            None => Err(CopysetError::Unknown(id)),
        }
    }

    /// The healthy copysets, by id.
    pub fn list_copysets(&self) -> Vec<CopysetId> {
        lock(&self.copysets).keys().copied().collect()
    }

    /// The copysets that could not be opened, with the cause.
    pub fn damaged_copysets(&self) -> Vec<(CopysetId, String)> {
        lock(&self.damaged).iter().map(|(id, cause)| (*id, cause.clone())).collect()
    }

    /// The sizes the store was made with.
    pub fn geometry(&self) -> Geometry {
        self.shared.config.geometry
    }

    /// Room for new chunks, as of the last look at the file system (each new chunk, each maintenance step).
    pub fn space(&self) -> StoreSpace {
        self.shared.space()
    }

    /// Rung when something is refused for want of room.
    pub fn refused(&self) -> &Notify {
        &self.shared.refused
    }

    /// Whether a write or sync failed. Final: the process must stop using the disk.
    pub fn failed(&self) -> bool {
        self.shared.failed()
    }

    /// What failed first.
    pub fn failure(&self) -> Option<String> {
        self.shared.failure()
    }

    /// One step of background work: makes a few pool files, gives room back that large writes have left behind, looks how
    /// much room there is.
    pub async fn maintain(&self) -> io::Result<Maintained> {
        self.shared.check()?;
        let mut done = Maintained::default();
        while done.pool_files_made < POOL_FILES_PER_STEP && !done.pool_done {
            match self.shared.grow_pool()? {
                true => done.pool_files_made += 1,
                false => done.pool_done = true,
            }
            tokio::task::yield_now().await;
        }
        if done.pool_files_made > 0 {
            self.shared.settle_pool().await?;
        }
        let copysets: Vec<_> = lock(&self.copysets).values().cloned().collect();
        copysets.iter().try_for_each(|copyset| copyset.release_spares())?;
        Ok(done)
    }

    /// Runs `maintain` for ever; to be spawned by the owner and aborted at shutdown. Ends when the store has failed.
    pub async fn run_maintenance(self: Arc<Self>) {
        while !self.failed() {
            let pause = match self.maintain().await {
                Ok(Maintained { pool_done: false, .. }) => GROW_PAUSE,
                Ok(_) => IDLE_PAUSE,
                Err(error) => {
                    tracing::warn!(dir = %self.shared.dir.display(), "cannot prepare pool files: {error}");
                    IDLE_PAUSE
                }
            };
            tokio::time::sleep(pause).await;
        }
    }
}

async fn make_or_check_format(shared: &Shared) -> Result<(), OpenError> {
    let disk = &*shared.disk;
    let path = shared.dir.join("format");
    make_dirs_durable(disk, &shared.pool_dir()).await?;
    make_dirs_durable(disk, &shared.copysets_dir()).await?;
    let Some(bytes) = read_whole(disk, &path).await? else {
        if !disk.list(&shared.copysets_dir())?.is_empty() {
            return Err(OpenError::Damaged("missing, but there are copysets".into()));
        }
        replace_file(disk, &path, &format::store::encode(shared.config.geometry)).await?;
        return Ok(());
    };
    match format::store::decode(&bytes) {
        Ok(found) if found == shared.config.geometry => Ok(()),
        Ok(found) => Err(OpenError::OtherGeometry { found, wanted: shared.config.geometry }),
        Err(FormatError::Version(found)) => Err(OpenError::TooNew { found, known: format::store::VERSION }),
        Err(cause) => Err(OpenError::Damaged(cause.to_string())),
    }
}

/// Whether something is there under this name.
pub(crate) fn exists(disk: &dyn Disk, path: &Path) -> io::Result<bool> {
    match disk.open(path, OpenMode::Existing) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
