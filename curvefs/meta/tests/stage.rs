//! Slices that wait in the partition for the store: whatever comes between, a file's bytes are found in one of the two, and in
//! the end the store has what is in files and nothing else.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use curve_types::{Epoch, Sequence, Term};
use curvefs_meta::{Entry, Outcome, Partition, check, server_request};
use curvefs_types::limits::{STAGED_BYTES_MAX, STAGED_PER_REQUEST_MAX, STAGED_SLICE_BYTES_MAX};
use curvefs_types::{
    Answer, Ask, DataRef, Extent, Freed, FsError, InodeId, Kind, MountId, NameOp, NewInode, Op, Place, Query,
    Reply, Request, SliceId, SliceRef, Staged, WriterId,
};
use proptest::prelude::*;

const FILES: usize = 2;
const FILE_BYTES_MAX: u64 = 40;

/// A partition, its store, and what files should be.
struct World {
    partition: Partition,
    sequence: u64,
    serial: u64,
    store: BTreeMap<SliceId, Bytes>,
    files: Vec<(InodeId, Vec<u8>)>,
    /// What a leader has read and not put into the store yet, and what it has put there and not said yet.
    taken: Vec<Staged>,
    put: Vec<SliceRef>,
    /// The same of what is to be deleted.
    freed: Vec<Freed>,
}

fn slice_of(serial: u64, content: &[u8]) -> SliceRef {
    SliceRef { slice: SliceId { writer: WriterId(1), serial }, bytes: content.len() as u32 }
}

fn extent(offset: u64, len: u32, slice: SliceRef, at: u32) -> Extent {
    Extent::checked(offset, len, DataRef::Slice { slice: slice.slice, bytes: slice.bytes, at }).unwrap()
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            partition: support::partition(0),
            sequence: 0,
            serial: 0,
            store: BTreeMap::new(),
            files: Vec::new(),
            taken: Vec::new(),
            put: Vec::new(),
            freed: Vec::new(),
        };
        for number in 0..FILES {
            let inode = world.create(number);
            world.files.push((inode, Vec::new()));
        }
        world
    }

    fn apply(&self, request: Request) -> Outcome {
        let entry = Entry { term: Term(1), requests: vec![request] };
        self.partition.apply(&[entry], None).unwrap().remove(0).remove(0)
    }

    fn now(&self) -> i64 {
        1000 + self.sequence as i64
    }

    fn change(&mut self, op: Op) -> Outcome {
        self.sequence += 1;
        self.apply(Request {
            mount: MountId(1),
            epoch: Epoch(1),
            sequence: Sequence(self.sequence),
            ack_below: Sequence(0),
            now_ns: self.now(),
            op,
        })
    }

    fn server(&mut self, op: Op) {
        self.sequence += 1;
        self.apply(server_request(self.now(), op)).unwrap();
    }

    fn ask(&self, query: Query) -> Answer {
        self.partition.query(&Ask { mount: MountId(1), epoch: Epoch(1), query }).unwrap().unwrap()
    }

    fn create(&mut self, number: usize) -> InodeId {
        let name = format!("f{number}").as_str().try_into().unwrap();
        let new = NewInode::plain(Kind::File, 0o644);
        let op = NameOp::Create { parent: InodeId::ROOT, name, new, open: false, or_open: false };
        match self.change(op.into()) {
            Ok(Reply::Attr { attr, .. }) => attr.inode,
            other => panic!("{other:?}"),
        }
    }

    /// Writes part of a new slice.
    fn write(&mut self, seed: [u8; 6]) {
        let [_, file, place, offset, len, at] = seed;
        self.serial += 1;
        let (len, at) = (1 + u32::from(len) % 8, u32::from(at) % 3);
        let content: Bytes = vec![self.serial as u8; (at + len) as usize].into();
        let slice = slice_of(self.serial, &content);
        let is_staged = !seed[5].is_multiple_of(4);
        let mut staged = Vec::new();
        if is_staged {
            staged.push(Staged { slice, content: content.clone() });
        } else {
            self.store.insert(slice.slice, content);
        }
        let (inode, bytes) = &mut self.files[usize::from(file) % FILES];
        let at_end = place.is_multiple_of(3) && (bytes.len() as u64) < FILE_BYTES_MAX;
        let offset = if at_end { 0 } else { u64::from(offset) % FILE_BYTES_MAX };
        let from = offset as usize + if at_end { bytes.len() } else { 0 };
        bytes.resize(bytes.len().max(from + len as usize), 0);
        bytes[from..from + len as usize].fill(self.serial as u8);
        let place = if at_end { Place::AtEnd } else { Place::AtOffsets };
        let op = support::write(*inode, place, vec![extent(offset, len, slice, at)], staged);
        self.change(op).unwrap();
    }

    fn cut(&mut self, seed: [u8; 6]) {
        let [_, file, how, offset, len, to] = seed.map(u64::from);
        let (offset, len, to) = (offset % FILE_BYTES_MAX, 1 + len % 20, to % FILE_BYTES_MAX);
        let (inode, bytes) = &mut self.files[file as usize % FILES];
        let inode = *inode;
        let op = if how.is_multiple_of(2) {
            bytes.resize(offset as usize, 0);
            Op::Truncate { inode, length: offset, kill_priv: false }
        } else if how % 4 == 1 {
            let end = bytes.len().min((offset + len) as usize);
            bytes.get_mut(offset as usize..end).unwrap_or_default().fill(0);
            Op::Punch { inode, offset, len }
        } else {
            let (from, source) = self.files[(file as usize + 1) % FILES].clone();
            let end = source.len().min((offset + len) as usize);
            let copied = source.get(offset as usize..end).unwrap_or_default();
            let bytes = &mut self.files[file as usize % FILES].1;
            if !copied.is_empty() {
                bytes.resize(bytes.len().max(to as usize + copied.len()), 0);
                bytes[to as usize..to as usize + copied.len()].copy_from_slice(copied);
            }
            Op::CopyRange { from, from_offset: offset, to: inode, to_offset: to, len }
        };
        self.change(op).unwrap();
    }

    fn replace(&mut self, file: usize) {
        let name = format!("f{file}").as_str().try_into().unwrap();
        self.change(NameOp::Unlink { parent: InodeId::ROOT, name }.into()).unwrap();
        self.server(Op::Drain { limit: 100 });
        let inode = self.create(file);
        self.files[file] = (inode, Vec::new());
    }

    /// A step of a leader, any time after the one before.
    fn lead(&mut self, seed: [u8; 6]) {
        let limit = 1 + u32::from(seed[2]) % 3;
        match seed[1] % 5 {
            0 => {
                let query = Query::StagedSlices { before_ns: self.now(), limit };
                let Answer::StagedSlices { slices, .. } = self.ask(query) else { panic!() };
                self.taken = slices;
            }
            1 => {
                for Staged { slice, content } in std::mem::take(&mut self.taken) {
                    self.store.insert(slice.slice, content);
                    self.put.push(slice);
                }
            }
            2 => {
                let slices = std::mem::take(&mut self.put);
                self.server(Op::Stored { slices });
            }
            3 => {
                let query = Query::Garbage { before_ns: self.now(), limit };
                let Answer::Garbage { slices } = self.ask(query) else { panic!() };
                self.freed = slices;
            }
            _ => {
                let slices = std::mem::take(&mut self.freed);
                slices.iter().for_each(|freed| drop(self.store.remove(&freed.slice.slice)));
                self.server(Op::Reclaimed { slices });
            }
        }
    }

    /// Reads every file as a mount would.
    fn look(&self) {
        for (inode, expected) in &self.files {
            let query = Query::Extents { inode: *inode, offset: 0, len: 1 << 20, limit: 1000 };
            let Answer::Extents { attr, extents, staged, .. } = self.ask(query) else { panic!() };
            let mut bytes = vec![0; attr.length as usize];
            for extent in extents {
                let DataRef::Slice { slice, at, .. } = extent.data else { panic!() };
                let content = if staged.contains(&slice) {
                    let Answer::Staged { content } = self.ask(Query::Staged { inode: *inode, slice }) else {
                        panic!()
                    };
                    content.expect("it waits")
                } else {
                    self.store[&slice].clone()
                };
                let part = &content[at as usize..(at + extent.len) as usize];
                bytes[extent.offset as usize..extent.end() as usize].copy_from_slice(part);
            }
            assert_eq!(&bytes, expected, "{inode}");
        }
        let problems = check::problems(&[&self.partition], false).unwrap();
        assert!(problems.is_empty(), "{problems:#?}");
    }

    /// Lets the leader finish: the store has what is in files.
    fn end(&mut self) {
        for _ in 0..200 {
            for step in [1, 2, 0, 1, 2, 4, 3, 4] {
                self.lead([0, step, 2, 0, 0, 0]);
            }
        }
        self.look();
        let mut used = BTreeSet::new();
        for (inode, _) in &self.files {
            let query = Query::Extents { inode: *inode, offset: 0, len: 1 << 20, limit: 1000 };
            let Answer::Extents { extents, staged, .. } = self.ask(query) else { panic!() };
            assert_eq!(staged, []);
            used.extend(extents.iter().map(|extent| extent.data.slice().unwrap().slice));
        }
        assert_eq!(self.store.keys().copied().collect::<BTreeSet<_>>(), used);
    }
}

proptest! {
    #[test]
    fn bytes_are_always_found_and_nothing_stays(seeds: Vec<[u8; 6]>) {
        let mut world = World::new();
        for seed in seeds {
            match seed[0] % 16 {
                0..8 => world.write(seed),
                8..11 => world.cut(seed),
                11 => world.replace(usize::from(seed[1]) % FILES),
                _ => world.lead(seed),
            }
            world.look();
        }
        world.end();
    }
}

#[test]
fn what_no_mount_sends_is_refused_and_leaves_no_trace() {
    let mut world = World::new();
    let inode = world.files[0].0;
    let content = Bytes::from_static(b"four");
    let slice = slice_of(1, &content);
    let whole = extent(0, 4, slice, 0);
    let staged = |slice, content: &Bytes| Staged { slice, content: content.clone() };
    let long = Bytes::from(vec![1; STAGED_SLICE_BYTES_MAX as usize + 1]);
    let much: Bytes = vec![1; STAGED_SLICE_BYTES_MAX as usize].into();
    let pieces = |count: u64| {
        let slices = (10..10 + count).map(|serial| slice_of(serial, &much));
        let extents = slices.clone().enumerate();
        let extents =
            extents.map(|(n, slice)| extent(n as u64 * u64::from(slice.bytes), slice.bytes, slice, 0));
        (extents.collect(), slices.map(|slice| staged(slice, &much)).collect())
    };
    for (what, (extents, staged)) in [
        ("shorter than it says", (vec![whole], vec![staged(slice, &content.slice(1..))])),
        ("in no extent", (vec![whole], vec![staged(slice_of(2, &content), &content)])),
        ("twice", (vec![whole], vec![staged(slice, &content); 2])),
        ("too long", (vec![extent(0, 4, slice_of(3, &long), 0)], vec![staged(slice_of(3, &long), &long)])),
        ("too much", pieces(STAGED_PER_REQUEST_MAX as u64 / u64::from(STAGED_SLICE_BYTES_MAX) + 1)),
    ] {
        let refused = world.change(support::write(inode, Place::AtOffsets, extents, staged));
        assert_eq!(refused, Err(FsError::Invalid), "{what}");
        world.look();
    }
}

#[test]
fn so_much_waits_and_no_more() {
    let mut world = World::new();
    let inode = world.files[0].0;
    let content: Bytes = vec![1; STAGED_SLICE_BYTES_MAX as usize].into();
    let most = STAGED_BYTES_MAX / u64::from(STAGED_SLICE_BYTES_MAX);
    let put = |world: &mut World, serial: u64| {
        let slice = slice_of(serial, &content);
        let extents = vec![extent(serial * content.len() as u64, slice.bytes, slice, 0)];
        world.change(support::write(
            inode,
            Place::AtOffsets,
            extents,
            vec![Staged { slice, content: content.clone() }],
        ))
    };
    for serial in 0..most {
        put(&mut world, serial).unwrap();
    }
    assert_eq!(put(&mut world, most), Err(FsError::StageFull));
    world.server(Op::Stored { slices: vec![slice_of(0, &content)] });
    put(&mut world, most).unwrap();
    assert_eq!(put(&mut world, most + 1), Err(FsError::StageFull));
    let truncated = Op::Truncate { inode, length: 2 * content.len() as u64, kill_priv: false };
    world.change(truncated).unwrap();
    put(&mut world, most + 1).unwrap();
    let problems = check::problems(&[&world.partition], false).unwrap();
    assert!(problems.is_empty(), "{problems:#?}");
}
