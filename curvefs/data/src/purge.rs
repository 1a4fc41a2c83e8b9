//! The end of a file system's data: every object of it is found by its name and deleted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use curvefs_types::FsId;
use futures::{StreamExt, TryStreamExt, stream};

use crate::bucket::ObjectStore;
use crate::error::DataError;
use crate::options::Patience;
use crate::retry::retry;

/// Prefixes that are worked on at the same time.
const PARALLEL: usize = 16;

/// What the names of a file system's objects begin with: one prefix for each value of the hash before it.
pub fn objects_of(fs: FsId) -> impl Iterator<Item = String> {
    (0..=u8::MAX).map(move |hash| format!("{hash:02x}/{:08x}/", fs.0))
}

/// Deletes every object of a file system, which nobody may use any more, and returns how many there were. `deleted` is told
/// the number so far. After a failure the rest is still there; doing it again goes on.
pub async fn purge(
    buckets: &[Arc<dyn ObjectStore>],
    fs: FsId,
    patience: Patience,
    deleted: impl Fn(u64) + Sync,
) -> Result<u64, DataError> {
    let total = AtomicU64::new(0);
    let work = buckets.iter().flat_map(|bucket| objects_of(fs).map(move |prefix| (bucket, prefix)));
    let (total, deleted) = (&total, &deleted);
    stream::iter(work)
        .map(|(bucket, prefix)| async move {
            purge_prefix(&**bucket, prefix, patience, |count| {
                deleted(total.fetch_add(count, Ordering::Relaxed) + count);
            })
            .await
        })
        .buffer_unordered(PARALLEL)
        .try_collect::<()>()
        .await?;
    Ok(total.load(Ordering::Relaxed))
}

async fn purge_prefix(
    bucket: &dyn ObjectStore,
    prefix: String,
    patience: Patience,
    deleted: impl Fn(u64),
) -> Result<(), DataError> {
    let mut before = None;
    loop {
        let page = retry(patience, || bucket.list(prefix.clone())).await?;
        let Some(first) = page.first() else { return Ok(()) };
        if before.as_ref() == Some(first) {
            let why = format!("{first} is deleted and still listed; does the bucket keep versions?");
            return Err(DataError::Refused { why });
        }
        before = Some(first.clone());
        retry(patience, || bucket.delete(page.clone())).await?;
        deleted(page.len() as u64);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use curvefs_types::{DataBackend, InodeId, WriterId};

    use super::*;
    use crate::backend::ObjectBackend;
    use crate::memory::Fault;
    use crate::options::BackendOptions;

    #[tokio::test(start_paused = true)]
    async fn every_object_goes_and_those_of_others_stay() {
        let options = BackendOptions { object_bytes: 64 << 10, ..BackendOptions::default() };
        let (mine, bucket) = ObjectBackend::in_memory(FsId(7), WriterId(1), options);
        let stays = ObjectBackend::new(vec![bucket.clone()], FsId(8), WriterId(1), options);
        for backend in [&mine, &stays] {
            drop(backend.write(InodeId(2), 0, vec![Bytes::from(vec![1; 32 << 20])]).await.unwrap());
        }
        assert_eq!(bucket.objects().len(), 1024);
        bucket.inject(Fault::Fail { calls: 3, error: DataError::Slow });
        let buckets: Vec<Arc<dyn ObjectStore>> = vec![bucket.clone()];
        let told = AtomicU64::new(0);
        let patience = Patience::Soft(Duration::from_secs(30));
        let purged = purge(&buckets, FsId(7), patience, |so_far| {
            told.fetch_max(so_far, Ordering::Relaxed);
        });
        assert_eq!(purged.await, Ok(512));
        assert_eq!(told.load(Ordering::Relaxed), 512);
        assert_eq!(bucket.objects().len(), 512);
        assert!(bucket.objects().iter().all(|object| object.contains("/00000008/")));
        let error = DataError::NoBucket { bucket: "b".into() };
        bucket.inject(Fault::Fail { calls: 100, error });
        assert!(purge(&buckets, FsId(8), Patience::Soft(Duration::ZERO), |_| ()).await.is_err());
    }
}
