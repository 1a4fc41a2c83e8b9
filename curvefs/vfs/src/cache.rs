//! Blocks of slices that were read. A slice never changes, so a cached block of one is right for ever; which slices a
//! file is made of is for the extents to say, which are checked by the file's generation.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use curvefs_types::{DataBackend, DataRef, Extent, FsError, SliceId, SliceRef};
use futures::future::try_join_all;
use tokio::sync::watch;

use crate::shared::locked;

/// Bytes of a block.
pub(crate) const BLOCK_BYTES: u32 = 128 << 10;
/// Blocks of one request to the store: 4 MiB, an object.
const BLOCKS_PER_READ: u32 = 32;
/// How often a block that vanished at once is read again before the cache is left out.
const ROUNDS_MAX: usize = 8;

type Key = (SliceId, u32);

#[derive(Debug)]
enum Slot {
    Ready { bytes: Bytes, used: u64 },
    Coming(watch::Receiver<()>),
}

#[derive(Default, Debug)]
struct Blocks {
    slots: HashMap<Key, Slot>,
    /// Ready blocks in order of use.
    order: BTreeMap<u64, Key>,
    clock: u64,
    bytes: u64,
}

impl Blocks {
    fn get(&mut self, key: Key) -> Option<Bytes> {
        let Some(Slot::Ready { bytes, used }) = self.slots.get_mut(&key) else { return None };
        self.clock += 1;
        self.order.remove(&*used);
        *used = self.clock;
        self.order.insert(self.clock, key);
        Some(bytes.clone())
    }

    fn put(&mut self, key: Key, bytes: Bytes, limit: u64) {
        self.clock += 1;
        self.bytes += bytes.len() as u64;
        self.order.insert(self.clock, key);
        if let Some(Slot::Ready { bytes, used }) =
            self.slots.insert(key, Slot::Ready { bytes, used: self.clock })
        {
            self.bytes -= bytes.len() as u64;
            self.order.remove(&used);
        }
        while self.bytes > limit
            && let Some((_, oldest)) = self.order.pop_first()
        {
            if let Some(Slot::Ready { bytes, .. }) = self.slots.remove(&oldest) {
                self.bytes -= bytes.len() as u64;
            }
        }
    }
}

/// The cache. A block that is being read is read once, however many want it.
#[derive(Debug)]
pub(crate) struct BlockCache {
    limit: u64,
    blocks: Mutex<Blocks>,
}

/// What a look into the cache found.
#[derive(Default)]
struct Found {
    ready: Vec<(u32, Bytes)>,
    coming: Vec<watch::Receiver<()>>,
    /// Runs that this caller has to read.
    missing: Vec<Range<u32>>,
}

impl BlockCache {
    pub fn new(limit: u64) -> Self {
        Self { limit, blocks: Mutex::default() }
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        locked(&self.blocks).bytes
    }

    /// Reads an extent: from memory what is there, the rest from the store.
    pub async fn read(&self, data: &dyn DataBackend, extent: Extent) -> Result<Vec<Bytes>, FsError> {
        let DataRef::Slice { at, .. } = extent.data else { return data.read(extent).await };
        let Some(slice) = extent.data.slice() else { return data.read(extent).await };
        let (first, last) = (at / BLOCK_BYTES, (at + extent.len - 1) / BLOCK_BYTES);
        let mut blocks: Vec<Option<Bytes>> = vec![None; (last - first + 1) as usize];
        for _ in 0..ROUNDS_MAX {
            let wanted = (first..=last).filter(|block| blocks[(block - first) as usize].is_none());
            let found = self.look(slice, wanted);
            let reads = found.missing.iter().map(|run| self.fetch(data, slice, run.clone()));
            let fetched = try_join_all(reads).await?;
            for (block, bytes) in found.ready.into_iter().chain(fetched.into_iter().flatten()) {
                blocks[(block - first) as usize] = Some(bytes);
            }
            for mut coming in found.coming {
                // An error means that the reader is gone: look again.
                let _ = coming.changed().await;
            }
            if let Some(blocks) = blocks.iter().cloned().collect::<Option<Vec<Bytes>>>() {
                return cut(&blocks, first, at, extent.len);
            }
        }
        data.read(extent).await
    }

    /// Keeps a whole slice that is no larger than a block.
    pub fn keep(&self, slice: SliceRef, content: Bytes) {
        if content.len() <= BLOCK_BYTES as usize {
            locked(&self.blocks).put((slice.slice, 0), content, self.limit);
        }
    }

    /// Reads an extent into the cache.
    pub async fn warm(&self, data: &dyn DataBackend, extent: Extent) {
        // Whoever reads it for real finds out why not.
        let _ = self.read(data, extent).await;
    }

    fn look(&self, slice: SliceRef, wanted: impl Iterator<Item = u32>) -> Found {
        let mut found = Found::default();
        let mut blocks = locked(&self.blocks);
        for block in wanted {
            let key = (slice.slice, block);
            if let Some(bytes) = blocks.get(key) {
                found.ready.push((block, bytes));
            } else if let Some(Slot::Coming(coming)) = blocks.slots.get(&key) {
                found.coming.push(coming.clone());
            } else {
                match found.missing.last_mut() {
                    Some(run) if run.end == block && run.len() < BLOCKS_PER_READ as usize => run.end += 1,
                    _ => found.missing.push(block..block + 1),
                }
            }
        }
        found
    }

    /// Reads a run of blocks of a slice.
    async fn fetch(
        &self,
        data: &dyn DataBackend,
        slice: SliceRef,
        run: Range<u32>,
    ) -> Result<Vec<(u32, Bytes)>, FsError> {
        let announced = Announced::new(self, slice, run.clone());
        let at = run.start * BLOCK_BYTES;
        let len = (run.end * BLOCK_BYTES).min(slice.bytes).saturating_sub(at);
        let whole = DataRef::Slice { slice: slice.slice, bytes: slice.bytes, at };
        let parts = data.read(Extent::checked(0, len, whole)?).await?;
        if parts.iter().map(Bytes::len).sum::<usize>() != len as usize {
            return Err(FsError::DataDamaged);
        }
        let blocks: Vec<(u32, Bytes)> = run.zip(blocks_of(&parts)).collect();
        let mut held = locked(&self.blocks);
        for (block, bytes) in &blocks {
            held.put((slice.slice, *block), bytes.clone(), self.limit);
        }
        drop(held);
        drop(announced);
        Ok(blocks)
    }
}

/// Blocks that somebody reads now; when it ends, however it ends, those who wait look again.
struct Announced<'a> {
    cache: &'a BlockCache,
    slice: SliceId,
    run: Range<u32>,
    sender: Arc<watch::Sender<()>>,
}

impl<'a> Announced<'a> {
    fn new(cache: &'a BlockCache, slice: SliceRef, run: Range<u32>) -> Self {
        let (sender, receiver) = watch::channel(());
        let mut blocks = locked(&cache.blocks);
        for block in run.clone() {
            blocks.slots.entry((slice.slice, block)).or_insert_with(|| Slot::Coming(receiver.clone()));
        }
        Self { cache, slice: slice.slice, run, sender: Arc::new(sender) }
    }
}

impl Drop for Announced<'_> {
    fn drop(&mut self) {
        let mut blocks = locked(&self.cache.blocks);
        for block in self.run.clone() {
            let key = (self.slice, block);
            let own = self.sender.subscribe();
            if matches!(blocks.slots.get(&key), Some(Slot::Coming(coming)) if coming.same_channel(&own)) {
                blocks.slots.remove(&key);
            }
        }
    }
}

/// Cuts the wanted bytes out of blocks.
/// The bytes as blocks. Each has its own memory, so that dropping one frees it.
fn blocks_of(parts: &[Bytes]) -> Vec<Bytes> {
    let size = BLOCK_BYTES as usize;
    let mut left: usize = parts.iter().map(Bytes::len).sum();
    let (mut blocks, mut block) = (Vec::new(), BytesMut::with_capacity(size.min(left)));
    for part in parts {
        let mut rest = &part[..];
        while !rest.is_empty() {
            let (now, after) = rest.split_at(rest.len().min(size - block.len()));
            block.extend_from_slice(now);
            (rest, left) = (after, left - now.len());
            if block.len() == size || left == 0 {
                let next = BytesMut::with_capacity(size.min(left));
                blocks.push(std::mem::replace(&mut block, next).freeze());
            }
        }
    }
    blocks
}

fn cut(blocks: &[Bytes], first: u32, at: u32, len: u32) -> Result<Vec<Bytes>, FsError> {
    let (mut skip, mut left) = ((at - first * BLOCK_BYTES) as usize, len as usize);
    let mut parts = Vec::with_capacity(blocks.len());
    for block in blocks {
        let end = (skip + left).min(block.len());
        if skip > end {
            return Err(FsError::DataDamaged);
        }
        parts.push(block.slice(skip..end));
        left -= end - skip;
        skip = 0;
    }
    if left > 0 { Err(FsError::DataDamaged) } else { Ok(parts) }
}

#[cfg(test)]
mod tests {
    use curvefs_types::{InodeId, WriterId};

    use super::*;
    use crate::memory::MemoryBackend;

    #[test]
    fn blocks_are_the_bytes_in_order() {
        let whole: Bytes = (0..3 * BLOCK_BYTES + 5).map(|i| (i % 251) as u8).collect::<Vec<_>>().into();
        for cuts in [vec![], vec![1], vec![7, BLOCK_BYTES as usize], vec![BLOCK_BYTES as usize + 1, 300_000]]
        {
            let ends = cuts.iter().copied().chain([whole.len()]);
            let parts: Vec<Bytes> =
                ends.scan(0, |at, end| Some(whole.slice(std::mem::replace(at, end)..end))).collect();
            let blocks = blocks_of(&parts);
            assert_eq!(blocks.iter().map(Bytes::len).collect::<Vec<_>>(), [131_072, 131_072, 131_072, 5]);
            assert!(blocks.concat() == whole, "{cuts:?}");
        }
        assert_eq!(blocks_of(&[]), Vec::<Bytes>::new());
    }

    #[tokio::test]
    async fn blocks_are_read_once_and_memory_is_bounded() {
        let data = MemoryBackend::new(WriterId(1));
        let whole: Vec<u8> = (0..1_000_000u32).map(|i| (i % 251) as u8).collect();
        let stored = data.write(InodeId(1), 0, vec![whole.clone().into()]).await.unwrap().into_inner();
        let cache = BlockCache::new(512 << 10);
        let part = stored[0].part(300_000, 450_000).unwrap();
        let (one, two) = futures::join!(cache.read(&data, part), cache.read(&data, part));
        assert_eq!(one.unwrap().concat(), &whole[300_000..450_000]);
        assert_eq!(two.unwrap().concat(), &whole[300_000..450_000]);
        assert_eq!(data.reads(), 1);
        let all = cache.read(&data, stored[0]).await.unwrap();
        assert_eq!(all.concat(), whole);
        assert!(cache.bytes() <= 512 << 10);
        data.lose();
        let tail = stored[0].part(999_999, 1_000_000).unwrap();
        assert_eq!(cache.read(&data, tail).await.unwrap().concat(), &whole[999_999..]);
        assert_eq!(cache.read(&data, stored[0]).await, Err(FsError::DataLost));
    }
}
