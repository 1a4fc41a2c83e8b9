//! Configuration of the embedded object store.

use std::path::PathBuf;
use std::time::Duration;

use curve_types::{ByteSize, HumanDuration};
use serde::Deserialize;
use thiserror::Error;

use crate::error::StoreError;
use crate::store::StoreLimits;

/// An embedded object store's configuration file.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ObjectStoreConfig {
    /// The directory that is served; made when it is missing. It holds objects and what is known of them.
    pub data_dir: PathBuf,
    /// Where S3 is served (`host:port`), over HTTP. Buckets are in the path.
    pub listen_address: String,
    /// Where `/metrics` and `/healthz` are served (`host:port`); empty for nowhere.
    pub http_address: String,
    /// The access key that requests must be signed with.
    pub access_key: String,
    /// A file whose first line is the secret key. Only its owner should be able to read it.
    pub secret_key_file: PathBuf,
    /// Buckets that are made at the start if they are missing.
    pub buckets: Vec<String>,
    /// Room on the disk that is left free: a PUT that would use it is refused, deletions work.
    pub reserve: ByteSize,
    /// Largest object that is put at once, and largest part of an upload.
    pub object_max: ByteSize,
    /// Connections that are served at a time; more wait. Each moves at most 3 MiB in memory.
    pub connections_max: usize,
    /// A client that sends nothing of a request for this long is given up.
    pub idle_timeout: HumanDuration,
    /// How long requests that are under way may take when the process is told to stop.
    pub stop_timeout: HumanDuration,
    /// Threads that serve, beside those that wait for the disk.
    pub threads: usize,
}

/// Why a store cannot be served.
#[derive(Debug, Error)]
pub enum SetupError {
    /// The file with the secret key has none.
    #[error("{path}: {why}")]
    SecretKey {
        /// The file.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// A value of the configuration cannot be.
    #[error("{key}: {why}")]
    Config {
        /// The key.
        key: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The directory cannot be used.
    #[error("{dir}: {cause}")]
    Store {
        /// The directory.
        dir: String,
        /// Why.
        cause: StoreError,
    },
    /// An address cannot be listened on.
    #[error("{address}: {cause}")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        cause: std::io::Error,
    },
}

impl Default for ObjectStoreConfig {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("/var/lib/curve/s3"),
            listen_address: "127.0.0.1:8300".into(),
            http_address: "127.0.0.1:8301".into(),
            access_key: "curve".into(),
            secret_key_file: PathBuf::from("/etc/curve/s3.secret"),
            buckets: Vec::new(),
            reserve: ByteSize(1 << 30),
            object_max: ByteSize(5 << 30),
            connections_max: 256,
            idle_timeout: HumanDuration(Duration::from_secs(30)),
            stop_timeout: HumanDuration(Duration::from_secs(10)),
            threads: 2,
        }
    }
}

impl ObjectStoreConfig {
    pub(crate) fn limits(&self) -> StoreLimits {
        StoreLimits {
            object_bytes_max: self.object_max.0,
            reserve_bytes: self.reserve.0,
            ..StoreLimits::default()
        }
    }

    /// Checks what a type cannot.
    pub fn check(&self) -> Result<(), SetupError> {
        let refuse = |key, why: &str| Err(SetupError::Config { key, why: why.to_owned() });
        if self.access_key.is_empty() {
            return refuse("access_key", "must not be empty: requests without a signature are refused");
        }
        if self.connections_max == 0 {
            return refuse("connections_max", "must be at least 1");
        }
        match self.buckets.iter().find(|name| !s3s::path::check_bucket_name(name)) {
            Some(name) => {
                refuse("buckets", &format!("{name:?} is no name of a bucket: 3 to 63 of a-z 0-9 . -"))
            }
            None => Ok(()),
        }
    }

    pub(crate) fn secret_key(&self) -> Result<String, SetupError> {
        let path = self.secret_key_file.display().to_string();
        let refuse = |why: String| SetupError::SecretKey { path: path.clone(), why };
        let text =
            std::fs::read_to_string(&self.secret_key_file).map_err(|error| refuse(error.to_string()))?;
        match text.lines().next().map(str::trim) {
            Some(key) if key.len() >= 8 => Ok(key.to_owned()),
            _ => Err(refuse("the first line must be a secret key of at least 8 characters".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_checked() {
        let parse = |text: &str| curve_config::parse::<ObjectStoreConfig>(text, "s.toml").unwrap();
        assert!(parse("").check().is_ok());
        for (text, key) in [
            ("access_key = ''", "access_key"),
            ("connections_max = 0", "connections_max"),
            ("buckets = ['ok-1', 'No']", "buckets"),
        ] {
            let refused = parse(text).check().unwrap_err().to_string();
            assert!(refused.contains(key), "{refused}");
        }
        let error = curve_config::parse::<ObjectStoreConfig>("acess_key = 1", "s.toml").unwrap_err();
        assert!(error.to_string().contains("access_key"), "{error}");
    }

    #[test]
    fn a_secret_key_is_a_files_first_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let config = ObjectStoreConfig { secret_key_file: path.clone(), ..Default::default() };
        assert!(matches!(config.secret_key(), Err(SetupError::SecretKey { .. })));
        std::fs::write(&path, "short\n").unwrap();
        assert!(matches!(config.secret_key(), Err(SetupError::SecretKey { .. })));
        std::fs::write(&path, " long-enough \nmore").unwrap();
        assert_eq!(config.secret_key().unwrap(), "long-enough");
    }
}
