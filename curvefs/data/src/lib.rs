//! Where a file system's bytes are: objects in S3 buckets.
//!
//! [`ObjectBackend`] is the `DataBackend`: it cuts what is written into slices and objects, seals each block with its checksum
//! (`format`), spreads objects over buckets, retries, and limits memory, requests and deletions. Below it is
//! [`ObjectStore`], one bucket: [`S3Bucket`] is the real one, [`MemoryBucket`] its twin for tests, with failures on
//! demand, which is there without the feature `s3` too. Neither knows inodes, names or lengths of files.

mod backend;
mod bucket;
mod content;
mod counted;
mod error;
mod format;
mod located;
mod memory;
mod options;
mod probe;
mod purge;
mod retry;
#[cfg(feature = "s3")]
mod s3;

pub use backend::ObjectBackend;
pub use bucket::{ObjectFuture, ObjectStore};
pub use content::Content;
pub use counted::{CountedStore, StoreMeters};
pub use error::DataError;
pub use format::{BLOCK_BYTES, CHECKSUM_BYTES, ObjectName};
pub use located::ObjectPart;
pub use memory::{Fault, MemoryBucket};
pub use options::{BackendOptions, Patience, S3Access, SecretKey};
pub use probe::{PROBE_TIMEOUT, ProbeError, ProbeTimes, probe_bucket, time_bucket};
pub use purge::{objects_of, purge};
#[cfg(feature = "s3")]
pub use s3::S3Bucket;
