//! What the kernel has mounted, from `/proc/self/mountinfo`. Source: proc_pid_mountinfo(5).
//!
//! Only the table is read: nothing is asked of a mount, whose servers may be gone.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// Where the kernel shows its table.
pub const TABLE: &str = "/proc/self/mountinfo";

/// A mount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mount {
    /// The device's numbers, `major:minor`: unique as long as it is mounted.
    pub device: String,
    /// Where.
    pub point: PathBuf,
    /// The type.
    pub kind: String,
    /// What, as who mounted it calls it.
    pub source: String,
}

impl Mount {
    /// Whether a CurveFS is mounted.
    pub fn is_curvefs(&self) -> bool {
        self.kind == "fuse.curvefs"
    }
}

/// All mounts, in the order in which they cover each other.
pub fn all() -> io::Result<Vec<Mount>> {
    Ok(parse(&fs::read(TABLE)?))
}

/// The mount at a directory that is seen there.
pub fn at<'a>(mounts: &'a [Mount], dir: &Path) -> Option<&'a Mount> {
    mounts.iter().rfind(|mount| mount.point == dir)
}

/// The mount that a path is in: the last one of those with the longest name. The path must be absolute.
pub fn around<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    let around = mounts.iter().filter(|mount| path.starts_with(&mount.point));
    around.max_by_key(|mount| mount.point.components().count())
}

/// The mounts of a table's text, whose names may be any bytes. Pure; lines that are none are left out.
pub fn parse(table: &[u8]) -> Vec<Mount> {
    table.split(|byte| *byte == b'\n').filter_map(mount).collect()
}

fn mount(line: &[u8]) -> Option<Mount> {
    // 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
    let mut words = line.split(|byte| *byte == b' ').skip(2);
    let (device, point) = (words.next()?, words.nth(1)?);
    words.find(|word| *word == b"-")?;
    let (kind, source) = (words.next()?, words.next()?);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Some(Mount {
        device: text(device),
        point: PathBuf::from(OsString::from_vec(unescape(point))),
        kind: text(kind),
        source: text(&unescape(source)),
    })
}

/// Blanks, tabs, newlines and backslashes are `\ooo`.
fn unescape(text: &[u8]) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), text);
    while let Some((&first, after)) = rest.split_first() {
        let octal =
            after.get(..3).filter(|_| first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &after[3..];
            }
            None => {
                out.push(first);
                rest = after;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use proptest::prelude::*;

    use super::*;

    const TEXT: &[u8] = b"\
22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
40 22 0:35 / /mnt/a\\040b rw,nosuid shared:2 master:3 - fuse.curvefs data rw,user_id=0
41 40 0:36 / /mnt/a\\040b/tmp rw - tmpfs tmpfs rw
42 22 0:37 / /mnt/c rw - fuse.curvefs da\\134ta rw
43 22 0:38 / /mnt/c rw - tmpfs tmpfs rw
44 22 0:39 / /mnt/\xff rw - fuse.curvefs d rw
broken line
";

    #[test]
    fn lines_are_read_and_what_is_covered_is_not_seen() {
        let mounts = parse(TEXT);
        assert_eq!(mounts.len(), 6);
        assert_eq!((mounts[1].device.as_str(), &*mounts[1].point), ("0:35", Path::new("/mnt/a b")));
        assert_eq!(at(&mounts, Path::new("/mnt/a b")).unwrap().source, "data");
        let covered = at(&mounts, Path::new("/mnt/c")).unwrap();
        assert!(!covered.is_curvefs(), "something else is mounted over it");
        assert_eq!(at(&mounts[..4], Path::new("/mnt/c")).unwrap().source, "da\\ta");
        assert_eq!(at(&mounts, Path::new("/mnt/a")), None);
        let not_utf8 = Path::new(OsStr::from_bytes(b"/mnt/\xff"));
        assert!(at(&mounts, not_utf8).unwrap().is_curvefs());
    }

    #[test]
    fn the_longest_mount_point_counts_and_the_last_of_equals() {
        let mounts = parse(TEXT);
        for (path, device, ours) in [
            ("/mnt/a b", "0:35", true),
            ("/mnt/a b/x/y", "0:35", true),
            ("/mnt/a b/tmp/x", "0:36", false),
            ("/mnt/a bc", "254:1", false),
            ("/mnt/c", "0:38", false),
            ("/", "254:1", false),
        ] {
            let mount = around(&mounts, Path::new(path)).unwrap();
            assert_eq!((mount.device.as_str(), mount.is_curvefs()), (device, ours), "{path}");
        }
        assert_eq!(around(&mounts[1..], Path::new("/")), None);
    }

    #[test]
    fn this_machine_has_a_root() {
        assert!(all().unwrap().iter().any(|mount| mount.point == Path::new("/")));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[ 0-9:/a-z\\\\é\n-]{0,80}") {
            let _ = parse(text.as_bytes());
        }
    }
}
