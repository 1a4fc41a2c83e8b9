//! Changes: what the apply task does to chunks.

use std::io;
use std::ops::Range;

use bytes::Bytes;
use curve_types::{ChunkKey, LogIndex, VolumeId};

use super::{CopysetStore, Dropped, State};
use crate::checksum::HOLE;
use crate::chunk::Chunk;
use crate::error::{NoSpace, WriteError};
use crate::layout::{BLOCK, Layout};
use crate::manifest::volume_range;

/// How the bytes of a write get into the file.
type Put = fn(&Chunk, &Layout, usize, &[Bytes]) -> io::Result<()>;

/// A file system without preallocation or hole punching: space is not saved, content is right all the same.
fn unless_unsupported(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
        other => other,
    }
}

impl CopysetStore {
    /// Asked by the leader before it proposes a write or an allocating write_zeroes: refuses what would need new room
    /// when only the reserve is left. Cheap (two atomics) as long as there is room.
    pub fn admit(&self, key: ChunkKey, offset: u32, len: u32) -> Result<(), NoSpace> {
        if !self.shared.space_is_low() {
            return Ok(());
        }
        // A range outside the chunk is refused where it is applied.
        let Ok(blocks) = self.layout().range(offset, len) else { return Ok(()) };
        let mut state = self.lock();
        let needs_no_room = match self.ensure_loaded(&mut state, key) {
            Ok(true) => {
                let tables = &state.cached[&key].tables;
                !tables.punched || tables.crcs[blocks].iter().all(|crc| *crc != HOLE)
            }
            Ok(false) => false,
            // What is wrong with the disk will show at apply.
            Err(_) => true,
        };
        if needs_no_room {
            return Ok(());
        }
        self.shared.refused.notify_one();
        Err(self.shared.no_space())
    }

    /// Overwrites whole blocks. `data` together is as long as `crcs` has blocks; checksums are trusted. Lands in the
    /// page cache; durable after [`sync`](Self::sync).
    pub fn write(
        &self,
        key: ChunkKey,
        offset: u32,
        data: &[Bytes],
        crcs: &[u32],
        index: LogIndex,
    ) -> Result<(), WriteError> {
        self.write_with(key, offset, data, crcs, index, Chunk::write_blocks)
    }

    /// As [`write`](Self::write), on a replica that does not serve reads: large writes may go around the page cache, which
    /// spares a copy and leaves the cache to the replicas that do.
    pub fn write_unread(
        &self,
        key: ChunkKey,
        offset: u32,
        data: &[Bytes],
        crcs: &[u32],
        index: LogIndex,
    ) -> Result<(), WriteError> {
        self.write_with(key, offset, data, crcs, index, Chunk::write_blocks_around)
    }

    fn write_with(
        &self,
        key: ChunkKey,
        offset: u32,
        data: &[Bytes],
        crcs: &[u32],
        index: LogIndex,
        put: Put,
    ) -> Result<(), WriteError> {
        let bytes: u64 = data.iter().map(|part| part.len() as u64).sum();
        if bytes != (crcs.len() * BLOCK) as u64 || crcs.contains(&HOLE) {
            return Err(WriteError::BadLength { bytes, crcs: crcs.len() });
        }
        let blocks = self.layout().range(offset, u32::try_from(bytes).unwrap_or(u32::MAX))?;
        if blocks.is_empty() {
            return Ok(());
        }
        let mut state = self.writable()?;
        let written = self.write_locked(&mut state, key, blocks, index, |layout, chunk, first| {
            put(chunk, layout, first, data)?;
            chunk.tables.set(first, crcs);
            Ok(())
        });
        Ok(self.guard("write", written)?)
    }

    pub(super) fn write_locked(
        &self,
        state: &mut State,
        key: ChunkKey,
        blocks: Range<usize>,
        index: LogIndex,
        put: impl FnOnce(&Layout, &mut Chunk, usize) -> io::Result<()>,
    ) -> io::Result<()> {
        if !self.ensure_loaded(state, key)? {
            self.create_chunk(state, key)?;
        }
        let chunk = state.cached.get_mut(&key).expect("was just loaded");
        put(self.layout(), chunk, blocks.start)?;
        chunk.tables.touch(self.layout().extents_of(&blocks), index.get());
        state.mark_dirty(key);
        Ok(())
    }

    /// Turns whole blocks into holes and frees their room. A chunk without data left gives its file back.
    pub fn discard(&self, key: ChunkKey, offset: u32, len: u32, index: LogIndex) -> Result<(), WriteError> {
        self.write_zeroes(key, offset, len, false, index)
    }

    /// Makes whole blocks read as zeros; with `keep_allocated` their room stays (or becomes) theirs, otherwise this is
    /// a [`discard`](Self::discard).
    pub fn write_zeroes(
        &self,
        key: ChunkKey,
        offset: u32,
        len: u32,
        keep_allocated: bool,
        index: LogIndex,
    ) -> Result<(), WriteError> {
        let blocks = self.layout().range(offset, len)?;
        if blocks.is_empty() {
            return Ok(());
        }
        let mut state = self.writable()?;
        let cleared = self.clear_locked(&mut state, key, blocks, keep_allocated, index);
        Ok(self.guard("discard", cleared)?)
    }

    fn clear_locked(
        &self,
        state: &mut State,
        key: ChunkKey,
        blocks: Range<usize>,
        keep_allocated: bool,
        index: LogIndex,
    ) -> io::Result<()> {
        let layout = *self.layout();
        if blocks.len() == layout.blocks && !keep_allocated {
            return self.delete_locked(state, key, index);
        }
        if !self.ensure_loaded(state, key)? {
            if !keep_allocated {
                return Ok(());
            }
            self.create_chunk(state, key)?;
        }
        let chunk = state.cached.get_mut(&key).expect("was just loaded");
        let live = chunk.tables.crcs[blocks.clone()].iter().filter(|crc| **crc != HOLE).count() as u32;
        if live == chunk.tables.live && !keep_allocated {
            return self.delete_locked(state, key, index);
        }
        if keep_allocated {
            unless_unsupported(chunk.allocate(&layout, &blocks))?;
        } else {
            unless_unsupported(chunk.punch(&layout, &blocks))?;
        }
        chunk.tables.clear(&blocks);
        chunk.tables.touch(layout.extents_of(&blocks), index.get());
        state.mark_dirty(key);
        Ok(())
    }

    /// Makes a chunk read as zeros and gives its file back. Leaves a tombstone for replicas that are away.
    pub fn delete_chunk(&self, key: ChunkKey, index: LogIndex) -> Result<(), WriteError> {
        let mut state = self.writable()?;
        let deleted = self.delete_locked(&mut state, key, index);
        Ok(self.guard("delete", deleted)?)
    }

    fn delete_locked(&self, state: &mut State, key: ChunkKey, index: LogIndex) -> io::Result<()> {
        if self.drop_chunk(state, key) {
            self.note_deleted(state, key, index.get());
        }
        Ok(())
    }

    /// Deletes all chunks of a volume and leaves one tombstone.
    pub fn delete_volume(&self, volume: VolumeId, index: LogIndex) -> Result<(), WriteError> {
        let mut state = self.writable()?;
        self.drop_volume(&mut state, volume);
        state.manifest.note_volume_deleted(volume, index.get());
        state.new_volumes.push((volume, index.get()));
        Ok(())
    }

    pub(super) fn drop_volume(&self, state: &mut State, volume: VolumeId) {
        let keys: Vec<_> = state.manifest.chunks.range(volume_range(volume)).map(|(key, _)| *key).collect();
        for key in keys {
            self.drop_chunk(state, key);
        }
    }

    pub(super) fn note_deleted(&self, state: &mut State, key: ChunkKey, index: u64) {
        state.manifest.note_deleted(key, index);
        state.new_deleted.push((key, index));
    }

    /// Takes a chunk out of the copyset; its file waits for the next sync. Says whether there was one.
    pub(super) fn drop_chunk(&self, state: &mut State, key: ChunkKey) -> bool {
        let Some(entry) = state.manifest.chunks.remove(&key) else { return false };
        state.manifest.unclean.remove(&key);
        state.cached.remove(&key);
        state.dirty.remove(&key);
        state.dropped.push(Dropped { key, path: self.path(key, entry.birth) });
        true
    }
}
