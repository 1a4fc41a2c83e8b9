//! An MDS process: an [`MdsNode`] on the machine's disk and network, with gRPC and HTTP beside the frames.

use std::fs::{File, TryLockError};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use curve_io::RealDisk;
use curve_kv::{KvError, RocksStore};
use curve_multiraft::{Group, RaftOptions, Role};
use curve_rpc::{RpcConfig, RpcNetwork};
use curve_telemetry::{
    HealthItem, HealthLevel, HealthReport, HealthSource, HttpHandle, install_metrics, serve_http,
};
use rand::TryRngCore;
use rand::rngs::OsRng;
use thiserror::Error;

use crate::config::{ConfigRefusal, MdsConfig};
use crate::disks::own_findings;
use crate::grpc::{self, GrpcHandle};
use crate::leader::picture;
use crate::node::{MdsNode, MdsParts, Shared};
use crate::schedule::copyset_health;
use crate::sealing::SealingKeys;
use crate::service::findings;
use crate::watched::verify;

/// Why an MDS did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The configuration makes no sense.
    #[error("configuration: {0}")]
    Config(#[from] ConfigRefusal),
    /// Another process has the data directory.
    #[error("another process uses {dir}; stop it first")]
    InUse {
        /// The data directory.
        dir: String,
    },
    /// A part could not be opened or a port not be served.
    #[error("{what}: {cause}")]
    Part {
        /// Which part, with its path or address.
        what: String,
        /// What it said.
        cause: String,
    },
}

/// A running MDS process.
pub struct MdsServer {
    grpc: GrpcHandle,
    _http: Option<HttpHandle>,
    node: MdsNode,
    _lock: File,
}

impl MdsServer {
    /// Opens the data directory and serves: frames and gRPC at the member's addresses, HTTP where it is configured.
    /// Must be called inside a tokio runtime.
    pub async fn start(config: MdsConfig) -> Result<Self, StartError> {
        config.check()?;
        // Counters are made at start, so they need their registry before.
        install_metrics();
        let lock = lock_data_dir(&config)?;
        let failed = |what: String| move |cause: String| StartError::Part { what, cause };
        let state = config.data_dir.join("state");
        let keys = sealing_keys(&config)?;
        let store = RocksStore::open(&state)
            .map_err(|error| failed(state.display().to_string())(store_remedy(&error)))?;
        let rows =
            verify(&store).map_err(|error| failed(state.display().to_string())(store_remedy(&error)))?;
        tracing::info!(rows, "state store verified");
        let parts = MdsParts {
            disk: Arc::new(RealDisk::new(config.data_dir.clone())),
            dir: "".into(),
            network: RpcNetwork::new(RpcConfig::default()),
            store: Some(Arc::new(store)),
            seed: OsRng.try_next_u64().map_err(|error| failed("random numbers".into())(error.to_string()))?,
            raft: RaftOptions::default(),
        };
        let (grpc_address, http_address) = (config.me().grpc_address.clone(), config.http_address.clone());
        let node = MdsNode::start(config, parts).await?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        node.set_wall_clock(now.as_millis() as u64);
        if let Some(keys) = keys {
            node.set_sealing_keys(keys);
        }
        let grpc = grpc::serve(&grpc_address, node.shared.clone())
            .await
            .map_err(|error| failed(format!("gRPC address {grpc_address}"))(error.to_string()))?;
        let http = if http_address.is_empty() {
            None
        } else {
            let health = Arc::new(Health(node.shared.clone()));
            let served = serve_http(&http_address, health).await;
            Some(served.map_err(|error| failed(format!("HTTP address {http_address}"))(error.to_string()))?)
        };
        tracing::info!(grpc = %grpc.address, data = node.address(), "serving");
        Ok(Self { grpc, _http: http, node, _lock: lock })
    }

    /// Hands leadership over and stops.
    pub async fn shutdown(self) {
        let Self { grpc, node, .. } = self;
        // Callers find the successor by themselves; those in progress are answered first.
        node.shutdown().await;
        grpc.stop().await;
    }
}

/// The keys of the configuration's file.
fn sealing_keys(config: &MdsConfig) -> Result<Option<SealingKeys>, StartError> {
    let path = &config.secrets_key_file;
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    let failed = |cause: String| StartError::Part { what: path.display().to_string(), cause };
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    SealingKeys::parse(&text).map(Some).map_err(|error| failed(error.to_string()))
}

fn store_remedy(error: &KvError) -> String {
    match error {
        KvError::Corrupt(_) => format!("{error}; {REBUILD}"),
        KvError::Io(_) | KvError::Stopped => error.to_string(),
    }
}

/// What to do about a damaged state store.
const REBUILD: &str = "the other MDSs have the state: run the same command with --rebuild to move what is here aside and have it copied";

/// Two processes on one data directory would destroy it. The lock ends with the process.
fn lock_data_dir(config: &MdsConfig) -> Result<File, StartError> {
    let dir = config.data_dir.display().to_string();
    let failed = |cause: std::io::Error| StartError::Part { what: dir.clone(), cause: cause.to_string() };
    std::fs::create_dir_all(&config.data_dir).map_err(failed)?;
    let lock = File::options().create(true).truncate(false).write(true).open(config.data_dir.join("lock"));
    let lock = lock.map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(StartError::InUse { dir }),
        Err(TryLockError::Error(cause)) => Err(failed(cause)),
    }
}

/// The health of this process: the cluster's on the leader, its own on a follower.
struct Health(Arc<Shared>);

impl HealthSource for Health {
    fn health(&self) -> HealthReport {
        if self.0.store_failed() {
            return HealthReport::new(vec![store_item()]);
        }
        if let Some(term) = self.0.leading() {
            let Ok(picture) = picture(&self.0, term) else {
                return HealthReport::new(vec![store_item()]);
            };
            let items = self.0.memory.with(term, |memory| findings(&self.0, &picture, memory));
            return HealthReport::new(items.into_iter().map(translate).collect());
        }
        let mut items: Vec<_> = own_findings(&self.0).into_iter().map(translate).collect();
        if self.0.group().and_then(|group| group.status().leader).is_none() {
            items.push(no_leader_item());
        }
        HealthReport::new(items)
    }

    fn collect(&self) {
        let Some(status) = self.0.group().map(Group::status) else { return };
        let leads = status.role == Role::Leader;
        metrics::gauge!("curve_mds_leader").set(if leads { 1.0 } else { 0.0 });
        metrics::gauge!("curve_mds_raft_term").set(status.term.get() as f64);
        metrics::gauge!("curve_mds_raft_applied").set(status.applied.get() as f64);
        let Some(picture) = leads.then(|| picture(&self.0, status.term).ok()).flatten() else { return };
        metrics::gauge!("curve_mds_chunkservers").set(picture.chunkservers.len() as f64);
        metrics::gauge!("curve_mds_chunkservers_up").set(picture.up() as f64);
        metrics::gauge!("curve_mds_copysets").set(picture.copysets.len() as f64);
        let ok = picture
            .copysets
            .keys()
            .filter(|&&id| copyset_health(&picture, id) == curve_proto::mds::CopysetHealth::Ok);
        metrics::gauge!("curve_mds_copysets_ok").set(ok.count() as f64);
    }
}

fn translate(item: curve_proto::mds::HealthItem) -> HealthItem {
    let level = match item.level {
        curve_proto::mds::HealthLevel::Ok => HealthLevel::Ok,
        curve_proto::mds::HealthLevel::Warn => HealthLevel::Warn,
        curve_proto::mds::HealthLevel::Err => HealthLevel::Err,
    };
    HealthItem { code: item.code, level, summary: item.summary, cause: item.cause, remedy: item.remedy }
}

fn no_leader_item() -> HealthItem {
    HealthItem {
        code: "MDS_NO_LEADER".into(),
        level: HealthLevel::Err,
        summary: "no MDS leads".into(),
        cause: "An election is going on, or fewer than a majority of the MDSs can reach each other.".into(),
        remedy: "Start the MDSs that are down. Open volumes keep working meanwhile.".into(),
    }
}

fn store_item() -> HealthItem {
    HealthItem {
        code: "MDS_STORE_FAILED".into(),
        level: HealthLevel::Err,
        summary: "the state store of this MDS cannot be read".into(),
        cause: "Its disk fails, or a file is damaged; the log of this process says which.".into(),
        remedy: REBUILD.into(),
    }
}
