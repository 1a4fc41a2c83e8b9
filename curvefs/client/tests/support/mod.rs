//! A file system in this process: metaservers over a simulated network, each partition one state machine that its members
//! share, and an MDS that can be silenced. What is tested is the client, so replication is not simulated: leaders move when a test
//! says so, and operations over several partitions are coordinated in one step.

#![allow(dead_code, reason = "each test uses its part")]

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use curve_io::sim::{Link, Outage, SimDisk, SimDiskConfig, SimNetwork};
use curve_io::{BoxFuture, Handler, Message, Reply as Replier, ServerHandle};
use curve_kv::MemStore;
use curve_proto::mds::MdsApi;
use curve_proto::pb::fs;
use curve_proto::pb::fs::fs_request::Op as FsOp;
use curve_proto::pb::fs::fs_response::Result as FsAnswer;
use curve_proto::pb::mds as pb;
use curve_proto::transport::{MdsCallError, MdsTransport};
use curve_proto::{MdsError, methods};
use curve_types::{ClientId, Epoch, NodeId, Term};
use curvefs_client::{Mount, MountError, MountRequest, RetryLimits};
use curvefs_meta::{
    Action, Birth, Coordinator, Entry, Outcome, Partition, Plan, Route, check, server_request,
};
use curvefs_proto::{Leader, Refusal, answer_frame, call_of, refusal_frame};
use curvefs_types::{
    Answer, Ask, FsError, FsId, InodeId, MountId, NameOp, Op, PartitionId, Query, Reply, Request,
};

/// Metaservers.
pub const NODES: [u64; 3] = [1, 2, 3];
/// The file system.
pub const NAME: &str = "demo";

/// A partition and who leads it.
struct Held {
    partition: Partition,
    coordinator: Coordinator,
    term: u64,
    /// 0: nobody.
    leader: u64,
}

/// How the MDS is.
#[derive(Clone, Debug)]
pub struct Mds {
    pub down: bool,
    pub lease_ms: u64,
    pub record_version: u64,
    pub map_version: u64,
    pub secret: &'static str,
    pub endpoint: String,
    /// How often a mount is in progress before it is granted.
    pub in_progress: u32,
    /// The map of the grant says that the first partition holds everything.
    pub grants_old_map: bool,
    /// Mounts are over.
    pub over: bool,
    pub mounts: BTreeMap<u64, u64>,
    pub refreshes: u32,
    pub unmounted: Vec<u64>,
    pub maps_asked: u32,
}

/// A request that reached a partition: of which mount, number, acknowledged below, and whether it was applied.
pub type Heard = (PartitionId, u64, u64);

/// Everything in one place.
pub struct State {
    held: BTreeMap<PartitionId, Held>,
    /// Where metaservers listen.
    pub addresses: BTreeMap<u64, String>,
    pub mds: Mds,
    /// Whether members that do not lead say who does.
    pub hints: bool,
    /// Refusals that come before anything is done, one for each request.
    pub refusals: VecDeque<Refusal>,
    /// Errors of the partition, the same way.
    pub errors: VecDeque<FsError>,
    /// Metaservers that have no replicas any more.
    pub empty: Vec<u64>,
    /// Changes that arrived.
    pub heard: Vec<Heard>,
    now_ns: i64,
}

/// See the module.
#[derive(Clone)]
pub struct World {
    pub network: SimNetwork,
    state: Arc<Mutex<State>>,
    servers: Arc<Mutex<BTreeMap<u64, Box<dyn ServerHandle>>>>,
}

fn host(node: u64) -> String {
    format!("meta-{node}")
}

/// Where metaservers listen, in the simulated network.
fn simulated() -> BTreeMap<u64, String> {
    NODES.iter().map(|node| (*node, format!("{}:1", host(*node)))).collect()
}

impl World {
    /// So many partitions; the leaders are spread.
    pub async fn new(partitions: u32, seed: u64) -> Self {
        let mut held = BTreeMap::new();
        for slot in 0..partitions {
            let disk = SimDisk::new(SimDiskConfig::default());
            let store = Arc::new(MemStore::open(disk.mount(), "kv").await.unwrap());
            let id = PartitionId(slot + 1);
            let partition = Partition::open(store, &Birth::of_slot(FsId(1), id, slot)).unwrap();
            let (coordinator, _) = Coordinator::new(id, Term(1), Vec::new(), 0);
            let leader = NODES[slot as usize % NODES.len()];
            held.insert(id, Held { partition, coordinator, term: 1, leader });
        }
        let mds = Mds {
            down: false,
            lease_ms: 30_000,
            record_version: 1,
            map_version: 1,
            secret: "first",
            endpoint: "http://s3:1".into(),
            in_progress: 0,
            grants_old_map: false,
            over: false,
            mounts: BTreeMap::new(),
            refreshes: 0,
            unmounted: Vec::new(),
            maps_asked: 0,
        };
        let state = State {
            held,
            addresses: simulated(),
            mds,
            hints: true,
            refusals: VecDeque::new(),
            errors: VecDeque::new(),
            empty: Vec::new(),
            heard: Vec::new(),
            now_ns: 1,
        };
        let world = Self {
            network: SimNetwork::new(seed),
            state: Arc::new(Mutex::new(state)),
            servers: Arc::default(),
        };
        for node in NODES {
            world.start(node).await;
        }
        world
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves as a metaserver.
    pub async fn start(&self, node: u64) {
        self.network.bring_up(&host(node));
        let address = self.state().addresses[&node].clone();
        let server = self.network.node(&host(node)).serve(&address, self.metaserver(node)).await.unwrap();
        self.servers.lock().unwrap().insert(node, server);
    }

    /// What a metaserver does, for whatever network.
    pub fn metaserver(&self, node: u64) -> Arc<dyn Handler> {
        Arc::new(Metaserver { node, state: self.state.clone() })
    }

    /// Takes a metaserver down.
    pub fn stop(&self, node: u64, outage: Outage) {
        self.network.take_down(&host(node), outage);
        self.servers.lock().unwrap().remove(&node);
    }

    /// How messages between the mount and all metaservers travel.
    pub fn links(&self, link: &Link) {
        for node in NODES {
            self.network.set_link("mount", &host(node), link.clone());
            self.network.set_link(&host(node), "mount", link.clone());
        }
    }

    /// Everything, for who serves it by other means.
    pub fn shared(&self) -> Arc<Mutex<State>> {
        self.state.clone()
    }

    /// An MDS client of a mount.
    pub fn mds(&self) -> Arc<MdsApi> {
        Arc::new(MdsApi::new(Arc::new(FakeMds(self.state.clone())), ClientId(1), Duration::from_secs(10)))
    }

    /// Mounts.
    pub async fn try_mount(&self, name: &str, nonce: u64) -> Result<Mount, MountError> {
        let request = MountRequest { name: name.into(), nonce, ..MountRequest::default() };
        Mount::open(self.mds(), self.network.node("mount"), &request, RetryLimits::default()).await
    }

    /// Another process goes on with a mount.
    pub async fn take_over(&self, held: curvefs_client::Held) -> Result<Mount, MountError> {
        Mount::take_over(self.mds(), self.network.node("mount"), held, RetryLimits::default(), 1).await
    }

    pub async fn mount(&self) -> Mount {
        self.try_mount(NAME, 42).await.unwrap()
    }

    /// What is wrong with the file system.
    pub fn problems(&self) -> Vec<String> {
        let state = self.state();
        let partitions: Vec<_> = state.held.values().map(|held| &held.partition).collect();
        check::problems(&partitions, false).unwrap()
    }
}

impl State {
    /// Another leader; 0 for none.
    pub fn lead(&mut self, partition: u32, node: u64) {
        let held = self.held.get_mut(&PartitionId(partition)).unwrap();
        (held.leader, held.term) = (node, held.term + 1);
        (held.coordinator, _) = Coordinator::new(PartitionId(partition), Term(held.term), Vec::new(), 0);
    }

    pub fn leader(&self, partition: u32) -> u64 {
        self.held[&PartitionId(partition)].leader
    }

    /// Shuts a mount out of all partitions, as the MDS has it done.
    pub fn shut_out(&mut self, mount: MountId) {
        for id in self.held.keys().copied().collect::<Vec<_>>() {
            let fence = Op::Fence { mount, epoch: Epoch(2) };
            self.apply(id, &server_request(1, fence)).unwrap();
        }
    }

    /// Changes of a mount that arrived at a partition, each number once.
    pub fn numbers(&self, partition: u32) -> Vec<u64> {
        let all =
            self.heard.iter().filter(|(id, ..)| *id == PartitionId(partition)).map(|(_, number, _)| *number);
        let all: std::collections::BTreeSet<u64> = all.collect();
        all.into_iter().collect()
    }

    fn home(&self, inode: InodeId) -> PartitionId {
        PartitionId(inode.slot().min(self.held.len() as u32 - 1) + 1)
    }

    fn apply(&mut self, at: PartitionId, request: &Request) -> Outcome {
        let held = &self.held[&at];
        let entry = Entry { term: Term(held.term), requests: vec![request.clone()] };
        held.partition.apply(&[entry], None).unwrap().remove(0).remove(0)
    }

    fn ask(&self, at: PartitionId, ask: &Ask) -> Result<Answer, FsError> {
        self.held[&at].partition.query(ask).unwrap()
    }

    fn ask_as_server(&self, at: PartitionId, query: Query) -> Result<Answer, FsError> {
        self.ask(at, &Ask { mount: MountId::SERVERS, epoch: Epoch(0), query })
    }

    /// What a leader does with a mount's request.
    fn change(&mut self, at: PartitionId, mut request: Request) -> Outcome {
        assert!(!request.op.is_internal() && request.mount != MountId::SERVERS);
        assert!(request.ack_below <= request.sequence, "{request:?}");
        self.heard.push((at, request.sequence.0, request.ack_below.0));
        self.now_ns += 1;
        request.now_ns = self.now_ns;
        if let Some(error) = self.errors.pop_front() {
            return Err(error);
        }
        let mut source = None;
        loop {
            match self.held[&at].partition.route(&request, source).unwrap() {
                Route::Known(outcome) => return outcome,
                Route::Alone => return self.apply(at, &request),
                Route::Across(plan) => return self.across(at, request, plan),
                Route::NeedsSource => {
                    let Op::Name { op: NameOp::Rename { parent, name, .. } } = &request.op else { panic!() };
                    let query = Query::Lookup { parent: *parent, name: name.clone() };
                    match self.ask_as_server(self.home(*parent), query)? {
                        Answer::Entry { dentry, .. } => source = Some(dentry),
                        other => panic!("{other:?}"),
                    }
                }
            }
        }
    }

    /// A whole operation over several partitions.
    fn across(&mut self, at: PartitionId, request: Request, plan: Plan) -> Outcome {
        let partitions = self.held.len() as u32;
        let home = |inode: InodeId| PartitionId(inode.slot().min(partitions - 1) + 1);
        let mut todo = VecDeque::from(self.coordinator(at).start(1, request, plan, home));
        let mut answer = None;
        while let Some(action) = todo.pop_front() {
            match action {
                Action::Prepare { to, tx, request } => {
                    let vote = self.apply(to, &request).map(|reply| match reply {
                        Reply::Prepared { attrs } => attrs,
                        other => panic!("{other:?}"),
                    });
                    todo.extend(self.coordinator(at).voted(tx, to, vote));
                }
                Action::Walk { tx, walks } => {
                    let met = walks.iter().any(|walk| self.meets(walk.from, walk.avoid));
                    let result = if met { Err(FsError::Invalid) } else { Ok(()) };
                    todo.extend(self.coordinator(at).walked(tx, result));
                }
                Action::Decide { tx, request } => {
                    let outcome = self.apply(at, &request);
                    let Ok(Answer::CommittedTxs { txs }) =
                        self.ask_as_server(at, Query::CommittedTxs { limit: 1000 })
                    else {
                        panic!()
                    };
                    let committed = txs.iter().any(|committed| committed.tx == tx);
                    todo.extend(self.coordinator(at).decided(tx, outcome, committed));
                }
                Action::Answer { outcome, .. } => answer = Some(outcome),
                Action::Finish { to, tx, request } => {
                    self.apply(to, &request).unwrap();
                    todo.extend(self.coordinator(at).finished(tx, to));
                }
                Action::Forget { request } => drop(self.apply(at, &request)),
            }
        }
        answer.expect("every operation is answered")
    }

    fn coordinator(&mut self, at: PartitionId) -> &mut Coordinator {
        &mut self.held.get_mut(&at).unwrap().coordinator
    }

    fn meets(&self, from: InodeId, avoid: InodeId) -> bool {
        let mut at = from;
        while at != InodeId::ROOT {
            if at == avoid {
                return true;
            }
            let Ok(Answer::Attrs { attrs }) = self.ask_as_server(self.home(at), Query::GetAttr { inode: at })
            else {
                panic!()
            };
            at = attrs[0].parent;
        }
        avoid == InodeId::ROOT
    }

    /// Whether a node answers for a partition.
    fn admits(&mut self, node: u64, partition: PartitionId) -> Result<(), Refusal> {
        if let Some(refusal) = self.refusals.pop_front() {
            return Err(refusal);
        }
        let Some(held) = self.held.get(&partition).filter(|_| !self.empty.contains(&node)) else {
            return Err(Refusal::NoPartition);
        };
        if held.leader == node {
            return Ok(());
        }
        let leader = Leader {
            node: NodeId(held.leader),
            address: self.addresses.get(&held.leader).cloned().unwrap_or_default(),
        };
        Err(Refusal::NotLeader { hint: (self.hints && held.leader != 0).then_some(leader) })
    }

    fn partitions(&self, old: bool) -> fs::FsPartitions {
        let member =
            |node: &u64| fs::PartitionMember { node: *node, address: self.addresses[node].clone(), up: true };
        let one = |id: &PartitionId| fs::FsPartition {
            id: id.get(),
            fs: 1,
            first_inodes: vec![u64::from(id.get() - 1) << 40],
            members: NODES.iter().filter(|node| !self.empty.contains(node)).map(member).collect(),
            ..Default::default()
        };
        let limit = if old { 1 } else { usize::MAX };
        let version = if old { 0 } else { self.mds.map_version };
        fs::FsPartitions { version, partitions: self.held.keys().take(limit).map(one).collect() }
    }

    fn record(&self) -> fs::FsRecord {
        let s3 = fs::S3Backend {
            endpoint: self.mds.endpoint.clone(),
            buckets: vec!["bucket-1".into()],
            access_key: "key".into(),
            secret_key: self.mds.secret.into(),
            ..Default::default()
        };
        fs::FsRecord {
            id: 1,
            name: NAME.into(),
            version: self.mds.record_version,
            s3: Some(s3),
            ..Default::default()
        }
    }

    fn control(&mut self, op: FsOp) -> Result<FsAnswer, MdsError> {
        match op {
            FsOp::Mount(mount) if mount.name != NAME => {
                Err(MdsError::NotFound { what: format!("file system {}", mount.name) })
            }
            FsOp::Mount(_) if self.mds.in_progress > 0 => {
                self.mds.in_progress -= 1;
                let retry_after = Duration::from_millis(200);
                Err(MdsError::InProgress { why: "partitions elect their leaders".into(), retry_after })
            }
            FsOp::Mount(mount) => {
                let next = self.mds.mounts.len() as u64 + 1;
                let id = *self.mds.mounts.entry(mount.nonce).or_insert(next);
                Ok(FsAnswer::Grant(fs::FsGrant {
                    mount: Some(fs::FsMountKey { fs: 1, mount: id, epoch: 1 }),
                    writer: 100 + id,
                    lease_ms: self.mds.lease_ms,
                    file_system: Some(self.record()),
                    partitions: Some(self.partitions(self.mds.grants_old_map)),
                }))
            }
            FsOp::Refresh(_) if self.mds.over => Err(MdsError::NotHeld { what: "the mount".into() }),
            FsOp::Refresh(known) => {
                self.mds.refreshes += 1;
                let record = (known.record_version != self.mds.record_version).then(|| self.record());
                let partitions = (known.map_version != self.mds.map_version).then(|| self.partitions(false));
                Ok(FsAnswer::Refreshed(fs::FsRefreshed {
                    lease_ms: self.mds.lease_ms,
                    file_system: record,
                    partitions,
                }))
            }
            FsOp::Unmount(key) => {
                self.mds.unmounted.push(key.mount);
                Ok(FsAnswer::Done(fs::FsEmpty {}))
            }
            FsOp::Partitions(_) => {
                self.mds.maps_asked += 1;
                Ok(FsAnswer::Partitions(self.partitions(false)))
            }
            other => panic!("{other:?}"),
        }
    }
}

struct Metaserver {
    node: u64,
    state: Arc<Mutex<State>>,
}

impl Metaserver {
    fn serve(&self, request: &Message) -> Result<Message, Refusal> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let bad = |why| Refusal::BadRequest { why };
        match request.method {
            methods::META_CHANGE => {
                let (partition, request) = call_of::<Request>(request).map_err(bad)?;
                state.admits(self.node, partition)?;
                Ok(answer_frame(methods::META_CHANGE, &state.change(partition, request)))
            }
            methods::META_QUERY => {
                let (partition, ask) = call_of::<Ask>(request).map_err(bad)?;
                state.admits(self.node, partition)?;
                let outcome = match state.errors.pop_front() {
                    Some(error) => Err(error),
                    None => state.ask(partition, &ask),
                };
                Ok(answer_frame(methods::META_QUERY, &outcome))
            }
            other => Err(bad(format!("method {other}"))),
        }
    }
}

impl Handler for Metaserver {
    fn handle(&self, request: Message, reply: Box<dyn Replier>) {
        let answer = self.serve(&request);
        reply.send(answer.unwrap_or_else(|refusal| refusal_frame(request.method, &refusal)));
    }
}

/// What the MDS answers; `None` while it is down.
pub fn answer(state: &Mutex<State>, request: pb::MdsRequest) -> Option<pb::MdsResponse> {
    let Some(pb::mds_request::Op::Fs(fs::FsRequest { op: Some(op) })) = request.op else { panic!() };
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    if state.mds.down {
        return None;
    }
    let result = match state.control(op) {
        Ok(result) => pb::mds_response::Result::Fs(fs::FsResponse { result: Some(result) }),
        Err(error) => pb::mds_response::Result::Error((&error).into()),
    };
    Some(pb::MdsResponse { result: Some(result) })
}

struct FakeMds(Arc<Mutex<State>>);

impl MdsTransport for FakeMds {
    fn call(
        &self,
        request: pb::MdsRequest,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<pb::MdsResponse, MdsCallError>> {
        let answer = answer(&self.0, request);
        Box::pin(async move {
            if let Some(answer) = answer {
                return Ok(answer);
            }
            tokio::time::sleep(deadline).await;
            let (addresses, cause) = ("mds".to_owned(), "down".to_owned());
            Err(MdsCallError::Unavailable { waited_ms: 0, addresses, cause })
        })
    }
}
