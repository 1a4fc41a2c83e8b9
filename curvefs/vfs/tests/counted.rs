//! What a mount counts and says of itself.

mod support;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use curvefs_types::{FsError, FsFuture, InodeId, XattrName};
use curvefs_vfs::{SetMode, Vfs, VirtualAttributes};
use support::{ROOT, World, close, create, mkdir, unstaged, write_file};

fn xattr(name: &str) -> XattrName {
    XattrName::try_from(name).unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_is_written_and_read_is_counted_and_what_waits_is_told() {
    let world = World::new().await;
    let vfs = world.mount_as(unstaged()).0;
    let (inode, handle) = create(&vfs, "f").await;
    vfs.write(handle, 0, vec![1; 5000], false).await.unwrap();
    assert_eq!(vfs.read(handle, 0, 100).await.unwrap().len(), 100);
    let (reads, writes) = (vfs.counters().reads.read(), vfs.counters().writes.read());
    assert_eq!((reads.calls, reads.bytes, writes.calls, writes.bytes), (1, 100, 1, 5000));
    world.data.fail(Some(FsError::StoreRefused));
    assert!(vfs.fsync(handle).await.is_err());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let pending = vfs.pending();
    assert_eq!((pending.files, pending.bytes, pending.failing), (1, 5000, 1));
    assert_eq!(pending.failure, Some(FsError::StoreRefused));
    assert!(pending.oldest >= Some(Duration::from_secs(1)), "{pending:?}");
    assert_eq!(vfs.unpublished_of(inode), 5000);
    world.data.fail(None);
    vfs.fsync(handle).await.unwrap();
    close(&vfs, handle).await.unwrap();
    assert_eq!(vfs.pending(), Default::default());
    let publishes = vfs.counters().publishes.read();
    assert!(publishes.failures >= 1 && publishes.bytes == 5000, "{publishes:?}");
    assert_eq!(vfs.counters().lost_bytes(), 0);
    let page = vfs.extents(inode, 0).await.unwrap();
    assert!(page.end && page.attr.length == 5000);
    assert_eq!(page.extents.iter().map(|extent| extent.len).sum::<u32>(), 5000);
}

#[tokio::test]
async fn all_counters_of_a_directory_are_one_attribute() {
    let world = World::new().await;
    let vfs = world.mount();
    mkdir(&vfs, ROOT, "d").await;
    write_file(&vfs, "f", b"12345").await;
    let usage = vfs.get_xattr(ROOT, xattr("curve.dir.usage")).await.unwrap();
    let usage = String::from_utf8(usage.to_vec()).unwrap();
    for line in ["files 1", "subdirs 1", "fbytes 5", "rfiles 1", "rentries 2", "rfbytes 5"] {
        assert!(usage.lines().any(|one| one == line), "{line}: {usage}");
    }
}

/// Answers one name.
struct One;

impl VirtualAttributes for One {
    fn value<'a>(&'a self, vfs: &'a Vfs, inode: InodeId, name: &'a XattrName) -> FsFuture<'a, Option<Bytes>> {
        Box::pin(async move {
            let is_known = name.as_bytes() == b"system.curve.one";
            Ok(is_known.then(|| format!("{} of {}", inode.get(), vfs.known_inodes()).into()))
        })
    }
}

#[tokio::test]
async fn virtual_attributes_of_the_mount_are_read_only_and_not_listed() {
    let world = World::new().await;
    let vfs = world.mount();
    let inode = write_file(&vfs, "f", b"").await;
    assert_eq!(vfs.get_xattr(inode, xattr("system.curve.one")).await, Err(FsError::NoAttribute));
    vfs.set_virtual_attributes(Arc::new(One));
    let said = vfs.get_xattr(inode, xattr("system.curve.one")).await.unwrap();
    assert!(said.starts_with(inode.get().to_string().as_bytes()), "{said:?}");
    assert_eq!(vfs.get_xattr(inode, xattr("curve.file.two")).await, Err(FsError::NoAttribute));
    let set = vfs.set_xattr(inode, xattr("system.curve.one"), Bytes::new(), SetMode::Any).await;
    assert_eq!(set, Err(FsError::NotPermitted));
    assert_eq!(vfs.remove_xattr(inode, xattr("curve.x")).await, Err(FsError::NotPermitted));
    assert_eq!(vfs.list_xattrs(inode).await.unwrap(), []);
}
