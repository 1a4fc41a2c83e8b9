//! `curve-nbd serve`: opens, listens, says that it is ready, drains.

use std::io::{self, Write};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use curve_blockdev::{BlockDevice, Rate, ReadOnly, Throttled, Traced};
use curve_nbd::exports::{Export, Exports};
use curve_nbd::server::{self, ListenError, Listener, ServerLimits};
use curve_nbd::tls::{TlsError, load_acceptor};
use curve_serving::startup::{
    DRAIN_TIMEOUT, Signals, StartError, memory_device, raise_descriptor_limit, runtime,
};
use curve_serving::volumes::{self, OpenVolume, Opening, VolumeError, VolumesHealth};
use curve_telemetry::{init_logging, install_metrics, serve_http};
use thiserror::Error;
use tokio::sync::watch;
use tracing::info;

use crate::cli::Serve;

/// Clients at a time, whatever the system allows.
const CONNECTIONS_MAX: usize = 1024;
/// What a throttled device may catch up at once.
const THROTTLE_BURST: Duration = Duration::from_millis(100);

/// Why the daemon cannot start or stop in order.
#[derive(Debug, Error)]
pub enum DaemonError {
    /// It does not even begin.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The certificate is unusable.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A volume cannot be opened.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// Nobody can connect.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The devices did not answer in time.
    #[error("requests were still in flight {} s after the signal; their clients got no answer", DRAIN_TIMEOUT.as_secs())]
    Undrained,
}

/// Serves until a signal comes.
pub fn serve(serve: &Serve) -> Result<(), DaemonError> {
    init_logging().map_err(StartError::from)?;
    let admission = serve.limits.limits(CONNECTIONS_MAX, raise_descriptor_limit()?);
    let limits = ServerLimits { admission, handshake_timeout: serve.handshake_timeout.0 };
    runtime(serve.threads)?.block_on(run(serve, limits))
}

async fn run(serve: &Serve, limits: ServerLimits) -> Result<(), DaemonError> {
    // Signals that come while volumes are being opened are not lost: they are seen as soon as serving begins.
    let mut signals = Signals::new()?;
    let tls = serve.tls_files().map(|files| load_acceptor(&files)).transpose()?;
    // Binding before opening: a second daemon for the same socket must not take the volumes away from the first.
    let listener = Listener::bind(&serve.place()).await?;
    let opening = open_exports(serve);
    // Opening may wait for a former holder's lease; a signal ends that, too.
    let opened = tokio::select! {
        opened = opening => opened?,
        _ = signals.next() => return Ok(()),
    };
    let http = match &serve.http {
        Some(address) => {
            let health = Arc::new(VolumesHealth(opened.volumes));
            Some(serve_http(address, health).await.map_err(StartError::system("cannot serve HTTP"))?)
        }
        None => None,
    };
    let exports = Arc::new(Exports::new(opened.exports));
    announce(serve, &listener, tls.is_some())
        .map_err(StartError::system("cannot write to standard output"))?;
    let (stop, stopping) = watch::channel(false);
    let serving = server::run(listener, exports.clone(), tls, limits, stopping);
    tokio::pin!(serving);
    tokio::select! {
        () = &mut serving => unreachable!("the server runs until it is stopped"),
        name = signals.next() => info!("{name}: draining"),
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
        let memory = |path| {
            let device = memory_device(size, serve.block_size)?;
            Ok(export(path, device, "memory device"))
        };
        let exports = serve.paths.iter().map(memory).collect::<Result<_, StartError>>()?;
        return Ok(OpenExports { exports, volumes: Vec::new() });
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
