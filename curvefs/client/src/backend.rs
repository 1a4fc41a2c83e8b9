//! The data backend of a mount, as its file system's record says.

use std::sync::Arc;
use std::time::Duration;

use curvefs_data::{
    BackendOptions, CountedStore, ObjectBackend, ObjectStore, Patience, S3Access, S3Bucket, StoreMeters,
};
use curvefs_types::WriterId;
use curvefs_types::limits::CHUNK_BYTES;
use thiserror::Error;

use crate::grant::{FileSystem, S3Record};

/// An object is within a chunk.
const OBJECT_BYTES_MAX: u32 = CHUNK_BYTES as u32;

/// The record's objects do not fit into the memory of a mount.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("the file system has objects of {0} bytes; this version takes {OBJECT_BYTES_MAX} at most")]
pub struct ObjectTooLarge(u32);

/// The objects of a mount: one client a bucket. Keys are replaced while requests are under way: those finish with the old ones,
/// the next attempts take the new.
pub struct S3Data {
    backend: Arc<ObjectBackend>,
    buckets: Vec<Arc<S3Bucket>>,
    meters: Arc<StoreMeters>,
}

impl S3Data {
    /// Nothing is asked yet. `soft`: how long failures are waited for. `writer` must never have been given to another process.
    pub fn new(
        file_system: &FileSystem,
        writer: WriterId,
        soft: Option<Duration>,
    ) -> Result<Self, ObjectTooLarge> {
        let S3Record { endpoint, region, buckets, access_key, secret_key, object_bytes } =
            file_system.store.clone();
        let access = |bucket| S3Access {
            endpoint: endpoint.clone(),
            region: if region.is_empty() { "us-east-1".to_owned() } else { region.clone() },
            bucket,
            access_key: access_key.clone(),
            secret_key: secret_key.clone(),
        };
        let buckets: Vec<_> =
            buckets.into_iter().map(|bucket| Arc::new(S3Bucket::new(access(bucket)))).collect();
        let mut options = BackendOptions {
            patience: soft.map_or(Patience::Hard, Patience::Soft),
            ..BackendOptions::default()
        };
        match object_bytes {
            0 => {}
            1..=OBJECT_BYTES_MAX => options.object_bytes = object_bytes,
            _ => return Err(ObjectTooLarge(object_bytes)),
        }
        let meters = Arc::new(StoreMeters::default());
        let counted = |bucket: &Arc<S3Bucket>| -> Arc<dyn ObjectStore> {
            Arc::new(CountedStore::new(bucket.clone(), meters.clone()))
        };
        let stores = buckets.iter().map(counted).collect();
        let backend = ObjectBackend::new(stores, file_system.id, writer, options);
        Ok(Self { backend: Arc::new(backend), buckets, meters })
    }

    /// For `vfs`.
    pub fn backend(&self) -> Arc<ObjectBackend> {
        self.backend.clone()
    }

    /// What was asked of the store.
    pub fn meters(&self) -> Arc<StoreMeters> {
        self.meters.clone()
    }

    /// What replaces the keys when the record changes: see `Mount::follow_record`.
    pub fn rotation(&self) -> impl Fn(&FileSystem) + Send + 'static {
        let buckets = self.buckets.clone();
        move |file_system| {
            for bucket in &buckets {
                bucket.rotate(&file_system.store.access_key, &file_system.store.secret_key);
            }
            tracing::info!(fs = %file_system.id, "the data store's keys were replaced");
        }
    }
}

#[cfg(test)]
mod tests {
    use curvefs_data::SecretKey;
    use curvefs_types::FsId;

    use super::*;

    fn file_system(object_bytes: u32) -> FileSystem {
        let store = S3Record {
            endpoint: "http://127.0.0.1:1".into(),
            region: String::new(),
            buckets: vec!["a".into(), "b".into()],
            access_key: "k".into(),
            secret_key: SecretKey::new("s"),
            object_bytes,
        };
        FileSystem { id: FsId(1), name: "x".into(), version: 1, store }
    }

    #[tokio::test]
    async fn each_bucket_is_a_client_and_odd_sizes_are_refused() {
        for (bytes, good) in
            [(0, true), (1 << 20, true), (OBJECT_BYTES_MAX, true), (OBJECT_BYTES_MAX + 1, false)]
        {
            assert_eq!(S3Data::new(&file_system(bytes), WriterId(1), None).is_ok(), good, "{bytes}");
        }
        let data = S3Data::new(&file_system(0), WriterId(1), Some(Duration::from_secs(1))).unwrap();
        assert_eq!(data.buckets.len(), 2);
        data.rotation()(&file_system(0));
    }
}
