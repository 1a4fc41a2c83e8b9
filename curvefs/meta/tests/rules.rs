//! Single rules: holds, fences, locks, appends, bytes, and what late messages of transactions may do.

mod support;

use std::sync::{Arc, Mutex};

use curve_types::{Epoch, Sequence, Term};
use curvefs_meta::{Entry, LocalMetadata, Outcome, Partition, check, server_request};
use curvefs_types::{
    Answer, Ask, Attr, DataRef, Decision, Extent, FsError, FsId, InodeId, Kind, LockFamily, LockKind,
    LockOwner, LockRange, Metadata, MountId, NameOp, NewInode, Op, Part, PartitionId, Place, Query, Reply,
    Request, SetAttr, SliceId, TxId, TxNumber, WriterId, Xattr,
};
use proptest::prelude::*;

/// A partition, and who asks it what with which number.
struct Asked {
    partition: Partition,
    sequence: u64,
    term: u64,
}

impl Asked {
    fn new(slot: u32) -> Self {
        Self { partition: support::partition(slot), sequence: 0, term: 1 }
    }

    fn apply(&self, request: Request) -> Outcome {
        let entry = Entry { term: Term(self.term), requests: vec![request] };
        self.partition.apply(&[entry], None).unwrap().remove(0).remove(0)
    }

    fn request(&mut self, mount: u64, op: Op) -> Request {
        self.sequence += 1;
        Request {
            mount: MountId(mount),
            epoch: Epoch(1),
            sequence: Sequence(self.sequence),
            ack_below: Sequence(0),
            now_ns: 5,
            op,
        }
    }

    fn mount(&mut self, mount: u64, op: impl Into<Op>) -> Outcome {
        let request = self.request(mount, op.into());
        self.apply(request)
    }

    fn server(&self, op: Op) -> Outcome {
        self.apply(server_request(5, op))
    }

    fn create(&mut self, mount: u64, name: &str) -> InodeId {
        let name = name.try_into().unwrap();
        let op =
            NameOp::Create { parent: InodeId::ROOT, name, new: new(Kind::File), open: true, or_open: false };
        attr(&self.mount(mount, op)).inode
    }

    fn attr(&self, inode: InodeId) -> Result<Attr, FsError> {
        match self.ask(Query::GetAttr { inode })? {
            Answer::Attrs { attrs } => Ok(attrs[0]),
            other => panic!("{other:?}"),
        }
    }

    fn ask(&self, query: Query) -> Result<Answer, FsError> {
        self.partition.query(&Ask { mount: MountId(1), epoch: Epoch(1), query }).unwrap()
    }

    fn sound(&self) {
        let problems = check::problems(&[&self.partition], false).unwrap();
        assert!(problems.is_empty(), "{problems:#?}");
    }
}

fn new(kind: Kind) -> NewInode {
    NewInode::plain(kind, 0o644)
}

fn attr(outcome: &Outcome) -> Attr {
    match outcome {
        Ok(Reply::Attr { attr, .. } | Reply::Written { attr, .. }) => *attr,
        other => panic!("{other:?}"),
    }
}

fn write(inode: InodeId, place: Place, serial: u64, offset: u64, len: u32) -> Op {
    let data = DataRef::Slice { slice: SliceId { writer: WriterId(1), serial }, bytes: len, at: 0 };
    let extents = vec![Extent::checked(offset, len, data).unwrap()];
    Op::Write {
        inode,
        place,
        extents,
        length: 0,
        mtime: 7,
        expect: None,
        kill_priv: false,
        set: SetAttr::default(),
        staged: Vec::new(),
    }
}

fn unlink(name: &str) -> NameOp {
    NameOp::Unlink { parent: InodeId::ROOT, name: name.try_into().unwrap() }
}

#[test]
fn an_unlinked_file_lives_while_it_is_held() {
    let mut asked = Asked::new(0);
    let inode = asked.create(1, "a");
    asked.mount(2, Op::Open { inode, truncate: false }).unwrap();
    assert_eq!(attr(&asked.mount(1, unlink("a"))).nlink, 0);
    attr(&asked.mount(1, write(inode, Place::AtEnd, 1, 0, 100)));
    asked.mount(1, Op::Close { inodes: vec![inode] }).unwrap();
    assert_eq!(asked.server(Op::Drain { limit: 100 }), Ok(Reply::Progress { more: false }));
    assert_eq!(asked.attr(inode).map(|attr| attr.length), Ok(100));
    assert_eq!(asked.mount(3, Op::Open { inode, truncate: false }), Err(FsError::Stale));
    asked.sound();
    asked.mount(2, Op::Close { inodes: vec![inode] }).unwrap();
    assert_eq!(asked.attr(inode), Err(FsError::NotFound));
    let Ok(Answer::Garbage { slices }) = asked.ask(Query::Garbage { before_ns: 6, limit: 10 }) else {
        panic!()
    };
    assert_eq!(slices.len(), 1);
    asked.server(Op::Reclaimed { slices }).unwrap();
    assert_eq!(
        asked.ask(Query::Garbage { before_ns: 6, limit: 10 }),
        Ok(Answer::Garbage { slices: Vec::new() })
    );
    asked.sound();
}

#[test]
fn a_fenced_mount_is_refused_and_its_holds_end() {
    let mut asked = Asked::new(0);
    let inode = asked.create(1, "a");
    let lock = |owner| Op::Lock {
        inode,
        owner: LockOwner(owner),
        pid: 1,
        family: LockFamily::Posix,
        kind: LockKind::Write,
        range: LockRange::ALL,
    };
    asked.mount(1, lock(1)).unwrap();
    assert_eq!(asked.mount(2, lock(1)), Err(FsError::WouldBlock));
    asked.mount(2, unlink("a")).unwrap();
    asked.server(Op::Fence { mount: MountId(1), epoch: Epoch(2) }).unwrap();
    assert_eq!(asked.mount(1, write(inode, Place::AtEnd, 1, 0, 10)), Err(FsError::Fenced));
    assert_eq!(asked.attr(inode), Err(FsError::Fenced), "questions too");
    let release = || Op::ReleaseMount { mount: MountId(1), limit: 10 };
    assert_eq!(asked.server(release()), Ok(Reply::Progress { more: true }));
    assert_eq!(asked.server(release()), Ok(Reply::Progress { more: false }));
    assert_eq!(asked.mount(2, lock(1)), Err(FsError::NotFound), "nobody held it any more");
    asked.sound();
}

#[test]
fn appends_of_two_mounts_follow_each_other() {
    let mut asked = Asked::new(0);
    let inode = asked.create(1, "a");
    let mut bases = Vec::new();
    for n in 0..10u64 {
        match asked.mount(1 + n % 2, write(inode, Place::AtEnd, n + 1, 0, 30)) {
            Ok(Reply::Written { base, .. }) => bases.push(base),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(bases, (0..10).map(|n| n * 30).collect::<Vec<_>>());
    assert_eq!(asked.attr(inode).map(|attr| (attr.length, attr.allocated)), Ok((300, 300)));
    asked.sound();
}

#[test]
fn an_unexpected_generation_changes_nothing() {
    let mut asked = Asked::new(0);
    let inode = asked.create(1, "a");
    let generation = asked.attr(inode).unwrap().generation;
    let expecting = |generation| match write(inode, Place::AtOffsets, 1, 0, 10) {
        Op::Write { place, extents, length, mtime, kill_priv, set, staged, .. } => {
            let expect = Some(generation);
            Op::Write { inode, place, extents, length, mtime, expect, kill_priv, set, staged }
        }
        _ => unreachable!(),
    };
    assert_eq!(asked.mount(1, expecting(generation + 1)), Err(FsError::Changed));
    assert!(attr(&asked.mount(1, expecting(generation))).generation > generation);
    asked.sound();
}

#[test]
fn answers_are_remembered_until_they_are_acknowledged() {
    let mut asked = Asked::new(0);
    let first = asked.request(1, unlink("nothing").into());
    assert_eq!(asked.apply(first.clone()), Err(FsError::NotFound));
    asked.create(1, "nothing");
    assert_eq!(asked.apply(first.clone()), Err(FsError::NotFound), "the first answer, not a second try");
    let mut later = asked.request(1, unlink("other").into());
    later.ack_below = later.sequence;
    assert_eq!(asked.apply(later), Err(FsError::NotFound));
    assert_eq!(asked.apply(first), Err(FsError::Forgotten));
}

#[test]
fn servers_requests_are_not_for_mounts() {
    let mut asked = Asked::new(0);
    assert_eq!(asked.mount(1, Op::Drain { limit: 1 }), Err(FsError::NotPermitted));
    assert_eq!(asked.server(unlink("a").into()), Err(FsError::NotPermitted));
    let elsewhere = InodeId::in_slot(3, 1).unwrap();
    let expected = Err(FsError::NotHere { partition: PartitionId(1) });
    assert_eq!(asked.mount(1, Op::SetAttr { inode: elsewhere, set: SetAttr::default() }), expected);
}

#[test]
fn chmod_and_the_access_acl_follow_each_other() {
    let mut asked = Asked::new(0);
    let inode = asked.create(1, "a");
    let mut value = 2u32.to_le_bytes().to_vec();
    for (tag, permissions) in [(1u16, 6u16), (2, 7), (4, 4), (0x10, 6), (0x20, 0)] {
        value.extend(tag.to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(9u32.to_le_bytes());
    }
    let name = curvefs_types::XattrName::try_from("system.posix_acl_access").unwrap();
    let xattr = Xattr { name: name.clone(), value: value.into() };
    let set = Op::SetXattr { inode, xattr, create: false, replace: false };
    assert_eq!(attr(&asked.mount(1, set)).mode, 0o660);
    let chmod = Op::SetAttr { inode, set: SetAttr { mode: Some(0o604), ..SetAttr::default() } };
    assert_eq!(attr(&asked.mount(1, chmod)).mode, 0o604);
    let Ok(Answer::Value { value }) = asked.ask(Query::GetXattr { inode, name }) else { panic!() };
    assert_eq!((value[4 + 2], value[4 + 3 * 8 + 2], value[4 + 4 * 8 + 2]), (6, 0, 4), "user, mask, others");
}

#[test]
fn a_large_file_is_drained_in_steps() {
    let mut asked = Asked::new(0);
    let inode = asked.create(1, "a");
    for n in 0..200 {
        attr(&asked.mount(1, write(inode, Place::AtOffsets, n + 1, n * 20, 10)));
    }
    asked.mount(1, unlink("a")).unwrap();
    asked.mount(1, Op::Close { inodes: vec![inode] }).unwrap();
    asked.sound();
    let mut steps = 0;
    while asked.server(Op::Drain { limit: 20 }) == Ok(Reply::Progress { more: true }) {
        steps += 1;
        asked.sound();
        assert!(steps < 100);
    }
    assert!(steps > 2, "not all at once");
    assert_eq!(asked.attr(inode), Err(FsError::NotFound));
}

/// Which slice's which byte is at each byte of a file.
fn bytes_of(asked: &Asked, inode: InodeId) -> Vec<Option<(u64, u32)>> {
    let query = Query::Extents { inode, offset: 0, len: u64::MAX, limit: 1024 };
    let Ok(Answer::Extents { attr, extents, .. }) = asked.ask(query) else { panic!() };
    let mut bytes = vec![None; attr.length as usize];
    for extent in extents {
        let DataRef::Slice { slice, at, .. } = extent.data else { panic!() };
        for n in 0..extent.len {
            bytes[extent.offset as usize + n as usize] = Some((slice.serial, at + n));
        }
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    /// Writes, holes and truncations at any byte, against an array of bytes.
    #[test]
    fn bytes_are_as_an_array_says(steps in prop::collection::vec((0u8..4, 0u64..60, 1u32..40), 1..40)) {
        let mut asked = Asked::new(0);
        let inode = asked.create(1, "a");
        let mut array: Vec<Option<(u64, u32)>> = Vec::new();
        for (n, (what, offset, len)) in steps.into_iter().enumerate() {
            let (start, end) = (offset as usize, offset as usize + len as usize);
            match what {
                0 | 1 => {
                    attr(&asked.mount(1, write(inode, Place::AtOffsets, n as u64, offset, len)));
                    array.resize(array.len().max(end), None);
                    for (at, byte) in array[start..end].iter_mut().enumerate() {
                        *byte = Some((n as u64, at as u32));
                    }
                }
                2 => {
                    attr(&asked.mount(1, Op::Punch { inode, offset, len: u64::from(len) }));
                    let end = end.min(array.len());
                    array[start.min(end)..end].fill(None);
                }
                _ => {
                    attr(&asked.mount(1, Op::Truncate { inode, length: offset, kill_priv: false }));
                    array.resize(start, None);
                }
            }
            prop_assert_eq!(&bytes_of(&asked, inode), &array);
            asked.sound();
        }
    }
}

fn tx(number: u64) -> TxId {
    TxId { coordinator: PartitionId(9), number: TxNumber { term: Term(1), number } }
}

fn floor(number: u64) -> TxNumber {
    tx(number).number
}

/// A participant with a file that a transaction of another partition takes a name from.
fn with_linked_file() -> (Asked, InodeId, Vec<Part>) {
    let mut asked = Asked::new(0);
    let inode = asked.create(1, "a");
    let dir = InodeId::in_slot(5, 1).unwrap();
    let link = vec![Part::AddLink { inode, dir }];
    asked.server(Op::Prepare { tx: tx(1), floor: floor(1), parts: link }).unwrap();
    asked.server(Op::Finish { tx: tx(1), floor: floor(1), commit: true }).unwrap();
    assert_eq!(asked.attr(inode).map(|attr| attr.nlink), Ok(2));
    (asked, inode, vec![Part::DropLink { inode, dir }])
}

#[test]
fn what_is_prepared_is_locked_until_it_is_finished() {
    let (mut asked, inode, parts) = with_linked_file();
    let prepare = || Op::Prepare { tx: tx(2), floor: floor(2), parts: parts.clone() };
    let vote = asked.server(prepare());
    assert!(matches!(&vote, Ok(Reply::Prepared { attrs }) if attrs[0].nlink == 1), "{vote:?}");
    assert_eq!(asked.server(prepare()), vote, "the same vote again");
    assert_eq!(asked.attr(inode), Err(FsError::Busy));
    assert_eq!(asked.mount(1, unlink("a")), Err(FsError::Busy));
    let other = Op::Prepare { tx: tx(3), floor: floor(2), parts: parts.clone() };
    assert_eq!(asked.server(other), Err(FsError::Busy));
    asked.server(Op::Finish { tx: tx(2), floor: floor(2), commit: true }).unwrap();
    assert_eq!(asked.attr(inode).map(|attr| attr.nlink), Ok(1));
    asked.server(Op::Finish { tx: tx(2), floor: floor(2), commit: true }).unwrap();
    assert_eq!(asked.attr(inode).map(|attr| attr.nlink), Ok(1), "once");
    asked.sound();
}

#[test]
fn late_messages_of_finished_transactions_do_nothing() {
    let (asked, inode, parts) = with_linked_file();
    let prepare = |n, low| Op::Prepare { tx: tx(n), floor: floor(low), parts: parts.clone() };
    // An abort that overtakes its prepare.
    asked.server(Op::Finish { tx: tx(2), floor: floor(2), commit: false }).unwrap();
    assert_eq!(asked.server(prepare(2, 2)), Err(FsError::Forgotten));
    // A floor above what is prepared aborts it; what is below the floor never comes again.
    asked.server(prepare(3, 3)).unwrap();
    asked.server(Op::Finish { tx: tx(5), floor: floor(4), commit: false }).unwrap();
    assert_eq!(asked.attr(inode).map(|attr| attr.nlink), Ok(2));
    assert_eq!(asked.server(prepare(3, 3)), Err(FsError::Forgotten));
    asked.server(Op::Finish { tx: tx(3), floor: floor(3), commit: true }).unwrap();
    assert_eq!(asked.attr(inode).map(|attr| attr.nlink), Ok(2));
    assert_eq!(asked.ask(Query::PreparedTxs { limit: 9 }), Ok(Answer::PreparedTxs { txs: Vec::new() }));
}

#[test]
fn nothing_is_decided_after_it_was_resolved_or_in_another_term() {
    let mut asked = Asked::new(0);
    let own =
        |term, number| TxId { coordinator: PartitionId(1), number: TxNumber { term: Term(term), number } };
    let mkdir = NameOp::Mkdir {
        parent: InodeId::ROOT,
        name: "d".try_into().unwrap(),
        new: new(Kind::Directory),
        place: None,
    };
    let aborted = Ok(Reply::Resolved { decision: Decision::Aborted });
    assert_eq!(asked.server(Op::Resolve { tx: own(1, 1) }), aborted);
    let decide = |tx| Op::Decide { tx, op: mkdir.clone(), votes: Vec::new() };
    assert_eq!(asked.mount(1, decide(own(1, 1))), Err(FsError::Busy));
    assert_eq!(asked.mount(1, decide(own(2, 1))), Err(FsError::Busy), "of another term");
    attr(&asked.mount(1, decide(own(1, 2))));
    let committed = Ok(Reply::Resolved { decision: Decision::Committed { participants: Vec::new() } });
    assert_eq!(asked.server(Op::Resolve { tx: own(1, 2) }), committed);
    asked.term = 2;
    asked.server(Op::Forget { numbers: vec![own(1, 2).number] }).unwrap();
    asked.sound();
    assert_eq!(asked.server(Op::Resolve { tx: own(1, 2) }), aborted, "nobody asks for it any more");
}

#[test]
fn two_mounts_stand_on_one_partition_in_the_process() {
    let partition = Arc::new(Mutex::new(support::partition(0)));
    let mount = |n| LocalMetadata::new(FsId(1), MountId(n), partition.clone(), Box::new(|| 5));
    let (one, two) = (mount(1), mount(2));
    support::runtime().block_on(async {
        let create = |name: &str| NameOp::Create {
            parent: InodeId::ROOT,
            name: name.try_into().unwrap(),
            new: new(Kind::File),
            open: true,
            or_open: false,
        };
        let inode = attr(&one.change(create("a").into()).await).inode;
        assert_eq!(two.change(create("a").into()).await, Err(FsError::Exists));
        attr(&two.change(write(inode, Place::AtEnd, 1, 0, 40)).await);
        attr(&one.change(write(inode, Place::AtEnd, 2, 0, 2)).await);
        let Ok(Answer::DirUsage { usage }) = one.query(Query::DirUsage { inode: InodeId::ROOT }).await else {
            panic!()
        };
        assert_eq!((usage.direct.bytes, usage.recursive.files), (42, 1));
        assert_eq!(two.stat_fs().await.map(|usage| (usage.files, usage.dirs)), Ok((1, 1)));
    });
}
