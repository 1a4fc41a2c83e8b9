//! `curve-nbd serve`: opens, listens, says that it is ready, drains.

use std::io::{self, Write};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use curve_blockdev::{BlockDevice, MemoryDevice, Rate, ReadOnly, Throttled, Traced};
use curve_nbd::exports::{Export, Exports};
use curve_nbd::server::{self, ListenError, Listener};
use curve_nbd::tls::{TlsError, load_acceptor};
use curve_telemetry::{init_logging, install_metrics, serve_http};
use curve_types::ByteSize;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::cli::Serve;
use crate::volumes::{self, OpenVolume, Opening, VolumeError, VolumesHealth};

/// How long requests in flight may take once the server is told to stop.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// File descriptors below which a daemon is not worth starting: connections to a small cluster and a few clients.
const DESCRIPTORS_MIN: u64 = 128;
/// What a throttled device may catch up at once.
const THROTTLE_BURST: Duration = Duration::from_millis(100);

/// Why the daemon cannot start or stop in order.
#[derive(Debug, Error)]
pub enum DaemonError {
    /// The log filter or its like.
    #[error(transparent)]
    Logging(#[from] curve_telemetry::LoggingError),
    /// The system refuses something basic.
    #[error("{what}: {cause}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        cause: io::Error,
    },
    /// The limit on open files is too low.
    #[error(
        "only {0} files may be open, {DESCRIPTORS_MIN} are needed; raise the limit with `ulimit -n 65536`"
    )]
    Descriptors(u64),
    /// The certificate is unusable.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A volume cannot be opened.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// The size of the memory device is odd.
    #[error("a memory device of {size} is empty or no multiple of {block} bytes; change --memory")]
    MemorySize {
        /// What was asked for.
        size: ByteSize,
        /// What it should be a multiple of.
        block: u32,
    },
    /// Nobody can connect.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The devices did not answer in time.
    #[error("requests were still in flight {} s after the signal; their clients got no answer", DRAIN_TIMEOUT.as_secs())]
    Undrained,
}

/// Serves until a signal comes.
pub fn serve(serve: &Serve) -> Result<(), DaemonError> {
    init_logging()?;
    raise_descriptor_limit()?;
    let mut builder = match serve.threads.get() {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = builder
        .worker_threads(serve.threads.get())
        .enable_all()
        .build()
        .map_err(|cause| DaemonError::System { what: "cannot start the runtime", cause })?;
    runtime.block_on(run(serve))
}

async fn run(serve: &Serve) -> Result<(), DaemonError> {
    let system = |what| move |cause| DaemonError::System { what, cause };
    // Signals that come while volumes are being opened are not lost: they are seen as soon as serving begins.
    let mut terminate = signal(SignalKind::terminate()).map_err(system("cannot handle SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(system("cannot handle SIGINT"))?;
    let tls = serve.tls_files().map(|files| load_acceptor(&files)).transpose()?;
    // Binding before opening: a second daemon for the same socket must not take the volumes away from the first.
    let listener = Listener::bind(&serve.place()).await?;
    let opening = open_exports(serve);
    // Opening may wait for a former holder's lease; a signal ends that, too.
    let opened = tokio::select! {
        opened = opening => opened?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    let http = match &serve.http {
        Some(address) => {
            let health = Arc::new(VolumesHealth(opened.volumes));
            Some(serve_http(address, health).await.map_err(system("cannot serve HTTP"))?)
        }
        None => None,
    };
    let exports = Arc::new(Exports::new(opened.exports));
    announce(serve, &listener, tls.is_some()).map_err(system("cannot write to standard output"))?;
    let (stop, stopping) = watch::channel(false);
    let serving = server::run(listener, exports.clone(), tls, stopping);
    tokio::pin!(serving);
    tokio::select! {
        () = &mut serving => unreachable!("the server runs until it is stopped"),
        _ = terminate.recv() => info!("SIGTERM: draining"),
        _ = interrupt.recv() => info!("SIGINT: draining"),
    }
    stop.send_replace(true);
    let drained = tokio::time::timeout(DRAIN_TIMEOUT, async {
        serving.await;
        exports.close().await;
    });
    let drained = drained.await.map_err(|_| DaemonError::Undrained);
    drop(http);
    drained
}

/// Tells whoever started this that clients can connect.
fn announce(serve: &Serve, listener: &Listener, tls: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for path in &serve.paths {
        writeln!(out, "ready {}", listener.uri(path, tls))?;
    }
    out.flush()
}

struct OpenExports {
    exports: Vec<Export>,
    volumes: Vec<OpenVolume>,
}

async fn open_exports(serve: &Serve) -> Result<OpenExports, DaemonError> {
    // Before the first counter is made: what is counted without a registry is lost.
    if serve.http.is_some() {
        install_metrics();
    }
    let export = |path: &String, device, description: &str| Export {
        name: path.clone(),
        description: description.to_owned(),
        device: decorate(device, path, serve),
    };
    if let Some(size) = serve.memory {
        let block = serve.block_size.bytes();
        if size.0 == 0 || !size.0.is_multiple_of(u64::from(block)) {
            return Err(DaemonError::MemorySize { size, block });
        }
        let memory = |path| export(path, Arc::new(MemoryDevice::new(size.0, block)), "memory device");
        return Ok(OpenExports { exports: serve.paths.iter().map(memory).collect(), volumes: Vec::new() });
    }
    let opening = Opening {
        config: serve.config.clone(),
        read_only: serve.read_only,
        shared: serve.shared,
        takeover: serve.takeover,
        block: serve.block_size.bytes(),
        io_timeout: None,
    };
    let volumes = volumes::open(&serve.paths, &opening).await?;
    let exports = volumes.iter().map(|(path, volume)| export(path, volume.clone(), "Curve volume")).collect();
    Ok(OpenExports { exports, volumes })
}

/// Puts around a device what the command line asks for; the counters are outermost and so see what clients see.
fn decorate(device: Arc<dyn BlockDevice>, path: &str, serve: &Serve) -> Arc<dyn BlockDevice> {
    let mut device = device;
    if serve.read_only {
        device = Arc::new(ReadOnly::new(device));
    }
    let rate = Rate {
        ops_per_second: serve.ops_per_second,
        bytes_per_second: serve.bytes_per_second.and_then(|size| NonZeroU64::new(size.0)),
        burst: THROTTLE_BURST,
    };
    if rate.ops_per_second.is_some() || rate.bytes_per_second.is_some() {
        device = Arc::new(Throttled::new(device, rate));
    }
    if serve.http.is_some() {
        device = Arc::new(Traced::new(device, path));
    }
    device
}

/// Every connection, to clients and to servers, takes a descriptor: take as many as the system lets us have.
pub fn raise_descriptor_limit() -> Result<(), DaemonError> {
    let limit = getrlimit(Resource::Nofile);
    let Some(maximum) = limit.maximum else { return Ok(()) };
    if maximum < DESCRIPTORS_MIN {
        return Err(DaemonError::Descriptors(maximum));
    }
    let raised = Rlimit { current: Some(maximum), maximum: Some(maximum) };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        warn!(%error, "the limit on open files stays as it is");
    }
    Ok(())
}
