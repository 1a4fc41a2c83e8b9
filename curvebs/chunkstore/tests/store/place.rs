//! Large writes that are placed before they are logged.

use bytes::Bytes;
use curve_chunkstore::{Append, CopysetStore, PlacedRun, block_crc};
use curve_io::sim::{SimDisk, SimDiskConfig};
use curve_types::{ChunkKey, CopysetId, LogIndex};

use crate::support::{BLOCK, BLOCKS, block, key, open, read_both_ways, run, write};

const ID: CopysetId = CopysetId(1);
const HALF: u32 = BLOCKS / 2;

fn seeds(from: u64, blocks: u32) -> Vec<u64> {
    (0..u64::from(blocks)).map(|n| from + n).collect()
}

fn append(first: u32, blocks: u32) -> Append {
    Append::Write { key: key(1, 0), offset: first * BLOCK, len: blocks * BLOCK }
}

/// Appends a write and returns what was placed.
async fn place(
    copyset: &CopysetStore,
    first: u32,
    seeds: &[u64],
    index: u64,
) -> Option<(Vec<PlacedRun>, Vec<Bytes>)> {
    let payload: Vec<Bytes> = seeds.iter().map(|seed| block(*seed)).collect();
    let plan = copyset.note_append(LogIndex(index), [append(first, seeds.len() as u32)].into_iter())?;
    let placed = copyset.place(plan, |_| &payload[..]).await.unwrap();
    let (_, runs, rest) = placed?.into_iter().next().unwrap();
    Some((runs, rest))
}

fn apply(
    copyset: &CopysetStore,
    first: u32,
    seeds: &[u64],
    index: u64,
    placed: &(Vec<PlacedRun>, Vec<Bytes>),
) {
    let crcs: Vec<_> = seeds.iter().map(|seed| block_crc(&block(*seed))).collect();
    copyset.write_placed(key(1, 0), first * BLOCK, &placed.0, &placed.1, &crcs, LogIndex(index)).unwrap();
    copyset.note_applied(LogIndex(index));
}

/// The first word of each block.
async fn words(copyset: &CopysetStore, key: ChunkKey) -> Vec<u64> {
    let bytes = read_both_ways(copyset, key).await.parts.concat();
    let word = |block: &[u8]| u64::from_le_bytes(block[..8].try_into().unwrap());
    bytes.chunks_exact(BLOCK as usize).map(word).collect()
}

/// A store with one chunk that a checkpoint at index 1 holds.
async fn store() -> (SimDisk, std::sync::Arc<CopysetStore>) {
    let disk = SimDisk::new(SimDiskConfig::default());
    let copyset = open(&disk).await.create_copyset(ID).await.unwrap();
    copyset.begin_appends(LogIndex(0));
    assert!(copyset.note_append(LogIndex(1), [append(0, BLOCKS)].into_iter()).is_none(), "there is no chunk");
    write(&copyset, key(1, 0), 0, &seeds(100, BLOCKS), 1);
    copyset.note_applied(LogIndex(1));
    assert!(copyset.note_append(LogIndex(2), [Append::Nothing].into_iter()).is_none());
    copyset.note_applied(LogIndex(2));
    checkpoint(&copyset, 2).await;
    (disk, copyset)
}

async fn checkpoint(copyset: &CopysetStore, index: u64) {
    copyset.sync().await.unwrap();
    copyset.note_checkpoint(LogIndex(index));
}

#[test]
fn a_placed_write_is_seen_when_it_is_applied_and_not_before() {
    run(async {
        let (_disk, copyset) = store().await;
        let new = seeds(500, BLOCKS);
        let placed = place(&copyset, 0, &new, 3).await.expect("nothing has touched the chunk since");
        assert_eq!(placed, (vec![PlacedRun { first: 0, extents: 2, second: true }], vec![]));
        assert_eq!(words(&copyset, key(1, 0)).await, seeds(100, BLOCKS));
        apply(&copyset, 0, &new, 3, &placed);
        assert_eq!(words(&copyset, key(1, 0)).await, new);
        assert!(place(&copyset, 0, &new, 4).await.is_none(), "it was changed since the checkpoint");
        copyset.note_applied(LogIndex(4));
        checkpoint(&copyset, 4).await;
        let back = place(&copyset, 0, &seeds(900, BLOCKS), 5).await.expect("a checkpoint holds the change");
        assert_eq!(back.0, [PlacedRun { first: 0, extents: 2, second: false }], "the planes take turns");
    });
}

#[test]
fn nothing_is_placed_in_a_chunk_that_no_completed_sync_lists() {
    run(async {
        let (disk, copyset) = store().await;
        let new = key(1, 1);
        let append =
            |first: u32, blocks: u32| Append::Write { key: new, offset: first * BLOCK, len: blocks * BLOCK };
        copyset.note_append(LogIndex(3), [append(HALF, 1)].into_iter());
        write(&copyset, new, HALF, &[7], 3);
        copyset.note_applied(LogIndex(3));
        // The sync that would list it has written the chunk's file, and no more.
        tokio::time::timeout(std::time::Duration::ZERO, copyset.sync()).await.unwrap_err();
        assert!(copyset.note_append(LogIndex(4), [append(0, HALF)].into_iter()).is_none());
        copyset.note_applied(LogIndex(4));
        checkpoint(&copyset, 4).await;
        assert!(
            copyset.note_append(LogIndex(5), [append(0, HALF)].into_iter()).is_some(),
            "now it is listed"
        );
        drop(disk);
    });
}

#[test]
fn a_checkpoint_is_wanted_when_much_went_to_the_log_for_want_of_one() {
    run(async {
        let (_disk, copyset) = store().await;
        let new = seeds(500, BLOCKS);
        let placed = place(&copyset, 0, &new, 3).await.unwrap();
        apply(&copyset, 0, &new, 3, &placed);
        assert!(!copyset.wants_checkpoint(), "everything was placed");
        let mut logged = 0;
        for index in 4..100_000 {
            assert!(place(&copyset, 0, &new, index).await.is_none());
            copyset.note_applied(LogIndex(index));
            logged += u64::from(BLOCKS * BLOCK);
            assert_eq!(copyset.wants_checkpoint(), logged >= 16 << 20);
            if logged >= 16 << 20 {
                checkpoint(&copyset, index).await;
                assert!(!copyset.wants_checkpoint());
                return;
            }
        }
        panic!("never wanted");
    });
}

#[test]
fn heads_and_tails_and_touched_extents_stay_in_the_log() {
    run(async {
        let (_disk, copyset) = store().await;
        let placed = place(&copyset, HALF / 2, &seeds(500, BLOCKS - HALF / 2), 3).await.unwrap();
        assert_eq!(placed.0, [PlacedRun { first: 1, extents: 1, second: true }]);
        assert_eq!(
            placed.1.concat(),
            seeds(500, HALF / 2).iter().flat_map(|s| block(*s)).collect::<Vec<_>>()
        );
        assert!(copyset.note_append(LogIndex(4), [append(0, 1)].into_iter()).is_none());
        assert_eq!(place(&copyset, 0, &seeds(1, BLOCKS), 5).await, None, "both extents wait to be changed");
    });
}

#[test]
fn a_small_write_after_the_turn_survives_a_replay_over_any_header() {
    run(async {
        let (disk, copyset) = store().await;
        copyset.save_record("marker", b"2").await.unwrap();
        let new = seeds(500, HALF);
        let placed = place(&copyset, 0, &new, 3).await.unwrap();
        apply(&copyset, 0, &new, 3, &placed);
        write(&copyset, key(1, 0), 5, &[7], 4);
        // The header is durable, the record that the owner would save is not.
        copyset.sync().await.unwrap();
        write(&copyset, key(1, 0), 6, &[8], 5);
        disk.crash();
        let copyset = open(&disk).await.copyset(ID).unwrap();
        apply(&copyset, 0, &new, 3, &placed);
        write(&copyset, key(1, 0), 5, &[7], 4);
        write(&copyset, key(1, 0), 6, &[8], 5);
        let mut expected = seeds(100, BLOCKS);
        expected[..HALF as usize].copy_from_slice(&new);
        (expected[5], expected[6]) = (7, 8);
        assert_eq!(words(&copyset, key(1, 0)).await, expected);
        assert_eq!(
            copyset.read_placed(key(1, 0), 0, &placed.0, &[], &crcs(&new)).await.unwrap(),
            None,
            "altered"
        );
        assert!(copyset.scrub_step(None, u64::MAX).await.unwrap().bad.is_empty());
    });
}

fn crcs(seeds: &[u64]) -> Vec<u32> {
    seeds.iter().map(|seed| block_crc(&block(*seed))).collect()
}

#[test]
fn after_a_discard_or_a_restart_nothing_is_placed_until_a_checkpoint() {
    run(async {
        let (disk, copyset) = store().await;
        assert!(copyset.note_append(LogIndex(3), [Append::Clear(key(1, 0))].into_iter()).is_none());
        copyset.discard(key(1, 0), 0, BLOCK, LogIndex(3)).unwrap();
        copyset.note_applied(LogIndex(3));
        assert!(place(&copyset, HALF, &seeds(1, HALF), 4).await.is_none());
        copyset.note_applied(LogIndex(4));
        checkpoint(&copyset, 4).await;
        let placed = place(&copyset, HALF, &seeds(1, HALF), 5).await.unwrap();
        let crcs = crcs(&seeds(1, HALF));
        let found = copyset.read_placed(key(1, 0), HALF * BLOCK, &placed.0, &placed.1, &crcs);
        let expected: Vec<u8> = seeds(1, HALF).iter().flat_map(|seed| block(*seed)).collect();
        assert_eq!(found.await.unwrap().unwrap().concat(), expected);
        disk.crash();
        let copyset = open(&disk).await.copyset(ID).unwrap();
        copyset.begin_appends(LogIndex(4));
        assert!(place(&copyset, HALF, &seeds(1, HALF), 7).await.is_none());
        copyset.note_applied(LogIndex(7));
        copyset.note_checkpoint(LogIndex(5));
        copyset.prepare(key(1, 0)).await.unwrap();
        assert!(place(&copyset, 0, &seeds(1, HALF), 8).await.is_none(), "entry 6 may have been anything");
        copyset.note_checkpoint(LogIndex(6));
        assert!(place(&copyset, HALF, &seeds(1, HALF), 9).await.is_some());
    });
}

#[test]
fn room_is_given_back_when_nothing_is_placed_any_more() {
    run(async {
        let disk = SimDisk::new(SimDiskConfig::default());
        let store = open(&disk).await;
        let copyset = store.create_copyset(ID).await.unwrap();
        copyset.begin_appends(LogIndex(0));
        copyset.note_append(LogIndex(1), [append(0, BLOCKS)].into_iter());
        write(&copyset, key(1, 0), 0, &seeds(100, BLOCKS), 1);
        copyset.note_applied(LogIndex(1));
        checkpoint(&copyset, 1).await;
        while !store.maintain().await.unwrap().pool_done {}
        let before = disk.used();
        let placed = place(&copyset, 0, &seeds(500, HALF), 2).await.unwrap();
        apply(&copyset, 0, &seeds(500, HALF), 2, &placed);
        assert!(disk.used() >= before + u64::from(BLOCKS * BLOCK));
        store.maintain().await.unwrap();
        assert!(disk.used() > before, "it may be needed soon");
        tokio::time::sleep(std::time::Duration::from_secs(700)).await;
        store.maintain().await.unwrap();
        copyset.sync().await.unwrap();
        assert_eq!(disk.used(), before, "each extent has room once");
        let mut expected = seeds(100, BLOCKS);
        expected[..HALF as usize].copy_from_slice(&seeds(500, HALF));
        assert_eq!(words(&copyset, key(1, 0)).await, expected);
        disk.crash();
        assert_eq!(words(&open(&disk).await.copyset(ID).unwrap(), key(1, 0)).await, expected);
    });
}

#[test]
fn without_room_the_write_goes_to_the_log() {
    run(async {
        let (disk, copyset) = store().await;
        disk.set_capacity(disk.used());
        assert_eq!(place(&copyset, 0, &seeds(500, HALF), 3).await, None);
        let payload: Vec<Bytes> = seeds(500, HALF).iter().map(|seed| block(*seed)).collect();
        assert_eq!(copyset.take_placed(LogIndex(3), 0, 0, &payload), None);
        write(&copyset, key(1, 0), 0, &seeds(500, HALF), 3);
    });
}
