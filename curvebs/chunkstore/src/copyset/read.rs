//! Reads: verified data, holes without touching the disk.

use std::io;
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use curve_io::File;
use curve_types::ChunkKey;

use super::CopysetStore;
use crate::checksum::{HOLE, block_crc};
use crate::data::{BadBlock, BadCause, ChunkDigest, Extent, Located, ReadData};
use crate::error::ReadError;
use crate::layout::{BLOCK, run_at, runs};
use crate::planes::Planes;

/// Every zero that a read returns is a slice of this. Its pages are the kernel's zero page until they are written, that
/// is for ever.
static ZEROS: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(vec![0; 1 << 20]));

/// Appends `len` bytes of zeros.
fn push_zeros(parts: &mut Vec<Bytes>, mut len: usize) {
    while len > 0 {
        let some = len.min(ZEROS.len());
        parts.push(ZEROS.slice(..some));
        len -= some;
    }
}

/// What a read found, in order.
#[derive(Default)]
pub(super) struct Fetched {
    pub pieces: Vec<Piece>,
    pub crcs: Vec<u32>,
    pub bad: Vec<BadBlock>,
}

/// Whole blocks of one kind.
pub(super) enum Piece {
    /// So many blocks without data.
    Hole(usize),
    /// Verified data; where blocks are bad, zeros stand in for them.
    Data(Bytes),
}

/// A chunk's file, and what its tables say of a range.
pub(super) struct View {
    pub file: Arc<dyn File>,
    pub crcs: Vec<u32>,
    pub planes: Planes,
}

/// A block looked at again under the lock.
enum Settled {
    Data(Bytes, u32),
    Hole,
    Bad(BadBlock),
}

/// Whether the `n`th block of `bytes` is there and has this checksum.
fn has_crc(bytes: &[u8], n: usize, crc: u32) -> bool {
    bytes.get(n * BLOCK..(n + 1) * BLOCK).is_some_and(|block| block_crc(block) == crc)
}

impl CopysetStore {
    /// Loads a chunk's tables without blocking the thread, so that the next change need not wait for the disk.
    pub async fn prepare(&self, key: ChunkKey) -> io::Result<()> {
        self.load(key).await.map(|_| ())
    }

    /// Reads whole blocks and verifies them. A missing chunk reads as zeros.
    pub async fn read(&self, key: ChunkKey, offset: u32, len: u32) -> Result<ReadData, ReadError> {
        let blocks = self.layout().range(offset, len)?;
        let fetched = self.fetch(key, blocks).await?;
        if !fetched.bad.is_empty() {
            return Err(ReadError::Corrupt { key, bad: fetched.bad });
        }
        let mut parts = Vec::with_capacity(fetched.pieces.len());
        for piece in fetched.pieces {
            match piece {
                Piece::Hole(blocks) => push_zeros(&mut parts, blocks * BLOCK),
                Piece::Data(bytes) => parts.push(bytes),
            }
        }
        Ok(ReadData { parts, crcs: fetched.crcs })
    }

    /// Where whole blocks are. `None`: there is no chunk, and they read as zeros.
    pub async fn locate(&self, key: ChunkKey, offset: u32, len: u32) -> Result<Option<Located>, ReadError> {
        let blocks = self.layout().range(offset, len)?;
        let Some(View { file, crcs, planes }) = self.view(key, &blocks).await? else { return Ok(None) };
        let data = runs(&crcs, |crc| *crc == HOLE).filter(|(_, hole)| !hole);
        let places = data.flat_map(|(run, _)| {
            planes.runs(self.layout(), blocks.start + run.start..blocks.start + run.end)
        });
        let runs = places.map(|(run, at)| (at, run.len() as u32)).collect();
        Ok(Some(Located { file, runs, crcs }))
    }

    /// Which parts of a range hold data, in runs.
    pub async fn extents(&self, key: ChunkKey, offset: u32, len: u32) -> Result<Vec<Extent>, ReadError> {
        let blocks = self.layout().range(offset, len)?;
        let crcs = match self.view(key, &blocks).await? {
            Some(view) => view.crcs,
            None => vec![HOLE; blocks.len()],
        };
        let extent =
            |(run, hole): (Range<usize>, bool)| Extent { len: (run.len() * BLOCK) as u32, allocated: !hole };
        Ok(runs(&crcs, |crc| *crc == HOLE).map(extent).collect())
    }

    /// Fingerprint of a chunk's content, from its table. Equal for a missing chunk and one without data.
    pub async fn digest(&self, key: ChunkKey) -> Result<ChunkDigest, ReadError> {
        loop {
            if !self.load(key).await? {
                return Ok(ChunkDigest::default());
            }
            if let Some(chunk) = self.lock().cached.get(&key) {
                return Ok(chunk.tables.digest());
            }
        }
    }

    /// All checksums of a chunk, to find what differs after two digests did.
    pub async fn crcs(&self, key: ChunkKey) -> Result<Vec<u32>, ReadError> {
        let all = 0..self.layout().blocks;
        Ok(match self.view(key, &all).await? {
            Some(view) => view.crcs,
            None => vec![HOLE; all.len()],
        })
    }

    /// Looks at a range of a chunk; nothing if there is no chunk.
    pub(super) async fn view(&self, key: ChunkKey, blocks: &Range<usize>) -> io::Result<Option<View>> {
        self.shared.check()?;
        loop {
            if let Some(chunk) = self.lock().touch(&key) {
                let crcs = chunk.tables.crcs[blocks.clone()].to_vec();
                return Ok(Some(View { file: chunk.file.clone(), crcs, planes: chunk.tables.planes }));
            }
            if !self.load(key).await? {
                return Ok(None);
            }
        }
    }

    /// Reads a range; adjacent blocks with data in one go.
    pub(super) async fn fetch(&self, key: ChunkKey, blocks: Range<usize>) -> io::Result<Fetched> {
        let Some(View { file, crcs, planes }) = self.view(key, &blocks).await? else {
            let pieces = vec![Piece::Hole(blocks.len())];
            return Ok(Fetched { pieces, crcs: vec![HOLE; blocks.len()], bad: Vec::new() });
        };
        let mut fetched = Fetched { crcs, ..Fetched::default() };
        let mut at = 0;
        while let Some((mut run, hole)) = run_at(&fetched.crcs, at, |crc| *crc == HOLE) {
            at = run.end;
            if hole {
                fetched.pieces.push(Piece::Hole(run.len()));
                continue;
            }
            let mut places = planes.runs(self.layout(), blocks.start + run.start..blocks.start + run.end);
            let (place, offset) = places.next().expect("a run is not empty");
            run.end = run.start + place.len();
            at = run.end;
            // Unreadable blocks have no bytes here and are looked at one by one below.
            let bytes = file.clone().read(offset, run.len() * BLOCK).await.unwrap_or_default();
            if fetched.crcs[run.clone()].iter().enumerate().all(|(n, crc)| has_crc(&bytes, n, *crc)) {
                fetched.pieces.push(Piece::Data(bytes));
            } else {
                self.settle_run(key, blocks.start, run, &bytes, &mut fetched)?;
            }
        }
        Ok(fetched)
    }

    /// Takes a run apart in which some blocks do not have the checksums the table had when the read began. A change in
    /// between explains it; otherwise they are bad.
    fn settle_run(
        &self,
        key: ChunkKey,
        first: usize,
        run: Range<usize>,
        bytes: &Bytes,
        fetched: &mut Fetched,
    ) -> io::Result<()> {
        for n in run.clone() {
            let at = n - run.start;
            if has_crc(bytes, at, fetched.crcs[n]) {
                fetched.pieces.push(Piece::Data(bytes.slice(at * BLOCK..(at + 1) * BLOCK)));
                continue;
            }
            match self.settle_block(key, first + n)? {
                Settled::Data(block, crc) => {
                    fetched.crcs[n] = crc;
                    fetched.pieces.push(Piece::Data(block));
                }
                Settled::Hole => {
                    fetched.crcs[n] = HOLE;
                    fetched.pieces.push(Piece::Hole(1));
                }
                Settled::Bad(bad) => {
                    fetched.bad.push(bad);
                    fetched.pieces.push(Piece::Data(ZEROS.slice(..BLOCK)));
                }
            }
        }
        Ok(())
    }

    /// Reads one block with the state locked, so that no change can come in between. May wait for the disk, which is
    /// the price of a damaged block only: one that was just changed is in the page cache.
    fn settle_block(&self, key: ChunkKey, block: usize) -> io::Result<Settled> {
        let mut state = self.lock();
        if !self.ensure_loaded(&mut state, key)? {
            return Ok(Settled::Hole);
        }
        let chunk = &state.cached[&key];
        let crc = chunk.tables.crcs[block];
        if crc == HOLE {
            return Ok(Settled::Hole);
        }
        let mut bytes = vec![0; BLOCK];
        let cause = match chunk.file.read_at(chunk.tables.block_at(self.layout(), block), &mut bytes) {
            Ok(BLOCK) if block_crc(&bytes) == crc => return Ok(Settled::Data(bytes.into(), crc)),
            Ok(_) => BadCause::Checksum,
            Err(_) => BadCause::Unreadable,
        };
        state.bad_blocks += 1;
        Ok(Settled::Bad(BadBlock { block: block as u32, reported: crc, cause }))
    }
}
