//! Chunk files on one disk: format, pool, checksums, thin space, catch-up by difference, recovery.
//!
//! One [`ChunkStore`] owns one directory of one disk and hosts many copysets, each a [`CopysetStore`]. The crate knows
//! neither Raft nor the network: it is handed log indexes and keeps them per chunk and per extent, so that a replica
//! that was away can be brought up to date by copying only what changed. Formats are documented byte by byte in
//! `format`; the crash protocol is documented on [`CopysetStore`].

mod checksum;
mod chunk;
mod config;
mod copyset;
mod data;
mod error;
mod format;
#[doc(hidden)]
pub mod fuzzing;
mod layout;
mod ledger;
mod manifest;
mod planes;
mod shared;
mod store;

pub use checksum::{HOLE, block_crc};
pub use config::ChunkStoreConfig;
pub use copyset::{Append, CopysetStore, Plan};
pub use data::{
    BadBlock, BadCause, BlockRepair, Changes, ChunkChange, ChunkDigest, ChunkPart, CopysetStats, Extent,
    ExtentIndex, Located, Maintained, PlacedRun, ReadData, ScrubCursor, ScrubReport, StoreSpace,
    VolumeDeletion,
};
pub use error::{
    CopysetError, ImportError, NoSpace, OpenError, ReadError, RecordError, RepairError, WriteError,
};
pub use layout::extent_bytes;
pub use store::ChunkStore;
