//! What callers get back and hand in: read results, changes, parts of chunks, reports.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use curve_io::File;
use curve_types::{ChunkKey, LogIndex, VolumeId};

/// The verified content of a range. Parts follow each other without gaps; holes are slices of one shared zero buffer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadData {
    /// The bytes, in order; `parts` together are as long as the range asked for.
    pub parts: Vec<Bytes>,
    /// One checksum a block; [`crate::HOLE`] for a block of zeros that holds no data.
    pub crcs: Vec<u32>,
}

/// Where the content of a range is, for a reader who takes the bytes from the file himself and verifies them.
#[derive(Clone)]
pub struct Located {
    /// The chunk's file.
    pub file: Arc<dyn File>,
    /// Offset in the file and blocks of each run that lies together. In order; together all blocks that are not holes.
    pub runs: Vec<(u64, u32)>,
    /// As in [`ReadData`]. A block that has another checksum was changed since, or is bad; only a read can tell.
    pub crcs: Vec<u32>,
}

impl fmt::Debug for Located {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Located").field("runs", &self.runs).field("crcs", &self.crcs).finish_non_exhaustive()
    }
}

/// A run of blocks that are all data or all holes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Bytes.
    pub len: u32,
    /// Whether the run holds data; otherwise it reads as zeros.
    pub allocated: bool,
}

/// Why a block cannot be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadCause {
    /// Its bytes do not have the checksum that the table says.
    Checksum,
    /// The disk could not read it.
    Unreadable,
}

/// A block that this replica cannot serve and another one may heal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadBlock {
    /// Which block of the chunk, counted from 0.
    pub block: u32,
    /// The table's checksum when the damage was seen; to be handed back in [`BlockRepair::reported`].
    pub reported: u32,
    /// What is wrong.
    pub cause: BadCause,
}

/// One block fetched from a healthy replica whose applied index is at least ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockRepair {
    /// Which block of the chunk.
    pub block: u32,
    /// What [`BadBlock::reported`] said. The repair is skipped when the block was changed since.
    pub reported: u32,
    /// Checksum of `data`, or [`crate::HOLE`].
    pub crc: u32,
    /// One block, or nothing for a hole.
    pub data: Bytes,
}

/// A chunk that exists and changed after the index asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkChange {
    /// The chunk.
    pub key: ChunkKey,
    /// Index of its last change.
    pub last_changed: LogIndex,
    /// Whether the chunk is gone: it reads as zeros.
    pub deleted: bool,
}

/// A volume that was deleted as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VolumeDeletion {
    /// The volume.
    pub volume: VolumeId,
    /// Index of the deletion.
    pub index: LogIndex,
}

/// What happened in a copyset after an index: enough to bring a stale replica to this one's state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Changed and deleted chunks, by key. When `full`, every existing chunk.
    pub chunks: Vec<ChunkChange>,
    /// Deleted volumes, by id.
    pub volumes: Vec<VolumeDeletion>,
    /// Deletions at or below this index are no longer remembered one by one.
    pub horizon: LogIndex,
    /// Whether the index asked about lies below the horizon, so that whatever is not listed must be dropped.
    pub full: bool,
}

/// Whole extents whose bytes a large write has put into one plane of the chunk file, durably, before its entry reached
/// the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlacedRun {
    /// The first extent.
    pub first: u32,
    /// How many there are.
    pub extents: u32,
    /// Whether they are in the second plane.
    pub second: bool,
}

/// Which extent of a chunk: the unit in which changes are remembered (64 KiB, more for chunks above 16 MiB).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExtentIndex(pub u32);

/// Changed blocks of one chunk on their way to another replica: whole extents, holes without bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChunkPart {
    /// First block of the part.
    pub first_block: u32,
    /// A checksum for each block; [`crate::HOLE`] for holes.
    pub crcs: Vec<u32>,
    /// The bytes of all blocks that are not holes, in order.
    pub data: Vec<Bytes>,
    /// Last change of each extent that the part covers, in order.
    pub changed: Vec<LogIndex>,
    /// Where to go on; nothing when the chunk is done.
    pub next: Option<ExtentIndex>,
}

/// A fingerprint of a chunk's table: equal on two replicas with the same content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChunkDigest {
    /// Over block numbers and checksums of all blocks that are not holes; 0 for a chunk without data.
    pub hash: u64,
    /// Blocks that are not holes.
    pub blocks: u32,
    /// Index of the last change.
    pub last_changed: LogIndex,
}

/// Where the next scrub step begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ScrubCursor {
    /// The chunk, or the first one after it if it is gone.
    pub key: ChunkKey,
    /// First block to read.
    pub block: u32,
}

/// What one scrub step saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubReport {
    /// Bytes read and compared.
    pub bytes: u64,
    /// Chunks finished in this step.
    pub chunks: u64,
    /// Damage, to be repaired from another replica.
    pub bad: Vec<(ChunkKey, Vec<BadBlock>)>,
    /// Where to go on; nothing at the end of the copyset.
    pub next: Option<ScrubCursor>,
}

/// Room in a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreSpace {
    /// Bytes of the file system.
    pub total: u64,
    /// Bytes for new chunks: free in the file system plus the pool.
    pub free: u64,
    /// Bytes of `free` that are in pool files.
    pub pool: u64,
    /// Whether `free` is below the reserve, so that new allocations are refused.
    pub reserve_low: bool,
}

/// What one maintenance step did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Maintained {
    /// Pool files made.
    pub pool_files_made: usize,
    /// Whether the pool has its full size or cannot grow for lack of room.
    pub pool_done: bool,
}

/// Counters and sizes of one copyset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopysetStats {
    /// Chunks with a file.
    pub chunks: usize,
    /// Chunks whose table is in memory.
    pub cached_chunks: usize,
    /// Chunks changed since the last sync.
    pub dirty_chunks: usize,
    /// Remembered deletions of chunks and volumes.
    pub tombstones: usize,
    /// Blocks found bad since the store was opened (a block may be counted again).
    pub bad_blocks: u64,
    /// Blocks healed by `repair`.
    pub repaired_blocks: u64,
    /// Chunks whose header, table or file was damaged and rebuilt as far as its data could be verified.
    pub salvaged_chunks: u64,
    /// Completed syncs over the copyset's life.
    pub syncs: u64,
}
