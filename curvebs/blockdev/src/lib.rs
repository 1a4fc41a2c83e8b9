//! The seam between frontends and what they serve: a [`BlockDevice`], and decorators that wrap one.
//!
//! A frontend (NBD, iSCSI, libcurve) sees a `BlockDevice` and never a cluster. Throttling, tracing, read-only and fault
//! injection are decorators on this seam, not flags in the core.

mod device;

pub use device::{Allocation, BlockDevice, BlockError, BlockFuture, DeviceShape, Extent, ZeroMode};
