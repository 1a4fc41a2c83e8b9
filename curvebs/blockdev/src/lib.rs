//! The seam between frontends and what they serve: a [`BlockDevice`], and decorators that wrap one.
//!
//! A frontend (NBD, iSCSI, libcurve) sees a `BlockDevice` and never a cluster. Throttling, tracing, read-only and fault
//! injection are decorators on this seam, not flags in the core.
//!
//! | type | what |
//! |---|---|
//! | [`MemoryDevice`] | a sparse device in memory: benchmarks of a frontend alone, and tests |
//! | [`Throttled`] | limits operations and bytes per second |
//! | [`Traced`] | counts and times operations |
//! | [`ReadOnly`] | refuses whatever changes the device |
//! | [`Faulty`] | fails and delays operations, reproducibly from a seed |

mod compare;
mod device;
mod faulty;
mod memory;
mod read_only;
mod throttled;
mod traced;
mod zeroes;

pub use compare::{first_difference, total_bytes};
pub use curve_types::COMPARE_BYTES_MAX;
pub use device::{Allocation, BlockDevice, BlockError, BlockFuture, Compared, DeviceShape, Extent, ZeroMode};
pub use faulty::{Fault, FaultRates, Faulty, Operation};
pub use memory::MemoryDevice;
pub use read_only::ReadOnly;
pub use throttled::{Rate, Throttled};
pub use traced::Traced;
pub use zeroes::{ZEROES_PART_BYTES_MAX, is_zeroes, push_zeroes};
