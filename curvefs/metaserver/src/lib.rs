//! Partitions of CurveFS's metadata on one metaserver, served: Raft groups of `curvefs_meta::Partition`, the RPC service, the
//! leaders' coordinators and workers, heartbeats.
//!
//! A change of one partition: `service` checks it → `leader::change` stamps it → `curve_multiraft::Group::propose` → log durable on
//! a majority → committed → `machine::PartitionMachine` applies it → reply, whose bytes are the state machine's. A change of
//! several: `Partition::route` says so, and `leader::driver` coordinates it. A question: `Group::read_barrier` → rows.
//!
//! The MDS is never on that path: it is told by `heartbeat` and gives `orders`, and says where partitions are (`systems`). All state
//! is behind the traits of `curve_io` and [`StoreFactory`], so [`MetaserverServer`] runs unchanged in the simulator; `run` hosts it
//! in a process.

mod clock;
mod config;
mod context;
mod data;
#[doc(hidden)]
pub mod fuzzing;
mod generations;
mod health;
mod heartbeat;
mod host;
#[cfg(feature = "s3")]
mod launch;
mod leader;
mod machine;
mod maps;
mod metrics;
mod orders;
mod peers;
mod record;
mod replica;
mod rocks;
mod room;
mod sealed;
mod server;
mod service;
mod systems;

pub use config::MetaserverConfig;
#[cfg(feature = "s3")]
pub use data::S3Factory;
pub use data::{DataFactory, StoreAccess};
pub use generations::StoreFactory;
pub use health::Health;
pub use host::ReplicaError;
#[cfg(feature = "s3")]
pub use launch::{run, set_aside, set_aside_on};
pub use replica::Replica;
pub use rocks::RocksFactory;
pub use server::{MetaserverParts, MetaserverServer, StartError};
