//! Tables by themselves.

use curvefs_types::{
    Answer, DataRef, Extent, Kind, NameOp, NewInode, Place, Query, RenameMode, SliceId, WriterId,
};

use super::super::moves::Uses;
use super::super::way::Way;
use super::*;

const DIR: InodeId = InodeId(7);

fn name(of: &str) -> Name {
    Name::try_from(of).unwrap()
}

fn dir_attr() -> Attr {
    let new = NewInode::plain(Kind::File, 0o755);
    let mut attr = Birth::new(DIR, &attr_of(), &name("x"), &new, 1).unwrap().attr;
    (attr.kind, attr.parent) = (Kind::Directory, InodeId::ROOT);
    attr
}

fn attr_of() -> Attr {
    Attr {
        inode: InodeId::ROOT,
        kind: Kind::Directory,
        mode: 0o755,
        uid: 0,
        gid: 0,
        nlink: 2,
        rdev: 0,
        flags: 0,
        length: 0,
        allocated: 0,
        atime: 1,
        mtime: 1,
        ctime: 1,
        parent: InodeId::ROOT,
        version: 1,
        generation: 1,
    }
}

fn delegated() -> Table {
    let mut table = Table::default();
    table.made(DIR, (InodeId::ROOT, name("d")));
    table.adds(DIR, &name("first"));
    assert_eq!(table.ask(DIR, 9), Some((Some(vec![name("first")]), 9)));
    assert_eq!(table.ask(DIR, 9), None, "it is asked for once");
    // Made by the partition meanwhile.
    table.adds(DIR, &name("second"));
    assert!(table.granted(DIR, dir_attr(), Reserved { first: InodeId(100), count: 9 }));
    table
}

fn birth(table: &mut Table, of: &str) -> InodeId {
    let number = table.number(DIR).unwrap();
    let new = NewInode::plain(Kind::File, 0o644);
    let birth = Birth::new(number, &table.dirs[&DIR].attr, &name(of), &new, 50).unwrap();
    table.add(birth, 50);
    number
}

fn take(table: &mut Table, give: &[InodeId]) -> Option<(Vec<Published>, InodeId, Batch)> {
    let (op, batch) = table.take(0, None, give, &HashMap::new(), |_| true)?;
    let Op::Publish { dirs, lowest, .. } = op else { panic!("{op:?}") };
    Some((dirs, lowest, batch))
}

fn published(refused: &[InodeId]) -> Result<Reply, FsError> {
    Ok(Reply::Published { refused: refused.to_vec(), unmoved: Vec::new(), reserved: Reserved::NONE })
}

#[test]
fn names_that_may_be_there_are_known() {
    let table = delegated();
    let known = ["first", "second", "third"].map(|of| table.dirs[&DIR].may_be(&name(of)));
    assert_eq!(known, [true, true, false]);
}

#[test]
fn what_could_not_be_published_is_published_again_and_in_order() {
    let mut table = delegated();
    let first = birth(&mut table, "a");
    let set = SetAttr { mtime: Some(SetTime::To { ns: 5 }), mode: Some(0o700), ..SetAttr::default() };
    assert_eq!(table.set_dir(DIR, &set, 60).map(|attr| (attr.mtime, attr.mode)), Some((5, 0o700)));
    let (dirs, lowest, batch) = take(&mut table, &[]).unwrap();
    assert_eq!((dirs[0].born[0].attr.inode, dirs[0].set, lowest), (first, set, first));
    let second = birth(&mut table, "b");
    assert_eq!(table.end(batch, &Err(FsError::NoSpace)), []);
    assert_eq!(table.dirs[&DIR].failing, Some(FsError::NoSpace));
    let (dirs, _, batch) = take(&mut table, &[]).unwrap();
    assert_eq!(dirs[0].born.iter().map(|born| born.attr.inode).collect::<Vec<_>>(), [first, second]);
    assert_eq!((dirs[0].mtime, dirs[0].set.mtime, dirs[0].set.mode), (50, None, Some(0o700)));
    assert_eq!(table.end(batch, &published(&[])), []);
    assert!(table.births.is_empty() && table.dirs[&DIR].is_quiet() && take(&mut table, &[]).is_none());
}

#[test]
fn nothing_is_given_back_before_it_is_whole() {
    let mut table = delegated();
    let (lazy, plain) = (birth(&mut table, "lazy"), birth(&mut table, "plain"));
    assert!(table.may_wait(lazy, true) && table.may_wait(plain, false));
    let (dirs, lowest, batch) = take(&mut table, &[DIR]).unwrap();
    assert_eq!((dirs[0].born.len(), dirs[0].give_back, lowest), (1, false, lazy));
    assert!(!table.may_wait(plain, true), "it is being published");
    table.end(batch, &published(&[]));
    let old = table.lazies(0, None, u64::MAX)[0];
    assert!(table.may_wait(lazy, true));
    table.stored(old.0, old.1);
    assert!(take(&mut table, &[]).is_none(), "it was closed again meanwhile");
    let now = table.lazies(0, Some(DIR), u64::MAX)[0];
    table.stored(now.0, now.1);
    let (dirs, _, batch) = take(&mut table, &[DIR]).unwrap();
    assert_eq!((dirs[0].born.len(), dirs[0].give_back), (1, true));
    table.end(batch, &published(&[]));
    assert!(table.dirs.is_empty() && table.poll_for(0).is_none());
}

#[test]
fn bytes_that_share_a_slice_are_in_files_only_while_their_batch_is_under_way() {
    let mut table = delegated();
    let [one, two, again] = ["one", "two", "again"].map(|of| birth(&mut table, of));
    [one, two, again].into_iter().for_each(|inode| assert!(table.may_wait(inode, true)));
    let slice = DataRef::Slice { slice: SliceId { writer: WriterId(1), serial: 1 }, bytes: 30, at: 10 };
    let extents = [Extent::checked(0, 10, slice).unwrap()];
    let set = SetAttr::default();
    let packed = table.lazies(0, None, u64::MAX).into_iter().map(|(inode, lazy)| {
        let (place, extents, set) = (Place::AtOffsets, &extents[..], &set);
        (inode, (lazy, Written { place, extents, length: 0, mtime: 9, expect: None, kill_priv: false, set }))
    });
    let packed = packed.collect();
    assert!(table.may_wait(again, true), "closed again, with more");
    let before = table.births[&one].clone();
    for outcome in [Err(FsError::NoSpace), published(&[])] {
        let (op, batch) = table.take(0, None, &[], &packed, |_| true).unwrap();
        let Op::Publish { dirs, .. } = op else { panic!("{op:?}") };
        let sent: Vec<_> = dirs[0].born.iter().map(|born| (born.attr.inode, born.extents.clone())).collect();
        assert_eq!(sent, [(one, extents.to_vec()), (two, extents.to_vec())]);
        assert_eq!((batch.wrote.len(), batch.wrote[&one].attr.length), (2, 10));
        assert!(!table.may_pack(one));
        table.end(batch, &outcome);
        if outcome.is_err() {
            let after = &table.births[&one];
            assert_eq!(
                (&after.attr, &after.extents, after.lazy),
                (&before.attr, &before.extents, before.lazy)
            );
        }
    }
    assert_eq!(table.births.keys().collect::<Vec<_>>(), [&again]);
}

#[test]
fn what_is_taken_away_is_lost_and_said_so() {
    let mut table = delegated();
    let sent = birth(&mut table, "a");
    let (_, _, batch) = take(&mut table, &[]).unwrap();
    let waiting = birth(&mut table, "b");
    let lost = table.end(batch, &published(&[DIR]));
    assert_eq!(lost, [(sent, FsError::Revoked), (waiting, FsError::Revoked)]);
    assert_eq!((table.lost.len(), table.births.len(), table.dirs.len()), (2, 0, 0));
}

#[test]
fn a_batch_has_a_limit() {
    let mut table = delegated();
    table.numbers.get_mut(&0).unwrap().add(Reserved { first: InodeId(1000), count: 2000 });
    for n in 0..1000 {
        birth(&mut table, &n.to_string());
    }
    let mut sizes = Vec::new();
    while let Some((dirs, _, batch)) = take(&mut table, &[]) {
        sizes.push(dirs.iter().map(|published| published.born.len()).sum::<usize>());
        table.end(batch, &published(&[]));
    }
    assert_eq!(sizes, [BORN_PER_REQUEST_MAX, 1000 - BORN_PER_REQUEST_MAX]);
}

/// Nobody has anything open.
struct Idle;

impl Uses for Idle {
    fn let_go(&self, _: InodeId) -> bool {
        true
    }

    fn is_used(&self, _: InodeId) -> bool {
        false
    }
}

fn at(of: &str) -> NameAt {
    NameAt { dir: DIR, name: name(of) }
}

/// A table with published files.
fn with_files(of: &[(&str, u64)]) -> Table {
    let mut table = delegated();
    for (of, inode) in of {
        table.remember(&at(of), Some(Dentry { inode: InodeId(*inode), kind: Kind::File }));
    }
    table
}

fn change(table: &mut Table, from: &str, to: Option<&str>) -> Way {
    let (parent, name_of) = (DIR, name(from));
    let op = match to {
        None => NameOp::Unlink { parent, name: name_of },
        Some(to) => NameOp::Rename {
            parent,
            name: name_of,
            new_parent: DIR,
            new_name: name(to),
            mode: RenameMode::Replace,
        },
    };
    table.way_of_change(&mut Op::Name { op }, &Idle, true)
}

fn moves(dirs: &[Published]) -> Vec<(String, Option<String>)> {
    let moved = dirs.iter().flat_map(|published| &published.moved);
    moved.map(|moved| (moved.name.to_string(), moved.to.as_ref().map(|to| to.name.to_string()))).collect()
}

fn line(from: &str, to: Option<&str>) -> (String, Option<String>) {
    (from.to_owned(), to.map(str::to_owned))
}

#[test]
fn however_often_a_name_moves_it_is_one_line() {
    let mut table = with_files(&[("a", 1), ("b", 2), ("c", 3)]);
    for (from, to) in
        [("a", Some("t")), ("b", Some("a")), ("t", Some("b")), ("b", Some("c")), ("a", Some("b"))]
    {
        assert!(matches!(change(&mut table, from, to), Way::Moved(Reply::Done, _)), "{from} {to:?}");
    }
    let (dirs, _, batch) = take(&mut table, &[]).unwrap();
    assert_eq!(moves(&dirs), [line("a", Some("c")), line("c", None)], "b is back");
    assert!(matches!(change(&mut table, "c", None), Way::Wait(0)), "it is being published");
    assert!(matches!(change(&mut table, "b", Some("d")), Way::Moved(..)));
    assert_eq!(table.end(batch, &Err(FsError::Busy)), []);
    table.dirs.get_mut(&DIR).unwrap().failing = None;
    assert!(matches!(change(&mut table, "c", None), Way::Moved(..)));
    let (dirs, _, batch) = take(&mut table, &[]).unwrap();
    assert_eq!(moves(&dirs), [line("a", None), line("b", Some("d")), line("c", None)]);
    table.end(batch, &published(&[]));
    assert!(
        table.moving.is_empty() && table.dirs[&DIR].gone.is_empty() && table.dirs[&DIR].placed.is_empty()
    );
    let is_there = ["a", "b", "c", "d"].map(|of| table.dirs[&DIR].may_be(&name(of)));
    assert_eq!(is_there, [false, false, false, true]);
}

#[test]
fn what_a_partition_does_not_move_is_what_it_was_and_said_so() {
    let mut table = with_files(&[("a", 1), ("b", 2), ("c", 3), ("d", 4)]);
    // One replaces another, and a third takes its place.
    for (from, to) in [("a", Some("b")), ("c", Some("a")), ("d", None)] {
        assert!(matches!(change(&mut table, from, to), Way::Moved(..)));
    }
    let (_, _, batch) = take(&mut table, &[]).unwrap();
    let unmoved = vec![at("a"), at("b"), at("c")];
    let reply = Reply::Published { refused: Vec::new(), unmoved, reserved: Reserved::NONE };
    assert_eq!(table.end(batch, &Ok(reply)), []);
    let dir = &table.dirs[&DIR];
    assert!(table.moving.is_empty() && dir.gone.is_empty() && dir.placed.is_empty());
    assert_eq!(["a", "b", "c", "d"].map(|of| dir.may_be(&name(of))), [true, true, true, false]);
    assert!([1, 2, 3].iter().all(|inode| table.undone.contains_key(&InodeId(*inode))));
    assert!(table.undone.contains_key(&DIR) && !table.undone.contains_key(&InodeId(4)));
    assert!(matches!(change(&mut table, "a", None), Way::Find(_)), "it has to be asked for");
}

#[test]
fn what_is_heard_while_names_change_is_not_believed() {
    let mut table = delegated();
    let query = Query::Lookup { parent: DIR, name: name("first") };
    let told = || Ok(Answer::Entry { dentry: Dentry { inode: InodeId(1), kind: Kind::File }, attr: None });
    let op = Op::Name { op: NameOp::Unlink { parent: DIR, name: name("first") } };
    let before = table.moment(&query).unwrap();
    let passing = table.begin(&op);
    assert!(table.moment(&query).is_none(), "it may be removed meanwhile");
    table.ended(passing);
    table.learn(before, &told());
    assert!(table.dirs[&DIR].known.is_empty());
    let now = table.moment(&query).unwrap();
    table.learn(now, &Err(FsError::NotFound));
    assert!(!table.dirs[&DIR].may_be(&name("first")));
    // One that nobody waits for any more may still come.
    drop(table.begin(&op));
    assert!(table.moment(&query).is_none() && matches!(change(&mut table, "second", None), Way::Find(_)));
    assert!(matches!(table.way_of_change(&mut op.clone(), &Idle, false), Way::Pass));
}
