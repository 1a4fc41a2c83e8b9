//! One MDS, whatever it runs on: the group, the leader's loops, and the frames it serves.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use curve_io::{Disk, Handler, Message, Network, Reply, ServerHandle, make_dirs_durable};
use curve_kv::{MemStore, Reader, Store};
use curve_log::{Log, LogConfig};
use curve_multiraft::{
    AddressBook, DiskState, Group, GroupState, MultiRaft, Op, ProposeError, RaftOptions, ReadError, Role,
};
use curve_proto::pb::mds::mds_response::Result as Answer;
use curve_proto::pb::mds::{MdsRequest, MdsResponse};
use curve_proto::pb::mds_state as state;
use curve_proto::transport::{request_of, response_frame};
use curve_proto::{MdsError, methods};
use curve_types::{GroupId, NodeId, Term};
use prost::Message as _;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::bootstrap::PeerSide;
use crate::config::MdsConfig;
use crate::copyset_call::CopysetCaller;
use crate::lease::Fencer;
use crate::memory::LeaderMemory;
use crate::placement::Purger;
use crate::sealing::SealingKeys;
use crate::server::StartError;
use crate::service::Via;
use crate::state_machine::MdsMachine;
use crate::topology::RouteTable;
use crate::watched::Watched;
use crate::{bootstrap, leader, service};

const LOG_DIR: &str = "log";
const STATE_DIR: &str = "state";
const LOG_SEGMENT_BYTES: u64 = 16 << 20;
const SPARE_SEGMENTS_MAX: usize = 1;

/// What an MDS reaches the world through.
pub struct MdsParts {
    /// The disk with the log, and with the state where `store` is not given.
    pub disk: Arc<dyn Disk>,
    /// The data directory, relative to the disk's root.
    pub dir: PathBuf,
    /// The framed network.
    pub network: Arc<dyn Network>,
    /// The state store; `None` for the in-memory one on `disk`.
    pub store: Option<Arc<dyn Store>>,
    /// Feeds everything that is drawn at random.
    pub seed: u64,
    /// Times of the MDS group's replication. It never goes quiet, whatever this says.
    pub raft: RaftOptions,
}

/// A running MDS. It owns its tasks: dropping it stops them, as a crash would.
pub struct MdsNode {
    pub(crate) shared: Arc<Shared>,
    listening: Box<dyn ServerHandle>,
    tasks: JoinSet<()>,
}

/// What requests and the leader's loops work with.
pub(crate) struct Shared {
    pub config: MdsConfig,
    pub raft: Arc<MultiRaft>,
    pub log: Log,
    /// The replica; not there yet while a member without state finds out what it may do.
    group: OnceLock<Group>,
    pub peer: PeerSide,
    pub store: Arc<dyn Store>,
    store_failed: Arc<AtomicBool>,
    pub network: Arc<dyn Network>,
    sealing: OnceLock<SealingKeys>,
    /// Changes after each change of the rows.
    pub applied: watch::Receiver<()>,
    pub memory: Arc<LeaderMemory>,
    /// Told of each heartbeat of a metaserver: requests wait for what those report.
    pub fs_heard: watch::Sender<()>,
    pub fencer: Fencer,
    pub purger: Purger,
    clock: Clock,
}

/// Wall-clock time for records that people read. Decisions use `tokio::time` only.
struct Clock {
    started: Instant,
    started_ms: AtomicU64,
}

struct Book(MdsConfig);

impl AddressBook for Book {
    fn address(&self, node: NodeId) -> Option<String> {
        self.0.member(node).map(|member| member.data_address.clone())
    }
}

fn part<E: std::fmt::Display>(what: impl Into<String>) -> impl FnOnce(E) -> StartError {
    let what = what.into();
    move |cause| StartError::Part { what, cause: cause.to_string() }
}

impl MdsNode {
    /// Opens what the disk has, joins the group (making it at the first start), and serves frames at the member's data
    /// address.
    pub async fn start(config: MdsConfig, parts: MdsParts) -> Result<Self, StartError> {
        config.check()?;
        let MdsParts { disk, dir, network, store, seed, raft } = parts;
        make_dirs_durable(&*disk, &dir).await.map_err(part(format!("data directory {}", dir.display())))?;
        let store = match store {
            Some(store) => store,
            None => Arc::new(
                MemStore::open(disk.clone(), dir.join(STATE_DIR)).await.map_err(part("state store"))?,
            ),
        };
        let store_failed = Arc::new(AtomicBool::new(false));
        let store: Arc<dyn Store> = Arc::new(Watched::new(store, store_failed.clone()));
        let log_config = LogConfig {
            segment_bytes: LOG_SEGMENT_BYTES,
            spare_segments_max: SPARE_SEGMENTS_MAX,
            ..LogConfig::default()
        };
        let (log, recovery) = Log::open(disk, &dir.join(LOG_DIR), log_config).await.map_err(part("log"))?;
        tracing::info!(entries = recovery.entries, torn = recovery.truncated_tail_bytes, "log recovered");
        // The group must notice a dead leader at any time, so it never goes quiet.
        let options = RaftOptions { quiesce_after: None, ..raft };
        let book = Arc::new(Book(config.clone()));
        let raft = MultiRaft::new(config.node(), log.clone(), network.clone(), book, seed, options);
        let (changed, applied) = watch::channel(());
        let machine = MdsMachine::new(store.clone(), changed).map_err(part("state store"))?;
        let memory = Arc::new(LeaderMemory::new(seed));
        let routes = Arc::new(RouteTable { store: store.clone(), memory: memory.clone() });
        let caller = Arc::new(CopysetCaller::new(network.clone(), routes));
        let shared = Arc::new(Shared {
            raft: raft.clone(),
            log,
            group: OnceLock::new(),
            peer: PeerSide::new(seed),
            store,
            store_failed,
            network: network.clone(),
            sealing: OnceLock::new(),
            applied,
            memory,
            fs_heard: watch::Sender::new(()),
            fencer: Fencer::new(caller.clone()),
            purger: Purger::new(caller),
            clock: Clock { started: Instant::now(), started_ms: AtomicU64::new(0) },
            config,
        });
        let address = shared.config.me().data_address.clone();
        let frames = Arc::new(Frames(shared.clone()));
        let listening =
            network.serve(&address, frames).await.map_err(part(format!("data address {address}")))?;
        let mut tasks = JoinSet::new();
        if recovery.groups.contains(&GroupId::MDS) {
            let opened = raft.open_group(GroupId::MDS, Box::new(machine)).await;
            shared.enter(opened.map_err(part("MDS group"))?);
        } else {
            tasks.spawn(bootstrap::run(shared.clone(), raft.clone(), machine));
        }
        tasks.spawn(leader::run_schedule(shared.clone()));
        tasks.spawn(leader::run_file_systems(shared.clone()));
        tasks.spawn(leader::run_purge(shared.clone()));
        tasks.spawn(leader::run_watch(shared.clone()));
        tasks.spawn(leader::run_membership(shared.clone()));
        Ok(Self { shared, listening, tasks })
    }

    /// Answers a request of the control plane, as over gRPC.
    pub async fn call(&self, request: MdsRequest) -> MdsResponse {
        service::call(&self.shared, request, Via::Grpc).await
    }

    /// Sets the wall clock that records show; without it they count from the process's start, as the simulator wants.
    pub fn set_wall_clock(&self, unix_ms: u64) {
        let clock = &self.shared.clock;
        let elapsed = clock.started.elapsed().as_millis() as u64;
        clock.started_ms.store(unix_ms.saturating_sub(elapsed), Ordering::Relaxed);
    }

    /// Sets the keys that secrets are sealed with, once; without them none can be kept.
    pub fn set_sealing_keys(&self, keys: SealingKeys) {
        assert!(self.shared.sealing.set(keys).is_ok(), "an MDS gets its keys once");
    }

    /// Whether this MDS leads.
    pub fn is_leader(&self) -> bool {
        self.shared.leading().is_some()
    }

    /// Whether the log, the store or the replica has failed. Final: it takes a new start.
    pub fn failed(&self) -> bool {
        let replica = self.shared.group().map(|group| group.status().state);
        self.shared.store_failed()
            || self.shared.log.failed()
            || matches!(replica, Some(GroupState::Failed(_)))
    }

    /// Where frames are served.
    pub fn address(&self) -> String {
        self.listening.address()
    }

    /// Hands leadership over, makes the state durable, and stops.
    pub async fn shutdown(mut self) {
        self.tasks.shutdown().await;
        if let Some(group) = self.shared.group()
            && let Err(error) = group.checkpoint().await
        {
            // It only makes the next start slower.
            tracing::info!(%error, "no checkpoint at shutdown");
        }
        self.shared.raft.shutdown().await;
        drop(self.listening);
        self.shared.log.close().await;
    }
}

impl Shared {
    pub(crate) fn now_ms(&self) -> u64 {
        self.clock.started_ms.load(Ordering::Relaxed) + self.clock.started.elapsed().as_millis() as u64
    }

    /// The keys that secrets are sealed with.
    pub(crate) fn sealing(&self) -> Option<&SealingKeys> {
        self.sealing.get()
    }

    /// This node's replica, once it has one.
    pub(crate) fn group(&self) -> Option<&Group> {
        self.group.get()
    }

    /// Begins to take part.
    pub(crate) fn enter(&self, group: Group) {
        assert!(self.group.set(group).is_ok(), "a node has one replica");
    }

    /// The term that this node leads, as far as it knows.
    pub(crate) fn leading(&self) -> Option<Term> {
        let status = self.group()?.status();
        (status.role == Role::Leader).then_some(status.term)
    }

    /// Whether the state store has failed, so that this node must not lead.
    pub(crate) fn store_failed(&self) -> bool {
        self.store_failed.load(Ordering::Acquire)
    }

    /// The rows as this node has applied them.
    pub(crate) fn rows(&self) -> &dyn Reader {
        &*self.store
    }

    fn not_leader(&self, hint: Option<NodeId>, via: Via) -> MdsError {
        // A node that does not know better would point to itself, and the caller would come back at once.
        let member =
            hint.filter(|&node| node != self.config.node()).and_then(|node| self.config.member(node));
        let hint = member.map(|member| match via {
            Via::Grpc => member.grpc_address.clone(),
            Via::Frames => member.data_address.clone(),
        });
        MdsError::NotLeader { hint }
    }

    /// Returns the term once this node certainly leads and has applied everything acknowledged before.
    pub(crate) async fn lead(&self, via: Via) -> Result<Term, MdsError> {
        let Some(group) = self.group() else { return Err(self.not_leader(None, via)) };
        let status = group.status();
        if status.role != Role::Leader {
            return Err(self.not_leader(status.leader, via));
        }
        match group.read_barrier().await {
            Ok(()) => Ok(group.status().term),
            Err(ReadError::NotLeader { hint }) => Err(self.not_leader(hint, via)),
            Err(ReadError::Unavailable | ReadError::Stopped) => Err(self.not_leader(None, via)),
        }
    }

    /// Has a command applied. Unless the answer says otherwise it may or may not have been: repeat it.
    pub(crate) async fn propose(&self, command: state::Command, via: Via) -> Result<Answer, MdsError> {
        let Some(group) = self.group() else { return Err(self.not_leader(None, via)) };
        if self.raft.disk() == DiskState::Full {
            // It leads only as long as no other can.
            return Err(MdsError::Unavailable { why: "the disk of the leading MDS is full".into() });
        }
        let op = Op { header: command.encode_to_vec().into(), payload: Vec::new() };
        let proposed = match group.propose(op).await {
            Ok(proposed) => proposed,
            Err(ProposeError::NotLeader { hint }) => return Err(self.not_leader(hint, via)),
            Err(ProposeError::Unavailable | ProposeError::Stopped) => return Err(self.not_leader(None, via)),
            Err(error @ ProposeError::TooLarge { .. }) => {
                return Err(MdsError::BadRequest { why: error.to_string() });
            }
        };
        let response = MdsResponse::decode(proposed.result).expect("our own state machine encoded it");
        match response.result.expect("our own state machine answers") {
            Answer::Error(error) => Err(error.into()),
            answer => Ok(answer),
        }
    }

    /// A command that no client sent.
    pub(crate) async fn propose_own(&self, op: state::command::Op) -> Result<Answer, MdsError> {
        let command = state::Command { now_ms: self.now_ms(), op: Some(op), ..state::Command::default() };
        self.propose(command, Via::Frames).await
    }
}

/// Routes the frames of this process.
struct Frames(Arc<Shared>);

impl Handler for Frames {
    fn handle(&self, request: Message, reply: Box<dyn Reply>) {
        match request.method {
            method if methods::RAFT.contains(&method) => self.0.raft.handle(request, reply),
            methods::MDS_PING => reply.send(bootstrap::answer(&self.0, &request)),
            methods::MDS_CALL => {
                let shared = self.0.clone();
                tokio::spawn(async move {
                    let response = match request_of(&request) {
                        Ok(request) => service::call(&shared, request, Via::Frames).await,
                        Err(why) => service::refusal(&MdsError::BadRequest { why }),
                    };
                    reply.send(response_frame(&response));
                });
            }
            _ => reply.send(curve_rpc::unknown_method()),
        }
    }
}

/// How long a request may take when it does not say.
pub(crate) const DEADLINE_DEFAULT: Duration = Duration::from_secs(10);
