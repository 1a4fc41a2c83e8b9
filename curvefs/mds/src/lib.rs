//! File systems, their partitions, the metaservers that hold those, and mounts, as the MDS keeps and plans them. Pure: no
//! I/O, no clock; the MDS brings its store, its log, its memory of one term and the time.
//!
//! | part | what |
//! |---|---|
//! | `keys` | keys of the rows |
//! | `apply` | commands become rows: `file_systems`, `partitions`, `mounts`, `metaservers` by their nouns |
//! | [`query`] | rows that requests ask for |
//! | [`Memory`] | what a leader has heard in its term, and does not log |
//! | [`Picture`] | rows and memory put together, at one moment |
//! | [`plan`] | what is to be done next: steps, and commands |
//! | [`orders_for`] | what one metaserver is told |
//! | [`messages`], [`health`] | what requests are answered, and what is not well |
//!
//! # What always holds
//!
//! 1. Ids of file systems, partitions, mounts and writers are never given out twice, and the epoch of a mount never falls.
//! 2. The row of a mount goes only when every partition of its file system has reported that it refuses the mount, or when
//!    the file system goes. One nonce gets one mount.
//! 3. A partition's members are three different metaservers, but for the one that is being added or removed.
//! 4. Nothing is dropped that a row still counts on, and no partition is made twice.

mod apply;
mod file_systems;
pub mod health;
mod keys;
mod memory;
pub mod messages;
mod metaservers;
mod mounts;
mod orders;
mod partitions;
mod picture;
pub mod plan;
pub mod query;
mod refusal;
mod times;

pub use apply::{Ids, apply};
pub use file_systems::{check_create, check_keys, next_id};
pub use memory::{Memory, Running, Seen};
pub use orders::orders_for;
pub use picture::Picture;
pub use refusal::Refusal;
pub use times::Times;
