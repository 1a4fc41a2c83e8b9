//! Mounts in temporary directories, for the tests of this crate.

#![allow(dead_code, reason = "each test uses its part")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use curvefs_fuse::{KernelOptions, Mounted, mount};
use curvefs_local::LocalFs;
use curvefs_types::{MountOptions, WriterId};
use curvefs_vfs::{MemoryBackend, Vfs};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// A file system in this process and its mounts, which end with it. Fields are dropped in order: first the mounts.
pub struct World {
    mounts: Vec<(Mounted, Vfs, TempDir)>,
    pub fs: Arc<LocalFs>,
    pub data: Arc<MemoryBackend>,
    runtime: Runtime,
}

impl World {
    /// Mounts a new file system so often; `None`, with a message, where this machine cannot.
    pub fn mounted(mounts: usize, options: &MountOptions) -> Option<Self> {
        if !Path::new("/dev/fuse").exists() {
            eprintln!("skipped: there is no /dev/fuse here");
            return None;
        }
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let fs = runtime.block_on(LocalFs::new()).unwrap();
        let data = Arc::new(MemoryBackend::new(WriterId(1)));
        let mut world = Self { mounts: Vec::new(), fs, data, runtime };
        for _ in 0..mounts {
            let _inside = world.runtime.enter();
            let dir = TempDir::new().unwrap();
            let vfs = Vfs::new(world.fs.mount(), world.data.clone(), options.clone());
            let kernel = KernelOptions {
                allow_other: rustix::process::geteuid().is_root(),
                ..KernelOptions::default()
            };
            match mount(vfs.clone(), dir.path(), &kernel) {
                Ok(mounted) => world.mounts.push((mounted, vfs, dir)),
                Err(error) => {
                    eprintln!("skipped: cannot mount here: {error}");
                    return None;
                }
            }
        }
        Some(world)
    }

    /// The directory of a mount.
    pub fn dir(&self, mount: usize) -> PathBuf {
        self.mounts[mount].2.path().to_path_buf()
    }

    /// The `Vfs` of a mount.
    pub fn vfs(&self, mount: usize) -> &Vfs {
        &self.mounts[mount].1
    }

    /// Unmounts everything in order.
    pub fn end(mut self) {
        for (mounted, vfs, _dir) in self.mounts.drain(..) {
            mounted.unmount().unwrap();
            self.runtime.block_on(vfs.shutdown()).unwrap();
            assert_eq!(vfs.unpublished_bytes(), 0);
        }
    }
}
