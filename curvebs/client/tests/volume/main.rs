//! An open volume against a scripted copyset: three members, one of which leads, and an MDS that can be silenced.
//! Time is tokio's paused clock, so every wait is checked for its length and none is waited for.

mod local;
mod scripted;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use curve_blockdev::{Allocation, BlockDevice, BlockError, Compared, Extent, ZeroMode};
use curve_client::mds::OpenMode;
use curve_client::{ClientConfig, Cluster, OpenOptions, Pulse};
use curve_proto::ChunkError;
use curve_proto::methods;
use curve_proto::pb::data::CompareAndWriteRequest;

use scripted::*;

#[tokio::test(start_paused = true)]
async fn reads_what_was_written_across_chunks_and_frames() {
    let (world, volume) = open(ClientConfig::default()).await;
    let data: Bytes = (0..3 << 20).map(|i: u32| (i / 4096) as u8).collect::<Vec<u8>>().into();
    let offset = (16 << 20) - (1 << 20) - 8192;
    volume.write(offset, vec![data.slice(..5000), data.slice(5000..)]).await.unwrap();
    assert_eq!(volume.read(offset, 3 << 20).await.unwrap().concat(), data);
    assert!(world.with(|world| world.writes.iter().map(|write| write.chunk).max()) == Some(1), "two chunks");
    assert_eq!(volume.read(0, 8192).await.unwrap().concat(), vec![0; 8192]);
    volume.close().await.unwrap();
    assert_eq!(volume.read(0, 4096).await, Err(BlockError::Closed));
}

#[tokio::test(start_paused = true)]
async fn a_volume_never_written_needs_no_segment() {
    let (world, volume) = open(ClientConfig::default()).await;
    assert_eq!(volume.read(8192, 4096).await.unwrap().concat(), vec![0; 4096]);
    volume.discard(0, 1 << 30).await.unwrap();
    volume.write_zeroes(0, 1 << 30, ZeroMode::default()).await.unwrap();
    assert_eq!(
        volume.block_status(0, 1 << 30).await.unwrap(),
        [Extent { len: 1 << 30, allocation: Allocation::Hole }]
    );
    assert!(world.with(|world| world.segments.is_empty()));
}

#[tokio::test(start_paused = true)]
async fn follows_hints_and_finds_a_new_leader() {
    let (world, volume) = open(ClientConfig::default()).await;
    world.with(|world| world.leader = 3);
    volume.write(0, vec![pattern(1, 1)]).await.unwrap();
    assert_eq!(
        world.with(|world| std::mem::take(&mut world.calls)),
        [(1, methods::WRITE), (3, methods::WRITE)]
    );
    world.with(|world| {
        world.dead = vec![3];
        world.leader = 2;
    });
    let started = tokio::time::Instant::now();
    volume.write(0, vec![pattern(2, 1)]).await.unwrap();
    assert!(started.elapsed() < Duration::from_millis(100), "took {:?}", started.elapsed());
    assert_eq!(volume.read(0, 4096).await.unwrap().concat(), pattern(2, 1));
}

#[tokio::test(start_paused = true)]
async fn waits_through_an_election_and_keeps_its_sequence() {
    let (world, volume) = open(ClientConfig::default()).await;
    world.with(|world| {
        world.leader = 0;
        world.dead = vec![1];
    });
    let healing = {
        let world = world.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(1200)).await;
            world.with(|world| world.leader = 2);
        }
    };
    let started = tokio::time::Instant::now();
    let (written, ()) = tokio::join!(volume.write(0, vec![pattern(3, 1)]), healing);
    written.unwrap();
    assert!(started.elapsed() < Duration::from_millis(1450), "took {:?}", started.elapsed());
    let tries = world.with(|world| world.writes.clone());
    assert_eq!(tries.len(), 1);
    assert_eq!((tries[0].sequence, tries[0].answered_below), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_paused_leader_costs_one_try() {
    let (world, volume) = open(ClientConfig::default()).await;
    world.with(|world| {
        world.silent = vec![1];
        world.leader = 2;
    });
    let started = tokio::time::Instant::now();
    volume.write(0, vec![pattern(4, 1)]).await.unwrap();
    let took = started.elapsed();
    assert!(took >= Duration::from_secs(1) && took < Duration::from_millis(1100), "took {took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_paused_leader_costs_one_try_although_the_others_elect_late() {
    let (world, volume) = open(ClientConfig::default()).await;
    world.with(|world| {
        world.silent = vec![1];
        world.leader = 0;
    });
    let elected = {
        let world = world.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(1600)).await;
            world.with(|world| world.leader = 3);
        }
    };
    let started = tokio::time::Instant::now();
    let (written, ()) = tokio::join!(volume.write(0, vec![pattern(4, 1)]), elected);
    written.unwrap();
    assert!(started.elapsed() < Duration::from_millis(1800), "took {:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_was_slow_once_is_asked_again() {
    let (world, volume) = open(ClientConfig::default()).await;
    world.with(|world| world.silent = vec![1]);
    let better = {
        let world = world.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(1500)).await;
            world.with(|world| world.silent.clear());
        }
    };
    let started = tokio::time::Instant::now();
    let (written, ()) = tokio::join!(volume.write(0, vec![pattern(4, 1)]), better);
    written.unwrap();
    assert!(started.elapsed() < Duration::from_millis(3500), "took {:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_fence_is_final() {
    let (world, volume) = open(ClientConfig::default()).await;
    world.with(|world| world.held_epoch = 2);
    assert_eq!(volume.write(0, vec![pattern(5, 1)]).await, Err(BlockError::Fenced));
    world.with(|world| world.held_epoch = 0);
    assert_eq!(volume.write(0, vec![pattern(5, 1)]).await, Err(BlockError::Fenced));
    assert_eq!(volume.read(0, 4096).await, Err(BlockError::Fenced));
    assert!(world.with(|world| world.writes.is_empty()));
}

#[tokio::test(start_paused = true)]
async fn damage_on_the_way_is_noticed() {
    let (world, volume) = open(ClientConfig::default()).await;
    volume.write(0, vec![pattern(6, 2)]).await.unwrap();
    world.with(|world| world.damage_reads = 1);
    assert_eq!(volume.read(0, 8192).await.unwrap().concat(), pattern(6, 2));
    world.with(|world| world.damage_reads = u32::MAX);
    assert_eq!(volume.read(0, 4096).await, Err(BlockError::Corrupt { offset: 0, len: 4096 }));
}

#[tokio::test(start_paused = true)]
async fn goes_on_without_an_mds_until_it_needs_a_segment() {
    let (world, volume) = open(ClientConfig::default()).await;
    volume.write(0, vec![pattern(7, 1)]).await.unwrap();
    world.with(|world| world.mds_down = true);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    volume.write(4096, vec![pattern(8, 1)]).await.unwrap();
    assert_eq!(volume.read(0, 8192).await.unwrap().concat()[4096..], pattern(8, 1));

    let waiting = volume.write(3 << 30, vec![pattern(9, 1)]);
    let back = async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        world.with(|world| world.mds_down = false);
    };
    let (written, ()) = tokio::join!(waiting, back);
    written.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_io_timeout_ends_the_wait_and_gives_the_sequence_up() {
    let config = ClientConfig { io_timeout: "3s".parse().unwrap(), ..ClientConfig::default() };
    let (world, volume) = open(config).await;
    world.with(|world| world.leader = 0);
    assert_eq!(volume.write(0, vec![pattern(1, 1)]).await, Err(BlockError::TimedOut { seconds: 3 }));
    world.with(|world| world.leader = 1);
    volume.write(0, vec![pattern(2, 1)]).await.unwrap();
    let write = world.with(|world| world.writes[0].clone());
    assert_eq!(
        (write.sequence, write.answered_below),
        (2, 2),
        "the late first write would now be refused as stale"
    );
}

/// A write that waits for a leader while the process is stopped is not sent when it goes on: whoever waited for it may have
/// repeated it elsewhere, and written more.
#[tokio::test(start_paused = true)]
async fn a_stall_of_the_process_gives_up_what_is_under_way() {
    let world = Scripted::default();
    let (parts, config) = ((Arc::new(world.clone()), Arc::new(world.clone())), ClientConfig::default());
    let mut cluster = Cluster::with_parts(config, parts.0, parts.1, 42);
    let now = Arc::new(Mutex::new(Duration::ZERO));
    let clock = now.clone();
    cluster.give_up_after_stalls(Arc::new(Pulse::with_clock(Duration::from_secs(3), move || {
        *clock.lock().unwrap()
    })));
    let volume = cluster.open("/demo", OpenOptions::default()).await.unwrap();
    let stall = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        *now.lock().unwrap() += Duration::from_secs(4);
        world.with(|world| world.leader = 1);
    };
    let (written, ()) = tokio::join!(volume.write(0, vec![pattern(1, 1)]), stall);
    assert_eq!(written, Err(BlockError::Fenced));
    assert_eq!(volume.write(0, vec![pattern(2, 1)]).await, Err(BlockError::Fenced), "for good");
    assert!(world.with(|world| world.writes.is_empty()));
    let anew = cluster.open("/demo", OpenOptions::default()).await.unwrap();
    anew.write(0, vec![pattern(3, 1)]).await.unwrap();
    let (calls, hurried) = world.with(|world| (world.calls.len(), world.hurried.clone()));
    assert_eq!(
        hurried,
        vec![Duration::from_millis(1500); calls],
        "the process may be stopped after it asked, too"
    );
}

#[tokio::test(start_paused = true)]
async fn refusals_become_the_devices_errors() {
    let (world, volume) = open(ClientConfig::default()).await;
    for (refusal, expected) in [
        (ChunkError::NoSpace, BlockError::NoSpace),
        (ChunkError::Busy { message: "busy".into() }, BlockError::Closed),
    ] {
        let busy = matches!(refusal, ChunkError::Busy { .. });
        world.with(|world| world.refuse = Some(refusal));
        let written = volume.write(0, vec![pattern(1, 1)]).await;
        assert_eq!(written, if busy { Ok(()) } else { Err(expected) });
    }
    let size = 4 << 30;
    assert_eq!(volume.read(size, 4096).await, Err(BlockError::BadRange { offset: size, len: 4096, size }));
    assert_eq!(volume.read(512, 4096).await, Err(BlockError::BadRange { offset: 512, len: 4096, size }));
}

const SEGMENT: u64 = 1 << 30;

/// Another holder allocates a segment of the volume and fills its first block.
fn write_elsewhere(world: &Scripted, segment: u32, byte: u8) {
    world.with(|world| {
        world.segments.insert(segment);
        world.blocks.insert((segment * 64, 0), pattern(byte, 1));
    });
}

#[tokio::test(start_paused = true)]
async fn what_another_holder_allocates_is_seen_at_once() {
    for mode in [OpenMode::Shared, OpenMode::ReadOnly] {
        let (world, volume) = open_as(mode, ClientConfig::default()).await;
        write_elsewhere(&world, 0, 1);
        assert_eq!(volume.read(0, 4096).await.unwrap().concat(), pattern(1, 1));
        for _ in 0..2 {
            assert_eq!(volume.read(2 * SEGMENT, 4096).await.unwrap().concat(), pattern(0, 1));
        }
        write_elsewhere(&world, 2, 7);
        assert_eq!(volume.read(2 * SEGMENT, 4096).await.unwrap().concat(), pattern(7, 1), "{mode:?}");
        let status = volume.block_status(3 * SEGMENT, 4096).await.unwrap();
        assert_eq!(status, [Extent { len: 4096, allocation: Allocation::Hole }]);
    }
}

#[tokio::test(start_paused = true)]
async fn beside_others_a_hole_waits_for_the_mds_and_the_rest_goes_on() {
    let (world, volume) = open_as(OpenMode::Shared, ClientConfig::default()).await;
    volume.write(0, vec![pattern(1, 1)]).await.unwrap();
    assert_eq!(volume.read(SEGMENT, 4096).await.unwrap().concat(), pattern(0, 1));
    world.with(|world| world.mds_down = true);
    let hole = volume.read(SEGMENT, 4096);
    let others = async {
        for _ in 0..30 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let begun = tokio::time::Instant::now();
            assert_eq!(volume.read(0, 4096).await.unwrap().concat(), pattern(1, 1));
            assert!(begun.elapsed() < Duration::from_millis(100), "allocated data is read at once");
        }
        // Written by another holder in the last moment before this one's question is answered.
        write_elsewhere(&world, 1, 9);
        world.with(|world| world.mds_down = false);
    };
    let (read, ()) = tokio::join!(hole, others);
    assert_eq!(read.unwrap().concat(), pattern(9, 1));
}

#[tokio::test(start_paused = true)]
async fn many_who_ask_for_a_hole_share_the_answer() {
    let (world, volume) = open_as(OpenMode::Shared, ClientConfig::default()).await;
    let reads = (0..100).map(|i| volume.read(SEGMENT + i * 4096, 4096));
    for read in futures::future::join_all(reads).await {
        assert_eq!(read.unwrap().concat(), pattern(0, 1));
    }
    assert_eq!(
        world.with(|world| world.segment_questions),
        2,
        "the first, and one for all that asked while it ran"
    );
}

#[tokio::test(start_paused = true)]
async fn an_exclusive_holders_hole_is_confirmed_by_a_copyset_and_needs_no_mds() {
    let (world, volume) = open(ClientConfig::default()).await;
    volume.write(0, vec![pattern(1, 1)]).await.unwrap();
    assert_eq!(volume.read(SEGMENT, 4096).await.unwrap().concat(), pattern(0, 1));
    world.with(|world| {
        world.mds_down = true;
        world.calls.clear();
    });
    assert_eq!(volume.read(SEGMENT, 4096).await.unwrap().concat(), pattern(0, 1));
    assert_eq!(world.with(|world| std::mem::take(&mut world.calls)), [(1, methods::BLOCK_STATUS)]);

    // Somebody else was let in: the copysets were fenced first, then it allocated and wrote.
    world.with(|world| world.held_epoch = 2);
    write_elsewhere(&world, 1, 5);
    assert_eq!(volume.read(SEGMENT, 4096).await, Err(BlockError::Fenced), "no stale zeros");
    assert_eq!(volume.discard(2 * SEGMENT, 4096).await, Err(BlockError::Fenced));
}

#[tokio::test(start_paused = true)]
async fn a_hole_of_a_volume_without_data_is_asked_of_the_mds() {
    let (world, volume) = open(ClientConfig::default()).await;
    for _ in 0..2 {
        assert_eq!(volume.read(0, 4096).await.unwrap().concat(), pattern(0, 1));
    }
    assert_eq!(world.with(|world| world.segment_questions), 2, "there is no copyset to ask");
}

#[tokio::test(start_paused = true)]
async fn an_operation_beyond_the_end_asks_whether_the_volume_has_grown() {
    let (world, volume) = open_as(OpenMode::Shared, ClientConfig::default()).await;
    let size = 4 << 30;
    assert_eq!(
        volume.write(size, vec![pattern(1, 1)]).await,
        Err(BlockError::BadRange { offset: size, len: 4096, size })
    );
    world.with(|world| world.grown = 1 << 20);
    volume.write(size, vec![pattern(1, 1)]).await.unwrap();
    assert_eq!(volume.read(size, 4096).await.unwrap().concat(), pattern(1, 1));
    assert_eq!(volume.shape().size, size + (1 << 20));
}

#[tokio::test(start_paused = true)]
async fn a_comparison_is_one_request_of_one_chunk_and_is_repeated_under_its_number() {
    let (world, volume) = open(ClientConfig::default()).await;
    let compare =
        |offset, blocks| volume.compare_and_write(offset, vec![pattern(1, blocks)], vec![pattern(2, blocks)]);
    world.with(|world| world.refuse = Some(ChunkError::Busy { message: "an election".into() }));
    assert_eq!(compare(8192, 1).await, Ok(Compared::Written));
    world.with(|world| world.differs_at = Some(515));
    assert_eq!(compare((16 << 20) + 4096, 1).await, Ok(Compared::Differs { at: 515 }));
    let (asked, calls) =
        world.with(|world| (std::mem::take(&mut world.compares), std::mem::take(&mut world.calls)));
    assert_eq!(calls.len(), 3, "one of them was refused");
    let place = |r: &CompareAndWriteRequest| (r.chunk, r.offset, r.sequence, r.answered_below);
    assert_eq!(asked.iter().map(place).collect::<Vec<_>>(), [(0, 8192, 1, 1), (1, 4096, 2, 2)]);
    assert_ne!(asked[0].expected_crcs, asked[0].crcs);
    // What two copysets would have to decide together, or is too long, or has no two equal halves.
    let unequal = volume.compare_and_write(0, vec![pattern(1, 1)], vec![pattern(2, 2)]).await;
    for refused in [compare((16 << 20) - 4096, 2).await, compare(0, 17).await, unequal] {
        assert!(matches!(refused, Err(BlockError::Unsupported(_))), "{refused:?}");
    }
    assert!(matches!(compare(512, 1).await, Err(BlockError::BadRange { .. })));
    assert!(world.with(|world| world.calls.is_empty()));
}
