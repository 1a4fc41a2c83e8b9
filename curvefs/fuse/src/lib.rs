//! Mounts a [`curvefs_vfs::Vfs`] in the kernel: fuser's types to vfs calls and back, and nothing else. No cache, no retry,
//! no policy.
//!
//! | file | what |
//! |---|---|
//! | `mount` | mounting, and telling the kernel what others changed |
//! | `filesystem` | every operation |
//! | `gate`, `handover` | stopping between two requests, and going on in another process |
//! | `waits` | requests that wait for a lock |
//! | `answers` | answers that fuser has no call for |
//! | `convert` | types |
//! | `idmap` | users and groups of this host and of the file system |
//! | `features` | what the kernel can do |
//! | `signals` | whether who waits for a lock was interrupted |

mod answers;
mod convert;
mod features;
mod filesystem;
mod gate;
mod handover;
mod idmap;
mod mount;
mod signals;
mod waits;

pub use features::Features;
pub use handover::{Agreed, Control, LockWait, Paused, SessionState};
pub use idmap::{BadMap, IdMap, IdMaps, NOBODY};
pub use mount::{KernelOptions, Mounted, Successor, mount, take_over};
