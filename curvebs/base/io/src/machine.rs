//! Files of other processes on the same machine.
//!
//! Whoever serves bytes from a file can tell a reader on the same machine where they are, and the reader takes them from
//! the page cache itself: a copy instead of four and two system calls. A file is known by what the kernel calls it, not by
//! its name, since names mean something else in another mount namespace and may be given to another file.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::process::{Resource, getrlimit};

use crate::board::Board;
use crate::disk::File;
use crate::real::{RealFile, open_unnoted};
use crate::watch::Watch;

/// A part of the limit of open files that files of other processes may take.
const LIMIT_PART: u64 = 8;
/// Files of other processes that are open at most, whatever the limit is.
const FILES_MAX: u64 = 4096;

/// A file as the kernel of a machine knows it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FilePlace {
    /// See [`Machine::id`].
    pub machine: u64,
    /// The device it is on.
    pub device: u64,
    /// Its inode. Not given to another file as long as anybody has it open.
    pub inode: u64,
}

/// How long the machine has been up, the time that it was suspended for included.
pub fn since_boot() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// The machine this process runs on.
pub trait Machine: Send + Sync + 'static {
    /// A number that no other machine has, nor this one after its next start. Never 0.
    fn id(&self) -> u64;
    /// Opens a file of another process for reading. Fails when this process may not, and when the name leads to another file
    /// than the one meant.
    fn open(&self, place: FilePlace, path: &Path) -> io::Result<Arc<dyn File>>;
    /// Opens the board of another process. Fails as `open` does.
    fn board(&self, place: FilePlace, path: &Path) -> io::Result<Arc<Board>>;
    /// How many such files may be open at a time.
    fn files_max(&self) -> usize;
}

/// The real one.
#[derive(Clone, Copy, Debug)]
pub struct RealMachine {
    id: u64,
}

impl RealMachine {
    /// `None` when the kernel does not say which start of which machine this is.
    pub fn new() -> Option<Self> {
        machine_id().map(|id| Self { id })
    }
}

impl Machine for RealMachine {
    fn id(&self) -> u64 {
        self.id
    }

    fn open(&self, place: FilePlace, path: &Path) -> io::Result<Arc<dyn File>> {
        // Whatever else has the name must not be waited for.
        let file = open_unnoted(fs::File::options().read(true), libc::O_NONBLOCK | libc::O_NOFOLLOW, path)?;
        if !file.metadata()?.is_file() || place_of(&file) != Some(place) {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("{} is another file", path.display()),
            ));
        }
        Ok(Arc::new(RealFile::new(file, Arc::default(), Watch::new())))
    }

    fn board(&self, place: FilePlace, path: &Path) -> io::Result<Arc<Board>> {
        Board::open(place, path)
    }

    fn files_max(&self) -> usize {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        (limit / LIMIT_PART).min(FILES_MAX) as usize
    }
}

/// Where an open file is.
pub(crate) fn place_of(file: &fs::File) -> Option<FilePlace> {
    let metadata = file.metadata().ok()?;
    Some(FilePlace { machine: machine_id()?, device: metadata.dev(), inode: metadata.ino() })
}

/// From the kernel's id of its own start, which containers on it share.
fn machine_id() -> Option<u64> {
    static ID: OnceLock<Option<u64>> = OnceLock::new();
    *ID.get_or_init(|| id_of(&fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?))
}

fn id_of(boot: &str) -> Option<u64> {
    let digits: String = boot.trim().chars().filter(|c| *c != '-').collect();
    let whole = u128::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 32)?;
    Some((whole >> 64) as u64 ^ whole as u64).filter(|id| *id != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Disk, OpenMode};
    use crate::real::RealDisk;

    #[tokio::test]
    async fn a_file_of_another_is_read_as_long_as_it_is_the_one_meant() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::new(dir.path().to_path_buf());
        let file = disk.open(Path::new("a"), OpenMode::CreateNew).unwrap();
        file.write_at(0, &[io::IoSlice::new(b"abc")]).unwrap();
        let machine = RealMachine::new().expect("Linux says which start this is");
        let (place, path) = (file.place().unwrap(), file.path().unwrap());
        assert_eq!((place.machine, path.as_path()), (machine.id(), dir.path().join("a").as_path()));
        let theirs = machine.open(place, &path).unwrap();
        assert_eq!(theirs.place(), Some(place));
        assert_eq!(theirs.clone().read(1, 10).await.unwrap(), "bc");
        assert!(theirs.write_at(0, &[io::IoSlice::new(b"x")]).is_err(), "only for reading");

        disk.rename(Path::new("a"), Path::new("b")).unwrap();
        assert_eq!(file.path().unwrap(), dir.path().join("b"));
        disk.open(Path::new("a"), OpenMode::CreateNew).unwrap();
        assert!(machine.open(place, &path).is_err(), "another file of this name");
        std::os::unix::fs::symlink(dir.path().join("b"), dir.path().join("c")).unwrap();
        assert!(machine.open(place, &dir.path().join("c")).is_err());
        assert!(machine.open(place, dir.path()).is_err());
        disk.remove_file(Path::new("b")).unwrap();
        assert!(machine.open(place, &file.path().unwrap()).is_err());
        assert_eq!(theirs.read(0, 3).await.unwrap(), "abc", "what is open stays");
        assert!((1..=FILES_MAX as usize).contains(&machine.files_max()));
    }

    #[test]
    fn the_machine_is_known_by_its_start() {
        assert_eq!(id_of("00000000-0000-0001-0000-000000000003\n"), Some(2));
        assert_eq!(id_of("00000000-0000-0001-0000-000000000001"), None);
        assert_eq!(id_of("1"), None);
        assert_eq!(id_of("no"), None);
    }
}
