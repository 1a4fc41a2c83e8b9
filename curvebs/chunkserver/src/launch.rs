//! A chunkserver in a process of its own, on the machine's disk and network.

use std::fs::{File, TryLockError};
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

use curve_io::{RealDisk, fd_limit};
use curve_proto::transport::GrpcMds;
use curve_rpc::{RpcConfig, RpcNetwork};
use curve_telemetry::{install_metrics, serve_http};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::config::ChunkserverConfig;
use crate::rebuild;
use crate::server::{ChunkserverParts, ChunkserverServer, StartError};

/// Runs a chunkserver until `stop` resolves, and then stops it gracefully; or until its disk fails. `ready` is called
/// with the data plane's address once it serves.
pub async fn run(
    config: ChunkserverConfig,
    stop: impl Future<Output = ()>,
    ready: impl FnOnce(&str),
) -> Result<(), StartError> {
    let _lock = lock_data_dir(&config)?;
    check_descriptors(&config)?;
    // Counters are made at start, so they need their registry before.
    install_metrics();
    let parts = ChunkserverParts {
        disk: Arc::new(RealDisk::new(config.data_dir.clone())),
        dir: PathBuf::new(),
        network: RpcNetwork::new(RpcConfig::default()),
        mds: Arc::new(GrpcMds::grpc(&config.mds_addresses)),
        rng: StdRng::from_os_rng(),
    };
    let http_address = config.http_address.clone();
    tokio::pin!(stop);
    let server = tokio::select! {
        started = ChunkserverServer::start(config, parts) => started?,
        () = &mut stop => return Ok(()),
    };
    let _http = if http_address.is_empty() {
        None
    } else {
        let served = serve_http(&http_address, server.health()).await;
        Some(served.map_err(|cause| StartError::Io { what: "http".into(), cause })?)
    };
    ready(&server.address());
    tokio::select! {
        () = stop => server.shutdown().await,
        failure = server.failed() => return Err(failure),
    }
    Ok(())
}

/// Moves identity, log and chunks aside so that the next start is that of a new, empty chunkserver; returns where to.
pub async fn set_aside(config: &ChunkserverConfig) -> Result<PathBuf, StartError> {
    let _lock = lock_data_dir(config)?;
    let disk = RealDisk::new(config.data_dir.clone());
    let aside = rebuild::set_aside(&disk, &PathBuf::new()).await;
    let aside = aside.map_err(|cause| StartError::Io { what: "cannot move the data aside".into(), cause })?;
    Ok(config.data_dir.join(aside))
}

/// Two processes on one data directory would destroy it. The lock ends with the process.
fn lock_data_dir(config: &ChunkserverConfig) -> Result<File, StartError> {
    let dir = &config.data_dir;
    let failed = |cause| StartError::Io { what: format!("cannot lock {}", dir.display()), cause };
    std::fs::create_dir_all(dir).map_err(failed)?;
    let file =
        File::options().create(true).truncate(false).write(true).open(dir.join("lock")).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StartError::InUse { dir: dir.display().to_string() }),
        Err(TryLockError::Error(cause)) => Err(failed(cause)),
    }
}

fn check_descriptors(config: &ChunkserverConfig) -> Result<(), StartError> {
    let (limit, needed) = (fd_limit().now, config.descriptors_needed());
    if limit < needed { Err(StartError::Descriptors { limit, needed }) } else { Ok(()) }
}
