//! Why a log cannot be opened or read.

use std::io;

use thiserror::Error;

/// Why a log cannot be opened or read. Each variant is something an operator decides differently.
#[derive(Debug, Error)]
pub enum LogError {
    /// The disk refused an operation.
    #[error("log: {operation} {file}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The file or directory, relative to the disk's root.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// Bytes that were durable are damaged. The replicas on this log must be rebuilt from others.
    #[error("log: {file} is corrupt at offset {offset}: {reason}")]
    Corrupt {
        /// The segment file, relative to the disk's root.
        file: String,
        /// Where the damage is.
        offset: u64,
        /// What is wrong there.
        reason: String,
    },
    /// A segment between the oldest and the newest is not there.
    #[error("log: {dir} has no segment with sequence {sequence} although later ones need it")]
    MissingSegment {
        /// The log's directory.
        dir: String,
        /// The sequence number that is missing.
        sequence: u64,
    },
    /// The log was written by a program with another format.
    #[error("log: {file} has format version {found}; this program knows version {known}")]
    Version {
        /// The segment file.
        file: String,
        /// Its version.
        found: u16,
        /// Ours.
        known: u16,
    },
    /// There is no room for the first segments.
    #[error("log: no room in {dir} for a segment of {bytes} bytes")]
    NoSpace {
        /// The log's directory.
        dir: String,
        /// What one segment takes.
        bytes: u64,
    },
    /// The configuration contradicts itself.
    #[error("log: {0}")]
    Config(String),
}

impl From<LogError> for io::Error {
    fn from(error: LogError) -> Self {
        let kind = match &error {
            LogError::Io { source, .. } => source.kind(),
            LogError::Corrupt { .. } | LogError::MissingSegment { .. } | LogError::Version { .. } => {
                io::ErrorKind::InvalidData
            }
            LogError::NoSpace { .. } => io::ErrorKind::StorageFull,
            LogError::Config(_) => io::ErrorKind::InvalidInput,
        };
        io::Error::new(kind, error)
    }
}
