//! Directories that are delegated to a mount: what is made there without asking, what others see of it, and what may be lost.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use curvefs_local::LocalMount;
use curvefs_types::{
    Answer, FsError, FsFuture, FsId, InodeId, Kind, LockFamily, LockKind, LockOwner, LockRange, Metadata,
    MountOptions, Op, Query, RenameMode, Reply, SetAttr, SetTime, Usage, XattrName,
};
use curvefs_vfs::{LockWish, Making, OpenMode, SetMode, Vfs};
use proptest::prelude::*;
use support::{ROOT, RW, World, acl, close, mkdir, name, root, strict};

async fn create(vfs: &Vfs, dir: InodeId, path: &str) -> (InodeId, u64) {
    let (entry, opened) = vfs.create(dir, name(path), 0o644, (RW, true), root()).await.unwrap();
    (entry.attr.inode, opened.handle)
}

async fn write(vfs: &Vfs, dir: InodeId, path: &str, bytes: &[u8]) -> InodeId {
    let (inode, handle) = create(vfs, dir, path).await;
    vfs.write(handle, 0, bytes.to_vec(), false).await.unwrap();
    close(vfs, handle).await.unwrap();
    inode
}

async fn read(vfs: &Vfs, dir: InodeId, path: &str) -> Result<Vec<u8>, FsError> {
    let entry = vfs.lookup(dir, name(path)).await?;
    let opened = vfs.open(entry.attr.inode, RW).await?;
    let bytes = vfs.read(opened.handle, 0, 1 << 20).await;
    close(vfs, opened.handle).await?;
    bytes
}

async fn names(vfs: &Vfs, dir: InodeId) -> Vec<String> {
    let handle = vfs.open_dir(dir).await.unwrap();
    let (mut names, mut cookie) = (Vec::new(), 0);
    loop {
        let lines = vfs.read_dir(handle, cookie, true).await.unwrap();
        let Some(last) = lines.last() else { break };
        cookie = last.next;
        names.extend(lines.into_iter().map(|line| String::from_utf8(line.name).unwrap()));
    }
    vfs.release_dir(handle).unwrap();
    names.retain(|name| !name.starts_with('.'));
    names.sort();
    names
}

/// The way to the servers, which can be cut: nothing goes or comes any more. Or nothing can be published.
struct Line {
    inner: Arc<LocalMount>,
    is_cut: AtomicBool,
    refuses: AtomicBool,
    /// So many batches are not made.
    refuses_next: AtomicU32,
    /// There is no room for new files.
    is_full: AtomicBool,
}

impl Line {
    fn new(inner: Arc<LocalMount>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            is_cut: AtomicBool::default(),
            refuses: AtomicBool::default(),
            refuses_next: AtomicU32::default(),
            is_full: AtomicBool::default(),
        })
    }
}

impl Line {
    fn over<'a, T: Send + 'a>(&'a self, call: FsFuture<'a, T>) -> FsFuture<'a, T> {
        Box::pin(async move {
            let is_cut = || self.is_cut.load(Ordering::Relaxed);
            let answer = if is_cut() { None } else { Some(call.await) };
            match answer.filter(|_| !is_cut()) {
                Some(answer) => answer,
                None => std::future::pending().await,
            }
        })
    }
}

impl Metadata for Line {
    fn fs(&self) -> FsId {
        self.inner.fs()
    }

    fn change(&self, op: Op) -> FsFuture<'_, Reply> {
        if let Op::Publish { dirs, .. } = &op {
            let less = |left: u32| left.checked_sub(1);
            let this = self.refuses_next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok();
            let grows = dirs.iter().any(|published| !published.born.is_empty());
            let is_full = grows && self.is_full.load(Ordering::Relaxed);
            if this || is_full || self.refuses.load(Ordering::Relaxed) {
                return Box::pin(async { Err(FsError::NoSpace) });
            }
        }
        self.over(self.inner.change(op))
    }

    fn query(&self, query: Query) -> FsFuture<'_, Answer> {
        self.over(self.inner.query(query))
    }

    fn stat_fs(&self) -> FsFuture<'_, Usage> {
        self.over(self.inner.stat_fs())
    }
}

/// A directory of a mount's that is delegated to it: it has two files.
async fn delegated(vfs: &Vfs, path: &str) -> InodeId {
    let made = vfs.delegations().made;
    let dir = mkdir(vfs, ROOT, path).await.attr.inode;
    for path in ["first", "second"] {
        let (_, handle) = create(vfs, dir, path).await;
        close(vfs, handle).await.unwrap();
    }
    assert_eq!(vfs.delegations().made, made + 1, "the first one is made by the partition");
    dir
}

fn two(world: &World) -> (Vfs, Arc<LocalMount>, Vfs) {
    let (a, meta) = world.mount_as(strict());
    (a, meta, world.mount_as(strict()).0)
}

#[tokio::test]
async fn what_is_made_without_asking_is_seen_by_others_at_once() {
    let world = World::new().await;
    let (a, _, b) = two(&world);
    let dir = delegated(&a, "d").await;
    let stored = world.data.writes();
    let inode = write(&a, dir, "f", b"bytes").await;
    assert_eq!(world.data.writes(), stored, "nobody else can see it yet");
    assert_eq!(a.delegations().unpublished, 2);
    assert_eq!(read(&a, dir, "f").await.unwrap(), b"bytes");
    assert_eq!(a.lookup(dir, name("g")).await, Err(FsError::NotFound));
    let begun = Instant::now();
    assert_eq!(read(&b, dir, "f").await.unwrap(), b"bytes");
    assert!(begun.elapsed() < Duration::from_millis(400), "{:?}", begun.elapsed());
    assert_eq!(names(&b, dir).await, ["f", "first", "second"]);
    let counts = a.delegations();
    assert_eq!((counts.directories, counts.unpublished, counts.recalls), (0, 0, 1));
    let attr = b.get_attr(inode).await.unwrap().0;
    assert_eq!((attr.length, attr.nlink, attr.parent), (5, 1, dir));
    let (_, handle) = create(&a, dir, "g").await;
    close(&a, handle).await.unwrap();
    assert_eq!(names(&b, dir).await, ["f", "first", "g", "second"]);
}

#[tokio::test]
async fn others_make_files_in_a_delegated_directory() {
    let world = World::new().await;
    let (a, _, b) = two(&world);
    let dir = delegated(&a, "d").await;
    write(&a, dir, "mine", b"1").await;
    write(&b, dir, "theirs", b"2").await;
    assert_eq!(b.create(dir, name("mine"), 0o644, (RW, true), root()).await.unwrap_err(), FsError::Exists);
    for vfs in [&a, &b] {
        assert_eq!(names(vfs, dir).await, ["first", "mine", "second", "theirs"]);
        assert_eq!(read(vfs, dir, "mine").await.unwrap(), b"1");
        assert_eq!(read(vfs, dir, "theirs").await.unwrap(), b"2");
    }
}

#[tokio::test]
async fn who_made_a_file_can_do_everything_with_it() {
    let world = World::new().await;
    let (a, _, b) = two(&world);
    let dir = delegated(&a, "d").await;
    let at = |path: &str| (dir, name(path));
    let inode = write(&a, dir, "moved", b"moved").await;
    a.rename(at("moved"), at("there"), RenameMode::NoReplace).await.unwrap();
    write(&a, dir, "linked", b"linked").await;
    let linked = a.lookup(dir, name("linked")).await.unwrap().attr.inode;
    assert_eq!(a.link(linked, ROOT, name("other")).await.unwrap().attr.nlink, 2);
    assert_eq!(read(&b, ROOT, "other").await.unwrap(), b"linked", "its bytes were stored before");
    write(&a, dir, "gone", b"gone").await;
    a.unlink(dir, name("gone")).await.unwrap();
    assert_eq!(a.mkdir(dir, name("there"), 0o755, root(), None).await.unwrap_err(), FsError::Exists);
    let (_, handle) = create(&a, dir, "cut").await;
    a.write(handle, 0, b"0123456789".to_vec(), false).await.unwrap();
    a.fsync(handle).await.unwrap();
    let (cut, opened) = a.create(dir, name("cut2"), 0o644, (RW, true), root()).await.unwrap();
    a.write(opened.handle, 0, b"0123456789".to_vec(), false).await.unwrap();
    assert_eq!(a.truncate(cut.attr.inode, 4, false).await.unwrap().0.length, 4);
    a.truncate(cut.attr.inode, 8, false).await.unwrap();
    for handle in [handle, opened.handle] {
        close(&a, handle).await.unwrap();
    }
    assert_eq!(names(&a, dir).await, ["cut", "cut2", "first", "linked", "second", "there"]);
    assert_eq!(read(&b, dir, "cut2").await.unwrap(), b"0123\0\0\0\0");
    assert_eq!(b.lookup(dir, name("there")).await.unwrap().attr.inode, inode);
    assert_eq!(read(&b, dir, "there").await.unwrap(), b"moved");
}

#[tokio::test]
async fn a_new_file_is_renamed_and_removed_without_asking() {
    let world = World::new().await;
    let (a, _, b) = two(&world);
    let (d, e) = (delegated(&a, "d").await, delegated(&a, "e").await);
    let before = a.delegations();
    let kept = write(&a, d, "tmp", b"new").await;
    write(&a, e, "final", b"old").await;
    let no_replace = a.rename((d, name("tmp")), (e, name("final")), RenameMode::NoReplace).await;
    assert_eq!(no_replace, Err(FsError::Exists));
    a.rename((d, name("tmp")), (e, name("final")), RenameMode::Replace).await.unwrap();
    a.rename((e, name("final")), (e, name("final")), RenameMode::Replace).await.unwrap();
    write(&a, d, "gone", &[7; 3000]).await;
    a.unlink(d, name("gone")).await.unwrap();
    assert_eq!(a.unlink(d, name("gone")).await, Err(FsError::NotFound));
    assert_eq!(a.lookup(d, name("tmp")).await, Err(FsError::NotFound));
    assert_eq!(a.unpublished_bytes(), 3, "bytes of what is gone are");
    let counts = a.delegations();
    assert_eq!((counts.batches, counts.unpublished), (before.batches, before.unpublished + 1));
    let attr = a.get_attr(kept).await.unwrap().0;
    assert_eq!((attr.parent, attr.length, attr.nlink), (e, 3, 1));
    let mtime = a.get_attr(d).await.unwrap().0.mtime;
    for vfs in [&b, &a] {
        assert_eq!(read(vfs, e, "final").await.unwrap(), b"new");
        assert_eq!(vfs.lookup(e, name("final")).await.unwrap().attr.inode, kept);
        assert_eq!(names(vfs, d).await, ["first", "second"]);
        assert_eq!(vfs.get_attr(d).await.unwrap().0.mtime, mtime);
    }
    assert_eq!(a.unpublished_bytes(), 0);
    world.fs.collect(&*world.data).await.unwrap();
    assert!(world.data.slices() <= 1, "nothing of what went was stored");
}

#[tokio::test]
async fn a_new_file_that_is_open_outlives_its_name() {
    let world = World::new().await;
    let (a, _, b) = two(&world);
    let dir = delegated(&a, "d").await;
    let mut handles = Vec::new();
    for (path, replace) in [("x", false), ("y", true)] {
        let (inode, handle) = create(&a, dir, path).await;
        a.write(handle, 0, b"kept".to_vec(), false).await.unwrap();
        if replace {
            write(&a, dir, "z", b"z").await;
            a.rename((dir, name("z")), (dir, name(path)), RenameMode::Replace).await.unwrap();
        } else {
            a.unlink(dir, name(path)).await.unwrap();
        }
        assert_eq!(a.get_attr(inode).await.unwrap().0.nlink, 0);
        handles.push(handle);
    }
    assert_eq!(names(&b, dir).await, ["first", "second", "y"]);
    for handle in handles {
        a.fsync(handle).await.unwrap();
        assert_eq!(a.read(handle, 0, 9).await.unwrap(), b"kept");
        close(&a, handle).await.unwrap();
    }
    assert_eq!(read(&b, dir, "y").await.unwrap(), b"z");
}

#[tokio::test]
async fn links_and_pipes_are_made_without_asking() {
    let world = World::new().await;
    let (a, _, b) = two(&world);
    let dir = delegated(&a, "d").await;
    let made = a.delegations().made;
    let link = Making { kind: Kind::Symlink, mode: 0o777, rdev: 0, target: "over/there".into() };
    let entry = a.make(dir, name("link"), link.clone(), root()).await.unwrap();
    assert_eq!((entry.attr.kind, entry.attr.length), (Kind::Symlink, 10));
    let fifo = Making { kind: Kind::Fifo, target: Default::default(), ..link.clone() };
    let pipe = a.make(dir, name("pipe"), fifo, root()).await.unwrap().attr.inode;
    let tape = Making { kind: Kind::CharDevice, rdev: 5, target: Default::default(), ..link.clone() };
    a.make(dir, name("tape"), tape, root()).await.unwrap();
    assert_eq!(a.delegations().made, made + 3);
    let long = Making { target: vec![b'x'; 4096].into(), ..link.clone() };
    assert_eq!(a.make(dir, name("long"), long, root()).await, Err(FsError::NameTooLong));
    assert_eq!(a.create(dir, name("link"), 0o644, (RW, true), root()).await.unwrap_err(), FsError::Exists);
    assert_eq!(a.read_link(entry.attr.inode).await.unwrap(), "over/there");
    assert_eq!(a.read_link(pipe).await, Err(FsError::Invalid));
    a.rename((dir, name("link")), (dir, name("moved")), RenameMode::Replace).await.unwrap();
    assert_eq!(names(&b, dir).await, ["first", "moved", "pipe", "second", "tape"]);
    assert_eq!(b.read_link(entry.attr.inode).await.unwrap(), "over/there");
    assert_eq!(b.lookup(dir, name("tape")).await.unwrap().attr.rdev, 5);
}

#[tokio::test]
async fn a_delegated_directory_is_removed_when_it_is_empty() {
    let world = World::new().await;
    let (a, _, b) = two(&world);
    let dir = delegated(&a, "d").await;
    assert_eq!(a.rmdir(ROOT, name("d")).await, Err(FsError::NotEmpty));
    let other = mkdir(&a, ROOT, "e").await.attr.inode;
    for path in ["x", "y"] {
        let (_, handle) = create(&a, other, path).await;
        close(&a, handle).await.unwrap();
    }
    a.unlink(other, name("x")).await.unwrap();
    assert_eq!(b.rmdir(ROOT, name("e")).await, Err(FsError::NotEmpty), "what is not published counts");
    a.unlink(other, name("y")).await.unwrap();
    b.rmdir(ROOT, name("e")).await.unwrap();
    for path in ["first", "second"] {
        a.unlink(dir, name(path)).await.unwrap();
    }
    a.rmdir(ROOT, name("d")).await.unwrap();
    let dir = delegated(&a, "g").await;
    for path in ["first", "second"] {
        a.unlink(dir, name(path)).await.unwrap();
    }
    // Under another name than it was made with.
    a.rename((ROOT, name("g")), (ROOT, name("g2")), RenameMode::Replace).await.unwrap();
    assert_eq!(a.delegations().directories, 1);
    a.rmdir(ROOT, name("g2")).await.unwrap();
    assert_eq!(names(&b, ROOT).await, [""; 0]);
}

#[tokio::test]
async fn what_is_synced_outlives_a_mount_that_dies_and_the_rest_does_not() {
    let world = World::new().await;
    let line = Line::new(world.fs.mount());
    let a = Vfs::new(line.clone(), world.data.clone(), strict());
    let b = world.mount_as(strict()).0;
    let dir = delegated(&a, "d").await;
    let (_, handle) = create(&a, dir, "synced").await;
    a.write(handle, 0, b"kept".to_vec(), false).await.unwrap();
    a.fsync(handle).await.unwrap();
    write(&a, dir, "lost", b"lost").await;
    let by_dir = mkdir(&a, ROOT, "e").await.attr.inode;
    for path in ["x", "y"] {
        write(&a, by_dir, path, b"").await;
    }
    let opened = a.open_dir(by_dir).await.unwrap();
    a.fsync_dir(opened).await.unwrap();
    // It dies: nothing is published, nobody answers.
    line.is_cut.store(true, Ordering::Relaxed);
    let begun = Instant::now();
    assert_eq!(names(&b, dir).await, ["first", "second", "synced"]);
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert_eq!(read(&b, dir, "synced").await.unwrap(), b"kept");
    world.fs.expire(line.inner.id()).unwrap();
    assert_eq!(names(&b, by_dir).await, ["x", "y"]);
    write(&b, dir, "lost", b"again").await;
}

#[tokio::test]
async fn what_is_lost_is_told_at_fsync_and_at_close() {
    let world = World::new().await;
    let (a, meta, b) = two(&world);
    let dir = delegated(&a, "d").await;
    let (inode, handle) = create(&a, dir, "open").await;
    a.write(handle, 0, b"1".to_vec(), false).await.unwrap();
    let (_, clean) = create(&a, dir, "clean").await;
    world.fs.revoke(dir, meta.id()).unwrap();
    assert_eq!(a.fsync(handle).await, Err(FsError::Revoked));
    assert_eq!(a.fsync(clean).await, Err(FsError::Revoked));
    assert_eq!(close(&a, clean).await, Ok(()), "it was told");
    a.write(handle, 0, b"2".to_vec(), false).await.unwrap();
    assert_eq!(close(&a, handle).await, Err(FsError::Revoked));
    assert_eq!(a.get_attr(inode).await.unwrap_err(), FsError::NotFound);
    assert_eq!(a.delegations().lost, 3, "the second one of the beginning, too");
    assert_eq!(a.delegations().directories, 0);
    assert_eq!(names(&b, dir).await, ["first"]);
    write(&a, dir, "open", b"new").await;
    assert_eq!(read(&b, dir, "open").await.unwrap(), b"new");
}

#[tokio::test]
async fn a_fenced_mount_publishes_nothing() {
    let world = World::new().await;
    let (a, meta, b) = two(&world);
    let dir = delegated(&a, "d").await;
    let (_, handle) = create(&a, dir, "f").await;
    world.fs.expire(meta.id()).unwrap();
    assert_eq!(a.fsync(handle).await, Err(FsError::Fenced));
    assert_eq!(names(&b, dir).await, ["first"]);
}

#[tokio::test]
async fn it_is_published_within_a_second() {
    let world = World::new().await;
    let (a, _, _) = two(&world);
    let dir = delegated(&a, "d").await;
    write(&a, dir, "f", b"bytes").await;
    let begun = Instant::now();
    while a.delegations().unpublished > 0 {
        assert!(begun.elapsed() < Duration::from_secs(2));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!((a.unpublished_bytes(), a.delegations().directories), (0, 1));
    assert_eq!(a.delegations().batches, 1);
}

#[tokio::test]
async fn thousands_are_made_in_few_batches() {
    let world = World::new().await;
    let (a, _, b) = two(&world);
    let dir = delegated(&a, "d").await;
    for n in 0..12_000 {
        let (_, handle) = create(&a, dir, &format!("f{n:05}")).await;
        close(&a, handle).await.unwrap();
        assert!(a.delegations().unpublished <= 8192);
    }
    a.sync().await.unwrap();
    let counts = a.delegations();
    assert_eq!((counts.made, counts.unpublished), (12_001, 0));
    assert!(counts.batches < 200, "{counts:?}");
    assert_eq!(names(&b, dir).await.len(), 12_002);
}

#[tokio::test]
async fn small_files_share_objects() {
    let world = World::new().await;
    let (a, _, b) = two(&world);
    let dir = delegated(&a, "d").await;
    let bytes = |n: usize| vec![n as u8; 1 + n * 3];
    for n in 0..700 {
        write(&a, dir, &format!("f{n}"), &bytes(n)).await;
    }
    write(&a, dir, "large", &[1; 200 << 10]).await;
    a.sync().await.unwrap();
    assert_eq!((a.unpublished_bytes(), world.data.writes()), (0, 1), "the large one has slices of its own");
    assert!(world.data.slices() <= 6, "{} slices", world.data.slices());
    for n in (0..700).filter(|n| n % 7 != 0) {
        b.unlink(dir, name(&format!("f{n}"))).await.unwrap();
    }
    world.fs.collect(&*world.data).await.unwrap();
    for n in (0..700).step_by(7) {
        assert_eq!(read(&b, dir, &format!("f{n}")).await.unwrap(), bytes(n), "{n}");
        b.unlink(dir, name(&format!("f{n}"))).await.unwrap();
    }
    b.unlink(dir, name("large")).await.unwrap();
    a.shutdown().await.unwrap();
    b.shutdown().await.unwrap();
    world.fs.collect(&*world.data).await.unwrap();
    assert_eq!(world.data.slices(), 0);
}

#[tokio::test]
async fn a_file_whose_mode_is_set_with_its_bytes_and_that_has_an_acl_is_stored_by_itself() {
    let world = World::new().await;
    let (a, _, b) = two(&world);
    let dir = delegated(&a, "d").await;
    let none = u32::MAX;
    let default = acl(&[(1, 7, none), (2, 7, 1000), (4, 5, none), (16, 7, none), (32, 0, none)]);
    let default_name = XattrName::try_from("system.posix_acl_default").unwrap();
    a.set_xattr(dir, default_name, default, SetMode::Any).await.unwrap();
    let (inode, handle) = create(&a, dir, "f").await;
    a.write(handle, 0, b"bytes".to_vec(), false).await.unwrap();
    a.set_attr(inode, SetAttr { mode: Some(0o640), ..SetAttr::default() }).await.unwrap();
    close(&a, handle).await.unwrap();
    assert_eq!(a.delegations().unpublished, 2);
    assert_eq!(read(&b, dir, "f").await.unwrap(), b"bytes");
    assert_eq!(b.get_attr(inode).await.unwrap().0.mode, 0o640);
    assert_eq!(a.unpublished_bytes(), 0);
}

#[tokio::test]
async fn a_closed_file_is_whole_whatever_publishes_it() {
    let world = World::new().await;
    let (a, _, b) = two(&world);
    let dir = delegated(&a, "d").await;
    let of = |what: &str| name(&format!("closed, then {what}"));
    for what in [
        "an attribute is set",
        "one is removed",
        "a lock is asked for",
        "a lock is taken",
        "it is linked",
        "it is moved",
    ] {
        let inode = write(&a, dir, &String::from_utf8_lossy(of(what).as_bytes()), b"bytes").await;
        let user = XattrName::try_from("user.x").unwrap();
        let wish = LockWish {
            owner: LockOwner(1),
            pid: 1,
            family: LockFamily::Posix,
            kind: LockKind::Read,
            range: LockRange::new(0, 9).unwrap(),
        };
        match what {
            "an attribute is set" => a.set_xattr(inode, user, Bytes::new(), SetMode::Any).await.unwrap(),
            "one is removed" => assert!(a.remove_xattr(inode, user).await.is_err()),
            "a lock is asked for" => assert_eq!(a.get_lock(inode, wish).await, Ok(None)),
            "a lock is taken" => a.lock(inode, wish).await.unwrap(),
            "it is linked" => drop(a.link(inode, ROOT, of(what)).await.unwrap()),
            _ => a.rename((dir, of(what)), (ROOT, of(what)), RenameMode::Replace).await.unwrap(),
        }
        // As it is published: nobody asks for it back.
        let Answer::Attrs { attrs } = meta_of(&world, inode).await else { panic!("{what}") };
        assert_eq!(attrs[0].length, 5, "{what}");
        assert_eq!(b.get_attr(inode).await.unwrap().0.length, 5, "{what}");
    }
}

async fn meta_of(world: &World, inode: InodeId) -> Answer {
    world.fs.mount().query(Query::GetAttr { inode }).await.unwrap()
}

#[tokio::test]
async fn what_was_written_and_appended_is_seen_with_the_name() {
    let world = World::new().await;
    let (a, _, b) = two(&world);
    let dir = delegated(&a, "d").await;
    let inode = write(&a, dir, "f", b"written").await;
    let opened = a.open(inode, OpenMode { append: true, ..RW }).await.unwrap();
    a.write(opened.handle, 7, b", appended".to_vec(), false).await.unwrap();
    close(&a, opened.handle).await.unwrap();
    assert_eq!(read(&b, dir, "f").await.unwrap(), b"written, appended");
}

#[tokio::test]
async fn files_of_one_object_are_published_together_or_not_at_all() {
    let world = World::new().await;
    let line = Line::new(world.fs.mount());
    let a = Vfs::new(line.clone(), world.data.clone(), strict());
    let b = world.mount_as(strict()).0;
    let dir = delegated(&a, "d").await;
    let inodes: Vec<InodeId> = {
        let mut inodes = Vec::new();
        for n in 0..200 {
            inodes.push(write(&a, dir, &format!("f{n}"), format!("bytes {n}").as_bytes()).await);
        }
        inodes
    };
    line.refuses.store(true, Ordering::Relaxed);
    let handle = a.open_dir(dir).await.unwrap();
    assert_eq!(a.fsync_dir(handle).await, Err(FsError::NoSpace));
    a.release_dir(handle).unwrap();
    assert!(a.delegations().unpublished >= 200 && a.unpublished_bytes() > 200 * 7);
    line.refuses.store(false, Ordering::Relaxed);
    // One goes alone, and is deleted with all that it was stored in.
    let opened = a.open(inodes[3], RW).await.unwrap();
    a.fsync(opened.handle).await.unwrap();
    close(&a, opened.handle).await.unwrap();
    a.unlink(dir, name("f3")).await.unwrap();
    world.fs.store_staged(&*world.data).await.unwrap();
    world.fs.collect(&*world.data).await.unwrap();
    a.sync().await.unwrap();
    world.fs.collect(&*world.data).await.unwrap();
    for n in (0..200).filter(|n| *n != 3) {
        assert_eq!(read(&b, dir, &format!("f{n}")).await.unwrap(), format!("bytes {n}").as_bytes());
    }
}

#[tokio::test]
async fn times_are_as_they_were_set() {
    let world = World::new().await;
    let (a, _, b) = two(&world);
    let dir = delegated(&a, "d").await;
    let inode = write(&a, dir, "f", b"bytes").await;
    let at = |ns| SetAttr { mtime: Some(SetTime::To { ns }), ..SetAttr::default() };
    let set = a.set_attr(inode, SetAttr { mode: Some(0o600), ..at(7) }).await.unwrap().0;
    assert_eq!((set.mtime, set.mode, set.length), (7, 0o600, 5));
    let shown = a.set_attr(dir, SetAttr { mode: Some(0o700), ..at(5) }).await.unwrap().0;
    assert_eq!((shown.mtime, shown.mode), (5, 0o700));
    assert_eq!(a.get_attr(dir).await.unwrap().0.mtime, 5);
    assert!(a.delegations().unpublished > 0, "that is published with the files");
    for vfs in [&b, &a] {
        let (dir, file) = (vfs.get_attr(dir).await.unwrap().0, vfs.get_attr(inode).await.unwrap().0);
        assert_eq!((dir.mtime, dir.mode, file.mtime, file.mode, file.length), (5, 0o700, 7, 0o600, 5));
    }
    let dir = delegated(&a, "e").await;
    write(&a, dir, "f", b"bytes").await;
    a.rename((ROOT, name("e")), (ROOT, name("g")), RenameMode::Replace).await.unwrap();
    assert_eq!(a.set_attr(dir, at(9)).await.unwrap().0.mtime, 9);
    assert_eq!(a.get_attr(dir).await.unwrap().0.mtime, 9, "the directory was moved before");
}

#[tokio::test]
async fn a_store_that_fails_keeps_no_name_back() {
    let world = World::new().await;
    let unstaged = MountOptions { stage_bytes: 0, ..strict() };
    let (a, b) = (world.mount_as(unstaged).0, world.mount_as(strict()).0);
    let dir = delegated(&a, "d").await;
    let (_, handle) = create(&a, dir, "f").await;
    a.write(handle, 0, b"bytes".to_vec(), false).await.unwrap();
    world.data.fail(Some(FsError::StoreRefused));
    close(&a, handle).await.unwrap();
    assert_eq!(names(&b, dir).await, ["f", "first", "second"]);
    assert_eq!(read(&a, dir, "f").await.unwrap_err(), FsError::StoreRefused, "told at close");
    world.data.fail(None);
    a.sync().await.unwrap();
    assert_eq!(read(&b, dir, "f").await.unwrap(), b"bytes");
}

#[tokio::test]
async fn a_new_file_with_few_bytes_is_synced_without_the_store() {
    let world = World::new().await;
    let (a, _, b) = two(&world);
    let dir = delegated(&a, "d").await;
    world.data.fail(Some(FsError::StoreRefused));
    let (_, handle) = create(&a, dir, "f").await;
    a.write(handle, 0, b"bytes".to_vec(), false).await.unwrap();
    a.fsync(handle).await.unwrap();
    assert_eq!((a.unpublished_bytes(), a.delegations().unpublished), (0, 0));
    close(&a, handle).await.unwrap();
    assert_eq!(read(&b, dir, "f").await.unwrap(), b"bytes");
}

#[tokio::test]
async fn the_next_process_finds_everything_published() {
    let world = World::new().await;
    let (a, meta, b) = two(&world);
    let dir = delegated(&a, "d").await;
    let (inode, handle) = create(&a, dir, "f").await;
    a.write(handle, 0, b"bytes".to_vec(), false).await.unwrap();
    let told = a.rest().await.unwrap();
    assert_eq!(a.delegations().directories, 0);
    drop(a);
    let next = Vfs::take_over(meta, world.data.clone(), strict(), told);
    next.go_on();
    b.unlink(dir, name("f")).await.unwrap();
    assert_eq!(next.read(handle, 0, 9).await.unwrap(), b"bytes", "it is held open");
    close(&next, handle).await.unwrap();
    assert_eq!(next.get_attr(inode).await.unwrap_err(), FsError::NotFound);
}

#[tokio::test]
async fn an_end_publishes_everything_and_an_option_turns_it_off() {
    let world = World::new().await;
    let (a, meta, b) = two(&world);
    let dir = delegated(&a, "d").await;
    write(&a, dir, "f", b"bytes").await;
    a.shutdown().await.unwrap();
    let answer = meta.query(Query::Lookup { parent: dir, name: name("f") }).await.unwrap();
    assert!(matches!(answer, Answer::Entry { attr: Some(attr), .. } if attr.length == 5));
    assert_eq!(read(&b, dir, "f").await.unwrap(), b"bytes");
    let off = world.mount_as(MountOptions { delegate: false, ..strict() }).0;
    let dir = mkdir(&off, ROOT, "off").await.attr.inode;
    for path in ["1", "2", "3"] {
        write(&off, dir, path, b"").await;
    }
    assert_eq!(off.delegations(), Default::default());
}

/// A directory of a mount's with published files.
async fn with_files(vfs: &Vfs, path: &str, of: &[&str]) -> (InodeId, Vec<InodeId>) {
    let dir = delegated(vfs, path).await;
    let mut inodes = Vec::new();
    for path in of {
        inodes.push(write(vfs, dir, path, path.as_bytes()).await);
    }
    vfs.sync().await.unwrap();
    (dir, inodes)
}

async fn fsync_dir(vfs: &Vfs, dir: InodeId) -> Result<(), FsError> {
    let handle = vfs.open_dir(dir).await.unwrap();
    let synced = vfs.fsync_dir(handle).await;
    vfs.release_dir(handle).unwrap();
    synced
}

async fn rename(vfs: &Vfs, from: (InodeId, &str), to: (InodeId, &str)) -> Result<(), FsError> {
    vfs.rename((from.0, name(from.1)), (to.0, name(to.1)), RenameMode::Replace).await
}

#[tokio::test]
async fn published_names_move_and_go_without_asking() {
    let world = World::new().await;
    let (a, _, b) = two(&world);
    let (d, inodes) = with_files(&a, "d", &["1", "2", "3", "4", "5"]).await;
    let (e, _) = with_files(&a, "e", &["6"]).await;
    let before = a.delegations();
    for (from, to) in [("1", "tmp"), ("2", "1"), ("tmp", "2")] {
        rename(&a, (d, from), (d, to)).await.unwrap();
    }
    rename(&a, (d, "3"), (e, "6")).await.unwrap();
    rename(&a, (e, "6"), (e, "7")).await.unwrap();
    rename(&a, (e, "7"), (d, "3")).await.unwrap();
    rename(&a, (d, "3"), (e, "8")).await.unwrap();
    a.unlink(d, name("4")).await.unwrap();
    a.unlink(d, name("5")).await.unwrap();
    write(&a, d, "5", b"new").await;
    assert_eq!(rename(&a, (d, "4"), (d, "9")).await, Err(FsError::NotFound));
    let exists = a.rename((d, name("1")), (d, name("5")), RenameMode::NoReplace).await;
    assert_eq!(exists, Err(FsError::Exists));
    let counts = a.delegations();
    assert_eq!((counts.batches, counts.moved), (before.batches, 6));
    assert_eq!(a.lookup(d, name("2")).await.unwrap().attr.inode, inodes[0]);
    assert_eq!(a.lookup(d, name("4")).await, Err(FsError::NotFound));
    assert_eq!(a.lookup(e, name("8")).await.unwrap().attr.parent, e);
    assert_eq!(read(&a, d, "5").await.unwrap(), b"new");
    assert_eq!(a.delegations().batches, before.batches);
    let ctime = a.get_attr(inodes[0]).await.unwrap().0.ctime;
    for vfs in [&b, &a] {
        assert_eq!(names(vfs, d).await, ["1", "2", "5", "first", "second"]);
        assert_eq!(names(vfs, e).await, ["8", "first", "second"]);
        for (dir, of, bytes) in [(d, "1", "2"), (d, "2", "1"), (d, "5", "new"), (e, "8", "3")] {
            assert_eq!(read(vfs, dir, of).await.unwrap(), bytes.as_bytes());
        }
        assert_eq!(vfs.get_attr(inodes[0]).await.unwrap().0.ctime, ctime);
        // A file that was open a moment ago is held until the mount says otherwise.
        let gone = vfs.get_attr(inodes[3]).await;
        assert!(gone == Err(FsError::NotFound) || gone.is_ok_and(|(attr, _)| attr.nlink == 0));
    }
    assert_eq!(a.delegations().moved, 0);
}

#[tokio::test]
async fn moves_that_are_synced_outlive_a_mount_that_dies_and_others_did_not_happen() {
    let world = World::new().await;
    let line = Line::new(world.fs.mount());
    let a = Vfs::new(line.clone(), world.data.clone(), strict());
    let b = world.mount_as(strict()).0;
    let (d, _) = with_files(&a, "d", &["1", "2", "3", "4"]).await;
    let (e, _) = with_files(&a, "e", &["5"]).await;
    rename(&a, (d, "1"), (d, "one")).await.unwrap();
    a.unlink(d, name("2")).await.unwrap();
    fsync_dir(&a, d).await.unwrap();
    rename(&a, (d, "3"), (e, "three")).await.unwrap();
    let three = a.lookup(e, name("three")).await.unwrap().attr.inode;
    let opened = a.open(three, RW).await.unwrap();
    a.fsync(opened.handle).await.unwrap();
    assert_eq!(a.delegations().moved, 0);
    rename(&a, (d, "4"), (e, "5")).await.unwrap();
    a.unlink(e, name("three")).await.unwrap();
    line.is_cut.store(true, Ordering::Relaxed);
    world.fs.expire(line.inner.id()).unwrap();
    assert_eq!(names(&b, d).await, ["4", "first", "one", "second"]);
    assert_eq!(names(&b, e).await, ["5", "first", "second"], "the open one was removed at once");
    assert_eq!(read(&b, e, "5").await.unwrap(), b"5");
}

#[tokio::test]
async fn moves_that_are_lost_are_told_at_fsync() {
    let world = World::new().await;
    let (a, meta, b) = two(&world);
    let (d, inodes) = with_files(&a, "d", &["1", "2", "3"]).await;
    let (e, _) = with_files(&a, "e", &["4"]).await;
    rename(&a, (d, "1"), (e, "4")).await.unwrap();
    rename(&a, (d, "2"), (d, "1")).await.unwrap();
    rename(&a, (e, "4"), (e, "5")).await.unwrap();
    a.unlink(d, name("3")).await.unwrap();
    let opened = a.open(inodes[0], RW).await.unwrap();
    world.fs.revoke(e, meta.id()).unwrap();
    assert_eq!(fsync_dir(&a, e).await, Err(FsError::Revoked));
    assert_eq!(a.fsync(opened.handle).await, Err(FsError::Revoked));
    assert_eq!(a.fsync(opened.handle).await, Ok(()), "it was told");
    close(&a, opened.handle).await.unwrap();
    for vfs in [&a, &b] {
        // What had followed it to its place went back with it.
        assert_eq!(names(vfs, d).await, ["1", "2", "first", "second"]);
        assert_eq!(read(vfs, d, "1").await.unwrap(), b"1");
        assert_eq!(names(vfs, e).await, ["4", "first", "second"]);
        assert_eq!(read(vfs, e, "4").await.unwrap(), b"4");
    }
}

#[tokio::test]
async fn a_published_file_that_is_open_outlives_its_name() {
    let world = World::new().await;
    let (a, _, b) = two(&world);
    let (d, inodes) = with_files(&a, "d", &["1", "2", "3"]).await;
    let (open, dirty) = (a.open(inodes[0], RW).await.unwrap(), a.open(inodes[1], RW).await.unwrap());
    a.write(dirty.handle, 0, b"dirty".to_vec(), false).await.unwrap();
    a.unlink(d, name("1")).await.unwrap();
    rename(&a, (d, "3"), (d, "2")).await.unwrap();
    assert_eq!(names(&b, d).await, ["2", "first", "second"]);
    assert_eq!(read(&b, d, "2").await.unwrap(), b"3");
    for (handle, bytes) in [(open.handle, b"1".to_vec()), (dirty.handle, b"dirty".to_vec())] {
        assert_eq!(a.read(handle, 0, 9).await.unwrap(), bytes);
        close(&a, handle).await.unwrap();
    }
    for inode in &inodes[..2] {
        assert_eq!(b.get_attr(*inode).await.unwrap_err(), FsError::NotFound);
    }
}

#[tokio::test]
async fn links_are_counted_when_names_go_without_asking() {
    let world = World::new().await;
    let (a, _, b) = two(&world);
    let (d, inodes) = with_files(&a, "d", &["1", "2"]).await;
    a.link(inodes[0], d, name("again")).await.unwrap();
    b.link(inodes[1], ROOT, name("elsewhere")).await.unwrap();
    // Which b had to have it back for.
    a.sync().await.unwrap();
    let (e, others) = with_files(&a, "e", &["3", "4"]).await;
    a.link(others[0], e, name("again")).await.unwrap();
    a.link(others[1], ROOT, name("four")).await.unwrap();
    rename(&a, (e, "3"), (e, "again")).await.unwrap();
    a.unlink(e, name("3")).await.unwrap();
    a.unlink(e, name("4")).await.unwrap();
    assert_eq!(a.get_attr(others[0]).await.unwrap().0.nlink, 1);
    assert_eq!(a.get_attr(others[1]).await.unwrap().0.nlink, 1);
    assert_eq!(names(&b, e).await, ["again", "first", "second"]);
    assert_eq!(read(&b, ROOT, "four").await.unwrap(), b"4");
    a.unlink(e, name("again")).await.unwrap();
    assert_eq!(a.link(others[0], ROOT, name("late")).await, Err(FsError::NotFound));
    assert_eq!(a.get_attr(others[0]).await.unwrap_err(), FsError::NotFound);
}

#[tokio::test]
async fn anything_is_made_where_a_name_was() {
    let world = World::new().await;
    let (a, _, b) = two(&world);
    let (d, _) = with_files(&a, "d", &["1", "2", "3", "4"]).await;
    for of in ["1", "2", "3"] {
        a.unlink(d, name(of)).await.unwrap();
    }
    rename(&a, (d, "4"), (d, "5")).await.unwrap();
    write(&a, d, "1", b"again").await;
    mkdir(&a, d, "2").await;
    let linked = a.lookup(d, name("5")).await.unwrap().attr.inode;
    assert_eq!(a.link(linked, d, name("5")).await, Err(FsError::Exists));
    a.link(linked, d, name("3")).await.unwrap();
    let opened = a.create(d, name("5"), 0o644, (RW, false), root()).await.unwrap();
    assert_eq!(opened.0.attr.inode, linked);
    close(&a, opened.1.handle).await.unwrap();
    assert_eq!(rename(&a, (d, "1"), (d, "2")).await, Err(FsError::IsDir));
    assert_eq!(a.unlink(d, name("2")).await, Err(FsError::IsDir));
    assert_eq!(names(&b, d).await, ["1", "2", "3", "5", "first", "second"]);
    assert_eq!(read(&b, d, "1").await.unwrap(), b"again");
}

#[tokio::test]
async fn names_go_though_there_is_no_room_for_new_files() {
    let world = World::new().await;
    let line = Line::new(world.fs.mount());
    let a = Vfs::new(line.clone(), world.data.clone(), strict());
    let b = world.mount_as(strict()).0;
    let (d, _) = with_files(&a, "d", &["1", "2", "3"]).await;
    line.is_full.store(true, Ordering::Relaxed);
    write(&a, d, "new", b"").await;
    a.unlink(d, name("1")).await.unwrap();
    assert_eq!(fsync_dir(&a, d).await, Err(FsError::NoSpace));
    a.unlink(d, name("2")).await.unwrap();
    rename(&a, (d, "3"), (d, "4")).await.unwrap();
    assert_eq!(fsync_dir(&a, d).await, Err(FsError::NoSpace));
    assert_eq!(a.delegations().moved, 0, "what makes room is published");
    line.is_full.store(false, Ordering::Relaxed);
    assert_eq!(names(&b, d).await, ["4", "first", "new", "second"]);
}

#[tokio::test]
async fn a_directory_of_somebody_else_is_asked_for_by_who_works_in_it() {
    let world = World::new().await;
    let (a, _, b) = two(&world);
    let (d, inodes) = with_files(&a, "d", &["1", "2", "3", "4", "5"]).await;
    mkdir(&a, d, "sub").await;
    b.unlink(d, name("1")).await.unwrap();
    rename(&b, (d, "2"), (d, "two")).await.unwrap();
    assert_eq!((b.delegations().directories, a.delegations().directories), (0, 0));
    rename(&b, (d, "3"), (d, "4")).await.unwrap();
    assert_eq!(b.delegations().directories, 1);
    write(&b, d, "new", b"new").await;
    assert_eq!(b.create(d, name("5"), 0o644, (RW, true), root()).await.unwrap_err(), FsError::Exists);
    assert_eq!(b.mkdir(d, name("sub"), 0o755, root(), None).await.unwrap_err(), FsError::Exists);
    assert_eq!(rename(&b, (d, "5"), (d, "sub")).await, Err(FsError::IsDir));
    rename(&b, (d, "5"), (d, "five")).await.unwrap();
    assert_eq!(b.lookup(d, name("5")).await, Err(FsError::NotFound));
    assert_eq!(b.lookup(d, name("five")).await.unwrap().attr.inode, inodes[4]);
    let counts = b.delegations();
    assert_eq!((counts.batches, counts.unpublished, counts.moved), (0, 1, 3));
    for vfs in [&a, &b] {
        assert_eq!(names(vfs, d).await, ["4", "first", "five", "new", "second", "sub", "two"]);
        assert_eq!(read(vfs, d, "4").await.unwrap(), b"3");
        assert_eq!(read(vfs, d, "new").await.unwrap(), b"new");
    }
    for n in 0..10 {
        write(&a, ROOT, &format!("{n}"), b"").await;
    }
    assert_eq!(a.delegations().directories, 0, "the root is everybody's");
}

#[tokio::test]
async fn what_is_in_a_directory_that_was_asked_for_is_listed() {
    let world = World::new().await;
    let a = world.mount_as(strict()).0;
    let line = Line::new(world.fs.mount());
    let b = Vfs::new(line.clone(), world.data.clone(), strict());
    let (d, _) = with_files(&a, "d", &["0", "1", "2", "3"]).await;
    for n in 0..3000 {
        write(&a, d, &format!("more-{n}"), b"").await;
    }
    for n in 0..3 {
        rename(&b, (d, &n.to_string()), (d, &format!("new-{n}"))).await.unwrap();
    }
    assert_eq!(b.delegations().directories, 1);
    let begun = Instant::now();
    let quiet = Duration::from_millis(20);
    // Nobody is asked once all names are known.
    loop {
        tokio::time::sleep(quiet).await;
        line.is_cut.store(true, Ordering::Relaxed);
        let renamed = rename(&b, (d, "3"), (d, "new-3"));
        let done = tokio::time::timeout(quiet, renamed).await;
        line.is_cut.store(false, Ordering::Relaxed);
        if done == Ok(Ok(())) {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
    for n in 0..3000 {
        let made = b.create(d, name(&format!("more-{n}")), 0o644, (RW, true), root()).await;
        assert_eq!(made.unwrap_err(), FsError::Exists);
    }
}

#[tokio::test]
async fn two_mounts_that_work_in_one_directory_leave_it_to_nobody() {
    let world = World::new().await;
    let (a, _, b) = two(&world);
    let dir = mkdir(&a, ROOT, "d").await.attr.inode;
    let begun = Instant::now();
    for n in 0..200 {
        for (vfs, other, of) in [(&a, &b, "a"), (&b, &a, "b")] {
            write(vfs, dir, &format!("{of}{n}"), b"bytes").await;
            rename(other, (dir, &format!("{of}{n}")), (dir, &format!("{of}-{n}"))).await.unwrap();
            assert_eq!(vfs.lookup(dir, name(&format!("{of}{n}"))).await, Err(FsError::NotFound));
        }
    }
    let recalls = a.delegations().recalls + b.delegations().recalls;
    // Each waits twice as long as before.
    let most = 2 * (3 + (begun.elapsed().as_secs() + 1).ilog2());
    assert!(recalls <= u64::from(most), "{recalls} in {:?}", begun.elapsed());
    assert_eq!(names(&a, dir).await.len(), 400);
}

#[tokio::test]
async fn thousands_move_in_few_batches() {
    let world = World::new().await;
    let (a, _, b) = two(&world);
    let dir = delegated(&a, "d").await;
    for n in 0..3000 {
        write(&a, dir, &format!("f{n:04}"), b"").await;
    }
    a.sync().await.unwrap();
    let before = a.delegations().batches;
    for n in 0..3000 {
        rename(&a, (dir, &format!("f{n:04}")), (dir, &format!("g{n:04}"))).await.unwrap();
        if n % 3 == 0 {
            a.unlink(dir, name(&format!("g{n:04}"))).await.unwrap();
        }
        assert!(a.delegations().moved <= 512);
    }
    a.sync().await.unwrap();
    let batches = a.delegations().batches - before;
    assert!(batches < 100, "{batches}");
    let found = names(&b, dir).await;
    assert_eq!(found.len(), 2002);
    assert!(found.iter().all(|of| !of.starts_with("f0")));
}

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
            let found = vfs.read(handle, 0, 1 << 20).await;
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
