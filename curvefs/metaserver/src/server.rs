//! A metaserver as a whole: opened in order, stopped in order.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use curve_io::{Disk, Network, ServerHandle, make_dirs_durable};
use curve_kv::KvError;
use curve_log::{Log, LogError, Recovery};
use curve_multiraft::{AddressBook, GroupError, MultiRaft};
use curve_node::{HeartbeatPace, Identity, IdentityError, PeerBook};
use curve_proto::transport::MdsTransport;
use curve_proto::{MdsApi, MdsError};
use curve_types::{ClientId, NodeId};
use curvefs_types::TimeNs;
use futures::future::join_all;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use thiserror::Error;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::clock::Clock;
use crate::config::MetaserverConfig;
use crate::context::{Context, Pace};
use crate::data::DataFactory;
use crate::generations::StoreFactory;
use crate::health::Health;
use crate::heartbeat::{Announcement, HeartbeatLoop, register};
use crate::host::{ReplicaError, ReplicaHost};
use crate::maps::MapFiles;
use crate::metrics::Metrics;
use crate::peers::Leaders;
use crate::replica::{Replica, ReplicaTable};
use crate::room::Room;
use crate::service::{Inflight, Service};
use crate::systems::FileSystems;

/// The subdirectory of the shared log.
pub const LOG_DIR: &str = "log";
/// How long one call to the MDS may take.
const MDS_DEADLINE: Duration = Duration::from_secs(3);
/// How long a graceful stop spends on checkpoints, which only make the next start faster.
const CHECKPOINT_PATIENCE: Duration = Duration::from_secs(3);
/// How often it is looked whether the log failed.
const FAILURE_CHECK: Duration = Duration::from_secs(1);

/// What a metaserver reaches the world through.
pub struct MetaserverParts {
    /// The disk.
    pub disk: Arc<dyn Disk>,
    /// The data directory, relative to the disk's root.
    pub dir: PathBuf,
    /// Opens the stores of partitions' rows, in directories of the disk.
    pub stores: Arc<dyn StoreFactory>,
    /// Opens the data of file systems, to delete what nobody needs.
    pub data: Arc<dyn DataFactory>,
    /// The data plane.
    pub network: Arc<dyn Network>,
    /// The control plane.
    pub mds: Arc<dyn MdsTransport>,
    /// Draws the token, the election timeouts and the MDS caller's id.
    pub rng: StdRng,
    /// The time.
    pub now_ns: TimeNs,
}

/// Why a metaserver did not start, or why it stopped by itself. Each text says what to do.
#[derive(Debug, Error)]
pub enum StartError {
    /// The identity file is damaged.
    #[error("{0}; {REBUILD}")]
    Identity(IdentityError),
    /// The MDS refuses this metaserver.
    #[error("the MDS refuses this metaserver: {0}")]
    Refused(MdsError),
    /// The directory belongs to another cluster.
    #[error(
        "this directory belongs to cluster `{ours}`, the MDS to `{theirs}`; check `mds_addresses` and `data_dir`"
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
    /// A replica is damaged, or log and rows do not fit each other.
    #[error("{0}; {REBUILD}")]
    Replica(ReplicaError),
    /// A replica cannot be opened for another reason.
    #[error(transparent)]
    ReplicaIo(ReplicaError),
    /// The disk or the address cannot be used.
    #[error("{what}: {cause}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        cause: std::io::Error,
    },
    /// Another process uses the data directory.
    #[error("another process uses {dir}; stop it first")]
    InUse {
        /// The data directory.
        dir: String,
    },
    /// The memory for rows cannot be had.
    #[error("cannot set up the cache of rows: {0}")]
    Cache(KvError),
    /// The log failed while running.
    #[error("the disk failed: {0}; check it (dmesg, smartctl) and restart, or replace it and rebuild")]
    DiskFailed(String),
}

/// What to do about damage that this metaserver cannot heal by itself.
const REBUILD: &str = "the other replicas have the data: run the same command with --rebuild to move what is here \
                       aside and have this metaserver filled again";

/// A running metaserver.
///
/// Start: identity → (first start: registration) → log → replicas → listen → heartbeats.
/// Stop: leaderships handed over → checkpoints → groups stopped → log closed. Everything runs on the caller's
/// runtime; the tasks are owned here and end with it, and those of replicas with their groups.
pub struct MetaserverServer {
    log: Log,
    raft: Arc<MultiRaft>,
    context: Arc<Context>,
    health: Arc<Health>,
    listening: Box<dyn ServerHandle>,
    tasks: JoinSet<()>,
    stopped: bool,
}

/// As a kill of the process: nothing is handed over or flushed, and nothing of it runs on.
impl Drop for MetaserverServer {
    fn drop(&mut self) {
        let raft = self.raft.clone();
        if !self.stopped
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move { raft.halt().await });
        }
    }
}

impl MetaserverServer {
    /// Starts. The first start waits until an MDS has given a node id; later ones need no MDS.
    pub async fn start(config: MetaserverConfig, parts: MetaserverParts) -> Result<Self, StartError> {
        let MetaserverParts { disk, dir, stores, data, network, mds, mut rng, now_ns } = parts;
        let api = Arc::new(MdsApi::new(mds, ClientId(rng.random()), MDS_DEADLINE));
        let announcement = Announcement { address: config.advertised().into(), zone: config.zone.clone() };
        let identity = identify(&api, &announcement, &*disk, &dir, &mut rng).await?;
        let node = identity.node.expect("an identified metaserver has a node id");

        let (log, recovery) = open_log(&config, &disk, &dir).await?;
        let book = Arc::new(PeerBook::load(&*disk, &dir).await);
        book.learn([(node, announcement.address.clone())]);
        let addresses: Arc<dyn AddressBook> = book.clone();
        let raft = MultiRaft::new(node, log.clone(), network.clone(), addresses, rng.random(), config.raft());
        let maps = MapFiles::new(disk.clone(), &dir);
        let systems = FileSystems::open(api.clone(), data, maps).await;
        let context = Arc::new(Context {
            node,
            clock: Clock::new(now_ns),
            book,
            network: network.clone(),
            table: ReplicaTable::default(),
            leaders: Leaders::default(),
            systems,
            room: Room::new(disk.clone(), log.clone(), config.reserve),
            metrics: Metrics::default(),
            pace: Pace {
                settle_after: config.settle_after.0,
                garbage_grace: config.garbage_grace.0,
                stage_for: config.stage_for.0,
            },
            news: Arc::default(),
            rng: Mutex::new(StdRng::from_rng(&mut rng)),
        });
        let host = ReplicaHost::new(context.clone(), disk.clone(), &dir, stores, log.clone(), raft.clone());
        let host = Arc::new(host);
        let opened = host.open_all(&recovery.groups).await.map_err(replica_error)?;

        let inflight = Inflight::new(config.inflight_max, config.inflight_bytes_max.0 as usize);
        let service = Arc::new(Service::new(context.clone(), raft.clone(), inflight.clone()));
        let listening = match network.serve(&config.listen_address, service).await {
            Ok(listening) => listening,
            Err(cause) => {
                raft.halt().await;
                return Err(io_error(&format!("cannot listen on {}", config.listen_address), cause));
            }
        };
        tracing::info!(%node, address = listening.address(), replicas = opened, "serving");

        let mds_heard = Arc::new(AtomicBool::new(false));
        let health = Arc::new(Health {
            context: context.clone(),
            log: log.clone(),
            raft: raft.clone(),
            mds_heard: mds_heard.clone(),
            inflight,
        });
        let heartbeat = HeartbeatLoop {
            api,
            context: context.clone(),
            token: identity.token,
            announcement,
            pace: HeartbeatPace::new(config.heartbeat_interval.0),
            host,
            disk,
            dir,
            mds_heard,
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(heartbeat.run());
        Ok(Self { log, raft, context, health, listening, tasks, stopped: false })
    }

    /// This metaserver's id.
    pub fn node(&self) -> NodeId {
        self.context.node
    }

    /// Where it serves, with the port that was chosen where 0 was asked for.
    pub fn address(&self) -> String {
        self.listening.address()
    }

    /// Its health, for `/healthz` and `/metrics`.
    pub fn health(&self) -> Arc<Health> {
        self.health.clone()
    }

    /// The time, as a better clock says.
    pub fn set_clock(&self, now_ns: TimeNs) {
        self.context.clock.set(now_ns);
    }

    /// Its replicas, for inspection by a simulator or a test.
    pub fn replicas(&self) -> Vec<Arc<Replica>> {
        self.context.table.all()
    }

    /// Returns when the log has failed: the process must stop using the disk and be restarted.
    pub async fn failed(&self) -> StartError {
        loop {
            if self.log.failed() {
                return StartError::DiskFailed("the shared log cannot be written".into());
            }
            sleep(FAILURE_CHECK).await;
        }
    }

    /// Stops gracefully: mounts wait no longer than it takes to hand the leaderships over.
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
        tracing::info!(node = %self.context.node, "stopped");
    }
}

/// The identity with a node id: from the disk, or from the MDS at the first start, for which the data directory is made.
async fn identify(
    api: &MdsApi,
    announcement: &Announcement,
    disk: &dyn Disk,
    dir: &Path,
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
    config: &MetaserverConfig,
    disk: &Arc<dyn Disk>,
    dir: &Path,
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

/// Whether rebuilding would help.
fn replica_error(error: ReplicaError) -> StartError {
    let io = match &error {
        ReplicaError::Rows { cause, .. } => !matches!(cause, KvError::Corrupt(_)),
        ReplicaError::Group(group) => matches!(group, GroupError::Io { .. } | GroupError::Stopped),
        ReplicaError::State { .. } => false,
    };
    if io { StartError::ReplicaIo(error) } else { StartError::Replica(error) }
}

fn io_error(what: &str, cause: std::io::Error) -> StartError {
    StartError::Io { what: what.into(), cause }
}
