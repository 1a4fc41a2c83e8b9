//! Groups in which nothing happens.

use std::time::Duration;

use curve_multiraft::{GroupState, RaftOptions};
use curve_types::{GroupId, NodeId};
use tokio::time::{Instant, sleep};

use crate::harness::{Cluster, Death, GROUP, ids, wait};

async fn asleep(cluster: &Cluster, group: GroupId) {
    wait("a sleeping group", || {
        let sleeps = |node: &NodeId| {
            cluster.group(*node, group).is_none_or(|group| group.status().state == GroupState::Quiescent)
        };
        cluster.running.keys().all(sleeps).then_some(())
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_hundred_idle_groups_send_one_ping_per_pair_of_nodes() {
    let mut cluster = Cluster::new(31, RaftOptions::default());
    for node in ids(1..=3) {
        cluster.boot(node).await;
        for group in 1..=100 {
            cluster.create(node, GroupId(group), &ids(1..=3)).await;
        }
    }
    for group in 1..=100 {
        asleep(&cluster, GroupId(group)).await;
    }
    sleep(Duration::from_secs(1)).await;
    let before = cluster.net.stats().requests;
    sleep(Duration::from_secs(10)).await;
    let sent = cluster.net.stats().requests - before;
    // Six ordered pairs, five pings a second.
    assert!(sent <= 6 * 51, "{sent} messages in ten seconds");
}

#[tokio::test(start_paused = true)]
async fn the_first_operation_after_a_sleep_is_quick() {
    let cluster = Cluster::three(32, RaftOptions::default()).await;
    cluster.clients().put(GROUP, "a", b"1").await;
    for _ in 0..3 {
        asleep(&cluster, GROUP).await;
        let leader = cluster.leader(GROUP).await;
        let start = Instant::now();
        cluster.group(leader, GROUP).unwrap().read_barrier().await.unwrap();
        assert!(start.elapsed() < Duration::from_millis(10), "read after {:?}", start.elapsed());
        asleep(&cluster, GROUP).await;
        let start = Instant::now();
        cluster.clients().put(GROUP, "a", b"2").await;
        assert!(start.elapsed() < Duration::from_millis(40), "write after {:?}", start.elapsed());
        assert_eq!(cluster.leader(GROUP).await, leader);
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_dies_in_its_sleep_is_replaced() {
    for seed in 0..10 {
        let mut cluster = Cluster::three(300 + seed, RaftOptions::default()).await;
        cluster.clients().put(GROUP, "a", b"1").await;
        asleep(&cluster, GROUP).await;
        sleep(Duration::from_secs(20)).await;
        let leader = cluster.leader(GROUP).await;
        cluster.kill(leader, Death::Kill).await;
        let start = Instant::now();
        cluster.clients().put(GROUP, "a", b"2").await;
        assert!(start.elapsed() <= Duration::from_secs(2), "seed {seed}: {:?}", start.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_comes_back_does_not_unseat_the_leader() {
    for (seed, restart) in (0..6).map(|seed| (seed, seed % 2 == 0)) {
        let mut cluster = Cluster::three(400 + seed, RaftOptions::default()).await;
        cluster.clients().put(GROUP, "a", b"1").await;
        asleep(&cluster, GROUP).await;
        let leader = cluster.leader(GROUP).await;
        let term = cluster.status(leader).term;
        let follower = ids(1..=3).into_iter().find(|node| *node != leader).unwrap();
        if restart {
            cluster.kill(follower, Death::Kill).await;
            sleep(Duration::from_secs(5)).await;
            cluster.boot(follower).await;
        } else {
            cluster.isolate(follower, true);
            sleep(Duration::from_secs(5)).await;
            cluster.net.heal();
        }
        sleep(Duration::from_secs(3)).await;
        cluster.clients().put(GROUP, "a", b"2").await;
        asleep(&cluster, GROUP).await;
        assert_eq!(cluster.leader(GROUP).await, leader, "seed {seed}");
        assert_eq!(cluster.status(leader).term, term, "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_group_removed_at_its_sleeping_leader_gets_a_new_leader() {
    let cluster = Cluster::three(33, RaftOptions::default()).await;
    cluster.clients().put(GROUP, "a", b"1").await;
    asleep(&cluster, GROUP).await;
    let leader = cluster.leader(GROUP).await;
    cluster.running[&leader].raft.remove_group(GROUP).await.unwrap();
    cluster.clients().put(GROUP, "a", b"2").await;
    assert_ne!(cluster.leader(GROUP).await, leader);
}

#[tokio::test(start_paused = true)]
async fn a_lost_member_does_not_keep_the_others_awake() {
    let mut cluster = Cluster::three(34, RaftOptions::default()).await;
    cluster.clients().put(GROUP, "a", b"1").await;
    let leader = cluster.leader(GROUP).await;
    let lost = ids(1..=3).into_iter().find(|node| *node != leader).unwrap();
    cluster.kill(lost, Death::PowerLoss).await;
    cluster.clients().put(GROUP, "a", b"2").await;
    asleep(&cluster, GROUP).await;
    sleep(Duration::from_secs(60)).await;
    asleep(&cluster, GROUP).await;
    cluster.boot(lost).await;
    cluster.converged(GROUP).await;
    asleep(&cluster, GROUP).await;
    assert_eq!(cluster.leader(GROUP).await, leader);
}
