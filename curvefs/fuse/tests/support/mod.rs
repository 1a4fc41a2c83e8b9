//! Mounts in temporary directories, for the tests of this crate.

#![allow(dead_code, reason = "each test uses its part")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use curvefs_fuse::{KernelOptions, Mounted, Paused, SessionState, mount, take_over};
use curvefs_local::{LocalFs, LocalMount};
use curvefs_types::{MountOptions, Wire, WriterId};
use curvefs_vfs::{MemoryBackend, Vfs, VfsState};
use rustix::fs::{Mode, OFlags};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// A file system in this process and its mounts, which end with it. Fields are dropped in order: first the mounts.
pub struct World {
    mounts: Vec<(Mounted, Vfs, TempDir)>,
    metas: Vec<Arc<LocalMount>>,
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
        let mut world = Self { mounts: Vec::new(), metas: Vec::new(), fs, data, runtime };
        for _ in 0..mounts {
            let _inside = world.runtime.enter();
            let dir = TempDir::new().unwrap();
            let meta = world.fs.mount();
            world.metas.push(meta.clone());
            let vfs = Vfs::new(meta, world.data.clone(), options.clone());
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

    fn paused(&self, mounted: &Mounted, dir: &TempDir) -> Paused {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(dir.path(), flags, Mode::empty()).unwrap();
        self.runtime.block_on(mounted.control().pause(&root)).unwrap()
    }

    /// Another process goes on with a mount, as far as that can be shown in one. `meanwhile` is called while nobody serves.
    pub fn replace(&mut self, mount: usize, meanwhile: impl FnOnce()) {
        let (mounted, vfs, dir) = self.mounts.remove(mount);
        let _inside = self.runtime.enter();
        let paused = self.paused(&mounted, &dir);
        let told = self.runtime.block_on(vfs.rest()).unwrap();
        let told = VfsState::from_row(&told.to_row()).unwrap();
        let session = SessionState::from_row(&paused.state().to_row()).unwrap();
        // The same partition and writer, as it is with the next process.
        let meta = self.metas[mount].clone();
        let next = Vfs::take_over(meta, self.data.clone(), vfs.options().clone(), told);
        let kernel = KernelOptions { allow_other: true, ..KernelOptions::default() };
        let successor = take_over(next.clone(), dir.path(), paused.device(), session, &kernel).unwrap();
        meanwhile();
        paused.leave();
        // The process before would be gone by now; its threads stay where they are.
        std::mem::forget((mounted, vfs));
        self.mounts.insert(mount, (successor.serve().unwrap(), next, dir));
    }

    /// Stops a mount for a moment.
    pub fn pause(&self, mount: usize, meanwhile: impl FnOnce()) {
        let (mounted, _, dir) = &self.mounts[mount];
        let paused = self.paused(mounted, dir);
        meanwhile();
        drop(paused);
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
