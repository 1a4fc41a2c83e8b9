//! Three chunkservers with one copyset, on simulated disks and a simulated network, under a stand-in for the MDS.

mod bed;
mod compare;
mod mds;

use std::path::Path;
use std::time::Duration;

use bed::{BLOCK, Bed, CHUNKSERVERS, Writer, pattern};
use curve_chunkserver::StartError;
use curve_proto::ChunkError;
use curve_types::Epoch;

#[test]
fn writes_are_read_back_and_survive_the_loss_of_the_leader() {
    bed::run(1, async |bed: &mut Bed| {
        let mut writer = Writer::new(7, Epoch(1));
        for i in 0..32u32 {
            bed.write(&mut writer, i * 16, pattern(i, 1 + i as usize % 3)).await.unwrap();
        }
        for round in 0..3 {
            let leader = bed.leader().await;
            bed.crash(leader);
            for i in 0..32u32 {
                let read = bed.read(writer.epoch, i * 16, 1 + i % 3).await.unwrap();
                assert_eq!(read, pattern(i, 1 + i as usize % 3), "round {round}, write {i}");
            }
            bed.write(&mut writer, 1000 + round, pattern(round, 1)).await.unwrap();
            bed.start(leader).await;
        }
        for round in 0..3 {
            assert_eq!(bed.read(writer.epoch, 1000 + round, 1).await.unwrap(), pattern(round, 1));
        }
        bed.settle().await;
        bed.assert_replicas_equal().await;
    });
}

#[test]
fn a_graceful_stop_hands_over_at_once() {
    bed::run(2, async |bed: &mut Bed| {
        let mut writer = Writer::new(7, Epoch(1));
        bed.write(&mut writer, 0, pattern(1, 1)).await.unwrap();
        let leader = bed.leader().await;
        let before = tokio::time::Instant::now();
        bed.stop(leader).await;
        bed.write(&mut writer, 0, pattern(2, 1)).await.unwrap();
        let stall = before.elapsed();
        assert!(stall < Duration::from_millis(500), "stalled for {stall:?}");
        bed.start(leader).await;
        assert_eq!(bed.read(writer.epoch, 0, 1).await.unwrap(), pattern(2, 1));
    });
}

#[test]
fn who_waits_for_a_disk_that_hangs_is_sent_to_another_leader() {
    bed::run(20, async |bed: &mut Bed| {
        let mut writer = Writer::new(7, Epoch(1));
        for block in 0..32 {
            bed.write(&mut writer, block, pattern(block, 1)).await.unwrap();
        }
        let leader = bed.leader().await;
        bed.hang_disk(leader, true);
        let before = tokio::time::Instant::now();
        let reads = (0..32).map(|block| bed.read_once(leader, writer.epoch, block));
        let (reads, written) = futures::join!(
            futures::future::join_all(reads),
            // A part of a block, which is read for it.
            bed.write_bytes(&mut writer, 512, vec![1; 512]),
        );
        written.unwrap();
        let refused = reads.iter().filter(|read| matches!(read, Err(ChunkError::NotLeader { .. }))).count();
        let served = reads.iter().filter(|read| read.is_ok()).count();
        assert!(refused > 5 && served > 5 && refused + served == 32, "{refused} refused, {served} served");
        assert!(before.elapsed() < Duration::from_secs(5), "after {:?}", before.elapsed());
        assert_ne!(bed.leader().await, leader);
        for block in 1..32 {
            assert_eq!(bed.read(writer.epoch, block, 1).await.unwrap(), pattern(block, 1));
        }
        bed.hang_disk(leader, false);
        bed.settle().await;
        bed.assert_replicas_equal().await;
    });
}

#[test]
fn a_fence_shuts_out_the_old_epoch_for_reads_and_writes() {
    bed::run(3, async |bed: &mut Bed| {
        let mut old = Writer::new(7, Epoch(1));
        let mut new = Writer::new(8, Epoch(2));
        bed.write(&mut old, 0, pattern(1, 1)).await.unwrap();
        bed.fence(Epoch(2)).await.unwrap();
        let held = Epoch(2);
        assert_eq!(bed.write(&mut old, 0, pattern(2, 1)).await, Err(ChunkError::Fenced { held }));
        assert_eq!(bed.read(Epoch(1), 0, 1).await, Err(ChunkError::Fenced { held }));
        bed.write(&mut new, 1, pattern(3, 1)).await.unwrap();
        assert_eq!(bed.read(Epoch(2), 0, 1).await.unwrap(), pattern(1, 1));
        // The fence is in the log: whoever leads next has it.
        let leader = bed.leader().await;
        bed.crash(leader);
        assert_eq!(bed.write(&mut old, 0, pattern(2, 1)).await, Err(ChunkError::Fenced { held }));
        bed.start(leader).await;
    });
}

#[test]
fn a_reader_on_the_same_machine_is_told_where_the_bytes_are() {
    bed::run(12, async |bed: &mut Bed| {
        let mut writer = Writer::new(7, Epoch(1));
        assert_eq!(bed.ask(7, Epoch(1), 0, 8, 1).await.unwrap().0.place, None, "there is no chunk");
        bed.write(&mut writer, 1, pattern(1, 2)).await.unwrap();
        bed.write(&mut writer, 5, pattern(2, 1)).await.unwrap();
        let (reply, payload) = bed.ask(7, Epoch(1), 0, 8, 1).await.unwrap();
        let place = reply.place.expect("it runs on the machine of all simulated disks");
        assert!(payload.is_empty() && !place.path.is_empty());
        assert_eq!(place.runs.iter().map(|run| run.blocks).collect::<Vec<_>>(), [2, 1]);
        let machine = bed.machine();
        let meant = curve_io::FilePlace { machine: 1, device: place.device, inode: place.inode };
        let file = curve_io::Machine::open(&machine, meant, Path::new(&place.path)).unwrap();
        for (run, bytes) in place.runs.iter().zip([pattern(1, 2), pattern(2, 1)]) {
            assert_eq!(file.clone().read(run.offset, bytes.len()).await.unwrap(), bytes);
        }
        let (reply, payload) = bed.ask(7, Epoch(1), 0, 8, 2).await.unwrap();
        assert!(reply.place.is_none() && payload.len() == 8 * BLOCK, "another machine");
        for n in 0..20 {
            bed.write(&mut writer, 100 + 2 * n, pattern(n, 1)).await.unwrap();
        }
        let (reply, payload) = bed.ask(7, Epoch(1), 100, 40, 1).await.unwrap();
        assert!(reply.place.is_none() && payload.len() == 40 * BLOCK, "too many runs");
        let (reply, payload) = bed.ask(7, Epoch(1), 6, 2, 1).await.unwrap();
        assert!(reply.place.is_none() && payload.is_empty() && reply.crcs == [0, 0], "holes are nowhere");
        bed.fence(Epoch(2)).await.unwrap();
        let held = Epoch(2);
        assert_eq!(bed.ask(7, Epoch(1), 0, 8, 1).await, Err(ChunkError::Fenced { held }));
    });
}

#[test]
fn what_a_reader_needs_not_ask_for_is_pledged_until_somebody_is_shut_out_or_another_leads() {
    bed::run(14, async |bed: &mut Bed| {
        let mut writer = Writer::new(7, Epoch(1));
        bed.write(&mut writer, 1, pattern(1, 2)).await.unwrap();
        bed.write(&mut writer, 5, pattern(2, 1)).await.unwrap();
        let machine = bed.machine();
        // The board as the reader sees it, and what it was told.
        let ask = async |bed: &Bed, epoch| {
            let place = bed.ask(7, epoch, 2, 1, 1).await.unwrap().0.place.unwrap();
            assert_eq!(place.runs.len(), 1);
            let sight = place.sight.expect("all disks are on its machine");
            let (device, inode) = (sight.board_device, sight.board_inode);
            let meant = curve_io::FilePlace { machine: 1, device, inode };
            let board = curve_io::Machine::board(&machine, meant, Path::new(&sight.board_path)).unwrap();
            (board, sight)
        };
        let (board, sight) = ask(bed, Epoch(1)).await;
        let holes = sight.crcs.iter().map(|crc| *crc == 0).collect::<Vec<_>>();
        let written = |block| [1, 2, 5].contains(&block);
        assert_eq!(holes, (0..16).map(|block| !written(block)).collect::<Vec<_>>());
        assert_eq!(sight.runs.iter().map(|run| run.blocks).collect::<Vec<_>>(), [2, 1]);
        assert!(board.holds(sight.pledge, sight.changes));
        bed.write(&mut writer, 6, pattern(3, 1)).await.unwrap();
        assert!(board.holds(sight.pledge, sight.changes), "writes are the reader's own");

        bed.fence(Epoch(2)).await.unwrap();
        assert!(!board.holds(sight.pledge, sight.changes), "somebody is shut out, perhaps the reader");
        let (board, sight) = ask(bed, Epoch(2)).await;
        assert!(board.holds(sight.pledge, sight.changes));

        let leader = bed.leader().await;
        let other = bed.replica((leader + 1) % 3).group().unwrap().node();
        bed.replica(leader).group().unwrap().transfer_leader(other).await.unwrap();
        assert!(!board.holds(sight.pledge, sight.changes), "it has asked another one to lead");
        let (board, sight) = ask(bed, Epoch(2)).await;
        assert!(board.holds(sight.pledge, sight.changes));

        // Alone it hears of nobody, and its lease ends.
        let leader = bed.leader().await;
        let others: Vec<_> = (0..3).filter(|at| *at != leader).collect();
        others.iter().for_each(|at| bed.crash(*at));
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(!board.holds(sight.pledge, sight.changes));
        for at in others {
            bed.start(at).await;
        }

        // What a process that is gone has pledged ends, too.
        let (board, sight) = ask(bed, Epoch(2)).await;
        let leader = bed.leader().await;
        bed.crash(leader);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(!board.holds(sight.pledge, sight.changes));
    });
}

#[test]
fn a_kept_holder_goes_on_below_the_fence_whoever_leads() {
    bed::run(13, async |bed: &mut Bed| {
        let mut kept = Writer::new(7, Epoch(1));
        let mut out = Writer::new(8, Epoch(1));
        bed.write(&mut kept, 0, pattern(1, 1)).await.unwrap();
        bed.write(&mut out, 1, pattern(2, 1)).await.unwrap();
        bed.fence_keeping(Epoch(2), &[(7, Epoch(1))]).await.unwrap();
        let fenced = Err(ChunkError::Fenced { held: Epoch(2) });
        for _ in 0..2 {
            bed.write(&mut kept, 0, pattern(3, 1)).await.unwrap();
            assert_eq!(bed.read_as(7, Epoch(1), 0, 1).await.unwrap(), pattern(3, 1));
            assert_eq!(bed.write(&mut out, 1, pattern(4, 1)).await, fenced);
            assert_eq!(bed.read_as(8, Epoch(1), 1, 1).await, fenced.clone().map(|()| Vec::new()));
            let leader = bed.leader().await;
            bed.crash(leader);
            bed.leader().await;
            bed.start(leader).await;
        }
        bed.fence(Epoch(3)).await.unwrap();
        assert_eq!(bed.write(&mut kept, 0, pattern(5, 1)).await, Err(ChunkError::Fenced { held: Epoch(3) }));
    });
}

#[test]
fn a_repeated_write_is_done_once() {
    bed::run(4, async |bed: &mut Bed| {
        let mut writer = Writer::new(7, Epoch(1));
        bed.write(&mut writer, 0, pattern(1, 1)).await.unwrap();
        let repeated = writer.clone();
        bed.write(&mut writer, 0, pattern(2, 1)).await.unwrap();
        let again = Writer { sequence: repeated.sequence - 1, ..repeated };
        let leader = bed.leader().await;
        bed.crash(leader);
        bed.write(&mut again.clone(), 0, pattern(1, 1)).await.unwrap();
        assert_eq!(
            bed.read(writer.epoch, 0, 1).await.unwrap(),
            pattern(2, 1),
            "the late copy changed nothing"
        );
        bed.start(leader).await;
    });
}

#[test]
fn sectors_written_at_once_into_one_block_all_arrive() {
    bed::run(5, async |bed: &mut Bed| {
        let writes = (0..24u32).map(|i| {
            let mut writer = Writer::new(100 + u64::from(i), Epoch(1));
            let bed = &*bed;
            async move {
                // Eight writers share each block; some writes cross into the next one.
                let sector = i * 512;
                let len = if i % 8 == 7 { 1024 } else { 512 };
                bed.write_bytes(&mut writer, sector, vec![i as u8 + 1; len.min(24 * 512 - sector as usize)])
                    .await
            }
        });
        for written in futures::future::join_all(writes).await {
            written.unwrap();
        }
        let bytes = bed.read(Epoch(1), 0, 3).await.unwrap();
        for (i, sector) in bytes.chunks(512).enumerate() {
            let crossed = i % 8 == 0 && i > 0;
            let allowed: &[u8] = if crossed { &[i as u8, i as u8 + 1] } else { &[i as u8 + 1] };
            assert!(sector.iter().all(|byte| *byte == sector[0]), "sector {i} is torn");
            assert!(allowed.contains(&sector[0]), "sector {i} holds {}", sector[0]);
        }
        bed.zero_bytes(&mut Writer::new(99, Epoch(1)), 512, 8192).await.unwrap();
        let bytes = bed.read(Epoch(1), 0, 3).await.unwrap();
        assert!(bytes[512..512 + 8192].iter().all(|byte| *byte == 0));
        assert_eq!(bytes[511], 1);
        assert_ne!(bytes[512 + 8192], 0);
    });
}

#[test]
fn a_flipped_byte_is_healed_on_read_and_never_shown() {
    bed::run(6, async |bed: &mut Bed| {
        let mut writer = Writer::new(7, Epoch(1));
        for i in 0..16u32 {
            bed.write(&mut writer, i, pattern(i, 1)).await.unwrap();
        }
        let leader = bed.leader().await;
        bed.flush(leader).await;
        let flipped = bed.flip_data(leader, pattern(5, 1).as_slice());
        assert!(flipped > 0, "the block is on the disk");
        for i in 0..16u32 {
            assert_eq!(bed.read(writer.epoch, i, 1).await.unwrap(), pattern(i, 1), "block {i}");
        }
        assert_eq!(bed.replica(leader).store().stats().repaired_blocks, 1);
        assert_eq!(bed.replica(leader).unhealed_blocks(), 0);
        bed.assert_replicas_equal().await;
    });
}

#[test]
fn a_flipped_byte_on_a_follower_is_healed_by_scrub() {
    bed::run(7, async |bed: &mut Bed| {
        let mut writer = Writer::new(7, Epoch(1));
        bed.write(&mut writer, 3, pattern(3, 1)).await.unwrap();
        bed.settle().await;
        let leader = bed.leader().await;
        let follower = (leader + 1) % CHUNKSERVERS;
        bed.flush(follower).await;
        assert!(bed.flip_data(follower, pattern(3, 1).as_slice()) > 0);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(bed.replica(follower).store().stats().repaired_blocks, 1);
        bed.assert_replicas_equal().await;
    });
}

#[test]
fn a_replica_that_was_away_catches_up_and_can_lead() {
    bed::run(8, async |bed: &mut Bed| {
        let mut writer = Writer::new(7, Epoch(1));
        for i in 0..8u32 {
            bed.write(&mut writer, i * 100, pattern(i, 1)).await.unwrap();
        }
        bed.settle().await;
        let away = (bed.leader().await + 1) % CHUNKSERVERS;
        bed.crash(away);
        for i in 8..16u32 {
            bed.write(&mut writer, i * 100, pattern(i, 1)).await.unwrap();
        }
        for at in (0..CHUNKSERVERS).filter(|at| *at != away) {
            bed.checkpoint(at).await;
        }
        bed.start(away).await;
        bed.settle().await;
        bed.assert_replicas_equal().await;
        let leader = bed.leader().await;
        bed.crash(leader);
        for i in 0..16u32 {
            assert_eq!(bed.read(writer.epoch, i * 100, 1).await.unwrap(), pattern(i, 1), "write {i}");
        }
        bed.start(leader).await;
    });
}

#[test]
fn all_power_is_lost_and_nothing_acknowledged_with_it() {
    bed::run(9, async |bed: &mut Bed| {
        let mut writer = Writer::new(7, Epoch(1));
        for round in 0..4u32 {
            for i in 0..16u32 {
                bed.write(&mut writer, i, pattern(round * 100 + i, 1)).await.unwrap();
            }
            for at in 0..CHUNKSERVERS {
                bed.crash(at);
            }
            // The MDS is away as well; the chunkservers find each other by what they remember.
            bed.mds.set_down(true);
            for at in 0..CHUNKSERVERS {
                bed.start(at).await;
            }
            for i in 0..16u32 {
                let read = bed.read(writer.epoch, i, 1).await.unwrap();
                assert_eq!(read, pattern(round * 100 + i, 1), "round {round}, block {i}");
            }
            bed.mds.set_down(false);
        }
    });
}

#[test]
fn a_full_disk_refuses_new_blocks_and_serves_the_rest() {
    bed::run(10, async |bed: &mut Bed| {
        let mut writer = Writer::new(7, Epoch(1));
        bed.write(&mut writer, 0, pattern(1, 1)).await.unwrap();
        for at in 0..CHUNKSERVERS {
            bed.fill_disk(at);
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
        // A chunk owns all its blocks from its first write on; a new chunk needs room.
        bed.write(&mut writer, 2000, pattern(2, 64)).await.unwrap();
        assert_eq!(bed.write(&mut writer, 5000, pattern(2, 64)).await, Err(ChunkError::NoSpace));
        assert_eq!(bed.read(writer.epoch, 0, 1).await.unwrap(), pattern(1, 1));
        for at in 0..CHUNKSERVERS {
            bed.free_disk(at);
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
        bed.write(&mut writer, 5000, pattern(2, 64)).await.unwrap();
    });
}

#[test]
fn the_mds_hears_of_a_full_disk_when_something_is_first_refused() {
    bed::run(10, async |bed: &mut Bed| {
        let mut writer = Writer::new(7, Epoch(1));
        let mut chunk = 0;
        // Heartbeats are a second apart; so one of these would be found without being told.
        for round in 0..6 {
            for at in 0..CHUNKSERVERS {
                bed.fill_disk(at);
            }
            loop {
                chunk += 1;
                assert!(chunk < 1000, "there is room for ever");
                match bed.write(&mut writer, chunk * 4096, pattern(2, 1)).await {
                    Ok(()) => {}
                    Err(error) => break assert_eq!(error, ChunkError::NoSpace),
                }
            }
            tokio::time::sleep(Duration::from_millis(60)).await;
            assert!(!bed.mds.full().is_empty(), "round {round}");
            for at in 0..CHUNKSERVERS {
                bed.free_disk(at);
            }
            tokio::time::sleep(Duration::from_millis(10_000 + 170 * round)).await;
            assert!(bed.mds.full().is_empty(), "round {round}");
        }
    });
}

#[test]
fn a_replica_whose_log_is_gone_refuses_to_start_and_the_others_go_on() {
    bed::run(11, async |bed: &mut Bed| {
        let mut writer = Writer::new(7, Epoch(1));
        bed.write(&mut writer, 0, pattern(1, 1)).await.unwrap();
        bed.checkpoint(1).await;
        bed.crash(1);
        let (disk, dir) = bed.data(1);
        disk.remove_dir_all(&dir.join("log")).unwrap();
        let error = bed.try_start(1).await.unwrap_err();
        assert!(matches!(error, StartError::Replica(_)), "{error}");
        assert!(error.to_string().contains("--rebuild"), "{error}");
        bed.write(&mut writer, 0, pattern(2, 1)).await.unwrap();
        assert_eq!(bed.read(writer.epoch, 0, 1).await.unwrap(), pattern(2, 1));
    });
}

#[test]
fn damage_in_the_middle_of_the_log_refuses_to_start_with_the_place() {
    bed::run(12, async |bed: &mut Bed| {
        let mut writer = Writer::new(7, Epoch(1));
        for i in 0..64 {
            bed.write(&mut writer, i, pattern(i, 1)).await.unwrap();
        }
        bed.settle().await;
        bed.stop(1).await;
        assert!(bed.flip_log(1, pattern(5, 1).as_slice()) > 0, "the write is in the log");
        let error = bed.try_start(1).await.unwrap_err();
        assert!(matches!(error, StartError::LogCorrupt(_)), "{error}");
        let text = error.to_string();
        assert!(text.contains("segment") && text.contains("offset") && text.contains("--rebuild"), "{text}");
        assert_eq!(bed.read(writer.epoch, 5, 1).await.unwrap(), pattern(5, 1));
        let (disk, dir) = bed.data(1);
        curve_chunkserver::set_aside_on(&*disk, dir).await.unwrap();
        bed.start(1).await;
    });
}
