//! Chunkservers that register, report and obey, with a shared world in place of Raft groups.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use curve_io::sim::{Outage, SimNetwork};
use curve_io::{Handler, Message, Reply, ServerHandle};
use curve_proto::mds::{Heartbeat, Order, OrderAction, Registration, ReplicaReport};
use curve_proto::pb::data::{ChunkReply, DeleteVolumeRequest, FenceRequest};
use curve_proto::transport::MessageMds;
use curve_proto::{ChunkError, MdsApi, methods};
use curve_types::{ClientId, CopysetId, Geometry, LogIndex, NodeId, Term};
use prost::Message as _;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// A Raft group that everybody agrees on at once.
#[derive(Clone, Debug)]
struct Group {
    members: BTreeSet<NodeId>,
    index: u64,
    term: u64,
    leader: NodeId,
}

/// What the pretended chunkservers share.
#[derive(Default)]
pub struct World {
    groups: BTreeMap<u32, Group>,
    alive: BTreeSet<NodeId>,
    pub replicas: BTreeMap<NodeId, BTreeSet<u32>>,
    pub creations: BTreeMap<NodeId, usize>,
    pub fences: BTreeMap<(u32, u64), u64>,
    /// Client and epoch of the holders that the last fence of each copyset and volume lets go on.
    pub kept: BTreeMap<(u32, u64), Vec<(u64, u64)>>,
    pub deleted: BTreeSet<(u32, u64)>,
    pub free: BTreeMap<NodeId, u64>,
    pub refuse: bool,
}

impl World {
    fn leads(&mut self, copyset: u32) -> Option<NodeId> {
        let group = self.groups.get_mut(&copyset)?;
        let has = |node: &NodeId| {
            self.alive.contains(node)
                && self.replicas.get(node).is_some_and(|replicas| replicas.contains(&copyset))
        };
        if !has(&group.leader) || !group.members.contains(&group.leader) {
            let up: Vec<NodeId> = group.members.iter().copied().filter(has).collect();
            if up.len() <= group.members.len() / 2 {
                return None;
            }
            (group.leader, group.term) = (up[0], group.term + 1);
        }
        Some(group.leader)
    }

    fn reports(&mut self, node: NodeId) -> Vec<ReplicaReport> {
        let replicas: Vec<u32> = self.replicas.entry(node).or_default().iter().copied().collect();
        let report = |copyset: u32| {
            let leader = self.leads(copyset);
            let group = &self.groups[&copyset];
            ReplicaReport {
                copyset: CopysetId(copyset),
                term: Term(group.term),
                leader,
                members: group.members.iter().copied().collect(),
                learners: Vec::new(),
                members_index: LogIndex(group.index),
                applied: LogIndex(10),
                last_log: LogIndex(10),
                used_bytes: 0,
                corrupt_blocks: 0,
            }
        };
        replicas.into_iter().map(report).collect()
    }

    fn obey(&mut self, node: NodeId, order: &Order) {
        let copyset = order.copyset.get();
        match &order.action {
            OrderAction::Create(members) => {
                let members: BTreeSet<NodeId> = members.iter().copied().collect();
                let group =
                    Group { leader: *members.first().unwrap(), members: members.clone(), index: 1, term: 1 };
                assert_eq!(
                    self.groups.entry(copyset).or_insert(group).members,
                    members,
                    "one list for all members"
                );
                *self.creations.entry(node).or_default() += 1;
                self.replicas.entry(node).or_default().insert(copyset);
            }
            OrderAction::Join => drop(self.replicas.entry(node).or_default().insert(copyset)),
            OrderAction::DropReplica => {
                assert!(
                    !self.groups[&copyset].members.contains(&node),
                    "a member's replica was to be dropped"
                );
                self.replicas.entry(node).or_default().remove(&copyset);
            }
            OrderAction::AddMember(to) => {
                assert_eq!(self.leads(copyset), Some(node));
                assert!(self.replicas[to].contains(&copyset), "the new member has joined");
                self.change(copyset, |members| members.insert(*to));
            }
            OrderAction::RemoveMember(from) => {
                assert_eq!(self.leads(copyset), Some(node));
                self.change(copyset, |members| members.remove(from));
            }
            OrderAction::TransferLeader(to) => {
                let group = self.groups.get_mut(&copyset).unwrap();
                (group.leader, group.term) = (*to, group.term + 1);
            }
        }
    }

    fn change(&mut self, copyset: u32, change: impl FnOnce(&mut BTreeSet<NodeId>) -> bool) {
        let group = self.groups.get_mut(&copyset).unwrap();
        group.index += u64::from(change(&mut group.members));
        assert!((2..=4).contains(&group.members.len()), "{group:?}");
    }

    fn serve(&mut self, node: NodeId, request: &Message) -> Result<(), ChunkError> {
        if self.refuse {
            return Err(ChunkError::Busy { message: "refused by the test".into() });
        }
        let header = &request.header[..];
        match request.method {
            methods::FENCE => {
                let fence = FenceRequest::decode(header).unwrap();
                self.lead(node, fence.copyset)?;
                let held = self.fences.entry((fence.copyset, fence.volume)).or_default();
                *held = fence.epoch.max(*held);
                let kept = fence.kept.iter().map(|kept| (kept.client, kept.epoch)).collect();
                self.kept.insert((fence.copyset, fence.volume), kept);
            }
            methods::DELETE_VOLUME => {
                let delete = DeleteVolumeRequest::decode(header).unwrap();
                self.lead(node, delete.copyset)?;
                self.deleted.insert((delete.copyset, delete.volume));
            }
            method => return Err(ChunkError::BadRequest { message: format!("method {method}") }),
        }
        Ok(())
    }

    fn lead(&mut self, node: NodeId, copyset: u32) -> Result<(), ChunkError> {
        match self.leads(copyset) {
            Some(leader) if leader == node => Ok(()),
            leader => Err(ChunkError::NotLeader { hint: leader.map(|leader| (leader, String::new())) }),
        }
    }
}

struct Chunkserver {
    token: u128,
    host: String,
    zone: String,
    node: NodeId,
    running: Option<(JoinHandle<()>, Box<dyn ServerHandle>)>,
}

/// All of them.
pub struct Fleet {
    network: SimNetwork,
    mds: Vec<String>,
    world: Arc<Mutex<World>>,
    chunkservers: Vec<Chunkserver>,
}

struct Port {
    node: NodeId,
    world: Arc<Mutex<World>>,
}

impl Handler for Port {
    fn handle(&self, request: Message, reply: Box<dyn Reply>) {
        let done = self.world.lock().unwrap().serve(self.node, &request);
        let header =
            done.map_or_else(|error| ChunkReply::error(&error), |()| ChunkReply::ok()).encode_to_vec();
        reply.send(Message { method: request.method, header: header.into(), payload: Vec::new() });
    }
}

impl Fleet {
    pub fn new(network: SimNetwork, mds: Vec<String>) -> Self {
        Self { network, mds, world: Arc::default(), chunkservers: Vec::new() }
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    pub fn node(&self, n: usize) -> NodeId {
        self.chunkservers[n].node
    }

    pub fn relocate(&mut self, n: usize, host: &str) {
        self.chunkservers[n].host = host.into();
    }

    pub fn format(&mut self, n: usize) {
        assert!(self.chunkservers[n].running.is_none());
        self.chunkservers[n].token += 1000;
    }

    pub fn stop(&mut self, n: usize) {
        let chunkserver = &mut self.chunkservers[n];
        let (task, _) = chunkserver.running.take().unwrap();
        task.abort();
        self.network.take_down(&chunkserver.host, Outage::Refused);
        self.world.lock().unwrap().alive.remove(&chunkserver.node);
    }

    pub async fn start(&mut self, n: usize) {
        if n == self.chunkservers.len() {
            let (token, host, zone) = (n as u128 + 77, format!("chunkserver-{}", n + 1), format!("zone-{n}"));
            self.chunkservers.push(Chunkserver { token, host, zone, node: NodeId(0), running: None });
        }
        let chunkserver = &mut self.chunkservers[n];
        self.network.bring_up(&chunkserver.host);
        let network = self.network.node(&chunkserver.host);
        let transport = Arc::new(MessageMds::framed(network.clone(), &self.mds));
        let api = MdsApi::new(transport, ClientId(2000 + n as u64), Duration::from_secs(5));
        let address = format!("{}:1", chunkserver.host);
        let registration = Registration {
            token: chunkserver.token,
            address: address.clone(),
            zone: chunkserver.zone.clone(),
            total_bytes: 1 << 40,
            free_bytes: 1 << 40,
            geometry: Geometry::default(),
            version: "test".into(),
        };
        let registered = loop {
            match api.register(registration.clone()).await {
                Ok(registered) => break registered,
                Err(error) if error.is_transient() => sleep(Duration::from_millis(100)).await,
                Err(error) => panic!("{error}"),
            }
        };
        chunkserver.node = registered.node;
        self.world.lock().unwrap().alive.insert(registered.node);
        let port = Arc::new(Port { node: registered.node, world: self.world.clone() });
        let serving = network.serve(&address, port).await.unwrap();
        let reporting = report(api, registered.node, chunkserver.token, address, self.world.clone());
        chunkserver.running = Some((tokio::spawn(reporting), serving));
    }
}

async fn report(api: MdsApi, node: NodeId, token: u128, address: String, world: Arc<Mutex<World>>) {
    let mut wait = Duration::from_millis(500);
    loop {
        let heartbeat = {
            let mut world = world.lock().unwrap();
            let free = world.free.get(&node).copied().unwrap_or(1 << 40);
            Heartbeat {
                node,
                token,
                address: address.clone(),
                total_bytes: 1 << 40,
                free_bytes: free,
                reserve_low: false,
                replicas: world.reports(node),
            }
        };
        if let Ok(reply) = api.heartbeat(heartbeat).await {
            let mut world = world.lock().unwrap();
            reply.orders.iter().for_each(|order| world.obey(node, order));
            wait = reply.heartbeat_interval;
        }
        sleep(wait).await;
    }
}
