//! A mount: opened, served, ended in order.

use std::future::Future;
use std::io;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use curve_client::ClientConfig;
use curve_io::Network;
use curve_proto::mds::MdsApi;
use curve_proto::transport::GrpcMds;
use curve_rpc::{RpcConfig, RpcNetwork};
use curve_serving::startup::{Signals, StartError, raise_descriptor_limit, runtime};
use curve_serving::volumes::configuration;
use curve_telemetry::{HttpHandle, install_metrics, serve_http};
use curve_types::ClientId;
use curvefs_client::{CountedMetadata, Mount, MountRequest, RetryLimits, S3Data, Subtree};
use curvefs_types::{InodeId, Metadata};
use curvefs_vfs::Vfs;
use rand::Rng;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::checks::Plan;
use crate::error::FuseError;
use crate::handover::taking;
use crate::health::MountHealth;
use crate::inspect::{Inspector, Meters, unix_ms};
use crate::record::Post;
use crate::session::Served;

/// Threads that serve.
const THREADS_MAX: usize = 8;
/// How long the root may take to answer at the mount.
pub const USABLE_MAX: Duration = Duration::from_secs(30);

/// Mounts and serves until somebody unmounts, or a signal comes. `usable` is called once programs can use it; if it fails, nobody
/// waits any more and the mount is ended.
pub fn run(plan: &Plan, usable: impl FnOnce() -> io::Result<()>) -> Result<(), FuseError> {
    run_to_end(serve(plan, usable))
}

/// Goes on with a mount that another process serves, in the same way.
pub fn run_upgrade(dir: &Path, usable: impl FnOnce() -> io::Result<()>) -> Result<(), FuseError> {
    run_to_end(taking::serve(dir, usable))
}

fn run_to_end(served: impl Future<Output = Result<(), FuseError>>) -> Result<(), FuseError> {
    raise_descriptor_limit()?;
    let threads = std::thread::available_parallelism().map_or(2, NonZeroUsize::get).clamp(2, THREADS_MAX);
    let threads = NonZeroUsize::new(threads).expect("it is at least 2");
    let runtime = runtime(threads)?;
    let served = runtime.block_on(served);
    // A thread may wait for a kernel that does not let go: the process ends with it.
    runtime.shutdown_background();
    served
}

/// What a mount is made of.
pub struct Opened {
    /// At the MDS.
    pub mount: Arc<Mount>,
    /// The file system.
    pub vfs: Vfs,
    /// Its data.
    pub data: S3Data,
    /// How the MDSs are reached.
    pub mds: ClientConfig,
    /// The directory that is the root, if it is not the file system's own.
    pub top: Option<InodeId>,
    /// What it says of itself.
    pub inspector: Arc<Inspector>,
}

async fn serve(plan: &Plan, usable: impl FnOnce() -> io::Result<()>) -> Result<(), FuseError> {
    let mut signals = Signals::new()?;
    // Before the first counter is made: what is counted without a registry is lost.
    if plan.http.is_some() {
        install_metrics();
    }
    let opened = tokio::select! {
        opened = open(plan) => opened?,
        name = signals.next() => return Err(FuseError::Interrupted(name)),
    };
    let ended = serve_opened(plan, &opened, &mut signals, usable).await;
    finish(&opened, ended).await
}

/// How it ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// The mount is over.
    Over,
    /// Another process goes on with it.
    HandedOver,
}

/// The end of the mount at the MDS, unless another process goes on with it.
pub async fn finish(opened: &Opened, ended: Result<Ended, FuseError>) -> Result<(), FuseError> {
    if matches!(ended, Ok(Ended::HandedOver)) {
        return Ok(());
    }
    // It ends whatever happened before, so that its locks and files are free.
    if let Err(error) = opened.mount.close().await {
        warn!(%error, "the MDS was not told of the end; it ends the mount by itself when the lease has run out");
    }
    ended.map(drop)
}

/// The MDSs and the network.
pub fn connect(config: &ClientConfig) -> (Arc<MdsApi>, Arc<dyn Network>) {
    let transport = Arc::new(GrpcMds::grpc(&config.mds_addresses));
    let mds = Arc::new(MdsApi::new(transport, ClientId(rand::rng().random()), config.mds_timeout.0));
    (mds, RpcNetwork::new(RpcConfig::default()))
}

async fn open(plan: &Plan) -> Result<Opened, FuseError> {
    let config = configuration(plan.config.as_deref(), plan.mds.clone())?;
    let (mds, network) = connect(&config);
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_else(|_| "unknown".into());
    let request = MountRequest {
        name: plan.name.clone(),
        nonce: rand::rng().random(),
        host: host.trim().to_owned(),
        process: std::process::id(),
        directory: plan.dir.display().to_string(),
        options: plan.options_text.clone(),
        read_only: plan.options.fs.read_only,
    };
    let asked_ms = unix_ms();
    let mount = Mount::open(mds, network, &request, RetryLimits::default()).await;
    let mount = Arc::new(mount.map_err(|error| FuseError::of_grant(&plan.name, error))?);
    match make_usable(plan, &mount, config, (asked_ms, unix_ms())).await {
        Ok(opened) => Ok(opened),
        Err(error) => {
            if let Err(error) = mount.close().await {
                warn!(%error, "the MDS was not told that the mount failed");
            }
            Err(error)
        }
    }
}

/// The file system, once its root has answered.
async fn make_usable(
    plan: &Plan,
    mount: &Arc<Mount>,
    mds: ClientConfig,
    granted_ms: (u64, u64),
) -> Result<Opened, FuseError> {
    let grant = mount.grant();
    let options = plan.options.fs.clone();
    let data = S3Data::new(&grant.file_system, grant.writer, options.soft_timeout);
    let data = data.map_err(|error| FuseError::of_store(&plan.name, error))?;
    mount.follow_record(data.rotation());
    let unusable = |why: String| FuseError::Unusable { name: plan.name.clone(), why };
    let asking = async {
        let (metadata, top) = metadata(plan, mount).await?;
        let meters = Meters { store: data.meters(), ..Meters::default() };
        let metadata = Arc::new(CountedMetadata::new(metadata, meters.meta.clone()));
        let vfs = Vfs::new(metadata, data.backend(), options);
        let inspector = Inspector::begin(plan, mount, &data, meters, (top, Some(granted_ms)), &vfs);
        let root = vfs.get_attr(InodeId::ROOT).await;
        root.map(|_| (vfs, top, inspector)).map_err(|error| unusable(error.to_string()))
    };
    match timeout(USABLE_MAX, asking).await {
        Ok(Ok((vfs, top, inspector))) => Ok(Opened { mount: mount.clone(), vfs, data, mds, top, inspector }),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(unusable(format!("within {} s", USABLE_MAX.as_secs()))),
    }
}

/// The whole file system, or a directory of it.
async fn metadata(plan: &Plan, mount: &Mount) -> Result<(Arc<dyn Metadata>, Option<InodeId>), FuseError> {
    let Some(path) = &plan.subdir else { return Ok((mount.metadata(), None)) };
    let tree = Subtree::open(mount.metadata(), path).await;
    let (name, path) = (plan.name.clone(), format!("/{path}"));
    let tree = tree.map_err(|cause| FuseError::Subdir { name, path, cause })?;
    let top = tree.top();
    Ok((Arc::new(tree), Some(top)))
}

async fn serve_opened(
    plan: &Plan,
    opened: &Opened,
    signals: &mut Signals,
    usable: impl FnOnce() -> io::Result<()>,
) -> Result<Ended, FuseError> {
    let http = start_http(plan, opened).await?;
    let is_root = rustix::process::geteuid().is_root();
    let kernel = plan.kernel(is_root);
    let mounted = curvefs_fuse::mount(opened.vfs.clone(), &plan.dir, &kernel)
        .map_err(|cause| FuseError::Kernel { dir: plan.dir.clone(), hint: hint(&cause, is_root), cause })?;
    let post = Post::put(&plan.dir);
    let served = Served::new(plan, opened, mounted, post).with_http(http);
    let mount = opened.mount.grant().key.mount;
    info!(dir = %plan.dir.display(), file_system = plan.name, %mount, "mounted");
    let wanted = usable();
    if let Err(error) = &wanted {
        warn!(%error, "whoever started the mount is gone");
    }
    let ended = served.attend(signals, wanted.is_ok()).await;
    if wanted.is_err() { ended.and(Err(FuseError::Unwanted)) } else { ended }
}

/// Serves metrics, if that is wanted.
pub async fn start_http(plan: &Plan, opened: &Opened) -> Result<Option<HttpHandle>, FuseError> {
    let Some(address) = &plan.http else { return Ok(None) };
    let dir = plan.dir.display().to_string();
    let Opened { mount, vfs, inspector, .. } = opened;
    let (mount, vfs, inspector) = (mount.clone(), vfs.clone(), inspector.clone());
    let health = Arc::new(MountHealth { mount, vfs, dir, inspector });
    let handle = serve_http(address, health).await.map_err(StartError::system("cannot serve HTTP"))?;
    Ok(Some(handle))
}

fn hint(cause: &io::Error, is_root: bool) -> &'static str {
    match (cause.kind(), is_root) {
        (io::ErrorKind::PermissionDenied, true) => "in a container it needs --cap-add SYS_ADMIN",
        (_, false) => {
            "who is not root needs fusermount3 (package fuse3), must own the directory, and for -o allow_other \
             `user_allow_other` in /etc/fuse.conf"
        }
        (_, true) => "see the kernel's log (dmesg)",
    }
}
