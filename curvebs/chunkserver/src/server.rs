//! A chunkserver as a whole: opened in order, stopped in order.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use curve_chunkstore::{ChunkStore, OpenError};
use curve_io::{Disk, Network, ServerHandle, make_dirs_durable};
use curve_log::{Log, LogError, Recovery};
use curve_multiraft::{AddressBook, MultiRaft};
use curve_node::{HeartbeatPace, Identity, IdentityError, PeerBook};
use curve_proto::transport::MdsTransport;
use curve_proto::{MdsApi, MdsError};
use curve_types::{ClientId, NodeId};
use futures::future::join_all;
use rand::Rng;
use rand::rngs::StdRng;
use thiserror::Error;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::config::ChunkserverConfig;
use crate::copyset::Replica;
use crate::health::Health;
use crate::heartbeat::{Announcement, HeartbeatLoop, register};
use crate::metrics::Metrics;
use crate::peers::Peers;
use crate::rebuild::{LOG_DIR, STORE_DIR};
use crate::replicas::{ReplicaError, ReplicaHost};
use crate::scrub::{self, ScrubPace};
use crate::service::{Inflight, ReplicaTable, Service, ServiceState};

/// How long one call to the MDS may take.
const MDS_DEADLINE: Duration = Duration::from_secs(3);
/// How long a graceful stop spends on checkpoints, which only make the next start faster.
const CHECKPOINT_PATIENCE: Duration = Duration::from_secs(3);
/// How often it is looked whether log or store failed.
const FAILURE_CHECK: Duration = Duration::from_secs(1);

/// What a chunkserver reaches the world through.
pub struct ChunkserverParts {
    /// The disk.
    pub disk: Arc<dyn Disk>,
    /// The data directory, relative to the disk's root.
    pub dir: PathBuf,
    /// The data plane.
    pub network: Arc<dyn Network>,
    /// The control plane.
    pub mds: Arc<dyn MdsTransport>,
    /// Draws the token, the election timeouts and the MDS caller's id.
    pub rng: StdRng,
}

/// Why a chunkserver did not start, or why it stopped by itself. Each text says what to do.
#[derive(Debug, Error)]
pub enum StartError {
    /// The identity file is damaged.
    #[error("{0}; {REBUILD}")]
    Identity(IdentityError),
    /// The MDS refuses this chunkserver.
    #[error("the MDS refuses this chunkserver: {0}")]
    Refused(MdsError),
    /// The disk belongs to another cluster.
    #[error(
        "this disk belongs to cluster `{ours}`, the MDS to `{theirs}`; check `mds_addresses` and `data_dir`"
    )]
    OtherCluster {
        /// What the identity says.
        ours: String,
        /// What the MDS says.
        theirs: String,
    },
    /// The log is damaged; the replicas must be rebuilt.
    #[error("{0}; {REBUILD}")]
    LogCorrupt(LogError),
    /// The log cannot be used for another reason.
    #[error(transparent)]
    Log(LogError),
    /// The store is damaged; the replicas must be rebuilt.
    #[error("store: {0}; {REBUILD}")]
    StoreCorrupt(String),
    /// The store cannot be used for another reason.
    #[error(transparent)]
    Store(OpenError),
    /// A replica is damaged, or log and store do not fit each other.
    #[error("{0}; {REBUILD}")]
    Replica(ReplicaError),
    /// The disk or the address cannot be used.
    #[error("{what}: {cause}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        cause: std::io::Error,
    },
    /// Too few file descriptors may be open.
    #[error(
        "only {limit} files may be open and {needed} are needed; raise the limit (`ulimit -n`, LimitNOFILE=) or lower \
         `cached_chunks`"
    )]
    Descriptors {
        /// The hard limit.
        limit: u64,
        /// What the configuration needs.
        needed: u64,
    },
    /// Another process uses the data directory.
    #[error("another process uses {dir}; stop it first")]
    InUse {
        /// The data directory.
        dir: String,
    },
    /// Log or store failed while running.
    #[error("the disk failed: {0}; check it (dmesg, smartctl) and restart, or replace it and rebuild")]
    DiskFailed(String),
}

/// What to do about damage that this chunkserver cannot heal by itself.
const REBUILD: &str = "the other replicas have the data: run the same command with --rebuild to move what is here \
                       aside and have this disk filled again";

/// A running chunkserver.
///
/// Start: identity → (first start: registration) → log → store → replicas → listen → heartbeats, scrub, maintenance.
/// Stop: leaderships handed over → checkpoints → groups stopped → log closed. Everything runs on the caller's
/// runtime; the tasks are owned here and end with it.
pub struct ChunkserverServer {
    node: NodeId,
    log: Log,
    store: Arc<ChunkStore>,
    raft: Arc<MultiRaft>,
    table: Arc<ReplicaTable>,
    health: Arc<Health>,
    listening: Box<dyn ServerHandle>,
    tasks: JoinSet<()>,
    stopped: bool,
}

/// As a kill of the process: nothing is handed over or flushed, and nothing of it runs on.
impl Drop for ChunkserverServer {
    fn drop(&mut self) {
        let raft = self.raft.clone();
        if !self.stopped
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move { raft.halt().await });
        }
    }
}

impl ChunkserverServer {
    /// Starts. The first start waits until an MDS has given a node id; later ones need no MDS.
    pub async fn start(config: ChunkserverConfig, parts: ChunkserverParts) -> Result<Self, StartError> {
        let ChunkserverParts { disk, dir, network, mds, mut rng } = parts;
        let api = Arc::new(MdsApi::new(mds, ClientId(rng.random()), MDS_DEADLINE));
        let announcement = Announcement { address: config.advertised().into(), zone: config.zone.clone() };
        let identity = identify(&api, &announcement, &*disk, &dir, &mut rng).await?;
        let node = identity.node.expect("an identified chunkserver has a node id");

        let (log, recovery) = open_log(&config, &disk, &dir).await?;
        let store = open_store(&config, &disk, &dir).await?;
        let metrics = Arc::new(Metrics::default());
        let book = Arc::new(PeerBook::load(&*disk, &dir).await);
        book.learn([(node, announcement.address.clone())]);
        let addresses: Arc<dyn AddressBook> = book.clone();
        let peers = Peers::new(node, network.clone(), addresses.clone());
        let raft = MultiRaft::new(node, log.clone(), network.clone(), addresses, rng.random(), config.raft());
        let table = Arc::new(ReplicaTable::default());
        let host = Arc::new(ReplicaHost::new(
            store.clone(),
            log.clone(),
            raft.clone(),
            table.clone(),
            metrics.clone(),
            peers,
            disk.board(),
        ));
        let opened = host.open_all(&recovery.groups).await.map_err(StartError::Replica)?;

        let inflight = Inflight::new(config.inflight());
        let state = ServiceState {
            replicas: table.clone(),
            metrics: metrics.clone(),
            inflight: inflight.clone(),
            geometry: store.geometry(),
        };
        let service = Arc::new(Service::new(Arc::new(state), raft.clone()));
        let listening = listen(&*network, &config.listen_address, service).await?;
        tracing::info!(%node, address = listening.address(), replicas = opened, "serving");

        let mds_heard = Arc::new(AtomicBool::new(false));
        let health = Arc::new(Health {
            table: table.clone(),
            store: store.clone(),
            log: log.clone(),
            raft: raft.clone(),
            mds_heard: mds_heard.clone(),
            metrics: metrics.clone(),
            inflight,
        });
        let heartbeat = HeartbeatLoop {
            api,
            node,
            token: identity.token,
            announcement,
            pace: HeartbeatPace::new(config.heartbeat_interval.0),
            table: table.clone(),
            host,
            store: store.clone(),
            book,
            disk,
            dir,
            metrics: metrics.clone(),
            mds_heard,
        };
        let pace = ScrubPace { bytes_per_second: config.scrub_rate.0, interval: config.scrub_interval.0 };
        let mut tasks = JoinSet::new();
        tasks.spawn(heartbeat.run());
        tasks.spawn(scrub::run(table.clone(), metrics, pace));
        tasks.spawn(store.clone().run_maintenance());
        Ok(Self { node, log, store, raft, table, health, listening, tasks, stopped: false })
    }

    /// This chunkserver's id.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Where it serves, with the port that was chosen where 0 was asked for.
    pub fn address(&self) -> String {
        self.listening.address()
    }

    /// Its health, for `/healthz` and `/metrics`.
    pub fn health(&self) -> Arc<Health> {
        self.health.clone()
    }

    /// Its replicas, for inspection by a simulator or a test.
    pub fn replicas(&self) -> Vec<Arc<Replica>> {
        self.table.all()
    }

    /// Its Raft runtime, for inspection by a simulator or a test.
    pub fn raft(&self) -> &Arc<MultiRaft> {
        &self.raft
    }

    /// Its log, for inspection by a simulator or a test.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Returns when the log or the store has failed: the process must stop using the disk and be restarted.
    pub async fn failed(&self) -> StartError {
        loop {
            if let Some(cause) = self.store.failure() {
                return StartError::DiskFailed(cause);
            }
            if self.log.failed() {
                return StartError::DiskFailed("the shared log cannot be written".into());
            }
            sleep(FAILURE_CHECK).await;
        }
    }

    /// Stops gracefully: clients wait no longer than it takes to hand the leaderships over.
    pub async fn shutdown(mut self) {
        self.raft.hand_over().await;
        self.tasks.shutdown().await;
        let groups = self.raft.groups();
        let checkpoints = join_all(groups.iter().map(|group| group.checkpoint()));
        if timeout(CHECKPOINT_PATIENCE, checkpoints).await.is_err() {
            tracing::info!("checkpoints take too long; the next start replays more of the log");
        }
        drop(groups);
        self.raft.shutdown().await;
        self.log.close().await;
        self.stopped = true;
        tracing::info!(node = %self.node, "stopped");
    }
}

/// The identity with a node id: from the disk, or from the MDS at the first start, for which the data directory is made.
async fn identify(
    api: &Arc<MdsApi>,
    announcement: &Announcement,
    disk: &dyn Disk,
    dir: &std::path::Path,
    rng: &mut StdRng,
) -> Result<Identity, StartError> {
    let made = make_dirs_durable(disk, dir).await;
    made.map_err(|cause| io_error("cannot make the data directory", cause))?;
    let mut identity = Identity::load_or_make(disk, dir, rng).await.map_err(|error| match error {
        IdentityError::Io(cause) => io_error("cannot read the identity", cause),
        damaged => StartError::Identity(damaged),
    })?;
    if identity.node.is_some() {
        return Ok(identity);
    }
    let registered = register(api, &identity, announcement, disk).await.map_err(StartError::Refused)?;
    if !identity.cluster.is_empty() && identity.cluster != registered.cluster {
        return Err(StartError::OtherCluster { ours: identity.cluster, theirs: registered.cluster });
    }
    identity.node = Some(registered.node);
    identity.cluster = registered.cluster;
    identity.save(disk, dir).await.map_err(|cause| io_error("cannot save the identity", cause))?;
    tracing::info!(node = %registered.node, cluster = identity.cluster, "registered");
    Ok(identity)
}

async fn open_log(
    config: &ChunkserverConfig,
    disk: &Arc<dyn Disk>,
    dir: &std::path::Path,
) -> Result<(Log, Recovery), StartError> {
    let opened = Log::open(disk.clone(), &dir.join(LOG_DIR), config.log()).await;
    let (log, recovery) = opened.map_err(|error| match error {
        LogError::Corrupt { .. } | LogError::MissingSegment { .. } => StartError::LogCorrupt(error),
        other => StartError::Log(other),
    })?;
    tracing::info!(
        groups = recovery.groups.len(),
        entries = recovery.entries,
        torn_bytes = recovery.truncated_tail_bytes,
        "opened the log"
    );
    Ok((log, recovery))
}

async fn open_store(
    config: &ChunkserverConfig,
    disk: &Arc<dyn Disk>,
    dir: &std::path::Path,
) -> Result<Arc<ChunkStore>, StartError> {
    let opened = ChunkStore::open(disk.clone(), &dir.join(STORE_DIR), config.store()).await;
    let store = opened.map_err(|error| match error {
        OpenError::Damaged(what) => StartError::StoreCorrupt(what),
        other => StartError::Store(other),
    })?;
    match store.damaged_copysets().into_iter().next() {
        Some((id, cause)) => Err(StartError::StoreCorrupt(format!("{id}: {cause}"))),
        None => Ok(store),
    }
}

async fn listen(
    network: &dyn Network,
    address: &str,
    service: Arc<Service>,
) -> Result<Box<dyn ServerHandle>, StartError> {
    let listening = network.serve(address, service).await;
    listening.map_err(|cause| io_error(&format!("cannot listen on {address}"), cause))
}

fn io_error(what: &str, cause: std::io::Error) -> StartError {
    StartError::Io { what: what.into(), cause }
}
