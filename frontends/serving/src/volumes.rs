//! Where the devices come from: the only place that knows there is a cluster.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use curve_client::mds::{Holder, MdsError, OpenMode};
use curve_client::{ClientConfig, ClientError, Cluster, OpenOptions, Volume};
use curve_config::ConfigError;
use curve_telemetry::{HealthItem, HealthLevel, HealthReport, HealthSource};
use curve_types::{ClientId, HumanDuration, SECTOR_BYTES};
use thiserror::Error;
use tracing::warn;

use crate::process;

/// Why a volume cannot be served.
#[derive(Debug, Error)]
pub enum VolumeError {
    /// The configuration is missing or wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The cluster cannot be used.
    #[error("cannot reach the cluster: {0}")]
    Cluster(ClientError),
    /// Somebody else has it.
    #[error("{path} is open by {holder}; stop that process, or shut it out with --takeover")]
    Held {
        /// The volume.
        path: String,
        /// Who has it.
        holder: Holder,
    },
    /// Anything else.
    #[error("cannot open {path}: {cause}")]
    Open {
        /// The volume.
        path: String,
        /// Why not.
        cause: ClientError,
    },
}

/// How volumes are opened.
#[derive(Clone, Debug, Default)]
pub struct Opening {
    /// The client's configuration file, if one is named.
    pub config: Option<PathBuf>,
    /// Refuse writes.
    pub read_only: bool,
    /// Beside other writers.
    pub shared: bool,
    /// Shut out whoever stands in the way.
    pub takeover: bool,
    /// Smallest unit that may be addressed.
    pub block: u32,
    /// How long an I/O may take, if not as the file says.
    pub io_timeout: Option<Duration>,
}

/// An open volume and its path.
pub type OpenVolume = (String, Arc<Volume>);

/// Opens volumes, in order. If one cannot be opened, those before it are closed again.
pub async fn open(paths: &[String], opening: &Opening) -> Result<Vec<OpenVolume>, VolumeError> {
    let mut config = configuration(opening.config.as_deref(), None)?;
    if let Some(timeout) = opening.io_timeout {
        config.io_timeout = HumanDuration(timeout);
    }
    let cluster = reach(&config).await?;
    let mut volumes: Vec<OpenVolume> = Vec::new();
    for path in paths {
        match open_one(&cluster, path, opening).await {
            Ok(volume) => volumes.push((path.clone(), volume)),
            Err(error) => {
                for (_, volume) in volumes {
                    // Its lease ends by itself if even this fails; the first error is the one to tell.
                    let _ = curve_blockdev::BlockDevice::close(&*volume).await;
                }
                return Err(error);
            }
        }
    }
    Ok(volumes)
}

/// Reaches the cluster of the configuration.
pub async fn connect(explicit: Option<&Path>) -> Result<Cluster, VolumeError> {
    reach(&configuration(explicit, None)?).await
}

async fn reach(config: &ClientConfig) -> Result<Cluster, VolumeError> {
    // Chunk files that reads take their bytes from are a part of it. More is not promised to anybody.
    let limit = curve_io::fd_limit();
    tracing::debug!(files = limit.now, "may be open");
    Cluster::connect(config).await.map_err(VolumeError::Cluster)
}

/// The file that `--config` and the usual places give. The addresses of the command line, or else `$CURVE_MDS`, replace
/// its addresses, or all of it.
pub fn configuration(
    explicit: Option<&Path>,
    addresses: Option<Vec<String>>,
) -> Result<ClientConfig, ConfigError> {
    let addresses = addresses.or_else(curve_config::mds_override);
    let mut config: ClientConfig = match curve_config::find_client_config(explicit) {
        Ok(path) => curve_config::load(path)?,
        Err(ConfigError::NotFound { .. }) if explicit.is_none() && addresses.is_some() => {
            ClientConfig::default()
        }
        Err(error) => return Err(error),
    };
    if let Some(addresses) = addresses {
        config.mds_addresses = addresses;
    }
    Ok(config)
}

async fn open_one(cluster: &Cluster, path: &str, opening: &Opening) -> Result<Arc<Volume>, VolumeError> {
    // A volume's path is absolute; the export's name may come without the slash.
    let absolute = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let options = OpenOptions {
        mode: mode(opening),
        takeover: opening.takeover,
        sectors: u64::from(opening.block) == SECTOR_BYTES,
    };
    let gone = if opening.read_only { Vec::new() } else { predecessors(cluster, path, &absolute).await? };
    match cluster.open_displacing(&absolute, options, &gone).await {
        Err(ClientError::Mds(MdsError::HeldBy { holder, .. })) => {
            Err(VolumeError::Held { path: path.to_owned(), holder })
        }
        opened => opened.map_err(|cause| VolumeError::Open { path: path.to_owned(), cause }),
    }
}

/// A reader is beside others anyway.
const fn mode(opening: &Opening) -> OpenMode {
    match (opening.read_only, opening.shared) {
        (true, _) => OpenMode::ReadOnly,
        (false, true) => OpenMode::Shared,
        (false, false) => OpenMode::Exclusive,
    }
}

/// Holders that were processes of this host and are gone. Waiting for the lease of one would only keep clients waiting;
/// and what it had under way must not land after its clients have repeated it to us and gone on, so it is shut out even
/// where it would not stand in the way. Should it live after all, in a container that shares the host's name, it is shut
/// out as any former holder is: no write is mixed.
async fn predecessors(cluster: &Cluster, path: &str, absolute: &str) -> Result<Vec<ClientId>, VolumeError> {
    let entry = cluster.mds().stat(absolute).await;
    let entry = entry.map_err(|cause| VolumeError::Open { path: path.to_owned(), cause: cause.into() })?;
    let gone = entry.holders.into_iter().filter(|holder| holder.mode.writes() && died_here(holder));
    let told = gone.inspect(|holder| {
        warn!(path, %holder, "the process that had the volume is gone; it is shut out");
    });
    Ok(told.map(|holder| holder.client).collect())
}

/// Whether a holder was a process of this host that no longer runs.
fn died_here(holder: &Holder) -> bool {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", holder.process));
    host.trim() == holder.host && stat.map_or(true, |stat| process::is_dead(&stat))
}

/// What `/healthz` says: whether every volume is still ours. What is wrong with the cluster, the cluster says itself.
pub struct VolumesHealth(pub Vec<OpenVolume>);

impl HealthSource for VolumesHealth {
    fn health(&self) -> HealthReport {
        let fenced = self.0.iter().filter(|(_, volume)| volume.is_fenced()).map(|(path, _)| HealthItem {
            code: "VOLUME_FENCED".to_owned(),
            level: HealthLevel::Err,
            summary: format!("{path} was taken over; its clients get errors"),
            cause: "another process opened the volume after this one's lease ran out, or with --takeover"
                .to_owned(),
            remedy: "stop this server; start it again only where the volume is to be served".to_owned(),
        });
        HealthReport::new(fenced.collect())
    }
}
