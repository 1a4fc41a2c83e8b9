//! Taking a mount away, and waiting for the process behind it.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use thiserror::Error;

use crate::cli::Umount;
use crate::{mounts, record};

/// How long the process behind a mount may take to store what was written.
const END_MAX: Duration = Duration::from_secs(120);
const END_LOOK: Duration = Duration::from_millis(10);

/// Why a directory is not unmounted.
#[derive(Debug, Error)]
pub enum UnmountError {
    /// Nothing of ours is there.
    #[error("{dir} is not a CurveFS mount; {}", if mounts.is_empty() { "there is none on this host".to_owned() } else { format!("mounted are: {}", mounts.join(", ")) })]
    NotMounted {
        /// The directory.
        dir: PathBuf,
        /// What is.
        mounts: Vec<String>,
    },
    /// Somebody uses it.
    #[error("{0} is in use; `fuser -vm {0}` shows by whom; end that, or use --lazy")]
    Busy(PathBuf),
    /// The kernel or fusermount3 refuses.
    #[error("cannot unmount {dir}: {cause}")]
    Refused {
        /// The directory.
        dir: PathBuf,
        /// What it says.
        cause: io::Error,
    },
    /// The process does not end.
    #[error(
        "{dir} is unmounted, but process {process} still stores what was written there; its log says what it waits for"
    )]
    Lingers {
        /// The directory.
        dir: PathBuf,
        /// The process.
        process: u32,
    },
    /// The system refuses something basic.
    #[error("{0}: {1}")]
    System(String, io::Error),
}

/// Unmounts, and returns when everything that was written is stored.
pub fn unmount(umount: &Umount) -> Result<(), UnmountError> {
    let system = |what: String| move |cause| UnmountError::System(what, cause);
    let dir = mounts::full_name(&umount.dir).map_err(system(umount.dir.display().to_string()))?;
    let lines = mounts::all().map_err(system(mounts::TABLE.into()))?;
    let Some(line) = mounts::ours_at(&lines, &dir) else {
        return Err(UnmountError::NotMounted { dir, mounts: mounts::ours(&lines) });
    };
    let process = record::process(&line.device);
    take_away(&dir, umount.lazy)?;
    match process {
        Some(process) if !umount.lazy => wait_for_end(dir, process),
        _ => Ok(()),
    }
}

/// The system call; who is not root asks fusermount3 to make it.
pub fn take_away(dir: &Path, lazy: bool) -> Result<(), UnmountError> {
    let mut flags = UnmountFlags::NOFOLLOW;
    flags.set(UnmountFlags::DETACH, lazy);
    match rustix::mount::unmount(dir, flags) {
        Ok(()) => Ok(()),
        Err(Errno::BUSY) => Err(UnmountError::Busy(dir.to_owned())),
        Err(Errno::PERM) => by_helper(dir, lazy),
        Err(error) => Err(UnmountError::Refused { dir: dir.to_owned(), cause: error.into() }),
    }
}

fn by_helper(dir: &Path, lazy: bool) -> Result<(), UnmountError> {
    let refused = |cause| UnmountError::Refused { dir: dir.to_owned(), cause };
    let mut command = Command::new("fusermount3");
    command.arg("-u").args(lazy.then_some("-z")).arg("--").arg(dir).stdin(Stdio::null());
    let output = command.output().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            refused(io::Error::other("only root may, or fusermount3, which is not installed (package fuse3)"))
        }
        _ => refused(error),
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if said.contains("busy") {
        return Err(UnmountError::Busy(dir.to_owned()));
    }
    Err(refused(io::Error::other(said)))
}

fn wait_for_end(dir: PathBuf, process: u32) -> Result<(), UnmountError> {
    let until = Instant::now() + END_MAX;
    while record::is_alive(process) {
        if Instant::now() > until {
            return Err(UnmountError::Lingers { dir, process });
        }
        std::thread::sleep(END_LOOK);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_mount_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let umount = Umount { dir: dir.path().to_owned(), lazy: false };
        let error = unmount(&umount).unwrap_err();
        assert!(matches!(error, UnmountError::NotMounted { .. }), "{error}");
        let umount = Umount { dir: dir.path().join("none/below"), lazy: false };
        assert!(matches!(unmount(&umount), Err(UnmountError::System(..))));
    }
}
