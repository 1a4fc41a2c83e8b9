//! A mount whose process is replaced by another, which goes on where the first has stopped.

mod support;

use std::sync::Arc;
use std::time::Duration;

use curvefs_local::LocalMount;
use curvefs_types::{FsError, InodeId, LockFamily, LockKind, LockOwner, LockRange, MountOptions, Wire};
use curvefs_vfs::{KernelCaches, LockWish, OpenMode, Vfs, VfsState};
use support::{ROOT, RW, World, close, create, name, read_file, root, write_file};

const APPEND: OpenMode =
    OpenMode { read: true, write: true, append: true, truncate: false, sync: false, direct: false };

/// Replaces the `Vfs` of a mount, by the bytes that would travel.
async fn replaced(world: &World, vfs: Vfs, meta: &Arc<LocalMount>) -> Vfs {
    let state = vfs.rest().await.unwrap();
    let told = VfsState::from_row(&state.to_row()).unwrap();
    assert_eq!(told, state);
    let next = Vfs::take_over(meta.clone(), world.data.clone(), vfs.options().clone(), told);
    next.go_on();
    next
}

fn wish(owner: u64) -> LockWish {
    let range = LockRange::new(3, 9).unwrap();
    LockWish { owner: LockOwner(owner), pid: 7, family: LockFamily::Posix, kind: LockKind::Write, range }
}

#[tokio::test]
async fn open_files_locks_and_unlinked_ones_go_on() {
    let world = World::new().await;
    let (mut one, meta) = world.mount_as(MountOptions::default());
    let other = world.mount();
    let (appended, _) = create(&one, "appended").await;
    let log = one.open(appended, APPEND).await.unwrap().handle;
    let (gone, handle) = create(&one, "gone").await;
    one.write(handle, 0, b"still there".to_vec(), false).await.unwrap();
    one.unlink(ROOT, name("gone")).await.unwrap();
    one.lock(appended, wish(1)).await.unwrap();
    let mut expected = Vec::new();
    for round in 0..10u8 {
        // Not synced: what rests publishes it.
        one.write(log, 0, vec![round; 1000], false).await.unwrap();
        expected.extend([round; 1000]);
        one = replaced(&world, one, &meta).await;
        assert_eq!(one.read(handle, 0, 100).await.unwrap(), &b"still there"[..]);
        assert_eq!(other.lock(appended, wish(1)).await, Err(FsError::WouldBlock));
        one.fsync(log).await.unwrap();
    }
    assert!(read_file(&other, "appended").await.unwrap() == expected);
    one.close(log, Some(LockOwner(1))).await.unwrap();
    other.lock(appended, wish(2)).await.unwrap();
    let fresh = one.create(ROOT, name("fresh"), 0o644, (RW, false), root()).await.unwrap().1;
    assert!(fresh.handle > log && fresh.handle > handle, "numbers of handles are not given twice");
    world.fs.collect(&*world.data).await.unwrap();
    assert_eq!(one.read(handle, 0, 100).await.unwrap(), &b"still there"[..]);
    close(&one, handle).await.unwrap();
    assert_eq!(world.fs.collect(&*world.data).await.unwrap(), 1, "{gone} ends with its last handle");
}

#[tokio::test]
async fn a_directory_is_read_on_from_its_place() {
    let world = World::new().await;
    let (mut one, meta) = world.mount_as(MountOptions::default());
    for n in 0..2500 {
        write_file(&one, &format!("f{n:04}"), b"").await;
    }
    let dir = one.open_dir(ROOT).await.unwrap();
    let (mut seen, mut cookie) = (Vec::new(), 0);
    loop {
        // Not whole pages: a place within one is what a program comes back with.
        let lines = one.read_dir(dir, cookie, cookie.is_multiple_of(2)).await.unwrap();
        let Some(last) = lines.iter().take(333).next_back() else { break };
        cookie = last.next;
        seen.extend(lines.into_iter().take(333).map(|line| String::from_utf8(line.name).unwrap()));
        one.unlink(ROOT, name(&seen[seen.len() - 1])).await.unwrap();
        one = replaced(&world, one, &meta).await;
    }
    let expected: Vec<_> =
        [".".into(), "..".into()].into_iter().chain((0..2500).map(|n| format!("f{n:04}"))).collect();
    assert_eq!(seen, expected);
    one.release_dir(dir).unwrap();
}

#[tokio::test]
async fn references_of_the_kernel_are_counted_on() {
    let world = World::new().await;
    let (one, meta) = world.mount_as(MountOptions::default());
    let inode = write_file(&one, "f", b"x").await;
    one.lookup(ROOT, name("f")).await.unwrap();
    let one = replaced(&world, one, &meta).await;
    let known = one.known_inodes();
    one.forget(inode, 1);
    assert_eq!(one.known_inodes(), known);
    one.forget(inode, 1);
    // What the last close has left held goes after a while.
    tokio::time::timeout(Duration::from_secs(20), async {
        while one.known_inodes() == known {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn changes_by_others_are_noticed_by_the_next_process() {
    #[derive(Default)]
    struct Kernel(std::sync::Mutex<Vec<InodeId>>);
    impl KernelCaches for Kernel {
        fn forget_inode(&self, inode: InodeId) {
            self.0.lock().unwrap().push(inode);
        }
    }
    let world = World::new().await;
    let (one, meta) = world.mount_as(MountOptions::default());
    let other = world.mount();
    let inode = write_file(&one, "f", b"before").await;
    let handle = one.open(inode, RW).await.unwrap().handle;
    let state = one.rest().await.unwrap();
    assert_eq!(write_file(&other, "f", b"AFTER!").await, inode);
    let next = Vfs::take_over(meta.clone(), world.data.clone(), MountOptions::default(), state);
    let kernel = Arc::new(Kernel::default());
    next.set_kernel_caches(kernel.clone());
    next.go_on();
    let opened = next.open(inode, RW).await.unwrap();
    assert!(!opened.keep_cache, "pages of before are not to be kept");
    assert_eq!(next.read(handle, 0, 10).await.unwrap(), &b"AFTER!"[..]);
    let next = replaced(&world, next, &meta).await;
    assert!(next.open(inode, RW).await.unwrap().keep_cache, "nobody has changed it since");
}

#[tokio::test]
async fn a_mount_that_rested_in_vain_goes_on() {
    let world = World::new().await;
    let (one, _) = world.mount_as(MountOptions::default());
    let (_, handle) = create(&one, "f").await;
    for round in 0..5u8 {
        one.write(handle, u64::from(round), vec![round], false).await.unwrap();
        one.rest().await.unwrap();
        one.go_on();
    }
    one.write(handle, 5, vec![5], false).await.unwrap();
    // The background publishes as before.
    tokio::time::timeout(Duration::from_secs(20), async {
        while one.unpublished_bytes() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap();
    assert_eq!(read_file(&world.mount(), "f").await.unwrap(), [0, 1, 2, 3, 4, 5]);
}
