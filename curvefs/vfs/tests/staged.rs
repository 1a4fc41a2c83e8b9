//! Few bytes that are synced: durable in the metadata, whatever the store does, and read from there until the store has them.

mod support;

use curvefs_types::limits::{STAGED_BYTES_MAX, STAGED_SLICE_BYTES_MAX};
use curvefs_types::{FsError, InodeId, MountOptions};
use curvefs_vfs::{OpenMode, Vfs};
use support::{ROOT, RW, World, close, create, name, read_file, root, write_file};

#[tokio::test]
async fn a_sync_of_few_bytes_needs_no_store_and_others_read_them() {
    let world = World::new().await;
    let (one, two) = (world.mount(), world.mount());
    world.data.fail(Some(FsError::StoreRefused));
    let inode = write_file(&one, "f", b"abcdef").await;
    assert_eq!((world.data.writes(), one.unpublished_bytes()), (0, 0));
    assert_eq!(read_file(&two, "f").await.unwrap(), b"abcdef");
    let opened = two.open(inode, RW).await.unwrap();
    two.write(opened.handle, 2, b"XY".to_vec(), false).await.unwrap();
    close(&two, opened.handle).await.unwrap();
    for vfs in [&one, &two, &world.mount()] {
        assert_eq!(read_file(vfs, "f").await.unwrap(), b"abXYef");
    }
    // A mount that knows that they wait finds them in the store afterwards.
    let third = world.mount();
    let opened = third.open(inode, RW).await.unwrap();
    assert_eq!(third.read(opened.handle, 0, 3).await.unwrap(), &b"abX"[..]);
    world.data.fail(None);
    assert_eq!(world.fs.store_staged(&*world.data).await.unwrap(), 2);
    for vfs in [&one, &two, &third, &world.mount()] {
        assert_eq!(read_file(vfs, "f").await.unwrap(), b"abXYef");
    }
}

#[tokio::test]
async fn what_a_mount_was_not_told_of_is_found_where_it_waits() {
    let world = World::new().await;
    let writer = world.mount();
    let (inode, handle) = create(&writer, "f").await;
    let reader = world.mount();
    let opened = reader.open(inode, RW).await.unwrap();
    assert_eq!(reader.read(opened.handle, 0, 10).await.unwrap(), &b""[..]);
    for round in 0..20u8 {
        writer.write(handle, 0, vec![round; 100], false).await.unwrap();
        writer.fsync(handle).await.unwrap();
        if round % 3 == 0 {
            world.fs.store_staged(&*world.data).await.unwrap();
        }
        assert_eq!(read_file(&reader, "f").await.unwrap(), vec![round; 100]);
    }
}

#[tokio::test]
async fn appended_bytes_wait_too() {
    let world = World::new().await;
    let (one, two) = (world.mount(), world.mount());
    let mode = OpenMode { append: true, ..RW };
    let (entry, a) = one.create(ROOT, name("log"), 0o644, (mode, false), root()).await.unwrap();
    let b = two.open(entry.attr.inode, mode).await.unwrap();
    let mut expected = Vec::new();
    for n in 0..30u8 {
        let (vfs, handle): (&Vfs, u64) = if n % 2 == 0 { (&one, a.handle) } else { (&two, b.handle) };
        vfs.write(handle, 0, vec![n; 10], true).await.unwrap();
        vfs.fsync(handle).await.unwrap();
        expected.extend([n; 10]);
    }
    assert_eq!(world.data.writes(), 0);
    assert_eq!(read_file(&world.mount(), "log").await.unwrap(), expected);
}

#[tokio::test]
async fn much_goes_to_the_store_at_once_and_so_does_little_when_much_waits() {
    let world = World::new().await;
    let most = MountOptions { stage_bytes: u64::from(STAGED_SLICE_BYTES_MAX), ..MountOptions::default() };
    let vfs = world.mount_as(most).0;
    write_file(&vfs, "large", &vec![1; STAGED_SLICE_BYTES_MAX as usize + 1]).await;
    assert_eq!(world.data.writes(), 1);
    let (_, handle) = create(&vfs, "f").await;
    let bytes = vec![2; STAGED_SLICE_BYTES_MAX as usize];
    let fits = STAGED_BYTES_MAX / bytes.len() as u64;
    for n in 0..fits + 3 {
        vfs.write(handle, n * bytes.len() as u64, bytes.clone(), false).await.unwrap();
        vfs.fsync(handle).await.unwrap();
    }
    assert_eq!(world.data.writes(), 4, "three found no room");
    let last = vfs.read(handle, (fits + 2) * bytes.len() as u64, 10).await.unwrap();
    assert_eq!(last, vec![2; 10]);
}

#[tokio::test]
async fn a_copied_range_shares_what_waits() {
    let world = World::new().await;
    let vfs = world.mount();
    let (_, from) = create(&vfs, "from").await;
    let (_, to) = create(&vfs, "to").await;
    vfs.write(from, 0, vec![7; 1000], false).await.unwrap();
    assert_eq!(vfs.copy_range((from, 100), (to, 0), 500).await.unwrap(), 500);
    close(&vfs, from).await.unwrap();
    vfs.unlink(ROOT, name("from")).await.unwrap();
    assert_eq!(read_file(&world.mount(), "to").await.unwrap(), vec![7; 500]);
    vfs.truncate(to_inode(&vfs).await, 0, false).await.unwrap();
    let waits = world.fs.store_staged(&*world.data).await.unwrap();
    assert_eq!(waits, 0, "with the last of its extents it is gone");
}

async fn to_inode(vfs: &Vfs) -> InodeId {
    vfs.lookup(ROOT, name("to")).await.unwrap().attr.inode
}
