//! fuser's types and ours.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use curvefs_types::{Attr, FsError, InodeId, Kind, LockKind, LockRange, Name, SetTime, TimeNs, XattrName};
use curvefs_vfs::OpenMode;
use fuser::{Errno, FileAttr, FileType, INodeNo, TimeOrNow};

/// Bytes of a block as `st_blksize` says it: what programs read and write at a time.
const BLKSIZE: u32 = 128 << 10;

pub(crate) fn errno(error: FsError) -> Errno {
    Errno::from_i32(error.errno())
}

pub(crate) fn inode(ino: INodeNo) -> InodeId {
    InodeId(ino.0)
}

pub(crate) fn ino(inode: InodeId) -> INodeNo {
    INodeNo(inode.0)
}

pub(crate) fn name(name: &OsStr) -> Result<Name, FsError> {
    Name::new(Bytes::copy_from_slice(name.as_bytes()))
}

pub(crate) fn xattr_name(name: &OsStr) -> Result<XattrName, FsError> {
    XattrName::new(Bytes::copy_from_slice(name.as_bytes()))
}

pub(crate) fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::CharDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
    }
}

/// The kind in `st_mode`; `None` for what `mknod` does not make.
pub(crate) fn kind(mode: u32) -> Option<Kind> {
    match mode & libc::S_IFMT {
        0 | libc::S_IFREG => Some(Kind::File),
        libc::S_IFIFO => Some(Kind::Fifo),
        libc::S_IFSOCK => Some(Kind::Socket),
        libc::S_IFCHR => Some(Kind::CharDevice),
        libc::S_IFBLK => Some(Kind::BlockDevice),
        _ => None,
    }
}

fn system_time(ns: TimeNs) -> SystemTime {
    let distance = Duration::from_nanos(ns.unsigned_abs());
    if ns < 0 { UNIX_EPOCH - distance } else { UNIX_EPOCH + distance }
}

fn time_ns(time: SystemTime) -> TimeNs {
    let clamped = |distance: Duration| TimeNs::try_from(distance.as_nanos()).unwrap_or(TimeNs::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => clamped(since),
        Err(before) => -clamped(before.duration()),
    }
}

pub(crate) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::To { ns: time_ns(time) },
    }
}

pub(crate) fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: ino(attr.inode),
        size: attr.length,
        blocks: attr.allocated.div_ceil(512),
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        crtime: UNIX_EPOCH,
        kind: file_type(attr.kind),
        perm: attr.mode as u16,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: BLKSIZE,
        flags: attr.flags,
    }
}

/// What `readdirplus` has to say of a line without attributes: the kernel uses its number and kind alone.
pub(crate) fn bare_attr(inode: InodeId, kind: Kind) -> FileAttr {
    FileAttr {
        ino: ino(inode),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: file_type(kind),
        perm: 0,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLKSIZE,
        flags: 0,
    }
}

pub(crate) fn open_mode(flags: i32) -> OpenMode {
    let access = flags & libc::O_ACCMODE;
    OpenMode {
        read: access != libc::O_WRONLY,
        write: access != libc::O_RDONLY,
        append: flags & libc::O_APPEND != 0,
        truncate: flags & libc::O_TRUNC != 0,
        sync: flags & libc::O_DSYNC != 0,
        direct: flags & libc::O_DIRECT != 0,
    }
}

/// A lock's kind; `None` unlocks.
pub(crate) fn lock_kind(typ: i32) -> Result<Option<LockKind>, FsError> {
    match typ {
        libc::F_RDLCK => Ok(Some(LockKind::Read)),
        libc::F_WRLCK => Ok(Some(LockKind::Write)),
        libc::F_UNLCK => Ok(None),
        _ => Err(FsError::Invalid),
    }
}

/// The kernel's last byte is `i64::MAX` for "to the end, wherever that is".
pub(crate) fn lock_range(start: u64, end: u64) -> Result<LockRange, FsError> {
    let last = if end >= i64::MAX as u64 { u64::MAX } else { end };
    LockRange::new(start, last).ok_or(FsError::Invalid)
}

/// The reverse of [`lock_range`]'s end.
pub(crate) fn lock_end(last: u64) -> u64 {
    last.min(i64::MAX as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_the_way_there_and_back() {
        for ns in [0, 1, -1, 1_700_000_000_123_456_789, -2_000_000_000_000_000_001, TimeNs::MAX] {
            assert_eq!(time_ns(system_time(ns)), ns);
        }
    }

    #[test]
    fn flags_become_modes() {
        let mode = open_mode(libc::O_RDWR | libc::O_APPEND | libc::O_SYNC);
        assert!(mode.read && mode.write && mode.append && mode.sync && !mode.truncate && !mode.direct);
        let mode = open_mode(libc::O_WRONLY | libc::O_TRUNC);
        assert!(!mode.read && mode.write && mode.truncate && !mode.sync);
    }

    #[test]
    fn locks_to_the_end_are_endless() {
        assert_eq!(lock_range(0, i64::MAX as u64), Ok(LockRange::ALL));
        assert_eq!(lock_range(5, 4), Err(FsError::Invalid));
        assert_eq!(lock_end(u64::MAX), i64::MAX as u64);
        assert_eq!(lock_kind(99), Err(FsError::Invalid));
    }
}
