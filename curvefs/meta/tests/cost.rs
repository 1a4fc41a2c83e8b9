//! What a change reads. Each replica reads it anew for every change, so it must not grow with the file or the directory.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use curve_io::BoxFuture;
use curve_kv::{KeyRange, KvError, Reader, Row, Store, WriteBatch};
use curve_types::{Epoch, Sequence, Term};
use curvefs_meta::{Entry, Partition};
use curvefs_types::{
    Attr, DataRef, Extent, InodeId, Kind, MountId, NameOp, NewInode, Op, Place, RenameMode, Reply, Request,
    SliceId, WriterId,
};

/// A store that counts the rows that are read from it, there or not.
struct Counting {
    store: Arc<dyn Store>,
    rows: Arc<AtomicU64>,
}

impl Reader for Counting {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        self.rows.fetch_add(1, Ordering::Relaxed);
        self.store.get(key)
    }

    fn scan(&self, range: &KeyRange, limit: usize) -> Result<Vec<Row>, KvError> {
        let rows = self.store.scan(range, limit)?;
        self.rows.fetch_add(rows.len() as u64 + 1, Ordering::Relaxed);
        Ok(rows)
    }

    fn applied(&self) -> Result<Option<Bytes>, KvError> {
        self.store.applied()
    }
}

impl Store for Counting {
    fn write(&self, batch: WriteBatch, applied: Option<&[u8]>) -> Result<(), KvError> {
        self.store.write(batch, applied)
    }

    fn flush(&self) -> BoxFuture<'static, Result<(), KvError>> {
        self.store.flush()
    }

    fn view(&self) -> Result<Arc<dyn Reader>, KvError> {
        self.store.view()
    }
}

struct World {
    partition: Partition,
    rows: Arc<AtomicU64>,
    sequence: u64,
}

impl World {
    fn new() -> Self {
        let rows = Arc::<AtomicU64>::default();
        let store = Arc::new(Counting { store: support::store(), rows: rows.clone() });
        let partition = Partition::open(store, &support::birth(0)).unwrap();
        Self { partition, rows, sequence: 0 }
    }

    /// What is answered, and how many rows were read for it.
    fn change(&mut self, op: impl Into<Op>) -> (Reply, u64) {
        self.sequence += 1;
        let (mount, epoch, sequence) = (MountId(1), Epoch(1), Sequence(self.sequence));
        let ack_below = sequence;
        let request = Request { mount, epoch, sequence, ack_below, now_ns: 5, op: op.into() };
        let before = self.rows.load(Ordering::Relaxed);
        let entry = Entry { term: Term(1), requests: vec![request] };
        let outcome = self.partition.apply(&[entry], None).unwrap().remove(0).remove(0);
        (outcome.unwrap(), self.rows.load(Ordering::Relaxed) - before)
    }

    fn create(&mut self, name: &str) -> (InodeId, u64) {
        let (parent, name) = (InodeId::ROOT, name.try_into().unwrap());
        let new = NewInode::plain(Kind::File, 0o644);
        match self.change(NameOp::Create { parent, name, new, open: false, or_open: false }) {
            (Reply::Attr { attr: Attr { inode, .. }, .. }, rows) => (inode, rows),
            other => panic!("{other:?}"),
        }
    }

    fn write(&mut self, inode: InodeId, block: u64, serial: u64) -> u64 {
        let data = DataRef::Slice { slice: SliceId { writer: WriterId(1), serial }, bytes: 4096, at: 0 };
        let extents = vec![Extent::checked(block * 4096, 4096, data).unwrap()];
        self.change(support::write(inode, Place::AtOffsets, extents, Vec::new())).1
    }
}

#[test]
fn a_change_reads_what_it_changes() {
    let mut world = World::new();
    let (inode, _) = world.create("file");
    let (mut first, mut last) = (0, 0);
    for block in 0..2_000 {
        last = world.write(inode, block, block);
        first = first.max(if block < 10 { last } else { 0 });
    }
    assert!(last <= first, "the first blocks read {first} rows, the last {last}");
    let over = world.write(inode, 1_000, 5_000);
    assert!(over <= first + 10, "over another: {over}, where nothing was: {first}");
    let (_, first) = world.create("first");
    let mut last = 0;
    for number in 0..2_000 {
        last = world.create(&format!("f{number}")).1;
    }
    assert!(last <= first + 2, "the first name: {first}, the last: {last}");
    let (parent, new_parent, mode) = (InodeId::ROOT, InodeId::ROOT, RenameMode::Replace);
    let (name, new_name) = ("f7".try_into().unwrap(), "g7".try_into().unwrap());
    let (_, renamed) = world.change(NameOp::Rename { parent, name, new_parent, new_name, mode });
    let (_, removed) = world.change(NameOp::Unlink { parent, name: "f8".try_into().unwrap() });
    assert!(renamed <= 24 && removed <= 24, "renaming {renamed}, removing {removed}");
}
