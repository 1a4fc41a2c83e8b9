//! Directories that are delegated to a mount: what is made there without asking, what others see of it, and what may be lost.

mod support;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use curvefs_types::{
    Answer, FsError, InodeId, Kind, LockFamily, LockKind, LockOwner, LockRange, Metadata, MountOptions,
    Query, RenameMode, SetAttr, SetTime, XattrName,
};
use curvefs_vfs::{LockWish, Making, OpenMode, SetMode, Vfs};
use support::dirs::{Line, create, delegated, names, read, two, write};
use support::{ROOT, RW, World, acl, close, mkdir, name, root, strict};

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
    assert_eq!(next.read(handle, 0, 9).await.unwrap(), &b"bytes"[..], "it is held open");
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
