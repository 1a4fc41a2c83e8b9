//! Opening, making and removing a copyset's directory.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use curve_io::{Disk, OpenMode, make_dirs_durable, read_whole, replace_file};
use curve_types::CopysetId;

use super::sync::Journal;
use super::{CopysetStore, State, chunk_name};
use crate::error::CopysetError;
use crate::format::record;
use crate::manifest::Manifest;
use crate::shared::Shared;
use crate::store::exists;

const MANIFEST: &str = "manifest";
/// Says that the directory is being emptied.
const REMOVED: &str = "removed";

impl CopysetStore {
    /// Opens a copyset. `None`: making it had not been completed, or removing it had begun; its directory is gone.
    pub(crate) async fn open(shared: Arc<Shared>, id: CopysetId) -> Result<Option<Arc<Self>>, CopysetError> {
        let damaged = |cause: String| CopysetError::Damaged { copyset: id, cause };
        let dir = shared.copysets_dir().join(id.get().to_string());
        let disk = &*shared.disk;
        let entries = disk.list(&dir)?;
        let removed = entries.iter().any(|entry| entry.name == REMOVED);
        let unborn = entries.iter().all(|entry| entry.name.ends_with(".tmp"));
        if removed || unborn {
            empty_dir(disk, &dir).await?;
            return Ok(None);
        }
        let Some(bytes) = read_whole(disk, &dir.join(MANIFEST)).await? else {
            return Err(damaged("manifest is missing".into()));
        };
        let manifest = Manifest::replay(&bytes, id).map_err(damaged)?;
        let stamp = newest_stamp(disk, &dir).await?;
        if stamp > manifest.sync {
            let cause = format!("manifest ends at sync {}, a record is of sync {stamp}", manifest.sync);
            return Err(damaged(cause));
        }
        if remove_strays(disk, &dir, id, &manifest)? {
            // Their birth numbers are given out again, so their names must be gone for good.
            disk.sync_dir(&dir).await?;
        }
        Ok(Some(Arc::new(Self::start(shared, id, manifest).await?)))
    }

    /// Makes an empty copyset, durably.
    pub(crate) async fn create(shared: Arc<Shared>, id: CopysetId) -> Result<Arc<Self>, CopysetError> {
        let dir = shared.copysets_dir().join(id.get().to_string());
        make_dirs_durable(&*shared.disk, &dir).await?;
        if !shared.disk.list(&dir)?.is_empty() {
            // What a cancelled removal or creation left.
            empty_dir(&*shared.disk, &dir).await?;
            make_dirs_durable(&*shared.disk, &dir).await?;
        }
        Ok(Arc::new(Self::start(shared, id, Manifest::default()).await?))
    }

    /// Writes the manifest anew, which also cuts a torn end off.
    async fn start(shared: Arc<Shared>, id: CopysetId, manifest: Manifest) -> io::Result<Self> {
        let dir = shared.copysets_dir().join(id.get().to_string());
        let journal = Journal::create(&*shared.disk, &dir.join(MANIFEST), &manifest, id).await?;
        Ok(Self {
            id,
            dir,
            shared,
            state: Mutex::new(State { manifest, ..State::default() }),
            journal: tokio::sync::Mutex::new(journal),
            record_turn: tokio::sync::Mutex::new(()),
            ledger: Mutex::default(),
            placing: Arc::default(),
        })
    }

    /// Refuses all changes from now on, and waits for a sync, a record or a placing that is under way.
    pub(crate) async fn close(&self) {
        self.lock().closed = true;
        let _sync = self.journal.lock().await;
        let _record = self.record_turn.lock().await;
        let _placed = self.placing.write().await;
    }

    /// Removes the directory of a copyset that nobody uses any more. Its files go to the pool as far as it has room.
    pub(crate) async fn remove(shared: &Shared, id: CopysetId) -> Result<(), CopysetError> {
        let disk = &*shared.disk;
        let dir = shared.copysets_dir().join(id.get().to_string());
        replace_file(disk, &dir.join(REMOVED), &[]).await?;
        shared.settle_pool().await?;
        for entry in disk.list(&dir)? {
            if entry.name.ends_with(".chunk") {
                shared.give_back(&dir.join(&entry.name))?;
            }
        }
        shared.settle_pool().await?;
        empty_dir(disk, &dir).await?;
        Ok(shared.look_at_space()?)
    }
}

/// Removes a directory, the mark of its removal last.
async fn empty_dir(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    for entry in disk.list(dir)?.iter().filter(|entry| entry.name != REMOVED) {
        disk.remove_file(&dir.join(&entry.name))?;
    }
    disk.sync_dir(dir).await?;
    if exists(disk, &dir.join(REMOVED))? {
        disk.remove_file(&dir.join(REMOVED))?;
    }
    disk.sync_dir(dir).await?;
    disk.remove_dir_all(dir)?;
    disk.sync_dir(dir.parent().unwrap_or(Path::new(""))).await
}

/// The newest sync that any readable record knows of.
async fn newest_stamp(disk: &dyn Disk, dir: &Path) -> io::Result<u64> {
    let mut newest = 0;
    for entry in disk.list(dir)?.iter().filter(|entry| entry.name.ends_with(".rec")) {
        let bytes = read_whole(disk, &dir.join(&entry.name)).await?.unwrap_or_default();
        if let Ok((stamp, _)) = record::decode(&bytes) {
            newest = newest.max(stamp);
        }
    }
    Ok(newest)
}

/// Removes chunk files that the manifest does not list, and temporary files. They are not reused: after a power loss
/// such a name may lead to a file that the pool has, too. Says whether there were any.
fn remove_strays(disk: &dyn Disk, dir: &Path, id: CopysetId, manifest: &Manifest) -> io::Result<bool> {
    let listed: BTreeSet<String> =
        manifest.chunks.iter().map(|(key, entry)| chunk_name(*key, entry.birth)).collect();
    let stray = |name: &str| name.ends_with(".tmp") || (name.ends_with(".chunk") && !listed.contains(name));
    let mut entries = disk.list(dir)?;
    entries.retain(|entry| stray(&entry.name));
    for entry in &entries {
        tracing::debug!(copyset = %id, file = entry.name, "removing a file that no completed sync knows");
        disk.remove_file(&dir.join(&entry.name))?;
    }
    Ok(!entries.is_empty())
}

impl Journal {
    /// Writes a new journal over whatever has the name.
    pub(super) async fn create(
        disk: &dyn Disk,
        path: &Path,
        manifest: &Manifest,
        id: CopysetId,
    ) -> io::Result<Self> {
        let bytes = manifest.encode(id);
        replace_file(disk, path, &bytes).await?;
        let file = disk.open(path, OpenMode::Existing)?;
        Ok(Self { path: path.to_owned(), file, len: bytes.len() as u64, sync: manifest.sync, stale: false })
    }
}
