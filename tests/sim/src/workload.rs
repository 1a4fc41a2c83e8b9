//! What clients do: write values of their own to blocks, read blocks, and put all of it into the history.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use curve_blockdev::{BlockDevice, BlockError};
use curve_client::Volume;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;

use crate::history::{History, NEVER_WRITTEN, Value};

/// Bytes of a block.
pub const BLOCK: u64 = 4096;

/// The history that all clients of a run write into.
#[derive(Clone, Default)]
pub struct Recorder(Arc<Mutex<History>>);

impl Recorder {
    /// The history.
    pub fn history(&self) -> MutexGuard<'_, History> {
        self.0.lock().expect("no panic while recording")
    }
}

const CHUNK: u64 = 16 << 20;
/// Chunks that the hot blocks are spread over.
const HOT_CHUNKS: u64 = 4;
/// Blocks that chunkservers place together when all of them are written at once.
const EXTENT_BLOCKS: u64 = 16;

/// Which blocks are used.
#[derive(Clone, Copy, Debug)]
pub struct Blocks {
    /// A few in each of four chunks, so that operations meet. They are used most of the time.
    pub hot: u64,
    /// Each in a chunk of its own, which needs room when it is written first. Used now and then.
    pub cold: u64,
}

impl Blocks {
    /// How many there are.
    pub fn count(self) -> u64 {
        self.hot + self.cold
    }

    /// Where a block is in the volume.
    pub fn offset(self, block: u64) -> u64 {
        match block.checked_sub(self.hot) {
            None => (block % HOT_CHUNKS) * CHUNK + (block / HOT_CHUNKS) * BLOCK,
            Some(cold) => (HOT_CHUNKS + cold) * CHUNK,
        }
    }

    /// A range of the volume, as large as what chunkservers do not keep in their logs, with a hot block in it: where it
    /// begins, and the number of each of its blocks that is used.
    fn large(self, block: u64, rng: &mut StdRng) -> (u64, Vec<Option<u64>>) {
        let (chunk, place) = (block % HOT_CHUNKS, block / HOT_CHUNKS);
        let extent = place / EXTENT_BLOCKS * EXTENT_BLOCKS;
        // Now and then with some blocks of its neighbours.
        let first = extent.saturating_sub([0, 3][usize::from(rng.random_bool(0.2))]);
        let end = extent + EXTENT_BLOCKS + [0, 5][usize::from(rng.random_bool(0.2))];
        let used = |place: u64| Some(place * HOT_CHUNKS + chunk).filter(|block| *block < self.hot);
        (chunk * CHUNK + first * BLOCK, (first..end).map(used).collect())
    }

    fn draw(self, rng: &mut StdRng) -> u64 {
        if self.cold > 0 && rng.random_bool(0.01) {
            self.hot + rng.random_range(0..self.cold)
        } else {
            rng.random_range(0..self.hot)
        }
    }
}

/// A block that holds `value` throughout, so that a torn one shows.
pub fn encode(value: u64) -> Bytes {
    value.to_le_bytes().repeat(BLOCK as usize / 8).into()
}

/// The value a block holds; the error names two that it mixes.
pub fn decode(bytes: &[u8]) -> Result<u64, String> {
    let value = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let first = value(0);
    match (8..bytes.len()).step_by(8).map(value).find(|&other| other != first) {
        None => Ok(first),
        Some(other) => Err(format!("a block mixes {first} and {other}")),
    }
}

/// When workers rest: all together now and then, so that groups fall asleep and what is damaged is not overwritten at
/// once.
#[derive(Clone)]
pub struct Pace(watch::Sender<bool>);

impl Default for Pace {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Pace {
    /// Lets workers begin nothing, or lets them work again.
    pub fn rest(&self, rest: bool) {
        self.0.send_replace(rest);
    }

    /// Changes between work and rest for ever.
    pub async fn change(self, mut rng: StdRng) {
        loop {
            tokio::time::sleep(Duration::from_millis(rng.random_range(2000..8000))).await;
            if rng.random() {
                self.rest(true);
                tokio::time::sleep(Duration::from_millis(rng.random_range(1000..9000))).await;
                self.rest(false);
            }
        }
    }

    async fn work_time(&self) {
        // The sender is `self`, so it is there.
        let _ = self.0.subscribe().wait_for(|rest| !rest).await;
    }
}

/// One worker of one client.
pub struct Worker {
    /// When it works.
    pub pace: Pace,
    /// The open volume.
    pub volume: Arc<Volume>,
    /// Where operations are recorded.
    pub recorder: Recorder,
    /// Blocks that are used.
    pub blocks: Blocks,
    /// Seeds what is done.
    pub seed: u64,
}

impl Worker {
    /// Works until the volume is fenced or closed, or a read is torn; the error then says how.
    pub async fn run(self) -> Result<(), String> {
        let mut rng = StdRng::seed_from_u64(self.seed);
        loop {
            self.pace.work_time().await;
            let block = self.blocks.draw(&mut rng);
            let done = match rng.random_range(0..20) {
                0..2 if block < self.blocks.hot => {
                    let (offset, blocks) = self.blocks.large(block, &mut rng);
                    self.write(offset, &blocks).await
                }
                0..10 => self.write(self.blocks.offset(block), &[Some(block)]).await,
                _ => self.read(block).await?,
            };
            if !done {
                return Ok(());
            }
            if rng.random_bool(0.2) {
                tokio::time::sleep(Duration::from_millis(rng.random_range(0..50))).await;
            }
        }
    }

    /// Writes new values to blocks that follow each other; what has no number is written and never read. False: this
    /// client can do nothing more.
    async fn write(&self, offset: u64, blocks: &[Option<u64>]) -> bool {
        let epoch = self.volume.epoch().get();
        let begin =
            |block: &Option<u64>| block.map(|block| self.recorder.history().begin_write(block, epoch));
        let values: Vec<Option<Value>> = blocks.iter().map(begin).collect();
        let bytes = values.iter().map(|value| encode(value.map_or(NEVER_WRITTEN, |value| value.0)));
        let result = self.volume.write(offset, bytes.collect()).await;
        let values = values.into_iter().flatten();
        match result {
            Ok(()) => values.for_each(|value| self.recorder.history().end_write(value)),
            // Refused at the door, before anything was sent.
            Err(BlockError::Closed) => {
                values.for_each(|value| self.recorder.history().refuse_write(value));
                return false;
            }
            // An earlier try may have been applied.
            Err(BlockError::Fenced) => return false,
            Err(_) => {}
        }
        true
    }

    /// Reads a block. `Ok(false)`: this client can do nothing more.
    async fn read(&self, block: u64) -> Result<bool, String> {
        let started = self.recorder.history().tick();
        match self.volume.read(self.blocks.offset(block), BLOCK as u32).await {
            Ok(parts) => {
                let value = decode(&parts.concat()).map_err(|error| format!("block {block}: {error}"))?;
                self.recorder.history().end_read(block, value, started);
                Ok(true)
            }
            Err(BlockError::Fenced | BlockError::Closed) => Ok(false),
            Err(BlockError::Corrupt { .. }) => {
                Err(format!("block {block}: reported as corrupt on every replica"))
            }
            Err(_) => Ok(true),
        }
    }
}

/// Reads every block once; all must answer within `patience`.
pub async fn read_all(
    volume: &Volume,
    recorder: &Recorder,
    blocks: Blocks,
    patience: Duration,
) -> Result<(), String> {
    for block in 0..blocks.count() {
        let started = recorder.history().tick();
        let read = tokio::time::timeout(patience, volume.read(blocks.offset(block), BLOCK as u32)).await;
        let parts = read
            .map_err(|_| format!("block {block} cannot be read {patience:?} after all faults stopped"))?
            .map_err(|error| format!("block {block}: {error} after all faults stopped"))?;
        recorder.history().end_read(block, decode(&parts.concat())?, started);
    }
    Ok(())
}

const _: () = assert!(NEVER_WRITTEN == 0, "a block of zeros decodes to it");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_has_a_place_of_its_own() {
        let blocks = Blocks { hot: 12, cold: 8 };
        let mut places: Vec<u64> = (0..blocks.count()).map(|block| blocks.offset(block)).collect();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), 20);
        assert!(places.iter().all(|place| place + BLOCK <= 1 << 30));
    }

    #[test]
    fn large_writes_cover_the_blocks_they_name() {
        let blocks = Blocks { hot: 192, cold: 8 };
        let mut rng = StdRng::seed_from_u64(1);
        for block in 0..blocks.hot {
            let (offset, covered) = blocks.large(block, &mut rng);
            assert!(covered.len() >= 16 && covered.contains(&Some(block)));
            for (n, block) in covered.iter().enumerate().filter_map(|(n, block)| Some((n, (*block)?))) {
                assert_eq!(blocks.offset(block), offset + n as u64 * BLOCK);
            }
        }
    }
}
