//! One chunk in memory: its open file and its tables. No I/O in the tables.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;

use curve_io::File;
use curve_types::LogIndex;
use tokio::time::Instant;

use crate::checksum::HOLE;
use crate::data::ChunkDigest;
use crate::format::chunk::{ChunkHeader, ChunkIdentity, encode, encode_page};
use crate::format::crc_of;
use crate::layout::{BLOCK, ENTRIES_PER_PAGE, Layout};
use crate::planes::Planes;

/// Most bytes of one write call. The kernel (ext4 since 6.16) makes the folios of the page cache as large as the writes
/// that fill them, and walks all buffers of a folio for each small write into it later: after writes of 1 MiB a random
/// write of 4 KiB costs 14 us of CPU, after writes of 64 KiB it costs 3 us (`examples/storebench.rs`).
const WRITE_BYTES_MAX: usize = 64 << 10;
/// Most parts of one write call.
const SLICES_MAX: usize = 16;
/// From here on a write is worth a way around the page cache.
const LARGE_BYTES_MIN: usize = 64 << 10;

/// What header and table say. Runs ahead of the disk between syncs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tables {
    /// Checksum of each block.
    pub crcs: Box<[u32]>,
    /// Log index of the last change of each extent.
    pub extents: Box<[u64]>,
    /// Which plane holds the data of each extent.
    pub planes: Planes,
    /// Log index of the last change.
    pub last_changed: u64,
    /// Blocks that are not holes.
    pub live: u32,
    /// Whether parts of the file may have no room of their own.
    pub punched: bool,
    page_crcs: Box<[u32]>,
    dirty_pages: u64,
}

impl Tables {
    /// All holes, all of it last changed at `changed`.
    pub(crate) fn empty(layout: &Layout, changed: u64, punched: bool) -> Self {
        let mut tables = Self {
            crcs: vec![HOLE; layout.blocks].into(),
            extents: vec![changed; layout.extents].into(),
            planes: Planes::default(),
            last_changed: changed,
            live: 0,
            punched,
            page_crcs: vec![0; layout.pages].into(),
            dirty_pages: 0,
        };
        tables.dirty_all_pages();
        tables
    }

    /// What was read from the disk; no page is dirty.
    pub(crate) fn loaded(header: ChunkHeader, crcs: Box<[u32]>) -> Self {
        let live = crcs.iter().filter(|crc| **crc != HOLE).count() as u32;
        let ChunkHeader { last_changed, punched, page_crcs, extents, planes, .. } = header;
        Self { crcs, extents, planes, last_changed, live, punched, page_crcs, dirty_pages: 0 }
    }

    /// Has the next flush write the whole table.
    pub(crate) fn dirty_all_pages(&mut self) {
        self.dirty_pages = u64::MAX >> (64 - self.page_crcs.len());
    }

    /// Notes new checksums of blocks from `first`.
    pub(crate) fn set(&mut self, first: usize, crcs: &[u32]) {
        let old = &mut self.crcs[first..first + crcs.len()];
        for (old, new) in old.iter_mut().zip(crcs) {
            self.live = self.live - u32::from(*old != HOLE) + u32::from(*new != HOLE);
            *old = *new;
        }
        self.dirty(&(first..first + crcs.len()));
    }

    /// Notes that blocks are holes.
    pub(crate) fn clear(&mut self, blocks: &Range<usize>) {
        for old in &mut self.crcs[blocks.clone()] {
            self.live -= u32::from(*old != HOLE);
            *old = HOLE;
        }
        self.dirty(blocks);
    }

    fn dirty(&mut self, blocks: &Range<usize>) {
        for page in blocks.start / ENTRIES_PER_PAGE..blocks.end.div_ceil(ENTRIES_PER_PAGE) {
            self.dirty_pages |= 1 << page;
        }
    }

    /// Notes the last change of extents. Indexes only grow, so that a replay over a newer state changes nothing.
    pub(crate) fn touch(&mut self, extents: Range<usize>, index: u64) {
        for changed in &mut self.extents[extents] {
            *changed = index.max(*changed);
        }
        self.last_changed = self.last_changed.max(index);
    }

    /// Where a block is in the file.
    pub(crate) fn block_at(&self, layout: &Layout, block: usize) -> u64 {
        layout.block_in(self.planes.of(block / layout.extent_blocks), block)
    }

    /// Whether an extent holds no data.
    pub(crate) fn is_hole(&self, layout: &Layout, extent: usize) -> bool {
        self.crcs[layout.blocks_of(&(extent..extent + 1))].iter().all(|crc| *crc == HOLE)
    }

    /// The fingerprint that replicas compare.
    pub(crate) fn digest(&self) -> ChunkDigest {
        let live = self.crcs.iter().enumerate().filter(|(_, crc)| **crc != HOLE);
        let hash = live.fold(0u64, |hash, (block, crc)| {
            let word = (block as u64) << 32 | u64::from(*crc);
            (hash ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
        });
        ChunkDigest { hash, blocks: self.live, last_changed: LogIndex(self.last_changed) }
    }
}

/// A chunk whose tables are in memory and whose file is open.
pub(crate) struct Chunk {
    pub file: Arc<dyn File>,
    pub birth: u64,
    pub tables: Tables,
    /// Whether something changed since the last flush.
    pub dirty: bool,
    /// When it was last used, in the copyset's own ticks.
    pub used: u64,
    /// Since when parts of the file may have room that hold no current data: the other planes of extents.
    pub spare: Option<Instant>,
}

impl Chunk {
    /// A chunk that was taken into memory and is used now.
    pub(crate) fn new(file: Arc<dyn File>, birth: u64, tables: Tables) -> Self {
        Self { file, birth, tables, dirty: false, used: 0, spare: None }
    }

    /// Writes parts to blocks from `first` around the page cache, if much is written and the disk allows; otherwise as
    /// [`write_blocks`](Self::write_blocks) does.
    pub(crate) fn write_blocks_around(
        &self,
        layout: &Layout,
        first: usize,
        parts: &[impl AsRef<[u8]>],
    ) -> io::Result<()> {
        let total: usize = parts.iter().map(|part| part.as_ref().len()).sum();
        let blocks = first..first + total / BLOCK;
        let mut runs = self.tables.planes.runs(layout, blocks.clone());
        if total >= LARGE_BYTES_MIN
            && let Some((_, at)) = runs.next().filter(|(run, _)| *run == blocks)
        {
            let slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part.as_ref())).collect();
            if self.file.write_around(at, &slices)? {
                return Ok(());
            }
        }
        self.write_blocks(layout, first, parts)
    }

    /// Writes parts to blocks from `first`, into the page cache.
    pub(crate) fn write_blocks(
        &self,
        layout: &Layout,
        first: usize,
        parts: &[impl AsRef<[u8]>],
    ) -> io::Result<()> {
        let total: usize = parts.iter().map(|part| part.as_ref().len()).sum();
        let blocks = first..first + total / BLOCK;
        for (run, at) in self.tables.planes.runs(layout, blocks.clone()) {
            if run == blocks {
                return self.write_run(at, parts.iter().map(AsRef::as_ref));
            }
            let (skip, len) = ((run.start - first) * BLOCK, run.len() * BLOCK);
            self.write_run(at, cut(parts, skip, len).into_iter())?;
        }
        Ok(())
    }

    /// Writes parts into the page cache, at most [`WRITE_BYTES_MAX`] at a time.
    fn write_run<'a>(&self, mut at: u64, parts: impl Iterator<Item = &'a [u8]>) -> io::Result<()> {
        let mut batch = [IoSlice::new(&[]); SLICES_MAX];
        let (mut slices, mut bytes) = (0, 0);
        for piece in parts.flat_map(|part| part.chunks(WRITE_BYTES_MAX)) {
            if slices == SLICES_MAX || bytes + piece.len() > WRITE_BYTES_MAX {
                self.file.write_at(at, &batch[..slices])?;
                at += bytes as u64;
                (slices, bytes) = (0, 0);
            }
            batch[slices] = IoSlice::new(piece);
            slices += 1;
            bytes += piece.len();
        }
        self.file.write_at(at, &batch[..slices])
    }

    /// Gives the room of blocks back.
    pub(crate) fn punch(&mut self, layout: &Layout, blocks: &Range<usize>) -> io::Result<()> {
        self.tables.punched = true;
        let mut runs = self.tables.planes.runs(layout, blocks.clone());
        runs.try_for_each(|(run, at)| self.file.punch(at, (run.len() * BLOCK) as u64))
    }

    /// Has blocks keep room of their own.
    pub(crate) fn allocate(&self, layout: &Layout, blocks: &Range<usize>) -> io::Result<()> {
        let mut runs = self.tables.planes.runs(layout, blocks.clone());
        runs.try_for_each(|(run, at)| self.file.allocate(at, (run.len() * BLOCK) as u64))
    }

    /// Gives the room back that holds no current data: of each extent that of the other plane.
    pub(crate) fn punch_spare(&mut self, layout: &Layout) -> io::Result<()> {
        let mut from = 0;
        while from < layout.extents {
            let plane = self.tables.planes.of(from);
            let end = (from..layout.extents).find(|extent| self.tables.planes.of(*extent) != plane);
            let blocks = layout.blocks_of(&(from..end.unwrap_or(layout.extents)));
            let at = layout.block_in(plane.other(), blocks.start);
            // Where a second plane never was, there is nothing beyond the end of the file.
            if at < self.file.len()? {
                self.file.punch(at, (blocks.len() * BLOCK) as u64)?;
            }
            from = end.unwrap_or(layout.extents);
        }
        self.spare = None;
        Ok(())
    }

    /// Writes the header and the changed pages of the table, into the page cache.
    pub(crate) fn flush(
        &mut self,
        layout: &Layout,
        identity: ChunkIdentity,
        generation: u64,
    ) -> io::Result<()> {
        let tables = &mut self.tables;
        for page in (0..layout.pages).filter(|page| tables.dirty_pages & (1 << page) != 0) {
            let first = page * ENTRIES_PER_PAGE;
            let bytes = encode_page(&tables.crcs[first..layout.blocks.min(first + ENTRIES_PER_PAGE)]);
            tables.page_crcs[page] = crc_of(&[&bytes]);
            self.file.write_at(((1 + page) * BLOCK) as u64, &[IoSlice::new(&bytes)])?;
        }
        tables.dirty_pages = 0;
        let header = ChunkHeader {
            identity,
            generation,
            last_changed: tables.last_changed,
            punched: tables.punched,
            page_crcs: tables.page_crcs.clone(),
            extents: tables.extents.clone(),
            planes: tables.planes,
        };
        self.file.write_at(0, &[IoSlice::new(&encode(&header, layout))])?;
        self.dirty = false;
        Ok(())
    }
}

/// `len` bytes of parts that follow each other, without the first `skip`.
pub(crate) fn cut<P: AsRef<[u8]>>(parts: &[P], mut skip: usize, mut len: usize) -> Vec<&[u8]> {
    let mut taken = Vec::new();
    for part in parts.iter().map(AsRef::as_ref) {
        let from = skip.min(part.len());
        let some = len.min(part.len() - from);
        if some > 0 {
            taken.push(&part[from..from + some]);
        }
        (skip, len) = (skip - from, len - some);
    }
    taken
}

#[cfg(test)]
mod tests {
    use curve_types::Geometry;

    use super::*;

    #[test]
    fn tables_count_live_blocks_and_touched_extents() {
        let layout = Layout::new(Geometry::default()).unwrap();
        let mut tables = Tables::empty(&layout, 5, false);
        tables.dirty_pages = 0;
        tables.set(1020, &[7, 8, HOLE, 9, 10]);
        tables.touch(layout.extents_of(&(1020..1025)), 11);
        assert_eq!((tables.live, tables.dirty_pages, tables.last_changed), (4, 0b11, 11));
        assert_eq!(
            (tables.extents[62], tables.extents[63], tables.extents[64], tables.extents[65]),
            (5, 11, 11, 5)
        );
        tables.touch(0..256, 9);
        assert_eq!((tables.extents[0], tables.extents[63], tables.last_changed), (9, 11, 11));
        tables.clear(&(1021..1024));
        assert_eq!((tables.live, tables.digest().blocks), (2, 2));
    }

    #[test]
    fn parts_are_cut_where_asked() {
        let parts: [&[u8]; 4] = [b"abc", b"", b"defg", b"h"];
        assert_eq!(cut(&parts, 0, 8).concat(), b"abcdefgh");
        assert_eq!(cut(&parts, 2, 3), [b"c" as &[u8], b"de"]);
        assert_eq!(cut(&parts, 7, 9), [b"h"]);
        assert!(cut(&parts, 8, 1).is_empty() && cut(&parts, 1, 0).is_empty());
    }

    #[test]
    fn digests_tell_content_and_place_apart() {
        let layout = Layout::new(Geometry::default()).unwrap();
        let digest = |entries: &[(usize, u32)]| {
            let mut tables = Tables::empty(&layout, 0, false);
            entries.iter().for_each(|(block, crc)| tables.set(*block, &[*crc]));
            tables.digest().hash
        };
        assert_eq!(digest(&[]), 0);
        assert_eq!(digest(&[(1, 5), (9, 6)]), digest(&[(9, 6), (1, 5)]));
        assert_ne!(digest(&[(1, 5)]), digest(&[(2, 5)]));
        assert_ne!(digest(&[(1, 5), (2, 6)]), digest(&[(1, 6), (2, 5)]));
    }
}
