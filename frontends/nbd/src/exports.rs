//! What a server serves.

use std::sync::Arc;

use curve_blockdev::BlockDevice;
use tracing::warn;

use crate::core::{Catalog, ExportInfo};

/// A device and the name it is served under.
#[derive(Clone)]
pub struct Export {
    /// The volume's path, with or without its leading slash.
    pub name: String,
    /// For people.
    pub description: String,
    /// What requests go to.
    pub device: Arc<dyn BlockDevice>,
}

/// All exports of a server. Does not change while it runs.
pub struct Exports {
    exports: Vec<Export>,
}

impl Exports {
    /// The first is the one that the empty name selects.
    pub fn new(exports: Vec<Export>) -> Self {
        Self { exports }
    }

    /// What a client that connects now can choose from.
    pub fn catalog(&self) -> Catalog {
        let info = |export: &Export| ExportInfo {
            name: export.name.clone(),
            description: export.description.clone(),
            shape: export.device.shape(),
        };
        Catalog::new(self.exports.iter().map(info).collect())
    }

    /// The device at a place of the catalog.
    pub fn device(&self, index: usize) -> &dyn BlockDevice {
        &*self.exports[index].device
    }

    /// Gives every device up. All are tried; what fails is logged.
    pub async fn close(&self) {
        for export in &self.exports {
            if let Err(error) = export.device.close().await {
                warn!(export = export.name, %error, "the device did not close in order");
            }
        }
    }
}
