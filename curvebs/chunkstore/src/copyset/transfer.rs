//! Catch-up by difference, and repair of single blocks from another replica.
//!
//! Sender: [`changed_since`](CopysetStore::changed_since), then [`export`](CopysetStore::export) of each changed chunk.
//! Receiver: [`import_changes`](CopysetStore::import_changes), then [`import`](CopysetStore::import) of each part, then
//! `sync`. The receiver's owner notes that an import is under way before it begins and no longer when it is done; after
//! a crash in between it simply imports again from the same index.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::io;
use std::ops::Range;

use bytes::Bytes;
use curve_types::{ChunkKey, LogIndex};

use super::read::Piece;
use super::{CopysetStore, State};
use crate::checksum::{HOLE, block_crc};
use crate::data::{BlockRepair, Changes, ChunkPart, ExtentIndex};
use crate::error::{ImportError, ReadError, RepairError};
use crate::layout::{BLOCK, runs};

/// The extents of the next part, the changes of each, and where the part after it begins.
struct PartPlan {
    extents: Range<usize>,
    changed: Vec<LogIndex>,
    next: Option<ExtentIndex>,
}

impl CopysetStore {
    /// What changed after `index`, for a replica whose applied index that is. From memory; what is not yet synced
    /// included.
    pub fn changed_since(&self, index: LogIndex) -> Changes {
        let state = self.lock();
        state
            .manifest
            .changed_since(index, |key| state.cached.get(key).map(|chunk| chunk.tables.last_changed))
    }

    /// Forgets deletions at or below `index`; to be called when every replica has applied it.
    pub fn forget_deletions(&self, index: LogIndex) {
        let mut state = self.lock();
        if index.get() > state.manifest.horizon {
            state.manifest.forget(index.get());
            state.horizon_moved = true;
        }
    }

    /// The next extents of a chunk that changed after `since`, at or after `from`, with at most about `bytes_max` bytes
    /// (at least one extent). `None` when nothing is left. Verified: fails when one of the blocks is bad here.
    pub async fn export(
        &self,
        key: ChunkKey,
        since: LogIndex,
        from: ExtentIndex,
        bytes_max: usize,
    ) -> Result<Option<ChunkPart>, ReadError> {
        let Some(plan) = self.plan_part(key, since, from, bytes_max).await? else { return Ok(None) };
        let blocks =
            plan.extents.start * self.layout().extent_blocks..plan.extents.end * self.layout().extent_blocks;
        let fetched = self.fetch(key, blocks.clone()).await?;
        if !fetched.bad.is_empty() {
            return Err(ReadError::Corrupt { key, bad: fetched.bad });
        }
        let data = |piece| match piece {
            Piece::Hole(_) => None,
            Piece::Data(bytes) => Some(bytes),
        };
        Ok(Some(ChunkPart {
            first_block: blocks.start as u32,
            crcs: fetched.crcs,
            data: fetched.pieces.into_iter().filter_map(data).collect(),
            changed: plan.changed,
            next: plan.next,
        }))
    }

    async fn plan_part(
        &self,
        key: ChunkKey,
        since: LogIndex,
        from: ExtentIndex,
        bytes_max: usize,
    ) -> io::Result<Option<PartPlan>> {
        if self.view(key, &(0..0)).await?.is_none() {
            return Ok(None);
        }
        let mut state = self.lock();
        if !self.ensure_loaded(&mut state, key)? {
            return Ok(None);
        }
        let extents = &state.cached[&key].tables.extents;
        let is_new = |extent: &usize| extents[*extent] > since.get();
        let Some(start) = (from.0 as usize..extents.len()).find(is_new) else { return Ok(None) };
        let most = (bytes_max / (self.layout().extent_blocks * BLOCK)).max(1);
        let end = (start..extents.len().min(start + most)).find(|extent| !is_new(extent));
        let end = end.unwrap_or(extents.len().min(start + most));
        let changed = extents[start..end].iter().copied().map(LogIndex).collect();
        let next = (end..extents.len()).find(is_new).map(|extent| ExtentIndex(extent as u32));
        Ok(Some(PartPlan { extents: start..end, changed, next }))
    }

    /// Receiver's side of [`changed_since`](Self::changed_since): deletes what the sender deleted and remembers it.
    /// To be followed by `export`/`import` of each chunk that is not deleted. Idempotent.
    pub fn import_changes(&self, changes: &Changes) -> Result<(), ImportError> {
        let mut state = self.writable()?;
        for deletion in &changes.volumes {
            self.drop_volume(&mut state, deletion.volume);
            state.manifest.note_volume_deleted(deletion.volume, deletion.index.get());
            state.new_volumes.push((deletion.volume, deletion.index.get()));
        }
        for change in changes.chunks.iter().filter(|change| change.deleted) {
            let ours = last_changed(&state, &change.key);
            if ours.is_none_or(|ours| ours <= change.last_changed.get()) {
                self.drop_chunk(&mut state, change.key);
                self.note_deleted(&mut state, change.key, change.last_changed.get());
            }
        }
        if changes.full {
            let listed: BTreeSet<_> = changes.chunks.iter().map(|change| change.key).collect();
            let unlisted: Vec<_> =
                state.manifest.chunks.keys().filter(|key| !listed.contains(key)).copied().collect();
            for key in unlisted {
                self.drop_chunk(&mut state, key);
            }
            state.manifest.forget(changes.horizon.get());
            state.horizon_moved = true;
        }
        Ok(())
    }

    /// Takes a part made by `export`. Idempotent; verifies every block first; durable after `sync`.
    pub fn import(&self, key: ChunkKey, part: &ChunkPart) -> Result<(), ImportError> {
        let data = self.check_part(part)?;
        let mut state = self.writable()?;
        let imported = self.import_locked(&mut state, key, part, &data);
        Ok(self.guard("import", imported)?)
    }

    /// Checks that a part fits the chunk and itself; returns its bytes in one piece.
    fn check_part<'a>(&self, part: &'a ChunkPart) -> Result<Cow<'a, [u8]>, ImportError> {
        let layout = self.layout();
        let first = part.first_block as usize;
        if !first.is_multiple_of(layout.extent_blocks)
            || !part.crcs.len().is_multiple_of(layout.extent_blocks)
        {
            return Err(ImportError::Malformed("not whole extents"));
        }
        if first > layout.blocks || part.crcs.len() > layout.blocks - first {
            return Err(ImportError::Malformed("ends after the chunk"));
        }
        if part.changed.len() != part.crcs.len() / layout.extent_blocks {
            return Err(ImportError::Malformed("log indexes do not fit the blocks"));
        }
        let data = match &part.data[..] {
            [one] => Cow::Borrowed(&one[..]),
            parts => Cow::Owned(parts.concat()),
        };
        let live: Vec<_> = part.crcs.iter().enumerate().filter(|(_, crc)| **crc != HOLE).collect();
        if data.len() != live.len() * BLOCK {
            return Err(ImportError::Malformed("bytes do not fit the checksums"));
        }
        match live.iter().zip(data.chunks_exact(BLOCK)).find(|((_, crc), block)| **crc != block_crc(block)) {
            Some(((n, _), _)) => Err(ImportError::Checksum { block: (first + n) as u32 }),
            None => Ok(data),
        }
    }

    fn import_locked(
        &self,
        state: &mut State,
        key: ChunkKey,
        part: &ChunkPart,
        data: &[u8],
    ) -> io::Result<()> {
        if !self.ensure_loaded(state, key)? {
            self.create_chunk(state, key)?;
        }
        let layout = self.layout();
        let first = part.first_block as usize;
        let chunk = state.cached.get_mut(&key).expect("was just loaded");
        let mut rest = data;
        for (run, hole) in runs(&part.crcs, |crc| *crc == HOLE) {
            let blocks = first + run.start..first + run.end;
            if !hole {
                let (bytes, later) = rest.split_at(run.len() * BLOCK);
                rest = later;
                chunk.write_blocks(layout, blocks.start, &[bytes])?;
            } else if chunk.tables.crcs[blocks.clone()].iter().any(|crc| *crc != HOLE) {
                chunk.punch(layout, &blocks)?;
            }
            chunk.tables.set(blocks.start, &part.crcs[run]);
        }
        for (n, changed) in part.changed.iter().enumerate() {
            let extent = first / layout.extent_blocks + n;
            chunk.tables.touch(extent..extent + 1, changed.get());
        }
        state.mark_dirty(key);
        Ok(())
    }

    /// Replaces bad blocks by those of a replica that has applied at least what this one has. Blocks that changed since
    /// they were reported are skipped. Returns how many were healed. Durable after `sync`.
    pub fn repair(&self, key: ChunkKey, blocks: &[BlockRepair]) -> Result<usize, RepairError> {
        for repair in blocks {
            self.check_repair(repair)?;
        }
        let mut state = self.writable()?;
        let healed = self.repair_locked(&mut state, key, blocks);
        Ok(self.guard("repair", healed)?)
    }

    fn check_repair(&self, repair: &BlockRepair) -> Result<(), RepairError> {
        let len = if repair.crc == HOLE { 0 } else { BLOCK };
        if repair.block as usize >= self.layout().blocks || repair.data.len() != len {
            return Err(RepairError::Malformed("not one block of the chunk"));
        }
        if repair.crc != HOLE && block_crc(&repair.data) != repair.crc {
            return Err(RepairError::Checksum { block: repair.block });
        }
        Ok(())
    }

    fn repair_locked(&self, state: &mut State, key: ChunkKey, blocks: &[BlockRepair]) -> io::Result<usize> {
        if !self.ensure_loaded(state, key)? {
            return Ok(0);
        }
        let chunk = state.cached.get_mut(&key).expect("was just loaded");
        let mut healed = 0;
        for repair in blocks {
            let block = repair.block as usize;
            if chunk.tables.crcs[block] != repair.reported {
                continue;
            }
            if repair.crc == HOLE {
                chunk.punch(self.layout(), &(block..block + 1))?;
            } else {
                chunk.write_blocks(self.layout(), block, std::slice::from_ref::<Bytes>(&repair.data))?;
            }
            chunk.tables.set(block, &[repair.crc]);
            healed += 1;
        }
        if healed > 0 {
            state.repaired_blocks += healed as u64;
            state.mark_dirty(key);
        }
        Ok(healed)
    }
}

/// Index of the last change of a chunk that exists.
fn last_changed(state: &State, key: &ChunkKey) -> Option<u64> {
    let live = state.cached.get(key).map(|chunk| chunk.tables.last_changed);
    live.or_else(|| state.manifest.chunks.get(key).map(|entry| entry.last_changed))
}
