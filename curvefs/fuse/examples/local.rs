//! Mounts a file system that lives in this process, until somebody unmounts the directory: `local DIR`.

use std::path::Path;
use std::sync::Arc;

use curvefs_fuse::{KernelOptions, mount};
use curvefs_local::LocalFs;
use curvefs_types::{MountOptions, WriterId};
use curvefs_vfs::{MemoryBackend, Vfs};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args().nth(1).ok_or("usage: local DIR")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let fs = runtime.block_on(LocalFs::new())?;
    let _inside = runtime.enter();
    let vfs = Vfs::new(fs.mount(), Arc::new(MemoryBackend::new(WriterId(1))), MountOptions::default());
    let mounted = mount(vfs.clone(), Path::new(&dir), &KernelOptions::default())?;
    println!("mounted on {dir}");
    mounted.wait()?;
    runtime.block_on(vfs.shutdown())?;
    Ok(())
}
