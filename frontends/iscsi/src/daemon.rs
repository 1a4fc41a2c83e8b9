//! `curve-iscsi serve`: opens, listens, says that it is ready, drains.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use curve_iscsi::server::{self, ListenError, Portals};
use curve_telemetry::{init_logging, install_metrics, serve_http};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::cli::Serve;
use crate::targets::{self, TargetError};
use crate::volumes::VolumesHealth;

/// How long initiators and their commands in flight may take once the gateway is told to stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// File descriptors for everything but initiators: listeners, a small cluster, logs.
const DESCRIPTORS_OWN: u64 = 128;
/// File descriptors below which a daemon is not worth starting.
const DESCRIPTORS_MIN: u64 = 2 * DESCRIPTORS_OWN;
/// Initiators at a time, whatever the system allows: fewer than there are session numbers.
const CONNECTIONS_MAX: u64 = 16384;

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
    /// What is to be served is not to be had.
    #[error(transparent)]
    Targets(#[from] TargetError),
    /// Nobody can connect.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The devices did not answer in time.
    #[error("commands were still in flight {} s after the signal; their initiators got no answer", DRAIN_TIMEOUT.as_secs())]
    Undrained,
}

/// Serves until a signal comes.
pub fn serve(serve: &Serve) -> Result<(), DaemonError> {
    init_logging()?;
    let connections_max = raise_descriptor_limit()?;
    let mut builder = match serve.threads.get() {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = builder
        .worker_threads(serve.threads.get())
        .enable_all()
        .build()
        .map_err(|cause| DaemonError::System { what: "cannot start the runtime", cause })?;
    runtime.block_on(run(serve, connections_max))
}

async fn run(serve: &Serve, connections_max: usize) -> Result<(), DaemonError> {
    let system = |what| move |cause| DaemonError::System { what, cause };
    // Signals that come while volumes are being opened are not lost: they are seen as soon as serving begins.
    let mut terminate = signal(SignalKind::terminate()).map_err(system("cannot handle SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(system("cannot handle SIGINT"))?;
    let credentials = targets::credentials(serve)?;
    // Before the first counter is made: what is counted without a registry is lost.
    if serve.http.is_some() {
        install_metrics();
    }
    // Binding before opening: a second daemon for the same address must not take the volumes away from the first.
    let portals = Portals::bind(&serve.listen).await?;
    let opening = targets::open(serve, portals.advertised(&serve.advertise), credentials);
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
    announce(serve, &portals).map_err(system("cannot write to standard output"))?;
    let (stop, stopping) = watch::channel(false);
    // Nothing publishes another catalog: the command line is all there is.
    let (_publisher, catalog) = watch::channel(Arc::new(opened.catalog));
    let serving = server::run(portals, catalog, connections_max, stopping);
    tokio::pin!(serving);
    tokio::select! {
        () = &mut serving => unreachable!("the server runs until it is stopped"),
        _ = terminate.recv() => info!("SIGTERM: draining"),
        _ = interrupt.recv() => info!("SIGINT: draining"),
    }
    stop.send_replace(true);
    let drained = tokio::time::timeout(DRAIN_TIMEOUT, async {
        serving.await;
        for device in &opened.devices {
            if let Err(error) = device.close().await {
                warn!(%error, "a device did not close in order");
            }
        }
    });
    let drained = drained.await.map_err(|_| DaemonError::Undrained);
    drop(http);
    drained
}

/// Tells whoever started this that initiators can connect.
fn announce(serve: &Serve, portals: &Portals) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for address in portals.addresses() {
        for argument in &serve.lun {
            writeln!(out, "ready iscsi://{address}/{}/{}", serve.iqn, argument.lun.number())?;
        }
    }
    out.flush()
}

/// Every connection takes a descriptor: take as many as the system lets us have. Gives the number of initiators that
/// leaves room for.
fn raise_descriptor_limit() -> Result<usize, DaemonError> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let Some(maximum) = maximum else { return Ok(CONNECTIONS_MAX as usize) };
    if maximum < DESCRIPTORS_MIN {
        return Err(DaemonError::Descriptors(maximum));
    }
    let raised = Rlimit { current: Some(maximum), maximum: Some(maximum) };
    let limit = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => maximum,
        Err(error) => {
            warn!(%error, "the limit on open files stays as it is");
            current.unwrap_or(maximum).max(DESCRIPTORS_MIN)
        }
    };
    Ok((limit - DESCRIPTORS_OWN).min(CONNECTIONS_MAX) as usize)
}
