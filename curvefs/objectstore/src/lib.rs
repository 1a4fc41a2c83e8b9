//! The embedded object store: S3 on one directory, durable and atomic.
//!
//! [`Store`] is the store, without S3 and without a network: `format` are the bytes on disk, `files` the seam to blobs,
//! `meta` the rows, `locks` who may change what. `service` translates S3 to it, `ingest` and `egress` move bodies, and
//! [`serve`] hosts it in a process. One process, one directory, no replication: for a playground, a test, or a single
//! machine. Replace it with any S3 store without changing anything else.

mod config;
mod egress;
mod error;
mod files;
mod format;
mod health;
mod ingest;
mod locks;
mod meta;
mod server;
mod service;
mod store;

pub use config::{ObjectStoreConfig, SetupError};
pub use error::StoreError;
pub use files::{BlobFile, BlobFiles, RealFiles};
pub use format::{BLOCK_BYTES, BlobRow, ObjectRow, Segment, StoreRow, UploadRow};
pub use server::{run, serve};
pub use store::{
    After, Expect, INLINE_BYTES_MAX, ListQuery, Listed, Part, Reader, Spool, Spooled, Store, StoreLimits,
    Upload, UploadId,
};
