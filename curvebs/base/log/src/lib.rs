//! The shared per-disk log: format, segments, group commit, recovery.
//!
//! One log serves all Raft groups of a disk, so that everything that waits for the disk waits for one `fdatasync`.
//! It knows group numbers and entry indexes and nothing else of Raft: what an entry means is the caller's.

mod config;
mod error;
mod group;
mod log;

pub use config::{LogConfig, LogStats, Pin, Recovery};
pub use error::LogError;
pub use group::{Done, Entry, GroupLog, GroupState};
pub use log::Log;
