//! The seam to an object store: one bucket.

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;

use bytes::Bytes;

use crate::content::Content;
use crate::error::DataError;

/// What a bucket's call returns.
pub type ObjectFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, DataError>> + Send + 'a>>;

/// One bucket. Each call is one attempt, which ends by itself: whether there is another is decided above.
pub trait ObjectStore: Send + Sync + 'static {
    /// Its name, for people.
    fn name(&self) -> &str;
    /// Puts an object; durable when it completes.
    fn put(&self, object: String, content: Content) -> ObjectFuture<'_, ()>;
    /// Reads a range of an object, in pieces as they come.
    fn get(&self, object: String, range: Range<u64>) -> ObjectFuture<'_, Vec<Bytes>>;
    /// Deletes at most `DELETE_MAX` objects; those that are not there are deleted.
    fn delete(&self, objects: Vec<String>) -> ObjectFuture<'_, ()>;
    /// The first of the objects whose names begin with this, in order: at most `DELETE_MAX`, none when there are none.
    fn list(&self, prefix: String) -> ObjectFuture<'_, Vec<String>>;
}

/// Objects that one request deletes (S3's limit).
pub(crate) const DELETE_MAX: usize = 1000;
