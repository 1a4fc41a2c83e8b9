//! Which of the kernel's mounts are ours.

use std::io;
use std::path::{Path, PathBuf};

pub use curve_mounts::{Mount, TABLE, all};

/// Our mount at a directory, if one is what is seen there.
pub fn ours_at(mounts: &[Mount], dir: &Path) -> Option<Mount> {
    curve_mounts::at(mounts, dir).filter(|mount| mount.is_curvefs()).cloned()
}

/// Where our mounts are, for people.
pub fn ours(mounts: &[Mount]) -> Vec<String> {
    let ours = mounts.iter().filter(|mount| mount.is_curvefs());
    ours.map(|mount| mount.point.display().to_string()).collect()
}

/// The directory by its full name, without asking what is mounted there: its process may be gone.
pub fn full_name(dir: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(dir)?;
    let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        return absolute.canonicalize();
    };
    let full = parent.canonicalize()?.join(name);
    match full.read_link() {
        Ok(_) => full.canonicalize(),
        // No symbolic link, or nobody who says.
        Err(_) => Ok(full),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_full() {
        assert_eq!(full_name(Path::new("/")).unwrap(), Path::new("/"));
        assert_eq!(full_name(Path::new("/proc/../tmp")).unwrap(), Path::new("/tmp"));
    }
}
