//! Why a configuration is refused, in words that say what to write instead.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// What is wrong at one place of a configuration file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// The file, or another name of where the text came from.
    pub origin: String,
    /// Line, counted from 1.
    pub line: usize,
    /// The key concerned with its tables, such as `tls.cert`; empty when the text is not TOML.
    pub key: String,
    /// What is wrong and what would be right.
    pub message: String,
}

/// Why there is no configuration.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read configuration {path}: {cause}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The text is not a valid configuration.
    #[error("{}:{}: {}", .0.origin, .0.line, .0.message)]
    Refused(Refusal),
    /// No client configuration was found.
    #[error(
        "no client configuration found; looked for {}. Give --config FILE, set CURVE_CONFIG, or start a playground \
         with `curve playground start --dir D` and use D/curve.toml",
        .looked.join(", ")
    )]
    NotFound {
        /// Where it was looked for, in order.
        looked: Vec<String>,
    },
}
