//! Blocks of slices that were read. A slice never changes, so a cached block of one is right for ever; which slices a
//! file is made of is for the extents to say, which are checked by the file's generation.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use curvefs_types::{DataBackend, DataRef, Extent, FsError, SliceId, SliceRef};
use futures::future::try_join_all;
use tokio::sync::watch;

use crate::shared::locked;

/// Bytes of a block.
pub(crate) const BLOCK_BYTES: u32 = 128 << 10;
/// Blocks of one request to the store: 4 MiB, an object.
const BLOCKS_PER_READ: u32 = 32;
/// Blocks that the kernel has been given whole are kept up to so many bytes, since it keeps them, too: whoever streams a file goes
/// through little memory again and again, instead of through all of the cache's.
const TOLD_BYTES_MAX: u64 = 8 << 20;
/// A run of so many blocks is kept in the pieces it came in, which may lie in each other's memory; of fewer each has its own.
const IN_PIECES_MIN: usize = 8;
/// How often a block that vanished at once is read again before the cache is left out.
const ROUNDS_MAX: usize = 8;

type Key = (SliceId, u32);
/// The bytes of a block, in their order.
type Pieces = Arc<[Bytes]>;

/// What a block is read for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    /// All of it goes to the kernel, which keeps it, too.
    Whole,
    /// A part of it goes to the kernel: it stays, and must not hold the memory of those that go.
    Part,
    /// Somebody may read it soon.
    Later,
}

#[derive(Debug)]
enum Slot {
    Ready(Block),
    Coming(watch::Receiver<()>),
}

#[derive(Debug)]
struct Block {
    pieces: Pieces,
    len: usize,
    /// The pieces may lie in the memory of other blocks, which stays as long as any of them.
    shared: bool,
    /// When it was used last.
    used: u64,
    /// It was read whole, so the kernel has it in its pages.
    told: bool,
}

#[derive(Default, Debug)]
struct Blocks {
    slots: HashMap<Key, Slot>,
    /// Ready blocks in order of use, those that were told and the others.
    told: Queue,
    untold: Queue,
    clock: u64,
}

/// Blocks in order of use.
#[derive(Default, Debug)]
struct Queue {
    order: BTreeMap<u64, Key>,
    bytes: u64,
}

impl Blocks {
    fn bytes(&self) -> u64 {
        self.told.bytes + self.untold.bytes
    }

    fn queue(&mut self, told: bool) -> &mut Queue {
        if told { &mut self.told } else { &mut self.untold }
    }

    /// A block, which is the one used last from now on.
    fn get(&mut self, key: Key, why: Use) -> Option<Pieces> {
        let Some(Slot::Ready(block)) = self.slots.get_mut(&key) else { return None };
        if why == Use::Part && std::mem::take(&mut block.shared) {
            block.pieces = own(&block.pieces);
        }
        self.clock += 1;
        let (pieces, len, was) = (block.pieces.clone(), block.len, (block.used, block.told));
        (block.used, block.told) = (self.clock, block.told || why == Use::Whole);
        let (used, told) = (block.used, block.told);
        self.leave(was, len);
        self.join((used, told), key, len);
        Some(pieces)
    }

    fn leave(&mut self, (used, told): (u64, bool), bytes: usize) {
        let queue = self.queue(told);
        queue.order.remove(&used);
        queue.bytes -= bytes as u64;
    }

    fn join(&mut self, (used, told): (u64, bool), key: Key, bytes: usize) {
        let queue = self.queue(told);
        queue.order.insert(used, key);
        queue.bytes += bytes as u64;
    }

    fn put(&mut self, key: Key, pieces: Pieces, shared: bool, told: bool) {
        self.clock += 1;
        let (used, len) = (self.clock, pieces.iter().map(Bytes::len).sum());
        self.join((used, told), key, len);
        let before = self.slots.insert(key, Slot::Ready(Block { pieces, len, shared, used, told }));
        if let Some(Slot::Ready(block)) = before {
            self.leave((block.used, block.told), block.len);
        }
    }

    /// Drops what was used longest ago: of what the kernel has, all that is beyond its share; of the others, what is beyond the limit.
    fn shrink(&mut self, limit: u64) {
        while self.told.bytes > TOLD_BYTES_MAX.min(limit) && self.drop_oldest(true) {}
        while self.bytes() > limit && self.drop_oldest(self.untold.order.is_empty()) {}
    }

    /// False: there is none.
    fn drop_oldest(&mut self, told: bool) -> bool {
        let Some((used, key)) = self.queue(told).order.pop_first() else { return false };
        if let Some(Slot::Ready(block)) = self.slots.remove(&key) {
            self.leave((used, told), block.len);
        }
        true
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
    ready: Vec<(u32, Pieces)>,
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
        locked(&self.blocks).bytes()
    }

    /// Reads an extent for the kernel: from memory what is there, the rest from the store.
    pub async fn read(&self, data: &dyn DataBackend, extent: Extent) -> Result<Vec<Bytes>, FsError> {
        self.read_for(data, extent, true).await
    }

    /// `now`: for the kernel; otherwise for whoever may read it later.
    async fn read_for(
        &self,
        data: &dyn DataBackend,
        extent: Extent,
        now: bool,
    ) -> Result<Vec<Bytes>, FsError> {
        let DataRef::Slice { at, .. } = extent.data else { return data.read(extent).await };
        let Some(slice) = extent.data.slice() else { return data.read(extent).await };
        let (first, last) = (at / BLOCK_BYTES, (at + extent.len - 1) / BLOCK_BYTES);
        let why = |block: u32| {
            let start = block * BLOCK_BYTES;
            let whole = start >= at && (start + BLOCK_BYTES).min(slice.bytes) <= at + extent.len;
            match (now, whole) {
                (true, true) => Use::Whole,
                (true, false) => Use::Part,
                (false, _) => Use::Later,
            }
        };
        let mut blocks: Vec<Option<Pieces>> = vec![None; (last - first + 1) as usize];
        for _ in 0..ROUNDS_MAX {
            let wanted = (first..=last).filter(|block| blocks[(block - first) as usize].is_none());
            let found = self.look(slice, wanted, why);
            let reads = found.missing.iter().map(|run| self.fetch(data, slice, run.clone(), why));
            let fetched = try_join_all(reads).await?;
            for (block, pieces) in found.ready.into_iter().chain(fetched.into_iter().flatten()) {
                blocks[(block - first) as usize] = Some(pieces);
            }
            for mut coming in found.coming {
                // An error means that the reader is gone: look again.
                let _ = coming.changed().await;
            }
            if let Some(blocks) = blocks.iter().cloned().collect::<Option<Vec<Pieces>>>() {
                return cut(&blocks, first, at, extent.len);
            }
        }
        data.read(extent).await
    }

    /// Keeps a whole slice that is no larger than a block.
    pub fn keep(&self, slice: SliceRef, content: Bytes) {
        if content.len() <= BLOCK_BYTES as usize {
            let mut blocks = locked(&self.blocks);
            blocks.put((slice.slice, 0), Arc::new([content]), false, false);
            blocks.shrink(self.limit);
        }
    }

    /// Reads an extent into the cache.
    pub async fn warm(&self, data: &dyn DataBackend, extent: Extent) {
        // Whoever reads it for real finds out why not.
        let _ = self.read_for(data, extent, false).await;
    }

    fn look(&self, slice: SliceRef, wanted: impl Iterator<Item = u32>, why: impl Fn(u32) -> Use) -> Found {
        let mut found = Found::default();
        let mut blocks = locked(&self.blocks);
        for block in wanted {
            let key = (slice.slice, block);
            if let Some(pieces) = blocks.get(key, why(block)) {
                found.ready.push((block, pieces));
            } else if let Some(Slot::Coming(coming)) = blocks.slots.get(&key) {
                found.coming.push(coming.clone());
            } else {
                match found.missing.last_mut() {
                    Some(run) if run.end == block && run.len() < BLOCKS_PER_READ as usize => run.end += 1,
                    _ => found.missing.push(block..block + 1),
                }
            }
        }
        blocks.shrink(self.limit);
        found
    }

    /// Reads a run of blocks of a slice.
    async fn fetch(
        &self,
        data: &dyn DataBackend,
        slice: SliceRef,
        run: Range<u32>,
        why: impl Fn(u32) -> Use,
    ) -> Result<Vec<(u32, Pieces)>, FsError> {
        let announced = Announced::new(self, slice, run.clone());
        let at = run.start * BLOCK_BYTES;
        let len = (run.end * BLOCK_BYTES).min(slice.bytes).saturating_sub(at);
        let whole = DataRef::Slice { slice: slice.slice, bytes: slice.bytes, at };
        let parts = data.read(Extent::checked(0, len, whole)?).await?;
        if parts.iter().map(Bytes::len).sum::<usize>() != len as usize {
            return Err(FsError::DataDamaged);
        }
        let in_pieces = run.len() >= IN_PIECES_MIN;
        let mut blocks: Vec<(u32, Pieces)> = run.zip(blocks_of(parts)).collect();
        let mut held = locked(&self.blocks);
        for (block, pieces) in &mut blocks {
            let why = why(*block);
            let shared = in_pieces && why != Use::Part;
            if !shared {
                *pieces = own(pieces);
            }
            held.put((slice.slice, *block), pieces.clone(), shared, why == Use::Whole);
        }
        held.shrink(self.limit);
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

/// The pieces in memory of their own.
fn own(pieces: &[Bytes]) -> Pieces {
    Arc::new([pieces.concat().into()])
}

/// The bytes as blocks, uncopied.
fn blocks_of(parts: Vec<Bytes>) -> Vec<Pieces> {
    let size = BLOCK_BYTES as usize;
    let (mut blocks, mut block, mut room) = (Vec::new(), Vec::new(), size);
    for mut part in parts {
        while !part.is_empty() {
            let piece = part.split_to(part.len().min(room));
            room -= piece.len();
            block.push(piece);
            if room == 0 {
                blocks.push(std::mem::take(&mut block).into());
                room = size;
            }
        }
    }
    if !block.is_empty() {
        blocks.push(block.into());
    }
    blocks
}

/// Cuts the wanted bytes out of blocks.
fn cut(blocks: &[Pieces], first: u32, at: u32, len: u32) -> Result<Vec<Bytes>, FsError> {
    let (mut skip, mut left) = ((at - first * BLOCK_BYTES) as usize, len as usize);
    let mut parts = Vec::with_capacity(blocks.len());
    for piece in blocks.iter().flat_map(|block| &block[..]) {
        let end = (skip + left).min(piece.len());
        if skip < end {
            parts.push(piece.slice(skip..end));
            left -= end - skip;
        }
        skip -= skip.min(piece.len());
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
            let blocks: Vec<Vec<u8>> = blocks_of(parts).iter().map(|block| block.concat()).collect();
            assert_eq!(blocks.iter().map(Vec::len).collect::<Vec<_>>(), [131_072, 131_072, 131_072, 5]);
            assert!(blocks.concat() == whole, "{cuts:?}");
        }
        assert!(blocks_of(Vec::new()).is_empty());
    }

    #[tokio::test]
    async fn what_the_kernel_has_makes_room_for_the_rest() {
        let data = MemoryBackend::new(WriterId(1));
        let mut stored = Vec::new();
        for byte in 0..16 {
            let content = vec![byte; 4 << 20];
            stored.extend(data.write(InodeId(1), 0, vec![content.into()]).await.unwrap().into_inner());
        }
        let cache = BlockCache::new(48 << 20);
        let small = stored[0].part(5, 10).unwrap();
        cache.read(&data, small).await.unwrap();
        for extent in &stored[1..] {
            cache.warm(&data, *extent).await;
            assert_eq!(cache.read(&data, *extent).await.unwrap().concat().len(), 4 << 20);
            assert!(cache.bytes() <= TOLD_BYTES_MAX + u64::from(BLOCK_BYTES), "{}", cache.bytes());
        }
        let reads = data.reads();
        cache.read(&data, small).await.unwrap();
        cache.read(&data, stored[15]).await.unwrap();
        assert_eq!(data.reads(), reads, "a part of a block stays, and what was read last");
        for extent in &stored {
            cache.warm(&data, *extent).await;
        }
        assert!((32 << 20..=48 << 20).contains(&cache.bytes()), "{}", cache.bytes());
    }

    #[tokio::test]
    async fn a_block_that_stays_does_not_hold_the_memory_of_others() {
        let data = MemoryBackend::new(WriterId(1));
        let content: Vec<u8> = (0..4 << 20).map(|i| (i % 251) as u8).collect();
        let stored = data.write(InodeId(1), 0, vec![content.clone().into()]).await.unwrap().into_inner();
        let cache = BlockCache::new(48 << 20);
        let shared =
            |block| match locked(&cache.blocks).slots.get(&(stored[0].data.slice().unwrap().slice, block)) {
                Some(Slot::Ready(block)) => block.shared,
                other => panic!("{other:?}"),
            };
        cache.warm(&data, stored[0]).await;
        assert!(shared(0) && shared(1) && shared(2), "nothing was copied");
        let part = stored[0].part(u64::from(BLOCK_BYTES) + 5, u64::from(BLOCK_BYTES) * 2 + 5).unwrap();
        let read = cache.read(&data, part).await.unwrap().concat();
        assert_eq!(read, &content[BLOCK_BYTES as usize + 5..2 * BLOCK_BYTES as usize + 5]);
        assert!(shared(0) && !shared(1) && !shared(2) && shared(3));
        assert_eq!(cache.read(&data, stored[0]).await.unwrap().concat(), content);
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
