//! Three MDSs in one process on simulated disks and a simulated network, with chunkservers that only pretend.

#[allow(dead_code, reason = "each test program uses a part of it")]
mod support;

use std::time::Duration;

use curve_proto::MdsError;
use curve_proto::mds::{
    ChunkserverState, CopysetHealth, CopysetInfo, HealthLevel, OpenMode, OpenRequest, SessionKey,
};
use curve_types::{ClientId, Epoch, SegmentIndex, VolumeId};
use support::{Cluster, eventually};
use tokio::time::{Instant, sleep};

const GIB: u64 = 1 << 30;

fn open_as(client: u64, path: &str) -> OpenRequest {
    OpenRequest {
        path: path.into(),
        volume: None,
        mode: OpenMode::Exclusive,
        client: ClientId(client),
        host: format!("host-{client}"),
        process: client as u32,
        takeover: false,
        displaced: Vec::new(),
    }
}

/// No session's holder; the newest epoch needs none.
fn nobody(volume: VolumeId, epoch: u64) -> SessionKey {
    SessionKey { volume, client: ClientId(99), epoch: Epoch(epoch) }
}

#[tokio::test(start_paused = true)]
async fn the_namespace_survives_the_loss_of_each_mds_in_turn() {
    let mut cluster = Cluster::start(3, 0).await;
    let api = cluster.api(1);
    api.make_directory("/a/b", true).await.unwrap();
    let created = api.create_volume("/a/b/disk", 4 * GIB).await.unwrap();
    assert!(created.warning.is_some(), "no chunkservers: creating says so");
    for victim in 0..3 {
        cluster.kill_mds(victim);
        let path = format!("/a/v{victim}");
        api.create_volume(&path, GIB).await.unwrap();
        api.rename(&path, &format!("/a/b/v{victim}")).await.unwrap();
        assert_eq!(api.stat("/a/b/disk").await.unwrap().volume.unwrap(), created.volume);
        cluster.start_mds(victim).await;
        // The one that was away has to have caught up before the next one goes.
        eventually("all MDSs up", || async {
            api.status().await.is_ok_and(|status| status.mds.iter().all(|mds| mds.up && mds.lag == 0))
        })
        .await;
    }
    let names: Vec<String> = api.list("/a/b").await.unwrap().into_iter().map(|entry| entry.name).collect();
    assert_eq!(names, ["disk", "v0", "v1", "v2"]);
}

#[tokio::test(start_paused = true)]
async fn without_a_majority_mutations_fail_with_a_remedy() {
    let mut cluster = Cluster::start(3, 0).await;
    let api = cluster.api(1);
    api.create_volume("/one", GIB).await.unwrap();
    cluster.kill_mds(0);
    cluster.kill_mds(1);
    let error = api.create_volume("/two", GIB).await.unwrap_err();
    assert!(matches!(error, MdsError::Unavailable { .. }), "{error}");
    assert!(error.remedy().contains("majority"));
    cluster.start_mds(0).await;
    api.create_volume("/two", GIB).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn three_chunkservers_become_a_healthy_cluster_that_allocates() {
    let cluster = Cluster::start(3, 3).await;
    let api = cluster.api(1);
    cluster.wait_healthy(&api).await;
    let copysets = api.copysets(&[]).await.unwrap();
    assert_eq!(copysets.len(), 4);
    assert!(copysets.iter().all(|copyset| copyset.members.len() == 3 && copyset.health == CopysetHealth::Ok));
    let volume = api.create_volume("/disk", 4 * GIB).await.unwrap().volume;
    assert_eq!(api.segment(nobody(volume.id, 1), SegmentIndex(0), false).await.unwrap(), None);
    let map = api.segment(nobody(volume.id, 1), SegmentIndex(0), true).await.unwrap().unwrap();
    assert_eq!(map.len(), 64);
    assert_eq!(api.segment(nobody(volume.id, 1), SegmentIndex(0), true).await.unwrap().unwrap(), map);
    for copyset in &copysets {
        assert_eq!(map.iter().filter(|id| **id == copyset.id).count(), 16);
    }
    assert!(matches!(
        api.segment(nobody(volume.id, 1), SegmentIndex(4), true).await,
        Err(MdsError::BadRequest { .. })
    ));
    assert_eq!(api.disk_usage("/").await.unwrap().allocated, GIB);
    // Leaders spread by themselves.
    eventually("leaders are balanced", || async {
        let leaders: Vec<u32> = api.chunkservers().await.unwrap().iter().map(|c| c.leaders).collect();
        leaders.iter().sum::<u32>() == 4 && leaders.iter().max().unwrap() - leaders.iter().min().unwrap() <= 1
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_second_opener_is_refused_until_the_lease_ends_and_then_fences() {
    let cluster = Cluster::start(3, 3).await;
    let api = cluster.api(1);
    cluster.wait_healthy(&api).await;
    let volume = api.create_volume("/disk", 4 * GIB).await.unwrap().volume;
    let first = api.open(&open_as(1, "/disk")).await.unwrap();
    assert_eq!(first.volume.epoch, Epoch(1), "nobody had it before: no fence");
    api.segment(nobody(volume.id, 1), SegmentIndex(0), true).await.unwrap();

    let held = api.open(&open_as(2, "/disk")).await.unwrap_err();
    let MdsError::HeldBy { holder, .. } = &held else { panic!("{held}") };
    assert_eq!((holder.host.as_str(), holder.process), ("host-1", 1));
    assert!(matches!(api.delete("/disk").await, Err(MdsError::HeldBy { .. })));

    let key = SessionKey { volume: volume.id, client: ClientId(1), epoch: Epoch(1) };
    for _ in 0..5 {
        sleep(first.lease / 2).await;
        assert!(api.refresh(&[key]).await.unwrap().sessions[0].outcome.is_ok());
    }
    assert!(matches!(api.open(&open_as(2, "/disk")).await, Err(MdsError::HeldBy { .. })));

    sleep(first.lease * 2).await;
    let second = api.open(&open_as(2, "/disk")).await.unwrap();
    assert_eq!(second.volume.epoch, Epoch(2));
    assert_eq!(
        cluster.fences(volume.id),
        [(1, 2), (2, 2), (3, 2), (4, 2)],
        "every copyset refuses the first opener"
    );
    assert!(matches!(
        api.refresh(&[key]).await.unwrap().sessions[0].outcome,
        Err(MdsError::Fenced { held: Epoch(2) })
    ));
    assert!(matches!(
        api.segment(nobody(volume.id, 1), SegmentIndex(1), true).await,
        Err(MdsError::Fenced { held: Epoch(2) })
    ));
}

#[tokio::test(start_paused = true)]
async fn a_lapsed_shared_holder_is_fenced_and_the_live_ones_are_kept() {
    let cluster = Cluster::start(3, 3).await;
    let api = cluster.api(1);
    cluster.wait_healthy(&api).await;
    let volume = api.create_volume("/disk", 4 * GIB).await.unwrap().volume;
    let shared = |client| OpenRequest { mode: OpenMode::Shared, ..open_as(client, "/disk") };
    let key = |client, epoch| SessionKey { volume: volume.id, client: ClientId(client), epoch: Epoch(epoch) };
    let lease = api.open(&shared(1)).await.unwrap().lease;
    assert_eq!(api.open(&shared(2)).await.unwrap().epoch, Epoch(1));
    api.segment(key(1, 1), SegmentIndex(0), true).await.unwrap();
    for _ in 0..4 {
        sleep(lease / 2).await;
        api.refresh(&[key(2, 1)]).await.unwrap();
    }
    let holders = api.stat("/disk").await.unwrap().holders;
    assert_eq!(
        holders.iter().map(|h| (h.client.get(), h.lapsed)).collect::<Vec<_>>(),
        [(1, true), (2, false)]
    );
    assert!(holders[1].lease_left > lease / 2 && holders[1].epoch == Epoch(1));

    cluster.refuse_fences(true);
    assert!(api.open(&shared(3)).await.is_err(), "not before the lapsed one is shut out");
    cluster.refuse_fences(false);
    assert_eq!(api.open(&shared(3)).await.unwrap().epoch, Epoch(2));
    assert_eq!(cluster.fences(volume.id), [(1, 2), (2, 2), (3, 2), (4, 2)]);
    assert!(cluster.kept(volume.id).iter().all(|kept| *kept == [(2, 1)]), "{:?}", cluster.kept(volume.id));
    assert!(matches!(
        api.segment(key(1, 1), SegmentIndex(1), true).await,
        Err(MdsError::Fenced { held: Epoch(2) })
    ));
    api.segment(key(2, 1), SegmentIndex(1), true).await.unwrap();
    assert!(api.refresh(&[key(2, 1)]).await.unwrap().sessions[0].outcome.is_ok());
}

#[tokio::test(start_paused = true)]
async fn breaking_a_session_returns_once_every_copyset_refuses_its_holder() {
    let cluster = Cluster::start(3, 3).await;
    let api = cluster.api(1);
    cluster.wait_healthy(&api).await;
    let volume = api.create_volume("/disk", 4 * GIB).await.unwrap().volume;
    let shared = |client| OpenRequest { mode: OpenMode::Shared, ..open_as(client, "/disk") };
    for client in [1, 2] {
        api.open(&shared(client)).await.unwrap();
    }
    api.segment(nobody(volume.id, 1), SegmentIndex(0), true).await.unwrap();
    cluster.refuse_fences(true);
    let patience = Duration::from_secs(5);
    let error = api.break_sessions("/disk", &[ClientId(1)], patience).await.unwrap_err();
    assert!(matches!(error, MdsError::InProgress { .. } | MdsError::Unavailable { .. }), "{error}");
    cluster.refuse_fences(false);
    // Its session is gone, its fence is not: asking again without naming it waits for that.
    api.break_sessions("/disk", &[], patience).await.unwrap();
    assert!(cluster.fences(volume.id).iter().all(|(_, epoch)| *epoch == 2));
    assert!(cluster.kept(volume.id).iter().all(|kept| *kept == [(2, 1)]));
}

#[tokio::test(start_paused = true)]
async fn a_clean_close_needs_no_fence_and_an_unclean_one_does() {
    let cluster = Cluster::start(3, 3).await;
    let api = cluster.api(1);
    cluster.wait_healthy(&api).await;
    let volume = api.create_volume("/disk", 4 * GIB).await.unwrap().volume;
    for (client, drained, epoch) in [(1, true, 1), (2, false, 1), (3, true, 2), (4, true, 2)] {
        let opened = api.open(&open_as(client, "/disk")).await.unwrap();
        assert_eq!(opened.volume.epoch, Epoch(epoch), "client {client}");
        api.segment(nobody(volume.id, epoch), SegmentIndex(0), true).await.unwrap();
        let key = SessionKey { volume: volume.id, client: ClientId(client), epoch: Epoch(epoch) };
        api.close(key, drained).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn an_open_waits_for_every_copyset_to_be_fenced() {
    let cluster = Cluster::start(3, 3).await;
    let api = cluster.api(1);
    cluster.wait_healthy(&api).await;
    let volume = api.create_volume("/disk", 4 * GIB).await.unwrap().volume;
    api.open(&open_as(1, "/disk")).await.unwrap();
    api.segment(nobody(volume.id, 1), SegmentIndex(0), true).await.unwrap();
    cluster.refuse_fences(true);
    let takeover = OpenRequest { takeover: true, ..open_as(2, "/disk") };
    let error = api.open(&takeover).await.unwrap_err();
    assert!(matches!(error, MdsError::InProgress { .. } | MdsError::Unavailable { .. }), "{error}");
    cluster.refuse_fences(false);
    assert_eq!(api.open(&takeover).await.unwrap().volume.epoch, Epoch(2));
    assert!(cluster.fences(volume.id).iter().all(|(_, epoch)| *epoch == 2));
}

#[tokio::test(start_paused = true)]
async fn leases_start_anew_after_a_change_of_leader() {
    let mut cluster = Cluster::start(3, 3).await;
    let api = cluster.api(1);
    cluster.wait_healthy(&api).await;
    api.create_volume("/disk", 4 * GIB).await.unwrap();
    let first = api.open(&open_as(1, "/disk")).await.unwrap();
    cluster.kill_mds(cluster.leader().await);
    // Longer than the lease since the last refresh, but no leader could have been told.
    sleep(first.lease * 3 / 4).await;
    assert!(matches!(api.open(&open_as(2, "/disk")).await, Err(MdsError::HeldBy { .. })));
    sleep(first.lease * 2).await;
    assert_eq!(api.open(&open_as(2, "/disk")).await.unwrap().volume.epoch, Epoch(2));
}

#[tokio::test(start_paused = true)]
async fn a_deleted_volume_leaves_nothing_behind() {
    let mut cluster = Cluster::start(3, 3).await;
    let api = cluster.api(1);
    cluster.wait_healthy(&api).await;
    let volume = api.create_volume("/disk", 4 * GIB).await.unwrap().volume;
    api.segment(nobody(volume.id, 1), SegmentIndex(0), true).await.unwrap();
    cluster.refuse_fences(true);
    api.delete("/disk").await.unwrap();
    assert!(matches!(api.stat("/disk").await, Err(MdsError::NotFound { .. })));
    sleep(Duration::from_secs(10)).await;
    assert_eq!(api.status().await.unwrap().volumes_deleting, 1);
    cluster.kill_mds(cluster.leader().await);
    cluster.refuse_fences(false);
    eventually("the data is gone", || async {
        api.status().await.is_ok_and(|status| status.volumes_deleting == 0)
    })
    .await;
    assert_eq!(cluster.deleted(volume.id), [1, 2, 3, 4]);
}

#[tokio::test(start_paused = true)]
async fn a_dead_chunkservers_replicas_are_rebuilt_and_a_silent_ones_are_not() {
    let mut cluster = Cluster::start(3, 4).await;
    let api = cluster.api(1);
    cluster.wait_healthy(&api).await;
    let victim = cluster.chunkserver(0);
    cluster.stop_chunkserver(0);
    sleep(Duration::from_secs(20)).await;
    let status = api.status().await.unwrap();
    assert_eq!(status.level, HealthLevel::Warn);
    assert!(status.health.iter().any(|item| item.code == "CHUNKSERVER_DOWN"), "{:?}", status.health);
    let on_victim = |copysets: &[CopysetInfo]| {
        copysets.iter().filter(|copyset| copyset.members.iter().any(|member| member.node == victim)).count()
    };
    assert!(on_victim(&api.copysets(&[]).await.unwrap()) > 0, "only silent: nothing moves");
    eventually("the replicas are rebuilt", || async {
        let copysets = api.copysets(&[]).await.unwrap();
        on_victim(&copysets) == 0 && copysets.iter().all(|copyset| copyset.health == CopysetHealth::Ok)
    })
    .await;
    let dead = api.chunkservers().await.unwrap().into_iter().find(|c| c.node == victim).unwrap();
    assert_eq!((dead.state, dead.copysets), (ChunkserverState::Dead, 0));
    // Back again, it is told to delete what it has.
    cluster.start_chunkserver(0).await;
    eventually("old replicas are dropped", || async { cluster.replicas(victim).is_empty() }).await;
}

#[tokio::test(start_paused = true)]
async fn a_chunkserver_that_lost_a_replica_gets_it_again() {
    let cluster = Cluster::start(3, 3).await;
    let api = cluster.api(1);
    cluster.wait_healthy(&api).await;
    let node = cluster.chunkserver(1);
    cluster.lose_replicas(node);
    eventually("the replicas are back", || async {
        let copysets = api.copysets(&[]).await.unwrap();
        cluster.replicas(node).len() == 4
            && copysets.iter().all(|copyset| copyset.health == CopysetHealth::Ok)
    })
    .await;
    assert!(cluster.creations(node) <= 4, "no replica is created a second time as if it were new");
}

#[tokio::test(start_paused = true)]
async fn a_chunkserver_keeps_its_id_when_it_moves_and_can_be_removed() {
    let mut cluster = Cluster::start(3, 4).await;
    let api = cluster.api(1);
    cluster.wait_healthy(&api).await;
    let node = cluster.chunkserver(3);
    cluster.stop_chunkserver(3);
    cluster.move_chunkserver(3, "elsewhere");
    cluster.start_chunkserver(3).await;
    assert_eq!(cluster.chunkserver(3), node);
    let address = api.chunkservers().await.unwrap().into_iter().find(|c| c.node == node).unwrap().address;
    assert_eq!(address, "elsewhere:1");
    api.remove_chunkserver(node).await.unwrap();
    eventually("it is forgotten", || async {
        api.chunkservers().await.unwrap().iter().all(|chunkserver| chunkserver.node != node)
    })
    .await;
    let error = api.remove_chunkserver(cluster.chunkserver(0)).await.unwrap_err();
    assert!(matches!(error, MdsError::NotEnoughChunkservers { have: 2, need: 3 }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn full_disks_refuse_segments_with_no_space() {
    let cluster = Cluster::start(3, 3).await;
    let api = cluster.api(1);
    cluster.wait_healthy(&api).await;
    let volume = api.create_volume("/disk", 4 * GIB).await.unwrap().volume;
    cluster.set_free(cluster.chunkserver(0), 1 << 20);
    eventually("health says so", || async {
        api.status().await.unwrap().health.iter().any(|item| item.code == "CAPACITY_FULL")
    })
    .await;
    let error = api.segment(nobody(volume.id, 1), SegmentIndex(0), true).await.unwrap_err();
    assert!(matches!(error, MdsError::NoSpace { .. }), "{error}");
    cluster.set_free(cluster.chunkserver(0), 1 << 40);
    eventually("there is room again", || async {
        api.segment(nobody(volume.id, 1), SegmentIndex(0), true).await.is_ok()
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_mds_that_lost_its_disk_votes_only_after_it_has_the_state_again() {
    let mut cluster = Cluster::start(3, 0).await;
    let api = cluster.api(1);
    api.create_volume("/one", GIB).await.unwrap();
    cluster.kill_mds(2);
    api.create_volume("/two", GIB).await.unwrap();
    // What is acknowledged now is on the first two only. The second forgets, and the third comes back: without the
    // first they must not make a leader that never heard of it.
    cluster.kill_mds(0);
    cluster.kill_mds(1);
    cluster.wipe_mds(1);
    cluster.start_mds(1).await;
    cluster.start_mds(2).await;
    assert!(
        matches!(api.stat("/one").await, Err(MdsError::Unavailable { .. })),
        "no leader without the first"
    );
    cluster.start_mds(0).await;
    eventually("all are members and level", || async {
        api.status().await.is_ok_and(|status| {
            let rejoining = status.health.iter().any(|item| item.code == "MDS_REJOINING");
            !rejoining && status.mds.iter().all(|mds| mds.up && mds.lag == 0)
        })
    })
    .await;
    // Now it counts: it and the third have everything.
    cluster.kill_mds(0);
    assert!(api.stat("/two").await.is_ok());
    api.create_volume("/three", GIB).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_new_disk_in_an_old_ones_place_is_filled_at_once() {
    let mut cluster = Cluster::start(3, 3).await;
    let api = cluster.api(1);
    cluster.wait_healthy(&api).await;
    let old = cluster.chunkserver(2);
    cluster.stop_chunkserver(2);
    cluster.format_chunkserver(2);
    cluster.start_chunkserver(2).await;
    let new = cluster.chunkserver(2);
    assert_ne!(new, old);
    let replaced = Instant::now();
    eventually("the new one has what the old one had", || async {
        let copysets = api.copysets(&[]).await.unwrap();
        let on = |copyset: &CopysetInfo, node| copyset.members.iter().any(|member| member.node == node);
        copysets.iter().all(|c| c.health == CopysetHealth::Ok && on(c, new) && !on(c, old))
    })
    .await;
    assert!(replaced.elapsed() < Duration::from_secs(40), "without waiting for the old one to be dead");
    assert_eq!(api.copysets(&[]).await.unwrap().len(), 4, "and without further copysets");
    eventually("the old one is forgotten", || async { api.chunkservers().await.unwrap().len() == 3 }).await;
    cluster.wait_healthy(&api).await;
}
