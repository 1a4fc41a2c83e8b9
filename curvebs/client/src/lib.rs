//! A volume as a `BlockDevice`: split, route, number, call; and control calls to the MDS.
//!
//! The client does no I/O of its own: it reaches chunkservers through a `curve_io::Network` and the MDS through a
//! `MdsTransport`, so the simulator runs the same code. It keeps no data: every read asks a copyset's leader, every
//! write completes when it is durable on a majority. It goes on while every MDS is down, until it needs a new segment.
//! Nothing that another holder may change is remembered, so holders that share a volume see each other's writes at once.

mod call;
mod cluster;
mod config;
mod error;
mod known;
mod local;
mod payload;
mod pulse;
mod retry;
mod route;
mod sequence;
mod session;
mod split;
mod together;
mod volume;

pub use cluster::{Cluster, OpenOptions};
pub use config::ClientConfig;
pub use curve_proto::mds;
pub use error::ClientError;
pub use pulse::Pulse;
pub use volume::Volume;
