//! Why the store did not do it.

use std::io;

use thiserror::Error;

/// Why the store did not do it: a variant for each answer a client gets.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The bucket is not there.
    #[error("no such bucket")]
    NoSuchBucket,
    /// The bucket is there already.
    #[error("the bucket exists")]
    BucketExists,
    /// The bucket has objects or uploads in progress.
    #[error("the bucket is not empty")]
    BucketNotEmpty,
    /// The object is not there.
    #[error("no such object")]
    NoSuchKey,
    /// The upload is not there: it was completed, aborted, or never began.
    #[error("no such upload")]
    NoSuchUpload,
    /// A completion names a part that was not uploaded, or with another ETag.
    #[error("part {0} was not uploaded, or not with that ETag")]
    InvalidPart(u16),
    /// A completion's parts are not in rising order, or none.
    #[error("the parts are not in rising order")]
    InvalidPartOrder,
    /// A part other than the last is smaller than S3 allows.
    #[error("part {0} is smaller than 5 MiB and not the last")]
    PartTooSmall(u16),
    /// If-Match or If-None-Match does not hold.
    #[error("the precondition does not hold")]
    Precondition,
    /// The key is empty, too long or has a NUL.
    #[error("a key has 1 to 1024 bytes and no NUL")]
    BadKey,
    /// The headers to keep with the object are too many.
    #[error("metadata of more than {0} bytes")]
    MetadataTooLarge(usize),
    /// Larger than the configuration allows.
    #[error("larger than the limit of {0} bytes")]
    TooLarge(u64),
    /// The disk is full up to the reserve.
    #[error("the disk is full: {free} bytes are left and {reserve} are kept in reserve")]
    NoSpace {
        /// Bytes that are left.
        free: u64,
        /// Bytes that are left alone.
        reserve: u64,
    },
    /// What was read is not what was written.
    #[error("damaged on disk: {0}")]
    Damaged(String),
    /// The disk refused.
    #[error("the disk failed: {0}")]
    Io(#[from] io::Error),
    /// An earlier commit failed, and what it left is unknown: nothing is changed until a restart.
    #[error("the store stopped after a failed commit")]
    Stopped,
}

impl StoreError {
    /// Whether the disk had no room.
    pub fn is_no_space(&self) -> bool {
        match self {
            Self::NoSpace { .. } => true,
            Self::Io(error) => matches!(
                error.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
            ),
            _ => false,
        }
    }
}
