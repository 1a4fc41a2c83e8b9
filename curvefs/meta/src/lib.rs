//! What a metadata partition means: a state machine over `curve_kv::Store`. No I/O, no async, no clock.
//!
//! [`Partition::apply`] takes the requests of log entries and gives replies; [`Partition::query`] answers questions;
//! [`Partition::route`] tells a leader whether a request needs other partitions; [`Coordinator`] then says whom to ask
//! what, as values in and values out. What always holds is in `curvefs_types`; [`check`] looks whether it does.
//!
//! | file | what |
//! |---|---|
//! | `partition`, `apply` | the state machine; one request, once |
//! | `names`, `rename` | changes of names, the same code for one partition and for several (`others`) |
//! | `inodes`, `usage`, `doom` | what happens to an inode; counters; the end of inodes and slices |
//! | `attrs`, `acl`, `data`, `stage`, `locks` | attributes, ACLs and the mode, extents, bytes that wait for the store, file locks |
//! | `mounts` | repetition, fences |
//! | `delegation` | directories in which a mount makes files by itself |
//! | `tx`, `coordinator` | a participant's and the coordinator's side of two-phase operations |
//! | `query`, `view`, `step`, `rows` | reading; one request being applied; values of rows |
//! | `local` | one partition behind `Metadata`, for tests of `vfs` |
//! | `check` | the invariants over all partitions of a file system |

mod acl;
mod apply;
mod attrs;
pub mod check;
mod coordinator;
mod data;
mod delegation;
mod doom;
mod fail;
mod inodes;
mod local;
mod locks;
mod mounts;
mod moves;
mod names;
mod others;
mod partition;
mod query;
mod rename;
mod rows;
mod stage;
mod step;
mod tx;
mod usage;
mod view;

pub use coordinator::{Action, Coordinator};
pub use fail::Fail;
pub use local::LocalMetadata;
pub use mounts::Outcome;
pub use others::Walk;
pub use partition::{Birth, Entry, Partition, Plan, Route, server_request};
pub use rows::InodeRange;
