//! Copysets on one disk, served: the state machine over the chunk store, the I/O service, repair, heartbeats.
//!
//! A write: `service::write` checks it → `curve_multiraft::Group::propose` → log durable on a majority → committed →
//! `copyset::CopysetMachine` decides on epoch and repetition and applies it to the `curve_chunkstore::CopysetStore` →
//! reply. Nothing else acknowledges. A read: `service::read` → `Group::read_barrier` → fence → store.
//!
//! The MDS is never on that path: it is told by `heartbeat` and gives `orders`. All state is behind the traits of
//! `curve_io`, so [`ChunkserverServer`] runs unchanged in the simulator; [`run`] hosts it in a process.

mod config;
mod copyset;
mod health;
mod heartbeat;
mod launch;
mod metrics;
mod orders;
mod peers;
mod rebuild;
mod repair;
mod replicas;
mod scrub;
mod server;
mod service;

pub use config::ChunkserverConfig;
#[doc(hidden)]
pub use copyset::fuzzing;
pub use copyset::{
    Action, CopysetMachine, CopysetOp, Decision, Mutation, OpError, Outcome, RecordError, Replica,
    StateRecord, VolumeTable,
};
pub use curve_node::{Identity, IdentityError};
pub use health::Health;
pub use launch::{run, set_aside};
pub use rebuild::set_aside as set_aside_on;
pub use repair::HealError;
pub use replicas::ReplicaError;
pub use server::{ChunkserverParts, ChunkserverServer, StartError};
