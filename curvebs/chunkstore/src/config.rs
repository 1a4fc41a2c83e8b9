//! What the owner of a store decides.

use curve_types::Geometry;

/// Sizes and limits of one store. The geometry is written to the disk when the store is made and must be the same at
/// every later open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkStoreConfig {
    /// Block, chunk and segment bytes.
    pub geometry: Geometry,
    /// Chunk files to keep preallocated. Also the most that deleted chunks leave behind for reuse; what is above goes
    /// back to the file system. 0 allocates every file when it is needed.
    pub pool_files: usize,
    /// Bytes that admission keeps free for what was already agreed on (log replay, applies in flight).
    pub reserve_bytes: u64,
    /// Chunks whose table and file handle are kept in memory and open, over all copysets. Dirty chunks may exceed it
    /// until the next sync. One costs about 18 KiB and a file descriptor.
    pub cached_chunks_max: usize,
}

impl Default for ChunkStoreConfig {
    fn default() -> Self {
        Self {
            geometry: Geometry::default(),
            pool_files: 32,
            reserve_bytes: 1 << 30,
            cached_chunks_max: 4096,
        }
    }
}
