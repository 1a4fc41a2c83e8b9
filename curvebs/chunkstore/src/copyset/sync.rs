//! The sync: from "in the page cache" to "on the disk".
//!
//! Intent (durable) → headers and tables into the page cache → files (durable) → names (durable) → commit (durable)
//! → files of deleted chunks to the pool. The crash cases are in the doc of `CopysetStore`.

use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::Arc;

use curve_io::File;
use curve_types::ChunkKey;

use super::{CopysetStore, State};
use crate::format::manifest::{Body, Delta, Frame, encode};
use crate::manifest::Manifest;

/// Chunks flushed under one hold of the lock.
const FLUSHES_PER_HOLD: usize = 32;
/// The journal is written anew when it is longer than this plus a multiple of its content.
const JOURNAL_SLACK: u64 = 4 << 10;
const JOURNAL_GROWTH: u64 = 4;

/// The manifest's file.
pub(super) struct Journal {
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn File>,
    pub(super) len: u64,
    /// The last sync that began.
    pub(super) sync: u64,
    /// Whether writing it anew began and was cancelled: `file` may no longer be the one that has the name.
    pub(super) stale: bool,
}

impl Journal {
    async fn append(&mut self, frame: &Frame) -> io::Result<()> {
        let mut bytes = Vec::new();
        encode(frame, &mut bytes);
        self.file.write_at(self.len, &[IoSlice::new(&bytes)])?;
        self.len += bytes.len() as u64;
        self.file.clone().sync().await
    }
}

/// What one sync will make durable, as far as it is known when it begins.
struct Plan {
    keys: Vec<ChunkKey>,
    /// Those of them that the manifest lists already.
    listed: Vec<ChunkKey>,
    /// Files made so far, if names are to be made durable: some are new, or chunks were deleted.
    names: Option<u64>,
}

impl State {
    fn plan(&self) -> Option<Plan> {
        let keys: Vec<_> = self.dirty.union(&self.syncing).copied().collect();
        let generation = |key: &ChunkKey| self.manifest.chunks.get(key).map(|entry| entry.generation);
        let listed: Vec<_> =
            keys.iter().filter(|key| generation(key).is_some_and(|g| g > 0)).copied().collect();
        let names =
            (self.files_made != self.files_named || !self.dropped.is_empty()).then_some(self.files_made);
        let deletions = !self.new_deleted.is_empty() || !self.new_volumes.is_empty() || self.horizon_moved;
        (!keys.is_empty() || names.is_some() || deletions).then_some(Plan { keys, listed, names })
    }

    /// What the commit says. Chunks that were deleted or made after the flush are left to the next sync.
    fn delta(&mut self, keys: &[ChunkKey], sync: u64) -> Delta {
        self.manifest.limit_deletions();
        let flushed = |key: &ChunkKey| {
            let entry = self.manifest.chunks.get(key).filter(|entry| entry.generation == sync)?;
            Some((*key, *entry))
        };
        Delta {
            birth_next: self.manifest.birth_next,
            horizon: self.manifest.horizon,
            removed: self.dropped.iter().map(|dropped| dropped.key).collect(),
            deleted: self.new_deleted.clone(),
            volumes: self.new_volumes.clone(),
            chunks: keys.iter().filter_map(flushed).collect(),
        }
    }
}

impl CopysetStore {
    /// Makes every change that was made before this call durable. A failure is final for the store. Save the applied
    /// index that held *before* the call only after it returned. Cheap when nothing changed. May be cancelled: the next
    /// sync does the work again.
    pub async fn sync(&self) -> io::Result<()> {
        let mut journal = self.journal.lock().await;
        self.shared.check()?;
        let Some(plan) = self.lock().plan() else { return Ok(()) };
        if self.lock().closed {
            return Ok(());
        }
        let synced = self.sync_turn(&mut journal, plan).await;
        self.guard("sync", synced)
    }

    async fn sync_turn(&self, journal: &mut Journal, plan: Plan) -> io::Result<()> {
        if journal.stale {
            // Every flushed chunk was durable before the cancelled rewrite began, so what is known now can be written.
            let manifest = Manifest { sync: journal.sync, ..self.lock().manifest.clone() };
            self.rewrite(journal, &manifest).await?;
        }
        let sync = journal.sync + 1;
        journal.sync = sync;
        if !plan.listed.is_empty() {
            journal.append(&Frame { copyset: self.id, sync, body: Body::Intent(plan.listed) }).await?;
        }
        let files = self.flush(&plan.keys, sync).await?;
        // One after the other, and none written back ahead of its turn: a checkpoint is in no hurry, and every write that
        // waits in the disk's queue makes the log's own wait, which clients feel.
        for file in files {
            file.sync().await?;
        }
        if let Some(files_made) = plan.names {
            self.shared.settle_pool().await?;
            self.shared.disk.sync_dir(&self.dir).await?;
            self.lock().files_named = files_made;
        }
        self.commit(journal, &plan.keys, sync).await
    }

    /// Writes headers and tables into the page cache; returns the files that must be synced.
    async fn flush(&self, keys: &[ChunkKey], sync: u64) -> io::Result<Vec<Arc<dyn File>>> {
        let mut files = Vec::with_capacity(keys.len());
        for some in keys.chunks(FLUSHES_PER_HOLD) {
            {
                let mut state = self.lock();
                for key in some {
                    files.extend(self.flush_chunk(&mut state, *key, sync)?);
                }
            }
            tokio::task::yield_now().await;
        }
        Ok(files)
    }

    fn flush_chunk(&self, state: &mut State, key: ChunkKey, sync: u64) -> io::Result<Option<Arc<dyn File>>> {
        let (Some(chunk), Some(entry)) = (state.cached.get_mut(&key), state.manifest.chunks.get_mut(&key))
        else {
            state.syncing.remove(&key);
            return Ok(None);
        };
        chunk.flush(self.layout(), self.identity(key, chunk.birth), sync)?;
        if entry.generation == 0 {
            state.unlisted.insert(key);
        }
        entry.generation = sync;
        entry.last_changed = chunk.tables.last_changed;
        state.manifest.unclean.remove(&key);
        state.dirty.remove(&key);
        state.syncing.insert(key);
        Ok(Some(chunk.file.clone()))
    }

    async fn rewrite(&self, journal: &mut Journal, manifest: &Manifest) -> io::Result<()> {
        journal.stale = true;
        let path = journal.path.clone();
        *journal = Journal::create(&*self.shared.disk, &path, manifest, self.id).await?;
        Ok(())
    }

    async fn commit(&self, journal: &mut Journal, keys: &[ChunkKey], sync: u64) -> io::Result<()> {
        let (delta, grown) = {
            let mut state = self.lock();
            let limit = JOURNAL_SLACK + JOURNAL_GROWTH * state.manifest.encoded_len();
            let delta = state.delta(keys, sync);
            let grown = (journal.len > limit).then(|| Manifest { sync, ..state.manifest.clone() });
            (delta, grown)
        };
        let (removed, deleted, volumes) = (delta.removed.len(), delta.deleted.len(), delta.volumes.len());
        let horizon = delta.horizon;
        match grown {
            Some(manifest) => self.rewrite(journal, &manifest).await?,
            None => journal.append(&Frame { copyset: self.id, sync, body: Body::Commit(delta) }).await?,
        }
        let dropped = {
            let mut state = self.lock();
            state.manifest.sync = sync;
            state.syncing.clear();
            // All of them were written by this sync, or are gone.
            state.unlisted.clear();
            state.new_deleted.drain(..deleted);
            state.new_volumes.drain(..volumes);
            state.horizon_moved = state.manifest.horizon != horizon;
            state.evict(self.shared.cached_chunks_max());
            state.dropped.drain(..removed).collect::<Vec<_>>()
        };
        dropped.iter().try_for_each(|dropped| self.shared.give_back(&dropped.path))?;
        if dropped.is_empty() { Ok(()) } else { self.shared.settle_pool().await }
    }
}
