//! Names that a mount moves and removes without asking: what others see of it, and what may be lost.

mod support;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use curvefs_types::{FsError, RenameMode};
use curvefs_vfs::Vfs;
use support::dirs::{Line, create, delegated, fsync_dir, names, read, rename, two, with_files, write};
use support::{ROOT, RW, World, close, mkdir, name, root, strict};

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
        assert_eq!(a.read(handle, 0, 9).await.unwrap(), &b"kept"[..]);
        close(&a, handle).await.unwrap();
    }
    assert_eq!(read(&b, dir, "y").await.unwrap(), b"z");
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
