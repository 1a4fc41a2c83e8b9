//! COMPARE AND WRITE on three chunkservers: writers that share a counter, leaders that crash, blocks that rot.

use curve_proto::ChunkError;
use curve_types::Epoch;

use crate::bed::{self, Bed, Writer, pattern};

const WRITERS: u64 = 6;
const ADDS: u32 = 12;

/// A sector with a number in it.
fn sector(number: u32) -> Vec<u8> {
    number.to_le_bytes().repeat(128)
}

/// Adds one to the counter in a sector until that has succeeded so often; says how often it lost.
async fn add(bed: &Bed, client: u64, offset: u32) -> u32 {
    let mut writer = Writer::new(client, Epoch(1));
    let (mut seen, mut lost) = (0, 0);
    for _ in 0..ADDS {
        loop {
            let differs = bed.compare(&mut writer, offset, &sector(seen), &sector(seen + 1)).await.unwrap();
            if differs.is_none() {
                seen += 1;
                break;
            }
            lost += 1;
            let block = bed.read(Epoch(1), offset / 4096, 1).await.unwrap();
            let at = (offset % 4096) as usize;
            seen = u32::from_le_bytes(block[at..at + 4].try_into().unwrap());
        }
    }
    lost
}

#[test]
fn no_increment_is_lost_although_leaders_crash_and_others_write_beside() {
    for seed in 21..24 {
        bed::run(seed, async |bed: &mut Bed| {
            // A plain writer of whole blocks makes the counter's neighbours change, and one of sectors its own block.
            let mut beside = Writer::new(50, Epoch(1));
            bed.write(&mut beside, 4, pattern(1, 2)).await.unwrap();
            let mut lost = 0;
            for round in 0..3u32 {
                let adders =
                    (0..WRITERS).map(|n| add(bed, 100 * u64::from(round + 1) + n, 512 + 4096 * (round % 2)));
                let writes = async {
                    for fill in 0..20 {
                        bed.write_bytes(&mut beside, 1024, vec![fill; 512]).await.unwrap();
                    }
                };
                let (losses, ()) = futures::join!(futures::future::join_all(adders), writes);
                lost += losses.iter().sum::<u32>();
                let leader = bed.leader().await;
                bed.crash(leader);
                bed.leader().await;
                bed.start(leader).await;
            }
            let block = bed.read(Epoch(1), 0, 2).await.unwrap();
            let adds = WRITERS as u32 * ADDS;
            assert_eq!(block[512..1024], sector(2 * adds), "rounds 0 and 2");
            assert_eq!(block[1024..1536], [19; 512]);
            assert_eq!(block[4096 + 512..4096 + 1024], sector(adds), "round 1");
            assert!(lost > 0, "they did meet");
            bed.settle().await;
            bed.assert_replicas_equal().await;
        });
    }
}

#[test]
fn a_leader_that_dies_in_the_middle_loses_and_doubles_nothing() {
    for seed in 31..35 {
        bed::run(seed, async |bed: &mut Bed| {
            let mut writer = Writer::new(7, Epoch(1));
            for number in 0..40 {
                // The answer may be lost with its leader; `compare` asks again, with the same number.
                if number % 10 == 5 {
                    let leader = bed.leader().await;
                    bed.crash(leader);
                    let differs = bed.compare(&mut writer, 0, &sector(number), &sector(number + 1)).await;
                    assert_eq!(differs, Ok(None));
                    bed.start(leader).await;
                } else {
                    let differs = bed.compare(&mut writer, 0, &sector(number), &sector(number + 1)).await;
                    assert_eq!(differs, Ok(None), "{number}");
                }
            }
        });
    }
}

#[test]
fn a_repeated_comparison_gets_its_first_answer_from_another_leader_too() {
    bed::run(41, async |bed: &mut Bed| {
        let mut writer = Writer::new(7, Epoch(1));
        let mut expected = sector(0);
        expected[77] = 1;
        let before = writer.clone();
        assert_eq!(bed.compare(&mut writer, 512, &sector(0), &sector(1)).await, Ok(None));
        let between = writer.clone();
        assert_eq!(bed.compare(&mut writer, 1024, &expected, &sector(2)).await, Ok(Some(77)));
        let leader = bed.leader().await;
        bed.crash(leader);
        // What it compared with is there now, and what it wrote is not any more.
        bed.write_bytes(&mut writer, 1024, expected.clone()).await.unwrap();
        bed.write_bytes(&mut writer, 512, sector(9)).await.unwrap();
        assert_eq!(bed.compare(&mut before.clone(), 512, &sector(0), &sector(1)).await, Ok(None));
        assert_eq!(bed.compare(&mut between.clone(), 1024, &expected, &sector(2)).await, Ok(Some(77)));
        let block = bed.read(Epoch(1), 0, 1).await.unwrap();
        assert_eq!((&block[512..1024], &block[1024..1536]), (&sector(9)[..], &expected[..]));
        bed.start(leader).await;
        // The answers are part of a checkpoint and outlive all processes.
        for at in 0..bed::CHUNKSERVERS {
            bed.settle().await;
            bed.checkpoint(at).await;
            bed.crash(at);
            bed.leader().await;
            bed.start(at).await;
        }
        assert_eq!(bed.compare(&mut between.clone(), 1024, &expected, &sector(2)).await, Ok(Some(77)));
        bed.settle().await;
        bed.assert_replicas_equal().await;
    });
}

#[test]
fn a_damaged_block_is_healed_before_it_is_compared_and_no_replica_decides_otherwise() {
    bed::run(42, async |bed: &mut Bed| {
        let mut writer = Writer::new(7, Epoch(1));
        for block in 0..2 {
            bed.write(&mut writer, block, pattern(block, 1)).await.unwrap();
        }
        bed.settle().await;
        let leader = bed.leader().await;
        let follower = (leader + 1) % bed::CHUNKSERVERS;
        for (at, block) in [(leader, 0), (follower, 1)] {
            bed.flush(at).await;
            assert!(bed.flip_data(at, &pattern(block, 1)) > 0, "the block is on the disk");
        }
        for block in 0..2u32 {
            let expected = pattern(block, 1);
            let differs = bed.compare(&mut writer, block * 4096, &expected, &pattern(9, 1)).await;
            assert_eq!(differs, Ok(None), "block {block}");
            assert_eq!(bed.read(Epoch(1), block, 1).await.unwrap(), pattern(9, 1));
        }
        assert_eq!(bed.replica(leader).store().stats().repaired_blocks, 1);
        bed.settle().await;
        bed.assert_replicas_equal().await;
    });
}

#[test]
fn what_is_fenced_or_malformed_compares_nothing() {
    bed::run(43, async |bed: &mut Bed| {
        let mut writer = Writer::new(7, Epoch(1));
        let refused = bed.compare(&mut writer, 0, &sector(0), &sector(1)[..256]).await;
        assert!(matches!(refused, Err(ChunkError::BadRequest { .. })), "{refused:?}");
        let refused = bed.compare(&mut writer, 100, &sector(0), &sector(1)).await;
        assert!(matches!(refused, Err(ChunkError::BadRequest { .. })), "{refused:?}");
        bed.fence(Epoch(2)).await.unwrap();
        let refused = bed.compare(&mut writer, 0, &sector(0), &sector(1)).await;
        assert_eq!(refused, Err(ChunkError::Fenced { held: Epoch(2) }));
        assert_eq!(bed.read(Epoch(2), 0, 1).await.unwrap(), vec![0; 4096]);
    });
}
