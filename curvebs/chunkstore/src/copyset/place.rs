//! Large writes that go to the chunk file before their entry goes to the log, so that the log need not hold them too.
//!
//! When an entry is about to be appended, [`note_append`](CopysetStore::note_append) looks what it touches and plans
//! what can be placed; [`place`](CopysetStore::place) writes that, durably; only then is the entry appended, with the
//! place instead of the bytes. When it is applied, [`write_placed`](CopysetStore::write_placed) turns the planes of the
//! extents around and moves no data. The rule that makes it safe is on [`Ledger`].

use std::io;
use std::ops::Range;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use curve_io::File;
use curve_types::{ChunkKey, LogIndex, VolumeId};
use futures::future::try_join_all;
use tokio::sync::OwnedRwLockReadGuard;
use tokio::time::Instant;

use super::{CopysetStore, State};
use crate::checksum::{HOLE, block_crc};
use crate::chunk::Chunk;
use crate::data::PlacedRun;
use crate::error::WriteError;
use crate::layout::{BLOCK, Layout};
use crate::ledger::Ledger;
use crate::planes::Plane;
use crate::shared::lock;

/// Smaller writes are not placed: they are better off in the log, which makes many of them durable at once.
const PLACED_BYTES_MIN: u32 = 64 << 10;
/// Room of planes without current data is given back when nothing was placed in a chunk for so long; at once when room is
/// scarce. Writing into room that the file system must first find takes twice as long.
const SPARE_KEPT: Duration = Duration::from_secs(600);
/// A checkpoint is worth its while when this much went to the log for want of it.
const CHECKPOINT_WORTH_BYTES: u64 = 16 << 20;

/// What an operation of an entry that is about to be appended will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Append {
    /// Overwrite whole blocks.
    Write {
        /// The chunk.
        key: ChunkKey,
        /// First byte.
        offset: u32,
        /// Bytes.
        len: u32,
    },
    /// Take data away from a chunk.
    Clear(ChunkKey),
    /// Take all data of a volume away.
    ClearVolume(VolumeId),
    /// Nothing to any chunk.
    Nothing,
}

/// What is to be placed for one operation.
struct PlannedOp {
    op: usize,
    /// First block of the operation.
    first: usize,
    file: Arc<dyn File>,
    runs: Vec<PlacedRun>,
}

/// What is to be placed for an entry. Chunk files stay where they are as long as it lives.
pub struct Plan {
    index: u64,
    ops: Vec<PlannedOp>,
    _turn: OwnedRwLockReadGuard<()>,
}

impl PlacedRun {
    /// The extents.
    pub(crate) fn extent_range(&self) -> Range<usize> {
        self.first as usize..self.first as usize + self.extents as usize
    }

    fn plane(&self) -> Plane {
        if self.second { Plane::Second } else { Plane::First }
    }
}

/// The parts of an operation's blocks that `runs` do not cover, in order.
fn unplaced(layout: &Layout, blocks: &Range<usize>, runs: &[PlacedRun]) -> Vec<Range<usize>> {
    let mut rest = Vec::new();
    let mut at = blocks.start;
    for run in runs {
        let placed = layout.blocks_of(&run.extent_range());
        if placed.start > at {
            rest.push(at..placed.start);
        }
        at = placed.end;
    }
    if at < blocks.end {
        rest.push(at..blocks.end);
    }
    rest
}

/// `len` bytes of parts that follow each other, without the first `skip`, sharing memory.
fn slices(parts: &[Bytes], skip: usize, len: usize) -> Vec<Bytes> {
    let owner = |slice: &[u8]| parts.iter().find(|part| part.as_ptr_range().contains(&slice.as_ptr()));
    let cut = crate::chunk::cut(parts, skip, len).into_iter();
    cut.filter_map(|slice| Some(owner(slice)?.slice_ref(slice))).collect()
}

impl CopysetStore {
    /// Tells how far the owner's last checkpoint is, before anything is appended.
    pub fn begin_appends(&self, checkpoint: LogIndex) {
        self.ledger().open(checkpoint.get());
    }

    /// Tells that everything up to an entry is applied.
    pub fn note_applied(&self, index: LogIndex) {
        self.ledger().applied(index.get());
    }

    /// Tells that everything up to an entry is durable, and the owner's record of that too.
    pub fn note_checkpoint(&self, index: LogIndex) {
        self.ledger().checkpointed(index.get());
    }

    /// Whether a checkpoint would let much be placed that now goes to the log.
    pub fn wants_checkpoint(&self) -> bool {
        self.ledger().hindered() >= CHECKPOINT_WORTH_BYTES
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }

    /// Tells what the next entry of the log is about, in the order of the log (after a truncation, indexes come again),
    /// and returns what of it is to be placed, if anything.
    pub fn note_append(&self, index: LogIndex, ops: impl Iterator<Item = Append>) -> Option<Plan> {
        let index = index.get();
        let mut planned = Vec::new();
        let mut turn = None;
        let mut ledger = self.ledger();
        ledger.append(index);
        for (op, append) in ops.enumerate() {
            match append {
                Append::Nothing => {}
                Append::Clear(key) => ledger.clear(index, key),
                Append::ClearVolume(volume) => ledger.clear_volume(index, volume),
                Append::Write { key, offset, len } => {
                    // A range outside the chunk is refused where it is applied.
                    let Ok(blocks) = self.layout().range(offset, len) else { continue };
                    if len >= PLACED_BYTES_MIN && turn.is_none() {
                        turn = self.placing.clone().try_read_owned().ok();
                    }
                    if len >= PLACED_BYTES_MIN && turn.is_some() {
                        planned.extend(self.plan_op(&mut ledger, index, op, key, &blocks));
                    }
                    ledger.touch(index, key, self.layout().extents_of(&blocks));
                }
            }
        }
        let _turn = turn.filter(|_| !planned.is_empty())?;
        Some(Plan { index, ops: planned, _turn })
    }

    fn plan_op(
        &self,
        ledger: &mut Ledger,
        index: u64,
        op: usize,
        key: ChunkKey,
        blocks: &Range<usize>,
    ) -> Option<PlannedOp> {
        let extents = self.layout().extents_within(blocks);
        let checkpoint = ledger.checkpoint_for(key).filter(|_| !extents.is_empty())?;
        if self.shared.room_is_scarce() || self.shared.failed() {
            return None;
        }
        let mut state = self.lock();
        // What no completed sync lists would not be found after a crash.
        let written = state.manifest.chunks.get(&key).is_some_and(|entry| entry.generation > 0);
        let listed = written && !state.unlisted.contains(&key);
        let chunk = state.cached.get_mut(&key).filter(|_| listed)?;
        let mut taken: Vec<bool> =
            chunk.tables.extents[extents.clone()].iter().map(|changed| *changed > checkpoint).collect();
        let hindered = taken.iter().filter(|taken| **taken).count();
        ledger.hinder((hindered * self.layout().extent_blocks * BLOCK) as u64);
        ledger.unapplied(key, &extents, |extent| taken[extent - extents.start] = true);
        let mut runs: Vec<PlacedRun> = Vec::new();
        for extent in extents.clone().filter(|extent| !taken[extent - extents.start]) {
            let now = chunk.tables.planes.of(extent);
            let hole = chunk.tables.is_hole(self.layout(), extent);
            let second = if hole { now } else { now.other() } == Plane::Second;
            match runs.last_mut() {
                Some(run) if run.second == second && run.extent_range().end == extent => run.extents += 1,
                _ => runs.push(PlacedRun { first: extent as u32, extents: 1, second }),
            }
        }
        if runs.is_empty() {
            return None;
        }
        chunk.spare = Some(Instant::now());
        ledger.place(index, op as u32, runs.clone());
        Some(PlannedOp { op, first: blocks.start, file: chunk.file.clone(), runs })
    }

    /// Writes what was planned, durably. `payload` gives an operation's bytes. Returns, for each operation that was
    /// planned, its number, what was placed and the rest of its bytes; nothing when the disk has no room: then all of
    /// the entry belongs into the log.
    pub async fn place<'a>(
        &self,
        plan: Plan,
        payload: impl Fn(usize) -> &'a [Bytes],
    ) -> io::Result<Option<Vec<(usize, Vec<PlacedRun>, Vec<Bytes>)>>> {
        let layout = *self.layout();
        let mut writes = Vec::new();
        for op in &plan.ops {
            for run in &op.runs {
                let blocks = layout.blocks_of(&run.extent_range());
                let parts = slices(payload(op.op), (blocks.start - op.first) * BLOCK, blocks.len() * BLOCK);
                writes.push(place_run(&layout, op.file.clone(), run.plane(), blocks.start, parts));
            }
        }
        match try_join_all(writes).await {
            Ok(_) => {}
            Err(error)
                if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) =>
            {
                let mut ledger = self.ledger();
                plan.ops.iter().for_each(|op| ledger.unplace(plan.index, op.op as u32, &op.runs));
                return Ok(None);
            }
            Err(error) => return self.guard("placing", Err(error)),
        }
        let placed = plan.ops.into_iter().map(|op| {
            let rest = self.unplaced_parts(op.first, payload(op.op), &op.runs);
            (op.op, op.runs, rest)
        });
        Ok(Some(placed.collect()))
    }

    fn unplaced_parts(&self, first: usize, payload: &[Bytes], runs: &[PlacedRun]) -> Vec<Bytes> {
        let bytes: usize = payload.iter().map(Bytes::len).sum();
        let rest = unplaced(self.layout(), &(first..first + bytes / BLOCK), runs).into_iter();
        rest.flat_map(|blocks| slices(payload, (blocks.start - first) * BLOCK, blocks.len() * BLOCK))
            .collect()
    }

    /// What was placed for an operation that is about to be applied from memory, and the rest of its bytes.
    pub fn take_placed(
        &self,
        index: LogIndex,
        op: usize,
        offset: u32,
        payload: &[Bytes],
    ) -> Option<(Vec<PlacedRun>, Vec<Bytes>)> {
        let runs = self.ledger().take(index.get(), op as u32)?;
        let rest = self.unplaced_parts(offset as usize / BLOCK, payload, &runs);
        Some((runs, rest))
    }

    /// As [`write`](Self::write), for a write of which `runs` were placed; `rest` are its other bytes.
    pub fn write_placed(
        &self,
        key: ChunkKey,
        offset: u32,
        runs: &[PlacedRun],
        rest: &[Bytes],
        crcs: &[u32],
        index: LogIndex,
    ) -> Result<(), WriteError> {
        let bytes: u64 = rest.iter().map(|part| part.len() as u64).sum();
        let bad = WriteError::BadLength { bytes, crcs: crcs.len() };
        let len = u32::try_from(crcs.len() * BLOCK).unwrap_or(u32::MAX);
        let blocks = self.layout().range(offset, len)?;
        let fits = self.runs_fit(&blocks, runs);
        let inline = if fits { unplaced(self.layout(), &blocks, runs) } else { Vec::new() };
        let expected: usize = inline.iter().map(|run| run.len() * BLOCK).sum();
        if !fits || bytes != expected as u64 || crcs.contains(&HOLE) {
            return Err(bad);
        }
        let mut state = self.writable()?;
        let written = self.write_locked(&mut state, key, blocks, index, |layout, chunk, first| {
            for run in runs {
                chunk.tables.planes.set(run.extent_range(), run.plane());
            }
            let mut skip = 0;
            for blocks in &inline {
                let len = blocks.len() * BLOCK;
                chunk.write_blocks(layout, blocks.start, &slices(rest, skip, len))?;
                skip += len;
            }
            chunk.tables.set(first, crcs);
            Ok(())
        });
        Ok(self.guard("write", written)?)
    }

    /// Whether runs are in order and within a range of blocks.
    fn runs_fit(&self, blocks: &Range<usize>, runs: &[PlacedRun]) -> bool {
        let within = self.layout().extents_within(blocks);
        let mut at = within.start;
        runs.iter().all(|run| {
            let extents = run.extent_range();
            let fits = extents.start >= at && !extents.is_empty() && extents.end <= within.end;
            at = extents.end;
            fits
        })
    }

    /// The bytes of a write of which `runs` were placed, if they are still what they were: `rest` and what is in the
    /// planes, in order. `crcs` are those of the whole write.
    pub async fn read_placed(
        &self,
        key: ChunkKey,
        offset: u32,
        runs: &[PlacedRun],
        rest: &[Bytes],
        crcs: &[u32],
    ) -> io::Result<Option<Vec<Bytes>>> {
        let len = u32::try_from(crcs.len() * BLOCK).unwrap_or(u32::MAX);
        let Ok(blocks) = self.layout().range(offset, len) else { return Ok(None) };
        if !self.runs_fit(&blocks, runs) {
            return Ok(None);
        }
        let Some(view) = self.view(key, &(0..0)).await? else { return Ok(None) };
        let (mut whole, mut at, mut skip) = (Vec::new(), blocks.start, 0);
        for run in runs {
            let placed = self.layout().blocks_of(&run.extent_range());
            let inline = (placed.start - at) * BLOCK;
            whole.extend(slices(rest, skip, inline));
            (skip, at) = (skip + inline, placed.end);
            let offset = self.layout().block_in(run.plane(), placed.start);
            let bytes = view.file.clone().read(offset, placed.len() * BLOCK).await?;
            let expected = &crcs[placed.start - blocks.start..placed.end - blocks.start];
            let same = bytes.len() == placed.len() * BLOCK
                && bytes.chunks_exact(BLOCK).zip(expected).all(|(block, crc)| block_crc(block) == *crc);
            if !same {
                return Ok(None);
            }
            whole.push(bytes);
        }
        whole.extend(slices(rest, skip, (blocks.end - at) * BLOCK));
        Ok(Some(whole))
    }

    /// Waits until nothing is being placed, and has nothing be placed as long as the guard lives.
    pub async fn hold_placing(&self) -> tokio::sync::OwnedRwLockWriteGuard<()> {
        self.placing.clone().write_owned().await
    }

    /// Gives room back that planes without current data have kept for a while, or at once when room is scarce.
    pub(crate) fn release_spares(&self) -> io::Result<()> {
        // Whatever is being placed now is in nobody's way for long.
        let Ok(_turn) = self.placing.try_write() else { return Ok(()) };
        let ledger = self.ledger();
        let mut state = self.lock();
        if state.closed {
            return Ok(());
        }
        let kept = if self.shared.room_is_scarce() { Duration::ZERO } else { SPARE_KEPT };
        let old = |chunk: &Chunk| chunk.spare.is_some_and(|since| since.elapsed() >= kept);
        let mut keys: Vec<_> =
            state.cached.iter().filter(|(_, chunk)| old(chunk)).map(|(key, _)| *key).collect();
        keys.sort_unstable();
        for key in keys {
            let mut pending = ledger.checkpoint_for(key).is_none();
            ledger.unapplied(key, &(0..self.layout().extents), |_| pending = true);
            if !pending {
                self.release_spare(&mut state, key)?;
            }
        }
        Ok(())
    }

    fn release_spare(&self, state: &mut State, key: ChunkKey) -> io::Result<()> {
        let Some(chunk) = state.cached.get_mut(&key) else { return Ok(()) };
        match chunk.punch_spare(self.layout()) {
            // A file system that cannot punch keeps the room.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                chunk.spare = None;
                Ok(())
            }
            punched => self.guard("giving room back", punched),
        }
    }
}

/// Writes a run into its plane, making room for the second plane first if it is not there.
async fn place_run(
    layout: &Layout,
    file: Arc<dyn File>,
    plane: Plane,
    first: usize,
    parts: Vec<Bytes>,
) -> io::Result<()> {
    if plane == Plane::Second && file.len()? < layout.file_bytes + layout.plane_bytes() {
        match file.allocate(layout.file_bytes, layout.plane_bytes()) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                file.set_len(layout.file_bytes + layout.plane_bytes())?;
            }
            allocated => allocated?,
        }
    }
    file.write_parts_durably(layout.block_in(plane, first), parts).await
}

#[cfg(test)]
mod tests {
    use curve_types::Geometry;

    use super::*;

    #[test]
    fn what_is_not_placed_is_what_lies_between() {
        let layout = Layout::new(Geometry::default()).unwrap();
        let run = |first, extents| PlacedRun { first, extents, second: false };
        let unplaced = |blocks, runs: &[PlacedRun]| {
            let rest = unplaced(&layout, &blocks, runs).into_iter();
            rest.map(|blocks| (blocks.start, blocks.end)).collect::<Vec<_>>()
        };
        assert_eq!(unplaced(8..72, &[run(1, 3)]), [(8, 16), (64, 72)]);
        assert_eq!(unplaced(16..64, &[run(1, 1), run(3, 1)]), [(32, 48)]);
        assert_eq!(unplaced(16..64, &[run(1, 3)]), []);
        assert_eq!(unplaced(3..9, &[]), [(3, 9)]);
    }

    #[test]
    fn slices_share_memory() {
        let parts = [Bytes::from_static(b"abc"), Bytes::new(), Bytes::from_static(b"defg")];
        let cut = slices(&parts, 1, 4);
        assert_eq!(cut, [Bytes::from_static(b"bc"), Bytes::from_static(b"de")]);
        assert_eq!(cut[0].as_ptr(), parts[0][1..].as_ptr());
    }
}
