//! Names, attributes, directories, ACLs, locks.

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use curvefs_types::{
    FsError, Kind, LockFamily, LockKind, LockOwner, LockRange, MountOptions, RenameMode, SetAttr, SetTime,
    XattrName,
};
use curvefs_vfs::{Caller, LockWish, Making, OpenMode, SetMode};
use support::{ROOT, RW, World, acl, close, create, mkdir, name, read_file, root, strict, write_file};

#[tokio::test]
async fn an_unlinked_file_lives_until_it_is_closed_everywhere() {
    let world = World::new().await;
    let (one, two) = (world.mount(), world.mount());
    let inode = write_file(&one, "f", b"alive").await;
    let held = two.open(inode, RW).await.unwrap();
    one.unlink(ROOT, name("f")).await.unwrap();
    assert_eq!(one.lookup(ROOT, name("f")).await.err(), Some(FsError::NotFound));
    assert_eq!(two.read(held.handle, 0, 10).await.unwrap(), &b"alive"[..]);
    world.fs.collect(&*world.data).await.unwrap();
    assert_eq!(two.read(held.handle, 0, 10).await.unwrap(), &b"alive"[..]);
    close(&two, held.handle).await.unwrap();
    assert_eq!(world.fs.collect(&*world.data).await.unwrap(), 1);
}

#[tokio::test]
async fn exclusive_creation_has_one_winner() {
    let world = World::new().await;
    let (one, two) = (world.mount(), world.mount());
    one.create(ROOT, name("f"), 0o644, (RW, true), root()).await.unwrap();
    let second = two.create(ROOT, name("f"), 0o644, (RW, true), root()).await;
    assert_eq!(second.err(), Some(FsError::Exists));
    let truncating = OpenMode { truncate: true, ..RW };
    two.create(ROOT, name("f"), 0o644, (truncating, false), root()).await.unwrap();
}

#[tokio::test]
async fn renames_replace_exchange_and_refuse() {
    let world = World::new().await;
    let vfs = world.mount();
    write_file(&vfs, "a", b"a").await;
    write_file(&vfs, "b", b"b").await;
    let (a, b) = ((ROOT, name("a")), (ROOT, name("b")));
    assert_eq!(vfs.rename(a.clone(), b.clone(), RenameMode::NoReplace).await, Err(FsError::Exists));
    vfs.rename(a.clone(), b.clone(), RenameMode::Exchange).await.unwrap();
    assert_eq!(read_file(&vfs, "a").await.unwrap(), b"b");
    vfs.rename(a, b, RenameMode::Replace).await.unwrap();
    assert_eq!(read_file(&vfs, "b").await.unwrap(), b"b");
    assert_eq!(read_file(&vfs, "a").await, Err(FsError::NotFound));
}

#[tokio::test]
async fn attributes_that_are_not_named_are_left_alone() {
    let world = World::new().await;
    let vfs = world.mount();
    let inode = write_file(&vfs, "f", b"x").await;
    let before = vfs.get_attr(inode).await.unwrap().0;
    let set = SetAttr { mode: Some(0o600), ..SetAttr::default() };
    let after = vfs.set_attr(inode, set).await.unwrap().0;
    assert_eq!((after.mode, after.mtime, after.uid), (0o600, before.mtime, before.uid));
    let opened = vfs.open(inode, RW).await.unwrap();
    vfs.write(opened.handle, 0, b"y".to_vec(), false).await.unwrap();
    let set = SetAttr { mtime: Some(SetTime::To { ns: 5 }), ..SetAttr::default() };
    vfs.set_attr(inode, set).await.unwrap();
    close(&vfs, opened.handle).await.unwrap();
    assert_eq!(vfs.get_attr(inode).await.unwrap().0.mtime, 5, "a time that was set stays");
}

/// As `tar` and `cp -p` do it: one change for the bytes and all attributes.
#[tokio::test]
async fn attributes_that_are_set_after_bytes_are_published_with_them() {
    let world = World::new().await;
    let (vfs, other) = (world.mount_as(strict()).0, world.mount_as(strict()).0);
    let (inode, handle) = create(&vfs, "f").await;
    vfs.write(handle, 0, b"abc".to_vec(), false).await.unwrap();
    let before = other.get_attr(inode).await.unwrap().0;
    for set in [
        SetAttr { mtime: Some(SetTime::To { ns: 5 }), ..SetAttr::default() },
        SetAttr { uid: Some(7), gid: Some(8), ..SetAttr::default() },
        SetAttr { mode: Some(0o4755), ..SetAttr::default() },
        SetAttr { gid: Some(9), ..SetAttr::default() },
    ] {
        vfs.set_attr(inode, set).await.unwrap();
    }
    let told = |attr: curvefs_types::Attr| (attr.mode, attr.uid, attr.gid, attr.mtime, attr.length);
    let expected = (0o755, 7, 9, 5, 3);
    assert_eq!(told(vfs.get_attr(inode).await.unwrap().0), expected);
    assert_eq!(other.get_attr(inode).await.unwrap().0.version, before.version, "nothing was published yet");
    vfs.fsync(handle).await.unwrap();
    assert_eq!(told(other.get_attr(inode).await.unwrap().0), expected);
    assert_eq!(told(vfs.get_attr(inode).await.unwrap().0), expected);

    // Bytes that are written later have a later time, and what is cut off takes no attributes with it.
    vfs.write(handle, 3, b"d".to_vec(), false).await.unwrap();
    let set = SetAttr { mode: Some(0o600), mtime: Some(SetTime::To { ns: 6 }), ..SetAttr::default() };
    vfs.set_attr(inode, set).await.unwrap();
    vfs.write(handle, 4, b"e".to_vec(), false).await.unwrap();
    assert!(vfs.get_attr(inode).await.unwrap().0.mtime > 6);
    vfs.truncate(inode, 0, false).await.unwrap();
    let (mine, others) = (vfs.get_attr(inode).await.unwrap().0, other.get_attr(inode).await.unwrap().0);
    assert_eq!((mine.mode, mine.length), (0o600, 0));
    assert_eq!(told(mine), told(others));
    assert!(mine.mtime > 6);
    close(&vfs, handle).await.unwrap();
}

#[tokio::test]
async fn a_new_owner_takes_privileges_away_and_so_does_a_write() {
    let world = World::new().await;
    let vfs = world.mount();
    let (inode, handle) = create(&vfs, "f").await;
    let mode = |mode| SetAttr { mode: Some(mode), ..SetAttr::default() };
    vfs.set_attr(inode, mode(0o6755)).await.unwrap();
    let owner = SetAttr { uid: Some(5), ..SetAttr::default() };
    assert_eq!(vfs.set_attr(inode, owner).await.unwrap().0.mode, 0o755);
    vfs.set_attr(inode, mode(0o6755)).await.unwrap();
    vfs.write(handle, 0, b"x".to_vec(), true).await.unwrap();
    vfs.fsync(handle).await.unwrap();
    assert_eq!(vfs.get_attr(inode).await.unwrap().0.mode, 0o755);
}

#[tokio::test]
async fn a_directory_is_read_whole_while_it_changes() {
    let world = World::new().await;
    let vfs = world.mount();
    let dir = mkdir(&vfs, ROOT, "d").await.attr.inode;
    let names: Vec<String> = (0..3000).map(|i| format!("f{i:05}")).collect();
    for path in &names {
        vfs.make(dir, name(path), Making::file(0o644), root()).await.unwrap();
    }
    let handle = vfs.open_dir(dir).await.unwrap();
    let mut seen = BTreeSet::new();
    let mut cookie = 0;
    let mut removed = 0;
    loop {
        let lines = vfs.read_dir(handle, cookie, true).await.unwrap();
        // As a kernel whose buffer is smaller than the page.
        let Some(last) = lines.iter().take(700).next_back() else { break };
        cookie = last.next;
        for line in lines.iter().take(700) {
            assert!(seen.insert(line.name.clone()), "seen twice");
            if line.name.starts_with(b"f") {
                assert_eq!(line.attr.map(|attr| attr.inode), Some(line.inode));
                vfs.unlink(dir, name(std::str::from_utf8(&line.name).unwrap())).await.unwrap();
                removed += 1;
            }
        }
    }
    assert_eq!(seen.len(), 3002);
    assert_eq!(removed, 3000);
    vfs.release_dir(handle).unwrap();
    vfs.rmdir(ROOT, name("d")).await.unwrap();
}

#[tokio::test]
async fn forgotten_inodes_are_not_remembered() {
    let world = World::new().await;
    let vfs = world.mount();
    for i in 0..100 {
        let made = vfs.make(ROOT, name(&format!("f{i}")), Making::file(0o644), root()).await.unwrap();
        let again = vfs.lookup(ROOT, name(&format!("f{i}"))).await.unwrap();
        vfs.forget(made.attr.inode, 1);
        assert!(vfs.known_inodes() > 1);
        vfs.forget(again.attr.inode, 1);
    }
    assert!(vfs.known_inodes() <= 1, "the root at most");
}

#[tokio::test]
async fn default_acls_are_inherited_and_chmod_moves_the_mask() {
    let world = World::new().await;
    let vfs = world.mount();
    let dir = mkdir(&vfs, ROOT, "d").await.attr.inode;
    let none = u32::MAX;
    let default = acl(&[(1, 7, none), (2, 7, 1000), (4, 5, none), (16, 7, none), (32, 0, none)]);
    let (default_name, access_name) = (
        XattrName::try_from("system.posix_acl_default").unwrap(),
        XattrName::try_from("system.posix_acl_access").unwrap(),
    );
    let made = vfs.make(dir, name("before"), Making::file(0o666), root()).await.unwrap();
    assert_eq!(made.attr.mode, 0o644);
    vfs.set_xattr(dir, default_name.clone(), default.clone(), SetMode::Any).await.unwrap();
    let file = vfs.make(dir, name("f"), Making::file(0o666), root()).await.unwrap().attr;
    assert_eq!(file.mode, 0o660, "the umask has no say");
    let expected = acl(&[(1, 6, none), (2, 7, 1000), (4, 5, none), (16, 6, none), (32, 0, none)]);
    assert_eq!(vfs.get_xattr(file.inode, access_name.clone()).await.unwrap(), expected);
    let sub = vfs.mkdir(dir, name("sub"), 0o777, root(), None).await.unwrap().attr;
    assert_eq!(vfs.get_xattr(sub.inode, default_name).await.unwrap(), default);
    vfs.set_attr(file.inode, SetAttr { mode: Some(0o640), ..SetAttr::default() }).await.unwrap();
    let masked = acl(&[(1, 6, none), (2, 7, 1000), (4, 5, none), (16, 4, none), (32, 0, none)]);
    assert_eq!(vfs.get_xattr(file.inode, access_name).await.unwrap(), masked);
}

#[tokio::test]
async fn extended_attributes_are_kept_and_virtual_ones_told() {
    let world = World::new().await;
    let vfs = world.mount();
    let dir = mkdir(&vfs, ROOT, "d").await.attr.inode;
    let key = |key: &str| XattrName::try_from(key).unwrap();
    vfs.set_xattr(dir, key("user.a"), Bytes::from_static(b"1"), SetMode::Create).await.unwrap();
    let again = vfs.set_xattr(dir, key("user.a"), Bytes::new(), SetMode::Create).await;
    assert_eq!(again, Err(FsError::Exists));
    let absent = vfs.set_xattr(dir, key("user.b"), Bytes::new(), SetMode::Replace).await;
    assert_eq!(absent, Err(FsError::NoAttribute));
    assert_eq!(vfs.list_xattrs(dir).await.unwrap(), [key("user.a")]);
    vfs.remove_xattr(dir, key("user.a")).await.unwrap();
    assert_eq!(vfs.get_xattr(dir, key("user.a")).await, Err(FsError::NoAttribute));
    mkdir(&vfs, dir, "sub").await;
    write_file(&vfs, "f", b"12345").await;
    for (parent, which, value) in [
        (dir, "curve.dir.rsubdirs", "1"),
        (ROOT, "curve.dir.files", "1"),
        (ROOT, "curve.dir.rentries", "3"),
        (ROOT, "curve.dir.rfbytes", "5"),
    ] {
        assert_eq!(vfs.get_xattr(parent, key(which)).await.unwrap(), value, "{which}");
    }
    let set = vfs.set_xattr(dir, key("curve.dir.files"), Bytes::new(), SetMode::Any).await;
    assert_eq!(set, Err(FsError::NotPermitted));
    let usage = vfs.stat_fs().await.unwrap();
    assert_eq!((usage.files, usage.dirs, usage.bytes), (1, 3, 5));
}

fn wish(owner: u64, kind: LockKind) -> LockWish {
    LockWish { owner: LockOwner(owner), pid: 1, family: LockFamily::Posix, kind, range: LockRange::ALL }
}

#[tokio::test]
async fn locks_exclude_across_mounts_and_end_with_their_owner() {
    let world = World::new().await;
    let (one, two) = (world.mount(), world.mount());
    let (inode, handle) = create(&one, "f").await;
    two.open(inode, RW).await.unwrap();
    one.lock(inode, wish(1, LockKind::Write)).await.unwrap();
    assert_eq!(two.lock(inode, wish(1, LockKind::Read)).await, Err(FsError::WouldBlock));
    let held = two.get_lock(inode, wish(1, LockKind::Read)).await.unwrap().unwrap();
    assert_eq!(held.owner, LockOwner(1));
    let waiting = two.clone();
    let waits =
        tokio::spawn(async move { waiting.lock_wait(inode, wish(2, LockKind::Write), || false).await });
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!waits.is_finished());
    one.close(handle, Some(LockOwner(1))).await.unwrap();
    waits.await.unwrap().unwrap();
    let interrupted = one.lock_wait(inode, wish(3, LockKind::Write), || true).await;
    assert_eq!(interrupted, Err(FsError::Interrupted));
}

#[tokio::test]
async fn a_dead_mount_leaves_no_lock() {
    let world = World::new().await;
    let (one, meta) = world.mount_as(MountOptions::default());
    let two = world.mount();
    let (inode, _) = create(&one, "f").await;
    one.lock(inode, wish(1, LockKind::Write)).await.unwrap();
    world.fs.expire(meta.id()).unwrap();
    two.lock(inode, wish(2, LockKind::Write)).await.unwrap();
}

#[tokio::test]
async fn what_was_written_under_a_lock_is_seen_by_the_next_owner() {
    let world = World::new().await;
    let (one, two) = (world.mount_as(strict()).0, world.mount_as(strict()).0);
    let (inode, a) = create(&one, "f").await;
    let b = two.open(inode, RW).await.unwrap().handle;
    for round in 0..20u8 {
        let (vfs, handle, owner) = if round % 2 == 0 { (&one, a, 1) } else { (&two, b, 2) };
        vfs.lock(inode, wish(owner, LockKind::Write)).await.unwrap();
        let count = vfs.read(handle, 0, 1).await.unwrap().first().copied().unwrap_or(0);
        assert_eq!(count, round);
        vfs.write(handle, 0, vec![count + 1], false).await.unwrap();
        vfs.unlock(inode, LockOwner(owner), LockFamily::Posix, LockRange::ALL).await.unwrap();
    }
}

#[tokio::test]
async fn a_read_only_mount_changes_nothing() {
    let world = World::new().await;
    let inode = write_file(&world.mount(), "f", b"x").await;
    let vfs = world.mount_as(MountOptions { read_only: true, ..MountOptions::default() }).0;
    assert_eq!(vfs.open(inode, RW).await.err(), Some(FsError::ReadOnly));
    assert_eq!(vfs.unlink(ROOT, name("f")).await, Err(FsError::ReadOnly));
    let read = OpenMode { write: false, ..RW };
    let opened = vfs.open(inode, read).await.unwrap();
    assert_eq!(vfs.read(opened.handle, 0, 10).await.unwrap(), &b"x"[..]);
}

#[tokio::test]
async fn links_count_and_special_files_are_made() {
    let world = World::new().await;
    let vfs = world.mount();
    let inode = write_file(&vfs, "f", b"x").await;
    assert_eq!(vfs.link(inode, ROOT, name("g")).await.unwrap().attr.nlink, 2);
    vfs.unlink(ROOT, name("f")).await.unwrap();
    assert_eq!(read_file(&vfs, "g").await.unwrap(), b"x");
    let target = Bytes::from_static(b"some/where");
    let making = Making { kind: Kind::Symlink, mode: 0o777, rdev: 0, target: target.clone() };
    let link = vfs.make(ROOT, name("l"), making, Caller::default()).await.unwrap().attr;
    assert_eq!((link.kind, link.length), (Kind::Symlink, 10));
    assert_eq!(vfs.read_link(link.inode).await.unwrap(), target);
    let device = Making { kind: Kind::CharDevice, mode: 0o600, rdev: 0x103, target: Bytes::new() };
    assert_eq!(vfs.make(ROOT, name("null"), device, root()).await.unwrap().attr.rdev, 0x103);
}
