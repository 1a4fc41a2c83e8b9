//! Mounts a [`curvefs_vfs::Vfs`] in the kernel: fuser's types to vfs calls and back, and nothing else. No cache, no retry,
//! no policy.
//!
//! | file | what |
//! |---|---|
//! | `mount` | mounting, and telling the kernel what others changed |
//! | `filesystem` | every operation |
//! | `convert` | types |
//! | `signals` | whether who waits for a lock was interrupted |

mod convert;
mod filesystem;
mod mount;
mod signals;

pub use mount::{KernelOptions, Mounted, mount};
