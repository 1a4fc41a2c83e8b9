//! Writes stamped blocks over NBD from several connections and judges every block it reads.
//!
//! Each block is a register with one writer at a time, whose values are numbered: `(block, sequence)` is in the block,
//! with a checksum. A read that began when sequence `a` was the last one known to have happened, and ended when `i` was
//! the last one issued, must return a whole block with a sequence in `a..=i`. "Known to have happened" means:
//! acknowledged, or returned by an earlier read. That is linearizability of each block, since values only grow.
//! Zeros (from trim and write-zeroes) are values too.
//!
//! The checker never gives up on an I/O: how long one waited is what is measured.

mod judge;
mod report;
mod stamp;
mod workload;

pub use judge::{Judge, ReadTicket, Violation};
pub use report::{Report, Stall};
pub use stamp::{BLOCK, Found, Stamp, read as read_stamp};
pub use workload::{Checker, CheckerOptions, write_stamp};
