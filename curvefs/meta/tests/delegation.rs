//! Delegated directories against a plain map: no other mount sees or changes a name before a directory is given back or taken
//! away, and everything that was published stays.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use curve_types::{Epoch, Sequence, Term};
use curvefs_meta::{Entry, Outcome, Partition, check, server_request};
use curvefs_types::{
    Answer, Ask, Attr, Born, DataRef, Dentry, Extent, FsError, InodeId, Kind, MountId, Moved, Name, NameAt,
    NameOp, NewInode, Op, Published, Query, Reply, Request, Reserved, SetAttr, SliceId, WriterId,
};
use proptest::prelude::*;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const MOUNTS: u64 = 3;

type Seed = [u8; 9];

#[derive(Clone, Default, Debug)]
struct Dir {
    holder: Option<u64>,
    entries: BTreeMap<&'static str, InodeId>,
}

/// The partition beside what it should be.
struct Run {
    partition: Partition,
    sequence: u64,
    dirs: BTreeMap<InodeId, Dir>,
    reserved: BTreeMap<u64, Vec<Reserved>>,
    used: BTreeSet<InodeId>,
    log: Vec<Request>,
}

fn name(of: &str) -> Name {
    Name::try_from(of).unwrap()
}

fn new(kind: Kind) -> NewInode {
    NewInode::plain(kind, 0o755)
}

/// The first mount publishes new files of a directory, and nothing else.
fn publish(run: &mut Run, dir: InodeId, born: Vec<Born>) -> Outcome {
    let set = SetAttr::default();
    let published = Published { dir, moved: Vec::new(), born, mtime: 0, set, give_back: false };
    run.change(1, Op::Publish { dirs: vec![published], lowest: InodeId(0), reserve: 0 })
}

fn born(inode: InodeId, parent: InodeId, of: &str, slice: Option<u64>) -> Born {
    let data = |serial| DataRef::Slice { slice: SliceId { writer: WriterId(1), serial }, bytes: 10, at: 0 };
    let extents: Vec<_> =
        slice.map(|serial| Extent::checked(0, 10, data(serial)).unwrap()).into_iter().collect();
    let attr = Attr {
        inode,
        kind: Kind::File,
        mode: 0o644,
        uid: 1,
        gid: 1,
        nlink: 1,
        rdev: 0,
        flags: 0,
        length: extents.len() as u64 * 10,
        allocated: 99,
        atime: 3,
        mtime: 4,
        ctime: 5,
        parent,
        version: 2,
        generation: 2,
    };
    Born {
        name: name(of),
        attr,
        target: Default::default(),
        xattrs: Vec::new(),
        extents,
        open: slice.is_none(),
    }
}

impl Run {
    fn new() -> Self {
        Self {
            partition: support::partition(0),
            sequence: 0,
            dirs: BTreeMap::new(),
            reserved: BTreeMap::new(),
            used: BTreeSet::new(),
            log: Vec::new(),
        }
    }

    fn apply(&mut self, request: Request) -> Outcome {
        let entry = Entry { term: Term(1), requests: vec![request.clone()] };
        self.log.push(request);
        self.partition.apply(&[entry], None).unwrap().remove(0).remove(0)
    }

    fn change(&mut self, mount: u64, op: impl Into<Op>) -> Outcome {
        self.sequence += 1;
        let (sequence, epoch) = (Sequence(self.sequence), Epoch(1));
        let (mount, now_ns) = (MountId(mount), self.sequence as i64);
        self.apply(Request { mount, epoch, sequence, ack_below: Sequence(0), now_ns, op: op.into() })
    }

    fn ask(&self, mount: u64, query: Query) -> Result<Answer, FsError> {
        self.partition.query(&Ask { mount: MountId(mount), epoch: Epoch(1), query }).unwrap()
    }

    fn dir(&self, byte: u8) -> Option<InodeId> {
        self.dirs.keys().nth(usize::from(byte) % self.dirs.len().max(1)).copied()
    }

    fn step(&mut self, seed: Seed) {
        let mount = 1 + u64::from(seed[1]) % MOUNTS;
        let of = NAMES[usize::from(seed[3]) % NAMES.len()];
        let Some(dir) = self.dir(seed[2]).filter(|_| self.dirs.len() > 2 || seed[0] % 16 > 1) else {
            return self.mkdir(mount);
        };
        match seed[0] % 16 {
            0..3 => self.delegate(mount, dir, seed),
            3..8 => self.publish(mount, dir, seed),
            8 => self.create(mount, dir, of),
            9 => self.unlink(mount, dir, of),
            10 => self.rmdir(mount, dir),
            11 | 12 => self.look(mount, dir, of),
            13 => {
                let holder = self.dirs[&dir].holder.unwrap_or(mount);
                let op = Op::Revoke { dir, mount: MountId(holder) };
                assert_eq!(self.apply(server_request(5, op)), Ok(Reply::Done));
                self.dirs.get_mut(&dir).unwrap().holder = None;
            }
            14 if seed[4] < 32 => self.release(mount),
            14 if seed[4] < 160 => self.link(mount, dir, of, seed),
            15 => self.moves(mount, seed),
            _ => self.set_attr(mount, dir),
        }
    }

    fn mkdir(&mut self, mount: u64) {
        let of = name(&format!("dir-{}", self.sequence));
        let made = NameOp::Mkdir { parent: InodeId::ROOT, name: of, new: new(Kind::Directory), place: None };
        let Ok(Reply::Attr { attr, .. }) = self.change(mount, made) else { panic!("a directory is made") };
        self.dirs.insert(attr.inode, Dir::default());
    }

    fn others(&self, mount: u64, dir: InodeId) -> bool {
        self.dirs[&dir].holder.is_some_and(|holder| holder != mount)
    }

    fn take(&mut self, mount: u64, reserved: Reserved) {
        self.reserved.entry(mount).or_default().extend(reserved.last().map(|_| reserved));
    }

    fn delegate(&mut self, mount: u64, dir: InodeId, seed: Seed) {
        let knows: Vec<_> = NAMES.iter().take(usize::from(seed[3]) % 5).map(|of| name(of)).collect();
        let says = (!seed[4].is_multiple_of(4)).then(|| knows.clone());
        let outcome = self.change(mount, Op::Delegate { dir, knows: says.clone(), reserve: 4 });
        if self.others(mount, dir) {
            return assert_eq!(outcome, Err(FsError::Delegated { dir }));
        }
        let knows_all = self.dirs[&dir].entries.keys().all(|of| knows.contains(&name(of)));
        if says.is_some() && !knows_all {
            return assert_eq!(outcome, Err(FsError::NotEmpty));
        }
        let Ok(Reply::Delegated { attr, reserved }) = outcome else { panic!("{outcome:?}") };
        assert_eq!(attr.inode, dir);
        self.dirs.get_mut(&dir).unwrap().holder = Some(mount);
        self.take(mount, reserved);
    }

    /// A number of the mount's that is free, or one that is not.
    fn number(&self, mount: u64, byte: u8) -> InodeId {
        let ranges = self.reserved.get(&mount).cloned().unwrap_or_default();
        let all: Vec<_> = ranges
            .iter()
            .flat_map(|range| (0..range.count).map(|n| InodeId(range.first.0 + u64::from(n))))
            .collect();
        let free: Vec<_> = all.iter().filter(|inode| !self.used.contains(inode)).collect();
        match byte % 8 {
            0 => InodeId(2),
            1 => all.first().copied().unwrap_or(InodeId(1 << 39)),
            _ => free.get(usize::from(byte) % free.len().max(1)).map_or(InodeId(1 << 39), |inode| **inode),
        }
    }

    fn publish(&mut self, mount: u64, dir: InodeId, seed: Seed) {
        let slice = seed[5].is_multiple_of(2).then_some(self.sequence + 1);
        let of = NAMES[usize::from(seed[3]) % NAMES.len()];
        let inode = self.number(mount, seed[4]);
        let born = vec![born(inode, dir, of, slice)];
        let give_back = seed[5] % 4 == 1;
        let published =
            Published { dir, moved: Vec::new(), born, mtime: 9, set: SetAttr::default(), give_back };
        let outcome =
            self.change(mount, Op::Publish { dirs: vec![published], lowest: InodeId(0), reserve: 1 });
        let is_ours = |range: &Reserved| (range.first..=range.last().unwrap()).contains(&inode);
        let reserved = self.reserved.get(&mount).is_some_and(|ranges| ranges.iter().any(is_ours));
        let model = self.dirs.get_mut(&dir).unwrap();
        let expected = if model.holder != Some(mount) {
            vec![dir]
        } else if !reserved || self.used.contains(&inode) || model.entries.contains_key(of) {
            vec![inode]
        } else {
            model.entries.insert(of, inode);
            self.used.insert(inode);
            Vec::new()
        };
        if give_back && model.holder == Some(mount) {
            model.holder = None;
        }
        let Ok(Reply::Published { refused, reserved, .. }) = outcome else { panic!("{outcome:?}") };
        assert_eq!(refused, expected);
        self.take(mount, reserved);
    }

    fn create(&mut self, mount: u64, dir: InodeId, of: &'static str) {
        let op =
            NameOp::Create { parent: dir, name: name(of), new: new(Kind::File), open: false, or_open: false };
        let outcome = self.change(mount, op);
        if self.others(mount, dir) {
            return assert_eq!(outcome, Err(FsError::Delegated { dir }));
        }
        let entries = &mut self.dirs.get_mut(&dir).unwrap().entries;
        if entries.contains_key(of) {
            return assert_eq!(outcome, Err(FsError::Exists));
        }
        let Ok(Reply::Attr { attr, .. }) = outcome else { panic!("{outcome:?}") };
        assert!(self.used.insert(attr.inode), "a number is given out once");
        let is_ours = |range: &Reserved| (range.first..=range.last().unwrap()).contains(&attr.inode);
        assert!(!self.reserved.values().flatten().any(is_ours), "what is reserved is not given to others");
        entries.insert(of, attr.inode);
    }

    fn unlink(&mut self, mount: u64, dir: InodeId, of: &'static str) {
        let outcome = self.change(mount, NameOp::Unlink { parent: dir, name: name(of) });
        if self.others(mount, dir) {
            return assert_eq!(outcome, Err(FsError::Delegated { dir }));
        }
        match self.dirs.get_mut(&dir).unwrap().entries.remove(of) {
            Some(_) => assert!(outcome.is_ok(), "{outcome:?}"),
            None => assert_eq!(outcome, Err(FsError::NotFound)),
        }
    }

    fn rmdir(&mut self, mount: u64, dir: InodeId) {
        let Answer::Page { entries, .. } = self
            .ask(mount, Query::ReadDir { inode: InodeId::ROOT, after: None, limit: 100, plus: false })
            .unwrap()
        else {
            panic!("a page")
        };
        let of = entries.iter().find(|entry| entry.dentry.inode == dir).unwrap().name.clone();
        let outcome = self.change(mount, NameOp::Rmdir { parent: InodeId::ROOT, name: of });
        let model = &self.dirs[&dir];
        if model.holder.is_some() {
            return assert_eq!(outcome, Err(FsError::Delegated { dir }), "its holder's too");
        }
        if !model.entries.is_empty() {
            return assert_eq!(outcome, Err(FsError::NotEmpty));
        }
        assert!(outcome.is_ok(), "{outcome:?}");
        self.dirs.remove(&dir);
    }

    fn link(&mut self, mount: u64, dir: InodeId, of: &'static str, seed: Seed) {
        let from = self.dir(seed[6]).unwrap();
        let Some(inode) = self.dirs[&from].entries.values().next().copied() else { return };
        let outcome = self.change(mount, NameOp::Link { inode, parent: dir, name: name(of) });
        if self.others(mount, dir) {
            return assert_eq!(outcome, Err(FsError::Delegated { dir }));
        }
        let entries = &mut self.dirs.get_mut(&dir).unwrap().entries;
        if entries.contains_key(of) {
            return assert_eq!(outcome, Err(FsError::Exists));
        }
        assert!(outcome.is_ok(), "{outcome:?}");
        entries.insert(of, inode);
    }

    /// Some moves: what is there, mostly, goes somewhere, or just goes.
    fn some_moves(&self, seed: Seed) -> BTreeMap<InodeId, Vec<Moved>> {
        let mut moves: BTreeMap<InodeId, Vec<Moved>> = BTreeMap::new();
        let one = |n: u8| NAMES[usize::from(n) % NAMES.len()];
        for n in 0..1 + seed[4] % 4 {
            let (from, of) = (self.dir(seed[2].wrapping_add(n / 2)).unwrap(), one(seed[3].wrapping_add(n)));
            let there = self.dirs[&from].entries.get(of).filter(|_| seed[5] % 16 != n);
            let inode = there.copied().unwrap_or(InodeId(2));
            let (to, at) =
                (self.dir(seed[6].wrapping_add(n)).unwrap(), one((seed[7] >> (2 * n)).wrapping_add(n)));
            let to = (seed[8] >> n & 3 != 0).then(|| NameAt { dir: to, name: name(at) });
            let dentry = Dentry { inode, kind: Kind::File };
            let at = self.sequence as i64;
            moves.entry(from).or_default().push(Moved { name: name(of), dentry, to, at });
        }
        moves
    }

    fn moves(&mut self, mount: u64, seed: Seed) {
        let moves = self.some_moves(seed);
        let dirs = moves.iter().map(|(dir, moved)| Published {
            dir: *dir,
            moved: moved.clone(),
            born: Vec::new(),
            mtime: 9,
            set: SetAttr::default(),
            give_back: false,
        });
        let op = Op::Publish { dirs: dirs.collect(), lowest: InodeId(0), reserve: 0 };
        let outcome = self.change(mount, op);
        let ours = |dir: &InodeId| self.dirs[dir].holder == Some(mount);
        let expected: Vec<_> = moves.keys().filter(|dir| !ours(dir)).copied().collect();
        let mut left: Vec<(NameAt, Moved, bool)> = Vec::new();
        for (dir, moved) in moves.iter().filter(|(dir, _)| ours(dir)) {
            for moved in moved {
                let from = NameAt { dir: *dir, name: moved.name.clone() };
                let is_there = self.entry(&from) == Some(moved.dentry.inode);
                let is_first = left.iter().all(|(other, ..)| *other != from);
                let may = is_there && is_first && moved.to.as_ref().is_none_or(|to| ours(&to.dir));
                left.push((from, moved.clone(), may));
            }
        }
        // One that cannot be after the other, until all that are left can.
        while let Some(bad) = (0..left.len()).find(|n| left[*n].2 && !self.can_be(&left, *n)) {
            left[bad].2 = false;
        }
        let (done, unmoved): (Vec<_>, Vec<_>) = left.into_iter().partition(|(_, _, may)| *may);
        let unmoved: Vec<_> = unmoved.into_iter().map(|(from, ..)| from).collect();
        assert_eq!(outcome, Ok(Reply::Published { refused: expected, unmoved, reserved: Reserved::NONE }));
        for (from, ..) in &done {
            let entries = &mut self.dirs.get_mut(&from.dir).unwrap().entries;
            entries.retain(|of, _| name(of) != from.name);
        }
        for (_, moved, _) in &done {
            let Some(to) = &moved.to else { continue };
            let of = NAMES.into_iter().find(|of| name(of) == to.name).unwrap();
            let before = self.dirs.get_mut(&to.dir).unwrap().entries.insert(of, moved.dentry.inode);
            assert_eq!(before, None, "a name was free");
        }
    }

    fn entry(&self, at: &NameAt) -> Option<InodeId> {
        let entries = &self.dirs[&at.dir].entries;
        entries.iter().find(|(of, _)| name(of) == at.name).map(|(_, inode)| *inode)
    }

    fn can_be(&self, moves: &[(NameAt, Moved, bool)], this: usize) -> bool {
        let (from, moved, _) = &moves[this];
        let Some(to) = &moved.to else {
            let replaced = |(_, other, may): &(NameAt, Moved, bool)| !may && other.to.as_ref() == Some(from);
            return !moves.iter().any(replaced);
        };
        let goes = moves.iter().any(|(other, _, may)| *may && other == to);
        let earlier = moves[..this].iter().any(|(_, other, may)| *may && other.to.as_ref() == Some(to));
        (goes || self.entry(to).is_none()) && !earlier
    }

    fn look(&self, mount: u64, dir: InodeId, of: &str) {
        let found = self.ask(mount, Query::Lookup { parent: dir, name: name(of) });
        let attr = self.ask(mount, Query::GetAttr { inode: dir });
        let page = self.ask(mount, Query::ReadDir { inode: dir, after: None, limit: 10, plus: true });
        if self.others(mount, dir) {
            for refused in [found, attr, page] {
                assert_eq!(refused, Err(FsError::Delegated { dir }));
            }
            return;
        }
        match self.dirs[&dir].entries.get(of) {
            Some(inode) => {
                assert!(matches!(found, Ok(Answer::Entry { dentry, .. }) if dentry.inode == *inode))
            }
            None => assert_eq!(found, Err(FsError::NotFound)),
        }
        let Ok(Answer::Page { entries, .. }) = page else { panic!("{page:?}") };
        assert!(entries.iter().map(|entry| &entry.dentry.inode).eq(self.dirs[&dir].entries.values()));
        let all = || self.dirs.values().flat_map(|dir| dir.entries.values());
        for attr in entries.into_iter().filter_map(|entry| entry.attr) {
            assert_eq!(attr.nlink as usize, all().filter(|inode| **inode == attr.inode).count());
        }
        assert!(attr.is_ok());
    }

    fn set_attr(&mut self, mount: u64, dir: InodeId) {
        let set = SetAttr { mode: Some(0o700), ..SetAttr::default() };
        let outcome = self.change(mount, Op::SetAttr { inode: dir, set });
        assert_eq!(outcome.is_err(), self.others(mount, dir), "{outcome:?}");
    }

    /// The mount is fenced; another one with its number comes, which the test allows itself.
    fn release(&mut self, mount: u64) {
        let op = Op::ReleaseMount { mount: MountId(mount), limit: 100 };
        while self.apply(server_request(5, op.clone())) == Ok(Reply::Progress { more: true }) {}
        self.reserved.remove(&mount);
        self.dirs.values_mut().filter(|dir| dir.holder == Some(mount)).for_each(|dir| dir.holder = None);
    }

    fn check(&self) {
        let problems = check::problems(&[&self.partition], false).unwrap();
        assert!(problems.is_empty(), "after {:?}: {problems:#?}", self.log.last());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn names_of_a_delegated_directory_are_its_holders(seeds in prop::collection::vec(any::<Seed>(), 1..120)) {
        let mut run = Run::new();
        for seed in seeds {
            run.step(seed);
            run.check();
        }
        let other = support::partition(0);
        for part in run.log.chunks(7) {
            other.apply(&[Entry { term: Term(1), requests: part.to_vec() }], None).unwrap();
        }
        assert_eq!(check::dump(&**run.partition.store()).unwrap(), check::dump(&**other.store()).unwrap());
    }
}

/// A directory of mount 1's with numbers.
fn delegated(run: &mut Run) -> (InodeId, Reserved) {
    run.mkdir(1);
    let dir = run.dir(0).unwrap();
    let outcome = run.change(1, Op::Delegate { dir, knows: Some(Vec::new()), reserve: 100 });
    let Ok(Reply::Delegated { reserved, .. }) = outcome else { panic!("{outcome:?}") };
    (dir, reserved)
}

#[test]
fn a_published_file_is_as_the_mount_says_and_a_repeated_batch_is_one() {
    let mut run = Run::new();
    let (dir, reserved) = delegated(&mut run);
    let file = born(reserved.first, dir, "a", Some(1));
    let set = SetAttr { mode: Some(0o700), ..SetAttr::default() };
    let published =
        Published { dir, moved: Vec::new(), born: vec![file.clone()], mtime: 1 << 40, set, give_back: true };
    let outcome = run.change(1, Op::Publish { dirs: vec![published], lowest: InodeId(u64::MAX), reserve: 0 });
    assert_eq!(
        outcome,
        Ok(Reply::Published { refused: Vec::new(), unmoved: Vec::new(), reserved: Reserved::NONE })
    );
    let again = run.log.last().unwrap().clone();
    assert_eq!(run.apply(again), outcome);
    let Ok(Answer::Attrs { attrs }) = run.ask(2, Query::GetAttr { inode: reserved.first }) else { panic!() };
    assert_eq!(attrs, [Attr { allocated: 10, ..file.attr }]);
    let Ok(Answer::Attrs { attrs }) = run.ask(2, Query::GetAttr { inode: dir }) else { panic!() };
    assert_eq!((attrs[0].mtime, attrs[0].mode), (1 << 40, 0o700));
    let Ok(Answer::DirUsage { usage }) = run.ask(2, Query::DirUsage { inode: dir }) else { panic!() };
    assert_eq!((usage.direct.files, usage.direct.bytes), (1, 10));
    run.check();
    let late = publish(&mut run, dir, Vec::new());
    assert_eq!(
        late,
        Ok(Reply::Published { refused: vec![dir], unmoved: Vec::new(), reserved: Reserved::NONE })
    );
}

#[test]
fn what_no_mount_makes_is_refused() {
    let mut run = Run::new();
    let (dir, reserved) = delegated(&mut run);
    let good = born(reserved.first, dir, "a", Some(1));
    let with = |change: fn(&mut Born)| {
        let mut born = good.clone();
        change(&mut born);
        born
    };
    let bad = [
        with(|born| born.attr.kind = Kind::Directory),
        with(|born| born.attr.kind = Kind::Symlink),
        with(|born| born.target = "target".into()),
        with(|born| {
            (born.attr.kind, born.target, born.extents) = (Kind::Symlink, "9".into(), Vec::new());
        }),
        with(|born| (born.attr.kind, born.attr.length) = (Kind::Fifo, 0)),
        with(|born| born.attr.rdev = 1),
        with(|born| born.attr.parent = InodeId::ROOT),
        with(|born| born.attr.nlink = 2),
        with(|born| born.attr.mode = 0o170_000),
        with(|born| born.attr.version = u64::MAX),
        with(|born| born.attr.generation = 0),
        with(|born| born.attr.length = u64::MAX),
        with(|born| born.attr.length = 9),
        with(|born| born.extents.push(born.extents[0])),
        with(|born| born.extents[0].offset = u64::MAX),
        with(|born| born.extents[0].len = 0),
        with(|born| born.attr.inode = InodeId(born.attr.inode.0 + 100)),
        with(|born| born.attr.inode = InodeId(1 << 50)),
    ];
    let mut link = with(|born| born.extents.clear());
    (link.attr.kind, link.attr.length, link.target) = (Kind::Symlink, 2, "to".into());
    link.attr.inode = InodeId(reserved.first.0 + 1);
    let outcome = publish(&mut run, dir, vec![link.clone()]);
    assert_eq!(
        outcome,
        Ok(Reply::Published { refused: Vec::new(), unmoved: Vec::new(), reserved: Reserved::NONE })
    );
    let target = run.ask(1, Query::ReadLink { inode: link.attr.inode });
    assert_eq!(target, Ok(Answer::Value { value: "to".into() }));
    run.change(1, NameOp::Unlink { parent: dir, name: name("a") }).unwrap();
    run.check();
    for born in bad {
        let inode = born.attr.inode;
        let outcome = publish(&mut run, dir, vec![born]);
        assert_eq!(
            outcome,
            Ok(Reply::Published { refused: vec![inode], unmoved: Vec::new(), reserved: Reserved::NONE })
        );
        run.check();
    }
}

/// A mount published a number, the file went, and it published the number again.
#[test]
fn a_number_whose_file_is_gone_is_not_used_again() {
    let mut run = Run::new();
    for seed in [
        [0, 0, 0, 0, 0, 0, 0, 0, 0],
        [80, 0, 0, 0, 0, 0, 0, 0, 0],
        [176, 0, 0, 0, 0, 0, 0, 0, 0],
        [112, 69, 0, 0, 0, 0, 0, 0, 0],
        [19, 114, 93, 3, 145, 12, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0, 0],
        [224, 81, 178, 0, 0, 0, 0, 0, 0],
        [163, 198, 0, 0, 0, 61, 0, 0, 0],
        [169, 0, 81, 87, 0, 0, 0, 0, 0],
        [51, 108, 199, 0, 185, 0, 0, 0, 0],
    ] {
        run.step(seed);
        run.check();
    }
}

/// Files of one mount's directories by their names, each with its number.
fn files(run: &mut Run, dir: InodeId, first: InodeId, names: &[&str]) -> Vec<Dentry> {
    let born = (first.0..).zip(names).map(|(inode, of)| born(InodeId(inode), dir, of, Some(inode)));
    let born: Vec<_> = born.collect();
    let dentries = born.iter().map(|born| Dentry { inode: born.attr.inode, kind: Kind::File }).collect();
    assert_eq!(published(run, dir, Vec::new(), born), []);
    dentries
}

fn published(run: &mut Run, dir: InodeId, moved: Vec<Moved>, born: Vec<Born>) -> Vec<NameAt> {
    let published = Published { dir, moved, born, mtime: 90, set: SetAttr::default(), give_back: false };
    let outcome = run.change(1, Op::Publish { dirs: vec![published], lowest: InodeId(0), reserve: 0 });
    let Ok(Reply::Published { refused, unmoved, .. }) = outcome else { panic!("{outcome:?}") };
    assert_eq!(refused, []);
    run.check();
    unmoved
}

fn moved(from: &str, dentry: Dentry, to: Option<(InodeId, &str)>) -> Moved {
    let to = to.map(|(dir, of)| NameAt { dir, name: name(of) });
    Moved { name: name(from), dentry, to, at: 77 }
}

fn listed(run: &Run, dir: InodeId) -> Vec<(String, InodeId)> {
    let page = run.ask(1, Query::ReadDir { inode: dir, after: None, limit: 10, plus: true });
    let Ok(Answer::Page { entries, .. }) = page else { panic!("{page:?}") };
    entries.iter().map(|entry| (entry.name.to_string(), entry.dentry.inode)).collect()
}

#[test]
fn names_are_exchanged_replaced_and_followed_by_new_files_in_one_change() {
    let mut run = Run::new();
    let (dir, reserved) = delegated(&mut run);
    let first = reserved.first;
    let [a, b, c] = files(&mut run, dir, first, &["a", "b", "c"])[..] else { panic!() };
    let new = born(InodeId(first.0 + 3), dir, "c", Some(9));
    let moves = vec![moved("a", a, Some((dir, "b"))), moved("b", b, Some((dir, "a"))), moved("c", c, None)];
    assert_eq!(published(&mut run, dir, moves, vec![new.clone()]), []);
    let all = [("a", b.inode), ("b", a.inode), ("c", new.attr.inode)];
    assert_eq!(listed(&run, dir), all.map(|(of, inode)| (of.to_string(), inode)));
    assert_eq!(run.ask(1, Query::GetAttr { inode: c.inode }), Err(FsError::NotFound));
    let Ok(Answer::Attrs { attrs }) = run.ask(1, Query::GetAttr { inode: a.inode }) else { panic!() };
    assert_eq!((attrs[0].ctime, attrs[0].version, attrs[0].nlink), (77, 3, 1), "as the mount says");
    let Ok(Answer::Attrs { attrs }) = run.ask(1, Query::GetAttr { inode: dir }) else { panic!() };
    assert_eq!(attrs[0].mtime, 90);
    // What does not go does not make what it would have replaced go either.
    let at = |of| NameAt { dir, name: name(of) };
    let moves = vec![moved("a", c, Some((dir, "b"))), moved("b", a, None)];
    assert_eq!(published(&mut run, dir, moves, Vec::new()), [at("a"), at("b")]);
    let moves = vec![moved("a", b, Some((dir, "b"))), moved("c", new_dentry(&new), Some((dir, "a")))];
    assert_eq!(published(&mut run, dir, moves, Vec::new()), [at("a"), at("c")], "nobody makes room");
    let dentry = Dentry { inode: dir, kind: Kind::Directory };
    assert_eq!(published(&mut run, dir, vec![moved("a", dentry, None)], Vec::new()), [at("a")]);
    assert_eq!(listed(&run, dir), all.map(|(of, inode)| (of.to_string(), inode)));
}

fn new_dentry(born: &Born) -> Dentry {
    Dentry { inode: born.attr.inode, kind: born.attr.kind }
}
