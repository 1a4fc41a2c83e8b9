//! A stand-in for the MDS: gives node ids, tells addresses, and orders replicas of a fixed number of partitions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use curve_io::BoxFuture;
use curve_proto::pb::fs;
use curve_proto::pb::fs::fs_request::Op;
use curve_proto::pb::fs::fs_response::Result as Answer;
use curve_proto::pb::fs::meta_order::Action;
use curve_proto::pb::mds::mds_request::Op as MdsOp;
use curve_proto::pb::mds::mds_response::Result as MdsAnswer;
use curve_proto::pb::mds::{MdsRequest, MdsResponse};
use curve_proto::transport::{MdsCallError, MdsTransport};
use curvefs_meta::Birth;
use curvefs_types::{FsId, PartitionId};

pub const FS: FsId = FsId(1);
/// Node ids begin here.
const FIRST_NODE: u64 = 11;
/// Replicas of a partition.
const REPLICAS: usize = 3;

#[derive(Default)]
struct State {
    nodes: BTreeMap<Vec<u8>, u64>,
    addresses: BTreeMap<u64, String>,
    reports: BTreeMap<u64, Vec<fs::MetaReplica>>,
    /// Who began each partition.
    founders: BTreeMap<u32, BTreeSet<u64>>,
    wanted: BTreeMap<u32, BTreeSet<u64>>,
    /// Mounts to be shut out, with epochs.
    ending: BTreeMap<u64, u64>,
    /// Who said that its disk is full.
    full: BTreeSet<u64>,
    down: bool,
}

pub struct Mds {
    partitions: u32,
    state: Mutex<State>,
}

/// What a partition is born with.
pub fn birth(partition: u32) -> Birth {
    Birth { root: (0, 0, 0o755), ..Birth::of_slot(FS, PartitionId(partition), partition - 1) }
}

impl Mds {
    pub fn new(partitions: u32) -> Self {
        Self { partitions, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn set_down(&self, down: bool) {
        self.lock().down = down;
    }

    /// Orders a mount to be shut out.
    pub fn end(&self, mount: u64, epoch: u64) {
        self.lock().ending.insert(mount, epoch);
    }

    /// Whether every partition's leader has reported that a mount is shut out.
    pub fn has_ended(&self, mount: u64) -> bool {
        let state = self.lock();
        (1..=self.partitions).all(|partition| {
            state.leader_report(partition).is_some_and(|report| {
                report.shut_out.iter().any(|key| key.mount == mount && key.epoch == state.ending[&mount])
            })
        })
    }

    /// Wants another node in place of one.
    pub fn replace(&self, old: u64, new: u64) {
        for wanted in self.lock().wanted.values_mut() {
            if wanted.remove(&old) {
                wanted.insert(new);
            }
        }
    }

    /// Whether all partitions have the members that are wanted, and nobody else has replicas.
    pub fn is_as_wanted(&self) -> bool {
        let state = self.lock();
        let wanted = |partition: u32| {
            let members = state.leader_report(partition).map(|report| report.members.clone());
            members.is_some_and(|members| {
                members.into_iter().collect::<BTreeSet<_>>() == state.wanted[&partition]
            })
        };
        state.wanted.len() == self.partitions as usize && (1..=self.partitions).all(wanted)
    }

    pub fn address(&self, node: u64) -> Option<String> {
        self.lock().addresses.get(&node).cloned()
    }

    /// What leaders say that there is.
    pub fn usage(&self) -> (u64, u64, u64) {
        let state = self.lock();
        let usages = (1..=self.partitions).filter_map(|partition| state.leader_report(partition)?.usage);
        usages.fold((0, 0, 0), |sum, one| (sum.0 + one.files, sum.1 + one.directories, sum.2 + one.bytes))
    }

    fn register(state: &mut State, register: fs::MetaRegister) -> fs::MetaRegistered {
        let next = FIRST_NODE + state.nodes.len() as u64;
        let node = *state.nodes.entry(register.token.to_vec()).or_insert(next);
        state.addresses.insert(node, register.address);
        fs::MetaRegistered { node, cluster: "test".into(), heartbeat_interval_ms: 1000 }
    }

    fn heartbeat(&self, state: &mut State, heartbeat: fs::MetaHeartbeat) -> fs::MetaOrders {
        let node = heartbeat.node;
        state.addresses.insert(node, heartbeat.address);
        state.reports.insert(node, heartbeat.replicas);
        match heartbeat.reserve_low {
            true => state.full.insert(node),
            false => state.full.remove(&node),
        };
        if state.nodes.len() >= REPLICAS && state.founders.is_empty() {
            let nodes: BTreeSet<u64> = state.addresses.keys().copied().take(REPLICAS).collect();
            state.founders = (1..=self.partitions).map(|partition| (partition, nodes.clone())).collect();
            state.wanted = state.founders.clone();
        }
        let actions = (1..=self.partitions).flat_map(|partition| {
            let actions = state.orders(node, partition);
            actions.into_iter().map(move |action| fs::MetaOrder { partition, action: Some(action) })
        });
        fs::MetaOrders {
            orders: actions.collect(),
            addresses: state
                .addresses
                .iter()
                .map(|(node, address)| fs::MetaAddress { node: *node, address: address.clone() })
                .collect(),
            heartbeat_interval_ms: 1000,
            versions: vec![fs::FsVersions { fs: FS.0, record_version: 1, map_version: 1 }],
            no_space: state.full.iter().copied().collect(),
        }
    }

    fn partitions(&self, state: &State) -> fs::FsPartitions {
        let member = |node: &u64| fs::PartitionMember {
            node: *node,
            address: state.addresses.get(node).cloned().unwrap_or_default(),
            up: true,
        };
        let partition = |id: u32| fs::FsPartition {
            id,
            fs: FS.0,
            first_inodes: vec![u64::from(id - 1) << 40],
            members: state.wanted.get(&id).into_iter().flatten().map(member).collect(),
            ..fs::FsPartition::default()
        };
        fs::FsPartitions { version: 1, partitions: (1..=self.partitions).map(partition).collect() }
    }

    fn answer(&self, op: Op) -> Answer {
        let mut state = self.lock();
        match op {
            Op::Register(register) => Answer::Registered(Self::register(&mut state, register)),
            Op::Heartbeat(heartbeat) => Answer::Heartbeat(self.heartbeat(&mut state, heartbeat)),
            Op::Partitions(_) => Answer::Partitions(self.partitions(&state)),
            Op::Get(name) => Answer::FileSystem(fs::FsRecord {
                id: name.id,
                s3: Some(fs::S3Backend { buckets: vec!["b".into()], ..fs::S3Backend::default() }),
                version: 1,
                ..fs::FsRecord::default()
            }),
            other => panic!("a metaserver asked {other:?}"),
        }
    }
}

impl State {
    fn report(&self, node: u64, partition: u32) -> Option<&fs::MetaReplica> {
        self.reports.get(&node)?.iter().find(|report| report.partition == partition)
    }

    fn leader_report(&self, partition: u32) -> Option<&fs::MetaReplica> {
        let of = |node: &u64| self.report(*node, partition).filter(|report| report.leader == *node);
        self.reports.keys().filter_map(of).max_by_key(|report| report.term)
    }

    fn orders(&self, node: u64, partition: u32) -> Vec<Action> {
        let Some(wanted) = self.wanted.get(&partition) else { return Vec::new() };
        let Some(report) = self.report(node, partition) else {
            let born = birth(partition);
            let birth = fs::PartitionBirth {
                fs: FS.0,
                slot: born.slot,
                first_inode: born.ranges[0].first.0,
                last_inode: born.ranges[0].last.0,
                now_ns: born.now_ns,
                root_mode: born.root.2,
                members: self.founders[&partition].iter().copied().collect(),
                ..fs::PartitionBirth::default()
            };
            return match (wanted.contains(&node), self.founders[&partition].contains(&node)) {
                (true, true) => vec![Action::Create(birth)],
                (true, false) => vec![Action::Join(birth)],
                (false, _) => Vec::new(),
            };
        };
        if report.leader != node {
            let leader = self.leader_report(partition);
            let is_out = leader.is_some_and(|leader| !leader.members.contains(&node));
            let drop = is_out && !wanted.contains(&node);
            return drop.then_some(Action::DropReplica(fs::FsEmpty {})).into_iter().collect();
        }
        let missing = wanted
            .iter()
            .find(|node| !report.members.contains(node) && self.report(**node, partition).is_some());
        let extra = report.members.iter().find(|node| !wanted.contains(node));
        let enough = wanted.iter().all(|node| report.members.contains(node));
        let members = match (missing, extra) {
            (Some(node), _) => Some(Action::AddMember(*node)),
            (None, Some(node)) if enough => Some(Action::RemoveMember(*node)),
            _ => None,
        };
        let told = |mount: &u64| report.shut_out.iter().any(|key| key.mount == *mount);
        let ending =
            self.ending.iter().filter(|(mount, _)| !told(mount)).map(|(mount, epoch)| {
                Action::ShutOut(fs::FsMountKey { fs: FS.0, mount: *mount, epoch: *epoch })
            });
        members.into_iter().chain(ending).collect()
    }
}

impl MdsTransport for Mds {
    fn call(
        &self,
        request: MdsRequest,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<MdsResponse, MdsCallError>> {
        if self.lock().down {
            let gone = MdsCallError::Unavailable {
                waited_ms: deadline.as_millis() as u64,
                addresses: "mds".into(),
                cause: "down".into(),
            };
            return Box::pin(async move {
                tokio::time::sleep(deadline).await;
                Err(gone)
            });
        }
        let Some(MdsOp::Fs(fs::FsRequest { op: Some(op) })) = request.op else { panic!("{request:?}") };
        let answer = fs::FsResponse { result: Some(self.answer(op)) };
        let response = MdsResponse { result: Some(MdsAnswer::Fs(answer)) };
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            Ok(response)
        })
    }
}
