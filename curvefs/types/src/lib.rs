//! What CurveFS is made of, as values: ids, attributes, extents, operations, keys, and the two seams of a mount. No I/O, no
//! async.
//!
//! | file | what |
//! |---|---|
//! | `ids`, `name`, `limits` | identifiers, checked names, limits |
//! | `attr`, `dentry`, `extent`, `usage`, `lock` | what rows say |
//! | `op`, `query` | what changes a partition, and what is asked of it |
//! | `tx` | **operations over several partitions: the protocol** |
//! | `delegation` | **directories in which a mount makes files by itself: the protocol** |
//! | `map` | which partition holds which inodes |
//! | `error` | why not, with errno and stable code |
//! | `wire`, `keys` | the bytes of values and of keys |
//! | `meter` | counting calls |
//! | `seam`, `options` | what `vfs` stands on: `Metadata`, `DataBackend`; mount options |
//!
//! # What always holds
//!
//! In every state a crash can leave, after recovery of all transactions (`meta`'s tests check it after every step):
//!
//! 1. **No dangling name**: what a dentry names exists, and is of that kind.
//! 2. **No orphan**: an inode has a name, or is doomed; a doomed one is held by a mount or is being drained.
//! 3. **Links are exact**: a file's `nlink` is its names; a directory has one name, and `nlink` 2 + its sub-directories.
//! 4. **One tree**: `parent` of a directory is where its name is; from everywhere it leads to the root.
//! 5. **Usage is exact**: `direct` always, `recursive` by the equation in `usage`, and equal to the truth after quiesce.
//! 6. **Bytes are owned**: extents of a file do not overlap, lie below its length or are unwritten, and sum up to
//!    `allocated`; each slice is in an extent or is garbage, never both.
//! 7. **Data first**: metadata names only data that is durable.
//! 8. **Once**: a request is applied once however often it arrives, and never after its mount's fence.

mod attr;
mod delegation;
mod dentry;
mod error;
mod extent;
pub mod fuzzing;
mod ids;
pub mod keys;
pub mod limits;
mod lock;
mod map;
mod meter;
mod name;
mod op;
mod options;
mod query;
mod seam;
mod tx;
mod usage;
pub mod wire;

pub use attr::{
    Attr, DIRECTORY_BYTES, Kind, MODE_BITS, MODE_SETGID, MODE_SETUID, MODE_STICKY, SetAttr, SetTime, TimeNs,
    without_privileges,
};
pub use delegation::{Born, Moved, NameAt, Published, Reserved};
pub use dentry::{Dentry, DirEntry};
pub use error::FsError;
pub use extent::{DataRef, Extent, Freed, SliceRef, Staged};
pub use ids::{FsId, InodeId, LockOwner, MountId, PartitionId, SERIAL_BITS, SliceId, WriterId};
pub use lock::{FileLock, LockFamily, LockKind, LockRange};
pub use map::{MapLine, PartitionMap};
pub use meter::{Meter, Metered, Metering};
pub use name::{Name, XattrName};
pub use op::{NameOp, NewInode, Op, Place, RenameMode, Reply, Request, Told, Vote, Xattr};
pub use options::MountOptions;
pub use query::{Answer, Ask, CommittedTx, Query};
pub use seam::{DataBackend, Durable, FsFuture, Metadata};
pub use tx::{Decision, Part, PartTarget, Prepared, TxId, TxNumber};
pub use usage::{DirUsage, Usage};
pub use wire::{Wire, WireError};
