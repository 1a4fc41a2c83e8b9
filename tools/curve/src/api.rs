//! Reaches the cluster for a command: finds the configuration, connects, and turns refusals into failures.

use std::path::Path;
use std::time::Duration;

use curve_client::mds::{HealthLevel, MdsApi, MdsError};
use curve_client::{ClientConfig, ClientError, Cluster};
use curve_config::ConfigError;
use curve_proto::pb::fs::{FsEmpty, MetaserverState, fs_request, fs_response};
use curve_types::HumanDuration;

use crate::failure::{Code, Failure};

/// A connection for commands.
pub struct Api {
    cluster: Cluster,
}

/// What waiting for health needs to know.
pub struct Health {
    /// Chunkservers that send heartbeats.
    pub chunkservers_online: usize,
    /// Copysets whose replicas are all up.
    pub copysets_whole: u32,
    /// Copysets in all.
    pub copysets: u32,
    level: HealthLevel,
    problems: Vec<String>,
}

impl Health {
    /// Whether nothing is wrong.
    pub fn is_ok(&self) -> bool {
        self.level == HealthLevel::Ok
    }

    /// The worst problem in one line.
    pub fn first_problem(&self) -> String {
        self.problems.first().cloned().unwrap_or_else(|| "health is not OK".to_owned())
    }
}

impl Api {
    /// Connects by the rule for clients: `--config`, `$CURVE_CONFIG`, `./curve.toml`, `/etc/curve/curve.toml`; `$CURVE_MDS`
    /// overrides the addresses and needs no file.
    pub async fn connect(explicit: Option<&Path>) -> Result<Self, Failure> {
        Self::with_config(&client_config(explicit)?).await
    }

    async fn with_config(config: &ClientConfig) -> Result<Self, Failure> {
        let cluster = Cluster::connect(config).await.map_err(client_failure)?;
        Ok(Self { cluster })
    }

    /// The control calls.
    pub fn mds(&self) -> &MdsApi {
        self.cluster.mds()
    }
}

/// Asks the cluster of a configuration file for its health, without patience: the caller asks again.
pub async fn health(config: &Path) -> Result<Health, Failure> {
    let mut config: ClientConfig = curve_config::load(config).map_err(|error| config_failure(&error))?;
    config.mds_timeout = HumanDuration(Duration::from_secs(2));
    let status =
        Api::with_config(&config).await?.mds().status().await.map_err(|error| mds_failure(&error))?;
    Ok(Health {
        chunkservers_online: status.chunkservers_up as usize,
        copysets_whole: status.copysets_ok,
        copysets: status.copysets,
        level: status.level,
        problems: status.health.iter().map(|item| format!("{}: {}", item.code, item.summary)).collect(),
    })
}

/// How many metaservers are up.
pub async fn metaservers_up(config: &Path) -> Result<usize, Failure> {
    let mut config: ClientConfig = curve_config::load(config).map_err(|error| config_failure(&error))?;
    config.mds_timeout = HumanDuration(Duration::from_secs(2));
    let answer = Api::with_config(&config).await?.mds().fs(fs_request::Op::Metaservers(FsEmpty {})).await;
    match answer.map_err(|error| mds_failure(&error))? {
        fs_response::Result::Metaservers(all) => {
            Ok(all.metaservers.iter().filter(|one| one.state() == MetaserverState::MetaserverUp).count())
        }
        other => {
            Err(Failure::new(Code::Internal, "the MDS answered another question")
                .because(format!("{other:?}")))
        }
    }
}

fn client_config(explicit: Option<&Path>) -> Result<ClientConfig, Failure> {
    let addresses = curve_config::mds_override();
    let mut config = match (curve_config::find_client_config(explicit), &addresses) {
        (Ok(path), _) => curve_config::load::<ClientConfig>(&path).map_err(|error| config_failure(&error))?,
        (Err(_), Some(_)) if explicit.is_none() => ClientConfig::default(),
        (Err(error), _) => return Err(config_failure(&error)),
    };
    if let Some(addresses) = addresses {
        config.mds_addresses = addresses;
    }
    Ok(config)
}

/// The failure for a configuration that cannot be used.
pub fn config_failure(error: &ConfigError) -> Failure {
    let remedy = match error {
        ConfigError::Read { .. } => "check that the file exists and may be read",
        ConfigError::Refused(_) => "correct that line; deploy/ has annotated samples",
        ConfigError::NotFound { .. } => {
            "pass --config FILE or set $CURVE_CONFIG or $CURVE_MDS; a playground's file is D/curve.toml"
        }
    };
    Failure::new(Code::Config, error.to_string()).try_this(remedy)
}

/// The failure for a refusal of the MDS.
pub fn mds_failure(error: &MdsError) -> Failure {
    let code = match error {
        MdsError::NotFound { .. } => Code::NotFound,
        MdsError::Exists { .. } => Code::AlreadyExists,
        MdsError::NotEmpty { .. } => Code::NotEmpty,
        MdsError::NotDirectory { .. }
        | MdsError::IsDirectory { .. }
        | MdsError::BadPath { .. }
        | MdsError::BadSize { .. }
        | MdsError::BadName { .. }
        | MdsError::BadRequest { .. } => Code::Usage,
        MdsError::NoSealingKey { .. } => Code::Config,
        MdsError::HeldBy { .. } | MdsError::StillMounted { .. } => Code::InUse,
        MdsError::NotHeld { .. } | MdsError::Fenced { .. } | MdsError::Conflict { .. } => Code::Conflict,
        MdsError::NoSpace { .. } => Code::NoSpace,
        MdsError::NotEnoughChunkservers { .. }
        | MdsError::NotEnoughMetaservers { .. }
        | MdsError::NotLeader { .. }
        | MdsError::Unavailable { .. } => Code::Unavailable,
        MdsError::InProgress { .. } => Code::TimedOut,
    };
    let remedy = match error {
        MdsError::Unavailable { .. } => {
            "check that a majority of the MDSs runs and that the addresses are right (curve.toml, $CURVE_MDS)"
                .to_owned()
        }
        other => other.remedy(),
    };
    Failure::new(code, error.to_string()).try_this(remedy)
}

fn client_failure(error: ClientError) -> Failure {
    match error {
        ClientError::Mds(error) => mds_failure(&error),
        ClientError::Config(message) => Failure::new(Code::Config, message),
        ClientError::NoSpace => Failure::new(Code::NoSpace, error.to_string()),
        ClientError::Fenced { .. } | ClientError::Stalled | ClientError::Refused { .. } => {
            Failure::new(Code::Conflict, error.to_string())
        }
        ClientError::Corrupt { .. } => Failure::new(Code::Internal, error.to_string()),
    }
}
