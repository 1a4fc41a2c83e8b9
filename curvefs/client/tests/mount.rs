//! The life of a mount: granted, refreshed, without an MDS, over, closed; and a whole `Vfs` on it.

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use curve_proto::MdsError;
use curvefs_client::{Mount, MountError, MountState, Subtree};
use curvefs_types::{FsError, InodeId, Kind, Metadata, MountOptions, Name, Query, RenameMode};
use curvefs_vfs::{Caller, MemoryBackend, OpenMode, Vfs};
use support::{NAME, World};
use tokio::time::{Instant, sleep};

const RW: OpenMode =
    OpenMode { read: true, write: true, append: false, truncate: false, sync: false, direct: false };
const USER: Caller = Caller { uid: 0, gid: 0, umask: 0o022 };

fn name(text: &str) -> Name {
    Name::try_from(text).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_mount_is_waited_for_and_what_is_not_there_is_said() {
    let world = World::new(1, 1).await;
    world.state().mds.in_progress = 5;
    let begun = Instant::now();
    let mount = world.mount().await;
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert_eq!(mount.grant().writer.get(), 101);
    assert_eq!(world.mount().await.grant().key, mount.grant().key, "the same nonce is the same mount");
    let refused = world.try_mount("none", 1).await.unwrap_err();
    assert!(
        matches!(&refused, MountError::Mds(MdsError::NotFound { what }) if what.contains("none")),
        "{refused}"
    );
    world.state().mds.in_progress = u32::MAX;
    let never = world.try_mount(NAME, 9).await.unwrap_err();
    assert!(matches!(never, MountError::Mds(MdsError::InProgress { .. })), "{never}");
}

#[tokio::test(start_paused = true)]
async fn the_lease_is_refreshed_each_third_and_news_are_taken_over() {
    let world = World::new(2, 1).await;
    let mount = world.mount().await;
    let secrets = Arc::new(Mutex::new(Vec::new()));
    let heard = secrets.clone();
    mount.follow_record(move |record| heard.lock().unwrap().push((record.version, record.store.clone())));
    sleep(Duration::from_secs(301)).await;
    assert_eq!(world.state().mds.refreshes, 30);
    {
        let mds = &mut world.state().mds;
        (mds.secret, mds.record_version, mds.map_version, mds.lease_ms) = ("second", 2, 7, 3000);
    }
    sleep(Duration::from_secs(10)).await;
    assert_eq!(mount.metadata().map_version(), 7);
    {
        let heard = secrets.lock().unwrap();
        assert_eq!(heard.len(), 1);
        assert_eq!((heard[0].0, &heard[0].1.secret_key), (2, &curvefs_data::SecretKey::new("second")));
        assert_eq!(mount.record().borrow().version, 2);
    }
    let before = world.state().mds.refreshes;
    sleep(Duration::from_secs(30)).await;
    assert!(
        (28..=30).contains(&(world.state().mds.refreshes - before)),
        "a shorter lease is refreshed more often"
    );
    mount.close().await.unwrap();
    assert_eq!(world.state().mds.unmounted, [1]);
    let before = world.state().mds.refreshes;
    sleep(Duration::from_secs(30)).await;
    assert_eq!(world.state().mds.refreshes, before);
    assert_eq!(mount.metadata().stat_fs().await, Err(FsError::Stopped));
}

#[tokio::test(start_paused = true)]
async fn a_mount_survives_an_outage_of_the_mds_and_ends_only_when_it_is_told() {
    let world = World::new(2, 1).await;
    let mount = world.mount().await;
    let client = mount.metadata();
    world.state().mds.down = true;
    sleep(Duration::from_secs(600)).await;
    assert!(!mount.reaches_mds());
    assert!(
        client.query(Query::GetAttr { inode: InodeId::ROOT }).await.is_ok(),
        "partitions are all that is needed"
    );
    world.state().mds.down = false;
    sleep(Duration::from_secs(15)).await;
    assert!(mount.reaches_mds());
    assert_eq!(*mount.state().borrow(), MountState::Active);
    world.state().mds.over = true;
    let mut state = mount.state();
    let ended = tokio::time::timeout(Duration::from_secs(11), state.wait_for(|s| *s != MountState::Active));
    assert_eq!(*ended.await.unwrap().unwrap(), MountState::Fenced);
    assert_eq!(client.query(Query::GetAttr { inode: InodeId::ROOT }).await, Err(FsError::Fenced));
}

#[tokio::test(start_paused = true)]
async fn a_mount_is_taken_over_with_its_numbers_and_its_lease() {
    let world = World::new(2, 1).await;
    let mut mount = world.mount().await;
    let key = mount.grant().key;
    let data = Arc::new(MemoryBackend::new(mount.grant().writer));
    let vfs = |mount: &Mount| Vfs::new(mount.metadata(), data.clone(), MountOptions::default());
    for round in 0..5 {
        let before = vfs(&mount);
        for n in 0..3 {
            write(&before, InodeId::ROOT, &format!("{round}.{n}"), b"x").await;
        }
        before.shutdown().await.unwrap();
        mount.set_silent(true);
        let numbers = mount.metadata().next_numbers().expect("nothing is under way");
        let next = world.take_over(mount.held()).await.unwrap();
        next.metadata().set_numbers(numbers);
        assert_eq!((next.grant().key, next.grant().writer), (key, mount.grant().writer));
        assert_eq!(next.grant().file_system, *mount.record().borrow());
        mount = next;
    }
    // Each change was made once: a number that was used before would have got an old answer.
    let last = vfs(&mount);
    for round in 0..5 {
        for n in 0..3 {
            last.lookup(InodeId::ROOT, name(&format!("{round}.{n}"))).await.unwrap();
        }
    }
    assert_eq!(world.problems(), Vec::<String>::new());
    let before = world.state().mds.refreshes;
    sleep(Duration::from_secs(31)).await;
    assert_eq!(world.state().mds.refreshes - before, 3, "one process renews");
    mount.set_silent(true);
    sleep(Duration::from_secs(31)).await;
    assert!(world.state().mds.refreshes - before <= 4);
    mount.set_silent(false);
    sleep(Duration::from_secs(31)).await;
    assert!(world.state().mds.refreshes - before >= 6, "it renews again");

    world.state().mds.over = true;
    let refused = world.take_over(mount.held()).await.unwrap_err();
    assert!(matches!(refused, MountError::Mds(MdsError::NotHeld { .. })), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn closing_without_an_mds_fails_in_time() {
    let world = World::new(1, 1).await;
    let mount = world.mount().await;
    world.state().mds.down = true;
    let begun = Instant::now();
    assert!(matches!(mount.close().await, Err(MdsError::Unavailable { .. })));
    assert!(begun.elapsed() <= Duration::from_secs(11));
}

async fn write(vfs: &Vfs, dir: InodeId, file: &str, bytes: &[u8]) -> InodeId {
    let (entry, opened) = vfs.create(dir, name(file), 0o644, (RW, false), USER).await.unwrap();
    vfs.write(opened.handle, 0, bytes.to_vec(), false).await.unwrap();
    vfs.close(opened.handle, None).await.unwrap();
    vfs.release(opened.handle, None).await.unwrap();
    entry.attr.inode
}

async fn read(vfs: &Vfs, dir: InodeId, file: &str) -> Vec<u8> {
    let entry = vfs.lookup(dir, name(file)).await.unwrap();
    let opened = vfs.open(entry.attr.inode, RW).await.unwrap();
    let bytes = vfs.read(opened.handle, 0, 1 << 20).await.unwrap();
    vfs.release(opened.handle, None).await.unwrap();
    bytes.into()
}

#[tokio::test(start_paused = true)]
async fn a_vfs_works_over_it() {
    let world = World::new(3, 1).await;
    let mount = world.mount().await;
    let other = world.try_mount(NAME, 2).await.unwrap();
    let data = Arc::new(MemoryBackend::new(mount.grant().writer));
    let vfs = Vfs::new(mount.metadata(), data.clone(), MountOptions::default());
    let mut dirs = Vec::new();
    for n in 0..9 {
        let dir = vfs.mkdir(InodeId::ROOT, name(&format!("dir{n}")), 0o755, USER, None).await.unwrap();
        dirs.push(dir.attr.inode);
        for file in 0..5 {
            write(&vfs, dir.attr.inode, &format!("file{file}"), format!("{n}.{file}").as_bytes()).await;
        }
    }
    for n in 0..9 {
        let to = dirs[(n + 1) % 9];
        let renamed = vfs.rename((dirs[n], name("file0")), (to, name("moved")), RenameMode::NoReplace);
        renamed.await.unwrap();
        vfs.link(
            vfs.lookup(to, name("file1")).await.unwrap().attr.inode,
            InodeId::ROOT,
            name(&format!("link{n}")),
        )
        .await
        .unwrap();
        vfs.unlink(dirs[n], name("file2")).await.unwrap();
    }
    vfs.rename((InodeId::ROOT, name("dir0")), (dirs[1], name("below")), RenameMode::Replace).await.unwrap();
    let cycle = vfs.rename((InodeId::ROOT, name("dir1")), (dirs[0], name("x")), RenameMode::Replace).await;
    assert_eq!(cycle, Err(FsError::Invalid));
    let handle = vfs.open_dir(InodeId::ROOT).await.unwrap();
    let (mut lines, mut cookie) = (Vec::new(), 0);
    loop {
        let page = vfs.read_dir(handle, cookie, true).await.unwrap();
        let Some(last) = page.last() else { break };
        cookie = last.next;
        lines.extend(page);
    }
    assert_eq!(lines.iter().filter(|line| line.kind == Kind::Directory).count(), 8 + 2, "with . and ..");
    assert!(
        lines.iter().skip(2).all(|line| line.attr.is_some()),
        "attributes of other partitions come along"
    );
    vfs.release_dir(handle).unwrap();
    assert_eq!(vfs.rmdir(InodeId::ROOT, name("dir3")).await, Err(FsError::NotEmpty));
    vfs.shutdown().await.unwrap();
    // Another mount sees it all.
    let again = Vfs::new(other.metadata(), data, MountOptions::default());
    let below = again.lookup(dirs[1], name("below")).await.unwrap().attr.inode;
    assert_eq!(read(&again, below, "moved").await, b"8.0");
    assert_eq!(read(&again, InodeId::ROOT, "link3").await, b"4.1");
    let usage = again.stat_fs().await.unwrap();
    assert_eq!((usage.dirs, usage.files), (10, 36));
    again.shutdown().await.unwrap();
    assert_eq!(world.problems(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_directory_can_be_the_root() {
    let world = World::new(3, 1).await;
    let mount = world.mount().await;
    let data = Arc::new(MemoryBackend::new(mount.grant().writer));
    let whole = Vfs::new(mount.metadata(), data.clone(), MountOptions::default());
    let mut dir = InodeId::ROOT;
    for step in ["a", "b", "c"] {
        dir = whole.mkdir(dir, name(step), 0o755, USER, None).await.unwrap().attr.inode;
    }
    write(&whole, dir, "outside", b"1").await;
    for (path, error) in [("a/x", FsError::NotFound), ("a/b/c/outside", FsError::NotDir)] {
        assert_eq!(Subtree::open(mount.metadata(), path).await.err(), Some(error), "{path}");
    }
    let other = world.try_mount(NAME, 2).await.unwrap();
    let tree = Subtree::open(other.metadata(), "/a/b/").await.unwrap();
    let part = Vfs::new(Arc::new(tree), data, MountOptions::default());
    let (root, _) = part.get_attr(InodeId::ROOT).await.unwrap();
    assert_eq!((root.inode, root.parent, root.is_dir()), (InodeId::ROOT, InodeId::ROOT, true));
    let c = part.lookup(InodeId::ROOT, name("c")).await.unwrap().attr;
    assert_eq!((c.inode, c.parent), (dir, InodeId::ROOT));
    assert_eq!(read(&part, dir, "outside").await, b"1");
    write(&part, InodeId::ROOT, "inside", b"22").await;
    let made = part.mkdir(InodeId::ROOT, name("d"), 0o755, USER, None).await.unwrap().attr;
    assert_eq!(made.parent, InodeId::ROOT);
    part.rename((dir, name("outside")), (InodeId::ROOT, name("moved")), RenameMode::NoReplace).await.unwrap();
    let handle = part.open_dir(InodeId::ROOT).await.unwrap();
    let lines = part.read_dir(handle, 0, true).await.unwrap();
    let names: Vec<_> = lines.iter().map(|line| String::from_utf8_lossy(&line.name).into_owned()).collect();
    assert_eq!(names, [".", "..", "c", "d", "inside", "moved"]);
    assert_eq!((lines[0].inode, lines[1].inode), (InodeId::ROOT, InodeId::ROOT));
    part.release_dir(handle).unwrap();
    assert!(part.stat_fs().await.unwrap().dirs >= 1);
    part.shutdown().await.unwrap();
    let b = whole
        .lookup(whole.lookup(InodeId::ROOT, name("a")).await.unwrap().attr.inode, name("b"))
        .await
        .unwrap();
    assert_eq!(read(&whole, b.attr.inode, "inside").await, b"22");
    whole.shutdown().await.unwrap();
    assert_eq!(world.problems(), Vec::<String>::new());
}
