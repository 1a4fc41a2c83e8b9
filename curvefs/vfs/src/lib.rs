//! What a mounted CurveFS means to programs, over [`curvefs_types::Metadata`] and [`curvefs_types::DataBackend`]. Knows no
//! kernel types.
//!
//! | file | what |
//! |---|---|
//! | `vfs` | the file system; **what a write goes through** |
//! | `names`, `attrs`, `dirs`, `xattrs`, `locks` | operations, a file for each family |
//! | `open`, `read`, `write`, `space` | operations on bytes |
//! | `inode` | what is known of an inode, and what is not published yet |
//! | `flush` | publishing, and the background |
//! | `staged` | few bytes that are durable at once, in the metadata; the store gets them later |
//! | `handover` | what the next process is told that takes the mount over |
//! | `delegation` | files that are made here without asking, in directories that are delegated to the mount |
//! | `shared` | the table of inodes, limits, tasks |
//! | `dirty`, `extents`, `readahead`, `acl` | pure: written pieces, known extents, how far to read ahead, inherited ACLs |
//! | `cache` | blocks that were read |
//! | `buffers` | memory of large writes |
//! | `counters` | what is counted, and what a mount says of itself |
//! | `memory` | a data backend in memory |
//!
//! Absent: permissions (the kernel checks them against the attributes and ACLs given here), names in caches (the kernel
//! has them), knowledge of partitions (the metadata client's), access times (reads leave them alone).

mod acl;
mod attrs;
pub mod buffers;
mod cache;
mod counters;
mod delegation;
mod dirs;
mod dirty;
mod extents;
mod flush;
mod handle;
mod handover;
mod inode;
mod locks;
mod memory;
mod names;
mod open;
mod read;
mod readahead;
mod shared;
mod space;
mod staged;
mod vfs;
mod write;
mod xattrs;

pub use crate::shared::KernelCaches;
pub use counters::{Counters, ExtentPage, Pending, VirtualAttributes};
pub use delegation::DelegationCounts;
pub use dirs::Line;
pub use handle::OpenMode;
pub use handover::{DirPage, KnownInode, OpenDir, OpenFile, VfsState};
pub use locks::LockWish;
pub use memory::MemoryBackend;
pub use names::Making;
pub use space::{Seek, Space};
pub use vfs::{Caller, Entry, Opened, Vfs};
pub use xattrs::SetMode;
