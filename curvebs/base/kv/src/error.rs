//! Why the store failed.

use std::io;

use thiserror::Error;

/// Why the store failed. None of them is a client's fault, and all are final for the process that owns the store.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum KvError {
    /// What is on the disk is not what was written: rebuild this replica from the others.
    #[error("the state store is corrupt: {0}")]
    Corrupt(String),
    /// The disk or the file system refused.
    #[error("the state store failed: {0}")]
    Io(String),
    /// An earlier flush failed. What it left on the disk is unknown, so nothing more is accepted.
    #[error("the state store stopped after a failed flush")]
    Stopped,
}

impl From<KvError> for io::Error {
    fn from(error: KvError) -> Self {
        let kind = match error {
            KvError::Corrupt(_) => io::ErrorKind::InvalidData,
            KvError::Io(_) | KvError::Stopped => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

impl From<io::Error> for KvError {
    fn from(error: io::Error) -> Self {
        Self::Io(error.to_string())
    }
}
