//! Deterministic simulation of the production code under seeds and faults.
//!
//! The production MDS, chunkserver, Raft runtime, log, chunk store and client run in one process on simulated disks and
//! a simulated network, under a virtual clock. A seed decides everything: what clients do, what is lost, delayed,
//! duplicated or reordered, which machine loses power and which of its un-synced sectors survive, which bit flips.
//! Faults stop after a while; then the cluster must heal, and the history of every block must be linearizable.

pub mod batch;
pub mod clock;
pub mod convergence;
pub mod entropy;
pub mod faults;
pub mod fencing;
pub mod history;
pub mod meters;
pub mod planted;
pub mod reservations;
pub mod scenario;
pub mod tally;
pub mod workload;
pub mod world;
