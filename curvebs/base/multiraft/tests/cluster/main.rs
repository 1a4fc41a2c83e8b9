//! Clusters of three and more nodes in one process: simulated network and disks, virtual time, seeded faults.

mod basic;
mod disks;
mod faults;
mod harness;
mod idle;
mod machine;
mod membership;
mod snapshot;
