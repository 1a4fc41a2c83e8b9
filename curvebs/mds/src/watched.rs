//! A store that remembers that it failed, so that a leader whose disk is bad hands over instead of refusing everybody.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use curve_io::BoxFuture;
use curve_kv::{KeyRange, KvError, Reader, Row, Store, WriteBatch};

/// Rows read at once by `verify`.
const PAGE: usize = 4096;

/// Notes the first error of the store below.
pub(crate) struct Watched {
    inner: Arc<dyn Store>,
    failed: Arc<AtomicBool>,
}

impl Watched {
    pub(crate) fn new(inner: Arc<dyn Store>, failed: Arc<AtomicBool>) -> Self {
        Self { inner, failed }
    }
}

fn note<T>(failed: &AtomicBool, result: Result<T, KvError>) -> Result<T, KvError> {
    if let Err(error) = &result
        && !failed.swap(true, Ordering::AcqRel)
    {
        tracing::error!(%error, "the state store failed: this MDS must be rebuilt from the others");
    }
    result
}

impl Reader for Watched {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        note(&self.failed, self.inner.get(key))
    }

    fn scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<Row>, KvError> {
        note(&self.failed, self.inner.scan(range, limit))
    }

    fn applied(&self) -> Result<Option<Bytes>, KvError> {
        note(&self.failed, self.inner.applied())
    }
}

impl Store for Watched {
    fn write(&self, batch: WriteBatch, applied: Option<&[u8]>) -> Result<(), KvError> {
        note(&self.failed, self.inner.write(batch, applied))
    }

    fn flush(&self) -> BoxFuture<'static, Result<(), KvError>> {
        let (flush, failed) = (self.inner.flush(), self.failed.clone());
        Box::pin(async move { note(&failed, flush.await) })
    }

    fn view(&self) -> Result<Arc<dyn Reader>, KvError> {
        note(&self.failed, self.inner.view())
    }
}

/// Reads every row once, so that damage is found at the start and not in the middle of a request.
pub(crate) fn verify(store: &dyn Reader) -> Result<u64, KvError> {
    let (mut range, mut count) = (KeyRange::all(), 0);
    loop {
        let rows = store.scan(&range, PAGE)?;
        count += rows.len() as u64;
        match rows.last() {
            Some((key, _)) if rows.len() == PAGE => range = range.after(key),
            _ => return Ok(count),
        }
    }
}

#[cfg(test)]
mod tests {
    use curve_io::sim::{DiskFault, SimDisk, SimDiskConfig};
    use curve_kv::MemStore;

    use super::*;

    #[tokio::test]
    async fn an_error_is_remembered() {
        let disk = SimDisk::new(SimDiskConfig::default());
        let failed = Arc::new(AtomicBool::new(false));
        let store = Watched::new(Arc::new(MemStore::open(disk.mount(), "kv").await.unwrap()), failed.clone());
        let mut batch = WriteBatch::new();
        (0..10_000u32).for_each(|n| batch.put(n.to_be_bytes().to_vec(), "x"));
        store.write(batch, None).unwrap();
        assert_eq!(verify(&store).unwrap(), 10_000);
        store.flush().await.unwrap();
        assert!(!failed.load(Ordering::Acquire));
        disk.set_fault(DiskFault::Syncs);
        assert!(store.flush().await.is_err());
        assert!(failed.load(Ordering::Acquire));
    }
}
