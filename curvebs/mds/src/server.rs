//! An MDS process: the parts of [`crate::MdsNode`] made real.

use thiserror::Error;

use crate::config::{ConfigRefusal, MdsConfig};

/// Why an MDS did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The configuration makes no sense.
    #[error("configuration: {0}")]
    Config(#[from] ConfigRefusal),
    /// A part could not be opened or a port not be served.
    #[error("{what}: {cause}")]
    Part {
        /// Which part, with its path or address.
        what: String,
        /// What it said.
        cause: String,
    },
}

/// A running MDS.
pub struct MdsServer {}

impl MdsServer {
    /// Opens the data directory and serves: frames and gRPC at the member's addresses, HTTP where it is configured.
    /// Must be called inside a tokio runtime.
    pub async fn start(config: MdsConfig) -> Result<Self, StartError> {
        config.check()?;
        unimplemented!()
    }

    /// Hands leadership over and stops.
    pub async fn shutdown(self) {
        unimplemented!()
    }
}
