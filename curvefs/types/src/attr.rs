//! What an inode is, apart from its data.

use crate::ids::InodeId;
use crate::{wire_enum, wire_struct};

/// What kind of thing an inode is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

wire_enum!(Kind {
    1 => File {}, 2 => Directory {}, 3 => Symlink {}, 4 => Fifo {}, 5 => Socket {}, 6 => CharDevice {}, 7 => BlockDevice {},
});

/// Nanoseconds since 1970, negative before: 1677 to 2262.
pub type TimeNs = i64;

/// `st_mode` bits that are kept: set-user-id, set-group-id, sticky, and nine permissions.
pub const MODE_BITS: u32 = 0o7777;
/// Set-user-id.
pub const MODE_SETUID: u32 = 0o4000;
/// Set-group-id.
pub const MODE_SETGID: u32 = 0o2000;
/// Sticky.
pub const MODE_STICKY: u32 = 0o1000;
/// The length that a directory shows.
pub const DIRECTORY_BYTES: u64 = 4096;

/// Everything `stat` tells of an inode, and what caches compare.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attr {
    /// Which inode.
    pub inode: InodeId,
    /// What it is.
    pub kind: Kind,
    /// Bits of [`MODE_BITS`].
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names of a file; 2 + sub-directories of a directory. 0 only while a mount holds the unlinked inode open.
    pub nlink: u32,
    /// Device number of a device.
    pub rdev: u32,
    /// Flags as `FS_IOC_GETFLAGS` has them; none has a meaning yet.
    pub flags: u32,
    /// Bytes of a file; of a link's target; [`DIRECTORY_BYTES`].
    pub length: u64,
    /// Bytes of a file that have extents, so that `st_blocks` is true for sparse files.
    pub allocated: u64,
    /// Last access, as far as mounts report it.
    pub atime: TimeNs,
    /// Last change of the data, or of a directory's entries.
    pub mtime: TimeNs,
    /// Last change of anything.
    pub ctime: TimeNs,
    /// A directory's parent (the root's is itself). Of a file the directory whose usage has its bytes: one of those it
    /// has a name in.
    pub parent: InodeId,
    /// Raised by every change of the inode.
    pub version: u64,
    /// Raised by every change of a file's bytes or length. Cached data of an equal generation is right, whatever the times
    /// say.
    pub generation: u64,
}

wire_struct!(Attr {
    inode,
    kind,
    mode,
    uid,
    gid,
    nlink,
    rdev,
    flags,
    length,
    allocated,
    atime,
    mtime,
    ctime,
    parent,
    version,
    generation,
});

impl Attr {
    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind == Kind::Directory
    }
}

/// A time to set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetTime {
    /// The moment of the change, as the partition's leader has it.
    Now,
    /// This.
    To {
        /// When.
        ns: TimeNs,
    },
    /// This, unless what is stored is later: written data whose time was taken when it was written.
    AtLeast {
        /// When.
        ns: TimeNs,
    },
}

impl SetTime {
    /// What a time becomes that was `old`, at the moment `now`.
    pub fn after(self, old: TimeNs, now: TimeNs) -> TimeNs {
        match self {
            Self::Now => now,
            Self::To { ns } => ns,
            Self::AtLeast { ns } => old.max(ns),
        }
    }
}

wire_enum!(SetTime { 1 => Now {}, 2 => To { ns }, 3 => AtLeast { ns } });

/// Which attributes to change; what is `None` is left alone, so changes of different fields by two mounts both survive.
/// Length is changed by `Truncate`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SetAttr {
    /// Bits of [`MODE_BITS`].
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Access time.
    pub atime: Option<SetTime>,
    /// Modification time.
    pub mtime: Option<SetTime>,
    /// Flags.
    pub flags: Option<u32>,
    /// Clear set-user-id, and set-group-id where the group may execute (the kernel's `FATTR_KILL_SUIDGID`).
    pub kill_priv: bool,
}

impl SetAttr {
    /// Whether nothing is to be changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// These changes, and then later ones.
    pub fn then(self, later: Self) -> Self {
        let mode = later
            .mode
            .or(self.mode.map(|mode| if later.kill_priv { without_privileges(mode) } else { mode }));
        Self {
            mode,
            uid: later.uid.or(self.uid),
            gid: later.gid.or(self.gid),
            atime: later.atime.or(self.atime),
            mtime: later.mtime.or(self.mtime),
            flags: later.flags.or(self.flags),
            kill_priv: mode.is_none() && (self.kill_priv || later.kill_priv),
        }
    }
}

/// Mode without what a write by somebody else, or a new owner, takes away: set-user-id, and set-group-id where the group
/// may execute.
pub fn without_privileges(mode: u32) -> u32 {
    let executable_group = mode & 0o010 != 0;
    mode & !MODE_SETUID & !(if executable_group { MODE_SETGID } else { 0 })
}

wire_struct!(SetAttr { mode, uid, gid, atime, mtime, flags, kill_priv });
