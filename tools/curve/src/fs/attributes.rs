//! What a mount says of itself and its files: extended attributes that `curve-fuse` answers.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use rustix::fs::{getxattr, lgetxattr};
use rustix::io::Errno;

use crate::failure::{Code, Failure};

/// Bytes of an attribute at most (Linux, `XATTR_SIZE_MAX`).
const VALUE_BYTES_MAX: usize = 64 << 10;

/// Whether a symbolic link's target is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Links {
    Follow,
    Themselves,
}

/// An attribute's text.
pub(super) fn get(path: &Path, name: &str, links: Links) -> Result<String, Errno> {
    let mut value = vec![0; VALUE_BYTES_MAX];
    let len = match links {
        Links::Follow => getxattr(path, name, &mut value[..])?,
        Links::Themselves => lgetxattr(path, name, &mut value[..])?,
    };
    value.truncate(len);
    Ok(String::from_utf8_lossy(&value).into_owned())
}

/// The same of a mount that may not answer: `None` when it takes longer. The thread that asks stays behind then; it ends with
/// the mount or with this process.
pub(super) fn get_within(path: &Path, name: &'static str, limit: Duration) -> Option<Result<String, Errno>> {
    let (sender, receiver) = sync_channel(1);
    let path = path.to_owned();
    let asking = move || {
        // Nobody may wait any more.
        let _ = sender.send(get(&path, name, Links::Follow));
    };
    if std::thread::Builder::new().name("ask-mount".into()).spawn(asking).is_err() {
        return Some(Err(Errno::AGAIN));
    }
    // The thread keeps its end until it has sent something, so an error is that it takes longer.
    receiver.recv_timeout(limit).ok()
}

/// Whether the answer comes from something else than a mount of CurveFS.
pub(super) fn is_elsewhere(error: Errno) -> bool {
    matches!(error, Errno::OPNOTSUPP | Errno::NODATA | Errno::NOSYS | Errno::INVAL)
}

/// The failure for a path that cannot be asked.
pub(super) fn failure(path: &Path, error: Errno) -> Failure {
    let path = path.display();
    match error {
        Errno::NOENT => Failure::new(Code::NotFound, format!("there is no {path}")),
        Errno::NOTCONN => {
            Failure::new(Code::Unavailable, format!("the process of the mount at {path} is gone"))
                .because("it was killed, or has failed; its log says more")
                .try_this("run `curve-fuse umount DIR`, and mount it again")
        }
        Errno::ACCESS | Errno::PERM => {
            Failure::new(Code::Environment, format!("{path} may not be read by this user")).because(error)
        }
        error if is_elsewhere(error) => {
            Failure::new(Code::NotFound, format!("{path} is not in a mounted CurveFS")).try_this(
                "`findmnt -t fuse.curvefs` lists what is mounted here; `curve-fuse mount NAME DIR` mounts",
            )
        }
        other => {
            Failure::new(Code::Unavailable, format!("the mount does not answer for {path}")).because(other)
        }
    }
}

/// The failure for an answer that cannot be read.
pub(super) fn confused(path: &Path, what: &str) -> Failure {
    Failure::new(Code::Internal, format!("the mount's answer for {} is not understood", path.display()))
        .because(what)
        .try_this("use a `curve` and a `curve-fuse` of the same version")
}

/// Lines `NAME VALUE`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Lines(HashMap<String, String>);

impl Lines {
    /// Lines without a value have an empty one.
    pub fn parse(text: &str) -> Self {
        let pair = |line: &str| match line.split_once(' ') {
            Some((name, value)) => (name.to_owned(), value.to_owned()),
            None => (line.to_owned(), String::new()),
        };
        Self(text.lines().map(pair).collect())
    }

    /// A value; empty if there is none.
    pub fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// A number, if it is one.
    pub fn number<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.0.get(name)?.parse().ok()
    }
}

/// Lines of an attribute of a path in a mount.
pub(super) fn lines(path: &Path, name: &str, links: Links) -> Result<Lines, Failure> {
    get(path, name, links).map(|text| Lines::parse(&text)).map_err(|error| failure(path, error))
}

/// Whose mount a path is in; a failure when it is in none.
pub(super) fn mount_of(path: &Path, links: Links) -> Result<Lines, Failure> {
    lines(path, "system.curve.mount", links)
}

/// Where a CurveFS is mounted that a path is in, going by the kernel's table and the path's text alone: nothing is asked of the
/// mount, which may not answer.
pub(super) fn mount_point(path: &Path) -> Option<PathBuf> {
    let mounts = curve_mounts::all().ok()?;
    let around = curve_mounts::around(&mounts, &std::path::absolute(path).ok()?)?;
    around.is_curvefs().then(|| around.point.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_mount_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let failed = mount_of(dir.path(), Links::Follow).unwrap_err();
        assert_eq!(failed.code, Code::NotFound);
        assert!(failed.to_string().contains("not in a mounted CurveFS"), "{failed}");
        let failed = mount_of(&dir.path().join("none"), Links::Themselves).unwrap_err();
        assert!(failed.to_string().contains("there is no"), "{failed}");
        assert_eq!(failure(dir.path(), Errno::NOTCONN).code, Code::Unavailable);
        let answer = get_within(dir.path(), "system.curve.mount", Duration::from_secs(10));
        assert!(answer.unwrap().is_err_and(is_elsewhere));
    }

    #[test]
    fn lines_are_names_and_values() {
        let lines = Lines::parse("a 1\nb two words\nc\n");
        assert_eq!((lines.number::<u64>("a"), lines.text("b"), lines.text("c")), (Some(1), "two words", ""));
        assert_eq!((lines.number::<u64>("b"), lines.text("d")), (None, ""));
    }
}
