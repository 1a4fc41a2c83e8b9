//! How the data store is reached and what it may use.

use std::fmt;
use std::time::Duration;

/// A secret that is not printed.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretKey(String);

impl SecretKey {
    /// Keeps it.
    pub fn new(key: impl Into<String>) -> Self {
        Self(key.into())
    }

    #[cfg(feature = "s3")]
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(…)")
    }
}

/// How a bucket is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Access {
    /// `http://host:port` or `https://…`.
    pub endpoint: String,
    /// The region requests are signed for; most stores take any.
    pub region: String,
    /// The bucket.
    pub bucket: String,
    /// The access key.
    pub access_key: String,
    /// The secret key.
    pub secret_key: SecretKey,
}

/// How long failures that may end are waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// For ever: I/O waits until the store is back.
    Hard,
    /// For so long: then the program gets an error.
    Soft(Duration),
}

/// What a backend may use.
#[derive(Clone, Copy, Debug)]
pub struct BackendOptions {
    /// Bytes of an object.
    pub object_bytes: u32,
    /// Requests at a time.
    pub requests_max: usize,
    /// Bytes in memory for requests that are under way, sent and received.
    pub memory_bytes_max: usize,
    /// Objects a second that are deleted.
    pub deletes_per_second: u32,
    /// How long failures are waited for.
    pub patience: Patience,
}

impl Default for BackendOptions {
    fn default() -> Self {
        Self {
            object_bytes: 4 << 20,
            requests_max: 32,
            memory_bytes_max: 256 << 20,
            deletes_per_second: 2000,
            patience: Patience::Hard,
        }
    }
}
