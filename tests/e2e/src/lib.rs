//! What the end-to-end tests share: one test at a time, a served volume, and block devices made from it.
//!
//! The tests are in `tests/e2e/`, one file for each kind of client or fault. They need root for loop devices and mounts;
//! without it those tests say so and pass.

pub mod guest;
pub mod iscsi;

mod mounted;
mod serial;
mod volume;

pub use mounted::{LoopDevice, Mounted, Reconnecting, is_root};
pub use serial::{Turn, turn};
pub use volume::{Volume, seconds_from_env};
