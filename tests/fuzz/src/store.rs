//! The chunk store: opened over damaged files, it refuses, reports blocks as corrupt, or returns what was written.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use curve_chunkstore::{ChunkStore, ChunkStoreConfig, ReadError, block_crc};
use curve_io::sim::{SimDisk, SimDiskConfig};
use curve_io::{Disk, OpenMode};
use curve_types::{ChunkKey, CopysetId, Geometry, LogIndex, VolumeId};
use rand::Rng;
use rand::rngs::StdRng;

use crate::damage::damage_in_place;

const DIR: &str = "store";
const BLOCK: usize = 4096;
const CHUNK_BLOCKS: u32 = 16;
const CHUNKS: u32 = 2;
const COPYSET: CopysetId = CopysetId(1);

pub fn case(random: &mut StdRng) -> &'static str {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(damaged(random))
}

async fn damaged(random: &mut StdRng) -> &'static str {
    let platter = SimDisk::new(SimDiskConfig { seed: random.random(), ..SimDiskConfig::default() });
    fill(&platter).await;
    let files: Vec<_> = platter.files().into_iter().filter(|(_, len)| *len > 0).collect();
    for _ in 0..random.random_range(1..=2) {
        let (path, _) = &files[random.random_range(0..files.len())];
        rewrite(&*platter.mount(), path, random).await;
    }
    let Ok(store) = ChunkStore::open(platter.mount(), Path::new(DIR), config()).await else {
        return "refused";
    };
    let Ok(copyset) = store.copyset(COPYSET) else { return "copyset damaged" };
    // A chunkserver does not start over a damaged record.
    match copyset.load_record("test").await {
        Ok(record) => assert!(record.is_some_and(|bytes| &bytes[..] == b"a record"), "another record"),
        Err(_) => return "record damaged",
    }
    let mut corrupt = false;
    for index in 0..CHUNKS {
        for block in 0..CHUNK_BLOCKS {
            match copyset.read(key(index), block * BLOCK as u32, BLOCK as u32).await {
                Ok(read) => {
                    let right = read.parts.concat() == content(index, block);
                    assert!(right, "chunk {index} block {block} is wrong and was not reported");
                }
                Err(ReadError::Corrupt { .. }) => corrupt = true,
                Err(error) => panic!("chunk {index} block {block}: {error}"),
            }
        }
    }
    if corrupt { "corrupt blocks found" } else { "whole" }
}

fn config() -> ChunkStoreConfig {
    let geometry = Geometry::new(BLOCK as u32, CHUNK_BLOCKS * BLOCK as u32, 1 << 20).expect("powers of two");
    ChunkStoreConfig { geometry, pool_files: 1, reserve_bytes: 0, cached_chunks_max: 16 }
}

fn key(index: u32) -> ChunkKey {
    ChunkKey { volume: VolumeId(1), index }
}

/// Every third block is a hole.
fn content(index: u32, block: u32) -> Vec<u8> {
    if block % 3 == 2 { vec![0; BLOCK] } else { vec![(index * 100 + block + 1) as u8; BLOCK] }
}

async fn fill(platter: &SimDisk) {
    let store = ChunkStore::open(platter.mount(), Path::new(DIR), config()).await.expect("an empty disk");
    let copyset = store.create_copyset(COPYSET).await.expect("an empty store");
    let mut log_index = 0;
    for index in 0..CHUNKS {
        for block in (0..CHUNK_BLOCKS).filter(|block| block % 3 != 2) {
            log_index += 1;
            let bytes = Bytes::from(content(index, block));
            let crc = block_crc(&bytes);
            copyset.prepare(key(index)).await.expect("a good disk");
            let at = block * BLOCK as u32;
            copyset.write(key(index), at, &[bytes], &[crc], LogIndex(log_index)).expect("a good disk");
        }
    }
    copyset.sync().await.expect("a good disk");
    // As after a checkpoint: a manifest that is older than the record is known to be damaged.
    copyset.save_record("test", b"a record").await.expect("a good disk");
}

async fn rewrite(disk: &dyn Disk, path: &Path, random: &mut StdRng) {
    let file = disk.open(path, OpenMode::Existing).expect("it is there");
    let mut bytes = vec![0; file.len().expect("a length") as usize];
    file.read_at(0, &mut bytes).expect("readable");
    let before = bytes.clone();
    damage_in_place(random, &mut bytes);
    if std::env::var_os("CURVE_FUZZ_SHOW").is_some() {
        let changed = before.iter().zip(&bytes).enumerate().filter(|(_, (old, new))| old != new);
        for (at, (old, new)) in changed.take(40) {
            println!("{} at {at}: {old:#04x} became {new:#04x}", path.display());
        }
    }
    file.write_at(0, &[std::io::IoSlice::new(&bytes)]).expect("writable");
    Arc::clone(&file).sync().await.expect("a good disk");
}
