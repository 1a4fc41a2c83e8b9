//! `curve-iscsi serve`: opens, listens, says that it is ready, drains.

use std::future::pending;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use curve_blockdev::BlockDevice;
use curve_client::Pulse;
use curve_iscsi::catalog::{Catalog, CatalogSource};
use curve_iscsi::core::Credentials;
use curve_iscsi::gateway::{Gateway, GatewayError, GatewayOptions};
use curve_iscsi::server::{self, ListenError, Portals, ServerLimits};
use curve_iscsi::sessions::Sessions;
use curve_serving::startup::{DRAIN_TIMEOUT, Signals, StartError, raise_descriptor_limit, runtime};
use curve_serving::volumes::{self, VolumeError, VolumesHealth};
use curve_telemetry::{HealthSource, init_logging, install_metrics, serve_http};
use thiserror::Error;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::cli::Serve;
use crate::targets::{self, TargetError};

/// Initiators at a time, whatever the system allows: fewer than there are session numbers.
const CONNECTIONS_MAX: usize = 16384;
/// How long a gateway may not run before what it has under way is given up: less than what initiators wait for an answer to
/// their pings (5 s as Linux has it) before they go to another gateway.
const STALL_MIN: Duration = Duration::from_secs(3);

/// Why the daemon cannot start or stop in order.
#[derive(Debug, Error)]
pub enum DaemonError {
    /// It does not even begin.
    #[error(transparent)]
    Start(#[from] StartError),
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
    init_logging().map_err(StartError::from)?;
    let admission = serve.limits.limits(CONNECTIONS_MAX, raise_descriptor_limit()?);
    let limits = ServerLimits { admission, login_timeout: serve.login_timeout.0 };
    runtime(serve.threads)?.block_on(run(serve, limits))
}

async fn run(serve: &Serve, limits: ServerLimits) -> Result<(), DaemonError> {
    // Signals that come while volumes are being opened are not lost: they are seen as soon as serving begins.
    let mut signals = Signals::new()?;
    let credentials = targets::credentials(serve)?;
    // Before the first counter is made: what is counted without a registry is lost.
    if serve.http.is_some() {
        install_metrics();
    }
    // Binding before opening: a second daemon for the same address must not take the volumes away from the first.
    let portals = Portals::bind(&serve.listen).await?;
    // Initiators of a gateway have others to go to.
    let pulse = serve.gateway.is_some().then(|| Pulse::start(STALL_MIN));
    let sessions = Arc::new(pulse.clone().map_or_else(Sessions::default, Sessions::ending_with_stalls));
    // Opening may wait for a former holder's lease; a signal ends that, too.
    let mut backend = tokio::select! {
        backend = Backend::open(serve, &portals, credentials, &sessions, pulse) => backend?,
        _ = signals.next() => return Ok(()),
    };
    let http = match &serve.http {
        Some(address) => {
            let health = backend.health();
            Some(serve_http(address, health).await.map_err(StartError::system("cannot serve HTTP"))?)
        }
        None => None,
    };
    announce(serve, &portals).map_err(StartError::system("cannot write to standard output"))?;
    let (stop, stopping) = watch::channel(false);
    let serving = server::run(portals, backend.catalog(), sessions, limits, stopping);
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
        pulse: Option<Arc<Pulse>>,
    ) -> Result<Self, DaemonError> {
        if let Some(name) = &serve.gateway {
            let mut cluster = volumes::connect(serve.config.as_deref()).await?;
            if let Some(pulse) = pulse {
                cluster.give_up_after_stalls(pulse);
            }
            let cluster = Arc::new(cluster);
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
