//! Propose, read, fail over, restart.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use curve_io::Board;
use curve_multiraft::{Op, ProposeError, RaftOptions, Role};
use curve_types::{FRAME_PAYLOAD_BYTES_MAX, GroupId, NodeId};
use futures::future::join_all;
use tokio::time::Instant;

use crate::harness::{Cluster, Death, GROUP, ids};

#[tokio::test(start_paused = true)]
async fn what_was_acknowledged_is_on_all_replicas() {
    let cluster = Cluster::three(1, RaftOptions::default()).await;
    let client = cluster.clients();
    for n in 0..50u32 {
        let key = format!("key{}", n % 7);
        client.put(GROUP, &key, &n.to_le_bytes()).await;
    }
    cluster.converged(GROUP).await;
    let content = cluster.content(NodeId(1), GROUP);
    assert_eq!(content.lock().unwrap().map[&Bytes::from("key0")].0[..], 49u32.to_le_bytes());
    let leader = cluster.leader(GROUP).await;
    let status = cluster.status(leader);
    assert_eq!(status.role, Role::Leader);
    assert_eq!(status.members, ids(1..=3));
    assert_eq!(status.peers.len(), 2);
    assert_eq!(status.leader, Some(leader));
}

#[tokio::test(start_paused = true)]
async fn a_single_member_needs_nobody() {
    let mut cluster = Cluster::new(2, RaftOptions::default());
    cluster.boot(NodeId(1)).await;
    cluster.create(NodeId(1), GROUP, &ids(1..=1)).await;
    cluster.clients().put(GROUP, "a", b"1").await;
    cluster.kill(NodeId(1), Death::PowerLoss).await;
    cluster.boot(NodeId(1)).await;
    let back = Instant::now();
    cluster.leader(GROUP).await;
    assert!(back.elapsed() < Duration::from_millis(300), "nobody to wait for: {:?}", back.elapsed());
    assert_eq!(cluster.clients().put(GROUP, "a", b"2").await.result, Bytes::from_static(b"1"));
    assert_eq!(cluster.clients().barrier(GROUP, 0).await, Some(NodeId(1)));
}

#[tokio::test(start_paused = true)]
async fn operations_gather_in_few_entries() {
    let cluster = Cluster::three(3, RaftOptions::default()).await;
    let leader = cluster.leader(GROUP).await;
    let group = cluster.group(leader, GROUP).unwrap();
    let worker = |n: u32| {
        let group = group.clone();
        async move {
            for i in 0..100u32 {
                let op = Op { header: format!("{n}").into(), payload: vec![i.to_le_bytes().to_vec().into()] };
                group.propose(op).await.unwrap();
            }
        }
    };
    join_all((0..32).map(worker)).await;
    let content = cluster.content(leader, GROUP);
    let content = content.lock().unwrap();
    assert_eq!(content.ops, 3200);
    assert!(content.entries * 8 < content.ops, "{} entries for {} operations", content.entries, content.ops);
}

#[tokio::test(start_paused = true)]
async fn the_largest_operation_passes_and_a_larger_one_does_not() {
    let cluster = Cluster::three(4, RaftOptions::default()).await;
    let leader = cluster.leader(GROUP).await;
    let group = cluster.group(leader, GROUP).unwrap();
    let op = |bytes: usize| Op { header: vec![7; 2000].into(), payload: vec![vec![1; bytes].into()] };
    let all = join_all((0..20).map(|_| group.propose(op(FRAME_PAYLOAD_BYTES_MAX)))).await;
    assert!(all.iter().all(Result::is_ok));
    assert!(matches!(
        group.propose(op(FRAME_PAYLOAD_BYTES_MAX + 1)).await,
        Err(ProposeError::TooLarge { .. })
    ));
    cluster.converged(GROUP).await;
}

#[tokio::test(start_paused = true)]
async fn a_killed_leader_is_replaced_within_two_seconds() {
    for seed in 0..10 {
        let mut cluster = Cluster::three(100 + seed, RaftOptions::default()).await;
        cluster.clients().put(GROUP, "a", b"1").await;
        let leader = cluster.leader(GROUP).await;
        cluster.kill(leader, Death::Kill).await;
        let start = Instant::now();
        let put = cluster.clients().put(GROUP, "a", b"2").await;
        let stall = start.elapsed();
        assert_eq!(put.result, Bytes::from_static(b"1"));
        assert!(stall <= Duration::from_secs(2), "seed {seed}: {stall:?}");
        cluster.boot(leader).await;
        cluster.converged(GROUP).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_stopped_leader_hands_over() {
    for seed in 0..10 {
        let mut cluster = Cluster::three(200 + seed, RaftOptions::default()).await;
        cluster.clients().put(GROUP, "a", b"1").await;
        let leader = cluster.leader(GROUP).await;
        let client = cluster.clients();
        let running = cluster.running.get(&leader).unwrap().raft.clone();
        let stop = tokio::spawn(async move { running.shutdown().await });
        let start = Instant::now();
        client.put(GROUP, "a", b"2").await;
        assert!(start.elapsed() <= Duration::from_millis(200), "seed {seed}: {:?}", start.elapsed());
        stop.await.unwrap();
        cluster.kill(leader, Death::Kill).await;
        let start = Instant::now();
        cluster.clients().put(GROUP, "a", b"3").await;
        assert!(start.elapsed() <= Duration::from_millis(200), "seed {seed}: {:?}", start.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn all_restart_and_nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::three(5, RaftOptions::default()).await;
    for round in 0..4u32 {
        for n in 0..20u32 {
            cluster.clients().put(GROUP, &format!("{round}-{n}"), &n.to_le_bytes()).await;
        }
        if round == 2 {
            for node in ids(1..=3) {
                cluster.group(node, GROUP).unwrap().checkpoint().await.unwrap();
            }
        }
        for node in ids(1..=3) {
            cluster.kill(node, Death::PowerLoss).await;
        }
        for node in ids(1..=3) {
            cluster.boot(node).await;
        }
    }
    cluster.leader(GROUP).await;
    cluster.converged(GROUP).await;
    assert_eq!(cluster.content(NodeId(2), GROUP).lock().unwrap().map.len(), 80);
}

#[tokio::test(start_paused = true)]
async fn reads_cost_no_message_under_the_lease() {
    let cluster = Cluster::three(6, RaftOptions::default()).await;
    let leader = cluster.leader(GROUP).await;
    let group = cluster.group(leader, GROUP).unwrap();
    group.read_barrier().await.unwrap();
    let before = cluster.net.stats().requests;
    for _ in 0..1000 {
        group.read_barrier().await.unwrap();
    }
    assert!(cluster.net.stats().requests <= before + 4, "reads sent messages");
    let follower = ids(1..=3).into_iter().find(|node| *node != leader).unwrap();
    let refused = cluster.group(follower, GROUP).unwrap().read_barrier().await;
    assert_eq!(refused, Err(curve_multiraft::ReadError::NotLeader { hint: Some(leader) }));
}

#[tokio::test(start_paused = true)]
async fn reads_without_lease_ask_a_majority() {
    let options = RaftOptions { lease_reads: false, ..RaftOptions::default() };
    let cluster = Cluster::three(10, options).await;
    let leader = cluster.leader(GROUP).await;
    let group = cluster.group(leader, GROUP).unwrap();
    let pledge = Arc::new(Board::create().unwrap().pledge().unwrap());
    group.pledge_on(pledge.clone());
    let before = cluster.net.stats().requests;
    for _ in 0..100 {
        group.read_barrier().await.unwrap();
    }
    assert!(cluster.net.stats().requests >= before + 100, "reads were served without a message");
    assert!(!pledge.board().holds(pledge.number(), pledge.changes()), "nothing can be read unasked");
    // By its own clock the lease holds yet.
    cluster.isolate(leader, true);
    assert_eq!(group.read_barrier().await, Err(curve_multiraft::ReadError::Unavailable));
}

#[tokio::test(start_paused = true)]
async fn a_write_costs_one_message_per_follower() {
    let cluster = Cluster::three(9, RaftOptions::default()).await;
    let leader = cluster.leader(GROUP).await;
    let group = cluster.group(leader, GROUP).unwrap();
    let before = cluster.net.stats().requests;
    for n in 0..500u32 {
        let op = Op { header: Bytes::from_static(b"a"), payload: vec![n.to_le_bytes().to_vec().into()] };
        group.propose(op).await.unwrap();
    }
    let sent = cluster.net.stats().requests - before;
    assert!(sent < 1100, "{sent} messages for 500 writes");
    cluster.converged(GROUP).await;
}

#[tokio::test(start_paused = true)]
async fn many_groups_share_nodes() {
    let mut cluster = Cluster::new(7, RaftOptions::default());
    for node in ids(1..=3) {
        cluster.boot(node).await;
        for group in 1..=20 {
            cluster.create(node, GroupId(group), &ids(1..=3)).await;
        }
    }
    let client = cluster.clients();
    join_all((1..=20).map(|group| client.put(GroupId(group), "a", b"1"))).await;
    for group in 1..=20 {
        cluster.converged(GroupId(group)).await;
    }
    cluster.running[&NodeId(1)].raft.remove_group(GroupId(3)).await.unwrap();
    assert!(cluster.group(NodeId(1), GroupId(3)).is_none());
    cluster.clients().put(GroupId(3), "a", b"2").await;
}

#[tokio::test(start_paused = true)]
async fn a_dead_log_stops_all_groups_and_says_so() {
    let cluster = Cluster::three(8, RaftOptions::default()).await;
    let leader = cluster.leader(GROUP).await;
    cluster.clients().put(GROUP, "a", b"1").await;
    cluster.disks[&leader].set_fault(curve_io::sim::DiskFault::Syncs);
    cluster.clients().put(GROUP, "a", b"2").await;
    let group = cluster.group(leader, GROUP).unwrap();
    crate::harness::wait("a failed group", || {
        matches!(group.status().state, curve_multiraft::GroupState::Failed(_)).then_some(())
    })
    .await;
    assert_eq!(group.propose(Op::default()).await, Err(ProposeError::Stopped));
    assert_ne!(cluster.leader(GROUP).await, leader);
}
