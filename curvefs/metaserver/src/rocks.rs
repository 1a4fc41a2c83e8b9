//! Rows in RocksDB.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use curve_io::BoxFuture;
use curve_kv::{KvError, RocksCache, RocksOptions, RocksStore, Store};

use crate::generations::StoreFactory;

/// RocksDB in directories of the data disk, with one cache for all.
#[derive(Clone, Debug)]
pub struct RocksFactory {
    root: PathBuf,
    limits: RocksOptions,
}

impl RocksFactory {
    /// Stores below `root`, the root of the data disk. All together keep at most `cache_bytes` of what was read in memory,
    /// each twice `write_buffer_bytes` of what was changed.
    pub fn new(root: PathBuf, cache_bytes: usize, write_buffer_bytes: usize) -> Result<Self, KvError> {
        let cache = Some(RocksCache::new(cache_bytes)?);
        Ok(Self { root, limits: RocksOptions { write_buffer_bytes, cache } })
    }
}

impl StoreFactory for RocksFactory {
    fn open<'a>(&'a self, dir: &'a Path) -> BoxFuture<'a, Result<Arc<dyn Store>, KvError>> {
        let (path, limits) = (self.root.join(dir), self.limits.clone());
        Box::pin(async move {
            let opened = tokio::task::spawn_blocking(move || RocksStore::open_with(&path, &limits)).await;
            let store = opened.unwrap_or_else(|error| Err(KvError::Io(error.to_string())))?;
            let store: Arc<dyn Store> = Arc::new(store);
            Ok(store)
        })
    }
}

#[cfg(test)]
mod tests {
    use curve_io::{Disk, RealDisk};
    use curve_kv::{Reader, WriteBatch};

    use super::*;
    use crate::generations::GenerationStore;

    #[tokio::test]
    async fn generations_follow_each_other_on_a_real_disk() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Arc::new(RealDisk::new(dir.path().to_owned()));
        let factory = Arc::new(RocksFactory::new(dir.path().to_owned(), 1 << 20, 1 << 20).unwrap());
        let open = || GenerationStore::open(disk.clone(), "partitions/7".into(), factory.clone());
        let store = open().await.unwrap();
        let batch = |from: u32| {
            let mut batch = WriteBatch::new();
            (from..from + 5000).for_each(|n| batch.put(n.to_be_bytes().to_vec(), vec![n as u8; 500]));
            batch
        };
        store.write(batch(0), Some(b"old")).unwrap();
        store.flush().await.unwrap();
        let view = store.view().unwrap();
        let next = store.begin().await.unwrap();
        next.add(batch(10_000)).unwrap();
        next.add(batch(15_000)).unwrap();
        store.adopt(next, b"new").await.unwrap();
        assert!(view.get(&0u32.to_be_bytes()).unwrap().is_some(), "who looked before still sees it");
        drop((view, store));
        let store = open().await.unwrap();
        assert_eq!(store.applied().unwrap(), Some("new".into()));
        assert_eq!(store.scan(&curve_kv::KeyRange::all(), usize::MAX >> 1).unwrap().len(), 10_000);
        let names: Vec<_> =
            disk.list(Path::new("partitions/7")).unwrap().into_iter().map(|entry| entry.name).collect();
        assert_eq!(names, ["current", "rows-2"]);
    }
}
