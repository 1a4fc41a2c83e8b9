//! `curve serve`: a server role in this process, until SIGTERM or SIGINT.

use std::fmt::Display;
use std::fs::File;
use std::future::Future;
use std::path::{Path, PathBuf};

use curve_chunkserver::ChunkserverConfig;
use curve_mds::{MdsConfig, MdsServer};
use curvefs_metaserver::MetaserverConfig;
use curvefs_objectstore::ObjectStoreConfig;
use serde::de::DeserializeOwned;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};

use crate::api::config_failure;
use crate::cli::{ServeArgs, ServeRole};
use crate::failure::{Code, Failure};

/// A server needs this many descriptors for connections and files.
const DESCRIPTORS_MIN: u64 = 1024;

/// Runs a role until it is told to stop.
pub fn run(config: Option<&Path>, args: &ServeArgs) -> Result<(), Failure> {
    let path = config.ok_or_else(|| {
        Failure::new(Code::Usage, "a server needs a configuration file")
            .try_this("pass --config FILE; deploy/ has annotated samples")
    })?;
    curve_telemetry::init_logging()
        .map_err(|error| Failure::new(Code::Config, "logging cannot be set up").because(error))?;
    let descriptors = raise_descriptor_limit()?;
    tracing::info!(role = ?args.role, config = %path.display(), descriptors, "starting");
    match args.role {
        ServeRole::Mds => {
            let config = load::<MdsConfig>(path)?;
            if args.rebuild {
                let aside = set_aside(&config.data_dir)?;
                tracing::warn!(aside = %aside.display(), "moved the old state aside; the other MDSs send it again");
            }
            runtime(1)?.block_on(serve_mds(config))
        }
        ServeRole::Chunkserver => {
            let mut config = load::<ChunkserverConfig>(path)?;
            if let Some(addresses) = curve_config::mds_override() {
                config.mds_addresses = addresses;
            }
            let threads = config.threads;
            runtime(threads)?.block_on(serve_chunkserver(config, args.rebuild))
        }
        ServeRole::Metaserver => {
            let mut config = load::<MetaserverConfig>(path)?;
            if let Some(addresses) = curve_config::mds_override() {
                config.mds_addresses = addresses;
            }
            let threads = config.threads;
            runtime(threads)?.block_on(serve_metaserver(config, args.rebuild))
        }
        ServeRole::S3 if args.rebuild => {
            Err(Failure::new(Code::Usage, "an object store has no replica to be rebuilt from"))
        }
        ServeRole::S3 => {
            let config = load::<ObjectStoreConfig>(path)?;
            let threads = config.threads;
            runtime(threads)?.block_on(serve_s3(config))
        }
    }
}

/// Renames an MDS's data directory, so that the MDS begins empty. Its lock says whether somebody still uses it.
fn set_aside(data_dir: &Path) -> Result<PathBuf, Failure> {
    if let Ok(lock) = File::open(data_dir.join("lock"))
        && lock.try_lock().is_err()
    {
        return Err(Failure::new(Code::InUse, format!("another process uses {}", data_dir.display()))
            .try_this("stop it first"));
    }
    let aside = (1..).map(|number| {
        let mut name = data_dir.as_os_str().to_owned();
        name.push(format!(".aside-{number}"));
        PathBuf::from(name)
    });
    let aside = aside.into_iter().find(|path| !path.exists()).expect("numbers do not run out");
    std::fs::rename(data_dir, &aside).map_err(|error| Failure::file("move aside", data_dir, &error))?;
    Ok(aside)
}

fn runtime(threads: usize) -> Result<Runtime, Failure> {
    let built = match threads {
        0 | 1 => Builder::new_current_thread().enable_all().build(),
        many => Builder::new_multi_thread().worker_threads(many).enable_all().build(),
    };
    built.map_err(|error| {
        Failure::new(Code::Environment, "cannot start the asynchronous runtime").because(error)
    })
}

async fn serve_mds(config: MdsConfig) -> Result<(), Failure> {
    let told = told_to_stop()?;
    let server = MdsServer::start(config).await.map_err(|error| did_not_start(&error))?;
    tracing::info!("started");
    told.await;
    server.shutdown().await;
    tracing::info!("stopped");
    Ok(())
}

async fn serve_chunkserver(config: ChunkserverConfig, rebuild: bool) -> Result<(), Failure> {
    let told = told_to_stop()?;
    if rebuild {
        let aside = curve_chunkserver::set_aside(&config).await.map_err(|error| did_not_start(&error))?;
        tracing::warn!(aside = %aside.display(), "moved the old data aside; this disk is filled again from its peers");
    }
    let ready = |address: &str| tracing::info!(address, "started");
    curve_chunkserver::run(config, told, ready).await.map_err(|error| did_not_start(&error))?;
    tracing::info!("stopped");
    Ok(())
}

async fn serve_metaserver(config: MetaserverConfig, rebuild: bool) -> Result<(), Failure> {
    let told = told_to_stop()?;
    if rebuild {
        let aside = curvefs_metaserver::set_aside(&config).await.map_err(|error| did_not_start(&error))?;
        tracing::warn!(aside = %aside.display(), "moved the old data aside; its peers fill this metaserver again");
    }
    let ready = |address: &str| tracing::info!(address, "started");
    curvefs_metaserver::run(config, told, ready).await.map_err(|error| did_not_start(&error))?;
    tracing::info!("stopped");
    Ok(())
}

async fn serve_s3(config: ObjectStoreConfig) -> Result<(), Failure> {
    let told = told_to_stop()?;
    let ready = |address: &str| tracing::info!(address, "started");
    curvefs_objectstore::run(config, told, ready).await.map_err(|error| did_not_start(&error))?;
    tracing::info!("stopped");
    Ok(())
}

/// Resolves at SIGTERM or SIGINT.
fn told_to_stop() -> Result<impl Future<Output = ()>, Failure> {
    let no_signals = |error| Failure::new(Code::Environment, "cannot watch for signals").because(error);
    let mut terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signals)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("told to stop");
    })
}

fn did_not_start(error: &impl Display) -> Failure {
    Failure::new(Code::Environment, format!("the server cannot run: {error}"))
}

fn load<T: DeserializeOwned>(config: &Path) -> Result<T, Failure> {
    curve_config::load(config).map_err(|error| config_failure(&error))
}

/// Raises the limit of open files as far as allowed; too few are an error now rather than a mystery later.
pub fn raise_descriptor_limit() -> Result<u64, Failure> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // When raising is refused, the present limit decides below.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    match getrlimit(Resource::Nofile).current {
        Some(current) if current < DESCRIPTORS_MIN => {
            Err(Failure::new(Code::Environment, format!("only {current} file descriptors are allowed"))
                .because(format!("a server needs at least {DESCRIPTORS_MIN}"))
                .try_this("ulimit -n 65536, or LimitNOFILE=65536 in the systemd unit"))
        }
        current => Ok(current.unwrap_or(u64::MAX)),
    }
}
