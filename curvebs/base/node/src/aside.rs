//! Giving up what is on a disk, so that it is filled again from the other replicas.
//!
//! A server whose log or replicas are damaged has forgotten votes or acknowledged entries. Under its old identity it
//! could vote twice in a term or confirm what it no longer has. So everything, the identity included, is moved aside;
//! the next start draws a new token and gets a new node id, the MDS sees the old server dead, and its replicas are
//! rebuilt on the living ones, this disk among them. What was moved aside is kept for an investigation and may be
//! deleted.

use std::io;
use std::path::{Path, PathBuf};

use curve_io::{Disk, make_dirs_durable};

use crate::{addresses, identity};

/// Moves the identity, the addresses and the given subdirectories into a new subdirectory of `dir` and returns that. The
/// server must not run.
pub async fn set_aside(disk: &dyn Disk, dir: &Path, subdirectories: &[&str]) -> io::Result<PathBuf> {
    let aside = free_name(disk, dir)?;
    make_dirs_durable(disk, &aside).await?;
    // The identity goes first: if this stops half way, what is left starts as a new server whose log and replicas
    // belong to nobody, and the call can be repeated.
    for name in [identity::FILE, addresses::FILE] {
        move_file(disk, &dir.join(name), &aside.join(name))?;
    }
    disk.sync_dir(&aside).await?;
    disk.sync_dir(dir).await?;
    for name in subdirectories {
        move_tree(disk, &dir.join(name), &aside.join(name)).await?;
    }
    disk.sync_dir(dir).await?;
    Ok(aside)
}

fn move_file(disk: &dyn Disk, from: &Path, to: &Path) -> io::Result<()> {
    match disk.rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Moves a directory file by file, since a `Disk` renames files only. A directory that is not there is nothing to move.
async fn move_tree(disk: &dyn Disk, from: &Path, to: &Path) -> io::Result<()> {
    let mut left = vec![(from.to_owned(), to.to_owned())];
    while let Some((from, to)) = left.pop() {
        let entries = match disk.list(&from) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        make_dirs_durable(disk, &to).await?;
        for entry in entries {
            let (source, target) = (from.join(&entry.name), to.join(&entry.name));
            if entry.is_dir {
                left.push((source, target));
            } else {
                move_file(disk, &source, &target)?;
            }
        }
        disk.sync_dir(&to).await?;
    }
    match disk.remove_dir_all(from) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn free_name(disk: &dyn Disk, dir: &Path) -> io::Result<PathBuf> {
    let taken: Vec<String> = disk.list(dir)?.into_iter().map(|entry| entry.name).collect();
    let mut n = 1;
    loop {
        let name = format!("set-aside-{n}");
        if !taken.contains(&name) {
            return Ok(dir.join(name));
        }
        n += 1;
    }
}

#[cfg(test)]
mod tests {
    use curve_io::sim::{SimDisk, SimDiskConfig};
    use curve_io::{OpenMode, replace_file};

    use super::*;

    #[tokio::test]
    async fn everything_moves_and_a_second_time_has_its_own_place() {
        let disk = SimDisk::new(SimDiskConfig::default());
        let mount = disk.mount();
        let dir = Path::new("d");
        for round in 1..=2 {
            for sub in ["log", "store"] {
                make_dirs_durable(&*mount, &dir.join(sub)).await.unwrap();
                replace_file(&*mount, &dir.join(sub).join("f"), b"x").await.unwrap();
            }
            replace_file(&*mount, &dir.join(identity::FILE), b"id").await.unwrap();
            let aside = set_aside(&*mount, dir, &["log", "store"]).await.unwrap();
            assert_eq!(aside, dir.join(format!("set-aside-{round}")));
            assert!(mount.open(&aside.join("log").join("f"), OpenMode::Existing).is_ok());
            assert!(mount.open(&aside.join(identity::FILE), OpenMode::Existing).is_ok());
            assert!(mount.open(&dir.join(identity::FILE), OpenMode::Existing).is_err());
        }
    }
}
