//! The chunks of one copyset on this disk.

use std::io;

use bytes::Bytes;
use curve_types::{ChunkKey, CopysetId, LogIndex, VolumeId};

use crate::data::{
    BlockRepair, Changes, ChunkDigest, ChunkPart, CopysetStats, Extent, ExtentIndex, ReadData, ScrubCursor, ScrubReport,
};
use crate::error::{ImportError, NoSpace, ReadError, RecordError, RepairError, WriteError};

/// The chunks of one copyset. Changes come from one apply task in log order; reads may come from anywhere.
pub struct CopysetStore {}

#[allow(unused_variables)]
impl CopysetStore {
    /// Which copyset.
    pub fn id(&self) -> CopysetId {
        unimplemented!()
    }
    /// Asked by the leader before it proposes a write or an allocating write_zeroes: refuses what would need new room
    /// when only the reserve is left. Cheap (one atomic load) as long as there is room.
    pub fn admit(&self, key: ChunkKey, offset: u32, len: u32) -> Result<(), NoSpace> {
        unimplemented!()
    }
    /// Loads a chunk's table without blocking the thread. Optional: changes load it themselves, waiting for the disk.
    pub async fn prepare(&self, key: ChunkKey) -> io::Result<()> {
        unimplemented!()
    }
    /// Overwrites whole blocks. `data` together is as long as `crcs` has blocks; checksums are trusted. Lands in the
    /// page cache; durable after [`sync`](Self::sync).
    pub fn write(
        &self,
        key: ChunkKey,
        offset: u32,
        data: &[Bytes],
        crcs: &[u32],
        index: LogIndex,
    ) -> Result<(), WriteError> {
        unimplemented!()
    }
    /// Turns whole blocks into holes and frees their room.
    pub fn discard(&self, key: ChunkKey, offset: u32, len: u32, index: LogIndex) -> Result<(), WriteError> {
        unimplemented!()
    }
    /// Makes whole blocks read as zeros; with `keep_allocated` their room stays (or becomes) theirs.
    pub fn write_zeroes(
        &self,
        key: ChunkKey,
        offset: u32,
        len: u32,
        keep_allocated: bool,
        index: LogIndex,
    ) -> Result<(), WriteError> {
        unimplemented!()
    }
    /// Makes a chunk read as zeros and gives its file back. Leaves a tombstone for replicas that are away.
    pub fn delete_chunk(&self, key: ChunkKey, index: LogIndex) -> Result<(), WriteError> {
        unimplemented!()
    }
    /// Deletes all chunks of a volume and leaves one tombstone.
    pub fn delete_volume(&self, volume: VolumeId, index: LogIndex) -> Result<(), WriteError> {
        unimplemented!()
    }
    /// Reads whole blocks and verifies them. A missing chunk reads as zeros.
    pub async fn read(&self, key: ChunkKey, offset: u32, len: u32) -> Result<ReadData, ReadError> {
        unimplemented!()
    }
    /// Which parts of a range hold data.
    pub async fn extents(&self, key: ChunkKey, offset: u32, len: u32) -> Result<Vec<Extent>, ReadError> {
        unimplemented!()
    }
    /// Makes every change that was made before this call durable. A failure is final for the store. Save the applied
    /// index that held *before* the call only after it returned.
    pub async fn sync(&self) -> io::Result<()> {
        unimplemented!()
    }
    /// Stores a small record crash-safely: after a crash there is the old one or the new one, whole.
    pub async fn save_record(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        unimplemented!()
    }
    /// Loads a record; nothing if it was never saved.
    pub async fn load_record(&self, name: &str) -> Result<Option<Bytes>, RecordError> {
        unimplemented!()
    }
    /// What changed after `index`, for a replica whose applied index that is. From memory.
    pub fn changed_since(&self, index: LogIndex) -> Changes {
        unimplemented!()
    }
    /// Forgets deletions at or below `index`; to be called when every replica has applied it.
    pub fn forget_deletions(&self, index: LogIndex) {
        unimplemented!()
    }
    /// The next extents of a chunk that changed after `since`, at or after `from`, at most about `bytes_max` bytes of
    /// data (at least one extent). `None` when nothing is left. Verified.
    pub async fn export(
        &self,
        key: ChunkKey,
        since: LogIndex,
        from: ExtentIndex,
        bytes_max: usize,
    ) -> Result<Option<ChunkPart>, ReadError> {
        unimplemented!()
    }
    /// Receiver's side of [`changed_since`](Self::changed_since): deletes what the sender deleted and remembers it.
    /// To be followed by `export`/`import` of each chunk that is not deleted. Idempotent.
    pub fn import_changes(&self, changes: &Changes) -> Result<(), ImportError> {
        unimplemented!()
    }
    /// Takes a part made by `export`. Idempotent; verifies every block first; durable after `sync`.
    pub fn import(&self, key: ChunkKey, part: &ChunkPart) -> Result<(), ImportError> {
        unimplemented!()
    }
    /// Replaces bad blocks by those of a replica that has applied at least what this one has. Blocks that changed since
    /// they were reported are skipped. Returns how many were healed.
    pub fn repair(&self, key: ChunkKey, blocks: &[BlockRepair]) -> Result<usize, RepairError> {
        unimplemented!()
    }
    /// Fingerprint of a chunk's content, from its table.
    pub async fn digest(&self, key: ChunkKey) -> Result<ChunkDigest, ReadError> {
        unimplemented!()
    }
    /// All checksums of a chunk, to find what differs after two digests did.
    pub async fn crcs(&self, key: ChunkKey) -> Result<Vec<u32>, ReadError> {
        unimplemented!()
    }
    /// All chunks with a file, by key.
    pub fn chunks(&self) -> Vec<ChunkKey> {
        unimplemented!()
    }
    /// Reads and verifies about `bytes_max` bytes from `cursor` (`None`: the beginning). To be paced by the caller.
    pub async fn scrub_step(&self, cursor: Option<ScrubCursor>, bytes_max: u64) -> Result<ScrubReport, ReadError> {
        unimplemented!()
    }
    /// Counters and sizes.
    pub fn stats(&self) -> CopysetStats {
        unimplemented!()
    }
}
