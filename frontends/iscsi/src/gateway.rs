//! A gateway of the cluster (`curve-iscsi serve --gateway NAME`): serves what the MDS group says, beside any number of other gateways.
//!
//! | part | what |
//! |---|---|
//! | `follow` | polls the MDS, keeps targets and units as it says, publishes the catalog |
//! | `unit` | one unit: volume, seat, reservations to enforce |
//! | `store` | changes of reservations that hold on all gateways |
//! | `device` | a volume that can be opened anew below a unit |
//! | `published` | the MDS's targets as login sees them |
//! | `health` | what is wrong |
//!
//! It opens no socket and no file: the cluster is given to it, and whoever has connections takes the catalog from it. So the
//! simulator runs it as it is.

mod device;
mod follow;
mod health;
mod published;
mod store;
mod unit;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::catalog::CatalogSource;
use crate::core::{Account, Credentials, Portal, Secret};
use crate::sessions::Sessions;
use curve_client::Cluster;
use curve_client::mds::{IscsiGatewayKey, MdsError};
use curve_telemetry::HealthSource;
use rand::Rng;
use thiserror::Error;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use follow::Follower;
use health::Problems;
use unit::Shared;

/// Why a gateway cannot begin or go on.
#[derive(Debug, Error)]
pub enum GatewayError {
    /// The MDS refuses it.
    #[error("the cluster does not take gateway {name}: {cause}. {}", cause.remedy())]
    Refused {
        /// Its name.
        name: String,
        /// What the MDS says.
        cause: Box<MdsError>,
    },
    /// Another process has the name.
    #[error(
        "another process serves as gateway {0} now, and this one is shut out; give each gateway a name of its own"
    )]
    Replaced(String),
}

/// What a gateway is started with.
pub struct GatewayOptions {
    /// Its name, which no other process may serve under.
    pub name: String,
    /// Where initiators reach it.
    pub portals: Vec<Portal>,
    /// Whether to measure every operation.
    pub traced: bool,
}

/// A gateway that follows the cluster.
pub struct Gateway {
    catalog: CatalogSource,
    problems: Arc<Problems>,
    ready: watch::Receiver<bool>,
    replaced: oneshot::Receiver<()>,
    stop: watch::Sender<bool>,
    follower: JoinHandle<()>,
    cluster: Arc<Cluster>,
    key: IscsiGatewayKey,
    name: String,
}

impl Gateway {
    /// Enrolls and begins to follow.
    pub async fn start(
        cluster: Arc<Cluster>,
        options: GatewayOptions,
        sessions: Arc<Sessions>,
    ) -> Result<Self, GatewayError> {
        let GatewayOptions { name, portals: own, traced } = options;
        let addresses: Vec<String> = own.iter().filter_map(|portal| portal.address.clone()).collect();
        if addresses.len() < own.len() {
            warn!(
                "a wildcard address means nothing to initiators of other gateways; add --advertise HOST:PORT"
            );
        }
        let incarnation = rand::rng().random();
        let enrolled = cluster.mds().iscsi_enroll(&name, incarnation, &addresses, cluster.identity()).await;
        let (key, lease) =
            enrolled.map_err(|cause| GatewayError::Refused { name: name.clone(), cause: cause.into() })?;
        info!(gateway = name, number = key.number, "enrolled");
        let own = own.into_iter().map(|portal| Portal { group: key.number, ..portal }).collect();
        let (publisher, catalog) = watch::channel(Arc::default());
        let (ready_in, ready) = watch::channel(false);
        let (replaced_in, replaced) = oneshot::channel();
        let (stop, stopping) = watch::channel(false);
        let problems = Arc::new(Problems::default());
        let shared = Shared {
            cluster: cluster.clone(),
            gateway: key,
            polls: Arc::new(AtomicU64::new(0)),
            problems: problems.clone(),
            traced,
        };
        let follower = Follower::new(shared, own, sessions, publisher, unguessable(), lease);
        let follower = tokio::spawn(follower.run(stopping, ready_in, replaced_in));
        Ok(Self { catalog, problems, ready, replaced, stop, follower, cluster, key, name })
    }

    /// What is served.
    pub fn catalog(&self) -> CatalogSource {
        self.catalog.clone()
    }

    /// For `/healthz`.
    pub fn health(&self) -> Arc<dyn HealthSource> {
        self.problems.clone()
    }

    /// Completes when every unit that there was at the start has been tried.
    pub async fn ready(&mut self) {
        // An error is a follower that has ended, which `replaced` tells.
        let _ = self.ready.wait_for(|ready| *ready).await;
    }

    /// Completes when this gateway's name was taken over.
    pub async fn replaced(&mut self) -> GatewayError {
        // The follower ends for no other reason before it is told to.
        let _ = (&mut self.replaced).await;
        GatewayError::Replaced(self.name.clone())
    }

    /// Ends everything without waiting: what a process that is killed leaves behind is nobody's task to give up.
    /// For the simulator, where tasks outlive their host.
    pub fn abandon(self) {
        self.stop.send_replace(true);
    }

    /// Gives every unit up, and the name's lease. No session may be left.
    pub async fn close(self) {
        self.stop.send_replace(true);
        if self.follower.await.is_err() {
            warn!("the gateway did not end in order");
        }
        if let Err(error) = self.cluster.mds().iscsi_withdraw(self.key).await {
            warn!(%error, "the cluster does not know yet that this gateway has stopped");
        }
    }
}

/// What is asked for in the place of secrets that are not to be had.
fn unguessable() -> Credentials {
    let secret: [u8; 32] = rand::rng().random();
    let secret = Secret::new(secret.to_vec()).expect("32 bytes are a secret");
    Credentials::new(Account { user: "locked".to_owned(), secret }, None).expect("they go together")
}
