//! A mount: opened, served, ended in order.

use std::io;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use curve_proto::mds::MdsApi;
use curve_proto::transport::GrpcMds;
use curve_rpc::{RpcConfig, RpcNetwork};
use curve_serving::startup::{DRAIN_TIMEOUT, Signals, StartError, raise_descriptor_limit, runtime};
use curve_serving::volumes::configuration;
use curve_telemetry::{HttpHandle, install_metrics, serve_http};
use curve_types::ClientId;
use curvefs_client::{Mount, MountRequest, MountState, RetryLimits, S3Data, Subtree};
use curvefs_fuse::Mounted;
use curvefs_types::{FsError, InodeId, Metadata};
use curvefs_vfs::Vfs;
use rand::Rng;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tracing::{error, info, warn};

use crate::checks::Plan;
use crate::error::FuseError;
use crate::health::MountHealth;
use crate::mounts;
use crate::record::Record;
use crate::unmount::{UnmountError, take_away};

/// Threads that serve.
const THREADS_MAX: usize = 8;
/// How long the root may take to answer at the mount.
const USABLE_MAX: Duration = Duration::from_secs(30);
/// After a failure to store what was written.
const STORE_AGAIN: Duration = Duration::from_secs(1);

/// Mounts and serves until somebody unmounts, or a signal comes. `usable` is called once programs can use it; if it fails, nobody
/// waits any more and the mount is ended.
pub fn run(plan: &Plan, usable: impl FnOnce() -> io::Result<()>) -> Result<(), FuseError> {
    raise_descriptor_limit()?;
    let threads = std::thread::available_parallelism().map_or(2, NonZeroUsize::get).clamp(2, THREADS_MAX);
    let threads = NonZeroUsize::new(threads).expect("it is at least 2");
    let runtime = runtime(threads)?;
    let served = runtime.block_on(serve(plan, usable));
    // A thread may wait for a kernel that does not let go: the process ends with it.
    runtime.shutdown_background();
    served
}

/// What a mount is made of.
struct Opened {
    mount: Arc<Mount>,
    vfs: Vfs,
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
    let watching = watch_fence(&opened.mount, &plan.dir);
    let served = serve_opened(plan, &opened, &mut signals, usable).await;
    watching.abort();
    // The mount at the MDS ends whatever happened before, so that its locks and files are free.
    if let Err(error) = opened.mount.close().await {
        warn!(%error, "the MDS was not told of the end; it ends the mount by itself when the lease has run out");
    }
    served
}

async fn open(plan: &Plan) -> Result<Opened, FuseError> {
    let config = configuration(plan.config.as_deref(), plan.mds.clone())?;
    let transport = Arc::new(GrpcMds::grpc(&config.mds_addresses));
    let mds = Arc::new(MdsApi::new(transport, ClientId(rand::rng().random()), config.mds_timeout.0));
    let network = RpcNetwork::new(RpcConfig::default());
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
    let mount = Mount::open(mds, network, &request, RetryLimits::default()).await;
    let mount = Arc::new(mount.map_err(|error| FuseError::of_grant(&plan.name, error))?);
    match make_usable(plan, &mount).await {
        Ok(vfs) => Ok(Opened { mount, vfs }),
        Err(error) => {
            if let Err(error) = mount.close().await {
                warn!(%error, "the MDS was not told that the mount failed");
            }
            Err(error)
        }
    }
}

/// The file system, once its root has answered.
async fn make_usable(plan: &Plan, mount: &Mount) -> Result<Vfs, FuseError> {
    let grant = mount.grant();
    let options = plan.options.fs.clone();
    let data = S3Data::new(&grant.file_system, grant.writer, options.soft_timeout);
    let data = data.map_err(|error| FuseError::of_store(&plan.name, error))?;
    mount.follow_record(data.rotation());
    let unusable = |why: String| FuseError::Unusable { name: plan.name.clone(), why };
    let asking = async {
        let metadata = metadata(plan, mount).await?;
        let vfs = Vfs::new(metadata, data.backend(), options);
        let root = vfs.get_attr(InodeId::ROOT).await;
        root.map(|_| vfs).map_err(|error| unusable(error.to_string()))
    };
    match timeout(USABLE_MAX, asking).await {
        Ok(asked) => asked,
        Err(_) => Err(unusable(format!("within {} s", USABLE_MAX.as_secs()))),
    }
}

/// The whole file system, or a directory of it.
async fn metadata(plan: &Plan, mount: &Mount) -> Result<Arc<dyn Metadata>, FuseError> {
    let Some(path) = &plan.subdir else { return Ok(mount.metadata()) };
    let tree = Subtree::open(mount.metadata(), path).await;
    let (name, path) = (plan.name.clone(), format!("/{path}"));
    Ok(Arc::new(tree.map_err(|cause| FuseError::Subdir { name, path, cause })?))
}

/// Tells the log when the mount is shut out. Its programs get errors until somebody unmounts; the process stays until then, since
/// without it they would get stranger ones.
fn watch_fence(mount: &Mount, dir: &Path) -> JoinHandle<()> {
    let (mut state, dir) = (mount.state(), dir.display().to_string());
    let id = mount.grant().key.mount;
    tokio::spawn(async move {
        if matches!(
            state.wait_for(|state| *state != MountState::Active).await.as_deref(),
            Ok(MountState::Fenced)
        ) {
            error!(
                code = "MOUNT_FENCED", mount = %id, %dir,
                "the mount was shut out: it did not reach the MDS for longer than its lease, or an operator ended it. Every \
                 access fails with an I/O error, and what was not stored is lost. Stop the programs that use it, run \
                 `curve-fuse umount {dir}`, and mount it again"
            );
        }
    })
}

async fn serve_opened(
    plan: &Plan,
    opened: &Opened,
    signals: &mut Signals,
    usable: impl FnOnce() -> io::Result<()>,
) -> Result<(), FuseError> {
    let Opened { mount, vfs } = opened;
    let http = start_http(plan, mount, vfs).await?;
    let is_root = rustix::process::geteuid().is_root();
    let kernel = plan.options.kernel.kernel(&plan.source(), is_root);
    let mounted = curvefs_fuse::mount(vfs.clone(), &plan.dir, &kernel)
        .map_err(|cause| FuseError::Kernel { dir: plan.dir.clone(), hint: hint(&cause, is_root), cause })?;
    let record = record(&plan.dir);
    // Waits on a thread: the kernel's side of the session is threads.
    let mut session = tokio::task::spawn_blocking(move || mounted.wait());
    info!(dir = %plan.dir.display(), file_system = plan.name, mount = %mount.grant().key.mount, "mounted");
    let wanted = usable();
    if let Err(error) = &wanted {
        warn!(%error, "whoever started the mount is gone");
    }
    let told = match wanted {
        Err(_) => true,
        Ok(()) => tokio::select! {
            ended = &mut session => {
                say_end(ended);
                false
            }
            name = signals.next() => {
                info!("{name}: unmounting {}", plan.dir.display());
                true
            }
        },
    };
    if told {
        end_session(plan, vfs, &mut session).await;
    }
    let stored = store_all(vfs, signals, told).await;
    drop((record, http));
    if wanted.is_err() { stored.and(Err(FuseError::Unwanted)) } else { stored }
}

async fn start_http(plan: &Plan, mount: &Arc<Mount>, vfs: &Vfs) -> Result<Option<HttpHandle>, FuseError> {
    let Some(address) = &plan.http else { return Ok(None) };
    let dir = plan.dir.display().to_string();
    let health = Arc::new(MountHealth { mount: mount.clone(), vfs: vfs.clone(), dir });
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

/// Lets `curve-fuse umount` wait for this process.
fn record(dir: &Path) -> Option<Record> {
    let lines = mounts::all().ok()?;
    let line = mounts::ours_at(&lines, dir)?;
    match Record::put(&line.device) {
        Ok(record) => Some(record),
        Err(error) => {
            info!(%error, "the process of the mount is not recorded; `curve-fuse umount` will not wait for it");
            None
        }
    }
}

type Ended = Result<io::Result<()>, tokio::task::JoinError>;

fn say_end(ended: Ended) {
    match ended {
        Ok(Ok(())) => info!("unmounted"),
        Ok(Err(error)) => warn!(%error, "the kernel's session ended"),
        Err(error) => error!(%error, "the thread of the kernel's session failed"),
    }
}

/// Unmounts, after what was written is on its way. Where programs use the directory it is taken out of the tree, and they have
/// a while to end.
async fn end_session(plan: &Plan, vfs: &Vfs, session: &mut JoinHandle<io::Result<()>>) {
    if !matches!(timeout(DRAIN_TIMEOUT, vfs.sync()).await, Ok(Ok(()))) {
        warn!("what was written cannot be stored yet");
    }
    let dir = plan.dir.clone();
    let taken = tokio::task::spawn_blocking(move || match take_away(&dir, false) {
        Err(UnmountError::Busy(dir)) => {
            warn!(dir = %dir.display(), "in use; taken out of the tree, and ended when nobody uses it, or in {DRAIN_TIMEOUT:?}");
            take_away(&dir, true)
        }
        done => done,
    });
    match taken.await {
        Ok(Ok(())) => {}
        // Somebody else has unmounted it meanwhile; if not, the kernel sees the end of this process.
        Ok(Err(error)) => warn!(%error, "not unmounted"),
        Err(error) => error!(%error, "unmounting failed"),
    }
    match timeout(DRAIN_TIMEOUT, session).await {
        Ok(ended) => say_end(ended),
        Err(_) => warn!("programs still use the mount; they get errors from now on"),
    }
}

/// Publishes everything. Without a signal as long as it takes; after one at most [`DRAIN_TIMEOUT`] more.
async fn store_all(vfs: &Vfs, signals: &mut Signals, told: bool) -> Result<(), FuseError> {
    let mut last = None;
    let storing = async {
        loop {
            match vfs.sync().await {
                Ok(()) => break,
                Err(_) if vfs.unpublished_bytes() == 0 => break,
                Err(FsError::Fenced) => break,
                Err(error) => {
                    if last.replace(error) != Some(error) {
                        warn!(%error, bytes = vfs.unpublished_bytes(), "what was written cannot be stored; trying on");
                    }
                    sleep(STORE_AGAIN).await;
                }
            }
        }
        vfs.shutdown().await
    };
    let ended = {
        tokio::pin!(storing);
        let patience = async {
            if !told {
                let name = signals.next().await;
                info!("{name}: what is not stored in {DRAIN_TIMEOUT:?} is lost");
            }
            sleep(DRAIN_TIMEOUT).await;
        };
        tokio::select! {
            ended = &mut storing => Some(ended),
            () = patience => None,
        }
    };
    let bytes = vfs.unpublished_bytes();
    match ended {
        Some(Err(FsError::Fenced)) => Ok(()),
        Some(Err(error)) if bytes == 0 => {
            warn!(%error, "not everything was given back; the MDS does it");
            Ok(())
        }
        Some(Ok(())) => Ok(()),
        None if bytes == 0 => Ok(()),
        Some(Err(error)) => Err(lost(bytes, error.to_string())),
        None => Err(lost(bytes, last.map_or("no answer".to_owned(), |error| error.to_string()))),
    }
}

fn lost(bytes: u64, why: String) -> FuseError {
    FuseError::Unpublished { bytes, within: DRAIN_TIMEOUT, why }
}

/// A mount can be waited for on a thread.
const _: () = {
    const fn sent<T: Send>() {}
    sent::<Mounted>();
};
