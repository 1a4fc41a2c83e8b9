//! What the tests share: small stores, blocks that can be told apart, a model of the content.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use curve_chunkstore::{ChunkStore, ChunkStoreConfig, CopysetStore, ExtentIndex, HOLE, ReadData, block_crc};
use curve_io::sim::SimDisk;
use curve_types::{ChunkKey, Geometry, LogIndex, VolumeId};

pub const BLOCK: u32 = 4096;
/// Blocks in a chunk of the tests: two extents.
pub const BLOCKS: u32 = 32;
pub const DIR: &str = "store";

pub fn config() -> ChunkStoreConfig {
    ChunkStoreConfig {
        geometry: Geometry::new(BLOCK, BLOCKS * BLOCK, 1 << 20).unwrap(),
        pool_files: 3,
        reserve_bytes: 0,
        cached_chunks_max: 0,
    }
}

/// Runs a test on a paused clock.
pub fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(test)
}

pub async fn open(disk: &SimDisk) -> Arc<ChunkStore> {
    ChunkStore::open(disk.mount(), Path::new(DIR), config()).await.unwrap()
}

pub fn key(volume: u64, index: u32) -> ChunkKey {
    ChunkKey { volume: VolumeId(volume), index }
}

/// A block that says which it is; 0 is a block of real zeros.
pub fn block(seed: u64) -> Bytes {
    seed.to_le_bytes().repeat(BLOCK as usize / 8).into()
}

pub fn write(copyset: &CopysetStore, key: ChunkKey, first: u32, seeds: &[u64], index: u64) {
    let data: Vec<_> = seeds.iter().map(|seed| block(*seed)).collect();
    let crcs: Vec<_> = data.iter().map(|block| block_crc(block)).collect();
    copyset.write(key, first * BLOCK, &data, &crcs, LogIndex(index)).unwrap();
}

pub async fn read(copyset: &CopysetStore, key: ChunkKey) -> ReadData {
    copyset.read(key, 0, BLOCKS * BLOCK).await.unwrap()
}

/// Reads a whole chunk that nobody changes meanwhile, and sees that who takes the bytes from its file himself finds the
/// same.
pub async fn read_both_ways(copyset: &CopysetStore, key: ChunkKey) -> ReadData {
    let data = read(copyset, key).await;
    match copyset.locate(key, 0, BLOCKS * BLOCK).await.unwrap() {
        None => assert!(data.crcs.iter().all(|crc| *crc == HOLE)),
        Some(located) => {
            assert_eq!(located.crcs, data.crcs);
            let all = data.parts.concat();
            let blocks = all.chunks_exact(BLOCK as usize).zip(&data.crcs).filter(|(_, crc)| **crc != HOLE);
            let mut bytes = Vec::new();
            for (offset, blocks) in located.runs {
                let run = located.file.clone().read(offset, (blocks * BLOCK) as usize).await.unwrap();
                bytes.extend_from_slice(&run);
            }
            assert!(blocks.map(|(block, _)| block).eq(bytes.chunks(BLOCK as usize)));
        }
    }
    data
}

/// What a chunk holds, by block.
pub type Content = BTreeMap<(ChunkKey, u32), u64>;

/// Compares a whole chunk with the model, checksums included.
pub fn assert_content(found: &ReadData, key: ChunkKey, content: &Content) {
    let bytes = found.parts.concat();
    assert_eq!((bytes.len(), found.crcs.len()), ((BLOCKS * BLOCK) as usize, BLOCKS as usize));
    for (n, (bytes, crc)) in bytes.chunks_exact(BLOCK as usize).zip(&found.crcs).enumerate() {
        match content.get(&(key, n as u32)) {
            Some(seed) => {
                assert!(bytes == block(*seed), "{key} block {n} should be {seed}, begins {:?}", &bytes[..8]);
                assert_eq!(*crc, block_crc(bytes), "{key} block {n}");
            }
            None => {
                assert!(
                    bytes.iter().all(|b| *b == 0),
                    "{key} block {n} should be a hole, begins {:?}",
                    &bytes[..8]
                );
                assert_eq!(*crc, HOLE, "{key} block {n}");
            }
        }
    }
}

/// Copies everything that changed after `since`. Returns the bytes of data that travelled.
pub async fn catch_up(from: &CopysetStore, to: &CopysetStore, since: u64) -> usize {
    let changes = from.changed_since(LogIndex(since));
    to.import_changes(&changes).unwrap();
    let mut bytes = 0;
    for change in changes.chunks.iter().filter(|change| !change.deleted) {
        let mut next = Some(ExtentIndex(0));
        while let Some(at) = next {
            let Some(part) = from.export(change.key, LogIndex(since), at, 1).await.unwrap() else { break };
            bytes += part.data.iter().map(Bytes::len).sum::<usize>();
            to.import(change.key, &part).unwrap();
            next = part.next;
        }
    }
    bytes
}
