//! The shared per-disk log: format, segments, group commit, recovery.
//!
//! One log serves all Raft groups of a disk, so that everything that waits for the disk waits for one `fdatasync`.
//! It knows group numbers and entry indexes and nothing else of Raft: what an entry means is the caller's.

mod batch;
mod config;
mod error;
pub mod format;
mod group;
mod index;
mod ledger;
mod log;
mod pool;
mod queue;
mod read;
mod recover;
mod scan;
mod writer;

pub use config::{LogConfig, LogStats, Pin, Recovery};
pub use error::LogError;
pub use group::{Done, Entry, GroupLog, GroupState};
pub use log::Log;
pub use recover::{read_log, read_segment_header};
pub use scan::{Records, Tail, judge_tail};
