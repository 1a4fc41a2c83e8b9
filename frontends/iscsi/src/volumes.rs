//! Where the devices come from: the only place that knows there is a cluster.

use std::path::Path;
use std::sync::Arc;

use curve_client::mds::{Holder, MdsError, OpenMode};
use curve_client::{ClientConfig, ClientError, Cluster, OpenOptions, Volume};
use curve_config::ConfigError;
use curve_telemetry::{HealthItem, HealthLevel, HealthReport, HealthSource};
use curve_types::SECTOR_BYTES;
use thiserror::Error;
use tracing::warn;

use crate::cli::Serve;

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

/// An open volume and its path.
pub type OpenVolume = (String, Arc<Volume>);

/// Opens the volumes of the command line, in its order. If one cannot be opened, those before it are closed again.
pub async fn open(serve: &Serve) -> Result<Vec<OpenVolume>, VolumeError> {
    let cluster = connect(serve.config.as_deref()).await?;
    let mut volumes: Vec<OpenVolume> = Vec::new();
    for argument in &serve.lun {
        match open_one(&cluster, &argument.path, serve).await {
            Ok(volume) => volumes.push((argument.path.clone(), volume)),
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
    Cluster::connect(&configuration(explicit)?).await.map_err(VolumeError::Cluster)
}

/// The file that `--config` and the usual places give. `$CURVE_MDS` replaces its addresses, or all of it.
fn configuration(explicit: Option<&Path>) -> Result<ClientConfig, VolumeError> {
    let addresses = curve_config::mds_override();
    let mut config: ClientConfig = match curve_config::find_client_config(explicit) {
        Ok(path) => curve_config::load(path)?,
        Err(ConfigError::NotFound { .. }) if explicit.is_none() && addresses.is_some() => {
            ClientConfig::default()
        }
        Err(error) => return Err(error.into()),
    };
    if let Some(addresses) = addresses {
        config.mds_addresses = addresses;
    }
    Ok(config)
}

async fn open_one(cluster: &Cluster, path: &str, serve: &Serve) -> Result<Arc<Volume>, VolumeError> {
    // A volume's path is absolute; the one of the command line may come without the slash.
    let absolute = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let options = OpenOptions {
        mode: if serve.read_only { OpenMode::ReadOnly } else { OpenMode::Exclusive },
        takeover: serve.takeover,
        sectors: u64::from(serve.block_size.bytes()) == SECTOR_BYTES,
    };
    let holder = match cluster.open(&absolute, options).await {
        Err(ClientError::Mds(MdsError::HeldBy { holder, .. })) => holder,
        opened => return opened.map_err(|cause| VolumeError::Open { path: path.to_owned(), cause }),
    };
    if !died_here(&holder) {
        return Err(VolumeError::Held { path: path.to_owned(), holder });
    }
    // Waiting for the lease of a process that cannot come back would only keep clients waiting. Should it live after
    // all, in a container that shares the host's name, it is shut out as any former holder is: no write is mixed.
    warn!(path, %holder, "the process that had the volume is gone; taking over");
    let takeover = OpenOptions { takeover: true, ..options };
    cluster
        .open(&absolute, takeover)
        .await
        .map_err(|cause| VolumeError::Open { path: path.to_owned(), cause })
}

/// Whether a holder was a process of this host that no longer exists.
fn died_here(holder: &Holder) -> bool {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    host.trim() == holder.host && !Path::new("/proc").join(holder.process.to_string()).exists()
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
