//! A disk that fails, a range that is wrong, and readers beside a writer.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use curve_chunkstore::{ChunkStore, ReadError, WriteError, block_crc};
use curve_io::RealDisk;
use curve_io::sim::{DiskFault, SimDisk, SimDiskConfig};
use curve_types::{CopysetId, LogIndex};

use crate::support::{BLOCK, BLOCKS, block, config, key, open, read, run, write};

const ID: CopysetId = CopysetId(1);

#[test]
fn a_failed_sync_is_final() {
    run(async {
        let disk = SimDisk::new(SimDiskConfig::default());
        let store = open(&disk).await;
        let copyset = store.create_copyset(ID).await.unwrap();
        write(&copyset, key(1, 0), 0, &[1], 1);
        disk.set_fault(DiskFault::Syncs);
        assert!(copyset.sync().await.is_err());
        disk.set_fault(DiskFault::None);
        assert!(store.failed());
        assert!(store.failure().unwrap().contains("sync in cs-1"), "{:?}", store.failure());
        assert!(copyset.sync().await.is_err(), "nobody may believe a later sync");
        let again = copyset.write(key(1, 0), 0, &[block(2)], &[block_crc(&block(2))], LogIndex(2));
        assert!(matches!(again, Err(WriteError::Io(_))));
        assert!(copyset.save_record("applied", b"1").await.is_err());
    });
}

#[test]
fn unreadable_blocks_are_bad_blocks() {
    run(async {
        let disk = SimDisk::new(SimDiskConfig::default());
        let store = open(&disk).await;
        let copyset = store.create_copyset(ID).await.unwrap();
        write(&copyset, key(1, 0), 0, &[1, 2], 1);
        disk.set_fault(DiskFault::All);
        let Err(ReadError::Corrupt { bad, .. }) = copyset.read(key(1, 0), 0, 4 * BLOCK).await else {
            panic!()
        };
        assert_eq!(
            bad.iter().map(|bad| (bad.block, bad.cause)).collect::<Vec<_>>(),
            [(0, curve_chunkstore::BadCause::Unreadable), (1, curve_chunkstore::BadCause::Unreadable),]
        );
        disk.set_fault(DiskFault::None);
        assert!(!store.failed(), "a read is no reason to stop");
        assert_eq!(read(&copyset, key(1, 0)).await.parts[0].slice(..4096), block(1));
    });
}

#[test]
fn wrong_ranges_are_refused_alike_everywhere() {
    run(async {
        let store = open(&SimDisk::new(SimDiskConfig::default())).await;
        let copyset = store.create_copyset(ID).await.unwrap();
        let crc = block_crc(&block(1));
        let write =
            |offset, data: &[Bytes], crcs: &[u32]| copyset.write(key(1, 0), offset, data, crcs, LogIndex(1));
        assert!(matches!(write(512, &[block(1)], &[crc]), Err(WriteError::BadRange(_))));
        assert!(matches!(write(BLOCKS * BLOCK, &[block(1)], &[crc]), Err(WriteError::BadRange(_))));
        assert!(matches!(write(0, &[block(1)], &[crc, crc]), Err(WriteError::BadLength { .. })));
        assert!(matches!(write(0, &[block(1)], &[0]), Err(WriteError::BadLength { .. })));
        assert!(matches!(copyset.discard(key(1, 0), 0, 100, LogIndex(1)), Err(WriteError::BadRange(_))));
        assert!(matches!(copyset.read(key(1, 0), 4096, u32::MAX).await, Err(ReadError::BadRange(_))));
        assert!(!store.failed() && copyset.chunks().is_empty());
    });
}

#[test]
fn extents_tell_data_from_holes() {
    run(async {
        let store = open(&SimDisk::new(SimDiskConfig::default())).await;
        let copyset = store.create_copyset(ID).await.unwrap();
        write(&copyset, key(1, 0), 2, &[1, 0, 3], 1);
        copyset.write_zeroes(key(1, 0), 3 * BLOCK, BLOCK, true, LogIndex(2)).unwrap();
        let found = copyset.extents(key(1, 0), BLOCK, 5 * BLOCK).await.unwrap();
        let found: Vec<_> = found.iter().map(|extent| (extent.len / BLOCK, extent.allocated)).collect();
        assert_eq!(found, [(1, false), (1, true), (1, false), (1, true), (1, false)]);
        assert_eq!(copyset.extents(key(7, 7), 0, BLOCK).await.unwrap().len(), 1);
    });
}

#[test]
fn the_cache_limit_holds_for_clean_chunks() {
    run(async {
        let store = open(&SimDisk::new(SimDiskConfig::default())).await;
        let copyset = store.create_copyset(ID).await.unwrap();
        for n in 0..100 {
            write(&copyset, key(1, n), 0, &[u64::from(n) + 1], u64::from(n) + 1);
        }
        assert_eq!(copyset.stats().cached_chunks, 100, "dirty chunks stay");
        copyset.sync().await.unwrap();
        assert!(copyset.stats().cached_chunks <= 16);
        for n in 0..100 {
            assert_eq!(read(&copyset, key(1, n)).await.parts[0], block(u64::from(n) + 1));
        }
        assert!(copyset.stats().cached_chunks <= 16);
        assert_eq!(copyset.stats().salvaged_chunks, 0);
    });
}

#[test]
fn the_journal_is_written_anew_when_it_has_grown() {
    run(async {
        let disk = SimDisk::new(SimDiskConfig::default());
        let store = open(&disk).await;
        let copyset = store.create_copyset(ID).await.unwrap();
        for round in 1..200u64 {
            (0..10).for_each(|n| write(&copyset, key(1, n), round as u32 % 32, &[round], round));
            copyset.sync().await.unwrap();
        }
        let manifest = disk.files().into_iter().find(|(path, _)| path.ends_with("manifest")).unwrap();
        assert!(manifest.1 < 8 << 10, "{manifest:?}");
        copyset.save_record("applied", b"199").await.unwrap();
        disk.crash();
        let copyset = open(&disk).await.copyset(ID).unwrap();
        for n in 0..10 {
            assert_eq!(read(&copyset, key(1, n)).await.crcs[199 % 32], block_crc(&block(199)));
        }
        assert_eq!((copyset.stats().syncs, copyset.stats().salvaged_chunks), (199, 0));
    });
}

/// Readers that meet a block while it is being overwritten never take that for damage.
#[test]
fn readers_beside_a_writer_see_old_or_new_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(3).enable_time().build().unwrap();
    runtime.block_on(async {
        let disk = Arc::new(RealDisk::new(dir.path().to_owned()));
        let store = ChunkStore::open(disk, Path::new("s"), config()).await.unwrap();
        let copyset = store.create_copyset(ID).await.unwrap();
        let done = Arc::new(AtomicBool::new(false));
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let (copyset, done) = (copyset.clone(), done.clone());
                tokio::spawn(async move {
                    while !done.load(Ordering::Relaxed) {
                        for bytes in
                            read(&copyset, key(1, 0)).await.parts.concat().chunks_exact(BLOCK as usize)
                        {
                            assert!(bytes.chunks_exact(8).all(|word| word == &bytes[..8]), "a torn block");
                        }
                    }
                })
            })
            .collect();
        for n in 1..4000u64 {
            write(&copyset, key(1, 0), n as u32 % 24, &[n; 8], n);
            if n % 10 == 0 {
                copyset.discard(key(1, 0), (n as u32 % 16) * BLOCK, 4 * BLOCK, LogIndex(n)).unwrap();
            }
            if n % 500 == 0 {
                copyset.sync().await.unwrap();
            }
        }
        done.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.await.unwrap();
        }
        assert_eq!(copyset.stats().bad_blocks, 0);
    });
}
