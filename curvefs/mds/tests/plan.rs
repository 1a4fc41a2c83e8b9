//! Planning over rows, heartbeats and time, with metaservers that only pretend: no clock, no network.

#[allow(dead_code, reason = "each test program uses a part of it")]
#[path = "support/fleet.rs"]
mod fleet;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use curve_io::sim::{SimDisk, SimDiskConfig};
use curve_kv::{MemStore, Reader, Store, Txn};
use curve_proto::MdsError;
use curve_proto::pb::fs::fs_response::Result as Answer;
use curve_proto::pb::fs::meta_order::Action;
use curve_proto::pb::fs::{
    FsMount, FsMountKey, FsName, MetaHeartbeat, MetaOrder, MetaRegister, MetaRemove, MetaReplica,
    MetaserverState, MountState, PartitionHealth, S3Backend,
};
use curve_proto::pb::mds_state::fs_command::Op;
use curve_proto::pb::mds_state::{FsCommand, FsDoom, FsMake, FsPartitionChanges, FsSystemRow};
use curvefs_mds::{
    Ids, Memory, Picture, Refusal, Times, apply, health, messages, next_id, orders_for, plan, query,
};
use fleet::Fleet;
use rand::SeedableRng;
use rand::rngs::StdRng;

const CLUSTER: u64 = 77;
const TIMES: Times = Times {
    heartbeat_interval: Duration::from_secs(1),
    down_after: Duration::from_secs(5),
    dead_after: Duration::from_secs(60),
    grace_after_failover: Duration::from_secs(8),
    lost_replica_after: Duration::from_secs(10),
    mount_lease: Duration::from_secs(30),
};

/// A leader with its rows, its memory and its time.
struct Leader {
    store: Arc<MemStore>,
    memory: Memory,
    now: Instant,
    next_node: u64,
    fleet: Fleet,
    /// Every order that was given.
    orders: Vec<(u64, MetaOrder)>,
    /// Whose disks are full.
    full: BTreeSet<u64>,
}

impl Leader {
    /// With metaservers that are registered and alive, one for each zone.
    async fn start(zones: &[&str]) -> Self {
        let disk = SimDisk::new(SimDiskConfig::default());
        let store = Arc::new(MemStore::open(disk.mount(), "kv").await.unwrap());
        let now = Instant::now();
        let mut leader = Self {
            store,
            memory: Memory::new(now),
            now,
            next_node: 101,
            fleet: Fleet::default(),
            orders: Vec::new(),
            full: BTreeSet::new(),
        };
        for (n, zone) in zones.iter().enumerate() {
            let node = leader.register(n, zone);
            leader.fleet.alive.insert(node);
        }
        leader
    }

    fn register(&mut self, n: usize, zone: &str) -> u64 {
        let register = MetaRegister {
            token: vec![n as u8; 16].into(),
            address: format!("h{n}:1"),
            zone: zone.into(),
            total_bytes: 1 << 40,
            free_bytes: 1 << 40,
            version: String::new(),
        };
        match self.apply(Op::Register(register)).unwrap() {
            Answer::Registered(registered) => registered.node,
            other => panic!("{other:?}"),
        }
    }

    fn apply(&mut self, op: Op) -> Result<Answer, MdsError> {
        let mut txn = Txn::new(&*self.store);
        let mut ids = Ids { cluster: CLUSTER, cluster_name: "c".into(), next_node: self.next_node };
        let outcome = apply(&mut txn, 5, &mut ids, &FsCommand { op: Some(op) });
        match outcome {
            Ok(answer) => {
                self.next_node = ids.next_node;
                txn.keep();
                self.store.write(txn.into_batch(), None).unwrap();
                Ok(answer)
            }
            Err(Refusal::No(error)) => Err(error),
            Err(Refusal::Store(error)) => panic!("{error}"),
        }
    }

    fn rows(&self) -> &dyn Reader {
        &*self.store
    }

    fn picture(&self) -> Picture {
        Picture::take(self.rows(), &self.memory, &TIMES, self.now).unwrap()
    }

    fn beat(&mut self, node: u64) -> Vec<MetaOrder> {
        let heartbeat = MetaHeartbeat {
            node,
            token: Default::default(),
            address: String::new(),
            total_bytes: 1 << 40,
            free_bytes: 1 << 40,
            replicas: self.fleet.reports(node),
            reserve_low: self.full.contains(&node),
        };
        self.memory.hear(heartbeat.clone(), TIMES.down_after, self.now);
        let orders = orders_for(&heartbeat, &self.picture(), &self.memory, &TIMES);
        for order in &orders {
            self.fleet.obey(node, order);
            self.orders.push((node, order.clone()));
        }
        orders
    }

    fn round(&mut self) {
        let changes = plan::partition_changes(&self.picture());
        if !changes.is_empty() {
            self.apply(Op::PartitionChanges(FsPartitionChanges { changes })).unwrap();
        }
        let picture = self.picture();
        plan::advance(&picture, &mut self.memory, &TIMES);
        for op in plan::commands(&picture, &self.memory, &TIMES) {
            self.apply(op).unwrap();
        }
        self.uphold();
    }

    /// Members are three of the topology, but for the one that is being changed.
    fn uphold(&self) {
        let picture = self.picture();
        for row in picture.partitions.values() {
            assert!((2..=4).contains(&row.members.len()), "{row:?}");
            assert!(row.members.windows(2).all(|pair| pair[0] < pair[1]), "{row:?}");
            assert!(row.members.iter().all(|node| picture.metaservers.contains_key(node)), "{row:?}");
        }
    }

    /// Time passes; everybody who is alive reports each second.
    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now += Duration::from_secs(1);
            for node in self.fleet.alive.clone() {
                self.beat(node);
            }
            self.round();
        }
    }

    fn create(&mut self, name: &str, partitions: u32) -> Result<FsSystemRow, MdsError> {
        let placed = plan::place(&self.picture(), partitions, &mut StdRng::seed_from_u64(1))?;
        let make = FsMake {
            id: next_id(self.rows(), CLUSTER).unwrap(),
            name: name.into(),
            s3: Some(S3Backend::default()),
            root_mode: 0o755,
            creator: 1,
            partitions: placed,
            ..FsMake::default()
        };
        self.apply(Op::Make(make))?;
        Ok(self.system(name))
    }

    fn system(&self, name: &str) -> FsSystemRow {
        query::by_name(self.rows(), name).unwrap().unwrap()
    }

    fn partitions(&self, system: &FsSystemRow) -> Vec<u32> {
        query::partitions_of(self.rows(), system.id).unwrap().iter().map(|row| row.id).collect()
    }

    fn mount(&mut self, name: &str, nonce: u64) -> Result<FsMountKey, MdsError> {
        let mount = FsMount { name: name.into(), nonce, host: "h".into(), ..FsMount::default() };
        match self.apply(Op::Mount(mount))? {
            Answer::Grant(grant) => Ok(grant.mount.unwrap()),
            other => panic!("{other:?}"),
        }
    }

    fn healths(&self) -> Vec<PartitionHealth> {
        let picture = self.picture();
        picture.partitions.values().map(|row| health::partition(&picture, row)).collect()
    }

    fn codes(&self) -> Vec<String> {
        health::items(&self.picture(), &self.memory, &TIMES).into_iter().map(|item| item.code).collect()
    }
}

#[tokio::test]
async fn partitions_are_placed_in_different_zones_and_not_on_fewer_than_three() {
    let mut leader = Leader::start(&["a", "b", "c", "c"]).await;
    assert!(matches!(leader.create("x", 0), Err(MdsError::NotEnoughMetaservers { have: 0, need: 3 })));
    leader.pass(1);
    for (wanted, expected) in [(0, 4), (1, 1), (9, 9)] {
        let placed = plan::place(&leader.picture(), wanted, &mut StdRng::seed_from_u64(3)).unwrap();
        assert_eq!(placed.len(), expected, "{wanted}");
        for members in placed {
            assert!(members.nodes.contains(&101) && members.nodes.contains(&102), "{members:?}");
        }
    }
    let refused = plan::place(&leader.picture(), 257, &mut StdRng::seed_from_u64(3));
    assert!(matches!(refused, Err(MdsError::BadRequest { .. })));
    leader.fleet.alive = [101, 102].into();
    leader.pass(7);
    assert!(matches!(leader.create("x", 0), Err(MdsError::NotEnoughMetaservers { have: 2, need: 3 })));
}

#[tokio::test]
async fn a_file_system_comes_into_being_and_its_leaders_spread() {
    let mut leader = Leader::start(&["a", "b", "c"]).await;
    leader.pass(1);
    let system = leader.create("x", 6).unwrap();
    assert_eq!(leader.healths(), [PartitionHealth::PartitionCreating; 6]);
    leader.pass(2);
    assert_eq!(leader.healths(), [PartitionHealth::PartitionOk; 6]);
    let partitions = leader.partitions(&system);
    for (slot, &partition) in partitions.iter().enumerate() {
        let birth = leader.fleet.birth(partition);
        assert_eq!((birth.fs, birth.slot, birth.root_mode), (system.id, slot as u32, 0o755));
        assert_eq!(birth.first_inode, (slot as u64) << 40);
        assert_eq!(birth.last_inode, ((slot as u64 + 1) << 40) - 1);
    }
    assert_eq!(leader.fleet.creations.values().sum::<usize>(), 18, "each replica is made once");
    // The first member led all of them.
    leader.pass(20);
    let listed = messages::metaservers(&leader.picture(), &leader.memory).metaservers;
    assert_eq!(
        listed.iter().map(|m| (m.partitions, m.leaders)).collect::<Vec<_>>(),
        [(6, 2), (6, 2), (6, 2)]
    );
    assert!(leader.codes().is_empty(), "{:?}", leader.codes());
    let record = messages::record(&leader.picture(), &system);
    let usage = record.usage.unwrap();
    assert_eq!((record.partitions, usage.files, usage.directories, usage.bytes), (6, 6, 12, 18));
    let map = messages::partitions(&leader.picture(), &leader.system("x"));
    assert_eq!(map.partitions[0].first_inodes, [0]);
    assert!(map.partitions.iter().all(|p| p.leader != 0 && p.members.len() == 3 && p.members[0].up));
}

#[tokio::test]
async fn a_dead_metaserver_is_replaced_a_silent_one_is_not_and_one_that_comes_back_drops() {
    let mut leader = Leader::start(&["a", "b", "c", "d"]).await;
    leader.pass(1);
    let system = leader.create("x", 4).unwrap();
    leader.pass(20);
    let version = leader.system("x").map_version;
    leader.fleet.alive.remove(&101);
    leader.pass(30);
    assert_eq!(leader.picture().state(101), MetaserverState::MetaserverDown);
    let codes = leader.codes();
    assert!(
        codes.contains(&"METASERVER_DOWN".into()) && codes.contains(&"PARTITION_DEGRADED".into()),
        "{codes:?}"
    );
    let on_101 = |leader: &Leader| {
        let partitions = leader.partitions(&system);
        partitions.iter().filter(|id| leader.fleet.members(**id).contains(&101)).count()
    };
    let before = on_101(&leader);
    assert!(before > 0);
    leader.pass(60);
    assert_eq!(on_101(&leader), 0, "moved");
    assert_eq!(leader.healths(), [PartitionHealth::PartitionOk; 4]);
    assert!(leader.system("x").map_version >= version + 2 * before as u64, "mounts hear of each change");
    assert_eq!(leader.codes(), ["METASERVER_DEAD"]);
    leader.fleet.alive.insert(101);
    leader.pass(3);
    assert!(leader.fleet.replicas[&101].is_empty(), "what it had is no replica any more");
}

#[tokio::test]
async fn a_full_metaserver_is_told_of_and_gets_no_new_replicas() {
    let mut leader = Leader::start(&["a", "b", "c", "d"]).await;
    leader.pass(1);
    leader.create("x", 3).unwrap();
    leader.pass(20);
    leader.full.insert(104);
    leader.pass(2);
    assert_eq!(messages::no_space(&leader.picture()), [104]);
    assert_eq!(leader.codes(), ["METASERVER_FULL"]);
    let before = leader.fleet.replicas[&104].len();
    leader.fleet.alive.remove(&101);
    leader.pass(100);
    assert_eq!(leader.fleet.replicas[&104].len(), before, "what 101 had is not put there");
    leader.full.clear();
    leader.fleet.alive.insert(101);
    leader.pass(2);
    assert_eq!(messages::no_space(&leader.picture()), []);
    leader.pass(60);
    assert_eq!(leader.codes(), [""; 0]);
}

#[tokio::test]
async fn without_a_spare_nothing_is_given_up_and_a_lost_majority_is_an_error() {
    let mut leader = Leader::start(&["a", "b", "c"]).await;
    leader.pass(1);
    let system = leader.create("x", 3).unwrap();
    leader.pass(20);
    leader.fleet.alive.remove(&101);
    leader.pass(100);
    for id in leader.partitions(&system) {
        assert_eq!(leader.fleet.members(id), [101, 102, 103]);
    }
    assert_eq!(leader.healths(), [PartitionHealth::PartitionDegraded; 3]);
    leader.fleet.alive.remove(&102);
    leader.pass(10);
    assert_eq!(leader.healths(), [PartitionHealth::PartitionNoQuorum; 3]);
    assert!(leader.codes().contains(&"PARTITION_NO_QUORUM".into()));
}

#[tokio::test]
async fn a_removed_metaserver_is_emptied_and_forgotten() {
    let mut leader = Leader::start(&["a", "b", "c", "d"]).await;
    leader.pass(1);
    leader.create("x", 4).unwrap();
    leader.pass(20);
    leader.apply(Op::RemoveMetaserver(MetaRemove { node: 102 })).unwrap();
    let refused = leader.apply(Op::ForgetMetaserver(MetaRemove { node: 102 }));
    assert!(matches!(refused, Err(MdsError::Conflict { .. })), "{refused:?}");
    leader.pass(30);
    assert!(!leader.picture().metaservers.contains_key(&102));
    leader.fleet.alive.remove(&102);
    leader.pass(1);
    assert_eq!(leader.healths(), [PartitionHealth::PartitionOk; 4]);
    assert_ne!(leader.register(1, "b"), 102, "an id is never given out again");
}

#[tokio::test]
async fn a_member_that_lost_its_replica_joins_again_and_never_as_if_it_were_new() {
    let mut leader = Leader::start(&["a", "b", "c"]).await;
    leader.pass(1);
    leader.create("x", 3).unwrap();
    leader.pass(20);
    leader.fleet.replicas.remove(&103);
    leader.pass(60);
    assert_eq!(leader.healths(), [PartitionHealth::PartitionOk; 3]);
    assert_eq!(leader.fleet.creations[&103], 3, "only the first time");
    assert_eq!(leader.fleet.replicas[&103].len(), 3);
}

#[tokio::test]
async fn what_no_row_knows_is_dropped_once_the_leader_may_say_so() {
    let mut leader = Leader::start(&["a", "b", "c"]).await;
    leader.pass(1);
    let system = leader.create("x", 3).unwrap();
    leader.pass(3);
    leader.apply(Op::Doom(FsDoom { name: "x".into(), ..FsDoom::default() })).unwrap();
    leader.fleet.doomed.insert(system.id);
    // One is away, and is not waited for after it counts as down.
    leader.fleet.alive.remove(&103);
    leader.pass(1);
    assert!(query::by_name(leader.rows(), "x").unwrap().unwrap().deleting);
    leader.pass(10);
    assert_eq!(query::by_name(leader.rows(), "x").unwrap(), None);
    leader.fleet.alive.insert(103);
    // A new leader knows nothing yet.
    leader.memory = Memory::new(leader.now);
    assert_eq!(leader.beat(103), []);
    leader.pass(9);
    assert!(leader.fleet.replicas[&103].is_empty());
    // What was never given out is left alone.
    let foreign = MetaReplica { partition: 4000, ..MetaReplica::default() };
    let heartbeat = MetaHeartbeat { node: 103, replicas: vec![foreign], ..MetaHeartbeat::default() };
    assert_eq!(orders_for(&heartbeat, &leader.picture(), &leader.memory, &TIMES), []);
    leader.create("x", 3).unwrap();
    assert_ne!(leader.system("x").id, system.id);
}

#[tokio::test]
async fn a_mount_lapses_and_is_shut_out_by_every_partition() {
    let mut leader = Leader::start(&["a", "b", "c"]).await;
    leader.pass(1);
    let system = leader.create("x", 3).unwrap();
    leader.pass(20);
    let (gone, stays) = (leader.mount("x", 1).unwrap(), leader.mount("x", 2).unwrap());
    for _ in 0..29 {
        leader.pass(1);
        leader.memory.touch(stays.mount, leader.now);
    }
    leader.fleet.stubborn = true;
    leader.pass(2);
    leader.memory.touch(stays.mount, leader.now);
    let states = |leader: &Leader| -> Vec<(u64, MountState)> {
        let listed = messages::mounts(&leader.picture(), &leader.memory, &TIMES, Some(system.id));
        listed.mounts.iter().map(|m| (m.key.unwrap().mount, m.state())).collect()
    };
    assert_eq!(
        states(&leader),
        [(gone.mount, MountState::MountEnding), (stays.mount, MountState::MountActive)]
    );
    assert!(query::active_mount(leader.rows(), &gone).is_err());
    let refused = leader.mount("x", 1);
    assert!(matches!(refused, Err(MdsError::NotHeld { .. })), "{refused:?}");
    // Nothing reports it: its row stays, and the orders are repeated; after a change of leader, too.
    leader.memory = Memory::new(leader.now);
    leader.pass(5);
    leader.memory.touch(stays.mount, leader.now);
    leader.orders.clear();
    leader.pass(1);
    let key = FsMountKey { epoch: 2, ..gone };
    let shut_outs = leader.orders.iter().filter(|(_, order)| order.action == Some(Action::ShutOut(key)));
    assert_eq!(shut_outs.count(), 3, "one for the leader of each partition");
    leader.fleet.stubborn = false;
    leader.pass(3);
    assert_eq!(states(&leader), [(stays.mount, MountState::MountActive)]);
    for id in leader.partitions(&system) {
        assert_eq!(leader.fleet.shut_out(id), [key]);
    }
    let again = leader.mount("x", 3).unwrap();
    assert!(again.mount > stays.mount && again.epoch == 1);
    let name = FsName { name: "x".into(), ..FsName::default() };
    let refused = leader
        .apply(Op::Doom(FsDoom { name: name.name, lapsed: vec![stays.mount], until_purged: false }))
        .unwrap_err();
    assert!(matches!(&refused, MdsError::StillMounted { by, .. } if by.contains("mount-3")), "{refused}");
}
