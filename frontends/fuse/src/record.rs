//! Which process is behind a mount: a file for each, named by the mount's device, so that `umount` can wait for the process, and
//! a socket beside it, so that `upgrade` finds it. The mount does not depend on them: without the file `umount` returns a moment
//! earlier.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use curve_serving::process::is_dead;
use tracing::info;

use crate::handover::door::Door;
use crate::mounts;

/// Where root's mounts are recorded; others have their own runtime directory.
const RUN: &str = "/run/curve/fuse";

/// Directories to look into.
fn places() -> impl Iterator<Item = PathBuf> {
    let own = std::env::var_os("XDG_RUNTIME_DIR").map(|dir| Path::new(&dir).join("curve/fuse"));
    std::iter::once(PathBuf::from(RUN)).chain(own)
}

/// A record, removed when it is dropped.
#[derive(Debug)]
pub struct Record {
    file: PathBuf,
}

impl Record {
    /// Says that this process is behind the mount.
    fn put_in(place: &Path, device: &str) -> io::Result<Self> {
        fs::create_dir_all(place)?;
        let file = place.join(device);
        fs::write(&file, std::process::id().to_string())?;
        Ok(Self { file })
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        // What stays names a process that is gone, which is seen.
        let _ = fs::remove_file(&self.file);
    }
}

/// What others find the process of a mount by: its record, and the door beside it.
#[derive(Debug)]
pub struct Post {
    /// The mount's device.
    pub device: String,
    /// Where a process knocks that wants to go on with the mount.
    pub door: Door,
    record: Record,
}

impl Post {
    /// For the mount at a directory. Without it the mount works all the same.
    pub fn put(dir: &Path) -> Option<Self> {
        let lines = mounts::all().ok()?;
        let device = mounts::ours_at(&lines, dir)?.device;
        let put = own_place().and_then(|place| {
            let record = Record::put_in(&place, &device)?;
            Ok((record, Door::open(door_in(&place, &device))?))
        });
        Self::of(device, put)
    }

    /// For a mount that another process has left, with its door.
    pub fn inherit(device: &str, listener: OwnedFd) -> Option<Self> {
        let put = own_place().and_then(|place| {
            let record = Record::put_in(&place, device)?;
            Ok((record, Door::inherit(door_in(&place, device), listener)?))
        });
        Self::of(device.to_owned(), put)
    }

    fn of(device: String, put: io::Result<(Record, Door)>) -> Option<Self> {
        match put {
            Ok((record, door)) => Some(Self { device, door, record }),
            Err(error) => {
                info!(%error, "the process of the mount is not recorded: `curve-fuse umount` will not wait for it, and `curve-fuse upgrade` will not find it");
                None
            }
        }
    }

    /// Another process has taken its place: files stay.
    pub fn leave(self) {
        self.door.leave();
        std::mem::forget(self.record);
    }
}

/// Where this process records its mounts.
fn own_place() -> io::Result<PathBuf> {
    let is_root = rustix::process::geteuid().is_root();
    let place = if is_root { places().next() } else { places().nth(1) };
    place.ok_or_else(|| io::Error::other("$XDG_RUNTIME_DIR is not set"))
}

fn door_in(place: &Path, device: &str) -> PathBuf {
    place.join(format!("{device}.sock"))
}

/// Where the door of a mount may be.
pub fn doors(device: &str) -> Vec<PathBuf> {
    places().map(|place| door_in(&place, device)).collect()
}

/// The process behind a mount, if it is recorded and lives.
pub fn process(device: &str) -> Option<u32> {
    places().find_map(|place| process_in(&place, device))
}

fn process_in(place: &Path, device: &str) -> Option<u32> {
    let process = fs::read_to_string(place.join(device)).ok()?.trim().parse().ok()?;
    is_alive(process).then_some(process)
}

/// Whether it runs and is one of ours: numbers of processes are used again.
pub fn is_alive(process: u32) -> bool {
    let ours = fs::read_to_string(format!("/proc/{process}/comm"));
    let stat = fs::read_to_string(format!("/proc/{process}/stat"));
    match (ours, stat) {
        (Ok(name), Ok(stat)) => is_name(name.trim()) && !is_dead(&stat),
        _ => false,
    }
}

/// The kernel keeps 15 bytes of the name; tests have a suffix.
fn is_name(name: &str) -> bool {
    name.starts_with("curve-fuse") || name.starts_with("curve_fuse") || name.starts_with("mount.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_lives_as_long_as_the_mount() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("a/b");
        assert_eq!(process_in(&place, "0:57"), None);
        let record = Record::put_in(&place, "0:57").unwrap();
        assert_eq!(fs::read_to_string(place.join("0:57")).unwrap(), std::process::id().to_string());
        drop(record);
        assert_eq!(process_in(&place, "0:57"), None);
        fs::write(place.join("0:58"), "1").unwrap();
        assert_eq!(process_in(&place, "0:58"), None, "another program");
        assert!(is_name("curve-fuse") && !is_name("bash") && !is_alive(u32::MAX));
    }
}
