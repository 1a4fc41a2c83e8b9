//! The trait, its shape and its errors.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use thiserror::Error;

/// A boxed future of a block operation.
pub type BlockFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, BlockError>> + Send + 'a>>;

/// Sizes and abilities of a device. May change while it is open (grow), so ask again rather than keep it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceShape {
    /// Bytes in all.
    pub size: u64,
    /// Smallest unit that may be addressed, in bytes: 512 or 4096. Offsets and lengths are multiples of it.
    pub block_min: u32,
    /// Unit in which the device works best, in bytes.
    pub block_preferred: u32,
    /// Longest request that the device takes in one piece, in bytes.
    pub request_max: u32,
    /// Whether writes are refused.
    pub read_only: bool,
}

/// Why an operation failed. Each variant is one thing for a frontend to say.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum BlockError {
    /// Not aligned, or after the end: the caller's mistake; nothing was changed.
    #[error("range {offset}+{len} is unaligned or outside the device of {size} bytes")]
    BadRange {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
        /// Size of the device.
        size: u64,
    },
    /// The device does not take writes.
    #[error("the device is read-only")]
    ReadOnly,
    /// No room on the disks that hold this range. Nothing was changed; retry after space was freed.
    #[error("no space left for this range")]
    NoSpace,
    /// Another holder has taken the device over. This opener can do nothing more.
    #[error("fenced: another holder has taken the device over")]
    Fenced,
    /// The device did not answer within its I/O timeout. The operation may or may not have happened.
    #[error("no answer within {seconds} s")]
    TimedOut {
        /// The timeout in whole seconds.
        seconds: u64,
    },
    /// No replica has a good copy of the range.
    #[error("no good copy of range {offset}+{len}")]
    Corrupt {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// The device cannot do this operation.
    #[error("operation not supported: {0}")]
    Unsupported(&'static str),
    /// The device was closed.
    #[error("the device is closed")]
    Closed,
    /// A fault that the caller cannot do anything about; reported as an I/O error.
    #[error("I/O error: {0}")]
    Io(String),
}

/// How `write_zeroes` may leave a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ZeroMode {
    /// Space must stay allocated (NBD's `NO_HOLE`).
    pub keep_allocated: bool,
    /// Fail with `Unsupported` rather than be slower than a discard (NBD's `FAST_ZERO`).
    pub fast_only: bool,
}

/// Whether an extent holds data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Allocation {
    /// Written.
    Data,
    /// Never written or discarded: reads as zeros and takes no space.
    Hole,
}

/// A run of bytes with one kind of allocation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// Bytes.
    pub len: u64,
    /// What they are.
    pub allocation: Allocation,
}

/// How a comparison went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compared {
    /// Equal; the new data are written.
    Written,
    /// Different; nothing was changed.
    Differs {
        /// The first byte that differs, counted from the begin of the range.
        at: u64,
    },
}

/// A random-access device. Operations run concurrently; two that overlap and are in flight together happen in either
/// order, but never mixed within a block. A completed write is durable and seen by every later read.
pub trait BlockDevice: Send + Sync + 'static {
    /// Sizes and abilities now.
    fn shape(&self) -> DeviceShape;
    /// Reads `len` bytes. The parts are consecutive and `len` bytes together.
    fn read(&self, offset: u64, len: u32) -> BlockFuture<'_, Vec<Bytes>>;
    /// Writes `data` (consecutive parts). Durable when it completes.
    fn write(&self, offset: u64, data: Vec<Bytes>) -> BlockFuture<'_, ()>;
    /// Completes once every write that completed before is durable, whoever made it.
    fn flush(&self) -> BlockFuture<'_, ()>;
    /// Gives a range back; it reads as zeros afterwards.
    fn discard(&self, offset: u64, len: u64) -> BlockFuture<'_, ()>;
    /// Makes a range read as zeros.
    fn write_zeroes(&self, offset: u64, len: u64, mode: ZeroMode) -> BlockFuture<'_, ()>;
    /// What the device holds from `offset` on: at least one extent, at most `len` bytes together, neighbours merged.
    fn block_status(&self, offset: u64, len: u64) -> BlockFuture<'_, Vec<Extent>>;
    /// Writes `data` if the range holds `expected`, which is as long. Nothing else changes the range between the two,
    /// whoever has the device open. A device may refuse a range that is longer than [`COMPARE_BYTES_MAX`](crate::COMPARE_BYTES_MAX)
    /// or that crosses a border of its own, as [`BlockError::Unsupported`]; one that can do nothing of the kind
    /// refuses all.
    fn compare_and_write(
        &self,
        _offset: u64,
        _expected: Vec<Bytes>,
        _data: Vec<Bytes>,
    ) -> BlockFuture<'_, Compared> {
        Box::pin(std::future::ready(Err(BlockError::Unsupported("compare and write"))))
    }
    /// Gives the device up in order; later operations fail with `Closed`.
    fn close(&self) -> BlockFuture<'_, ()>;
}
