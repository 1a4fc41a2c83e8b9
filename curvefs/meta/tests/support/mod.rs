//! What the tests of this crate share: stores, random operations, and a plain tree to compare with.

#![allow(dead_code, reason = "each test uses its part")]

pub mod model;
pub mod net;
pub mod ops;

use std::sync::Arc;

use curve_io::sim::{SimDisk, SimDiskConfig};
use curve_kv::{MemStore, Store};
use curvefs_meta::{Birth, Partition};
use curvefs_types::{Extent, FsId, InodeId, Op, PartitionId, Place, SetAttr, Staged};

/// A runtime for opening stores.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// A store in memory.
pub fn store() -> Arc<dyn Store> {
    let disk = SimDisk::new(SimDiskConfig::default());
    Arc::new(runtime().block_on(MemStore::open(disk.mount(), "kv")).unwrap())
}

/// The partition of a slot over an empty store. Partition numbers are slots plus 1.
pub fn partition(slot: u32) -> Partition {
    Partition::open(store(), &birth(slot)).unwrap()
}

/// What the partition of a slot begins with.
pub fn birth(slot: u32) -> Birth {
    Birth::of_slot(FsId(1), PartitionId(slot + 1), slot)
}

/// A write that says nothing beside its bytes.
pub fn write(inode: InodeId, place: Place, extents: Vec<Extent>, staged: Vec<Staged>) -> Op {
    Op::Write {
        inode,
        place,
        extents,
        length: 0,
        mtime: 1,
        expect: None,
        kill_priv: false,
        set: SetAttr::default(),
        staged,
    }
}
