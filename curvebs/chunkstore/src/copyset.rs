//! The chunks of one copyset on this disk: the type, its state and how chunks get into memory.
//!
//! What it can do is split by purpose: `change` (write, discard, delete), `read`, `sync`, `transfer` (catch-up by
//! difference, repair), `scrub`, `records`, `lifecycle` (open, create, remove) and `load` (decoding and salvaging).

mod change;
mod lifecycle;
mod load;
mod place;
mod read;
mod records;
mod scrub;
mod sync;
mod transfer;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use curve_io::{File, OpenMode};
use curve_types::{ChunkKey, CopysetId, VolumeId};

use crate::chunk::{Chunk, Tables};
use crate::data::CopysetStats;
use crate::format::chunk::ChunkIdentity;
use crate::format::manifest::ChunkEntry;
use crate::layout::Layout;
use crate::ledger::Ledger;
use crate::manifest::Manifest;
use crate::shared::{Shared, lock};

pub use self::place::{Append, Plan};
use self::sync::Journal;

/// The chunks of one copyset. Changes come from one apply task in log order; reads may come from anywhere.
///
/// # What a change costs
///
/// A write of one block is one `pwrite` into the page cache; its checksum and log index go into the chunk's tables in
/// memory. Headers and tables reach the disk only in [`sync`](Self::sync). So the disk lags behind, and that is sound
/// because the owner keeps the Raft log until a sync has completed:
///
/// # What a crash leaves
///
/// The owner saves its applied index *m* (a record) after a sync that was called when *m* was applied, and after a
/// crash applies the log again from *m*. Between syncs, only data blocks, holes and names change on the disk:
///
/// | on the disk after a crash | why it is harmless |
/// |---|---|
/// | data of a block is newer than the table, or torn | its write is after *m* and comes again; blocks are always written whole |
/// | a block was punched and the table still has its checksum | its discard is after *m* and comes again |
/// | a chunk file that the manifest does not list | made after *m* (its writes come again) or dropped: removed at open |
/// | header or table is half written | only inside a sync, whose intention is in the manifest: accepted as a mixture of old and new, since what differs is after *m* |
/// | the manifest's last frame is torn | ignored; *m* was not yet saved for it |
///
/// Until the log has been applied again up to what was applied before the crash, reads may fail with `Corrupt`, so
/// nothing is served or scrubbed before that. All changes are idempotent over a newer state, and log indexes in tables
/// only grow.
///
/// # What damage looks like
///
/// Outside those windows every mismatch is damage. A bad block fails its checksum. A bad table page or header makes the
/// chunk *salvaged*: entries whose data have the checksum they claim are kept, all others are poisoned, that is given a
/// checksum their data do not have, so that they read as `Corrupt` until they are written or repaired. Never is a hole
/// made of something that may have been data. An intact header of another chunk or another sync poisons all of the
/// chunk, as does a missing file: what is there may be whole and yet be old. A bad manifest, or one that is older than a
/// record, makes the copyset unusable (`CopysetError::Damaged`): it is rebuilt from its peers.
///
/// # Locks
///
/// One mutex a copyset, held for a table update and a `pwrite`, never across an `await`. `sync` holds a turn of its own.
pub struct CopysetStore {
    id: CopysetId,
    dir: PathBuf,
    shared: Arc<Shared>,
    state: Mutex<State>,
    /// The manifest's file; held for a whole sync, so that syncs take turns.
    journal: tokio::sync::Mutex<Journal>,
    /// Held while a record is replaced, so that two do not use one temporary name.
    record_turn: tokio::sync::Mutex<()>,
    /// What the log holds that is not durable here. Locked before `state`, if both are.
    ledger: Mutex<Ledger>,
    /// Held for reading while something is placed, for writing by whoever may give chunk files away meanwhile.
    placing: Arc<tokio::sync::RwLock<()>>,
}

/// What the mutex guards.
#[derive(Default)]
struct State {
    manifest: Manifest,
    cached: HashMap<ChunkKey, Chunk>,
    /// Chunks changed since their last flush; always cached.
    dirty: BTreeSet<ChunkKey>,
    /// Chunks flushed by a sync that has not completed. Left behind by a sync that was cancelled.
    syncing: BTreeSet<ChunkKey>,
    /// Those of them that no completed sync lists: their first one is under way, or was cancelled.
    unlisted: BTreeSet<ChunkKey>,
    /// Files of deleted chunks; they go to the pool when a sync has made the deletion durable.
    dropped: Vec<Dropped>,
    /// Deletions that no commit has yet.
    new_deleted: Vec<(ChunkKey, u64)>,
    new_volumes: Vec<(VolumeId, u64)>,
    /// Whether the horizon rose since the last commit.
    horizon_moved: bool,
    /// Chunk files made since the copyset was opened, and how many of them have durable names.
    files_made: u64,
    files_named: u64,
    tick: u64,
    closed: bool,
    bad_blocks: u64,
    repaired_blocks: u64,
    salvaged_chunks: u64,
}

/// A chunk file on its way out.
struct Dropped {
    key: ChunkKey,
    path: PathBuf,
}

/// The file name of a chunk.
fn chunk_name(key: ChunkKey, birth: u64) -> String {
    format!("{:016x}-{:08x}-{birth:x}.chunk", key.volume.get(), key.index)
}

impl State {
    fn next_tick(&mut self) -> u64 {
        self.tick += 1;
        self.tick
    }

    fn mark_dirty(&mut self, key: ChunkKey) {
        if let Some(chunk) = self.cached.get_mut(&key).filter(|chunk| !chunk.dirty) {
            chunk.dirty = true;
            self.dirty.insert(key);
        }
    }

    /// A cached chunk, noted as used.
    fn touch(&mut self, key: &ChunkKey) -> Option<&mut Chunk> {
        let tick = self.next_tick();
        let chunk = self.cached.get_mut(key)?;
        chunk.used = tick;
        Some(chunk)
    }

    /// Lets the longest unused clean chunks go when there are more than `max`, some at once to do it rarely.
    fn evict(&mut self, max: usize) {
        if self.cached.len() <= max {
            return;
        }
        // A chunk with room to spare stays until that is given back, which is found in memory.
        let clean = |(key, chunk): (&ChunkKey, &Chunk)| {
            let idle = !chunk.dirty && chunk.spare.is_none() && !self.syncing.contains(key);
            idle.then_some((chunk.used, *key))
        };
        let mut clean: Vec<_> = self.cached.iter().filter_map(clean).collect();
        clean.sort_unstable();
        // The newest is the one that is being used right now.
        clean.pop();
        for (_, key) in clean.into_iter().take(self.cached.len() - max + max / 8) {
            self.cached.remove(&key);
        }
    }
}

impl CopysetStore {
    /// Which copyset.
    pub fn id(&self) -> CopysetId {
        self.id
    }

    /// All chunks with a file, by key.
    pub fn chunks(&self) -> Vec<ChunkKey> {
        self.lock().manifest.chunks.keys().copied().collect()
    }

    /// Counters and sizes.
    pub fn stats(&self) -> CopysetStats {
        let state = self.lock();
        CopysetStats {
            chunks: state.manifest.chunks.len(),
            cached_chunks: state.cached.len(),
            dirty_chunks: state.dirty.len(),
            tombstones: state.manifest.deleted.len() + state.manifest.volumes.len(),
            bad_blocks: state.bad_blocks,
            repaired_blocks: state.repaired_blocks,
            salvaged_chunks: state.salvaged_chunks,
            syncs: state.manifest.sync,
        }
    }

    fn layout(&self) -> &Layout {
        &self.shared.layout
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn path(&self, key: ChunkKey, birth: u64) -> PathBuf {
        self.dir.join(chunk_name(key, birth))
    }

    fn identity(&self, key: ChunkKey, birth: u64) -> ChunkIdentity {
        ChunkIdentity { key, copyset: self.id, birth }
    }

    /// Fails the store when a step of a change has failed: the other replicas have made the change, this one has not.
    fn guard<T>(&self, what: &str, result: io::Result<T>) -> io::Result<T> {
        result.inspect_err(|error| self.shared.fail(&format!("{what} in {}", self.id), error))
    }

    /// Locks the state for a change; refused after a failure or when the copyset was removed.
    fn writable(&self) -> io::Result<MutexGuard<'_, State>> {
        self.shared.check()?;
        let state = self.lock();
        if state.closed {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("{} was removed", self.id)));
        }
        Ok(state)
    }

    /// Has a chunk in memory, reading its tables if need be, which may wait for the disk. Says whether there is one.
    fn ensure_loaded(&self, state: &mut State, key: ChunkKey) -> io::Result<bool> {
        if state.touch(&key).is_some() {
            return Ok(true);
        }
        let Some(entry) = state.manifest.chunks.get(&key).copied() else { return Ok(false) };
        let file = self.open_chunk(key, entry)?;
        let mut head = vec![0; self.layout().data_at as usize];
        let read = file.as_ref().map_or(Ok(0), |file| file.read_at(0, &mut head));
        head.truncate(read.unwrap_or(0));
        self.install(state, key, entry, file, &head)?;
        Ok(true)
    }

    /// Has a chunk in memory without blocking the thread. Says whether there is one.
    async fn load(&self, key: ChunkKey) -> io::Result<bool> {
        loop {
            let entry = {
                let mut state = self.lock();
                if state.touch(&key).is_some() {
                    return Ok(true);
                }
                match state.manifest.chunks.get(&key) {
                    Some(entry) => *entry,
                    None => return Ok(false),
                }
            };
            let file = self.open_chunk(key, entry)?;
            let head = match file.clone() {
                // An unreadable header is treated like a damaged one.
                Some(file) => file.read(0, self.layout().data_at as usize).await.unwrap_or_default(),
                None => Bytes::new(),
            };
            let mut state = self.lock();
            if state.cached.contains_key(&key) || state.manifest.chunks.get(&key) != Some(&entry) {
                continue;
            }
            self.install(&mut state, key, entry, file, &head)?;
            return Ok(true);
        }
    }

    fn open_chunk(&self, key: ChunkKey, entry: ChunkEntry) -> io::Result<Option<Arc<dyn File>>> {
        match self.shared.disk.open(&self.path(key, entry.birth), OpenMode::Existing) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a chunk of holes.
    fn create_chunk(&self, state: &mut State, key: ChunkKey) -> io::Result<()> {
        let (birth, changed) = state.manifest.add_chunk(key);
        let (file, punched) = self.take_file(state, key, birth)?;
        let tables = Tables::empty(self.layout(), changed, punched);
        self.insert(state, key, Chunk::new(file, birth, tables));
        state.mark_dirty(key);
        Ok(())
    }

    fn take_file(&self, state: &mut State, key: ChunkKey, birth: u64) -> io::Result<(Arc<dyn File>, bool)> {
        let taken = self.shared.take_file(&self.path(key, birth))?;
        state.files_made += 1;
        Ok(taken)
    }

    fn insert(&self, state: &mut State, key: ChunkKey, mut chunk: Chunk) {
        chunk.used = state.next_tick();
        state.cached.insert(key, chunk);
        state.evict(self.shared.cached_chunks_max());
    }
}
