//! Random changes of names and files by mounts with delegated directories, against a plain tree: two mounts see the same, batches that fail
//! lose nothing, and neither does a mount that dies of what was synced.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use curvefs_types::{FsError, InodeId, Kind, RenameMode, SetAttr};
use curvefs_vfs::{OpenMode, Vfs};
use proptest::prelude::*;
use support::dirs::{Line, fsync_dir, names, read, rename};
use support::{ROOT, RW, World, close, mkdir, name, root, strict};

/// Mounts and what they should see.
struct Run {
    mounts: Vec<Vfs>,
    /// Names by directory: which file.
    tree: BTreeMap<InodeId, BTreeMap<&'static str, usize>>,
    /// Bytes, and how often they were changed.
    files: Vec<(Vec<u8>, u32)>,
    /// Open ones: by which mount, the handle, which file, and how often that was changed before.
    open: Vec<(usize, u64, usize, u32)>,
    /// Batches fail now and then.
    line: Option<Arc<Line>>,
    /// Time passes now and then.
    ages: bool,
}

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

fn pick<T: Copy>(of: impl ExactSizeIterator<Item = T>, byte: u8) -> T {
    let len = of.len();
    of.into_iter().nth(usize::from(byte) % len).unwrap()
}

impl Run {
    async fn new(mounts: Vec<Vfs>, first: usize, line: Option<Arc<Line>>) -> Self {
        let mut tree = BTreeMap::new();
        for path in ["x", "y", "z"] {
            let entry = mkdir(&mounts[first], ROOT, path).await;
            assert_eq!(entry.attr.kind, Kind::Directory);
            tree.insert(entry.attr.inode, BTreeMap::new());
        }
        Self { mounts, tree, files: Vec::new(), open: Vec::new(), line, ages: false }
    }

    /// Whether nothing came of something, since a batch could not be made.
    fn is_refused<T>(&self, outcome: &Result<T, FsError>) -> bool {
        self.line.is_some() && outcome.as_ref().err() == Some(&FsError::NoSpace)
    }

    async fn step(&mut self, seed: [u8; 6]) {
        let mount = usize::from(seed[0]) % self.mounts.len();
        let vfs = self.mounts[mount].clone();
        if let Some(line) = &self.line {
            line.refuses_next.store(u32::from(seed[0] > 200), Ordering::Relaxed);
        }
        let (dir, of) = (pick(self.tree.keys().copied(), seed[2]), pick(NAMES.into_iter(), seed[3]));
        let (to, new) = (pick(self.tree.keys().copied(), seed[4]), pick(NAMES.into_iter(), seed[4] / 8));
        match seed[1] % 24 {
            0..5 => self.create(&vfs, (dir, of), seed[4]).await,
            5..8 => self.unlink(&vfs, (dir, of)).await,
            8..13 => self.rename(&vfs, (dir, of), (to, new), seed[5]).await,
            13 => self.link(&vfs, (dir, of), (to, new)).await,
            14 => self.list(&vfs, dir).await,
            15..17 => self.look(&vfs, (dir, of)).await,
            17 => self.set_mode(&vfs, (dir, of), 0o600 | u32::from(seed[4] % 8)).await,
            18..20 => self.change(&vfs, (dir, of), seed[4]).await,
            20 => self.hold(mount, (dir, of)).await,
            21 => self.let_go().await,
            22 => {
                let synced = fsync_dir(&vfs, dir).await;
                assert!(synced.is_ok() || self.is_refused(&synced), "{synced:?}");
            }
            _ if self.ages => tokio::time::sleep(Duration::from_millis(100 << (seed[4] % 8))).await,
            _ => {
                let synced = vfs.sync().await;
                assert!(synced.is_ok() || self.is_refused(&synced), "{synced:?}");
            }
        }
    }

    async fn create(&mut self, vfs: &Vfs, (dir, of): (InodeId, &'static str), byte: u8) {
        let made = vfs.create(dir, name(of), 0o644, (RW, true), root()).await;
        let entries = self.tree.get_mut(&dir).unwrap();
        let Ok((_, opened)) = made else {
            let refused = self.line.is_some() && made == Err(FsError::NoSpace);
            return assert!(refused || entries.contains_key(of), "{made:?}");
        };
        assert_eq!(entries.insert(of, self.files.len()), None);
        let bytes = vec![byte; usize::from(byte % 4) * 1000];
        self.files.push((bytes.clone(), 0));
        vfs.write(opened.handle, 0, bytes, false).await.unwrap();
        let closed = close(vfs, opened.handle).await;
        assert!(closed.is_ok() || self.is_refused(&closed), "{closed:?}");
    }

    async fn unlink(&mut self, vfs: &Vfs, (dir, of): (InodeId, &'static str)) {
        let removed = vfs.unlink(dir, name(of)).await;
        if !self.is_refused(&removed) {
            let was_there = self.tree.get_mut(&dir).unwrap().remove(of).is_some();
            let expected = if was_there { Ok(()) } else { Err(FsError::NotFound) };
            assert_eq!(removed, expected);
        }
    }

    async fn rename(
        &mut self,
        vfs: &Vfs,
        (dir, of): (InodeId, &'static str),
        (to, new): (InodeId, &'static str),
        byte: u8,
    ) {
        let mode = match byte % 8 {
            0 => RenameMode::Exchange,
            1 => RenameMode::NoReplace,
            _ => RenameMode::Replace,
        };
        let moved = vfs.rename((dir, name(of)), (to, name(new)), mode).await;
        if self.is_refused(&moved) {
            return;
        }
        let (source, target) = (self.tree[&dir].get(of).copied(), self.tree[&to].get(new).copied());
        let expected = match (source, target, mode) {
            (None, ..) | (_, None, RenameMode::Exchange) => Err(FsError::NotFound),
            (_, Some(_), RenameMode::NoReplace) => Err(FsError::Exists),
            _ => Ok(()),
        };
        assert_eq!(moved, expected, "{mode:?}");
        let (Some(source), true) = (source, expected.is_ok() && source != target) else { return };
        self.tree.get_mut(&dir).unwrap().remove(of);
        self.tree.get_mut(&to).unwrap().insert(new, source);
        if let (Some(target), RenameMode::Exchange) = (target, mode) {
            self.tree.get_mut(&dir).unwrap().insert(of, target);
        }
    }

    async fn link(
        &mut self,
        vfs: &Vfs,
        (dir, of): (InodeId, &'static str),
        (to, new): (InodeId, &'static str),
    ) {
        let Some(file) = self.tree[&dir].get(of).copied() else { return };
        let found = vfs.lookup(dir, name(of)).await;
        if self.is_refused(&found) {
            return;
        }
        let linked = vfs.link(found.unwrap().attr.inode, to, name(new)).await;
        if self.is_refused(&linked) {
            return;
        }
        let entries = self.tree.get_mut(&to).unwrap();
        assert_eq!(linked.is_ok(), !entries.contains_key(new), "{linked:?}");
        entries.entry(new).or_insert(file);
    }

    async fn list(&self, vfs: &Vfs, dir: InodeId) {
        let handle = vfs.open_dir(dir).await.unwrap();
        let refused = self.is_refused(&vfs.read_dir(handle, 0, true).await);
        vfs.release_dir(handle).unwrap();
        if !refused {
            let (found, expected) = (names(vfs, dir).await, &self.tree[&dir]);
            assert!(found.iter().map(String::as_str).eq(expected.keys().copied()), "{found:?} {expected:?}");
        }
    }

    fn links(&self, file: usize) -> u32 {
        let all = self.tree.values().flat_map(BTreeMap::values);
        all.filter(|other| **other == file).count() as u32
    }

    async fn look(&self, vfs: &Vfs, (dir, of): (InodeId, &'static str)) {
        let found = vfs.lookup(dir, name(of)).await;
        let Some(file) = self.tree[&dir].get(of) else {
            return assert_eq!(found, Err(FsError::NotFound));
        };
        if self.is_refused(&found) {
            return;
        }
        let attr = found.unwrap().attr;
        assert_eq!(attr.length, self.files[*file].0.len() as u64);
        // What one mount has removed and not published another one counts.
        if self.mounts.len() == 1 {
            assert_eq!(attr.nlink, self.links(*file));
        }
        let bytes = read(vfs, dir, of).await;
        assert!(self.is_refused(&bytes) || bytes.as_ref() == Ok(&self.files[*file].0), "{bytes:?}");
    }

    async fn set_mode(&self, vfs: &Vfs, (dir, of): (InodeId, &'static str), mode: u32) {
        let Ok(entry) = vfs.lookup(dir, name(of)).await else { return };
        let set = SetAttr { mode: Some(mode), ..SetAttr::default() };
        let changed = vfs.set_attr(entry.attr.inode, set).await;
        if !self.is_refused(&changed) {
            changed.unwrap();
            let attr = vfs.lookup(dir, name(of)).await.unwrap().attr;
            let file = self.tree[&dir][of];
            assert_eq!((attr.mode, attr.length), (mode, self.files[file].0.len() as u64));
        }
    }

    async fn change(&mut self, vfs: &Vfs, (dir, of): (InodeId, &'static str), byte: u8) {
        let Ok(entry) = vfs.lookup(dir, name(of)).await else { return };
        let is_even = byte.is_multiple_of(2);
        let mode = OpenMode { append: is_even, truncate: !is_even, ..RW };
        let opened = vfs.open(entry.attr.inode, mode).await;
        if self.is_refused(&opened) {
            return;
        }
        let handle = opened.unwrap().handle;
        let (bytes, changes) = &mut self.files[self.tree[&dir][of]];
        if mode.truncate {
            bytes.clear();
        }
        vfs.write(handle, bytes.len() as u64, b"more".to_vec(), false).await.unwrap();
        bytes.extend(b"more");
        *changes += 1;
        let closed = close(vfs, handle).await;
        assert!(closed.is_ok() || self.is_refused(&closed), "{closed:?}");
    }

    async fn hold(&mut self, mount: usize, (dir, of): (InodeId, &'static str)) {
        let Some(file) = self.tree[&dir].get(of).copied().filter(|_| self.open.len() < 3) else { return };
        let vfs = &self.mounts[mount];
        let Ok(entry) = vfs.lookup(dir, name(of)).await else { return };
        if let Ok(opened) = vfs.open(entry.attr.inode, RW).await {
            self.open.push((mount, opened.handle, file, self.files[file].1));
        }
    }

    async fn let_go(&mut self) {
        let Some((mount, handle, file, changes)) = self.open.pop() else { return };
        let vfs = &self.mounts[mount];
        let (bytes, changed) = &self.files[file];
        if *changed == changes {
            let found = vfs.read(handle, 0, 1 << 20).await.map(Vec::from);
            assert!(self.is_refused(&found) || found.as_ref() == Ok(bytes), "{found:?} {bytes:?}");
        }
        let closed = close(vfs, handle).await;
        assert!(closed.is_ok() || self.is_refused(&closed), "{closed:?}");
    }

    /// Everybody sees everything.
    async fn check(&mut self, vfs: &Vfs) {
        while !self.open.is_empty() {
            self.let_go().await;
        }
        for (dir, entries) in &self.tree {
            let found = names(vfs, *dir).await;
            assert!(found.iter().map(String::as_str).eq(entries.keys().copied()), "{found:?} {entries:?}");
            for (of, file) in entries {
                assert_eq!(read(vfs, *dir, of).await.as_ref(), Ok(&self.files[*file].0));
                assert_eq!(vfs.lookup(*dir, name(of)).await.unwrap().attr.nlink, self.links(*file));
            }
        }
    }
}

/// `DELEGATED_CASES`: how many, for whoever has time.
fn cases() -> ProptestConfig {
    let cases = std::env::var("DELEGATED_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig { cases: cases.unwrap_or(60), ..ProptestConfig::default() }
}

fn seeds() -> impl Strategy<Value = Vec<[u8; 6]>> {
    prop::collection::vec(any::<[u8; 6]>(), 1..100)
}

fn run(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(work);
}

/// The same where nothing takes time, but what waits for it.
fn run_timeless(work: impl Future<Output = ()>) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().start_paused(true).build().unwrap().block_on(work);
}

type At = (InodeId, &'static str);

/// What a mount that dies may leave behind.
#[derive(Default)]
struct Promises {
    /// What is where, and what was where when everything was synced.
    now: BTreeMap<At, usize>,
    synced: BTreeMap<At, usize>,
    /// Since then: what was where, what was empty at some time, and which files lost their names.
    had: BTreeMap<At, BTreeSet<usize>>,
    vacated: BTreeSet<At>,
    unlinked: BTreeSet<usize>,
    files: Vec<(InodeId, Vec<u8>)>,
}

impl Promises {
    fn put(&mut self, at: At, file: usize) {
        self.had.entry(at).or_default().insert(file);
        self.unlinked.extend(self.now.insert(at, file));
    }

    /// Everything is durable.
    fn sync(&mut self) {
        self.synced = self.now.clone();
        self.had = self.now.iter().map(|(at, file)| (*at, BTreeSet::from([*file]))).collect();
        self.vacated.clear();
        self.unlinked.clear();
    }

    async fn step(&mut self, vfs: &Vfs, dirs: &[InodeId], seed: [u8; 6]) {
        let at = (pick(dirs.iter().copied(), seed[2]), pick(NAMES.into_iter(), seed[3]));
        let to = (pick(dirs.iter().copied(), seed[4]), pick(NAMES.into_iter(), seed[4] / 8));
        match seed[1] % 16 {
            0..4 => {
                let Ok((entry, opened)) = vfs.create(at.0, name(at.1), 0o644, (RW, true), root()).await
                else {
                    return assert!(self.now.contains_key(&at));
                };
                let (file, bytes) = (self.files.len(), vec![seed[4]; usize::from(seed[4])]);
                vfs.write(opened.handle, 0, bytes.clone(), false).await.unwrap();
                self.files.push((entry.attr.inode, bytes));
                self.put(at, file);
                if seed[5].is_multiple_of(2) {
                    vfs.fsync(opened.handle).await.unwrap();
                    self.synced.insert(at, file);
                    self.vacated.remove(&at);
                }
                close(vfs, opened.handle).await.unwrap();
            }
            4..7 => {
                let removed = vfs.unlink(at.0, name(at.1)).await;
                assert_eq!(removed.is_ok(), self.now.contains_key(&at));
                self.unlinked.extend(self.now.remove(&at));
                self.vacated.insert(at);
            }
            7..15 => {
                let moved = rename(vfs, at, to).await;
                assert_eq!(moved.is_ok(), self.now.contains_key(&at));
                if let Some(file) = self.now.get(&at).copied().filter(|_| at != to) {
                    self.now.remove(&at);
                    self.vacated.insert(at);
                    self.put(to, file);
                }
            }
            _ => {
                vfs.sync().await.unwrap();
                self.sync();
            }
        }
    }

    /// What others find when it is dead.
    async fn check(&self, vfs: &Vfs, dirs: &[InodeId]) {
        let mut found = BTreeMap::new();
        for dir in dirs {
            for of in names(vfs, *dir).await {
                let attr = vfs.lookup(*dir, name(&of)).await.unwrap().attr;
                assert_eq!(attr.nlink, 1);
                let file = self.files.iter().position(|(inode, _)| *inode == attr.inode).unwrap();
                found.insert((*dir, NAMES.into_iter().find(|name| *name == of).unwrap()), file);
            }
        }
        for (at, file) in &found {
            assert!(self.had.get(at).is_some_and(|had| had.contains(file)), "{at:?} was never that");
        }
        for (at, file) in &self.synced {
            assert!(self.vacated.contains(at) || found.contains_key(at), "{at:?} was always something");
            if self.unlinked.contains(file) {
                continue;
            }
            let places: Vec<_> = found.iter().filter(|(_, other)| *other == file).collect();
            assert_eq!(places.len(), 1, "{at:?} is lost: {found:?}");
            let (dir, of) = *places[0].0;
            assert_eq!(read(vfs, dir, of).await.as_ref(), Ok(&self.files[*file].1));
        }
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn two_mounts_are_as_one_tree(seeds in seeds(), first in 0usize..2) {
        run(async {
            let world = World::new().await;
            let mounts = vec![world.mount_as(strict()).0, world.mount_as(strict()).0];
            let mut run = Run::new(mounts.clone(), first, None).await;
            for seed in seeds {
                run.step(seed).await;
                // What is in a file must not be garbage.
                world.fs.collect(&*world.data).await.unwrap();
            }
            mounts[0].sync().await.unwrap();
            mounts[1].sync().await.unwrap();
            run.check(&mounts[1]).await;
        });
    }

    #[test]
    fn two_mounts_are_as_one_tree_while_time_passes(seeds in seeds(), first in 0usize..2) {
        run_timeless(async {
            let world = World::new().await;
            let mounts = vec![world.mount_as(strict()).0, world.mount_as(strict()).0];
            let mut run = Run::new(mounts.clone(), first, None).await;
            run.ages = true;
            for seed in seeds {
                run.step(seed).await;
                world.fs.collect(&*world.data).await.unwrap();
            }
            mounts[0].sync().await.unwrap();
            mounts[1].sync().await.unwrap();
            run.check(&mounts[1 - first]).await;
        });
    }

    /// A mount dies: what was synced is there, and each rename was done or not.
    #[test]
    fn what_is_synced_is_never_lost(seeds in seeds(), made_by in 0usize..2) {
        run(async {
            let world = World::new().await;
            let line = Line::new(world.fs.mount());
            let a = Vfs::new(line.clone(), world.data.clone(), strict());
            let b = world.mount_as(strict()).0;
            let mut dirs = Vec::new();
            for path in ["x", "y", "z"] {
                dirs.push(mkdir([&a, &b][made_by], ROOT, path).await.attr.inode);
            }
            let mut promises = Promises::default();
            for seed in seeds {
                promises.step(&a, &dirs, seed).await;
            }
            line.is_cut.store(true, Ordering::Relaxed);
            world.fs.expire(line.inner.id()).unwrap();
            promises.check(&b, &dirs).await;
        });
    }

    /// What could not be published stays as the mount sees it, and is published then.
    #[test]
    fn batches_that_fail_lose_nothing(seeds in seeds()) {
        run(async {
            let world = World::new().await;
            let line = Line::new(world.fs.mount());
            let a = Vfs::new(line.clone(), world.data.clone(), strict());
            let mut run = Run::new(vec![a.clone()], 0, Some(line.clone())).await;
            for seed in seeds {
                run.step(seed).await;
            }
            line.refuses_next.store(0, Ordering::Relaxed);
            a.sync().await.unwrap();
            let b = world.mount_as(strict()).0;
            run.check(&b).await;
        });
    }
}
