//! A bucket whose requests are counted.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use curvefs_types::Meter;

use crate::bucket::{ObjectFuture, ObjectStore};
use crate::content::Content;

/// What was asked of a store: every attempt counts, repeated ones too.
#[derive(Default, Debug)]
pub struct StoreMeters {
    /// Objects put.
    pub put: Meter,
    /// Ranges of objects read.
    pub get: Meter,
    /// Requests that delete.
    pub delete: Meter,
}

/// Decorates a bucket with counters, which buckets may share.
pub struct CountedStore {
    inner: Arc<dyn ObjectStore>,
    meters: Arc<StoreMeters>,
}

impl CountedStore {
    /// Counts what is asked of a bucket.
    pub fn new(inner: Arc<dyn ObjectStore>, meters: Arc<StoreMeters>) -> Self {
        Self { inner, meters }
    }
}

impl ObjectStore for CountedStore {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn put(&self, object: String, content: Content) -> ObjectFuture<'_, ()> {
        Box::pin(async move {
            let (metering, len) = (self.meters.put.begin(), content.len());
            self.inner.put(object, content).await?;
            metering.done(len);
            Ok(())
        })
    }

    fn get(&self, object: String, range: Range<u64>) -> ObjectFuture<'_, Vec<Bytes>> {
        Box::pin(async move {
            let metering = self.meters.get.begin();
            let pieces = self.inner.get(object, range).await?;
            metering.done(pieces.iter().map(|piece| piece.len() as u64).sum());
            Ok(pieces)
        })
    }

    fn delete(&self, objects: Vec<String>) -> ObjectFuture<'_, ()> {
        Box::pin(async move {
            let metering = self.meters.delete.begin();
            self.inner.delete(objects).await?;
            metering.done(0);
            Ok(())
        })
    }

    fn list(&self, prefix: String) -> ObjectFuture<'_, Vec<String>> {
        self.inner.list(prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::DataError;
    use crate::memory::{Fault, MemoryBucket};

    #[tokio::test]
    async fn every_attempt_counts() {
        let (bucket, meters) = (Arc::new(MemoryBucket::new()), Arc::new(StoreMeters::default()));
        let store = CountedStore::new(bucket.clone(), meters.clone());
        bucket.inject(Fault::Fail { calls: 1, error: DataError::Slow });
        assert_eq!(store.put("a".into(), Bytes::from_static(b"12345").into()).await, Err(DataError::Slow));
        store.put("a".into(), Bytes::from_static(b"12345").into()).await.unwrap();
        assert_eq!(store.get("a".into(), 1..3).await.unwrap().concat(), b"23");
        store.delete(vec!["a".into()]).await.unwrap();
        assert!(store.get("a".into(), 1..3).await.is_err());
        let counted = [&meters.put, &meters.get, &meters.delete].map(|meter| {
            let read = meter.read();
            (read.calls, read.failures, read.bytes, read.under_way)
        });
        assert_eq!(counted, [(2, 1, 5, 0), (2, 1, 2, 0), (1, 0, 0, 0)]);
    }
}
