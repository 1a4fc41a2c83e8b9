//! Crash-safe steps on a disk that every store needs: a directory whose names survive, a file replaced as a whole.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::disk::{Disk, OpenMode};

/// Makes a directory and its parents, and makes all their names durable.
pub async fn make_dirs_durable(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    disk.create_dir_all(path)?;
    let mut parent = path.parent();
    while let Some(dir) = parent {
        disk.sync_dir(dir).await?;
        parent = dir.parent();
    }
    disk.sync_dir(path).await
}

/// Replaces the content of a file: after a crash it holds either the old bytes or the new ones, never a mixture.
/// The bytes go to `<path>.tmp` first, which two callers must not do at once for one path.
pub async fn replace_file(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    let temporary = PathBuf::from(name);
    let file = disk.open(&temporary, OpenMode::Create)?;
    file.set_len(0)?;
    file.write_at(0, &[io::IoSlice::new(bytes)])?;
    file.sync().await?;
    disk.rename(&temporary, path)?;
    disk.sync_dir(path.parent().unwrap_or(Path::new(""))).await
}

/// Reads a whole file; `None` when it does not exist.
pub async fn read_whole(disk: &dyn Disk, path: &Path) -> io::Result<Option<Bytes>> {
    let file = match disk.open(path, OpenMode::Existing) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let len = usize::try_from(file.len()?).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    file.read(0, len).await.map(Some)
}
