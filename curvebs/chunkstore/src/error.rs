//! One error a operation; a variant for each thing a caller does.

use std::io;

use curve_types::{ChunkKey, CopysetId, Geometry, GeometryError};
use thiserror::Error;

use crate::data::BadBlock;

/// Why a store could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The directory was made with other sizes: a configuration mistake.
    #[error("store was made with {found:?}, the configuration says {wanted:?}")]
    OtherGeometry {
        /// On the disk.
        found: Geometry,
        /// In the configuration.
        wanted: Geometry,
    },
    /// The geometry is one that chunk files cannot have.
    #[error("chunk files need 4 KiB blocks and chunks of 4 KiB to 256 MiB, not {0:?}")]
    Unsupported(Geometry),
    /// The directory was written by a later release.
    #[error("store has format version {found}, this program knows up to {known}")]
    TooNew {
        /// On the disk.
        found: u32,
        /// The latest known.
        known: u32,
    },
    /// The `format` file is damaged; the replica must be rebuilt from the others.
    #[error("format file is damaged: {0}")]
    Damaged(String),
    /// The disk failed.
    #[error("cannot open the store: {0}")]
    Io(#[from] io::Error),
}

/// Why a copyset cannot be had.
#[derive(Debug, Error)]
pub enum CopysetError {
    /// There is no such copyset here.
    #[error("{0} is not in this store")]
    Unknown(CopysetId),
    /// Its manifest or records are damaged beyond recovery here: remove it and let it be rebuilt from the others.
    #[error("{copyset} is damaged: {cause}")]
    Damaged {
        /// Which.
        copyset: CopysetId,
        /// What was seen.
        cause: String,
    },
    /// The disk failed.
    #[error("copyset directory: {0}")]
    Io(#[from] io::Error),
}

/// A new allocation was refused because the rest is reserved for what was already agreed on.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[error("no space: {free} bytes left, {reserve} of them reserved")]
pub struct NoSpace {
    /// Bytes left, with the pool.
    pub free: u64,
    /// Bytes that admission keeps free.
    pub reserve: u64,
}

/// Why a change was not applied.
#[derive(Debug, Error)]
pub enum WriteError {
    /// The range is not whole blocks inside the chunk. The same on every replica.
    #[error("bad range: {0}")]
    BadRange(#[from] GeometryError),
    /// Bytes and checksums do not belong together, or a checksum is 0, which means hole. The same on every replica.
    #[error("{bytes} bytes with {crcs} checksums")]
    BadLength {
        /// Bytes handed in.
        bytes: u64,
        /// Checksums handed in.
        crcs: usize,
    },
    /// The disk failed (a full disk at this point is one too). The store is failed from now on; this replica must stop.
    #[error("chunk store failed: {0}")]
    Io(#[from] io::Error),
}

/// Why a read brought no data.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The range is not whole blocks inside the chunk.
    #[error("bad range: {0}")]
    BadRange(#[from] GeometryError),
    /// Some blocks are damaged here; read from another replica and repair.
    #[error("{key}: {} bad blocks, first {:?}", bad.len(), bad.first())]
    Corrupt {
        /// The chunk.
        key: ChunkKey,
        /// All bad blocks of the range.
        bad: Vec<BadBlock>,
    },
    /// The store failed.
    #[error("chunk store failed: {0}")]
    Io(#[from] io::Error),
}

/// Why a part of a chunk was not taken.
#[derive(Debug, Error)]
pub enum ImportError {
    /// The part does not fit the chunk or itself: the sender is broken.
    #[error("malformed part: {0}")]
    Malformed(&'static str),
    /// Bytes do not have the checksum they came with.
    #[error("block {block} of the part has a wrong checksum")]
    Checksum {
        /// Which block of the chunk.
        block: u32,
    },
    /// The disk failed; see [`WriteError::Io`].
    #[error("chunk store failed: {0}")]
    Io(#[from] io::Error),
}

/// Why a repair was not made.
pub type RepairError = ImportError;

/// Why a record cannot be had.
#[derive(Debug, Error)]
pub enum RecordError {
    /// Its bytes are damaged.
    #[error("record {name} is damaged: {cause}")]
    Damaged {
        /// Which.
        name: String,
        /// What was seen.
        cause: String,
    },
    /// The disk failed.
    #[error("record: {0}")]
    Io(#[from] io::Error),
}
