//! Room: the pool, thin chunks, the reserve, a full disk.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use curve_chunkstore::{ChunkStore, ChunkStoreConfig, WriteError, block_crc};
use curve_io::RealDisk;
use curve_io::sim::{SimDisk, SimDiskConfig};
use curve_types::{CopysetId, LogIndex, VolumeId};

use crate::support::{
    BLOCK, BLOCKS, Content, DIR, assert_content, block, config, key, open, read, run, write,
};

const ID: CopysetId = CopysetId(1);
const OTHER: CopysetId = CopysetId(2);
const FILE_BYTES: u64 = 8192 + (BLOCKS * BLOCK) as u64;

#[test]
fn reused_files_never_show_old_data() {
    run(async {
        let disk = SimDisk::new(SimDiskConfig::default());
        let store = open(&disk).await;
        store.create_copyset(ID).await.unwrap();
        store.create_copyset(OTHER).await.unwrap();
        for round in 0..5u64 {
            let store = open(&disk).await;
            let (a, b) = (store.copyset(ID).unwrap(), store.copyset(OTHER).unwrap());
            write(&a, key(1, 0), 0, &vec![1; BLOCKS as usize], 2 * round + 1);
            a.sync().await.unwrap();
            a.delete_volume(VolumeId(1), LogIndex(2 * round + 2)).unwrap();
            a.sync().await.unwrap();
            assert_eq!(store.space().pool, FILE_BYTES, "the file went to the pool");
            write(&b, key(2, 0), 7, &[2], 2 * round + 1);
            assert_eq!(store.space().pool, 0, "and came back");
            let content = Content::from([((key(2, 0), 7), 2)]);
            assert_content(&read(&b, key(2, 0)).await, key(2, 0), &content);
            b.sync().await.unwrap();
            disk.crash();
            let b = open(&disk).await.copyset(OTHER).unwrap();
            assert_content(&read(&b, key(2, 0)).await, key(2, 0), &content);
            b.delete_chunk(key(2, 0), LogIndex(2 * round + 2)).unwrap();
            b.sync().await.unwrap();
            assert_content(&read(&b, key(2, 0)).await, key(2, 0), &Content::new());
            disk.detach();
        }
    });
}

#[test]
fn a_removed_copyset_leaves_its_files_to_the_pool() {
    run(async {
        let disk = SimDisk::new(SimDiskConfig::default());
        let store = open(&disk).await;
        let copyset = store.create_copyset(ID).await.unwrap();
        (0..5).for_each(|n| write(&copyset, key(1, n), 0, &[9], 1));
        copyset.sync().await.unwrap();
        store.remove_copyset(ID).await.unwrap();
        assert_eq!(store.space().pool, 3 * FILE_BYTES, "as many as the pool keeps");
        let late = copyset.write(key(1, 0), 0, &[block(1)], &[block_crc(&block(1))], LogIndex(2));
        assert!(matches!(late, Err(WriteError::Io(_))) && !store.failed(), "a late apply harms nobody");
        let copyset = store.create_copyset(ID).await.unwrap();
        write(&copyset, key(1, 0), 1, &[8], 1);
        assert_content(&read(&copyset, key(1, 0)).await, key(1, 0), &Content::from([((key(1, 0), 1), 8)]));
        disk.crash();
        let store = open(&disk).await;
        assert!(
            store.copyset(ID).unwrap().chunks().is_empty(),
            "nothing of the old one, and the new one was not synced"
        );
    });
}

#[test]
fn the_pool_fills_in_steps_and_stops_at_its_size() {
    run(async {
        let disk = SimDisk::new(SimDiskConfig::default());
        let config = ChunkStoreConfig { pool_files: 6, ..config() };
        let store = ChunkStore::open(disk.mount(), Path::new(DIR), config).await.unwrap();
        let first = store.maintain().await.unwrap();
        assert_eq!((first.pool_files_made, first.pool_done), (4, false));
        let second = store.maintain().await.unwrap();
        assert_eq!((second.pool_files_made, second.pool_done), (2, true));
        assert_eq!(store.space().pool, 6 * FILE_BYTES);
        let copyset = store.create_copyset(ID).await.unwrap();
        (0..9).for_each(|n| write(&copyset, key(1, n), 0, &[1], 1));
        assert_eq!(store.space().pool, 0);
        copyset.delete_volume(VolumeId(1), LogIndex(2)).unwrap();
        copyset.sync().await.unwrap();
        assert_eq!(
            store.space().pool,
            6 * FILE_BYTES,
            "three were too many and went back to the file system"
        );
        disk.detach();
        let store = ChunkStore::open(disk.mount(), Path::new(DIR), config).await.unwrap();
        assert_eq!(store.space().pool, 6 * FILE_BYTES, "found again");
    });
}

#[test]
fn admission_stops_before_the_reserve_and_apply_uses_it() {
    run(async {
        let disk = SimDisk::new(SimDiskConfig { capacity: 20 * FILE_BYTES, ..SimDiskConfig::default() });
        let config = ChunkStoreConfig { reserve_bytes: 5 * FILE_BYTES, pool_files: 2, ..config() };
        let store = ChunkStore::open(disk.mount(), Path::new(DIR), config).await.unwrap();
        let copyset = store.create_copyset(ID).await.unwrap();
        let mut made = 0;
        while copyset.admit(key(1, made), 0, BLOCK).is_ok() {
            write(&copyset, key(1, made), 0, &[1], u64::from(made) + 1);
            made += 1;
        }
        assert!((14..=16).contains(&made), "{made}");
        assert!(store.space().reserve_low);
        assert!(
            copyset.admit(key(1, 0), BLOCK, BLOCK).is_ok(),
            "a preallocated chunk can be written everywhere"
        );
        write(&copyset, key(1, 0), 4, &[1; 8], 50);
        copyset.discard(key(1, 0), 4 * BLOCK, 8 * BLOCK, LogIndex(51)).unwrap();
        assert!(copyset.admit(key(1, 0), 4 * BLOCK, BLOCK).is_err(), "a punched block needs room");
        assert!(copyset.admit(key(1, 0), 0, BLOCK).is_ok(), "one with data does not");
        write(&copyset, key(1, 99), 0, &[1], 52);
        assert!(!store.failed(), "what was agreed on before uses the reserve");
        copyset.delete_chunk(key(1, 1), LogIndex(53)).unwrap();
        copyset.delete_chunk(key(1, 2), LogIndex(54)).unwrap();
        copyset.delete_chunk(key(1, 3), LogIndex(55)).unwrap();
        copyset.sync().await.unwrap();
        assert!(!store.space().reserve_low, "deleting makes room");
        assert!(copyset.admit(key(1, 100), 0, BLOCK).is_ok());
        let mut n = 200;
        let failure = loop {
            let data = block(1);
            match copyset.write(key(1, n), 0, std::slice::from_ref(&data), &[block_crc(&data)], LogIndex(60))
            {
                Ok(()) => n += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(failure, WriteError::Io(_)), "{failure}");
        assert!(store.failed(), "a full disk at apply is a failure of this replica");
    });
}

/// On a real file system: blocks of a discarded range are free again, and a deleted chunk is gone.
#[test]
fn discards_free_room_on_a_real_disk() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let disk = Arc::new(RealDisk::new(dir.path().to_owned()));
        let config = ChunkStoreConfig { pool_files: 0, ..config() };
        let store = ChunkStore::open(disk, Path::new("s"), config).await.unwrap();
        let copyset = store.create_copyset(ID).await.unwrap();
        write(&copyset, key(1, 0), 0, &vec![3; BLOCKS as usize], 1);
        copyset.sync().await.unwrap();
        let used = || -> u64 {
            let files =
                std::fs::read_dir(dir.path().join("s/copysets/1")).unwrap().map(|entry| entry.unwrap());
            let chunks = files.filter(|file| file.file_name().to_string_lossy().ends_with(".chunk"));
            chunks.map(|file| file.metadata().unwrap().blocks() * 512).sum()
        };
        let full = used();
        assert!(full >= FILE_BYTES, "{full}");
        copyset.discard(key(1, 0), 8 * BLOCK, 16 * BLOCK, LogIndex(2)).unwrap();
        copyset.sync().await.unwrap();
        assert!(used() <= full - 16 * u64::from(BLOCK), "{} of {full}", used());
        assert_eq!(read(&copyset, key(1, 0)).await.crcs.iter().filter(|crc| **crc == 0).count(), 16);
        copyset.write_zeroes(key(1, 0), 8 * BLOCK, 16 * BLOCK, true, LogIndex(3)).unwrap();
        copyset.sync().await.unwrap();
        assert!(used() >= FILE_BYTES, "room was asked for");
        copyset.discard(key(1, 0), 0, BLOCKS * BLOCK, LogIndex(4)).unwrap();
        copyset.sync().await.unwrap();
        assert_eq!(used(), 0);
    });
}
