//! Followers that were away: catch-up by log, by difference, and when it is interrupted.

use std::time::Duration;

use curve_multiraft::{GroupState, RaftOptions};
use curve_types::NodeId;
use tokio::time::{Instant, sleep};

use crate::harness::{Cluster, Death, GROUP, ids, wait};

fn no_tail() -> RaftOptions {
    RaftOptions {
        log_keep_entries: 0,
        log_keep_bytes: 0,
        checkpoint_log_bytes: 64 << 10,
        ..RaftOptions::default()
    }
}

async fn fill(cluster: &Cluster, keys: std::ops::Range<u32>, bytes: usize) {
    let client = cluster.clients();
    for n in keys {
        client.put(GROUP, &n.to_string(), &vec![n as u8; bytes]).await;
    }
}

/// Waits until the running replicas have purged their logs up to what they applied at the call.
async fn purged(cluster: &Cluster) {
    let upto = cluster.status(cluster.leader(GROUP).await).applied;
    for node in cluster.running.keys() {
        cluster.group(*node, GROUP).unwrap().checkpoint().await.unwrap();
    }
    wait("a purged log", || {
        cluster.running.keys().all(|node| cluster.status(*node).purged.get() + 70 > upto.get()).then_some(())
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_short_absence_is_made_up_from_the_log() {
    let mut cluster = Cluster::three(21, RaftOptions::default()).await;
    fill(&cluster, 0..50, 1000).await;
    let away = follower(&cluster).await;
    cluster.kill(away, Death::PowerLoss).await;
    fill(&cluster, 50..150, 1000).await;
    for node in cluster.running.keys() {
        cluster.group(*node, GROUP).unwrap().checkpoint().await.unwrap();
    }
    sleep(Duration::from_secs(5)).await;
    cluster.boot(away).await;
    cluster.converged(GROUP).await;
    assert_eq!(cluster.content(away, GROUP).lock().unwrap().installs, 0);
}

#[tokio::test(start_paused = true)]
async fn only_what_changed_is_copied() {
    let mut cluster = Cluster::three(22, no_tail()).await;
    fill(&cluster, 0..200, 4096).await;
    cluster.converged(GROUP).await;
    let away = follower(&cluster).await;
    cluster.group(away, GROUP).unwrap().checkpoint().await.unwrap();
    cluster.kill(away, Death::PowerLoss).await;
    fill(&cluster, 20..40, 4096).await;
    fill(&cluster, 20..40, 4096).await;
    fill(&cluster, 20..40, 4096).await;
    fill(&cluster, 20..40, 4096).await;
    purged(&cluster).await;
    cluster.boot(away).await;
    cluster.converged(GROUP).await;
    let content = cluster.content(away, GROUP);
    let content = content.lock().unwrap();
    assert_eq!(content.installs, 1);
    assert_eq!(content.fetched, 20 * 4096);
}

#[tokio::test(start_paused = true)]
async fn writes_go_on_during_a_transfer() {
    let options = RaftOptions { snapshot_bytes_per_second: Some(200_000), ..no_tail() };
    let mut cluster = Cluster::three(23, options).await;
    let away = follower(&cluster).await;
    cluster.kill(away, Death::Kill).await;
    fill(&cluster, 0..200, 4096).await;
    purged(&cluster).await;
    cluster.boot(away).await;
    wait("an install", || (cluster.status(away).state == GroupState::Installing).then_some(())).await;
    fill(&cluster, 100..300, 4096).await;
    assert_eq!(cluster.status(away).state, GroupState::Installing);
    cluster.converged(GROUP).await;
    assert_eq!(cluster.content(away, GROUP).lock().unwrap().map.len(), 300);
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_install_is_taken_up_again() {
    let mut cluster = Cluster::three(24, no_tail()).await;
    let away = follower(&cluster).await;
    cluster.kill(away, Death::Kill).await;
    fill(&cluster, 0..200, 4096).await;
    purged(&cluster).await;
    cluster.boot(away).await;
    cluster.content(away, GROUP).lock().unwrap().fail_install_after = Some(100);
    cluster.converged(GROUP).await;
    let content = cluster.content(away, GROUP);
    let content = content.lock().unwrap();
    assert_eq!(content.installs, 1);
    assert_eq!(content.fetched, 200 * 4096, "what had been fetched is not fetched again");
}

/// The replica that installs is the one that the next leader needs for a majority: it must not wait for the old one.
#[tokio::test(start_paused = true)]
async fn an_install_from_a_leader_that_fell_silent_gives_way_to_the_next_ones() {
    let options = RaftOptions { snapshot_bytes_per_second: Some(400_000), ..no_tail() };
    let mut cluster = Cluster::three(29, options).await;
    let away = follower(&cluster).await;
    cluster.kill(away, Death::Kill).await;
    fill(&cluster, 0..200, 4096).await;
    purged(&cluster).await;
    cluster.boot(away).await;
    wait("an install", || (cluster.status(away).state == GroupState::Installing).then_some(())).await;
    let leader = cluster.leader(GROUP).await;
    cluster.isolate(leader, true);
    let begun = Instant::now();
    cluster.clients().put(GROUP, "after", b"x").await;
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(6), "{took:?}");
    cluster.isolate(leader, false);
    cluster.converged(GROUP).await;
}

#[tokio::test(start_paused = true)]
async fn a_crash_during_an_install_is_harmless() {
    for death in [Death::Kill, Death::PowerLoss] {
        let options = RaftOptions { snapshot_bytes_per_second: Some(400_000), ..no_tail() };
        let mut cluster = Cluster::three(25, options).await;
        let away = follower(&cluster).await;
        cluster.kill(away, Death::Kill).await;
        fill(&cluster, 0..200, 4096).await;
        purged(&cluster).await;
        for _ in 0..3 {
            cluster.boot(away).await;
            wait("an install", || (cluster.status(away).state == GroupState::Installing).then_some(())).await;
            sleep(Duration::from_millis(500)).await;
            cluster.kill(away, death).await;
        }
        cluster.boot(away).await;
        cluster.converged(GROUP).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_leader_dies_during_a_transfer() {
    let options = RaftOptions { snapshot_bytes_per_second: Some(400_000), ..no_tail() };
    let mut cluster = Cluster::three(26, options).await;
    let away = follower(&cluster).await;
    cluster.kill(away, Death::Kill).await;
    fill(&cluster, 0..200, 4096).await;
    purged(&cluster).await;
    cluster.boot(away).await;
    wait("an install", || (cluster.status(away).state == GroupState::Installing).then_some(())).await;
    sleep(Duration::from_millis(500)).await;
    let leader = cluster.leader(GROUP).await;
    cluster.kill(leader, Death::Kill).await;
    cluster.boot(leader).await;
    fill(&cluster, 0..10, 100).await;
    cluster.converged(GROUP).await;
}

#[tokio::test(start_paused = true)]
async fn a_new_member_is_filled_by_snapshot() {
    let mut cluster = Cluster::three(27, no_tail()).await;
    fill(&cluster, 0..200, 4096).await;
    purged(&cluster).await;
    cluster.boot(NodeId(4)).await;
    cluster.join(NodeId(4), GROUP).await;
    let leader = cluster.leader(GROUP).await;
    cluster.group(leader, GROUP).unwrap().add_member(NodeId(4)).await.unwrap();
    cluster.converged(GROUP).await;
    assert_eq!(cluster.content(NodeId(4), GROUP).lock().unwrap().installs, 1);
    cluster.kill(NodeId(4), Death::PowerLoss).await;
    cluster.boot(NodeId(4)).await;
    fill(&cluster, 0..10, 100).await;
    cluster.converged(GROUP).await;
}

async fn follower(cluster: &Cluster) -> NodeId {
    let leader = cluster.leader(GROUP).await;
    ids(1..=3).into_iter().find(|node| *node != leader).unwrap()
}

/// Large values are placed on each replica, and none of them is in a log.
#[tokio::test(start_paused = true)]
async fn placed_values_survive_a_power_loss_and_reach_a_follower_that_was_away() {
    let mut cluster = Cluster::three(31, RaftOptions::default()).await;
    fill(&cluster, 0..20, 3000).await;
    let away = follower(&cluster).await;
    cluster.kill(away, Death::PowerLoss).await;
    // More than the leader keeps in memory for it.
    fill(&cluster, 20..60, 200_000).await;
    let logged: u64 = cluster.running.values().map(|running| running.log.stats().appended_bytes).sum();
    assert!(logged < 2 * 300_000, "{logged} bytes are in the logs of two replicas");
    cluster.boot(away).await;
    cluster.converged(GROUP).await;
    let leader = cluster.leader(GROUP).await;
    {
        let (content, leader) = (cluster.content(away, GROUP), cluster.content(leader, GROUP));
        assert_eq!(content.lock().unwrap().installs, 0);
        assert!(content.lock().unwrap().placed >= 40 && leader.lock().unwrap().restored > 0);
    }
    // All lose power; what was placed is applied again from the log.
    for node in ids(1..=3) {
        cluster.kill(node, Death::PowerLoss).await;
    }
    for node in ids(1..=3) {
        cluster.boot(node).await;
    }
    cluster.converged(GROUP).await;
    let content = cluster.content(leader, GROUP);
    let content = content.lock().unwrap();
    assert_eq!(content.map.len(), 60);
    assert!(content.map.values().all(|(value, _)| value.iter().all(|byte| *byte == value[0])));
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_needs_what_was_overwritten_gets_a_snapshot() {
    let mut cluster = Cluster::three(32, RaftOptions::default()).await;
    fill(&cluster, 0..20, 3000).await;
    let away = follower(&cluster).await;
    cluster.kill(away, Death::PowerLoss).await;
    fill(&cluster, 20..60, 200_000).await;
    for node in cluster.running.keys() {
        cluster.content(*node, GROUP).lock().unwrap().altered = true;
    }
    cluster.boot(away).await;
    cluster.converged(GROUP).await;
    assert!(cluster.content(away, GROUP).lock().unwrap().installs > 0);
}
