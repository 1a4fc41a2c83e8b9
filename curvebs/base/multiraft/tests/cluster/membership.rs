//! Members come and go, leadership moves.

use std::time::Duration;

use curve_multiraft::{Group, MembershipError, RaftOptions};
use curve_types::NodeId;
use tokio::time::Instant;

use crate::harness::{Cluster, Death, GROUP, ids, wait};

#[tokio::test(start_paused = true)]
async fn a_member_is_replaced() {
    let mut cluster = Cluster::three(11, RaftOptions::default()).await;
    for n in 0..100u32 {
        cluster.clients().put(GROUP, &n.to_string(), &[1; 1000]).await;
    }
    cluster.boot(NodeId(4)).await;
    cluster.join(NodeId(4), GROUP).await;
    let leader = cluster.leader(GROUP).await;
    let group = cluster.group(leader, GROUP).unwrap();
    group.add_member(NodeId(4)).await.unwrap();
    group.add_member(NodeId(4)).await.unwrap();
    assert_eq!(cluster.status(leader).members, ids(1..=4));
    let gone = ids(1..=3).into_iter().find(|node| *node != leader).unwrap();
    group.remove_member(gone).await.unwrap();
    group.remove_member(gone).await.unwrap();
    cluster.running[&gone].raft.remove_group(GROUP).await.unwrap();
    cluster.clients().put(GROUP, "after", b"x").await;
    cluster.converged(GROUP).await;
    // The new member counts: with it, one of the old ones may be missing.
    cluster.kill(leader, Death::Kill).await;
    cluster.clients().put(GROUP, "later", b"x").await;
    cluster.running[&gone].raft.halt().await;
    cluster.converged(GROUP).await;
    assert_eq!(cluster.content(NodeId(4), GROUP).lock().unwrap().map.len(), 102);
}

/// A new member may be lost before it has caught up. The group must get rid of it and of others all the same.
#[tokio::test(start_paused = true)]
async fn changes_go_on_while_a_new_member_is_waited_for_in_vain() {
    let mut cluster = Cluster::three(16, RaftOptions::default()).await;
    cluster.clients().put(GROUP, "a", b"1").await;
    let leader = cluster.leader(GROUP).await;
    let group = cluster.group(leader, GROUP).unwrap();
    let others: Vec<NodeId> = ids(1..=3).into_iter().filter(|node| *node != leader).collect();
    let waiting = |group: &Group| {
        let group = group.clone();
        tokio::spawn(async move { group.add_member(NodeId(4)).await })
    };
    // It never answers.
    let add = waiting(&group);
    wait("a learner", || cluster.status(leader).learners.contains(&NodeId(4)).then_some(())).await;
    let start = Instant::now();
    cluster.kill(others[0], Death::Kill).await;
    group.remove_member(others[0]).await.unwrap();
    group.transfer_leader(others[1]).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert!(!add.is_finished() || add.await.unwrap().is_err());
    let group = cluster.group(cluster.leader(GROUP).await, GROUP).unwrap();
    assert_eq!(group.status().learners, [NodeId(4)]);

    // One that is removed again is not waited for, and becomes no voter after all.
    let start = Instant::now();
    let add = waiting(&group);
    tokio::time::sleep(Duration::from_millis(50)).await;
    group.remove_member(NodeId(4)).await.unwrap();
    assert_eq!(add.await.unwrap(), Err(MembershipError::NotMember { node: NodeId(4) }));
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());

    // Whoever asks is told soon that it takes longer, and may ask for something else.
    let start = Instant::now();
    assert_eq!(group.add_member(NodeId(4)).await, Err(MembershipError::TooSlow { node: NodeId(4) }));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_removes_itself_hands_over_first() {
    let cluster = Cluster::three(12, RaftOptions::default()).await;
    let leader = cluster.leader(GROUP).await;
    let refused = cluster.group(leader, GROUP).unwrap().remove_member(leader).await;
    let Err(MembershipError::NotLeader { hint: Some(next) }) = refused else { panic!("{refused:?}") };
    let group = cluster.group(next, GROUP).unwrap();
    wait("a leader that serves", || (*group.watch_leader().borrow() == Some(next)).then_some(())).await;
    group.remove_member(leader).await.unwrap();
    assert_eq!(cluster.status(next).members.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn leadership_moves_where_it_is_sent_and_back() {
    let cluster = Cluster::three(13, RaftOptions::default()).await;
    cluster.clients().put(GROUP, "a", b"1").await;
    for target in [1, 2, 3, 1, 3, 2].map(NodeId) {
        let leader = cluster.leader(GROUP).await;
        let start = Instant::now();
        cluster.group(leader, GROUP).unwrap().transfer_leader(target).await.unwrap();
        cluster.clients().put(GROUP, "a", b"2").await;
        assert!(start.elapsed() < Duration::from_millis(200), "{:?}", start.elapsed());
        assert_eq!(cluster.leader(GROUP).await, target);
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_transfer_leaves_the_leader_working() {
    let mut cluster = Cluster::three(14, RaftOptions::default()).await;
    let leader = cluster.leader(GROUP).await;
    let dead = ids(1..=3).into_iter().find(|node| *node != leader).unwrap();
    cluster.kill(dead, Death::Kill).await;
    let group = cluster.group(leader, GROUP).unwrap();
    let refused = group.transfer_leader(dead).await;
    assert_eq!(refused, Err(MembershipError::TooSlow { node: dead }));
    let start = Instant::now();
    cluster.clients().put(GROUP, "a", b"1").await;
    assert!(start.elapsed() < Duration::from_millis(200), "{:?}", start.elapsed());
    group.read_barrier().await.unwrap();
    assert_eq!(cluster.leader(GROUP).await, leader);
    assert_eq!(group.transfer_leader(NodeId(9)).await, Err(MembershipError::NotMember { node: NodeId(9) }));
}

/// An order to hand over may come while its target restarts, hangs or is far behind: nobody may wait for that.
#[tokio::test(start_paused = true)]
async fn writes_go_on_while_a_successor_is_waited_for_in_vain() {
    for isolated in [false, true] {
        let mut cluster = Cluster::three(15, RaftOptions::default()).await;
        let leader = cluster.leader(GROUP).await;
        let target = ids(1..=3).into_iter().find(|node| *node != leader).unwrap();
        match isolated {
            true => cluster.isolate(target, true),
            false => cluster.kill(target, Death::Kill).await,
        }
        let group = cluster.group(leader, GROUP).unwrap();
        let transfer = tokio::spawn(async move { group.transfer_leader(target).await });
        let mut longest = Duration::ZERO;
        while !transfer.is_finished() {
            let start = Instant::now();
            cluster.clients().put(GROUP, "a", b"1").await;
            longest = longest.max(start.elapsed());
        }
        assert_eq!(transfer.await.unwrap(), Err(MembershipError::TooSlow { node: target }));
        assert!(longest < Duration::from_millis(100), "isolated: {isolated}, {longest:?}");
    }
}
