//! What a gateway serves, and where it learns that.

use std::sync::Arc;

use curve_scsi::TargetDevice;
use tokio::sync::watch;

use crate::core::{Catalog as LoginCatalog, Credentials, NodeName, Portal, TargetEntry};

/// A target: who may log in to it, and what they find there.
#[derive(Clone, Debug)]
pub struct Target {
    /// For login.
    pub entry: TargetEntry,
    /// For commands.
    pub device: Arc<TargetDevice>,
}

/// All targets at one moment. A value never changes; whoever manages targets publishes another one.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    login: Arc<LoginCatalog>,
    devices: Vec<Arc<TargetDevice>>,
}

/// Where a server gets its catalog from: the command line publishes one and leaves it at that.
pub type CatalogSource = watch::Receiver<Arc<Catalog>>;

impl Catalog {
    /// `targets` at `portals`. `discovery` is what an initiator may be asked for that insists on CHAP in discovery.
    pub fn new(targets: Vec<Target>, portals: Vec<Portal>, discovery: Option<Credentials>) -> Self {
        let devices = targets.iter().map(|target| target.device.clone()).collect();
        let targets = targets.into_iter().map(|target| target.entry).collect();
        Self { login: Arc::new(LoginCatalog { targets, portals, discovery }), devices }
    }

    /// What login and discovery need.
    pub fn login(&self) -> &Arc<LoginCatalog> {
        &self.login
    }

    /// The name and the units of a target, by its place in [`Catalog::login`].
    pub fn target(&self, index: usize) -> (&NodeName, &Arc<TargetDevice>) {
        (&self.login.targets[index].name, &self.devices[index])
    }
}
