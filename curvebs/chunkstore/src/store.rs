//! A directory of chunk files on one disk.

use std::path::Path;
use std::sync::Arc;

use curve_io::Disk;
use curve_types::{CopysetId, Geometry};

use crate::config::ChunkStoreConfig;
use crate::copyset::CopysetStore;
use crate::data::{Maintained, StoreSpace};
use crate::error::{CopysetError, OpenError};

/// All copysets of one disk, and the pool of files they share.
pub struct ChunkStore {}

impl ChunkStore {
    /// Opens the store in `dir`, making it when the directory is empty. Reads the manifests, not the chunks.
    pub async fn open(disk: Arc<dyn Disk>, dir: &Path, config: ChunkStoreConfig) -> Result<Arc<Self>, OpenError> {
        unimplemented!("{:?} {dir:?} {config:?}", disk.space())
    }
    /// The sizes the store was made with.
    pub fn geometry(&self) -> Geometry {
        unimplemented!()
    }
    /// A copyset that exists.
    pub fn copyset(&self, id: CopysetId) -> Result<Arc<CopysetStore>, CopysetError> {
        unimplemented!("{id}")
    }
    /// Makes a copyset, durably; an existing one is returned as it is. A damaged one must be removed first.
    pub async fn create_copyset(&self, id: CopysetId) -> Result<Arc<CopysetStore>, CopysetError> {
        unimplemented!("{id}")
    }
    /// The healthy copysets, by id.
    pub fn list_copysets(&self) -> Vec<CopysetId> {
        unimplemented!()
    }
    /// The copysets that could not be opened, with the cause.
    pub fn damaged_copysets(&self) -> Vec<(CopysetId, String)> {
        unimplemented!()
    }
    /// Removes a copyset and all its chunks, healthy or damaged; no error when there is none.
    pub async fn remove_copyset(&self, id: CopysetId) -> Result<(), CopysetError> {
        unimplemented!("{id}")
    }
    /// Room for new chunks, as of now.
    pub fn space(&self) -> StoreSpace {
        unimplemented!()
    }
    /// Whether a write or sync failed. Final: the process must stop using the disk.
    pub fn failed(&self) -> bool {
        unimplemented!()
    }
    /// What failed first.
    pub fn failure(&self) -> Option<String> {
        unimplemented!()
    }
    /// One step of background work: makes a few pool files, looks how much room there is.
    pub async fn maintain(&self) -> std::io::Result<Maintained> {
        unimplemented!()
    }
    /// Runs `maintain` for ever; to be spawned by the owner and aborted at shutdown.
    pub async fn run_maintenance(self: Arc<Self>) {
        unimplemented!()
    }
}
