//! Where the devices come from: the only place that knows there is a cluster.

use std::sync::Arc;

use curve_blockdev::BlockDevice;
use thiserror::Error;

use crate::cli::Serve;

/// Why a volume cannot be served.
#[derive(Debug, Error)]
pub enum VolumeError {
    /// No cluster client in this build.
    #[error("this build serves memory devices only; give --memory SIZE")]
    NoClient,
}

/// Opens the volumes of the command line, in its order.
pub async fn open(_serve: &Serve) -> Result<Vec<Arc<dyn BlockDevice>>, VolumeError> {
    Err(VolumeError::NoClient)
}
