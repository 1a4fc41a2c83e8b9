//! The chunkservers: who they are for ever, and where. What they last said is in the leader's memory.

mod chunkservers;
mod routes;

pub(crate) use chunkservers::{cluster_name, forget, moved, register, remove};
pub(crate) use routes::RouteTable;
