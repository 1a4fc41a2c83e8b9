//! A simulated disk and a simulated network, deterministic for a seed on a single-threaded runtime with paused time.
//!
//! They are harsher than the real things: a crash may keep any subset of the sectors and of the names that were not
//! synced, and a link may lose, delay, duplicate and reorder each message on its own.

mod content;
mod disk;
mod mount;
mod names;
mod network;

pub use disk::{DiskFault, SimDisk, SimDiskConfig, SimDiskStats, SimMachine};
pub use network::{Link, Outage, SimNetwork, SimNetworkStats};
