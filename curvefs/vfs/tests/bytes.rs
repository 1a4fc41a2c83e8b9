//! Bytes of files: writing, reading, what is published when, and what happens when the store fails.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use curvefs_local::LocalMount;
use curvefs_types::{Answer, FsError, FsFuture, FsId, Metadata, MountOptions, Op, Query, Reply, Usage};
use curvefs_vfs::{OpenMode, Seek, Space, Vfs};
use support::{ROOT, RW, World, close, create, name, read_file, root, strict, unstaged, write_file};

#[tokio::test]
async fn what_was_written_is_read_before_and_after_it_is_published() {
    let world = World::new().await;
    let vfs = world.mount_as(unstaged()).0;
    let (_, handle) = create(&vfs, "f").await;
    vfs.write(handle, 3, b"abc".to_vec(), false).await.unwrap();
    assert_eq!(vfs.read(handle, 0, 100).await.unwrap(), &b"\0\0\0abc"[..]);
    assert_eq!(world.data.writes(), 0);
    vfs.fsync(handle).await.unwrap();
    assert_eq!(world.data.writes(), 1);
    vfs.write(handle, 4, b"X".to_vec(), false).await.unwrap();
    assert_eq!(vfs.read(handle, 2, 100).await.unwrap(), &b"\0aXc"[..]);
    assert_eq!(vfs.read(handle, 6, 100).await.unwrap(), &b""[..]);
    close(&vfs, handle).await.unwrap();
    assert_eq!(vfs.unpublished_bytes(), 0);
}

#[tokio::test]
async fn a_reader_that_opens_after_the_writer_closed_sees_all() {
    let world = World::new().await;
    let (one, two) = (world.mount(), world.mount());
    for round in 0..50u8 {
        let bytes = vec![round; 1000 + usize::from(round)];
        let (from, to) = if round % 2 == 0 { (&one, &two) } else { (&two, &one) };
        write_file(from, "f", &bytes).await;
        assert_eq!(read_file(to, "f").await.unwrap(), bytes);
    }
}

#[tokio::test]
async fn pages_may_be_kept_unless_others_wrote() {
    let world = World::new().await;
    let (one, two) = (world.mount_as(strict()).0, world.mount());
    let inode = write_file(&one, "f", b"abc").await;
    let first = one.open(inode, RW).await.unwrap();
    one.write(first.handle, 0, b"x".to_vec(), false).await.unwrap();
    close(&one, first.handle).await.unwrap();
    let again = one.open(inode, RW).await.unwrap();
    assert!(again.keep_cache, "only this mount has written");
    write_file(&two, "f", b"other").await;
    assert!(!one.open(inode, RW).await.unwrap().keep_cache);
    assert_eq!(one.read(again.handle, 0, 10).await.unwrap(), &b"other"[..]);
}

#[tokio::test]
async fn appends_of_two_mounts_lose_nothing() {
    let world = World::new().await;
    let (one, two) = (world.mount(), world.mount());
    let mode = OpenMode { append: true, ..RW };
    let (entry, a) = one.create(ROOT, name("log"), 0o644, (mode, false), root()).await.unwrap();
    two.lookup(ROOT, name("log")).await.unwrap();
    let b = two.open(entry.attr.inode, mode).await.unwrap();
    for round in 0..100u8 {
        one.write(a.handle, 0, vec![round, b'1'], false).await.unwrap();
        two.write(b.handle, 0, vec![round, b'2'], false).await.unwrap();
        if round % 3 == 0 {
            one.fsync(a.handle).await.unwrap();
        }
        if round % 5 == 0 {
            two.fsync(b.handle).await.unwrap();
        }
    }
    close(&one, a.handle).await.unwrap();
    close(&two, b.handle).await.unwrap();
    let bytes = read_file(&one, "log").await.unwrap();
    assert_eq!(bytes, read_file(&two, "log").await.unwrap());
    for who in [b'1', b'2'] {
        let rounds: Vec<u8> = bytes.chunks(2).filter(|pair| pair[1] == who).map(|pair| pair[0]).collect();
        assert_eq!(rounds, (0..100).collect::<Vec<u8>>());
    }
}

#[tokio::test]
async fn what_is_cut_off_reads_as_zeros_when_the_file_grows_again() {
    let world = World::new().await;
    let vfs = world.mount();
    let (inode, handle) = create(&vfs, "f").await;
    vfs.write(handle, 0, vec![1; 1000], false).await.unwrap();
    vfs.fsync(handle).await.unwrap();
    vfs.write(handle, 500, vec![2; 1000], false).await.unwrap();
    assert_eq!(vfs.truncate(inode, 600, false).await.unwrap().0.length, 600);
    assert_eq!(vfs.truncate(inode, 2000, false).await.unwrap().0.length, 2000);
    let mut expected = vec![1; 500];
    expected.resize(600, 2);
    expected.resize(2000, 0);
    assert_eq!(vfs.read(handle, 0, 5000).await.unwrap(), expected);
    close(&vfs, handle).await.unwrap();
    assert_eq!(read_file(&vfs, "f").await.unwrap(), expected);
}

#[tokio::test]
async fn holes_are_made_and_found() {
    let world = World::new().await;
    let vfs = world.mount();
    let (inode, handle) = create(&vfs, "f").await;
    vfs.write(handle, 0, vec![1; 300], false).await.unwrap();
    vfs.fallocate(handle, 100, 100, Space::Punch).await.unwrap();
    let seek = |at, what| vfs.seek(handle, at, what);
    assert_eq!(seek(0, Seek::Hole).await, Ok(100));
    assert_eq!(seek(100, Seek::Data).await, Ok(200));
    assert_eq!(seek(200, Seek::Hole).await, Ok(300));
    assert_eq!(seek(300, Seek::Data).await, Err(FsError::NoData));
    vfs.fallocate(handle, 300, 200, Space::Allocate { keep_size: true }).await.unwrap();
    let (attr, _) = vfs.get_attr(inode).await.unwrap();
    assert_eq!((attr.length, attr.allocated), (300, 400));
    vfs.fallocate(handle, 300, 200, Space::Allocate { keep_size: false }).await.unwrap();
    assert_eq!(vfs.get_attr(inode).await.unwrap().0.length, 500);
    vfs.fallocate(handle, 0, 50, Space::Zero { keep_size: false }).await.unwrap();
    let mut expected = vec![0; 500];
    expected[50..100].fill(1);
    expected[200..300].fill(1);
    assert_eq!(vfs.read(handle, 0, 1000).await.unwrap(), expected);
    assert_eq!(seek(300, Seek::Data).await, Err(FsError::NoData));
}

#[tokio::test]
async fn ranges_are_copied_by_reference() {
    let world = World::new().await;
    let vfs = world.mount_as(unstaged()).0;
    let (_, from) = create(&vfs, "from").await;
    let (_, to) = create(&vfs, "to").await;
    vfs.write(from, 0, vec![7; 10_000], false).await.unwrap();
    vfs.write(to, 0, vec![9; 100], false).await.unwrap();
    assert_eq!(vfs.copy_range((from, 1000), (to, 50), 20_000).await.unwrap(), 9000);
    assert_eq!(world.data.writes(), 2, "no bytes were carried");
    let mut expected = vec![9; 50];
    expected.resize(9050, 7);
    assert_eq!(vfs.read(to, 0, 20_000).await.unwrap(), expected);
    assert_eq!(vfs.copy_range((from, 10_000), (to, 0), 10).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_kept_and_told_and_the_bytes_are_tried_again() {
    let world = World::new().await;
    let vfs = world.mount_as(unstaged()).0;
    let (_, handle) = create(&vfs, "f").await;
    vfs.write(handle, 0, b"kept".to_vec(), false).await.unwrap();
    world.data.fail(Some(FsError::StoreRefused));
    assert_eq!(vfs.fsync(handle).await, Err(FsError::StoreRefused));
    assert_eq!(vfs.close(handle, None).await, Err(FsError::StoreRefused));
    assert_eq!(vfs.read(handle, 0, 10).await.unwrap(), &b"kept"[..]);
    world.data.fail(None);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(vfs.unpublished_bytes(), 0, "the background has tried again");
    vfs.fsync(handle).await.unwrap();
    close(&vfs, handle).await.unwrap();
    assert_eq!(read_file(&world.mount(), "f").await.unwrap(), b"kept");
}

/// A stream has several batches on their way; each that fails takes those after it back.
#[tokio::test(start_paused = true)]
async fn a_stream_survives_a_store_that_comes_and_goes() {
    const PIECE: usize = 1 << 20;
    let world = World::new().await;
    let vfs = world.mount_as(MountOptions { write_cache_bytes: 48 << 20, ..unstaged() }).0;
    let (_, handle) = create(&vfs, "f").await;
    let mut model = vec![0; 96 * PIECE];
    let mut next = 0;
    for round in 0..110u8 {
        // Each sixth goes over what is perhaps on its way.
        let at = if round % 6 == 5 {
            next - 3 * PIECE - 7
        } else {
            next += PIECE;
            next - PIECE
        };
        let piece = vec![round + 1; PIECE];
        model[at..at + PIECE].copy_from_slice(&piece);
        let fails = round % 16 > 11;
        world.data.fail(fails.then_some(FsError::StoreRefused));
        vfs.write(handle, at as u64, piece, false).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        if !fails {
            assert_eq!(vfs.read(handle, at as u64, 10).await.unwrap(), &model[at..at + 10]);
        }
    }
    world.data.fail(None);
    // What failed in the background is told unless it went well since.
    vfs.fsync(handle).await.unwrap();
    assert_eq!(vfs.unpublished_bytes(), 0);
    close(&vfs, handle).await.unwrap();
    let other = world.mount();
    let entry = other.lookup(ROOT, name("f")).await.unwrap();
    let opened = other.open(entry.attr.inode, RW).await.unwrap();
    assert!(other.read(opened.handle, 0, model.len() as u32).await.unwrap() == model[..next]);
}

/// Metadata whose changes take a second each.
struct Slow {
    inner: Arc<LocalMount>,
    writes: AtomicU32,
}

impl Metadata for Slow {
    fn fs(&self) -> FsId {
        self.inner.fs()
    }

    fn change(&self, op: Op) -> FsFuture<'_, Reply> {
        self.writes.fetch_add(u32::from(matches!(op, Op::Write { .. })), Ordering::Relaxed);
        Box::pin(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            self.inner.change(op).await
        })
    }

    fn query(&self, query: Query) -> FsFuture<'_, Answer> {
        self.inner.query(query)
    }

    fn stat_fs(&self) -> FsFuture<'_, Usage> {
        self.inner.stat_fs()
    }
}

#[tokio::test(start_paused = true)]
async fn batches_that_are_stored_while_one_is_published_are_published_together() {
    const PIECE: usize = 1 << 20;
    let world = World::new().await;
    let slow = Arc::new(Slow { inner: world.fs.mount(), writes: AtomicU32::new(0) });
    let options = MountOptions { write_cache_bytes: 128 << 20, ..unstaged() };
    let vfs = Vfs::new(slow.clone(), world.data.clone(), options);
    let (_, handle) = create(&vfs, "f").await;
    for piece in 0..96 {
        vfs.write(handle, (piece * PIECE) as u64, vec![piece as u8; PIECE], false).await.unwrap();
    }
    vfs.fsync(handle).await.unwrap();
    let changes = slow.writes.load(Ordering::Relaxed);
    assert!((1..=3).contains(&changes), "six batches were published in {changes} changes");
    close(&vfs, handle).await.unwrap();
    let other = world.mount();
    let entry = other.lookup(ROOT, name("f")).await.unwrap();
    let opened = other.open(entry.attr.inode, RW).await.unwrap();
    let read = other.read(opened.handle, 0, 200 << 20).await.unwrap();
    assert!(read.iter().copied().eq((0..96 * PIECE).map(|at| (at / PIECE) as u8)));
}

#[tokio::test(start_paused = true)]
async fn written_bytes_are_published_within_seconds() {
    let world = World::new().await;
    let vfs = world.mount();
    let (_, handle) = create(&vfs, "f").await;
    vfs.write(handle, 0, b"late".to_vec(), false).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(vfs.unpublished_bytes(), 0);
    assert_eq!(read_file(&world.mount(), "f").await.unwrap(), b"late");
}

#[tokio::test]
async fn memory_of_written_bytes_is_bounded() {
    let world = World::new().await;
    let options = MountOptions { write_cache_bytes: 4 << 20, ..MountOptions::default() };
    let vfs = world.mount_as(options).0;
    let (_, handle) = create(&vfs, "f").await;
    for i in 0..64u64 {
        vfs.write(handle, i << 20, vec![i as u8; 1 << 20], false).await.unwrap();
        assert!(vfs.unpublished_bytes() <= 4 << 20);
    }
    for i in (0..64u64).rev() {
        assert_eq!(vfs.read(handle, i << 20, 1 << 20).await.unwrap(), vec![i as u8; 1 << 20]);
    }
}

#[tokio::test]
async fn sync_writes_are_durable_when_they_are_answered() {
    let world = World::new().await;
    let vfs = world.mount();
    let mode = OpenMode { sync: true, ..RW };
    let (_, opened) = vfs.create(ROOT, name("f"), 0o644, (mode, true), root()).await.unwrap();
    vfs.write(opened.handle, 0, b"now".to_vec(), false).await.unwrap();
    assert_eq!(vfs.unpublished_bytes(), 0);
    assert_eq!(read_file(&world.mount(), "f").await.unwrap(), b"now");
}

#[tokio::test]
async fn lost_data_is_an_error_and_no_endless_wait() {
    let world = World::new().await;
    let inode = write_file(&world.mount_as(unstaged()).0, "f", b"abc").await;
    world.data.lose();
    let vfs = world.mount_as(unstaged()).0;
    let opened = vfs.open(inode, RW).await.unwrap();
    assert_eq!(vfs.read(opened.handle, 0, 10).await, Err(FsError::DataLost));
}

#[tokio::test]
async fn a_fenced_mount_says_so_and_gives_up() {
    let world = World::new().await;
    let (vfs, meta) = world.mount_as(MountOptions::default());
    let (_, handle) = create(&vfs, "f").await;
    vfs.write(handle, 0, b"late".to_vec(), false).await.unwrap();
    world.fs.expire(meta.id()).unwrap();
    assert_eq!(vfs.fsync(handle).await, Err(FsError::Fenced));
    assert_eq!(vfs.unpublished_bytes(), 0);
    assert_eq!(read_file(&world.mount(), "f").await.unwrap(), b"");
}
