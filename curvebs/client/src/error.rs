//! What a client can be told; each variant is one thing that its caller does.

use curve_blockdev::BlockError;
use curve_proto::MdsError;
use curve_types::Epoch;
use thiserror::Error;

/// Why a cluster call or an I/O failed.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The MDS answered, and refused. Its code, cause and remedy are in the error.
    #[error(transparent)]
    Mds(#[from] MdsError),
    /// Another holder has taken the volume over.
    #[error("fenced: another holder has opened the volume (copysets accept only {held} and later)")]
    Fenced {
        /// The lowest epoch accepted.
        held: Epoch,
    },
    /// This process did not run for a while, and what it had under way was given up: its callers may have gone elsewhere.
    #[error("given up: this process did not run for a while; open the volume anew")]
    Stalled,
    /// The disks are full.
    #[error("no space left on the chunkservers that hold this range")]
    NoSpace,
    /// No replica has good bytes.
    #[error("corrupt on every replica: {message}")]
    Corrupt {
        /// Where.
        message: String,
    },
    /// A chunkserver says that the request makes no sense.
    #[error("refused: {message}")]
    Refused {
        /// Why.
        message: String,
    },
    /// The configuration cannot be used.
    #[error("{0}")]
    Config(String),
}

impl ClientError {
    /// Whether trying again later may help. I/O waits on these.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Mds(
                MdsError::Unavailable { .. } | MdsError::InProgress { .. } | MdsError::NotLeader { .. },
            ) => true,
            // An allocation that finds too few chunkservers up may find them a moment later; devices queue.
            Self::Mds(MdsError::NotEnoughChunkservers { .. }) => true,
            Self::Mds(_) => false,
            Self::Fenced { .. }
            | Self::Stalled
            | Self::NoSpace
            | Self::Corrupt { .. }
            | Self::Refused { .. }
            | Self::Config(_) => false,
        }
    }

    /// The block device's word for an I/O on `offset..offset+len` that ended with this error.
    pub(crate) fn into_block_error(self, offset: u64, len: u64) -> BlockError {
        match self {
            Self::Fenced { .. } | Self::Stalled => BlockError::Fenced,
            Self::NoSpace => BlockError::NoSpace,
            Self::Corrupt { .. } => BlockError::Corrupt { offset, len },
            Self::Mds(MdsError::NoSpace { .. }) => BlockError::NoSpace,
            Self::Mds(MdsError::Fenced { .. }) => BlockError::Fenced,
            Self::Mds(_) | Self::Refused { .. } | Self::Config(_) => BlockError::Io(self.to_string()),
        }
    }
}
