//! Configuration files: parsed once, validated, frozen; unknown keys refused with the nearest name.
//!
//! A configuration is a plain struct that derives `Deserialize`, with sizes as `curve_types::ByteSize` and durations
//! as `curve_types::HumanDuration`. `load` reads it from TOML; every refusal names the file, the line and the key.

mod error;
mod lookup;
mod nearest;
mod parse;
mod sample;
mod value;

pub use error::{ConfigError, Refusal};
pub use lookup::{CLIENT_CONFIG_PATHS, find_client_config, mds_override};
pub use nearest::nearest;
pub use parse::{load, parse};
pub use sample::{Documented, KeyDoc, sample};
