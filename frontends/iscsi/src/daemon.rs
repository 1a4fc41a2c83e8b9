//! `curve-iscsi serve`: opens, listens, says that it is ready, drains.

use std::future::pending;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use curve_blockdev::BlockDevice;
use curve_iscsi::catalog::{Catalog, CatalogSource};
use curve_iscsi::core::Credentials;
use curve_iscsi::gateway::{Gateway, GatewayError, GatewayOptions};
use curve_iscsi::server::{self, ListenError, Portals};
use curve_iscsi::sessions::Sessions;
use curve_telemetry::{HealthSource, init_logging, install_metrics, serve_http};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use thiserror::Error;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::cli::Serve;
use crate::targets::{self, TargetError};
use crate::volumes::{self, VolumeError, VolumesHealth};

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
    /// The configuration is wrong, or there is no cluster.
    #[error(transparent)]
    Cluster(#[from] VolumeError),
    /// The cluster does not let this gateway serve.
    #[error(transparent)]
    Gateway(#[from] GatewayError),
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
    // Signals that come while volumes are being opened are not lost: they are seen as soon as serving begins.
    let mut signals = Signals::new()?;
    let credentials = targets::credentials(serve)?;
    // Before the first counter is made: what is counted without a registry is lost.
    if serve.http.is_some() {
        install_metrics();
    }
    // Binding before opening: a second daemon for the same address must not take the volumes away from the first.
    let portals = Portals::bind(&serve.listen).await?;
    let sessions = Arc::new(Sessions::default());
    // Opening may wait for a former holder's lease; a signal ends that, too.
    let mut backend = tokio::select! {
        backend = Backend::open(serve, &portals, credentials, &sessions) => backend?,
        _ = signals.next() => return Ok(()),
    };
    let system = |what| move |cause| DaemonError::System { what, cause };
    let http = match &serve.http {
        Some(address) => {
            let health = backend.health();
            Some(serve_http(address, health).await.map_err(system("cannot serve HTTP"))?)
        }
        None => None,
    };
    announce(serve, &portals).map_err(system("cannot write to standard output"))?;
    let (stop, stopping) = watch::channel(false);
    let serving = server::run(portals, backend.catalog(), sessions, connections_max, stopping);
    tokio::pin!(serving);
    let ended = tokio::select! {
        () = &mut serving => unreachable!("the server runs until it is stopped"),
        name = signals.next() => {
            info!("{name}: draining");
            Ok(())
        }
        error = backend.failed() => Err(error),
    };
    stop.send_replace(true);
    let drained = tokio::time::timeout(DRAIN_TIMEOUT, async {
        serving.await;
        backend.close().await;
    });
    let drained = drained.await.map_err(|_| DaemonError::Undrained);
    drop(http);
    ended.and(drained)
}

/// The signals that end a daemon.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self, DaemonError> {
        let on = |kind, what| signal(kind).map_err(|cause| DaemonError::System { what, cause });
        Ok(Self {
            terminate: on(SignalKind::terminate(), "cannot handle SIGTERM")?,
            interrupt: on(SignalKind::interrupt(), "cannot handle SIGINT")?,
        })
    }

    /// Waits for one and gives its name.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Where the targets come from.
enum Backend {
    /// The command line, which is all there is: nothing publishes another catalog.
    CommandLine {
        publisher: watch::Sender<Arc<Catalog>>,
        devices: Vec<Arc<dyn BlockDevice>>,
        health: Arc<VolumesHealth>,
    },
    /// The cluster.
    Cluster(Box<Gateway>),
}

impl Backend {
    async fn open(
        serve: &Serve,
        portals: &Portals,
        credentials: Option<Credentials>,
        sessions: &Arc<Sessions>,
    ) -> Result<Self, DaemonError> {
        if let Some(name) = &serve.gateway {
            let cluster = Arc::new(volumes::connect(serve.config.as_deref()).await?);
            let options = GatewayOptions {
                name: name.clone(),
                portals: portals.advertised(&serve.advertise),
                traced: serve.http.is_some(),
            };
            let mut gateway = Gateway::start(cluster, options, sessions.clone()).await?;
            gateway.ready().await;
            return Ok(Self::Cluster(Box::new(gateway)));
        }
        let opened = targets::open(serve, portals.advertised(&serve.advertise), credentials).await?;
        let (publisher, _) = watch::channel(Arc::new(opened.catalog));
        let health = Arc::new(VolumesHealth(opened.volumes));
        Ok(Self::CommandLine { publisher, devices: opened.devices, health })
    }

    fn catalog(&self) -> CatalogSource {
        match self {
            Self::CommandLine { publisher, .. } => publisher.subscribe(),
            Self::Cluster(gateway) => gateway.catalog(),
        }
    }

    fn health(&self) -> Arc<dyn HealthSource> {
        match self {
            Self::CommandLine { health, .. } => health.clone(),
            Self::Cluster(gateway) => gateway.health(),
        }
    }

    /// Completes when there is no use in going on.
    async fn failed(&mut self) -> DaemonError {
        match self {
            Self::CommandLine { .. } => pending().await,
            Self::Cluster(gateway) => gateway.replaced().await.into(),
        }
    }

    async fn close(self) {
        match self {
            Self::CommandLine { devices, .. } => {
                for device in devices {
                    if let Err(error) = device.close().await {
                        warn!(%error, "a device did not close in order");
                    }
                }
            }
            Self::Cluster(gateway) => gateway.close().await,
        }
    }
}

/// Tells whoever started this that initiators can connect.
fn announce(serve: &Serve, portals: &Portals) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for address in portals.addresses() {
        match &serve.iqn {
            None => writeln!(out, "ready iscsi://{address}")?,
            Some(iqn) => {
                for argument in &serve.lun {
                    writeln!(out, "ready iscsi://{address}/{iqn}/{}", argument.lun.number())?;
                }
            }
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
