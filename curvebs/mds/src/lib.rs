//! Metadata server: namespace, topology, placement, leases, repair.
//!
//! A Raft group of three keeps the rows (`keys`) in a state store. A mutation: `service` makes a command →
//! `curve_multiraft::Group::propose` → `state_machine` dispatches it to the folder of its noun → rows → answer. A
//! question: `service` waits until this node certainly leads and answers from the rows and from `memory`, which holds
//! what is not logged (heartbeats, leases). `leader` runs the loops that decide what the cluster should become.
//!
//! The MDS is never on the I/O path: an MDS outage stops no I/O, since exclusion rests on epochs that copysets check.

mod bootstrap;
mod config;
mod copyset_call;
mod disks;
mod fs;
mod grpc;
mod iscsi;
mod keys;
mod leader;
mod lease;
mod memory;
mod namespace;
mod node;
mod placement;
mod rows;
mod schedule;
mod sealing;
mod server;
mod service;
mod state_machine;
mod topology;
mod watched;

pub use config::{ConfigRefusal, MDS_ID_MAX, MdsConfig, MemberConfig};
pub use node::{MdsNode, MdsParts};
pub use sealing::{BadKeyFile, SealingKeys};
pub use server::{MdsServer, StartError};
