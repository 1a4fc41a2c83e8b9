//! What tests of delegated directories share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use curvefs_local::LocalMount;
use curvefs_types::{
    Answer, FsError, FsFuture, FsId, InodeId, Metadata, Op, Query, RenameMode, Reply, Usage,
};
use curvefs_vfs::Vfs;

use super::{ROOT, RW, World, close, mkdir, name, root, strict};

pub async fn create(vfs: &Vfs, dir: InodeId, path: &str) -> (InodeId, u64) {
    let (entry, opened) = vfs.create(dir, name(path), 0o644, (RW, true), root()).await.unwrap();
    (entry.attr.inode, opened.handle)
}

pub async fn write(vfs: &Vfs, dir: InodeId, path: &str, bytes: &[u8]) -> InodeId {
    let (inode, handle) = create(vfs, dir, path).await;
    vfs.write(handle, 0, bytes.to_vec(), false).await.unwrap();
    close(vfs, handle).await.unwrap();
    inode
}

pub async fn read(vfs: &Vfs, dir: InodeId, path: &str) -> Result<Vec<u8>, FsError> {
    let entry = vfs.lookup(dir, name(path)).await?;
    let opened = vfs.open(entry.attr.inode, RW).await?;
    let bytes = vfs.read(opened.handle, 0, 1 << 20).await;
    close(vfs, opened.handle).await?;
    bytes.map(Vec::from)
}

pub async fn names(vfs: &Vfs, dir: InodeId) -> Vec<String> {
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
pub struct Line {
    pub inner: Arc<LocalMount>,
    pub is_cut: AtomicBool,
    pub refuses: AtomicBool,
    /// So many batches are not made.
    pub refuses_next: AtomicU32,
    /// There is no room for new files.
    pub is_full: AtomicBool,
}

impl Line {
    pub fn new(inner: Arc<LocalMount>) -> Arc<Self> {
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
pub async fn delegated(vfs: &Vfs, path: &str) -> InodeId {
    let made = vfs.delegations().made;
    let dir = mkdir(vfs, ROOT, path).await.attr.inode;
    for path in ["first", "second"] {
        let (_, handle) = create(vfs, dir, path).await;
        close(vfs, handle).await.unwrap();
    }
    assert_eq!(vfs.delegations().made, made + 1, "the first one is made by the partition");
    dir
}

pub fn two(world: &World) -> (Vfs, Arc<LocalMount>, Vfs) {
    let (a, meta) = world.mount_as(strict());
    (a, meta, world.mount_as(strict()).0)
}

/// A directory of a mount's with published files.
pub async fn with_files(vfs: &Vfs, path: &str, of: &[&str]) -> (InodeId, Vec<InodeId>) {
    let dir = delegated(vfs, path).await;
    let mut inodes = Vec::new();
    for path in of {
        inodes.push(write(vfs, dir, path, path.as_bytes()).await);
    }
    vfs.sync().await.unwrap();
    (dir, inodes)
}

pub async fn fsync_dir(vfs: &Vfs, dir: InodeId) -> Result<(), FsError> {
    let handle = vfs.open_dir(dir).await.unwrap();
    let synced = vfs.fsync_dir(handle).await;
    vfs.release_dir(handle).unwrap();
    synced
}

pub async fn rename(vfs: &Vfs, from: (InodeId, &str), to: (InodeId, &str)) -> Result<(), FsError> {
    vfs.rename((from.0, name(from.1)), (to.0, name(to.1)), RenameMode::Replace).await
}
