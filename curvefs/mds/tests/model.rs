//! Random commands against a model of what they mean, and what always holds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use curve_io::sim::{SimDisk, SimDiskConfig};
use curve_kv::{MemStore, Reader, Store, Txn};
use curve_proto::MdsError;
use curve_proto::pb::fs::fs_response::Result as Answer;
use curve_proto::pb::fs::{FsMount, FsMountKey, MetaRegister, MetaRemove, S3Backend};
use curve_proto::pb::mds_state::fs_command::Op;
use curve_proto::pb::mds_state::{
    FsCommand, FsDoom, FsEndMounts, FsForget, FsMake, FsMembers, FsPartitionChange, FsPartitionChanges,
    FsShutOut,
};
use curvefs_mds::{Ids, Refusal, apply, next_id, query};
use proptest::prelude::{Strategy, any, prop_oneof, proptest};
use proptest::test_runner::Config;

const CLUSTER: u64 = 5;
const NODES: [u64; 5] = [101, 102, 103, 104, 105];

#[derive(Clone, Debug)]
enum Step {
    Make { name: u8, creator: u64, partitions: u8, late: bool },
    Doom { name: u8, lapsed: bool },
    Forget { name: u8 },
    Mount { name: u8, nonce: u64 },
    End { mount: usize, stale: bool },
    ShutOut { mount: usize, partitions: u8, stale: bool },
    Members { partition: usize, node: usize, late: bool },
    Remove { node: usize },
    ForgetNode { node: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let name = || 0..3u8;
    let step =
        prop_oneof![
            (name(), 0..3u64, 1..4u8, any::<bool>())
                .prop_map(|(name, creator, partitions, late)| Step::Make { name, creator, partitions, late }),
            (name(), any::<bool>()).prop_map(|(name, lapsed)| Step::Doom { name, lapsed }),
            name().prop_map(|name| Step::Forget { name }),
            (name(), 0..6u64).prop_map(|(name, nonce)| Step::Mount { name, nonce }),
            (0..8usize, any::<bool>()).prop_map(|(mount, stale)| Step::End { mount, stale }),
            (0..8usize, any::<u8>(), any::<bool>()).prop_map(|(mount, partitions, stale)| Step::ShutOut {
                mount,
                partitions,
                stale
            }),
            (0..8usize, 0..5usize, any::<bool>()).prop_map(|(partition, node, late)| Step::Members {
                partition,
                node,
                late
            }),
            (0..5usize).prop_map(|node| Step::Remove { node }),
            (0..5usize).prop_map(|node| Step::ForgetNode { node }),
        ];
    proptest::collection::vec(step, 1..60)
}

#[derive(Clone, Debug)]
struct System {
    id: u32,
    creator: u64,
    deleting: bool,
    map_version: u64,
    partitions: BTreeMap<u32, Partition>,
}

#[derive(Clone, Debug)]
struct Partition {
    members: BTreeSet<u64>,
    index: u64,
}

#[derive(Clone, Debug, PartialEq)]
struct Mount {
    fs: u32,
    epoch: u64,
    writer: u64,
    nonce: u64,
    ending: bool,
    told: BTreeSet<u32>,
}

#[derive(Default)]
struct Model {
    systems: BTreeMap<String, System>,
    mounts: BTreeMap<u64, Mount>,
    leaving: BTreeSet<u64>,
    nodes: BTreeSet<u64>,
    ever: BTreeSet<(&'static str, u64)>,
}

impl Model {
    fn new_id(&mut self, kind: &'static str, id: u64) {
        assert!(self.ever.insert((kind, id)), "{kind} {id} was given out before");
    }

    fn nth_mount(&self, n: usize) -> Option<u64> {
        let ids: Vec<u64> = self.mounts.keys().copied().collect();
        (!ids.is_empty()).then(|| ids[n % ids.len()])
    }

    fn nth_partition(&self, n: usize) -> Option<(String, u32)> {
        let all: Vec<(String, u32)> = self
            .systems
            .iter()
            .flat_map(|(name, system)| system.partitions.keys().map(|id| (name.clone(), *id)))
            .collect();
        (!all.is_empty()).then(|| all[n % all.len()].clone())
    }
}

struct Test {
    store: Arc<MemStore>,
    model: Model,
    next_node: u64,
}

fn name_of(name: u8) -> String {
    format!("fs-{name}")
}

impl Test {
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

    fn step(&mut self, step: Step) {
        match step {
            Step::Make { name, creator, partitions, late } => {
                self.make(&name_of(name), creator, partitions, late)
            }
            Step::Doom { name, lapsed } => self.doom(&name_of(name), lapsed),
            Step::Forget { name } => self.forget(&name_of(name)),
            Step::Mount { name, nonce } => self.mount(&name_of(name), nonce),
            Step::End { mount, stale } => self.end(mount, stale),
            Step::ShutOut { mount, partitions, stale } => self.shut_out(mount, partitions, stale),
            Step::Members { partition, node, late } => self.members(partition, NODES[node], late),
            Step::Remove { node } => self.remove(NODES[node]),
            Step::ForgetNode { node } => self.forget_node(NODES[node]),
        }
        self.compare();
    }

    fn make(&mut self, name: &str, creator: u64, partitions: u8, late: bool) {
        let members: Vec<u64> = self.model.nodes.iter().copied().take(3).collect();
        let id = next_id(self.rows(), CLUSTER).unwrap();
        let make = FsMake {
            id: if late { id.wrapping_sub(1) } else { id },
            name: name.into(),
            s3: Some(S3Backend { secret_key: "never kept".into(), ..S3Backend::default() }),
            creator,
            partitions: vec![FsMembers { nodes: members.clone() }; partitions.into()],
            ..FsMake::default()
        };
        let outcome = self.apply(Op::Make(make));
        match self.model.systems.get(name) {
            Some(system) if system.deleting => assert!(matches!(outcome, Err(MdsError::Conflict { .. }))),
            Some(system) if system.creator == creator && creator != 0 => outcome.map(drop).unwrap(),
            Some(_) => assert!(matches!(outcome, Err(MdsError::Exists { .. })), "{outcome:?}"),
            None if late => assert!(matches!(outcome, Err(MdsError::InProgress { .. }))),
            None if members.len() < 3 => assert!(matches!(outcome, Err(MdsError::BadRequest { .. }))),
            None => {
                outcome.unwrap();
                self.model.new_id("fs", id.into());
                let rows = query::partitions_of(self.rows(), id).unwrap();
                assert_eq!(rows.len(), usize::from(partitions));
                let mut made = BTreeMap::new();
                for (slot, row) in rows.iter().enumerate() {
                    assert_eq!(row.slot, slot as u32);
                    self.model.new_id("partition", row.id.into());
                    let members = members.iter().copied().collect();
                    made.insert(row.id, Partition { members, index: 0 });
                }
                let system = System { id, creator, deleting: false, map_version: 1, partitions: made };
                self.model.systems.insert(name.into(), system);
            }
        }
    }

    fn doom(&mut self, name: &str, lapsed: bool) {
        let lapsed = if lapsed { self.model.mounts.keys().copied().collect() } else { Vec::new() };
        let outcome =
            self.apply(Op::Doom(FsDoom { name: name.into(), lapsed: lapsed.clone(), until_purged: false }));
        let Some(system) = self.model.systems.get_mut(name) else {
            assert!(matches!(outcome, Err(MdsError::NotFound { .. })));
            return;
        };
        if system.deleting {
            return outcome.map(drop).unwrap();
        }
        let mounts = self.model.mounts.iter_mut().filter(|(_, mount)| mount.fs == system.id && !mount.ending);
        let active: Vec<&mut Mount> = mounts.map(|(_, mount)| mount).collect();
        if !active.is_empty() && lapsed.is_empty() {
            assert!(matches!(outcome, Err(MdsError::StillMounted { .. })));
            return;
        }
        outcome.unwrap();
        system.deleting = true;
        for mount in active {
            (mount.ending, mount.epoch) = (true, mount.epoch + 1);
        }
    }

    fn forget(&mut self, name: &str) {
        let fs = self.model.systems.get(name).map_or(0, |system| system.id);
        let outcome = self.apply(Op::Forget(FsForget { fs }));
        match self.model.systems.get(name) {
            Some(system) if !system.deleting => assert!(matches!(outcome, Err(MdsError::Conflict { .. }))),
            _ => {
                outcome.unwrap();
                self.model.systems.remove(name);
                self.model.mounts.retain(|_, mount| mount.fs != fs);
            }
        }
    }

    fn mount(&mut self, name: &str, nonce: u64) {
        let outcome = self.apply(Op::Mount(FsMount { name: name.into(), nonce, ..FsMount::default() }));
        let Some(system) = self.model.systems.get(name).filter(|system| !system.deleting) else {
            assert!(matches!(outcome, Err(MdsError::NotFound { .. })));
            return;
        };
        let fs = system.id;
        let known = self.model.mounts.iter().find(|(_, mount)| mount.fs == fs && mount.nonce == nonce);
        if nonce == 0 {
            assert!(matches!(outcome, Err(MdsError::BadRequest { .. })));
            return;
        }
        if known.is_some_and(|(_, mount)| mount.ending) {
            assert!(matches!(outcome, Err(MdsError::NotHeld { .. })));
            return;
        }
        let Ok(Answer::Grant(grant)) = outcome else { panic!("{outcome:?}") };
        let key = grant.mount.unwrap();
        if let Some((&id, mount)) = known {
            assert_eq!(
                (key.mount, key.epoch, grant.writer),
                (id, mount.epoch, mount.writer),
                "one nonce, one mount"
            );
            return;
        }
        assert_eq!((key.fs, key.epoch), (fs, 1));
        self.model.new_id("mount", key.mount);
        self.model.new_id("writer", grant.writer);
        let mount = Mount { fs, epoch: 1, writer: grant.writer, nonce, ending: false, told: BTreeSet::new() };
        self.model.mounts.insert(key.mount, mount);
    }

    fn end(&mut self, mount: usize, stale: bool) {
        let Some(id) = self.model.nth_mount(mount) else { return };
        let mount = self.model.mounts.get_mut(&id).unwrap();
        let key = FsMountKey { fs: mount.fs, mount: id, epoch: mount.epoch - u64::from(stale) };
        if !stale && !mount.ending {
            (mount.ending, mount.epoch) = (true, mount.epoch + 1);
        }
        self.apply(Op::EndMounts(FsEndMounts { mounts: vec![key] })).unwrap();
    }

    fn shut_out(&mut self, mount: usize, partitions: u8, stale: bool) {
        let Some(id) = self.model.nth_mount(mount) else { return };
        let mount = self.model.mounts.get_mut(&id).unwrap();
        let key = FsMountKey { fs: mount.fs, mount: id, epoch: mount.epoch - u64::from(stale) };
        let system = self.model.systems.values().find(|system| system.id == key.fs).unwrap();
        let all: Vec<u32> = system.partitions.keys().copied().collect();
        let chosen = all.iter().enumerate().filter(|(n, _)| partitions & (1 << (n % 8)) != 0);
        let mut told: Vec<u32> = chosen.map(|(_, id)| *id).collect();
        if mount.ending && !stale {
            mount.told.extend(told.iter().copied());
            if mount.told.len() == all.len() {
                self.model.mounts.remove(&id);
            }
        }
        // One of another file system counts for nothing.
        told.push(u32::MAX);
        self.apply(Op::ShutOut(FsShutOut { mount: Some(key), partitions: told })).unwrap();
    }

    /// A leader's report after one step: a member more, or less.
    fn members(&mut self, partition: usize, node: u64, late: bool) {
        let Some((name, id)) = self.model.nth_partition(partition) else { return };
        if !self.model.nodes.contains(&node) {
            return;
        }
        let system = self.model.systems.get_mut(&name).unwrap();
        let partition = system.partitions.get_mut(&id).unwrap();
        let mut members = partition.members.clone();
        if !members.remove(&node) {
            members.insert(node);
        }
        if !(2..=4).contains(&members.len()) || late && partition.index == 0 {
            return;
        }
        let index = if late { partition.index - 1 } else { partition.index + 1 };
        let change = FsPartitionChange {
            id,
            fs: system.id,
            term: 1,
            members_index: index,
            members: members.iter().copied().collect(),
            ..FsPartitionChange::default()
        };
        if !late {
            *partition = Partition { members, index };
            system.map_version += 1;
        }
        self.apply(Op::PartitionChanges(FsPartitionChanges { changes: vec![change] })).unwrap();
    }

    fn remove(&mut self, node: u64) {
        let outcome = self.apply(Op::RemoveMetaserver(MetaRemove { node }));
        assert_eq!(outcome.is_ok(), self.model.nodes.contains(&node));
        if outcome.is_ok() {
            self.model.leaving.insert(node);
        }
    }

    fn forget_node(&mut self, node: u64) {
        let used = self
            .model
            .systems
            .values()
            .flat_map(|system| system.partitions.values())
            .any(|partition| partition.members.contains(&node));
        let outcome = self.apply(Op::ForgetMetaserver(MetaRemove { node }));
        let may = self.model.nodes.contains(&node) && self.model.leaving.contains(&node) && !used;
        assert_eq!(outcome.is_ok(), may, "{outcome:?}");
        if may {
            self.model.nodes.remove(&node);
            self.model.leaving.remove(&node);
        }
    }

    /// The rows are what the model says, no more and no less.
    fn compare(&self) {
        let rows = self.rows();
        let mut mounts = BTreeMap::new();
        for name in (0..3).map(name_of) {
            let row = query::by_name(rows, &name).unwrap();
            let Some(system) = self.model.systems.get(&name) else {
                assert_eq!(row, None);
                continue;
            };
            let row = row.unwrap();
            assert_eq!(
                (row.id, row.deleting, row.map_version),
                (system.id, system.deleting, system.map_version)
            );
            assert!(row.s3.unwrap().secret_key.is_empty());
            let partitions = query::partitions_of(rows, system.id).unwrap();
            assert_eq!(partitions.len(), system.partitions.len());
            for partition in partitions {
                let members: BTreeSet<u64> = partition.members.iter().copied().collect();
                assert_eq!(members, system.partitions[&partition.id].members);
                assert_eq!(members.len(), partition.members.len(), "different ones");
                assert!(members.is_subset(&self.model.nodes), "of the topology");
            }
            for row in query::mounts_of(rows, system.id).unwrap() {
                let told = row.shut_out.iter().copied().collect();
                let (fs, epoch, writer) = (row.fs, row.epoch, row.writer);
                mounts
                    .insert(row.id, Mount { fs, epoch, writer, nonce: row.nonce, ending: row.ending, told });
            }
        }
        assert_eq!(mounts, self.model.mounts);
        for node in NODES {
            let row = query::metaserver(rows, node).unwrap();
            assert_eq!(row.is_some(), self.model.nodes.contains(&node));
            assert!(row.is_none_or(|row| row.leaving == self.model.leaving.contains(&node)));
        }
    }
}

proptest! {
    #![proptest_config(Config { cases: 400, ..Config::default() })]

    #[test]
    fn commands_mean_what_the_model_says(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let disk = SimDisk::new(SimDiskConfig::default());
        let store = Arc::new(runtime.block_on(MemStore::open(disk.mount(), "kv")).unwrap());
        let mut test = Test { store, model: Model::default(), next_node: NODES[0] };
        for node in NODES {
            let register = MetaRegister {
                token: vec![node as u8; 16].into(),
                address: format!("h{node}:1"),
                ..MetaRegister::default()
            };
            assert!(matches!(test.apply(Op::Register(register)).unwrap(), Answer::Registered(r) if r.node == node));
            test.model.nodes.insert(node);
        }
        for step in steps {
            test.step(step);
        }
    }
}
