//! What the tests of `Vfs` share: mounts of one file system in this process.

#![allow(dead_code, reason = "each test uses its part")]

pub mod dirs;

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes};
use curvefs_local::{LocalFs, LocalMount};
use curvefs_types::{FsError, InodeId, MountOptions, Name, WriterId};
use curvefs_vfs::{Caller, Entry, MemoryBackend, OpenMode, Vfs};

/// The root.
pub const ROOT: InodeId = InodeId::ROOT;

/// Reading and writing.
pub const RW: OpenMode =
    OpenMode { read: true, write: true, append: false, truncate: false, sync: false, direct: false };

/// One file system, its store, and mounts.
pub struct World {
    pub fs: Arc<LocalFs>,
    pub data: Arc<MemoryBackend>,
}

impl World {
    pub async fn new() -> Self {
        Self { fs: LocalFs::new().await.unwrap(), data: Arc::new(MemoryBackend::new(WriterId(1))) }
    }

    pub fn mount_as(&self, options: MountOptions) -> (Vfs, Arc<LocalMount>) {
        let meta = self.fs.mount();
        (Vfs::new(meta.clone(), self.data.clone(), options), meta)
    }

    pub fn mount(&self) -> Vfs {
        self.mount_as(MountOptions::default()).0
    }
}

/// Options without any belief.
pub fn strict() -> MountOptions {
    let none = Duration::ZERO;
    MountOptions {
        attr_timeout: none,
        dir_attr_timeout: none,
        entry_timeout: none,
        adopt: true,
        ..MountOptions::default()
    }
}

/// Options for a mount whose bytes go to the store at once.
pub fn unstaged() -> MountOptions {
    MountOptions { stage_bytes: 0, ..MountOptions::default() }
}

pub fn name(name: &str) -> Name {
    Name::try_from(name).unwrap()
}

pub fn root() -> Caller {
    Caller { uid: 0, gid: 0, umask: 0o022 }
}

/// Makes a file and opens it.
pub async fn create(vfs: &Vfs, path: &str) -> (InodeId, u64) {
    let (entry, opened) = vfs.create(ROOT, name(path), 0o644, (RW, false), root()).await.unwrap();
    (entry.attr.inode, opened.handle)
}

pub async fn mkdir(vfs: &Vfs, parent: InodeId, path: &str) -> Entry {
    vfs.mkdir(parent, name(path), 0o755, root(), None).await.unwrap()
}

/// Closes as the kernel does.
pub async fn close(vfs: &Vfs, handle: u64) -> Result<(), FsError> {
    let closed = vfs.close(handle, None).await;
    vfs.release(handle, None).await.unwrap();
    closed
}

/// Writes a whole file.
pub async fn write_file(vfs: &Vfs, path: &str, bytes: &[u8]) -> InodeId {
    let (inode, handle) = create(vfs, path).await;
    vfs.write(handle, 0, bytes.to_vec(), false).await.unwrap();
    close(vfs, handle).await.unwrap();
    inode
}

/// Reads a whole file, opening it anew.
pub async fn read_file(vfs: &Vfs, path: &str) -> Result<Vec<u8>, FsError> {
    let entry = vfs.lookup(ROOT, name(path)).await?;
    let opened = vfs.open(entry.attr.inode, RW).await?;
    let bytes = vfs.read(opened.handle, 0, 1 << 20).await;
    close(vfs, opened.handle).await?;
    vfs.forget(entry.attr.inode, 1);
    bytes.map(Vec::from)
}

/// An ACL of entries of tag, permissions and id, as programs set it.
pub fn acl(entries: &[(u16, u16, u32)]) -> Bytes {
    let mut out = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        out.put_u16_le(*tag);
        out.put_u16_le(*permissions);
        out.put_u32_le(*id);
    }
    out.into()
}
