//! File systems, mounts and metaservers in an MDS group of three on simulated disks and a simulated network.

#[allow(dead_code, reason = "each test program uses a part of it")]
#[path = "../../../curvefs/mds/tests/support/fleet.rs"]
mod fleet;
#[allow(dead_code, reason = "each test program uses a part of it")]
mod support;

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use curve_proto::mds::HealthLevel;
use curve_proto::pb::fs::fs_request::Op;
use curve_proto::pb::fs::fs_response::Result as Answer;
use curve_proto::pb::fs::{
    FsCreate, FsEmpty, FsEvict, FsGetPartitions, FsGrant, FsMount, FsMountInfo, FsMountKey, FsName,
    FsPartitions, FsRecord, FsRefresh, FsRefreshed, FsSetKeys, FsVersions, MetaHeartbeat, MetaRegister,
    MetaRemove, Metaserver, MetaserverState, MountState, PartitionHealth, S3Backend,
};
use curve_proto::transport::MessageMds;
use curve_proto::{MdsApi, MdsError};
use curve_types::ClientId;
use fleet::Fleet;
use support::{Cluster, eventually};
use tokio::task::JoinHandle;
use tokio::time::sleep;

const PATIENCE: Duration = Duration::from_secs(60);

/// Metaservers that register, report and obey.
struct Metaservers {
    fleet: Arc<Mutex<Fleet>>,
    versions: Arc<Mutex<Vec<FsVersions>>>,
    running: Vec<(u64, Option<JoinHandle<()>>)>,
}

impl Metaservers {
    fn new() -> Self {
        Self { fleet: Arc::default(), versions: Arc::default(), running: Vec::new() }
    }

    fn fleet(&self) -> MutexGuard<'_, Fleet> {
        self.fleet.lock().unwrap()
    }

    async fn start(&mut self, cluster: &Cluster, n: usize) -> u64 {
        let host = format!("metaserver-{}", n + 1);
        let transport = Arc::new(MessageMds::framed(cluster.network().node(&host), &cluster.addresses()));
        let api = MdsApi::new(transport, ClientId(3000 + n as u64), Duration::from_secs(5));
        let register = MetaRegister {
            token: vec![n as u8; 16].into(),
            address: format!("{host}:1"),
            zone: format!("zone-{n}"),
            total_bytes: 1 << 40,
            free_bytes: 1 << 40,
            version: "test".into(),
        };
        let node = loop {
            match api.fs(Op::Register(register.clone())).await {
                Ok(Answer::Registered(registered)) => break registered.node,
                Err(error) if error.is_transient() => sleep(Duration::from_millis(100)).await,
                other => panic!("{other:?}"),
            }
        };
        self.fleet().alive.insert(node);
        let reporting = report(api, node, register, self.fleet.clone(), self.versions.clone());
        let task = Some(tokio::spawn(reporting));
        match self.running.get_mut(n) {
            Some(slot) => *slot = (node, task),
            None => self.running.push((node, task)),
        }
        node
    }

    fn stop(&mut self, n: usize) {
        let (node, task) = &mut self.running[n];
        task.take().unwrap().abort();
        self.fleet.lock().unwrap().alive.remove(node);
    }
}

async fn report(
    api: MdsApi,
    node: u64,
    me: MetaRegister,
    fleet: Arc<Mutex<Fleet>>,
    versions: Arc<Mutex<Vec<FsVersions>>>,
) {
    let mut wait = Duration::from_millis(100);
    loop {
        sleep(wait).await;
        let heartbeat = MetaHeartbeat {
            node,
            token: me.token.clone(),
            address: me.address.clone(),
            total_bytes: me.total_bytes,
            free_bytes: me.free_bytes,
            replicas: fleet.lock().unwrap().reports(node),
            reserve_low: false,
        };
        if let Ok(Answer::Heartbeat(reply)) = api.fs(Op::Heartbeat(heartbeat)).await {
            let mut fleet = fleet.lock().unwrap();
            reply.orders.iter().for_each(|order| fleet.obey(node, order));
            *versions.lock().unwrap() = reply.versions;
            wait = Duration::from_millis(reply.heartbeat_interval_ms);
        }
    }
}

async fn start(metaservers: usize) -> (Cluster, Metaservers, MdsApi) {
    let cluster = Cluster::start(3, 0).await;
    let mut servers = Metaservers::new();
    for n in 0..metaservers {
        servers.start(&cluster, n).await;
    }
    let api = cluster.api(1);
    eventually("metaservers are heard", || async {
        let up = MetaserverState::MetaserverUp;
        list(&api).await.iter().filter(|m| m.state() == up && m.heartbeat_age_ms < 3000).count()
            == metaservers
    })
    .await;
    // Everybody has reported once.
    sleep(Duration::from_secs(2)).await;
    (cluster, servers, api)
}

fn store(secret: &'static str) -> S3Backend {
    S3Backend {
        endpoint: "http://store:9000".into(),
        buckets: vec!["data".into()],
        access_key: "key".into(),
        secret_key: secret.into(),
        ..S3Backend::default()
    }
}

fn name(name: &str) -> FsName {
    FsName { name: name.into(), ..FsName::default() }
}

async fn create(api: &MdsApi, name: &str) -> Result<FsRecord, MdsError> {
    let create = FsCreate { name: name.into(), s3: Some(store("hush")), ..FsCreate::default() };
    match api.fs_until_done(Op::Create(create), PATIENCE).await? {
        Answer::FileSystem(record) => Ok(record),
        other => panic!("{other:?}"),
    }
}

async fn get(api: &MdsApi, name: FsName) -> Result<FsRecord, MdsError> {
    match api.fs(Op::Get(name)).await? {
        Answer::FileSystem(record) => Ok(record),
        other => panic!("{other:?}"),
    }
}

async fn list(api: &MdsApi) -> Vec<Metaserver> {
    match api.fs(Op::Metaservers(FsEmpty {})).await {
        Ok(Answer::Metaservers(listed)) => listed.metaservers,
        other => panic!("{other:?}"),
    }
}

async fn mount(api: &MdsApi, fs: &str, nonce: u64) -> Result<FsGrant, MdsError> {
    let mount = FsMount {
        name: fs.into(),
        nonce,
        host: "host-1".into(),
        process: 42,
        directory: "/mnt".into(),
        ..FsMount::default()
    };
    match api.fs(Op::Mount(mount)).await? {
        Answer::Grant(grant) => Ok(grant),
        other => panic!("{other:?}"),
    }
}

async fn refresh(api: &MdsApi, mount: FsMountKey, versions: (u64, u64)) -> Result<FsRefreshed, MdsError> {
    let (record_version, map_version) = versions;
    let refresh = FsRefresh { mount: Some(mount), record_version, map_version };
    match api.fs(Op::Refresh(refresh)).await? {
        Answer::Refreshed(refreshed) => Ok(refreshed),
        other => panic!("{other:?}"),
    }
}

async fn mounts(api: &MdsApi, of: &str) -> Vec<FsMountInfo> {
    match api.fs(Op::Mounts(name(of))).await {
        Ok(Answer::Mounts(listed)) => listed.mounts,
        other => panic!("{other:?}"),
    }
}

async fn partitions(api: &MdsApi, fs: u32) -> FsPartitions {
    match api.fs(Op::Partitions(FsGetPartitions { fs })).await {
        Ok(Answer::Partitions(partitions)) => partitions,
        other => panic!("{other:?}"),
    }
}

/// Whether every partition has its three members, which are up, and a leader.
async fn whole(api: &MdsApi, fs: u32) -> bool {
    partitions(api, fs).await.partitions.iter().all(|p| p.health() == PartitionHealth::PartitionOk)
}

#[tokio::test(start_paused = true)]
async fn a_file_system_needs_three_metaservers_and_is_answered_when_it_has_leaders() {
    let (cluster, mut servers, api) = start(2).await;
    let refused = create(&api, "demo").await.unwrap_err();
    assert!(matches!(refused, MdsError::NotEnoughMetaservers { have: 2, need: 3 }), "{refused}");
    assert_eq!(refused.code(), "NOT_ENOUGH_METASERVERS");
    servers.start(&cluster, 2).await;
    sleep(Duration::from_secs(2)).await;
    let record = create(&api, "demo").await.unwrap();
    assert_eq!((record.partitions, record.mounts, record.deleting), (3, 0, false));
    let map = partitions(&api, record.id).await;
    assert!(map.partitions.iter().all(|p| p.leader != 0 && p.members.len() == 3), "{map:?}");
    assert_eq!(map.partitions[1].first_inodes, [1 << 40]);
    // The same caller may ask again; another one is told that the name is taken.
    assert_eq!(create(&api, "demo").await.unwrap().id, record.id);
    assert!(matches!(create(&cluster.api(2), "demo").await, Err(MdsError::Exists { .. })));
    assert!(matches!(create(&api, "De/mo").await, Err(MdsError::BadName { .. })));
    let missing = get(&api, name("nope")).await.unwrap_err();
    assert!(missing.remedy().contains("curve fs ls"), "{}", missing.remedy());
    // The secret is for those who say that they need it.
    let shown = get(&api, name("demo")).await.unwrap();
    assert!(shown.s3.as_ref().unwrap().secret_key.is_empty());
    assert_eq!(shown.usage.unwrap().bytes, 9, "what the leaders report, summed up");
    let told = get(&api, FsName { with_secret: true, id: record.id, ..FsName::default() }).await.unwrap();
    assert_eq!(told.s3.unwrap().secret_key, "hush");
    eventually("nothing is wrong", || async {
        let status = api.status().await.unwrap();
        status.level == HealthLevel::Ok && status.health.is_empty()
    })
    .await;
    let counts = api.status().await.unwrap().fs;
    assert_eq!((counts.file_systems, counts.metaservers_up, counts.partitions_ok), (1, 3, 3));
}

#[tokio::test(start_paused = true)]
async fn a_mount_lives_by_its_refreshes_and_is_shut_out_after_them_whoever_leads() {
    let (mut cluster, servers, api) = start(3).await;
    let record = create(&api, "demo").await.unwrap();
    let granted = mount(&api, "demo", 7).await.unwrap();
    let key = granted.mount.unwrap();
    assert_eq!((key.fs, key.epoch, granted.lease_ms), (record.id, 1, 30_000));
    assert_eq!(granted.file_system.as_ref().unwrap().s3.as_ref().unwrap().secret_key, "hush");
    let known = (granted.file_system.unwrap().version, granted.partitions.unwrap().version);
    let again = mount(&api, "demo", 7).await.unwrap();
    assert_eq!((again.mount, again.writer), (granted.mount, granted.writer), "one nonce, one mount");
    let other = mount(&api, "demo", 8).await.unwrap().mount.unwrap();
    for round in 0..5 {
        sleep(Duration::from_secs(10)).await;
        let news = refresh(&api, key, known).await.unwrap();
        assert!(news.file_system.is_none() && news.partitions.is_none(), "nothing has changed");
        if round == 0 {
            refresh(&api, other, known).await.unwrap();
        }
    }
    // The other one's lease has run out, and partitions were told.
    eventually("the other mount is shut out", || async { mounts(&api, "demo").await.len() == 1 }).await;
    assert!(matches!(refresh(&api, other, known).await, Err(MdsError::NotHeld { .. })));
    // Now this one, with partitions that take their time, and a new leader in the middle.
    servers.fleet().stubborn = true;
    refresh(&api, key, known).await.unwrap();
    cluster.kill_mds(cluster.leader().await);
    sleep(Duration::from_secs(25)).await;
    let left = mounts(&api, "demo").await[0].lease_left_ms;
    assert!(left > 0, "a new leader gives everybody a whole lease: {left}");
    sleep(Duration::from_secs(40)).await;
    let listed = mounts(&api, "demo").await;
    assert_eq!((listed[0].state(), listed[0].key.unwrap().epoch), (MountState::MountEnding, 2));
    servers.fleet().stubborn = false;
    eventually("it is shut out", || async { mounts(&api, "demo").await.is_empty() }).await;
    for partition in partitions(&api, record.id).await.partitions {
        let refused = servers.fleet().shut_out(partition.id).to_vec();
        assert!(refused.contains(&FsMountKey { epoch: 2, ..key }) && refused.len() == 2, "{refused:?}");
    }
    let later = mount(&api, "demo", 9).await.unwrap();
    assert!(later.mount.unwrap().mount > other.mount && later.writer > granted.writer);
}

#[tokio::test(start_paused = true)]
async fn unmounting_and_evicting_end_a_mount_at_once() {
    let (_cluster, _servers, api) = start(3).await;
    create(&api, "demo").await.unwrap();
    let first = mount(&api, "demo", 1).await.unwrap().mount.unwrap();
    let second = mount(&api, "demo", 2).await.unwrap().mount.unwrap();
    let refused = api.fs(Op::Delete(name("demo"))).await.unwrap_err();
    assert!(
        matches!(&refused, MdsError::StillMounted { by, .. } if by.contains("/mnt on host-1")),
        "{refused}"
    );
    for _ in 0..2 {
        api.fs(Op::Unmount(first)).await.unwrap();
    }
    api.fs(Op::Evict(FsEvict { mount: second.mount })).await.unwrap();
    assert!(matches!(refresh(&api, second, (1, 1)).await, Err(MdsError::NotHeld { .. })));
    let unknown = api.fs(Op::Evict(FsEvict { mount: 99 })).await.unwrap_err();
    assert!(unknown.remedy().contains("curve fs mounts"), "{}", unknown.remedy());
    eventually("both are gone", || async { mounts(&api, "").await.is_empty() }).await;
}

#[tokio::test(start_paused = true)]
async fn a_deleted_file_system_leaves_nothing_and_its_name_is_free() {
    let (mut cluster, servers, api) = start(3).await;
    let record = create(&api, "demo").await.unwrap();
    let key = mount(&api, "demo", 1).await.unwrap().mount.unwrap();
    api.fs(Op::Unmount(key)).await.unwrap();
    servers.fleet().doomed.insert(record.id);
    api.fs(Op::Delete(name("demo"))).await.unwrap();
    assert!(matches!(mount(&api, "demo", 2).await, Err(MdsError::NotFound { .. })));
    cluster.kill_mds(cluster.leader().await);
    eventually("it is gone", || async {
        matches!(get(&api, name("demo")).await, Err(MdsError::NotFound { .. }))
    })
    .await;
    assert!(servers.fleet().replicas.values().all(|held| held.is_empty()));
    assert!(mounts(&api, "").await.is_empty());
    let next = create(&api, "demo").await.unwrap();
    assert_eq!(next.id, record.id + 1);
}

/// Whoever deletes the objects may die, and so may the MDS: another finds what it needs to go on.
#[tokio::test(start_paused = true)]
async fn a_file_system_whose_objects_are_being_deleted_stays_until_they_are() {
    let (mut cluster, servers, api) = start(3).await;
    let record = create(&api, "demo").await.unwrap();
    let by_id = FsName { id: record.id, with_secret: true, ..FsName::default() };
    assert!(matches!(api.fs(Op::Purged(by_id.clone())).await, Err(MdsError::Conflict { .. })), "it lives");
    servers.fleet().doomed.insert(record.id);
    let delete = FsName { until_purged: true, ..name("demo") };
    api.fs(Op::Delete(delete.clone())).await.unwrap();
    cluster.kill_mds(cluster.leader().await);
    let emptied = || async { get(&api, by_id.clone()).await.is_ok_and(|record| record.emptied) };
    eventually("metaservers have nothing of it", emptied).await;
    // For however long.
    sleep(Duration::from_secs(300)).await;
    api.fs(Op::Delete(delete)).await.unwrap();
    let found = get(&api, FsName { with_secret: true, ..name("demo") }).await.unwrap();
    assert!(found.deleting && found.emptied);
    assert_eq!(found.s3.unwrap().secret_key, "hush");
    assert!(
        matches!(create(&api, "demo").await, Err(MdsError::Conflict { why }) if why.contains("curve fs rm demo"))
    );
    for _ in 0..2 {
        api.fs(Op::Purged(by_id.clone())).await.unwrap();
        assert!(matches!(get(&api, by_id.clone()).await, Err(MdsError::NotFound { .. })));
    }
    assert_eq!(create(&api, "demo").await.unwrap().id, record.id + 1);
    // Whoever wants to keep the objects after all has the last word.
    servers.fleet().doomed.insert(record.id + 1);
    api.fs(Op::Delete(FsName { until_purged: true, ..name("demo") })).await.unwrap();
    api.fs(Op::Delete(name("demo"))).await.unwrap();
    eventually("it is gone", || async {
        matches!(get(&api, name("demo")).await, Err(MdsError::NotFound { .. }))
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn new_keys_reach_mounts_and_metaservers() {
    let (_cluster, servers, api) = start(3).await;
    let record = create(&api, "demo").await.unwrap();
    let granted = mount(&api, "demo", 1).await.unwrap();
    let known = (granted.file_system.unwrap().version, granted.partitions.unwrap().version);
    let keys = FsSetKeys { name: "demo".into(), access_key: "key-2".into(), secret_key: "hush-2".into() };
    assert!(!format!("{keys:?}").contains("hush"));
    api.fs(Op::SetKeys(keys)).await.unwrap();
    let news = refresh(&api, granted.mount.unwrap(), known).await.unwrap();
    let s3 = news.file_system.unwrap().s3.unwrap();
    assert_eq!((s3.access_key.as_str(), &s3.secret_key[..]), ("key-2", &b"hush-2"[..]));
    eventually("metaservers hear of it", || async {
        let versions = servers.versions.lock().unwrap();
        versions.iter().any(|v| v.fs == record.id && v.record_version == known.0 + 1)
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_dead_metaservers_partitions_move_even_if_the_leader_changes() {
    let (mut cluster, mut servers, api) = start(4).await;
    let record = create(&api, "demo").await.unwrap();
    eventually("whole", || whole(&api, record.id)).await;
    let victim = servers.running[0].0;
    servers.stop(0);
    sleep(Duration::from_secs(20)).await;
    let status = api.status().await.unwrap();
    assert_eq!(status.level, HealthLevel::Warn);
    assert!(status.health.iter().any(|item| item.code == "METASERVER_DOWN"), "{:?}", status.health);
    sleep(Duration::from_secs(30)).await;
    cluster.kill_mds(cluster.leader().await);
    let moved = || async {
        let map = partitions(&api, record.id).await;
        let on_victim = |p: &curve_proto::pb::fs::FsPartition| p.members.iter().any(|m| m.node == victim);
        !map.partitions.iter().any(on_victim) && whole(&api, record.id).await
    };
    eventually("its partitions are elsewhere", moved).await;
    servers.start(&cluster, 0).await;
    eventually("what it had is dropped", || async {
        servers.fleet().replicas.get(&victim).is_none_or(|held| held.is_empty())
    })
    .await;
    // An operator takes another one out.
    let leaving = servers.running[1].0;
    api.fs(Op::RemoveMetaserver(MetaRemove { node: leaving })).await.unwrap();
    eventually("it is forgotten", || async { list(&api).await.iter().all(|m| m.node != leaving) }).await;
    eventually("whole again", || whole(&api, record.id)).await;
    let refused = api.fs(Op::RemoveMetaserver(MetaRemove { node: victim })).await.unwrap_err();
    assert!(matches!(refused, MdsError::NotEnoughMetaservers { have: 2, need: 3 }), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_creation_goes_on_under_a_new_leader() {
    let (mut cluster, servers, api) = start(3).await;
    let leader = cluster.leader().await;
    let dying = async {
        // The rows are there, the partitions are not yet.
        sleep(Duration::from_millis(150)).await;
        cluster.kill_mds(leader);
    };
    let (record, ()) = tokio::join!(create(&api, "demo"), dying);
    assert_eq!(record.unwrap().partitions, 3);
    assert_eq!(servers.fleet().creations.values().sum::<usize>(), 9, "no replica is made twice");
}
