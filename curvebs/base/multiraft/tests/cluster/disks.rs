//! Disks that hang or are full.

use std::time::Duration;

use bytes::Bytes;
use curve_multiraft::{DiskState, GroupState, RaftOptions};
use curve_types::NodeId;
use tokio::time::{Instant, sleep};

use crate::harness::{Cluster, GROUP, ids};

/// Its process lives and goes on sending heartbeats.
#[tokio::test(start_paused = true)]
async fn a_leader_whose_disk_hangs_is_replaced_and_leads_again_when_it_answers() {
    for seed in 0..10 {
        let cluster = Cluster::three(300 + seed, RaftOptions::default()).await;
        let client = cluster.clients();
        client.put(GROUP, "a", b"1").await;
        let leader = cluster.leader(GROUP).await;
        cluster.disks[&leader].set_hung(true);
        let start = Instant::now();
        client.put(GROUP, "a", b"2").await;
        // The client of this test waits for 5 s for an answer, which it must get before.
        assert!(start.elapsed() <= Duration::from_millis(2800), "seed {seed}: {:?}", start.elapsed());
        for n in 0..50u32 {
            let start = Instant::now();
            client.put(GROUP, "b", &n.to_le_bytes()).await;
            assert!(start.elapsed() <= Duration::from_millis(100), "seed {seed}: {:?}", start.elapsed());
        }
        let successor = cluster.leader(GROUP).await;
        assert_ne!(successor, leader);
        assert_eq!(cluster.running[&leader].raft.disk(), DiskState::Hangs);
        let group = cluster.group(successor, GROUP).unwrap();
        group.transfer_leader(leader).await.expect_err("a node whose disk hangs declines");
        client.put(GROUP, "a", b"3").await;

        cluster.disks[&leader].set_hung(false);
        cluster.converged(GROUP).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(cluster.running[&leader].raft.disk(), DiskState::Fine);
        group.transfer_leader(leader).await.expect("it takes over again");
        assert_eq!(client.put(GROUP, "a", b"4").await.result, Bytes::from_static(b"3"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_follower_whose_disk_hangs_holds_nobody_up() {
    let cluster = Cluster::three(350, RaftOptions::default()).await;
    let client = cluster.clients();
    let leader = cluster.leader(GROUP).await;
    let follower = ids(1..=3).into_iter().find(|node| *node != leader).unwrap();
    cluster.disks[&follower].set_hung(true);
    let end = Instant::now() + Duration::from_secs(30);
    while Instant::now() < end {
        let start = Instant::now();
        client.put(GROUP, "a", &[0; 2000]).await;
        assert!(start.elapsed() <= Duration::from_millis(100), "{:?}", start.elapsed());
    }
    assert_eq!(cluster.leader(GROUP).await, leader);
    cluster.disks[&follower].set_hung(false);
    cluster.converged(GROUP).await;
}

impl Cluster {
    /// Something else takes all of the node's disk but so many bytes.
    fn fill(&self, node: NodeId, free: u64) {
        let disk = &self.disks[&node];
        disk.set_capacity(disk.used() + free);
    }

    /// It has gone.
    fn make_room(&self, node: NodeId) {
        self.disks[&node].set_capacity(1 << 40);
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_disk_is_full_is_replaced_and_goes_on_when_there_is_room() {
    for seed in 0..10 {
        let cluster = Cluster::three(360 + seed, RaftOptions::default()).await;
        let client = cluster.clients();
        client.put(GROUP, "a", b"1").await;
        let leader = cluster.leader(GROUP).await;
        // A change that begins now finds out.
        sleep(Duration::from_millis(10)).await;
        cluster.fill(leader, 0);
        let start = Instant::now();
        client.put(GROUP, "a", b"2").await;
        assert!(start.elapsed() <= Duration::from_secs(1), "seed {seed}: {:?}", start.elapsed());
        assert_ne!(cluster.leader(GROUP).await, leader);
        // More than the segments that its log has in hand take.
        for _ in 0..40 {
            let start = Instant::now();
            client.put(GROUP, "b", &[7; 1 << 20]).await;
            assert!(start.elapsed() <= Duration::from_millis(200), "seed {seed}: {:?}", start.elapsed());
        }
        let status = cluster.status(leader);
        assert_eq!(status.state, GroupState::Running, "seed {seed}");
        assert_eq!(cluster.running[&leader].raft.disk(), DiskState::Full);
        let group = cluster.group(cluster.leader(GROUP).await, GROUP).unwrap();
        group.transfer_leader(leader).await.expect_err("a node whose disk is full declines");

        cluster.make_room(leader);
        cluster.converged(GROUP).await;
        // The log looks again after a second.
        sleep(Duration::from_secs(2)).await;
        assert_eq!(cluster.running[&leader].raft.disk(), DiskState::Fine);
        assert_eq!(client.put(GROUP, "a", b"3").await.result, Bytes::from_static(b"2"));
    }
}

/// They may be on one file system.
#[tokio::test(start_paused = true)]
async fn when_all_disks_are_full_changes_wait_and_nothing_ends() {
    for seed in 0..10 {
        let cluster = Cluster::three(380 + seed, RaftOptions::default()).await;
        let client = cluster.clients();
        client.put(GROUP, "a", b"1").await;
        sleep(Duration::from_millis(10)).await;
        for node in ids(1..=3) {
            cluster.fill(node, 0);
        }
        let waiting = tokio::spawn(async move { client.put(GROUP, "a", b"2").await });
        sleep(Duration::from_secs(30)).await;
        assert!(!waiting.is_finished(), "seed {seed}");
        for node in ids(1..=3) {
            assert_eq!(cluster.status(node).state, GroupState::Running, "seed {seed}");
            cluster.make_room(node);
        }
        let freed = Instant::now();
        waiting.await.unwrap();
        assert!(freed.elapsed() <= Duration::from_secs(6), "seed {seed}: {:?}", freed.elapsed());
        cluster.converged(GROUP).await;
        assert_eq!(&cluster.content(NodeId(1), GROUP).lock().unwrap().map[&Bytes::from("a")].0[..], b"2");
    }
}

/// The successor that is asked first declines.
#[tokio::test(start_paused = true)]
async fn one_of_two_members_with_room_is_found() {
    for seed in 0..10 {
        let cluster = Cluster::three(400 + seed, RaftOptions::default()).await;
        let client = cluster.clients();
        client.put(GROUP, "a", b"1").await;
        let leader = cluster.leader(GROUP).await;
        let others: Vec<_> = ids(1..=3).into_iter().filter(|node| *node != leader).collect();
        let (full, well) = (others[seed as usize % 2], others[(seed as usize + 1) % 2]);
        cluster.fill(full, 4 << 20);
        sleep(Duration::from_millis(250)).await;
        cluster.fill(leader, 4 << 20);
        let start = Instant::now();
        while cluster.leader(GROUP).await != well {
            assert!(start.elapsed() <= Duration::from_secs(2), "seed {seed}");
            sleep(Duration::from_millis(10)).await;
        }
        client.put(GROUP, "a", b"2").await;
    }
}
