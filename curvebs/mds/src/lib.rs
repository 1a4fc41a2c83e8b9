//! Metadata server: namespace, topology, placement, leases, repair.

mod config;
mod server;

pub use config::{ConfigRefusal, MDS_ID_MAX, MdsConfig, MemberConfig};
pub use server::{MdsServer, StartError};
