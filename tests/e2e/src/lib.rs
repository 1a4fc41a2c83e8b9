//! What the end-to-end tests share: one test at a time, a served volume, block devices made from it, and
//! stores of objects.
//!
//! The tests are in `tests/e2e/`, one file for each kind of client or fault. They need root for loop devices and mounts;
//! without it those tests say so and pass.

pub mod guest;
pub mod iscsi;

mod mounted;
mod place;
mod serial;
mod store;
mod volume;

pub use mounted::{HangingDisk, LoopDevice, Mounted, Reconnecting, is_root};
pub use place::{Boto3, StorePlace};
pub use serial::{Turn, turn};
pub use store::ServedStore;
pub use volume::{Volume, seconds_from_env};
