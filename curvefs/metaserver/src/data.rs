//! Where the data of file systems is, for those who delete it.

use std::sync::Arc;

use curve_proto::pb::fs::S3Backend;
use curvefs_data::SecretKey;
use curvefs_types::{DataBackend, FsId};

/// How a file system's store is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreAccess {
    /// `http://host:port` or `https://…`.
    pub endpoint: String,
    /// The region requests are signed for.
    pub region: String,
    /// The buckets, in the order of the record.
    pub buckets: Vec<String>,
    /// The access key.
    pub access_key: String,
    /// The secret key.
    pub secret_key: SecretKey,
    /// Bytes of an object.
    pub object_bytes: u32,
}

impl From<S3Backend> for StoreAccess {
    fn from(s3: S3Backend) -> Self {
        let secret = String::from_utf8_lossy(&s3.secret_key).into_owned();
        Self {
            endpoint: s3.endpoint,
            region: s3.region,
            buckets: s3.buckets,
            access_key: s3.access_key,
            secret_key: SecretKey::new(secret),
            object_bytes: s3.object_bytes,
        }
    }
}

/// Opens the data of file systems; a simulator has it in memory.
pub trait DataFactory: Send + Sync + 'static {
    /// The data of a file system; the error is for people.
    fn open(&self, fs: FsId, access: StoreAccess) -> Result<Arc<dyn DataBackend>, String>;
}

#[cfg(feature = "s3")]
pub use s3::S3Factory;

#[cfg(feature = "s3")]
mod s3 {
    use std::time::Duration;

    use curvefs_data::{BackendOptions, ObjectBackend, ObjectStore, Patience, S3Access, S3Bucket};
    use curvefs_types::WriterId;

    use super::*;

    /// How long a deletion waits for a store that does not answer; it is tried again later.
    const PATIENCE: Duration = Duration::from_secs(20);
    /// Requests at a time, so that deleting does not crowd out those who read and write.
    const REQUESTS_MAX: usize = 4;

    /// Buckets of S3 stores.
    #[derive(Debug)]
    pub struct S3Factory {
        /// Objects a second that are deleted, for each file system.
        pub deletes_per_second: u32,
    }

    impl DataFactory for S3Factory {
        fn open(&self, fs: FsId, access: StoreAccess) -> Result<Arc<dyn DataBackend>, String> {
            if access.buckets.is_empty() {
                return Err("the record names no bucket".into());
            }
            let mut options = BackendOptions {
                requests_max: REQUESTS_MAX,
                deletes_per_second: self.deletes_per_second,
                patience: Patience::Soft(PATIENCE),
                ..BackendOptions::default()
            };
            if access.object_bytes > 0 {
                options.object_bytes = access.object_bytes;
                options.memory_bytes_max = options.memory_bytes_max.max(2 * access.object_bytes as usize);
            }
            let bucket = |name: &String| -> Arc<dyn ObjectStore> {
                Arc::new(S3Bucket::new(S3Access {
                    endpoint: access.endpoint.clone(),
                    region: access.region.clone(),
                    bucket: name.clone(),
                    access_key: access.access_key.clone(),
                    secret_key: access.secret_key.clone(),
                }))
            };
            let buckets = access.buckets.iter().map(bucket).collect();
            // What it puts has numbers of others, so it needs no id of its own.
            Ok(Arc::new(ObjectBackend::new(buckets, fs, WriterId(0), options)))
        }
    }
}
