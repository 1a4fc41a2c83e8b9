//! Processes on simulated disks and a simulated network, and a client that finds the leader.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use curve_io::ServerHandle;
use curve_io::sim::{Outage, SimDisk, SimDiskConfig, SimNetwork};
use curve_log::{Log, LogConfig};
use curve_multiraft::{
    AddressBook, Group, GroupStatus, MultiRaft, Op, ProposeError, Proposed, RaftOptions, ReadError,
};
use curve_types::{GroupId, NodeId};
use tokio::time::{Instant, sleep};

use crate::machine::{Content, Kv};

pub const GROUP: GroupId = GroupId(1);

struct Addresses;

impl AddressBook for Addresses {
    fn address(&self, node: NodeId) -> Option<String> {
        Some(address(node))
    }
}

fn address(node: NodeId) -> String {
    format!("n{}:1", node.get())
}

fn name(node: NodeId) -> String {
    format!("n{}", node.get())
}

pub struct Running {
    pub raft: Arc<MultiRaft>,
    pub log: Log,
    _server: Box<dyn ServerHandle>,
    pub contents: Mutex<BTreeMap<GroupId, Arc<Mutex<Content>>>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Death {
    Kill,
    PowerLoss,
}

pub struct Cluster {
    pub net: SimNetwork,
    pub seed: u64,
    pub options: RaftOptions,
    pub disks: BTreeMap<NodeId, SimDisk>,
    pub running: BTreeMap<NodeId, Running>,
    starts: u64,
}

pub fn ids(range: std::ops::RangeInclusive<u64>) -> Vec<NodeId> {
    range.map(NodeId).collect()
}

impl Cluster {
    pub fn new(seed: u64, options: RaftOptions) -> Self {
        // For example RUST_LOG=curve_multiraft=debug; silent without it.
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .try_init();
        let net = SimNetwork::new(seed);
        Self { net, seed, options, disks: BTreeMap::new(), running: BTreeMap::new(), starts: 0 }
    }

    /// Starts three nodes with one group, and waits for a leader.
    pub async fn three(seed: u64, options: RaftOptions) -> Self {
        let mut this = Self::new(seed, options);
        for node in ids(1..=3) {
            this.boot(node).await;
            this.create(node, GROUP, &ids(1..=3)).await;
        }
        this.leader(GROUP).await;
        this
    }

    /// Starts a process, with the groups that its log knows.
    pub async fn boot(&mut self, node: NodeId) {
        let seed = self.seed + node.get();
        let sync_delay = Duration::from_micros(200)..Duration::from_micros(1500);
        let config = SimDiskConfig { seed, sync_delay, ..SimDiskConfig::default() };
        let disk = self.disks.entry(node).or_insert_with(|| SimDisk::new(config)).clone();
        self.net.bring_up(&name(node));
        let mount = disk.mount();
        let config = LogConfig { segment_bytes: 8 << 20, ..LogConfig::default() };
        let (log, recovery) = Log::open(mount.clone(), Path::new("log"), config).await.expect("log opens");
        let network = self.net.node(&name(node));
        self.starts += 1;
        let seed = self.seed * 1000 + self.starts;
        let raft = MultiRaft::new(
            node,
            log.clone(),
            network.clone(),
            Arc::new(Addresses),
            seed,
            self.options.clone(),
        );
        let mut contents = BTreeMap::new();
        for group in recovery.groups {
            let kv = Kv::open(mount.clone(), &format!("state-{}", group.get())).await;
            contents.insert(group, kv.content.clone());
            raft.open_group(group, Box::new(kv)).await.expect("group opens");
        }
        let server = network.serve(&address(node), raft.clone()).await.expect("address is free");
        self.running.insert(node, Running { raft, log, _server: server, contents: Mutex::new(contents) });
    }

    async fn kv(&self, node: NodeId, group: GroupId) -> Kv {
        let kv = Kv::open(self.disks[&node].mount(), &format!("state-{}", group.get())).await;
        self.running[&node].contents.lock().unwrap().insert(group, kv.content.clone());
        kv
    }

    pub async fn create(&self, node: NodeId, group: GroupId, members: &[NodeId]) {
        let kv = self.kv(node, group).await;
        self.running[&node].raft.create_group(group, members, Box::new(kv)).await.expect("group is made");
    }

    pub async fn join(&self, node: NodeId, group: GroupId) {
        let kv = self.kv(node, group).await;
        self.running[&node].raft.join_group(group, Box::new(kv)).await.expect("group is joined");
    }

    /// The process dies at once. What is left of it can reach neither disk nor network.
    pub async fn kill(&mut self, node: NodeId, death: Death) {
        self.net.take_down(&name(node), Outage::Refused);
        match death {
            Death::Kill => self.disks[&node].detach(),
            Death::PowerLoss => self.disks[&node].crash(),
        }
        if let Some(running) = self.running.remove(&node) {
            running.raft.halt().await;
            running.log.close().await;
        }
    }

    pub fn isolate(&self, node: NodeId, isolated: bool) {
        self.net.isolate(&name(node), isolated);
    }

    pub fn group(&self, node: NodeId, group: GroupId) -> Option<Group> {
        self.running.get(&node)?.raft.group(group)
    }

    pub fn status(&self, node: NodeId) -> GroupStatus {
        self.group(node, GROUP).expect("group is open").status()
    }

    pub fn content(&self, node: NodeId, group: GroupId) -> Arc<Mutex<Content>> {
        self.running[&node].contents.lock().unwrap()[&group].clone()
    }

    /// A node that leads and may serve.
    pub fn leader_now(&self, group: GroupId) -> Option<NodeId> {
        self.running.keys().copied().find(|node| {
            self.group(*node, group).is_some_and(|group| *group.watch_leader().borrow() == Some(*node))
        })
    }

    pub async fn leader(&self, group: GroupId) -> NodeId {
        wait("a leader", || self.leader_now(group)).await
    }

    pub fn clients(&self) -> Client {
        let groups = self.running.values().map(|running| running.raft.clone()).collect();
        Client { rafts: groups }
    }

    /// Waits until all running members of the group are equal and idle.
    pub async fn converged(&self, group: GroupId) {
        let members = wait("equal replicas", || {
            let leader = self.group(self.leader_now(group)?, group)?.status();
            let members: Vec<NodeId> =
                leader.members.iter().copied().filter(|node| self.running.contains_key(node)).collect();
            let status = |node: &NodeId| self.group(*node, group).map(|group| group.status());
            let all = members.iter().map(status).collect::<Option<Vec<_>>>()?;
            let level = all.iter().all(|status| status.applied == leader.applied);
            (level && leader.applied == leader.last_log).then_some(members)
        })
        .await;
        let map_of = |node: &NodeId| self.content(*node, group).lock().unwrap().map.clone();
        let maps: Vec<_> = members.iter().map(map_of).collect();
        assert!(maps.windows(2).all(|pair| pair[0] == pair[1]), "replicas differ");
    }
}

pub async fn wait<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(Instant::now() < deadline, "no {what} within a minute");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Finds the leader by hints and trial.
#[derive(Clone)]
pub struct Client {
    rafts: Vec<Arc<MultiRaft>>,
}

impl Client {
    fn by_id(&self, node: Option<NodeId>) -> Option<usize> {
        self.rafts.iter().position(|raft| Some(raft.node()) == node)
    }

    pub async fn put(&self, group: GroupId, key: &str, value: &[u8]) -> Proposed {
        self.try_put(group, key, value, Duration::from_secs(60)).await.expect("a leader within a minute")
    }

    pub async fn try_put(
        &self,
        group: GroupId,
        key: &str,
        value: &[u8],
        patience: Duration,
    ) -> Option<Proposed> {
        let deadline = Instant::now() + patience;
        let mut at = 0;
        while Instant::now() < deadline {
            let op = Op {
                header: Bytes::copy_from_slice(key.as_bytes()),
                payload: vec![Bytes::copy_from_slice(value)],
            };
            let next = (at + 1) % self.rafts.len();
            let Some(handle) = self.rafts[at].group(group) else {
                at = next;
                sleep(Duration::from_millis(5)).await;
                continue;
            };
            match tokio::time::timeout(Duration::from_secs(5), handle.propose(op)).await {
                Ok(Ok(proposed)) => return Some(proposed),
                Ok(Err(ProposeError::NotLeader { hint })) => at = self.by_id(hint).unwrap_or(next),
                Ok(Err(ProposeError::Unavailable)) => {}
                Ok(Err(ProposeError::Stopped)) | Err(_) => at = next,
                Ok(Err(error @ ProposeError::TooLarge { .. })) => panic!("{error}"),
            }
            sleep(Duration::from_millis(5)).await;
        }
        None
    }

    /// The node that may serve a read now, if the one tried first (by `start`) or a hint leads to one.
    pub async fn barrier(&self, group: GroupId, start: usize) -> Option<NodeId> {
        let mut at = start % self.rafts.len();
        for _ in 0..3 {
            let handle = self.rafts[at].group(group)?;
            match tokio::time::timeout(Duration::from_secs(5), handle.read_barrier()).await {
                Ok(Ok(())) => return Some(self.rafts[at].node()),
                Ok(Err(ReadError::NotLeader { hint })) => at = self.by_id(hint)?,
                Ok(Err(ReadError::Unavailable | ReadError::Stopped)) | Err(_) => return None,
            }
        }
        None
    }
}
