//! The chunkservers: who they are for ever, and where. What they last said is in the leader's memory.

mod chunkservers;
mod routes;

pub(crate) use chunkservers::{forget, moved, register, remove};
pub(crate) use routes::RouteTable;
