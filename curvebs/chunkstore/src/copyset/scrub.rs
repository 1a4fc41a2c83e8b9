//! Scrub: reading everything to find damage before it is needed.

use curve_types::{ChunkKey, VolumeId};

use super::CopysetStore;
use crate::checksum::HOLE;
use crate::data::{ScrubCursor, ScrubReport};
use crate::error::ReadError;
use crate::layout::BLOCK;

/// Most blocks read in one go.
const BLOCKS_PER_READ: usize = 128;

/// The smallest key after this one.
fn next_key(key: ChunkKey) -> Option<ChunkKey> {
    let volume = key.volume.get();
    match key.index.checked_add(1) {
        Some(index) => Some(ChunkKey { index, ..key }),
        None => Some(ChunkKey { volume: VolumeId(volume.checked_add(1)?), index: 0 }),
    }
}

impl CopysetStore {
    /// Reads and verifies about `bytes_max` bytes from `cursor` (`None`: the beginning). To be paced by the caller. Finds
    /// what the file system returns, which for recently used blocks is the page cache's copy.
    pub async fn scrub_step(
        &self,
        cursor: Option<ScrubCursor>,
        bytes_max: u64,
    ) -> Result<ScrubReport, ReadError> {
        let first = ChunkKey { volume: VolumeId(0), index: 0 };
        let mut at = cursor.unwrap_or(ScrubCursor { key: first, block: 0 });
        let mut report = ScrubReport::default();
        let mut spent = 0;
        while spent < bytes_max.max(1) {
            let Some(key) = self.lock().manifest.chunks.range(at.key..).map(|(key, _)| *key).next() else {
                return Ok(report);
            };
            let start = if key == at.key { at.block as usize } else { 0 };
            let end = self.layout().blocks.min(start.saturating_add(BLOCKS_PER_READ));
            spent += self.scrub_blocks(key, start, end, &mut report).await?;
            if end < self.layout().blocks {
                at = ScrubCursor { key, block: end as u32 };
                continue;
            }
            report.chunks += 1;
            match next_key(key) {
                Some(key) => at = ScrubCursor { key, block: 0 },
                None => return Ok(report),
            }
        }
        report.next = Some(at);
        Ok(report)
    }

    /// Verifies some blocks. Returns what it cost: bytes read, and a little for looking.
    async fn scrub_blocks(
        &self,
        key: ChunkKey,
        start: usize,
        end: usize,
        report: &mut ScrubReport,
    ) -> Result<u64, ReadError> {
        if start >= end {
            return Ok(BLOCK as u64);
        }
        let fetched = self.fetch(key, start..end).await?;
        let live = fetched.crcs.iter().filter(|crc| **crc != HOLE).count();
        let bytes = (live * BLOCK) as u64;
        report.bytes += bytes;
        match report.bad.last_mut() {
            _ if fetched.bad.is_empty() => {}
            Some((last, bad)) if *last == key => bad.extend(fetched.bad),
            _ => report.bad.push((key, fetched.bad)),
        }
        Ok(bytes + BLOCK as u64)
    }
}
