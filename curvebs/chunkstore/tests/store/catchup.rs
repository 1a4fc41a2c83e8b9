//! Catch-up by difference: how much travels, and what a receiver refuses.

use bytes::Bytes;
use curve_chunkstore::{ExtentIndex, ImportError};
use curve_io::sim::{SimDisk, SimDiskConfig};
use curve_types::{CopysetId, LogIndex, VolumeId};

use crate::support::{BLOCK, BLOCKS, Content, assert_content, catch_up, key, open, read, run, write};

const ID: CopysetId = CopysetId(1);

fn disk(seed: u64) -> SimDisk {
    SimDisk::new(SimDiskConfig { seed, ..SimDiskConfig::default() })
}

#[test]
fn only_changed_extents_travel() {
    run(async {
        let (a, b) = (open(&disk(1)).await, open(&disk(2)).await);
        let (a, b) = (a.create_copyset(ID).await.unwrap(), b.create_copyset(ID).await.unwrap());
        for index in 0..10 {
            write(&a, key(1, index), 0, &vec![9; BLOCKS as usize], 1 + u64::from(index));
        }
        assert_eq!(catch_up(&a, &b, 0).await, 10 * (BLOCKS * BLOCK) as usize);
        write(&a, key(1, 4), 3, &[5], 11);
        assert_eq!(catch_up(&a, &b, 10).await, 16 * BLOCK as usize, "one extent of 64 KiB");
        assert_eq!(catch_up(&a, &b, 11).await, 0);
        let sent = b.changed_since(LogIndex(10));
        assert_eq!(sent.chunks.len(), 1, "what was received can be passed on");
    });
}

#[test]
fn deletions_reach_a_replica_that_was_away_even_when_forgotten() {
    run(async {
        for forget in [false, true] {
            let (a, b) = (open(&disk(3)).await, open(&disk(4)).await);
            let (a, b) = (a.create_copyset(ID).await.unwrap(), b.create_copyset(ID).await.unwrap());
            for volume in 1..4 {
                write(&a, key(volume, 0), 0, &[volume], volume);
            }
            catch_up(&a, &b, 0).await;
            a.delete_chunk(key(1, 0), LogIndex(4)).unwrap();
            a.delete_volume(VolumeId(2), LogIndex(5)).unwrap();
            if forget {
                a.forget_deletions(LogIndex(5));
            }
            write(&a, key(1, 0), 9, &[8], 6);
            let changes = a.changed_since(LogIndex(3));
            assert_eq!(changes.full, forget);
            catch_up(&a, &b, 3).await;
            let content = Content::from([((key(1, 0), 9), 8), ((key(3, 0), 0), 3)]);
            for volume in 1..4 {
                assert_content(&read(&b, key(volume, 0)).await, key(volume, 0), &content);
            }
        }
    });
}

#[test]
fn malformed_parts_are_refused() {
    run(async {
        let (a, b) = (open(&disk(5)).await, open(&disk(6)).await);
        let (a, b) = (a.create_copyset(ID).await.unwrap(), b.create_copyset(ID).await.unwrap());
        write(&a, key(1, 0), 17, &[1, 2], 1);
        let part = a.export(key(1, 0), LogIndex(0), ExtentIndex(0), 1 << 20).await.unwrap().unwrap();
        assert_eq!((part.first_block, part.crcs.len(), part.next), (16, 16, None));
        let refused = |change: &dyn Fn(&mut curve_chunkstore::ChunkPart)| {
            let mut part = part.clone();
            change(&mut part);
            b.import(key(1, 0), &part).unwrap_err()
        };
        assert!(matches!(refused(&|p| p.first_block = 3), ImportError::Malformed(_)));
        assert!(matches!(refused(&|p| p.first_block = u32::MAX - 15), ImportError::Malformed(_)));
        assert!(matches!(refused(&|p| p.changed.clear()), ImportError::Malformed(_)));
        assert!(matches!(refused(&|p| p.data.clear()), ImportError::Malformed(_)));
        assert!(matches!(
            refused(&|p| p.data = vec![Bytes::from(vec![1; 8192])]),
            ImportError::Checksum { block: 17 }
        ));
        assert!(b.chunks().is_empty());
        b.import(key(1, 0), &part).unwrap();
        assert_eq!(b.digest(key(1, 0)).await.unwrap(), a.digest(key(1, 0)).await.unwrap());
    });
}
