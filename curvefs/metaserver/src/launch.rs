//! A metaserver in a process of its own, on the machine's disk and network.

use std::fs::{File, TryLockError};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use curve_io::{Disk, RealDisk};
use curve_proto::transport::GrpcMds;
use curve_rpc::{RpcConfig, RpcNetwork};
use curve_telemetry::{install_metrics, serve_http};
use curvefs_types::TimeNs;
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::config::MetaserverConfig;
use crate::data::S3Factory;
use crate::host::PARTITIONS_DIR;
use crate::rocks::RocksFactory;
use crate::server::{LOG_DIR, MetaserverParts, MetaserverServer, StartError};

/// How often the clock is set by the machine's.
const CLOCK_EVERY: Duration = Duration::from_secs(1);

/// Runs a metaserver until `stop` resolves, and then stops it gracefully; or until its disk fails. `ready` is called
/// with the data plane's address once it serves.
pub async fn run(
    config: MetaserverConfig,
    stop: impl Future<Output = ()>,
    ready: impl FnOnce(&str),
) -> Result<(), StartError> {
    let _lock = lock_data_dir(&config)?;
    // Counters are made at start, so they need their registry before.
    install_metrics();
    let (cache, write_buffer) = (config.cache.0 as usize, config.write_buffer.0 as usize);
    let stores = RocksFactory::new(config.data_dir.clone(), cache, write_buffer);
    let stores = Arc::new(stores.map_err(StartError::Cache)?);
    let parts = MetaserverParts {
        disk: Arc::new(RealDisk::new(config.data_dir.clone())),
        dir: PathBuf::new(),
        stores,
        data: Arc::new(S3Factory { deletes_per_second: config.deletes_per_second }),
        network: RpcNetwork::new(RpcConfig::default()),
        mds: Arc::new(GrpcMds::grpc(&config.mds_addresses)),
        rng: StdRng::from_os_rng(),
        now_ns: now_ns(),
    };
    let http_address = config.http_address.clone();
    tokio::pin!(stop);
    let server = tokio::select! {
        started = MetaserverServer::start(config, parts) => started?,
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
        () = keep_time(&server) => {}
        failure = server.failed() => return Err(failure),
    }
    Ok(())
}

/// Moves identity, log and rows aside so that the next start is that of a new, empty metaserver; returns where to.
pub async fn set_aside(config: &MetaserverConfig) -> Result<PathBuf, StartError> {
    let _lock = lock_data_dir(config)?;
    let disk = RealDisk::new(config.data_dir.clone());
    let aside = set_aside_on(&disk, Path::new("")).await;
    let aside = aside.map_err(|cause| StartError::Io { what: "cannot move the data aside".into(), cause })?;
    Ok(config.data_dir.join(aside))
}

/// As [`set_aside`], of a data directory on a disk.
pub async fn set_aside_on(disk: &dyn Disk, dir: &Path) -> std::io::Result<PathBuf> {
    curve_node::set_aside(disk, dir, &[LOG_DIR, PARTITIONS_DIR]).await
}

fn now_ns() -> TimeNs {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| TimeNs::try_from(since.as_nanos()).unwrap_or(TimeNs::MAX))
}

async fn keep_time(server: &MetaserverServer) {
    loop {
        server.set_clock(now_ns());
        tokio::time::sleep(CLOCK_EVERY).await;
    }
}

/// Two processes on one data directory would destroy it. The lock ends with the process.
fn lock_data_dir(config: &MetaserverConfig) -> Result<File, StartError> {
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
