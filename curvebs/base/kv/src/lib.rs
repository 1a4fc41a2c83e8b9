//! Ordered key-value state store with the applied marker in the same batch.
//!
//! A Raft group's state machine keeps its state here. The Raft log is the write-ahead log, so writes are not durable
//! until [`Store::flush`]; what a crash leaves is the state after some whole batch, together with the marker that was
//! written with it, never a part of a batch. [`RocksStore`] is the real one, [`MemStore`] its twin for the simulator:
//! it keeps everything in memory and reaches the disk only through `curve_io::Disk`.

mod error;
mod format;
mod mem;
mod page;
mod rocks;
mod store;
mod txn;

pub use error::KvError;
pub use mem::MemStore;
pub use page::{Page, RowsOfPage};
pub use rocks::{RocksCache, RocksOptions, RocksStore};
pub use store::{KeyRange, Reader, Row, Store, WriteBatch};
pub use txn::Txn;
