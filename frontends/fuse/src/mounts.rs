//! What the kernel has mounted: `/proc/self/mountinfo`. Source: proc_pid_mountinfo(5).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// The type as the kernel shows it.
pub const TYPE: &str = "fuse.curvefs";

/// A mount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    /// The device's numbers, `major:minor`: unique as long as it is mounted.
    pub device: String,
    /// Where.
    pub point: PathBuf,
    /// The type.
    pub kind: String,
    /// What, as who mounted it calls it.
    pub source: String,
}

/// All mounts, in the order in which they cover each other.
pub fn all() -> io::Result<Vec<Line>> {
    Ok(parse(&fs::read_to_string("/proc/self/mountinfo")?))
}

/// Our mount at a directory, if one is what is seen there.
pub fn ours_at(lines: &[Line], dir: &Path) -> Option<Line> {
    lines.iter().rfind(|line| line.point == dir).filter(|line| line.kind == TYPE).cloned()
}

/// Where our mounts are, for people.
pub fn ours(lines: &[Line]) -> Vec<String> {
    let ours = lines.iter().filter(|line| line.kind == TYPE);
    ours.map(|line| line.point.display().to_string()).collect()
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

/// Pure.
fn parse(text: &str) -> Vec<Line> {
    text.lines().filter_map(line).collect()
}

fn line(text: &str) -> Option<Line> {
    // 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
    let (left, right) = text.split_once(" - ")?;
    let mut left = left.split(' ').skip(2);
    let (device, point) = (left.next()?, left.nth(1)?);
    let mut right = right.split(' ');
    let (kind, source) = (right.next()?, right.next()?);
    Some(Line {
        device: device.to_owned(),
        point: PathBuf::from(OsString::from_vec(unescape(point))),
        kind: kind.to_owned(),
        source: String::from_utf8_lossy(&unescape(source)).into_owned(),
    })
}

/// Blanks, tabs, newlines and backslashes are `\ooo`.
fn unescape(text: &str) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), text.as_bytes());
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
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = "\
22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
40 22 0:35 / /mnt/a\\040b rw,nosuid shared:2 master:3 - fuse.curvefs data rw,user_id=0
41 40 0:36 / /mnt/a\\040b rw - tmpfs tmpfs rw
42 22 0:37 / /mnt/c rw - fuse.curvefs da\\134ta rw
broken line
";

    #[test]
    fn lines_are_read_and_what_is_covered_is_not_seen() {
        let lines = parse(TEXT);
        assert_eq!(lines.len(), 4);
        assert_eq!((lines[1].device.as_str(), &*lines[1].point), ("0:35", Path::new("/mnt/a b")));
        assert_eq!(ours_at(&lines, Path::new("/mnt/a b")), None, "something else is mounted over it");
        assert_eq!(ours_at(&lines[..2], Path::new("/mnt/a b")).unwrap().source, "data");
        assert_eq!(ours_at(&lines, Path::new("/mnt/c")).unwrap().source, "da\\ta");
        assert_eq!(ours_at(&lines, Path::new("/")), None);
    }

    #[test]
    fn this_machine_has_a_root() {
        assert!(all().unwrap().iter().any(|line| line.point == Path::new("/")));
        assert_eq!(full_name(Path::new("/")).unwrap(), Path::new("/"));
        assert_eq!(full_name(Path::new("/proc/../tmp")).unwrap(), Path::new("/tmp"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[ 0-9:/a-z\\\\é\n-]{0,80}") {
            let _ = parse(&text);
        }
    }
}
