//! Wire messages of the data and control planes and their conversion at the edge.
//!
//! The data plane (`data`) is framed: a method number from `methods`, a header from `pb::data`, a raw payload. The
//! control plane (`mds`) is one gRPC method whose request and response are a choice of all operations, so that the
//! same bytes can also travel as a frame in the simulator. How findings about a cluster are worded is in `health`.

mod data;
pub mod health;
pub mod mds;
pub mod methods;
pub mod pb;
pub mod transport;

pub use data::ChunkError;
pub use mds::{MdsApi, MdsError};
